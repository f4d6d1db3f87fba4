"""Unpausing a workflow, or all: its runs go on, those that are due first, and queued ones take the free slots."""

from __future__ import annotations

from poundlock.model.changes import Changes
from poundlock.records import dataclass
from poundlock.runtime.commands.pause_workflow import known
from poundlock.runtime.core import Core


@dataclass(frozen=True, slots=True)
class UnpauseWorkflow:
    """Unpause a workflow; one that is not paused is left as it is. None: take away the pause of all.

    A workflow that is also paused by its own id stays paused when that of all is taken away, and the other way round.
    """

    workflow_id: str | None = None


async def unpause_workflow(core: Core, command: UnpauseWorkflow) -> None:
    """Handle `UnpauseWorkflow`; durable when this returns.

    Raises:
        NotRegistered: there is neither such a workflow here nor a run of one in the store.
    """
    workflow_id = await known(core, command.workflow_id)
    if workflow_id in core.pauses:
        await core.tasks.to_the_end(_unpause(core, workflow_id))


async def _unpause(core: Core, workflow_id: str) -> None:
    await core.commit(Changes(unpaused=(workflow_id,), now=core.clock.now()))
    core.pauses.pop(workflow_id, None)
    core.unpaused()
