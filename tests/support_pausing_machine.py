"""A run with two waits against a model of it: whatever is sent, in whatever order, whenever the process dies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from support_machine import StoresMachine

from poundlock import Event, NotPaused, Pause, Pipeline, RunFinished, Stage, StateRef, Step, Trigger, Wait, Workflow

TIMEOUT = 100
NOBODY = 0
NEXT = {"a": "b", "b": "done"}
KIND = {"a": "go", "b": "on"}


@dataclass
class Model:
    """What one run should be: where it stands, what it keeps, and what it has seen."""

    run_id: str
    at: str = "a"
    state: dict = field(default_factory=dict)
    buffer: list = field(default_factory=list)
    signals: list = field(default_factory=list)
    expired: int = 0
    due: float | None = None

    def send(self, kind, payload, now):
        """Take an event; returns what its receipt should say."""
        resumes = KIND.get(self.at) == kind
        self.buffer.append((kind, payload))
        self.drain(now)
        return "resumed" if resumes else "buffered"

    def drain(self, now):
        """Use what is kept, one event per wait, in the order it came."""
        while self.at in KIND:
            found = next((item for item in self.buffer if item[0] == KIND[self.at]), None)
            if found is None:
                return
            self.buffer.remove(found)
            self.go_on("event", found[1], now)

    def hear(self):
        """Take signals into the state."""
        for signal in self.signals:
            self.state |= signal
        self.signals = []

    def go_on(self, reason, patch, now):
        self.hear()
        self.state |= patch
        step = {"a": "two", "b": "three"}[self.at]
        self.state["trail"] = [*self.state["trail"], f"{step} {reason}"]
        self.at = NEXT[self.at]
        self.due = now + TIMEOUT if self.at == "b" else None
        if self.at == "done":
            self.end("done")

    def end(self, how):
        self.at = how
        self.expired += len(self.buffer)
        self.buffer = []
        self.signals = []
        self.due = None


class PausingMachine(StoresMachine):
    """Every rule lets everything come to rest, so that the model says exactly what must be found."""

    def __init__(self):
        super().__init__()
        self.models: dict[int, Model] = {}
        self.ran: Counter = Counter()
        self.sent: list[tuple[Event, bool]] = []
        self.number = 0

    def workflow(self):
        def step(name):
            async def run(ctx, state):
                self.ran[state["id"], name] += 1
                reason = ctx.resume.reason if ctx.resume else "-"
                return {"trail": [*state.get("trail", []), f"{name} {reason}"]}

            return Step(name, run)

        correlated = {"id": StateRef("id")}
        stages = [
            Stage("one", [step("one")]),
            Stage("a", router=Pause(Wait("go", correlate=correlated))),
            Stage("two", [step("two")]),
            Stage("b", router=Pause(Wait("on", correlate=correlated, timeout=TIMEOUT, on_timeout="resume"))),
            Stage("three", [step("three")]),
        ]
        return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)])

    @initialize(window=st.sampled_from([0, 60]))
    def open(self, window):
        self.window = window
        self.rt = self.do(self.stores.enter(self.workflow(), pause_window=window))
        self.begin()

    # ------------------------------------------------------------------------------------------------------ rules
    @rule()
    def begin(self):
        if sum(model.at in NEXT for model in self.models.values()) > 1:
            return
        id = len(self.models) + 1
        [run_id] = self.do(self.rt.emit("begin", id=id)).run_ids
        self.models[id] = Model(run_id, state={"id": id, "trail": ["one -"]})

    @rule(data=st.data(), kinds=st.lists(st.sampled_from(["go", "on"]), min_size=1, max_size=4))
    def emit(self, data, kinds):
        id = data.draw(st.sampled_from([*self.models, *self.models, NOBODY]))
        for kind in kinds:
            self.number += 1
            self._emit(Event(kind, {"id": id, f"n-{kind}": self.number}, id=f"e{self.number}"), used=False)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def emit_again(self, data):
        event, used = data.draw(st.sampled_from(self.sent))
        self._emit(event, used=used)

    def _emit(self, event, *, used):
        model = self.models.get(event.payload["id"])
        receipt = self.do(self.rt.emit(event))
        alive = model is not None and model.at in NEXT
        if not alive:
            expected = [("unmatched", None)]
        elif used:
            expected = [("duplicate", model.run_id)]
        else:
            expected = [(model.send(event.type, dict(event.payload), self.clock.now()), model.run_id)]
        assert [(str(line.verdict), line.run_id) for line in receipt.lines] == expected
        self.sent = [item for item in self.sent if item[0] is not event] + [(event, used or alive)]

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def resume(self, data):
        model = self.models[data.draw(st.sampled_from(sorted(self.models)))]
        self.number += 1
        try:
            self.do(self.rt.resume(model.run_id, {"by": self.number}))
        except (NotPaused, RunFinished):
            assert model.at not in NEXT
            return
        assert model.at in NEXT
        model.go_on("api", {"by": self.number}, self.clock.now())
        model.drain(self.clock.now())

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def signal(self, data):
        model = self.models[data.draw(st.sampled_from(sorted(self.models)))]
        self.number += 1
        try:
            self.do(self.rt.signal(model.run_id, {"told": self.number}))
        except RunFinished:
            assert model.at not in NEXT
            return
        model.signals.append({"told": self.number})

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def abort(self, data):
        model = self.models[data.draw(st.sampled_from(sorted(self.models)))]
        try:
            self.do(self.rt.abort(model.run_id))
        except RunFinished:
            assert model.at == "done"
            return
        if model.at in NEXT:
            model.end("aborted")

    @rule(seconds=st.sampled_from([1, 40, 99, 100, 250]))
    def pass_time(self, seconds):
        end = self.clock.now() + seconds
        self.do(self.clock.run_for(seconds))
        for model in self.models.values():
            if model.due is not None and model.due <= end:
                model.go_on("timeout", {}, model.due)

    @rule(ending=st.sampled_from(["crash", "stop"]), down=st.sampled_from([0, 0, 150]))
    def restart(self, ending, down):
        self.do(self.stores.crash(self.rt) if ending == "crash" else self.rt.stop())
        self.clock.advance(down)
        self.rt = self.do(self.stores.enter(self.workflow(), pause_window=self.window))
        for model in self.models.values():
            if model.due is not None and model.due <= self.clock.now():
                model.go_on("timeout", {}, self.clock.now())

    # -------------------------------------------------------------------------------------------------- invariants
    @invariant()
    def runs_are_what_the_model_says(self):
        """Status, place, state and buffer of every run are the model's, and no finished step ran twice."""
        for id, model in self.models.items():
            info = self.do(self.rt.get_run(model.run_id))
            status = {"done": "completed", "aborted": "aborted"}.get(model.at, "paused")
            assert (str(info.status), info.stage) == (status, model.at if status == "paused" else info.stage)
            timeline = self.do(self.rt.timeline(model.run_id))
            assert timeline.state_at(len(timeline)) == model.state
            assert timeline.types().count("wait:expired") == model.expired + model.state["trail"].count("three timeout")
            kept = self.do(self.rt.store.inbox(model.run_id, 0))
            events = [(message.event.event.type, message.event.event.payload) for message in kept if message.event]
            assert events == model.buffer
            assert [message.body for message in kept if message.kind == "signal"] == model.signals
            assert {self.ran[id, trail.split()[0]] for trail in model.state["trail"]} == {1}
        assert sum(self.ran.values()) == sum(len(model.state["trail"]) for model in self.models.values())
