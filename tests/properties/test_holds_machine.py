"""Triggers that hold events against a model of them: whatever comes, whenever time passes or the process dies."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from support_machine import StoresMachine

from poundlock import Batch, Debounce, Event, Throttle, Transient, Trigger, Workflow

QUIET, LONGEST, PER, WITHIN, DELAY = 4, 5, 6, 8, 5
HOLDS = {
    "debounce": {"debounce": QUIET},
    "bounded": {"debounce": Debounce(QUIET, longest=LONGEST)},
    "throttle": {"throttle": Throttle(2, PER)},
    "batch": {"batch": Batch(3, WITHIN)},
    "delay": {"delay": DELAY},
}
KEYS = ("a", "b")


@dataclass
class Model:
    """What is held for one key, in the plainest way: who waits, and until when."""

    kind: str
    fates: dict[str, str]
    runs: list[list[str]]
    held: list[str] = field(default_factory=list)
    since: float = 0.0
    until: float = 0.0
    through: int = 0
    delayed: list[tuple[float, str]] = field(default_factory=list)

    def start(self, names):
        self.runs.append(names)
        for name in names:
            self.fates[name] = "started"

    def passed(self, now, start=None):
        """Let the time pass: what is over comes out."""
        for when, name in [each for each in self.delayed if each[0] <= now]:
            self.delayed.remove((when, name))
            self.start([name])
        while (self.held or self.through) and self.until <= now:
            names, self.held = self.held, []
            self.through = 0
            if names:
                self.start(names)
                if self.kind == "throttle":
                    # The next window begins when the held one is decided: at its time, or at the next start.
                    self.through, self.until = 1, (self.until if start is None else start) + PER

    def event(self, name, now):
        self.fates[name] = "delayed"
        if self.kind == "delay":
            self.delayed.append((now + DELAY, name))
        elif self.kind in ("debounce", "bounded"):
            if self.held:
                self.fates[self.held[0]] = "dropped"
            else:
                self.since = now
            self.held = [name]
            self.until = now + QUIET if self.kind == "debounce" else min(now + QUIET, self.since + LONGEST)
        elif self.kind == "throttle":
            if not self.through:
                self.until = now + PER
            if self.through < 2:
                self.through += 1
                self.start([name])
            else:
                if self.held:
                    self.fates[self.held[0]] = "dropped"
                self.held = [name]
        else:
            if not self.held:
                self.until = now + WITHIN
            self.held.append(name)
            if len(self.held) == 3:
                names, self.held = self.held, []
                self.start(names)


class HoldsMachine(StoresMachine):
    """Every rule lets everything come to rest, so that the model says exactly what must be found."""

    kind = "debounce"

    def __init__(self):
        super().__init__()
        self.number = 0
        self.seen: list[list[str]] = []

    def workflow(self):
        trigger = Trigger("e", key="k", **HOLDS[self.kind])
        wf = Workflow("w", mode=Transient(capacity=None), triggers={"t": trigger})

        @wf.step(executor="inline")
        def note(state):
            self.seen.append([each["name"] for each in state.get("events", [state])])

        return wf

    @initialize()
    def begin(self):
        self.fates: dict[str, str] = {}
        self.runs: list[list[str]] = []
        self.keys: dict[str, str] = {}
        self.copied: set[str] = set()
        self.models = {key: Model(self.kind, self.fates, self.runs) for key in KEYS}
        self.rt = self.do(self.stores.enter(self.workflow()))

    # ------------------------------------------------------------------------------------------------------ rules
    @rule(key=st.sampled_from(KEYS), seconds=st.sampled_from([0, 1, 2, 3]))
    def event(self, key, seconds):
        """An event comes, and some time passes; its receipt says what the model says."""
        self.number += 1
        name = f"e{self.number}"
        self.keys[name] = key
        self.models[key].event(name, self.clock.now())
        receipt = self.do(self.rt.emit(Event("e", {"name": name, "k": key}, id=name)))
        assert receipt.verdicts == [self.fates[name]]
        self.time_passes(seconds)

    @precondition(lambda self: self.number)
    @rule(data=st.data())
    def copy(self, data):
        """A copy of an event changes nothing but its receipt, whatever became of it."""
        name = f"e{data.draw(st.integers(1, self.number))}"
        receipt = self.do(self.rt.emit(Event("e", {"name": name, "k": self.keys[name]}, id=name)))
        assert receipt.verdicts == ["duplicate"]
        self.copied.add(name)

    @rule(seconds=st.sampled_from([1, 2, 3, 5, 20]))
    def time_passes(self, seconds):
        """Time passes; what is over comes out."""
        self.do(self.clock.run_for(seconds))
        for model in self.models.values():
            model.passed(self.clock.now())

    @rule(away=st.sampled_from([0, 1, 7]), dies=st.booleans())
    def restart(self, away, dies):
        """The process dies or stops, and another one goes on later."""
        self.do(self.stores.crash(self.rt) if dies else self.rt.stop())
        self.clock.advance(away)
        self.rt = self.do(self.stores.enter(self.workflow()))
        self.back()

    @rule(away=st.sampled_from([0, 1, 7]))
    def deregister(self, away):
        """The workflow leaves, and comes back later: what it held stays meanwhile, and is decided then."""
        self.do(self.rt.deregister("w"))
        self.do(self.clock.run_for(away))
        self.do(self.rt.register(self.workflow()))
        self.back()

    def back(self):
        for model in self.models.values():
            model.passed(self.clock.now(), start=self.clock.now())

    # -------------------------------------------------------------------------------------------------- invariants
    @invariant()
    def everything_is_what_the_model_says(self):
        """The runs that started, what is held, and what each receipt says."""
        assert sorted(self.seen) == sorted(self.runs)
        stats = self.do(self.rt.store.stats())
        held = sum(len(model.held) + len(model.delayed) for model in self.models.values())
        assert stats.get("held", 0) == held
        for name, fate in self.fates.items():
            [line] = self.do(self.rt.store.receipt("", name))
            if name not in self.copied:  # then its last receipt may say that it is a duplicate
                assert str(line.verdict) == fate
                assert (line.run_id is not None) == (fate == "started")
        assert self.rt.store.undelivered == (0, 0)


def machine(kind, storage, examples):
    """Return the test of one hold on one store."""
    made = type(f"Holds_{kind}_{storage}", (HoldsMachine,), {"kind": kind, "storage": storage})
    case = made.TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=20)
    return case


TestDebounceInMemory, TestDebounceOnSqlite = machine("debounce", "memory", 15), machine("debounce", "sqlite", 4)
TestBoundedInMemory, TestBoundedOnSqlite = machine("bounded", "memory", 30), machine("bounded", "sqlite", 6)
TestThrottleInMemory, TestThrottleOnSqlite = machine("throttle", "memory", 30), machine("throttle", "sqlite", 6)
TestBatchInMemory, TestBatchOnSqlite = machine("batch", "memory", 30), machine("batch", "sqlite", 6)
TestDelayInMemory, TestDelayOnSqlite = machine("delay", "memory", 15), machine("delay", "sqlite", 4)
