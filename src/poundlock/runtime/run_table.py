"""The owner task of each run: one phase per run that this process knows.

House rules:

1. A run this process does not know is absent: it has no entry. Every other phase is an entry of the table, and every
   change of a phase goes through a method here, which checks the table in `phases.py`.
2. Only this table says which task drives a run. Such a task checks `is_current` before it changes what others see.
3. An entry with a run in memory is a `LiveRun`; a parked one is a `ParkedRun`, which becomes small; one without
   a run (it is being read, or has to be looked up) is a `Vacancy`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any, Final

from poundlock.clock import Clock, Timer
from poundlock.guard import call_now
from poundlock.model.runs import Message
from poundlock.pipeline.active import ActiveRun
from poundlock.runtime.entries import Registered
from poundlock.runtime.parked_run import ParkedRun
from poundlock.runtime.phases import Phase, check_phase
from poundlock.runtime.waiters import Waiter

_ABSENT, _DRIVING, _CLOSING, _PARKED = Phase.ABSENT, Phase.DRIVING, Phase.CLOSING, Phase.PARKED
MOST_PARKED: Final = 10_000
"""How many parked runs are kept in memory by default."""
_AS_THEY_ARE: Final = 256
"""How many of them are not turned into text: to encode and decode one costs 7 % of its pause and its resumption."""


class LiveRun:
    """A run in this process's memory, and the task that drives it.

    Attributes:
        run: its position and state, and what it writes.
        entry: its workflow.
        phase: driving, closing or resuming; absent once the table does not hold it any more.
        new: whether `on_prepare` is still to be called.
        begun: whether its task has begun; a run that is interrupted before was not driven at all.
        task: drives it, or drove it last.
        gate: set while deliveries of this process wait until the run has stopped.
        creation: the run's creation while another task writes it; its own boundaries come after that.
        notice: the end of this run as its parent is told of it, once that is durable.
        outdated: whether its row was moved while its task is still finishing: it is not parked here, but read again
            when it gets a slot.
        left: done when the run's task is left behind; None if nothing waits for that.
        awaited: those who wait for this end of the run, once it was retried or rerun meanwhile; None before that.
    """

    # Defaults in the class instead of slots: most runs never set most of these.
    phase = Phase.ABSENT
    begun = False
    task: asyncio.Task[None] | None = None
    gate: asyncio.Event | None = None
    creation: asyncio.Task[None] | None = None
    outdated = False
    left: asyncio.Future[None] | None = None
    notice: tuple[Message, bool] | None = None
    awaited: Sequence[Waiter] | None = None

    def __init__(self, run: ActiveRun, entry: Registered, *, new: bool = False) -> None:
        self.run = run
        self.entry = entry
        self.new = new

    @property
    def alive(self) -> bool:
        """Whether a task works for it."""
        return self.task is not None and not self.task.done()

    def open_gate(self) -> None:
        """Allow deliveries again: the run has stopped, or continues after all."""
        gate = self.gate
        if gate is not None:
            gate.set()
            self.gate = None


class Vacancy:
    """A run of this process that is not in its memory: loading, unsure or stranded.

    Attributes:
        phase: which of them.
        early: messages that became durable while its checkpoint was being read.
        error: why it is stranded, for those who wait for it.
        before: drove the run, and is ending.
        task: reads the checkpoint, or waits for the answer to the commit.
    """

    __slots__ = ("before", "early", "error", "phase", "task")

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.early: list[Message] = []
        self.error: BaseException | None = None
        self.before: LiveRun | None = None
        self.task: asyncio.Task[Any] | None = None

    @property
    def alive(self) -> bool:
        """Whether a task is about to drive it, or to look it up."""
        return self.task is not None and not self.task.done()


class RunTable:
    """The runs this process knows. Every change happens on the event loop, between two awaits.

    Args:
        clock: measures the pause window.
        pause_window: seconds a parked run is kept in memory; 0 keeps none.
        most_parked: how many parked runs are kept; above that the one that was parked first is forgotten.
    """

    def __init__(self, clock: Clock, pause_window: float, most_parked: int = MOST_PARKED) -> None:
        self._clock = clock
        self._pause_window = pause_window
        self._most_parked = most_parked
        self._entries: dict[str, LiveRun | ParkedRun | Vacancy] = {}
        self._unwritten: dict[str, LiveRun] = {}
        self._parked: OrderedDict[str, float] = OrderedDict()
        """By run, in the order in which they were parked: when their pause window is over."""
        self._lately: OrderedDict[str, ParkedRun] = OrderedDict()
        """Those that were parked last, which are kept as they are."""
        self._outdated: set[str] = set()
        """Runs that are about to be parked, of which the store has dropped messages since: not to be kept in memory."""
        self._eviction: Timer | None = None

    # -------------------------------------------------------------------------------------------------- look-ups
    def phase(self, run_id: str) -> Phase:
        """Return what this process does with a run."""
        entry = self._entries.get(run_id)
        return Phase.ABSENT if entry is None else entry.phase

    def live(self, run_id: str) -> LiveRun | None:
        """Return a run that is being worked on here: driving, closing or resuming."""
        entry = self._entries.get(run_id)
        return entry if type(entry) is LiveRun else None

    def parked(self, run_id: str) -> ParkedRun | None:
        """Return a run that is parked in memory."""
        entry = self._entries.get(run_id)
        return entry if type(entry) is ParkedRun else None

    def driven(self, run_id: str) -> LiveRun | None:
        """Return a run that has a task: driving or closing."""
        entry = self._entries.get(run_id)
        if type(entry) is LiveRun and (entry.phase is _DRIVING or entry.phase is _CLOSING):
            return entry
        return None

    def has_task(self, run_id: str) -> bool:
        """Whether a run is driving or closing: then its task answers those who wait for it."""
        entry = self._entries.get(run_id)
        if type(entry) is not LiveRun or (entry.phase is not _DRIVING and entry.phase is not _CLOSING):
            return False
        return entry.task is not None and not entry.task.done()

    def without_task(self) -> list[str]:
        """Return the runs that nothing here drives or is about to: stranded, or their task ended without a report."""
        return [
            run_id
            for run_id, entry in self._entries.items()
            if not entry.alive and entry.phase is not _PARKED and entry.phase is not Phase.RESUMING
        ]

    def vacancy(self, run_id: str) -> Vacancy | None:
        """Return the entry of a run that is loading, unsure or stranded."""
        entry = self._entries.get(run_id)
        return entry if type(entry) is Vacancy else None

    def is_current(self, live: LiveRun) -> bool:
        """Whether this is still the run's entry: it may have been taken over by a newer one."""
        return self._entries.get(live.run.run_id) is live

    def all_live(self) -> list[LiveRun]:
        """Return all runs that are being worked on here."""
        return [entry for entry in self._entries.values() if type(entry) is LiveRun]

    def all_parked(self) -> list[ParkedRun]:
        """Return all runs that are parked in memory, the one that was parked first at the front."""
        return [entry for run_id in self._parked if type(entry := self._entries[run_id]) is ParkedRun]

    def all_driven(self) -> list[LiveRun]:
        """Return all runs that have a task."""
        return [live for live in self.all_live() if live.phase is _DRIVING or live.phase is _CLOSING]

    def vacant(self, phase: Phase) -> list[str]:
        """Return the ids of runs that are loading, unsure or stranded."""
        return [run_id for run_id, entry in self._entries.items() if entry.phase is phase]

    def unwritten(self) -> list[LiveRun]:
        """Return the invoked runs that the store does not know yet; events for them are looked up here."""
        return list(self._unwritten.values())

    @property
    def parked_count(self) -> int:
        """How many runs are parked in memory."""
        return len(self._parked)

    def __len__(self) -> int:
        return len(self._entries)

    # ---------------------------------------------------------------------------------------------------- moves
    def begin(self, live: LiveRun) -> LiveRun | None:
        """Let a run be driven; returns its former entry if the task of that has not ended yet."""
        run_id = live.run.run_id
        if self._outdated:
            self._outdated.discard(run_id)
        before = self._leave(run_id, _DRIVING) if run_id in self._entries else None  # absent: most runs are new
        live.phase = _DRIVING
        self._entries[run_id] = live
        if not live.run.written:
            self._unwritten[run_id] = live
        if before is None:
            return None
        # Messages that came meanwhile; a run drops those that were read with its checkpoint.
        if isinstance(before, ParkedRun):
            live.run.inbox += before.early
            return None
        if isinstance(before, Vacancy):
            live.run.inbox += before.early
            return before.before if before.before is not None and before.before.alive else None
        if before.run is not live.run:
            live.run.inbox += before.run.inbox
        return before if before is not live and before.alive else None

    def load(self, run_id: str) -> Vacancy:
        """Record that a run's checkpoint is being read; its former task is ending."""
        return self._vacate(run_id, Phase.LOADING)

    def expect(self, run_id: str, task: asyncio.Task[Any] | None) -> None:
        """Record that a commit in flight gives a new run to this process; `task` waits for its answer."""
        self._vacate(run_id, Phase.UNSURE).task = task

    def lose(self, run_id: str, task: asyncio.Task[Any]) -> None:
        """Record that the outcome of a commit of a run is unknown. A run that has a task, or will have, stays as it is.

        Args:
            run_id: which run.
            task: looks it up.
        """
        entry = self._entries.get(run_id)
        if entry is None or entry.phase in (_PARKED, Phase.RESUMING, Phase.UNSURE):
            vacancy = entry if type(entry) is Vacancy else self._vacate(run_id, Phase.UNSURE)
            vacancy.task = task

    def strand(self, run_id: str, error: BaseException) -> None:
        """Record that a run cannot continue here, and why."""
        self._vacate(run_id, Phase.STRANDED).error = error

    def rest(self, live: LiveRun) -> None:
        """Record that a run's pause or end is stored: only hooks and services are finishing."""
        check_phase(live.phase, _CLOSING)
        live.phase = _CLOSING

    def park(self, live: LiveRun) -> None:
        """Keep what a run needs to go on in memory, for the pause window; nothing else of it stays."""
        run = live.run
        run_id = run.run_id
        self._leave(run_id, _PARKED)
        live.phase = _ABSENT
        if run_id in self._outdated:
            self._outdated.remove(run_id)
            return
        if any(message.kind == "abort" for message in run.inbox):
            return  # as in `deliver`
        if self._pause_window <= 0 or self._most_parked <= 0:
            return
        while len(self._parked) >= self._most_parked:
            self.drop(next(iter(self._parked)))
        parked = ParkedRun(live.entry, run)
        self._entries[run_id] = self._lately[run_id] = parked
        self._parked[run_id] = self._clock.monotonic() + self._pause_window
        if len(self._lately) > _AS_THEY_ARE:
            first, earlier = self._lately.popitem(last=False)
            if call_now(earlier.shrink).error is not None:
                self.drop(first)  # a type of the user's refuses: its row is read when it goes on
        if self._eviction is None:
            self._arm_eviction()

    def resume(self, live: LiveRun) -> None:
        """Record that an answer is being committed to a run that is parked in memory or only a row."""
        run_id = live.run.run_id
        before = self._leave(run_id, Phase.RESUMING)
        if isinstance(before, ParkedRun):
            live.run.inbox += before.early
        live.phase = Phase.RESUMING
        self._entries[run_id] = live

    def drop(self, run_id: str) -> LiveRun | ParkedRun | Vacancy | None:
        """Forget a run, whatever its phase; returns its entry."""
        entry = self._entries.pop(run_id, None)
        if entry is None:
            return None
        if isinstance(entry, ParkedRun):
            del self._parked[run_id]
            self._lately.pop(run_id, None)
        else:
            entry.phase = _ABSENT
        if self._unwritten:
            self._unwritten.pop(run_id, None)
        return entry

    def outdate(self, run_id: str) -> None:
        """Record that a run was resumed, but not for a task of this process: its row is read again when it goes on."""
        entry = self._entries.get(run_id)
        if type(entry) is ParkedRun:
            self.drop(run_id)
        elif type(entry) is LiveRun:
            entry.outdated = True  # its task may still be closing what the run used

    def drop_current(self, live: LiveRun) -> bool:
        """Forget a run that was driven and written, if this is still its entry; returns whether it was."""
        run_id = live.run.run_id
        if self._entries.get(run_id) is not live:
            return False
        del self._entries[run_id]
        live.phase = _ABSENT
        return True

    def moved_to(self, run_id: str, epoch: int) -> None:
        """Forget a run that a commit has moved to this epoch, unless it was read or driven since then."""
        entry = self._entries.get(run_id)
        if type(entry) is LiveRun:
            before = entry.run.epoch
        elif type(entry) is ParkedRun:
            before = entry.head.epoch
        else:
            return
        if before < epoch:
            self.drop(run_id)

    def written(self, run_id: str) -> None:
        """Record that a run is stored now."""
        self._unwritten.pop(run_id, None)

    def deliver(self, message: Message) -> None:
        """Pass a durable message to the run, if it is in memory or about to be."""
        entry = self._entries.get(message.run_id)
        if type(entry) is LiveRun:
            entry.run.inbox.append(message)
        elif type(entry) is ParkedRun:
            if message.kind == "abort":
                self.drop(message.run_id)  # its row was changed: it is due now
            else:
                entry.deliver(message)
        elif type(entry) is Vacancy:
            entry.early.append(message)

    def withdraw(self, run_id: str, seqs: Collection[int]) -> None:
        """Forget messages that the store has dropped while nobody drove the run: what is in memory is out of date."""
        entry = self._entries.get(run_id)
        if type(entry) is ParkedRun:
            self.drop(run_id)  # it goes on from its row, as after its pause window
        elif type(entry) is LiveRun and entry.phase is not _DRIVING:
            run = entry.run
            run.buffer = tuple([message for message in run.buffer if message.seq not in seqs])
            run.inbox[:] = [message for message in run.inbox if message.seq not in seqs]
            if entry.phase is _CLOSING:
                self._outdated.add(run_id)

    def _vacate(self, run_id: str, phase: Phase) -> Vacancy:
        left = self._leave(run_id, phase)
        vacancy = self._entries[run_id] = Vacancy(phase)
        if isinstance(left, Vacancy):
            vacancy.early, vacancy.before = left.early, left.before
        elif isinstance(left, LiveRun) and left.alive:
            vacancy.before = left
        return vacancy

    def _leave(self, run_id: str, target: Phase) -> LiveRun | ParkedRun | Vacancy | None:
        """Take the present entry out, for a move to a phase other than absent."""
        check_phase(self.phase(run_id), target)
        return self.drop(run_id)

    # ------------------------------------------------------------------------------------------------- eviction
    def _arm_eviction(self) -> None:
        first = next(iter(self._parked.values()))
        self._eviction = self._clock.call_later(first - self._clock.monotonic(), self._evict)

    def _evict(self) -> None:
        self._eviction = None
        now = self._clock.monotonic()
        while self._parked:
            run_id, deadline = next(iter(self._parked.items()))
            if deadline > now:
                self._arm_eviction()
                return
            self.drop(run_id)

    def close(self) -> None:
        """Forget everything; the rows stay."""
        for run_id in list(self._entries):
            self.drop(run_id)
        self._parked.clear()
        self._unwritten.clear()
        if self._eviction is not None:
            self._eviction.cancel()
            self._eviction = None
