"""Time triggers: their fires are admitted like events, each once, in the commit that changes the trigger's row.

One timer, for the earliest time of all triggers. A fire is a task; the times of one trigger come one after another,
those of several side by side. What has come is computed from the row and the clock, so neither a late timer nor a clock
that was set loses a time or has one fire twice.
"""

from __future__ import annotations

import asyncio
import heapq
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, Final

from poundlock.clock import Timer, sleep_for
from poundlock.errors import (
    Contended,
    IdempotencyConflict,
    NotRegistered,
    RuntimeStopped,
    ScheduleMoved,
)
from poundlock.guard import log_text
from poundlock.model.changes import Changes
from poundlock.model.events import Event
from poundlock.model.moments import utc_text
from poundlock.model.schedules import (
    COUNTED,
    TIME_EVENT,
    Due,
    Schedule,
    ScheduleMove,
    ScheduleRow,
    begun,
    due,
)
from poundlock.records import dataclass, field
from poundlock.runtime.admission import Firing, refusal_among, said_by
from poundlock.runtime.commands.admit import Admit, admit
from poundlock.runtime.core import Core, log
from poundlock.runtime.dispatch import Route, routes_of
from poundlock.runtime.entries import Registered
from poundlock.runtime.healing import FAULTS, delays, patiently

LOOK: Final = 86_400.0
"""Seconds from one look for clocks that were far ahead to the next; by the monotonic clock, which nobody sets."""
FIRED: Final = "time:fired"
SKIPPED: Final = "time:skipped"
"""Counters of `statistics`."""


@dataclass(slots=True, eq=False)
class _Timed:
    """A time trigger of a registered workflow.

    Attributes:
        row: as this process knows it; None before it was read.
        next: what it is in the heap for; None while it is not.
        firing: the task that fires, or reads its row.
    """

    route: Route
    schedule: Schedule
    row: ScheduleRow | None = None
    next: float | None = None
    firing: asyncio.Task[Any] | None = None
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"trigger '{self.route.trigger_id}' of workflow '{self.route.workflow_id}'"


class TimeTriggers:
    """Fires the time triggers of a runtime's workflows."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._timed: dict[str, list[_Timed]] = {}
        """By workflow; of those that are registered."""
        self._heap: list[tuple[float, int, _Timed]] = []
        self._pushed = 0
        self._timer: Timer | None = None
        self._set_to: float | None = None
        self._looking: Timer | None = None

    # ------------------------------------------------------------------------------------------------ what to do
    def registered(self, entry: Registered) -> None:
        """Begin with the time triggers of a workflow, if it has any."""
        triggers = entry.definition.triggers.values()
        if all(trigger.cron is None and trigger.every is None for trigger in triggers):
            return
        from poundlock.model.cron import schedule_of  # only time triggers need it

        found = ((route, schedule_of(route.trigger)) for route in routes_of(entry))
        timed = [_Timed(route, schedule) for route, schedule in found if schedule is not None]
        self._timed[entry.id] = timed
        if self._looking is None:
            self._looking = self._core.clock.call_later(LOOK, self._look)
        self._begin(timed)

    def deregistered(self, entry: Registered) -> None:
        """Forget the time triggers of a workflow. A fire whose admission has begun is carried out."""
        for timed in self._timed.pop(entry.id, ()):
            timed.next = None
        self._arm()
        if not self._timed and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def stop(self) -> None:
        """Cancel the timers, for good: what is due is decided by the next runtime on the store."""
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()
        self._timer = self._looking = self._set_to = None
        self._timed.clear()
        self._heap.clear()

    # ------------------------------------------------------------------------------------------------- the timer
    def _wait(self, timed: _Timed) -> None:
        """Wait for a trigger's next time."""
        if timed.row is None or not self._is_wanted(timed):
            return
        timed.next = timed.schedule.after(timed.row.upto)
        if timed.next is not None:
            self._pushed += 1
            heapq.heappush(self._heap, (timed.next, self._pushed, timed))
        self._arm()

    def _arm(self) -> None:
        """Set the timer to the earliest time, unless it is set to that."""
        while self._heap and self._heap[0][2].next != self._heap[0][0]:
            heapq.heappop(self._heap)  # it is not waited for any more
        first = self._heap[0][0] if self._heap else None
        if first == self._set_to:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._set_to = first
        self._timer = None if first is None else self._core.clock.call_at(first, self._come)

    def _come(self) -> None:
        """Fire the triggers whose times have come."""
        self._timer = self._set_to = None
        now = self._core.clock.now()
        while self._heap and self._heap[0][0] <= now:
            when, _, timed = heapq.heappop(self._heap)
            if timed.next == when:
                timed.next = None
                self._do(timed, partial(self._fire, timed))
        self._arm()

    def _look(self) -> None:
        """Look for rows that are far ahead of the clock, because it was set back."""
        self._looking = self._core.clock.call_later(LOOK, self._look)
        now = self._core.clock.now()
        for timed in [each for some in self._timed.values() for each in some]:
            row = timed.row
            if timed.firing is None and row is not None and begun(row.rule, row, now) is not row:
                timed.next = None
                self._do(timed, partial(self._read, timed))

    def _is_wanted(self, timed: _Timed) -> bool:
        core = self._core
        return core.accepting and not core.ending and not timed.route.entry.closing

    # -------------------------------------------------------------------------------------------------- the work
    def _do(self, timed: _Timed, work: Any) -> None:
        """Do something about a trigger, then wait for its next time, whatever came of it.

        Nothing is begun that could not be brought to its end: what is due then is due for the next runtime.
        """
        if not self._is_wanted(timed):
            return
        # In a context of its own: it may be called from the task of a run, and what it starts is not inside of that.
        timed.firing = Context().run(self._core.tasks.spawn, work(), "poundlock-time")
        timed.firing.add_done_callback(partial(self._done, timed))

    def _done(self, timed: _Timed, _: asyncio.Task[Any]) -> None:
        timed.firing = None
        if timed.row is None:
            self._do(timed, partial(self._read, timed))  # somebody cancelled all tasks
        else:
            self._wait(timed)

    def _begin(self, some: list[_Timed]) -> None:
        for timed in some:
            self._do(timed, partial(self._read, timed))

    async def _read(self, timed: _Timed) -> None:
        """Read a trigger's row, and write it if the trigger begins now."""
        with suppress(*FAULTS):  # the runtime stops: its next one on the store reads it
            await self._read_row(timed)

    async def _read_row(self, timed: _Timed) -> None:
        core, route = self._core, timed.route
        now = core.clock.now()
        while self._is_wanted(timed):
            found = await self._row_of(timed)
            row = begun(timed.schedule.rule, found, now)
            if row is not found:
                if found is not None and found.rule == row.rule:
                    log.warning(
                        "%s fired for %s, which the clock has not reached: it was set back, and the trigger begins "
                        "anew",
                        timed.name,
                        utc_text(found.upto),
                    )
                move = ScheduleMove(route.workflow_id, route.trigger_id, found, row)
                changes = Changes(schedules=(move,), now=core.clock.now())
                try:
                    await self._patiently(timed, lambda: core.commit(changes))  # noqa: B023 - called before the next round
                except ScheduleMoved:
                    continue  # another process was quicker, or the answer to this commit was lost
            timed.row = row
            return

    async def _row_of(self, timed: _Timed) -> ScheduleRow | None:
        route, store = timed.route, self._core.store
        rows: dict[str, ScheduleRow] = await self._patiently(timed, lambda: store.schedules(route.workflow_id))
        return rows.get(route.trigger_id)

    async def _patiently(self, timed: _Timed, work: Any) -> Any:
        return await patiently(self._core, work, f"the times of {timed.name}")

    async def _fire(self, timed: _Timed) -> None:
        """Decide about the times that have come, one after another."""
        waits = delays()
        while self._is_wanted(timed) and timed.row is not None:
            come = due(timed.schedule, timed.route.trigger.missed, timed.row, self._core.clock.now())
            if come is None:
                return
            try:
                await self._decide(timed, timed.row, come)
            except (RuntimeStopped, NotRegistered):
                return
            except ScheduleMoved:
                await self._read(timed)
            except Contended as error:
                log.warning("%s is tried again: %s", timed.name, error)
                await sleep_for(self._core.clock, next(waits))
            except FAULTS:
                return  # the runtime stops: the next one on the store decides
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the trigger for good
                log.error("%s could not fire, and is tried again\n%s", timed.name, log_text(error))
                await sleep_for(self._core.clock, next(waits))
            else:
                waits = delays()

    async def _decide(self, timed: _Timed, row: ScheduleRow, come: Due) -> None:
        core, route = self._core, timed.route
        move = ScheduleMove(route.workflow_id, route.trigger_id, row, come.row)
        if come.time is None:
            await self._pass_over(timed, move)
        else:
            try:
                await self._admit(timed, come.time, move)
            except IdempotencyConflict as conflict:
                log.error("%s does not fire for %s: %s", timed.name, utc_text(come.time), conflict)
                await self._pass_over(timed, move)
        timed.row = come.row
        if come.skipped:
            core.count(SKIPPED, come.skipped)
            log.warning(
                "%s passed over %d%s of its times, between %s and %s (missed='%s')",
                timed.name,
                come.skipped,
                " or more" if come.skipped >= COUNTED - 1 else "",
                utc_text(row.upto),
                utc_text(come.row.upto),
                route.trigger.missed,
            )

    async def _pass_over(self, timed: _Timed, move: ScheduleMove) -> None:
        changes = Changes(schedules=(move,), now=self._core.clock.now())
        await self._patiently(timed, lambda: self._core.commit(changes))

    async def _admit(self, timed: _Timed, time: float, move: ScheduleMove) -> None:
        """Fire for a time."""
        core, scheduled = self._core, utc_text(time)
        event = Event(
            TIME_EVENT, {"scheduled": scheduled}, id=f"{timed.route.workflow_id}/{timed.route.trigger_id}/{scheduled}"
        )
        firing = Firing(timed.route, move)
        admitted = await self._patiently(timed, lambda: admit(core, Admit(event, waits=False, firing=firing)))
        core.count(FIRED)
        refused = refusal_among(core, admitted.lines)
        if refused is not None:
            log.warning("%s fired for %s and was %s: %s", timed.name, scheduled, refused.verdict, said_by(refused))
