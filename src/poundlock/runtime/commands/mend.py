"""Mending a run that has ended: a retry from where it failed, or a rerun from one of its stages.

Both write one move, from the ended status to `ready`, with the position of the new attempt; whoever claims the run then
drives it like any other. So a crash leaves the run either as it had ended or `ready`, and the claim obeys the mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poundlock.codecs import dump, pack_patch
from poundlock.errors import LeaseLost, NotMendable, RunFinished, RunNotFinished, StaleVersion
from poundlock.model.changes import RunMove
from poundlock.model.lifecycle import RunStatus, check_move
from poundlock.model.mending import (
    RERUN,
    RETRIED,
    Course,
    check_stage,
    definition_before,
    failed_stage,
    open_visit,
    read_course,
    restoring,
    retry_stage,
    stage_point,
    state_before,
)
from poundlock.model.runs import VISIT_WAIT, Checkpoint, LogRow, RunInfo, RunRecord, error_shape
from poundlock.model.timeline_entry import KEPT
from poundlock.pipeline.journal import Journal
from poundlock.pipeline.mending import Recalled, children_kept, recalled
from poundlock.records import dataclass
from poundlock.runtime.core import Core
from poundlock.runtime.entries import Registered
from poundlock.runtime.mending import Beginning, judged, known_entry, rows_of_attempt, taken
from poundlock.runtime.reading import get_run, outcome_of
from poundlock.runtime.returning import back_in_line
from poundlock.stores.answers import not_found


@dataclass(frozen=True, slots=True)
class Retry:
    """Go on with a run that failed or was aborted: from the stage it ended in, or an earlier one.

    Args:
        at: the stage; None: the one that failed, or where stages were undone the first of these.
        patch: merged into its last state.
        by, reason: who wants it, and why; for its timeline.
        elsewhere: whether its workflow may be unknown here: then a runtime that has it judges whether the state fits.
    """

    run_id: str
    at: str | None = None
    patch: Mapping[str, Any] | None = None
    by: str = "api"
    reason: str = ""
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Rerun:
    """Repeat a run that has ended from a stage that it had entered, with the state at the latest start of that stage.

    Args:
        from_stage: the stage.
        patch: merged into that state.
        by, reason, elsewhere: see `Retry`.
    """

    run_id: str
    from_stage: str
    patch: Mapping[str, Any] | None = None
    by: str = "api"
    reason: str = ""
    elsewhere: bool = False


async def retry(core: Core, command: Retry) -> RunInfo:
    """Handle `Retry`; returns when it is durable.

    Raises:
        RunNotFound: no such run. RunNotFinished: it has not ended. RunFinished: it is completed.
        NotMendable: it cannot go on there, or is a child of another run; the message says what can be done.
        StageGone: there is no such stage. NotRegistered: its workflow is not registered here.
        StateInvalid, NotStorable: the state does not fit with this patch. DefinitionChanged: it belongs to another one.
    """
    return await _mend(core, command)


async def rerun(core: Core, command: Rerun) -> RunInfo:
    """Handle `Rerun`; returns when it is durable. Raises as `retry`, but takes a completed run too."""
    return await _mend(core, command)


async def _mend(core: Core, command: Retry | Rerun) -> RunInfo:
    core.check_accepting()
    run_id = command.run_id
    given = None if command.patch is None else taken(command.patch)
    while True:
        await core.announced(run_id)
        checkpoint = await core.store.checkpoint(run_id)
        if checkpoint is None:
            raise not_found(run_id)
        _check_ended(command, checkpoint.record)
        entry = known_entry(core, checkpoint.record.identity.workflow_id, elsewhere=command.elsewhere)
        rows = await core.store.history(run_id)
        begin = _beginning_of_retry if isinstance(command, Retry) else _beginning_of_rerun
        beginning = await begin(core, command, checkpoint, rows, entry)  # type: ignore[arg-type]  # each has its own
        move = back_in_line(core, checkpoint.record.identity, _move(core, checkpoint, beginning, entry, given))
        try:
            await core.tasks.to_the_end(_commit(core, move))
        except (StaleVersion, LeaseLost):
            continue  # another call was quicker: look again
        return await get_run(core, run_id)


async def _commit(core: Core, move: RunMove) -> None:
    if (await core.commit(move)).waiting:
        core.note_waiting([move.run_id])
    live = core.runs.live(move.run_id)
    if live is not None and live.alive:  # its end is being finished: those who wait for that get it, and nobody else
        live.awaited = core.waiters.set_aside(move.run_id)
    core.wake_at(move.updated_at)


def _check_ended(command: Retry | Rerun, record: RunRecord) -> None:
    run_id, status, parent_id = command.run_id, record.head.status, record.identity.parent_id
    if not status.terminal:
        does = "resume or abort it" if status is RunStatus.PAUSED else "wait for its end, or abort it"
        raise RunNotFinished(
            f"run '{run_id}' is {status}: {does}, or fork it from one of its stages", run_id=run_id, status=status
        )
    if parent_id is not None:
        raise NotMendable(
            f"run '{run_id}' is a child of run '{parent_id}', which has had its result: retry that run, or fork this "
            f"one",
            run_id=run_id,
            parent_id=parent_id,
        )
    if status is RunStatus.COMPLETED and isinstance(command, Retry):
        raise RunFinished(
            f"run '{run_id}' is completed, so there is nothing to retry: rerun it from one of its stages, or fork it",
            run_id=run_id,
            status=status,
        )


# ------------------------------------------------------------------------------------------------- where it begins
async def _beginning_of_retry(
    core: Core, command: Retry, checkpoint: Checkpoint, rows: Sequence[LogRow], entry: Registered | None
) -> Beginning:
    identity, head, _ = checkpoint.record
    error = outcome_of(head.outcome)[1]
    course = read_course(rows)
    _check_known(entry, identity.pipeline_id, command.at)
    stage = retry_stage(course, head.stage, error, command.at, command.run_id)
    _check_known(entry, identity.pipeline_id, stage)
    now = core.clock.now()
    kept = await _recalled(core, course, checkpoint.record, rows, stage, now)
    journal = Journal(full=core.timeline)
    path = dump(identity.pipeline_id)
    anew = not any(row.wait_id == VISIT_WAIT for row in kept.waits)
    detail = _detail(command, checkpoint.record, stage, anew=anew)
    journal.add(now, "dispatch", RETRIED, path, dump(detail), "{}")
    for key, value in kept.entries:
        journal.add(now, "pipeline", KEPT, dump(f"{identity.pipeline_id}/{stage}"), dump([key, value]), "{}")
    waits = (*kept.waits, *rows_of_attempt(checkpoint.record, now, definition_before(rows, None)))
    return Beginning(stage, checkpoint.state, waits, journal)


async def _recalled(
    core: Core, course: Course, record: RunRecord, rows: Sequence[LogRow], stage: str, now: float
) -> Recalled:
    """Return what is kept of the visit in which the run ended; nothing if it begins elsewhere, or was undone."""
    error = outcome_of(record.head.outcome)[1]
    visit = open_visit(course, stage)
    if course.undone or stage != failed_stage(course, record.head.stage, error):
        return Recalled()
    children = children_kept(course.left, rows)
    completed = [child for child in children if await core.store.status(child) is RunStatus.COMPLETED]
    return recalled(course.left, visit, rows, stage, error, completed, now, record.head.version + 1)


async def _beginning_of_rerun(
    core: Core, command: Rerun, checkpoint: Checkpoint, rows: Sequence[LogRow], entry: Registered | None
) -> Beginning:
    identity = checkpoint.record.identity
    pipeline_id = identity.pipeline_id
    _check_known(entry, pipeline_id, command.from_stage)
    first = None if entry is None else entry.plans[pipeline_id].course[0]
    point = stage_point(read_course(rows), command.from_stage, first, command.run_id)
    state = state_before(rows, point.seq)
    now = core.clock.now()
    journal = Journal(full=core.timeline)
    detail = {**_detail(command, checkpoint.record, point.stage, anew=True), "seq": point.seq}
    _, text = pack_patch(restoring(checkpoint.state, state))
    journal.add(now, "dispatch", RERUN, dump(pipeline_id), dump(detail), text)
    waits = rows_of_attempt(checkpoint.record, now, definition_before(rows, point.seq))
    return Beginning(point.stage, state, waits, journal)


def _check_known(entry: Registered | None, pipeline_id: str, stage: str | None) -> None:
    """Refuse a stage that the workflow does not have, or not any more (`StageGone`)."""
    if entry is None or stage is None:
        return
    plan = entry.plans.get(pipeline_id)
    check_stage(stage, () if plan is None else list(plan.by_id), pipeline_id)


def _detail(command: Retry | Rerun, record: RunRecord, stage: str, *, anew: bool) -> dict[str, Any]:
    """Return what the timeline says: who, why, where, and how the run had ended before."""
    result, error = outcome_of(record.head.outcome)
    earlier = {
        "status": str(record.head.status),
        "error": error_shape(error),
        "result": result,
        "ended_at": record.head.updated_at,
        "attempt": record.head.attempt,
    }
    return {"by": command.by, "reason": command.reason, "stage": stage, "anew": anew, "earlier": earlier}


# --------------------------------------------------------------------------------------------------------- the move
def _move(core: Core, checkpoint: Checkpoint, beginning: Beginning, entry: Registered | None, given: Any) -> RunMove:
    """Return the move to `ready`, with the state judged if the workflow is known here."""
    identity, head, _ = checkpoint.record
    now = core.clock.now()
    check_move(head.status, RunStatus.READY)
    waits = judged(core, checkpoint, beginning, entry, given)
    return RunMove(
        run_id=identity.run_id,
        version=head.version,
        epoch=head.epoch,
        inbox=None,
        status=RunStatus.READY,
        owner=None,
        new_epoch=head.epoch + 1,
        stage=beginning.stage,
        attempt=head.attempt + 1,
        wake_at=None,
        outcome=None,
        slot=False,
        updated_at=now,
        log=beginning.journal.row(head.log_seq + 1),
        waits=waits,
        visits=dump(beginning.stage),
    )
