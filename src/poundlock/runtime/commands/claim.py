"""Taking over runs without an owner: interrupted by a crash, released, or due."""

from __future__ import annotations

import contextlib

from poundlock.errors import LeaseLost, StaleVersion
from poundlock.model.changes import RunMove
from poundlock.model.deadlines import deadline_of
from poundlock.model.lifecycle import RunStatus
from poundlock.model.operator_pause import operator_row
from poundlock.model.runs import FAILURE_WAIT, RunRecord
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.changing import PINNED, written_under
from poundlock.records import dataclass
from poundlock.runtime.core import Core
from poundlock.runtime.damaged import set_aside
from poundlock.runtime.driver import adopt, start_promoted, take_up
from poundlock.runtime.returning import back_in_line, promote
from poundlock.runtime.settling import commit_leaving, leaving

_BATCH = 100


@dataclass(frozen=True, slots=True)
class Claim:
    """Take over the runs that are ready or due, of the workflows that are registered here and not paused."""


async def claim(core: Core, _command: Claim) -> int:
    """Handle `Claim`; returns how many runs were taken over. They are driven even if the caller is cancelled."""
    return await core.tasks.to_the_end(_claim(core))


async def _claim(core: Core) -> int:
    async with core.claiming:
        return await claim_all(core)


async def claim_all(core: Core) -> int:
    """Claim what there is; the caller holds `core.claiming`."""
    taken = 0
    while core.accepting and core.entries:
        workflows = core.working()
        await promote(core, workflows, queued=False)
        claims = await core.store.claim(core.worker, workflows, core.clock.now(), _BATCH)
        for run_id, damage in claims.damaged.items():
            start_promoted(core, await set_aside(core, run_id, damage))
        if claims.waiting:
            for run_id in claims.waiting:
                core.runs.outdate(run_id)
            core.note_waiting(claims.waiting)
        for claimed in claims:
            if not adopt(core, claimed.checkpoint, recovered=claimed.recovered, delayed=claimed.delayed):
                # Its workflow is deregistered by now.
                take_up(core, [claimed.checkpoint.record.identity.run_id], begun=claimed.recovered)
        taken += len(claims)
        if len(claims) < _BATCH and not claims.waiting:  # after many that wait for a slot a claim stops early
            break
    return taken


def _is_pinned(definition: WorkflowDefinition, record: RunRecord) -> bool:
    """Whether a run goes on only under another definition than this one."""
    return definition.on_change == PINNED and written_under(record.identity, record.waits) != definition.hash


async def try_unfit(core: Core, workflow_id: str) -> None:
    """Make the runs of a workflow `ready` that are paused because its definition did not fit them, or their state.

    The newly registered one may fit; if not, they are paused again.
    """
    now = core.clock.now()
    for record in await core.store.unfit(workflow_id):
        # A stage failed: only an answer by hand has it entered again, but its deadline has to be handled.
        halted = any(row.wait_id == FAILURE_WAIT and row.parked for row in record.waits)
        if (halted and not _is_late(core, record, now)) or operator_row(record.waits) is not None:
            continue
        entry = core.entries.get(workflow_id)
        if entry is None or _is_pinned(entry.definition, record):
            continue
        move = back_in_line(core, record.identity, RunMove.of(record, RunStatus.READY, now=now))
        with contextlib.suppress(StaleVersion, LeaseLost):  # it was resumed or aborted meanwhile
            if (await core.commit(move)).waiting:
                core.waits_for_slot(record.identity.run_id)


async def give_back(core: Core, workflow_id: str) -> None:
    """Take the slots of paused runs that their mode does not leave to them, and promote others.

    They were paused by a process that does not know the workflow, or under another mode.
    """
    entry = core.entries.get(workflow_id)
    if entry is None or entry.closing or entry.mode.holds_slot_while_paused:
        return
    for record in await core.store.paused_in_slot(workflow_id):
        identity, head, _ = record
        move = RunMove.of(record, head.status, now=core.clock.now(), outcome=head.outcome, wake_at=head.wake_at)
        move = move._replace(slot=False, release=leaving(core, entry, identity))
        with contextlib.suppress(StaleVersion, LeaseLost):  # it was resumed or aborted meanwhile
            committed = await commit_leaving(core, move)
            core.runs.moved_to(identity.run_id, move.new_epoch)
            start_promoted(core, committed.promoted)


def _is_late(core: Core, record: RunRecord, now: float) -> bool:
    """Whether the deadline of a run has passed."""
    identity = record.identity
    entry = core.entries.get(identity.workflow_id)
    plan = None if entry is None else entry.plans.get(identity.pipeline_id)
    if plan is None or plan.limit is None:
        return False
    deadline = deadline_of(plan.limit, identity.created_at, record.waits)
    return deadline is not None and deadline <= now
