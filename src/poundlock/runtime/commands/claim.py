"""Taking over runs nobody drives: recovered after a crash, given back, or due."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from poundlock.documenting import documented
from poundlock.errors import LeaseLost, StaleVersion
from poundlock.model.changes import Changes, RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.runtime.core import Core
from poundlock.runtime.driver import adopt, give_back, take_up, unknown

_BATCH = 100


@documented
@dataclass(frozen=True, slots=True)
class Claim:
    """Take over what is ready or due, of the workflows registered here.

    `stranded`: also what this process owns but could not go on with.
    """

    stranded: bool = False


async def claim(core: Core, command: Claim) -> int:
    """Handle `Claim`; returns how many runs were taken over. They are driven, also if the caller goes away."""
    return await core.tasks.to_the_end(_claim(core, command))


async def _claim(core: Core, command: Claim) -> int:
    # One after another: what is claimed and not yet adopted must not be taken for a run that nothing drives.
    async with core.claiming:
        taken = 0
        if command.stranded:
            take_up(core, await unknown(core))
            await give_back(core, core.runs.without_task(), begun=True)
        while core.accepting and core.entries:
            workflows = {entry.id for entry in core.entries.values() if not entry.closing}
            claims = await core.store.claim(core.worker, workflows, core.clock.now(), _BATCH)
            for claimed in claims:
                if not adopt(core, claimed.checkpoint, recovered=claimed.recovered, delayed=claimed.delayed):
                    take_up(core, [claimed.checkpoint.record.identity.run_id])  # its workflow was taken out meanwhile
            taken += len(claims)
            if len(claims) < _BATCH:
                break
        return taken


async def try_unfit(core: Core, workflow_id: str) -> None:
    """Make the runs of a workflow `ready` that are paused because their state did not fit its model.

    Whoever registers the workflow may have brought a model that it fits; if not, they are paused as before.
    """
    now = core.clock.now()
    for record in await core.store.unfit(workflow_id):
        with contextlib.suppress(StaleVersion, LeaseLost):  # somebody resumed or aborted it meanwhile
            await core.store.commit(Changes(moves=(RunMove.of(record, RunStatus.READY, now=now),), now=now))
