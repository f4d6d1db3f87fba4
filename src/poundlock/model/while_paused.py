"""What a mode's decision becomes while its workflow is paused by an operator: no run of it starts."""

from __future__ import annotations

from collections.abc import Callable

from poundlock.model.modes.decisions import Decision, Load, Queue, Reject, Replace, Start
from poundlock.model.operator_pause import WorkflowPause


def while_paused(pause: WorkflowPause, load: Load, accept: Callable[[Load], Decision], slots: int) -> Decision:
    """Return the decision about an event of a paused workflow.

    What the mode would start is queued, and with `incoming="reject"` everything that asks for a run is rejected. In a
    mode with one slot the queued run stands for the active one, while there is none: it is signalled, or replaced.

    Args:
        pause: of the workflow.
        load: of its key.
        accept: the mode's decision about a load.
        slots: how many runs may be active in the mode.
    """
    alone = slots == 1 and not load.active and load.queued > 0
    decision = accept(load._replace(active=1, active_id=load.tail_id) if alone else load)
    if pause.incoming == "reject" and isinstance(decision, Start | Queue | Replace):
        return Reject(paused_text(pause))
    if isinstance(decision, Start):
        return Queue()
    if alone and isinstance(decision, Replace):
        return Queue(supersedes=load.tail_id)
    return decision


def paused_text(pause: WorkflowPause) -> str:
    """Return why a run of a paused workflow does not start."""
    what = f"workflow '{pause.workflow_id}' is paused" if pause.workflow_id else "all workflows are paused"
    return f"{what}: {pause.reason}" if pause.reason else what
