"""The four modes over time, against lists that anybody can follow.

The lists below say who runs and who waits. What a mode decides is carried out on them the way the runtime carries it
out; whether it should have decided so is judged from the lists alone.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from poundlock.model.modes import (
    Drop,
    Exclusive,
    Load,
    Queue,
    Reject,
    Replace,
    Serialized,
    Signal,
    SingletonLoop,
    Start,
    Transient,
)

holds = st.booleans()
modes = (
    st.builds(
        Transient,
        concurrency=st.integers(1, 3),
        capacity=st.none() | st.integers(0, 3),
        holds_slot_while_paused=holds,
    )
    | st.builds(Serialized, capacity=st.none() | st.integers(0, 3), holds_slot_while_paused=holds)
    | st.builds(SingletonLoop, on_busy=st.sampled_from(["drop", "signal", "replace"]), holds_slot_while_paused=holds)
    | st.builds(Exclusive, on_busy=st.sampled_from(["reject", "queue_single"]), holds_slot_while_paused=holds)
)


class ModesMachine(RuleBasedStateMachine):
    """Events come, runs end, pause and resume, in any order."""

    @initialize(mode=modes)
    def choose(self, mode):
        self.mode = mode
        self.slots = mode.concurrency if isinstance(mode, Transient) else 1
        self.active: list[int] = []
        self.queue: list[int] = []
        self.line: list[int] = []  # resumed, waiting for a slot
        self.parked: list[int] = []  # paused, with the slot given back
        self.resting: list[int] = []  # paused, with the slot kept
        self.started: list[int] = []
        self.aborting: set[int] = set()
        self.fates: dict[int, str] = {}
        self.events = 0

    # -- what happens
    @rule()
    def event(self):
        """An event arrives."""
        self.events += 1
        run, load = self.events, self.load()
        busy = bool(self.active or self.queue or self.line)
        full = len(self.active) >= self.slots or bool(self.line)
        decision = self.mode.accept(load)
        match decision:
            case Start():
                assert not full
                assert not self.queue, "a start overtakes the queue"
                self.start(run)
            case Queue(supersedes=superseded):
                assert busy
                self.wait(run, superseded)
            case Replace(run_id=active, supersedes=superseded):
                assert active in self.active
                self.aborting.add(active)
                self.wait(run, superseded)
            case Signal(run_id=active):
                assert active in self.active
                self.fates[run] = "signalled"
            case Drop(reason) | Reject(reason):
                assert reason
                assert busy
                self.fates[run] = "refused"
        assert type(decision).__name__ == self.expected(busy=busy, full=full, waiting=len(self.queue), run=run)

    def expected(self, *, busy, full, waiting, run):
        """Say what should happen to an event, from the page that describes the modes."""
        before = waiting - (run in self.queue)
        match self.mode:
            case Transient(capacity=capacity):
                if not full and not before:
                    return "Start"
                return "Queue" if capacity is None or before < capacity else "Drop"
            case Serialized(capacity=capacity):
                if not busy:
                    return "Start"
                return "Queue" if capacity is None or before < capacity else "Drop"
            case SingletonLoop(on_busy=on_busy):
                return "Start" if not busy else {"drop": "Drop", "signal": "Signal", "replace": "Replace"}[on_busy]
            case Exclusive(on_busy=on_busy):
                return "Start" if not busy else {"reject": "Reject", "queue_single": "Queue"}[on_busy]

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def end(self, data):
        """A run ends, in whatever way."""
        run = data.draw(st.sampled_from(self.active))
        self.fates[run] = "ended"
        self.active.remove(run)
        if run in self.resting:
            self.resting.remove(run)
        self.settle()

    @precondition(lambda self: [run for run in self.active if run not in self.resting])
    @rule(data=st.data())
    def pause(self, data):
        """A run pauses; whether it keeps its slot is the mode's choice."""
        run = data.draw(st.sampled_from([run for run in self.active if run not in self.resting]))
        if self.mode.holds_slot_while_paused:
            self.resting.append(run)
        else:
            self.active.remove(run)
            self.parked.append(run)
            self.settle()

    @precondition(lambda self: self.resting or self.parked)
    @rule(data=st.data())
    def resume(self, data):
        """A paused run goes on; if it gave its slot back, it takes a free one or waits in line, before the queue."""
        run = data.draw(st.sampled_from(self.resting + self.parked))
        if run in self.resting:
            self.resting.remove(run)
            return
        self.parked.remove(run)
        after, taken = self.load().returned(run, self.mode.slots)
        (self.active if taken else self.line).append(run)
        assert after == self.load()

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def abort_returning(self, data):
        """A run is aborted while it waits in line."""
        run = data.draw(st.sampled_from(self.line))
        after = self.load().withdrawn()
        self.line.remove(run)
        self.fates[run] = "ended"
        assert after == self.load()

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def abort_waiting(self, data):
        """A run is aborted while it waits for a slot."""
        run = data.draw(st.sampled_from(self.queue))
        self.queue.remove(run)
        self.fates[run] = "ended"
        self.settle()

    # -- carrying it out
    def load(self):
        return Load(
            active=len(self.active),
            active_id=self.active[-1] if self.active else None,
            queued=len(self.queue),
            tail_id=self.queue[-1] if self.queue else None,
            returning=len(self.line),
        )

    def start(self, run):
        self.active.append(run)
        self.started.append(run)

    def wait(self, run, superseded):
        if superseded is not None:
            assert self.queue == [superseded], "only the one that waits gives way"
            self.queue.remove(superseded)
            self.fates[superseded] = "superseded"
        self.queue.append(run)

    def settle(self):
        after, returning, queued = self.load().promoted(self.mode.slots)
        assert 0 <= queued <= len(self.queue)
        assert 0 <= returning <= len(self.line)
        assert not queued or returning == len(self.line), "a new run overtakes a resumed one"
        assert returning + queued <= max(0, self.slots - len(self.active)), "more are started than there are slots"
        for _ in range(returning):
            self.active.append(self.line.pop(0))
        for _ in range(queued):
            self.start(self.queue.pop(0))
        assert after._replace(active_id=None) == self.load()._replace(active_id=None)

    # -- what always holds
    @invariant()
    def no_slot_stays_empty(self):
        """Nobody waits while a slot is free."""
        if hasattr(self, "mode") and (self.queue or self.line):
            assert len(self.active) >= self.slots

    @invariant()
    def never_more_than_allowed(self):
        """No more runs are active than there are slots, whoever comes back from a pause."""
        if hasattr(self, "mode"):
            assert len(self.active) <= self.slots
            if isinstance(self.mode, Exclusive | SingletonLoop):
                assert len(self.queue) <= 1
            if isinstance(self.mode, Transient | Serialized) and self.mode.capacity is not None:
                assert len(self.queue) <= self.mode.capacity

    @invariant()
    def first_come_first_served(self):
        """Runs start in the order in which their events came."""
        if hasattr(self, "mode"):
            assert self.started == sorted(self.started)

    @invariant()
    def latest_wins(self):
        """Where one may wait it is the latest of those that came to wait."""
        if hasattr(self, "mode") and isinstance(self.mode, Exclusive | SingletonLoop) and self.queue:
            assert self.queue[0] > max(self.started)
            superseded = [run for run, fate in self.fates.items() if fate == "superseded"]
            assert all(run < self.queue[0] for run in superseded)

    @invariant()
    def nothing_vanishes(self):
        """Every event is running, waiting, paused, or has a known fate; exactly one of these."""
        if hasattr(self, "mode"):
            places = [*self.active, *self.queue, *self.line, *self.parked, *self.fates]
            assert sorted(places) == list(range(1, self.events + 1))

    def teardown(self):
        """In the end all pauses are over and all runs end; then everybody who waited has had a turn."""
        if not hasattr(self, "mode"):
            return
        self.line += self.parked
        self.parked.clear()
        self.settle()
        while self.active:
            self.fates[self.active.pop(0)] = "ended"
            self.settle()
        assert self.queue == self.line == []
        assert sorted(self.fates) == list(range(1, self.events + 1))


TestModes = ModesMachine.TestCase
