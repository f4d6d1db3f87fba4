"""Driving again what a crash or a lost commit has left half done; what heartbeats or waits is left alone."""

from __future__ import annotations

from poundlock.records import dataclass
from poundlock.runtime.commands.claim import claim_all
from poundlock.runtime.core import Core
from poundlock.runtime.driver import release_runs, take_up, unknown
from poundlock.runtime.returning import promote


@dataclass(frozen=True, slots=True)
class ReapStuck:
    """Drive again the runs of this runtime that nothing drives, and claim those that are ready or due.

    That is: runs that are running in the store and owned by this runtime, without a task here; runs that could not go
    on here, such as after a lasting fault of the store; and queued runs for which a slot is free. A run that is driven,
    paused, delayed, or queued behind others is unchanged.
    """


async def reap(core: Core, _command: ReapStuck) -> int:
    """Handle `ReapStuck`; returns how many runs were taken over. They are driven even if the caller is cancelled."""
    return await core.tasks.to_the_end(_reap(core))


async def _reap(core: Core) -> int:
    # One claim at a time: a run that is claimed but not adopted yet must not look like a run that nothing drives.
    async with core.claiming:
        take_up(core, await unknown(core))
        await release_runs(core, core.runs.without_task(), begun=True)
        await promote(core, core.working(), queued=True)
        return await claim_all(core)
