"""Waits that count against a model of them: limits, lifetimes, votes and answers by hand, whenever the process dies."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from support_machine import StoresMachine

from poundlock import StaleResume, Workflow
from poundlock.model.buffers import OVERFLOWS

NEED = 2
KINDS = {"one": "first", "votes": "vote"}
AFTER = {"one": "votes", "votes": "one"}


class Wanted:
    """What the run should be: at which wait, and what each wait has."""

    def __init__(self, rules):
        self.rules = rules
        self.at = "one"
        self.kept = {"one": [], "votes": []}
        self.rounds = []
        self.passed = 0

    def alive(self, wait, now):
        ttl = self.rules[wait]["ttl"]
        return [each for each in self.kept[wait] if ttl is None or each[2] > now - ttl]

    def send(self, wait, n, member, now):
        """Take an event; returns what its receipt should say."""
        kept, limit = self.alive(wait, now), self.rules[wait]["limit"]
        if wait == "votes" and member in [each[1] for each in kept]:
            return f"rejected wait votes: member '{member}' has answered"
        if wait == self.at and (wait == "one" or len(kept) + 1 >= NEED):
            self.kept[wait] = [*kept, (n, member, now)]
            self.go_on(now)
            return "resumed wait one" if wait == "one" else f"resumed wait votes: {NEED} of {NEED}"
        overflow = self.rules[wait]["overflow"]
        if len(kept) >= limit and overflow != "drop_oldest":
            return f"{'rejected' if overflow == 'reject' else 'dropped'} wait {wait}: its buffer is full ({limit})"
        late = f", the oldest of {limit} was dropped" if len(kept) >= limit else ""
        self.kept[wait] = [*kept[len(kept) + 1 - limit if late else 0 :], (n, member, now)]
        have = len(self.kept[wait])
        counted = f": {have} of {NEED}" if wait == "votes" and have <= NEED else ""
        return f"buffered wait {wait}{counted}{late}"

    def go_on(self, now):
        """Use what is kept, wait after wait."""
        while True:
            kept = self.alive(self.at, now)
            need = 1 if self.at == "one" else NEED
            if len(kept) < need:
                return
            self.kept[self.at] = kept[need:]
            self.leave([n for n, _, _ in kept[:need]])

    def leave(self, used):
        if self.at == "votes":
            self.rounds.append(used)
        self.passed += 1
        self.at = AFTER[self.at]

    def answer(self, now):
        """Take an answer by hand."""
        used = [n for n, _, _ in self.alive(self.at, now)]
        if self.at == "votes":
            self.kept["votes"] = []
        self.leave(used)
        self.go_on(now)


class CountingMachine(StoresMachine):
    """Every rule lets everything come to rest, so that the model says exactly what must be found."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def workflow(self):
        wf = Workflow("w")
        wf.on("begin")
        wf.wait("one", on="first", patch={}, **self.rules["one"])
        wf.wait("votes", on="vote", mode=NEED, distinct="member", collect="votes", **self.rules["votes"])

        @wf.step(then="one")
        def count(ctx):
            return {"rounds": [*ctx.state.get("rounds", []), [vote["n"] for vote in ctx.state["votes"]]]}

        return wf

    @initialize(
        window=st.sampled_from([0, 60]),
        limits=st.tuples(st.integers(1, 3), st.integers(2, 4)),
        overflows=st.tuples(st.sampled_from(OVERFLOWS), st.sampled_from(OVERFLOWS)),
        ttls=st.tuples(st.sampled_from([None, 10]), st.sampled_from([None, 10])),
    )
    def open(self, window, limits, overflows, ttls):
        self.window = window
        names = ("one", "votes")
        self.rules = {
            name: {"limit": limit, "overflow": overflow, "ttl": ttl}
            for name, limit, overflow, ttl in zip(names, limits, overflows, ttls, strict=True)
        }
        self.model = Wanted(self.rules)
        self.rt = self.do(self.stores.enter(self.workflow(), pause_window=window))
        [self.run_id] = self.do(self.rt.emit("begin")).run_ids

    # ------------------------------------------------------------------------------------------------------ rules
    @rule(wait=st.sampled_from(["one", "votes", "votes"]), member=st.sampled_from("abc"))
    def emit(self, wait, member):
        self.number += 1
        expected = self.model.send(wait, self.number, member, self.clock.now())
        [line] = self.do(self.rt.emit(KINDS[wait], n=self.number, member=member)).lines
        assert f"{line.verdict} {line.reason}" == expected

    @rule(seconds=st.sampled_from([1, 5, 10]))
    def time_passes(self, seconds):
        self.do(self.clock.run_for(seconds))

    @rule()
    def answer(self):
        """By hand, with the token of the open question; which is stale then."""
        [token] = [wait.token for wait in self.do(self.rt.get_run(self.run_id)).waits if wait.parked]
        self.model.answer(self.clock.now())
        self.do(self.rt.resume(self.run_id, wait=token))
        try:
            self.do(self.rt.resume(self.run_id, wait=token))
        except StaleResume:
            return
        raise AssertionError("a question was answered twice")

    @rule()
    def crash(self):
        self.do(self.stores.crash(self.rt))
        self.rt = self.do(self.stores.enter(self.workflow(), pause_window=self.window))

    @invariant()
    def it_is_what_it_should_be(self):
        model, now = self.model, self.clock.now()
        info = self.do(self.rt.get_run(self.run_id, state=True))
        [parked] = [wait for wait in info.waits if wait.parked]
        assert (info.status, parked.id) == ("paused", model.at)
        assert list(info.state.get("rounds", [])) == model.rounds
        if model.at == "votes" and self.rules["votes"]["ttl"] is None:
            assert parked.have == len(model.kept["votes"])
        inbox = {message.event.event.payload["n"] for message in self.do(self.rt.store.inbox(self.run_id, 0))}
        kept = {n for wait in KINDS for n, _, _ in model.alive(wait, now)}
        assert kept <= inbox
        assert len(inbox) <= sum(rules["limit"] for rules in self.rules.values())


class TestMemory(CountingMachine.TestCase):
    """The store in memory."""

    settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


class SqliteMachine(CountingMachine):
    """The same on a file."""

    storage = "sqlite"


class TestSqlite(SqliteMachine.TestCase):
    """The store in a file."""

    settings = settings(max_examples=15, stateful_step_count=40, deadline=None)
