"""What the failure of a stage leads to: the end of the run, a pause until somebody helps, or another stage.

On its way through that stage, and the aside stages behind it, a run keeps the failure in a row of its waits, so that
it survives a crash with them. A failure on that way fails the run: nothing leads on from there.
"""

from __future__ import annotations

import logging
from dataclasses import asdict

from poundlock.codecs import dump
from poundlock.errors import StepFailed
from poundlock.guard import as_raised
from poundlock.model.runs import FAILURE_WAIT, RunError, WaitRow, own_row
from poundlock.pipeline.active import JUMPED, ActiveRun
from poundlock.pipeline.memo import forget, leave_visit
from poundlock.pipeline.outcome import Halted, Outcome, failed
from poundlock.pipeline.plan import StagePlan
from poundlock.pipeline.steps import StageDone
from poundlock.pipeline.waits import pause_at, rearm

log = logging.getLogger("poundlock.pipeline")

FAIL, PAUSE = "fail", "pause"


def stage_failed(run: ActiveRun, done: StageDone, error: RunError) -> Outcome | None:
    """Do what the stage says of its failure. None: the run goes on at another stage."""
    stage = done.stage
    if not _leads_on(run, stage.on_failure) or error.stage is None:  # without a stage it failed before the first one
        return failed(run, error, stage.path_json)
    raised = run.failure or done.handled or StepFailed(str(error), path=stage.path)
    done.handled = as_raised(raised)
    run.failure = None
    return _lead_on(run, stage.on_failure, stage.id, error, stage.path_json)


def left_nothing(run: ActiveRun, done: StageDone, error: RunError) -> Outcome | None:
    """As `stage_failed`, for a stage that was not committed: what it registered may refer to state it did not write."""
    run.registered = None
    if done.stage.perform is None:  # a function that failed may be called again
        if _leads_on(run, done.stage.on_failure):
            if run.waits:
                forget(run)
        else:
            leave_visit(run)
    return stage_failed(run, done, error)


def wait_failed(run: ActiveRun, stage: StagePlan | None, error: RunError) -> Outcome | None:
    """Do what the stage of a wait, or the workflow, says of the end of its time. None: the run goes on elsewhere."""
    way = run.plan.on_failure if stage is None else stage.on_failure
    if not _leads_on(run, way):
        return failed(run, error, run.plan.path_json)
    # Without its stage, the run goes on behind the wait once it is resumed.
    return _lead_on(run, way, run.stage if stage is None else stage.id, error, run.plan.path_json)


def leave_route(run: ActiveRun, stage: StagePlan) -> None:
    """Forget the failure that was handled, if this stage is no longer on its way."""
    row = next((row for row in run.waits if row.wait_id == FAILURE_WAIT and not row.parked), None)
    if row is not None and not stage.aside and row.on_timeout != stage.id:
        run.waits = tuple(other for other in run.waits if other is not row)


def halted(row: WaitRow) -> Halted:
    """Return the outcome of a run that stays paused because of a failure."""
    assert isinstance(row.patch, dict)  # noqa: S101 - written below
    return Halted(row, RunError(**row.patch))


def _leads_on(run: ActiveRun, way: str) -> bool:
    return way != FAIL and run.handled is None


def _lead_on(run: ActiveRun, way: str, stage_id: str | None, error: RunError, path_json: str) -> Outcome | None:
    detail = {"type": error.type, "message": error.message, "code": error.code, "leads_to": way}
    run.journal.add(run.clock.now(), "pipeline", "stage:failure", path_json, dump(detail))
    run.resume = None
    paused = way == PAUSE
    row = own_row(
        FAILURE_WAIT,
        epoch=run.version + 1,
        on_timeout=way,
        parked=paused,
        resume_at=stage_id if paused else None,
        patch=asdict(error),
    )
    if paused:
        rearm(run, pausing=True)
        pause_at(run, row)
        log.error("run '%s' is paused because stage '%s' failed: %s", run.run_id, stage_id, error)
        return Halted(row, error)
    run.stage = run.plan.existing(way)
    run.walk = JUMPED
    run.waits = (*(other for other in run.waits if not other.parked), row)
    rearm(run)
    return None
