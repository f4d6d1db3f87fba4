"""Pausing a workflow, or all: none of its runs starts or goes on. One row of the store says so, for all of them."""

from __future__ import annotations

from poundlock.errors import InvalidDefinition, NotRegistered, suggest
from poundlock.guard import repr_of
from poundlock.model.changes import Changes
from poundlock.model.events import is_name
from poundlock.model.operator_pause import ALL, Incoming, WorkflowPause
from poundlock.model.runs import RunQuery
from poundlock.records import dataclass
from poundlock.runtime.commands.pause import check_texts, let_go
from poundlock.runtime.core import Core


@dataclass(frozen=True, slots=True)
class PauseWorkflow:
    """Pause a workflow: active runs are paused at their next boundary, and none starts.

    Args:
        workflow_id: which one; None: all of them.
        incoming: "queue" keeps events that would start a run as queued runs, "reject" rejects them.
        reason: why, for people.
        by: who: "api", "cli" or a name.
    """

    workflow_id: str | None = None
    incoming: Incoming = "queue"
    reason: str = ""
    by: str = "api"


async def pause_workflow(core: Core, command: PauseWorkflow) -> None:
    """Handle `PauseWorkflow`; durable when this returns. For a paused one, the new `incoming` and reason count.

    Raises:
        NotRegistered: there is neither such a workflow here nor a run of one in the store.
        InvalidDefinition: unknown `incoming`.
    """
    check_texts(command.reason, command.by)
    if command.incoming not in ("queue", "reject"):
        raise InvalidDefinition(
            f"incoming is {repr_of(command.incoming, 60)}: use 'queue' or 'reject'", path="incoming"
        )
    workflow_id = await known(core, command.workflow_id)
    now = core.clock.now()
    pause = WorkflowPause(workflow_id, command.incoming, command.reason, command.by, now)
    await core.tasks.to_the_end(_pause(core, pause))


async def known(core: Core, workflow_id: str | None) -> str:
    """Return a workflow's id as its pause has it.

    Raises:
        NotRegistered: nobody knows it: not even a run in the store.
    """
    if workflow_id is None:
        return ALL
    if not is_name(workflow_id):
        raise InvalidDefinition(
            f"workflow_id is {repr_of(workflow_id, 60)}: give the id of a workflow", path="workflow_id"
        )
    if workflow_id not in core.entries and workflow_id not in core.pauses:
        page = await core.store.find(RunQuery(workflow=workflow_id, limit=1))
        if not page.items:
            raise NotRegistered(
                f"no workflow '{workflow_id}' is registered, and the store has no run of it: "
                f"{suggest(workflow_id, list(core.entries))}",
                workflow_id=workflow_id,
            )
    return workflow_id


async def _pause(core: Core, pause: WorkflowPause) -> None:
    await core.commit(Changes(paused=(pause,), now=pause.since))
    core.pauses[pause.workflow_id] = pause
    for live in core.runs.all_driven():
        if core.pause_of(live.entry.id) is not None:
            let_go(core, live.run.run_id)
