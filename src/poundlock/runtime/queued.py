"""The deadlines of runs that wait for a slot: such a run is only a row, and no store looks at it before its turn.

So each process notes those runs of its workflows that have a limit: new ones that it queued, resumed ones that it lined
up, and at the registration of a workflow those that are in the store. A run that its deadline leads to a stage is not
noted: it goes there when its turn has come, because the mode says how many runs are active. So does a run that has
something to do before it ends: stages to undo, or children.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from poundlock.clock import Timer
from poundlock.errors import InboxAhead, LeaseLost, StaleVersion
from poundlock.model.deadlines import RunLimit, deadline_of
from poundlock.model.lifecycle import RunStatus
from poundlock.model.operator_pause import is_held
from poundlock.model.runs import NEEDS_SLOT, RunIdentity, RunQuery, RunRecord, WaitRow
from poundlock.pipeline.deadline import too_late, too_late_reason
from poundlock.pipeline.memo import has_children
from poundlock.pipeline.outcome import run_error
from poundlock.pipeline.undo_log import due
from poundlock.runtime.core import Core
from poundlock.runtime.driver import start_promoted
from poundlock.runtime.entries import Registered
from poundlock.runtime.healing import FAULTS, patiently
from poundlock.runtime.pending_hooks import pending_of
from poundlock.runtime.settling import announce_end, announce_if_written, commit_leaving, leaving, log_failure
from poundlock.runtime.transitions import ending, failing

_FEW: Final = 64
"""Outdated entries that are not worth clearing up."""
_AT_ONCE: Final = 32
"""Runs that are ended together, so that they share commits."""


class QueuedLimits:
    """Ends queued runs at their deadlines, with one timer for the earliest."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._heap: list[tuple[float, str]] = []
        self._timer: Timer | None = None
        self._next: float | None = None
        """What the timer is set to."""
        self._over: deque[str] = deque()
        self._ending: asyncio.Task[None] | None = None

    def note(self, identity: RunIdentity, waits: Sequence[WaitRow] = ()) -> None:
        """Note a run that was queued, or a resumed one that waits for a slot, with its waits."""
        limit = self._limit(identity)
        if limit is None or not limit.ends or identity.run_id in self._core.queued:
            return
        deadline = deadline_of(limit, identity.created_at, waits)
        if deadline is None:
            return
        queued = self._core.queued
        queued[identity.run_id] = deadline
        if len(self._heap) > 2 * len(queued) + _FEW:
            self._heap = sorted((when, run_id) for run_id, when in queued.items())
        else:
            heapq.heappush(self._heap, (deadline, identity.run_id))
        self._arm()

    def note_waiting(self, run_ids: Sequence[str]) -> None:
        """Note resumed runs that wait for a slot, in the background."""
        if any(_ends_runs(entry) for entry in self._core.entries.values()):
            self._core.tasks.spawn(self._read_some(run_ids))

    async def _read_some(self, run_ids: Sequence[str]) -> None:
        core = self._core
        for run_id in run_ids:
            record = await patiently(core, partial(core.store.load, run_id), f"reading run '{run_id}'")
            if record is not None and _waits_for_slot(record):
                self.note(record.identity, record.waits)

    def watch(self, entry: Registered) -> None:
        """Note the runs of a workflow that wait for a slot in the store, in the background."""
        if _ends_runs(entry):
            self._core.tasks.spawn(self._read(entry))

    async def _read(self, entry: Registered) -> None:
        waiting = (RunStatus.QUEUED, RunStatus.READY)
        core, wanted = self._core, RunQuery(workflow=entry.id, status=waiting, limit=500)
        while True:
            query = wanted
            page = await patiently(core, lambda: core.store.find(query), f"reading queued runs of '{entry.id}'")  # noqa: B023 - called before the next round
            for record in page.items:
                if _waits_for_slot(record):
                    self.note(record.identity, record.waits)
            if page.next_cursor is None:
                return
            wanted = replace(wanted, cursor=page.next_cursor)

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._next = None

    def _limit(self, identity: RunIdentity) -> RunLimit | None:
        entry = self._core.entries.get(identity.workflow_id)
        plan = None if entry is None or entry.closing else entry.plans.get(identity.pipeline_id)
        return None if plan is None else plan.limit

    def _arm(self) -> None:
        """Set the timer to the earliest deadline, unless it is set to that."""
        while self._heap and self._core.queued.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # it has left the queue
        first = self._heap[0][0] if self._heap else None
        if first == self._next:
            return
        self.stop()
        self._next = first
        if first is not None:
            self._timer = self._core.clock.call_at(first, self._due)

    def _due(self) -> None:
        core, now = self._core, self._core.clock.now()
        self._timer = self._next = None
        while self._heap and self._heap[0][0] <= now:
            when, run_id = heapq.heappop(self._heap)
            if core.queued.get(run_id) == when:
                del core.queued[run_id]
                self._over.append(run_id)
        if self._over and (self._ending is None or self._ending.done()):
            self._ending = core.tasks.spawn(self._end_all())
        self._arm()

    async def _end_all(self) -> None:
        """End the runs whose time is over, some at once: after a restart there may be thousands."""
        while self._over:
            some = [self._over.popleft() for _ in range(min(_AT_ONCE, len(self._over)))]
            ends = [self._core.tasks.spawn(self._end(run_id)) for run_id in some]
            await asyncio.wait(ends)

    async def _end(self, run_id: str) -> None:
        await patiently(self._core, lambda: self._try_to_end(run_id), f"ending queued run '{run_id}'")

    async def _try_to_end(self, run_id: str) -> None:
        core = self._core
        while True:
            record = await core.store.load(run_id)
            if record is None or not _waits_for_slot(record):
                return  # whoever drives it sees to its deadline
            identity = record.identity
            limit = self._limit(identity)
            if limit is None or not limit.ends or await self._has_more_to_do(record):
                return
            if is_held(record.waits) or core.pause_of(identity.workflow_id) is not None:
                return  # no time acts meanwhile; who unpauses it notes it again
            queued = record.head.status is RunStatus.QUEUED
            error = None
            if limit.on_timeout == "abort":
                move = await ending(core, record, reason=too_late_reason(limit), by="timeout")
            else:
                error = run_error(too_late(limit, identity.pipeline_id), record.head.stage, None)
                move = await failing(core, record, error)
            if queued:
                entry = core.entries.get(identity.workflow_id)
                move = move._replace(release=leaving(core, entry, identity, queued=True))
            try:
                promoted = (await commit_leaving(core, move, pending_of(core, identity))).promoted
            except (StaleVersion, LeaseLost, InboxAhead):
                continue  # it changed between read and write: look again
            except FAULTS:
                announce_if_written(core, move)
                raise
            log_failure(identity, error)
            start_promoted(core, promoted)
            announce_end(core, move)  # not waited for: it calls hooks
            return

    async def _has_more_to_do(self, record: RunRecord) -> bool:
        """Whether a run has to be driven before it ends."""
        if has_children(record.waits):
            return True
        entry = self._core.entries.get(record.identity.workflow_id)
        plan = None if entry is None else entry.plans.get(record.identity.pipeline_id)
        return plan is not None and plan.undoes and bool(due(await self._core.store.history(record.identity.run_id)))


def _ends_runs(entry: Registered) -> bool:
    """Whether a workflow has a limit that ends runs."""
    return any(plan.limit is not None and plan.limit.ends for plan in entry.plans.values())


def _waits_for_slot(record: RunRecord) -> bool:
    return record.head.status is RunStatus.QUEUED or record.head.slot == NEEDS_SLOT
