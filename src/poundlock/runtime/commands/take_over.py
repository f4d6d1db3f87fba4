"""Taking over a run from its owner, of which it is known that it does not drive the run any more."""

from __future__ import annotations

from poundlock.errors import LeaseLost, StaleVersion
from poundlock.model.lifecycle import RunStatus
from poundlock.records import dataclass
from poundlock.runtime.commands.claim import claim_all
from poundlock.runtime.core import Core
from poundlock.runtime.transitions import release_move
from poundlock.stores.answers import finished, not_found


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Drive a run here that another worker owns; that one can write nothing of it any more.

    It goes on from its last boundary, with one attempt more, as after a crash. A run that is driven here, or that is
    paused, delayed or queued, is left as it is: nobody has to drive it.
    """

    run_id: str


async def take_over(core: Core, command: TakeOver) -> bool:
    """Handle `TakeOver`; returns whether the run was taken over. It is driven even if the caller is cancelled.

    Raises:
        RunNotFound: no such run. RunFinished: it has ended. NotRegistered: its workflow is not registered here.
    """
    return await core.tasks.to_the_end(_take_over(core, command.run_id))


async def _take_over(core: Core, run_id: str) -> bool:
    # One claim at a time: a run that is claimed but not adopted yet must not look like a run that nothing drives.
    async with core.claiming:
        while True:
            record = await core.store.load(run_id)
            if record is None:
                raise not_found(run_id)
            identity, head, _ = record
            if head.status.terminal:
                raise finished(run_id, head.status)
            core.entry(identity.workflow_id)
            if head.status is not RunStatus.RUNNING or (head.owner == core.worker and core.runs.has_task(run_id)):
                return False
            try:
                await core.commit(release_move(record, core.clock.now(), begun=True))
            except (StaleVersion, LeaseLost):
                continue  # its owner drives it after all, and has come to a boundary: look again
            core.runs.drop(run_id)
            break
        await claim_all(core)
        return core.runs.has_task(run_id)
