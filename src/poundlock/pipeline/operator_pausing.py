"""A run that operators pause: it takes their requests in, and is paused at its next boundary.

House rules: `ActiveRun.pausing` only says that it has to be looked at here whether somebody wants the run paused. What
counts is the run's row (`model/operator_pause.py`), which is a part of its position, and whether its workflow is paused
now. So a refused boundary takes a pause back, and an unpause that comes in time lets the run go on.
"""

from __future__ import annotations

from poundlock.model.lifecycle import RunStatus
from poundlock.model.operator_pause import (
    Then,
    is_held,
    is_new,
    marked,
    noted,
    operator_row,
    pauses_of,
    reason_of,
    was_with_workflow,
    with_reason,
    without_row,
)
from poundlock.model.runs import WaitRow
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.kept_values import resume_as_data, resume_of
from poundlock.pipeline.operator_requests import PAUSED, UNPAUSED, note_pause


def pause_due(run: ActiveRun) -> WaitRow | None:
    """Return the row at which a run is to be paused now; None if no pause is left.

    The row has a time at which the run wakes if only its workflow is paused: its store hands out no run of such a
    workflow, so that is when it is unpaused. Then nothing has to be written for each of its runs.
    """
    if is_held(run.waits):
        _keep_reason(run)
        return operator_row(run.waits)
    workflow = run.supervision.paused(run.identity.workflow_id)
    new = bool(is_new(run.waits))
    if workflow is None and not new:
        go_on(run)
        return None
    run.waits = marked(run.waits, run.version + 1, with_workflow=workflow is not None)
    _keep_reason(run)
    if workflow is not None:
        shown = workflow.shown()
        note_pause(run, PAUSED, {"scope": shown.scope, "reason": shown.reason, "by": shown.by})
    row = operator_row(run.waits)
    assert row is not None  # noqa: S101 - made above
    return row._replace(expires_at=run.clock.now())  # one that has not begun is prepared by its next owner


def begins_paused(run: ActiveRun) -> bool:
    """Whether a run that is about to begin is paused first; then it is noted that it has not begun."""
    wanted = {pause.scope for pause in pauses_of(run.waits)}
    for message in sorted((*run.backlog, *run.inbox), key=lambda message: message.seq):
        if message.kind == "pause" and message.body is not None:
            wanted.add(message.body["scope"])
        elif message.kind == "unpause" and message.body is not None:
            wanted.discard(message.body["scope"])
    if not wanted and run.supervision.paused(run.identity.workflow_id) is None:
        return False
    run.pausing = True
    run.waits = marked(run.waits, run.version + 1, new=True)
    return True


def look(run: ActiveRun) -> None:
    """Look at a run that is to be driven: whether it is still paused, or goes on now."""
    row = operator_row(run.waits)
    if row is None:
        return
    if is_held(run.waits):
        run.pausing = True
    elif not run.pausing:
        go_on(run)


def go_on(run: ActiveRun) -> None:
    """Note that a run goes on: no pause of it is left."""
    run.pausing = False
    row = operator_row(run.waits)
    if row is not None:
        if was_with_workflow(row):
            note_pause(run, UNPAUSED, {"scope": "workflow"})
        if run.resume is None:
            run.resume = resume_of(reason_of(row))
        run.waits = without_row(run.waits)


def _keep_reason(run: ActiveRun) -> None:
    """Note why the run was resumed before: its next stage may ask for that."""
    if run.resume is not None:
        run.waits = with_reason(run.waits, resume_as_data(run.resume), run.version + 1)


def rests(
    run: ActiveRun, status: RunStatus, wake_at: float | None, *, in_between: bool
) -> tuple[RunStatus, float | None]:
    """Return the status of a run that comes to rest, and when it wakes: paused and never, if an operator has paused it.

    What it would be otherwise is noted in its row.

    Args:
        run: the run.
        status: paused or delayed.
        wake_at: when it would go on by itself.
        in_between: whether it waits for nothing else: it goes on with its next stage at once when it is unpaused.
    """
    if not is_held(run.waits):
        return status, wake_at
    then = Then(None, None) if in_between else Then(str(status), wake_at)
    run.waits = noted(run.waits, then, run.version + 1)
    return RunStatus.PAUSED, None
