"""The outbox: what steps have emitted is delivered once its stage is committed, run by run and in order.

A row leaves the outbox in the commit that admits its event, so an event starts and resumes runs exactly once. If it
goes on from there, to the bus or as a control event, the row stays, marked as admitted, until that is done: at least
once. Nothing here looks for rows while there are none: a commit that has some says so, and so does the start.

House rules: events of one run are delivered in order, those of different runs side by side, a portion of each in turn.
A delivery that fails is repeated with back-off, and then becomes a dead letter; a fault of the store does not count.
What a mode or a trigger refuses is a dead letter at once, in the commit that decides it: nobody reads a receipt here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from contextvars import Context
from functools import partial
from typing import Any, Final

from poundlock.clock import Timer, sleep_for, timeout_after
from poundlock.errors import (
    HookTimeout,
    IdempotencyConflict,
    InvalidEvent,
    NotRegistered,
    NotStorable,
    OutboxMoved,
    PoundlockError,
    RunFinished,
    RunNotFound,
    RuntimeStopped,
)
from poundlock.guard import describe
from poundlock.model.changes import Changes
from poundlock.model.events import CONTROL_EVENTS, Event
from poundlock.model.outbox import (
    OutboxMark,
    OutboxMove,
    OutboxQuery,
    OutboxRow,
    Sending,
    error_text,
    wait_in,
)
from poundlock.model.receipts import Verdict
from poundlock.ports import Subscription
from poundlock.runtime.admission import REFUSED, refusal_among, said_by
from poundlock.runtime.commands.admit import Admit, admit
from poundlock.runtime.commands.end_hold import readmit
from poundlock.runtime.core import Core, log
from poundlock.runtime.emitting import decided_by, spread
from poundlock.runtime.healing import FAULTS, patiently
from poundlock.runtime.unmatched import call_unmatched

ATTEMPTS: Final = 10
"""Failed deliveries after which an event becomes a dead letter."""
FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 300.0
"""Seconds to the next attempt: doubling, from one to the other."""
HELD: Final = 60.0
"""Seconds after the start in which events that an earlier runtime left wait for a workflow that wants them."""
_TOGETHER: Final = 16
"""Runs whose events are delivered at the same time."""
_PORTION: Final = 64
"""Events of a run that are delivered before it is another one's turn."""
_PAGE: Final = 256
_LASTING: Final = (IdempotencyConflict, InvalidEvent, NotRegistered, NotStorable, RunFinished, RunNotFound)
"""Errors that no further attempt would change."""


class Outbox:
    """Delivers what is in the outbox of a runtime's store.

    Args:
        core: of the runtime.
        own: returns the runtime's own subscriptions on the bus.
    """

    def __init__(self, core: Core, own: Callable[[], Collection[Subscription]]) -> None:
        self._core = core
        self._own = own
        self._due: dict[str, None] = {}
        """Runs that have events to be delivered, in turn."""
        self._busy: dict[str, bool] = {}
        """Runs whose events are being delivered, and whether more came meanwhile."""
        self._resting: dict[str, Timer] = {}
        """Runs whose next event could not be delivered, until the next attempt."""
        self._left: set[str] = set()
        """Runs of which an earlier runtime has left events."""
        self._held: set[str] = set()
        """Those of them whose next event nobody wants yet."""
        self._holding: Timer | None = None
        self._hold_until = 0.0
        self._after: int | None = None
        """The number up to which the rows that were there at the start are seen; None if all are."""
        self._looking = False
        self._flushes: list[tuple[set[str], asyncio.Future[None]]] = []
        """Who waits until runs were tried: which ones are left."""

    # ------------------------------------------------------------------------------------------------ what to do
    def start(self) -> None:
        """Deliver what an earlier runtime has left, if there is anything."""
        core = self._core
        core.deliver = self.deliver
        core.flush = self.flush
        if core.store.undelivered[0]:
            self._after = 0
            self._hold_until = core.clock.monotonic() + HELD
            self._go_on()

    def deliver(self, run_id: str) -> None:
        """Deliver what a run has emitted."""
        if run_id in self._busy:
            self._busy[run_id] = True
        elif run_id not in self._resting and run_id not in self._held:
            self._due[run_id] = None
            self._go_on()

    async def flush(self) -> None:
        """Deliver what is there now, without waiting for next attempts; returns once each run was tried.

        Raises:
            RuntimeStopped: the runtime stops meanwhile.
        """
        core, wanted, after = self._core, set[str](), 0
        while rows := await self._read(OutboxQuery(after=after, limit=_PAGE)):
            wanted.update(row.run_id for row in rows)
            after = rows[-1].seq
        wanted -= self._held
        core.check_accepting()
        if not wanted:
            return
        tried = asyncio.get_running_loop().create_future()
        self._flushes.append((set(wanted), tried))
        for run_id in sorted(wanted):
            timer = self._resting.pop(run_id, None)
            if timer is not None:
                timer.cancel()
            self.deliver(run_id)
        await tried

    def _tried(self, run_id: str) -> None:
        """Tell those who wait for it that the events of a run were delivered, as far as they could be."""
        if not self._flushes or run_id in self._due or run_id in self._busy:
            return
        for wanted, tried in self._flushes:
            wanted.discard(run_id)
            if not wanted and not tried.done():
                tried.set_result(None)
        self._flushes = [each for each in self._flushes if not each[1].done()]

    def registered(self) -> None:
        """Look again at what nobody wanted: a workflow was registered."""
        if self._held:
            self._release_held()

    def stop(self) -> None:
        """Begin nothing more; what is left is delivered by the next runtime on the store."""
        for timer in (*self._resting.values(), *([] if self._holding is None else [self._holding])):
            timer.cancel()
        self._resting.clear()
        self._holding = None
        for _, tried in self._flushes:
            if not tried.done():
                tried.set_exception(RuntimeStopped("the runtime stops: the next one delivers what is in the outbox"))
        self._flushes.clear()

    def _go_on(self) -> None:
        """Begin as many deliveries as there may be at the same time."""
        if not self._core.accepting:
            return
        while self._due and len(self._busy) < _TOGETHER:
            run_id = next(iter(self._due))
            del self._due[run_id]
            self._busy[run_id] = False
            self._spawn(self._portion(run_id), partial(self._portion_done, run_id))
        if self._after is not None and not self._due and not self._looking:
            self._looking = True
            self._spawn(self._look(self._after), self._looked)

    def _spawn(self, work: Coroutine[Any, Any, Any], then: Callable[[asyncio.Task[Any]], None]) -> None:
        # In a context of its own: it is called from the task of a run, and what it starts is not inside of that run.
        task = Context().run(self._core.tasks.spawn, work, "poundlock-outbox")
        task.add_done_callback(then)

    def _portion_done(self, run_id: str, task: asyncio.Task[bool]) -> None:
        more = self._busy.pop(run_id)
        if not task.cancelled() and task.exception() is not None:
            self._rest(run_id, LONGEST_DELAY)  # a bug of ours, which is logged
        elif task.cancelled() or task.result() or more:
            self.deliver(run_id)
        self._tried(run_id)
        self._go_on()

    async def _look(self, after: int) -> None:
        """Find runs of which an earlier runtime has left events, a page at a time."""
        try:
            rows = await self._read(OutboxQuery(after=after, limit=_PAGE))
        except FAULTS:
            if self._core.ending:
                return
            raise
        self._after = rows[-1].seq if len(rows) == _PAGE else None
        for row in rows:
            self._left.add(row.run_id)
            self.deliver(row.run_id)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = False
        if task.cancelled() or task.exception() is None:
            self._go_on()
        elif self._core.accepting:
            self._core.clock.call_later(LONGEST_DELAY, self._go_on)

    async def _read(self, query: OutboxQuery) -> list[OutboxRow]:
        core = self._core
        return await patiently(core, lambda: core.store.outbox(query), "reading the outbox")

    # ----------------------------------------------------------------------------------------------- waiting
    def _rest(self, run_id: str, delay: float) -> None:
        if self._core.accepting:
            self._resting[run_id] = self._core.clock.call_later(delay, partial(self._rested, run_id))

    def _rested(self, run_id: str) -> None:
        if self._resting.pop(run_id, None) is not None:
            self.deliver(run_id)

    def _hold(self, run_id: str) -> None:
        self._held.add(run_id)
        if self._holding is None:
            left = self._hold_until - self._core.clock.monotonic()
            self._holding = self._core.clock.call_later(left, self._release_held)

    def _release_held(self) -> None:
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        held, self._held = self._held, set()
        for run_id in sorted(held):
            self.deliver(run_id)

    # ---------------------------------------------------------------------------------------------- delivering
    async def _portion(self, run_id: str) -> bool:
        """Deliver the next events of a run; returns whether there may be more that need not wait."""
        core = self._core
        try:
            rows = await self._read(OutboxQuery(run_id=run_id, limit=_PORTION))
            for row in rows:
                if not core.accepting or not await self._delivered(row):
                    return False
                await sleep_for(core.clock, 0)  # a run that emits its own trigger must not keep the loop to itself
        except OutboxMoved:
            return True  # the answer to an earlier commit was lost: it is read again
        except FAULTS:
            if core.ending:
                return False
            raise
        if len(rows) == _PORTION:
            return True
        self._left.discard(run_id)
        return False

    async def _delivered(self, row: OutboxRow) -> bool:
        """Deliver an event; returns False if it, and what its run emitted after it, has to wait.

        Raises:
            OutboxMoved: the row has changed.
        """
        core = self._core
        if row.run_id in self._left and core.clock.monotonic() < self._hold_until and await self._unwanted(row):
            self._hold(row.run_id)
            return False
        what = f"delivering event '{row.event.id}' of run '{row.run_id}'"
        try:
            await patiently(core, lambda: _deliver(core, self._own(), row), what)
        except (OutboxMoved, *FAULTS):
            raise
        except RuntimeStopped as error:
            return core.accepting and await self._failed(row, error)
        except Exception as error:  # noqa: BLE001 - a bus may raise anything; the event must not be lost
            return await self._failed(row, error)
        return True

    async def _unwanted(self, row: OutboxRow) -> bool:
        """Whether nobody wants an event so far. Its workflow may be registered in a moment."""
        core, event = self._core, row.event
        if row.held_by is not None:
            return core.index.find(row.held_by.workflow_id, row.held_by.trigger_id) is None
        if row.admitted or event.type in CONTROL_EVENTS or core.index.match(event.type):
            return False
        if core.bus.has_subscribers(event.type, self._own()):
            return False
        try:
            found = await admit(core, Admit(event, dry=True))
        except Exception:  # noqa: BLE001 - whatever it is, its delivery says so
            return False
        return all(line.verdict is Verdict.UNMATCHED for line in found.lines)

    async def _failed(self, row: OutboxRow, error: BaseException) -> bool:
        """Note that a delivery failed; returns whether the next event of the run may be delivered.

        Raises:
            OutboxMoved: the row has changed.
        """
        core, said = self._core, describe(error)
        found = await self._read(OutboxQuery(run_id=row.run_id, after=row.seq - 1, limit=1))
        if not found or found[0].seq != row.seq:
            return True  # it was delivered as far as it counts
        row = found[0]
        attempts, now = row.attempts + 1, core.clock.now()
        dead = isinstance(error, _LASTING) or attempts >= ATTEMPTS
        code = error.code if isinstance(error, PoundlockError) else None
        text = error_text(said.type, said.message, code, wait_in(row.error))
        mark = OutboxMark(row.admitted, attempts, text, now if dead else None)
        changes = Changes(outbox=(OutboxMove(row.seq, row.version, mark),), now=now)
        await patiently(core, lambda: core.commit(changes), f"noting that event '{row.event.id}' failed")
        if dead:
            _log_dead(row, said.message)
            return True
        delay = min(FIRST_DELAY * 2 ** (attempts - 1), LONGEST_DELAY)
        log.warning(
            "event '%s' of run '%s' could not be delivered, and is tried again in %g s: %s",
            row.event.id,
            row.run_id,
            delay,
            said.message,
        )
        self._rest(row.run_id, delay)
        return False


async def _deliver(core: Core, own: Collection[Subscription], row: OutboxRow) -> None:
    """Admit an event, and have it go on from there."""
    if row.held_by is not None:
        line = await readmit(core, row)
        if line.verdict in REFUSED:
            _log_dead(row, f"it was {line.verdict} by {said_by(line)}")
        return
    event, version, dead, told = row.event, row.version, False, False
    again = wait_in(row.error) is not None  # then it was on the bus before
    onward = not again and (row.admitted or event.type in CONTROL_EVENTS or core.bus.has_subscribers(event.type, own))
    if row.admitted:
        # What was decided is not known any more: all that could be decided here, so that the bus does not do it again.
        decided = frozenset((route.entry.id, route.trigger_id) for route in core.index.match(event.type))
        await _tell_again(core, event)
    else:
        admitted = await admit(core, Admit(event, sending=Sending(row, onward)))
        decided, event, version = decided_by(admitted.lines), admitted.event, version + 1
        refused = refusal_among(core, admitted.lines)
        if refused is not None:
            dead = True
            _log_dead(row, f"it was {refused.verdict} by {said_by(refused)}")
        elif again and all(line.verdict is Verdict.UNMATCHED for line in admitted.lines):
            _log_dead(row, "its run does not wait for it now")
        told = core.on_unmatched is not None and not again and admitted.lines[0].verdict is Verdict.UNMATCHED
    if onward:
        try:
            async with timeout_after(core.clock, core.hook_timeout):
                await spread(core, own, event, decided)
        except TimeoutError:
            raise HookTimeout(
                f"handlers on the bus did not take event '{event.id}' within {core.hook_timeout:g} s: make them "
                f"faster, or increase hook_timeout"
            ) from None
    if (onward or told) and not dead:
        await core.commit(Changes(outbox=(OutboxMove(row.seq, version),), now=core.clock.now()))


async def _tell_again(core: Core, event: Event) -> None:
    """Call `on_unmatched` for an event that nobody wanted, if the process died before its row was deleted."""
    if core.on_unmatched is None or event.type in CONTROL_EVENTS:
        return
    lines = await core.store.receipt(event.source, event.id)
    if lines and lines[0].verdict is Verdict.UNMATCHED:
        await call_unmatched(core, event)


def _log_dead(row: OutboxRow, why: str) -> None:
    whose = f" of run '{row.run_id}'" if row.held_by is None else ""
    log.error("event '%s'%s is dead letter %d: %s", row.event.id, whose, row.seq, why)
