"""The end of a run that failed or is aborted: what its stages committed is undone first, the latest commit first.

How the run ends is decided before, and kept in a row of its waits, so that it survives a crash. From then on nothing
changes that: an abort request has no effect, and what an undo raises is only recorded. The run's state stays the last
committed one; during an undo, it is the one that the stage's commit left.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping

from poundlock.clock import sleep_for
from poundlock.codecs import dump
from poundlock.errors import StageGone
from poundlock.guard import Interrupted, Interruption, as_raised
from poundlock.model.runs import LogRow, RunError
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.concluding import Driven
from poundlock.pipeline.inbox import absorb
from poundlock.pipeline.interrupting import asked_for, current_task, judge
from poundlock.pipeline.memo import forget, recall, visit_row
from poundlock.pipeline.outcome import Aborted, Failed, Released, decide, ended, run_error
from poundlock.pipeline.outgoing import send
from poundlock.pipeline.output_log import outputs_in
from poundlock.pipeline.plan import StepPlan
from poundlock.pipeline.resting import Awake
from poundlock.pipeline.runner import Progress
from poundlock.pipeline.stage_services import Visit, roll_back
from poundlock.pipeline.step_results import StepDone
from poundlock.pipeline.steps import perform_step
from poundlock.pipeline.undo_log import Due, due, note_end

log = logging.getLogger("poundlock.pipeline")


async def end_badly(run: ActiveRun, driven: Driven, outcome: Failed | Aborted, progress: Progress) -> Driven:
    """Undo what has to be undone before a run ends like this; returns the run's outcome after that.

    Raises:
        Interrupted: the runtime stops, or the run has another owner now; its next owner goes on undoing.
        asyncio.CancelledError: the task was cancelled, and the runtime did not ask for it.
        PoundlockError: a commit failed; the run is as its last commit left it.
    """
    if run.undoing is None and not _selected(run, outcome):
        ended(run, outcome)
        return driven
    run.progress = progress
    rows = await _history(run, progress)
    left = due(rows)
    if run.plan.keeps_outputs:
        run.outputs = outputs_in(rows)
    if run.undoing is None:
        if not left:
            ended(run, outcome)
            return driven
        _begin(run, outcome)
        await _boundary(run, progress)
    while left:
        if (why := asked_for(run)) is not None:
            raise Interrupted(why)
        if run.stopping:
            return Driven(Released(), run.position(), None)
        await _undo(run, left.pop())
        await _boundary(run, progress)
        await sleep_for(run.clock, 0)  # undos that await nothing would block the event loop together
    before = run.position()
    absorb(run)  # signals count until the end, as for other runs
    run.abort = None
    ended(run, outcome)
    return Driven(outcome, before, None)


def _selected(run: ActiveRun, outcome: Failed | Aborted) -> bool:
    return run.plan.undoes and (type(outcome) is Failed or run.plan.undo_on_abort)


async def _history(run: ActiveRun, progress: Progress) -> list[LogRow]:
    rows = await progress.history(run) if run.written else []
    pending = run.journal.row(run.log_seq + 1)
    return rows if pending is None else [*rows, pending]


async def _boundary(run: ActiveRun, progress: Progress) -> None:
    if (pending := progress.boundary(run)) is not None:
        await pending


def _begin(run: ActiveRun, outcome: Failed | Aborted) -> None:
    """Note how the run ends. Its waits end here; an abort request and its deadline have no effect any more."""
    decide(run, outcome)
    run.registered = run.resume = run.abort = None
    if run.interruption in (Interruption.ABORT, Interruption.DEADLINE):
        run.interruption = None


async def _undo(run: ActiveRun, wanted: Due) -> None:
    """Undo one step: note how that ended. What it returns has no meaning."""
    undo = _undo_of(run, wanted)
    if isinstance(undo, StepPlan):
        path_json, error = undo.path_json, await _perform(run, undo, wanted)
    else:
        path_json, error = dump(f"{run.plan.id}/{wanted.stage_id}/{wanted.step_id}"), undo
    if error is None:
        note_end(run, path_json, None)
        return
    note_end(run, path_json, {"type": error.type, "message": error.message, "code": error.code})
    log.error(
        "step '%s' of stage '%s' of run '%s' could not be undone, so undo it by hand: %s",
        wanted.step_id,
        wanted.stage_id,
        run.run_id,
        error,
    )


def _undo_of(run: ActiveRun, wanted: Due) -> StepPlan | RunError:
    """Return the undo of a step, or why there is none: the definition has changed."""
    stage = run.plan.by_id.get(wanted.stage_id)
    for step in () if stage is None else stage.steps:
        if step.id == wanted.step_id and step.undo is not None:
            return step.undo
    gone = StageGone(
        f"step '{wanted.step_id}' of stage '{wanted.stage_id}' has no undo in this definition any more: restore it",
        path=run.plan.id,
    )
    return run_error(gone, wanted.stage_id, wanted.step_id)


async def _perform(run: ActiveRun, undo: StepPlan, wanted: Due) -> RunError | None:
    """Call an undo, as often as its step's retry says, with the state and services of its stage."""
    task = current_task()
    before = run.state, run.entered_at, run.visit_key, run.failure, run.snapshot_size
    # Below zero: the idempotency key must not be one that a step has, and stays the same after a crash.
    run.state, run.failure = wanted.state, None
    run.entered_at = run.visit_key = -wanted.seq
    run.visit = visit = None if run.plan.stage_services is None else Visit(run, wanted.stage_id)
    # What it keeps of its attempts is written with another state than the run's: that must not become a snapshot.
    run.snapshot_size = sys.maxsize
    _recall_attempts(run)
    run.resting = Awake(run.clock)
    run.interruptible = True
    try:
        try:
            try:
                result = await perform_step(run, undo, None)
            finally:
                if run.memo is not None:
                    await run.memo.finish(task)
        except Interrupted as interruption:
            if visit is not None:
                await roll_back(run, visit, task, interruption)
            raise
        error = result if isinstance(result, RunError) else None
        if visit is not None:
            error = await _closed(run, visit, task, undo, error)
        if error is None and isinstance(result, StepDone) and result.outgoing:
            send(run, undo.path_json, result.outgoing)
        return error
    finally:
        run.interruptible = False
        run.visit = run.resting = None
        forget(run)
        run.state, run.entered_at, run.visit_key, run.failure, run.snapshot_size = before


def _recall_attempts(run: ActiveRun) -> None:
    """Set the memo to what the last owner of the run kept of this undo."""
    row = visit_row(run)
    if row is not None and isinstance(row.patch, Mapping) and row.patch["entered_at"] == run.entered_at:
        recall(run, row, ())
    else:
        forget(run)


async def _closed(
    run: ActiveRun, visit: Visit, task: asyncio.Task[object], undo: StepPlan, error: RunError | None
) -> RunError | None:
    """Close the services of an undo; one that cannot be closed makes it fail, because its work may be lost."""
    raised: BaseException | None
    try:
        raised = await visit.close(None if run.failure is None else as_raised(run.failure))
    except asyncio.CancelledError as cancelled:
        raised = cancelled
    raised = await judge(run, task, raised)
    if error is not None or raised is None:
        return error
    return run_error(raised, undo.stage_id, undo.id)
