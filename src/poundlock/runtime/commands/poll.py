"""Having steps with `poll` check at once what they have begun, in runs that are parked between two checks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from poundlock.errors import LeaseLost, StaleVersion
from poundlock.model.changes import RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import VISIT_WAIT, RunQuery, RunRecord, WaitRow, own_row
from poundlock.model.validation import whole_number
from poundlock.pipeline.polling import NEXT
from poundlock.records import dataclass
from poundlock.runtime.commands.claim import claim_all
from poundlock.runtime.core import Core
from poundlock.runtime.returning import back_in_line

_PAGE = 500


@dataclass(frozen=True, slots=True)
class PollSuspended:
    """Check at once in runs that rest between two checks of a step with `poll`, in place of at their next time.

    For when what they wait for is known to be done, or was away for long.

    Args:
        workflow: only runs of this one; default: of all that are registered here and not paused.
        limit: how many runs at most, the newest ones first.
    """

    workflow: str | None = None
    limit: int = 50


async def poll_suspended(core: Core, command: PollSuspended) -> int:
    """Handle `PollSuspended`; returns how many runs check now. What comes of it they write themselves.

    Raises:
        InvalidDefinition: the limit is no whole number from 1. NotRegistered: no such workflow is registered here.
    """
    limit = whole_number("limit", command.limit, 1)
    if command.workflow is not None:
        core.entry(command.workflow)
    return await core.tasks.to_the_end(_poll(core, command.workflow, limit))


async def _poll(core: Core, workflow: str | None, limit: int) -> int:
    made = 0
    async with core.claiming:
        async for record in _resting(core, workflow):
            now, run_id = core.clock.now(), record.identity.run_id
            waits = _due_now(record, now)
            if waits is None:
                continue
            move = RunMove.of(record, RunStatus.READY, now=now, wake_at=now, waits=waits)
            try:
                committed = await core.commit(back_in_line(core, record.identity, move))
            except (StaleVersion, LeaseLost):
                continue  # it was due, aborted or paused meanwhile
            core.runs.moved_to(run_id, move.new_epoch)
            if committed.waiting:
                core.waits_for_slot(run_id)
            made += 1
            if made == limit:
                break
        await claim_all(core)
    return made


async def _resting(core: Core, workflow: str | None) -> AsyncIterator[RunRecord]:
    working = core.working()
    query = RunQuery(workflow=workflow, status=(RunStatus.DELAYED,), limit=_PAGE)
    while True:
        page = await core.store.find(query)
        for record in page.items:
            if record.identity.workflow_id in working:
                yield record
        if page.next_cursor is None:
            return
        query = replace(query, cursor=page.next_cursor)


def _due_now(record: RunRecord, now: float) -> tuple[WaitRow, ...] | None:
    """Return the waits of a run with the next check of its steps set to now; None if none of them polls."""
    row = next((row for row in record.waits if row.wait_id == VISIT_WAIT), None)
    if row is None or not isinstance(row.patch, Mapping):
        return None
    small: Mapping[str, object] = row.patch.get("small", {})
    times = {key: now for key in small if key.startswith(NEXT)}
    if not times:
        return None
    patch = {**row.patch, "small": {**small, **times}}
    others = [other for other in record.waits if other is not row]
    return (*others, own_row(VISIT_WAIT, epoch=record.head.version + 1, on_timeout="resume", patch=patch))
