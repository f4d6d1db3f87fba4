"""Taking over runs nobody drives: recovered after a crash, given back, or due."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from poundlock.errors import LeaseLost, StaleVersion
from poundlock.model.changes import Changes
from poundlock.model.lifecycle import RunStatus
from poundlock.runtime.core import Core
from poundlock.runtime.driver import adopt
from poundlock.runtime.transitions import given_back

_BATCH = 100


@dataclass(frozen=True, slots=True)
class Claim:
    """Take over what is ready or due, of the workflows registered here.

    `stranded`: also what this process owns but could not go on with, because its store failed.
    """

    stranded: bool = False


async def claim(core: Core, command: Claim) -> int:
    """Handle `Claim`; returns how many runs were taken over."""
    taken = 0
    if command.stranded:
        await _give_back(core)
    while core.accepting and core.entries:
        workflows = {entry.id for entry in core.entries.values() if not entry.closing}
        claims = await core.store.claim(core.worker, workflows, core.clock.now(), _BATCH)
        for claimed in claims:
            adopt(core, claimed.checkpoint, recovered=claimed.recovered, delayed=claimed.delayed)
        taken += len(claims)
        if len(claims) < _BATCH:
            break
    return taken


async def _give_back(core: Core) -> None:
    """Make stranded runs `ready`, under a new epoch, so that they are claimed like those of a dead owner.

    Those that were only never heard of were not begun: taking them up is no recovery.
    """
    await core.store.written_behind()
    for run_id in [*core.stranded, *core.unheard]:
        record = await core.store.load(run_id)
        live = core.live.get(run_id)
        if live is not None and record is not None and live.run.epoch == record.head.epoch:
            pass  # it was only feared to be without a driver; one of an older epoch is on its way out
        elif record is not None and record.head.owner == core.worker and record.head.status is RunStatus.RUNNING:
            try:
                move = given_back(record, core.clock.now(), begun=run_id in core.stranded)
                await core.store.commit(Changes(moves=(move,)))
            except (StaleVersion, LeaseLost):
                continue  # somebody drives it after all
        core.stranded.discard(run_id)
        core.unheard.discard(run_id)


def take_up(core: Core, run_ids: Iterable[str]) -> None:
    """Have runs claimed that a commit may have made ours, because nobody heard what it came to."""
    core.unheard.update(run_ids)
    core.spawn(_take_up(core))


async def _take_up(core: Core) -> None:
    await claim(core, Claim(stranded=True))
