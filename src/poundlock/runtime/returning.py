"""Runs that go on after they had given their slot back: they take one that is free, or wait in line for one.

The line of a (workflow, key) comes before its queue of new runs, and is first in, first out. A run in it is `ready`
with `NEEDS_SLOT`, so no claim takes it; whatever frees a slot promotes it, as it promotes queued runs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from poundlock.model.changes import Changes, Promotion, RunMove
from poundlock.model.runs import RunIdentity
from poundlock.runtime.core import Core
from poundlock.runtime.entries import slots_of

_AT_ONCE: Final = 64
"""Loads that are looked after in one commit."""


def back_in_line(core: Core, identity: RunIdentity, move: RunMove) -> RunMove:
    """Return a move by which a run becomes active again if it gets a slot, and otherwise waits in line for one.

    Every way in which a run that holds no slot goes on takes its move through this: an answer by hand, another
    definition, an end that has stages to undo. The run comes behind those that returned before it, and before all
    queued ones. The store decides in the commit of the move (`Load.returned`).

    How to use it:

    1. Make the move as if there were a slot: `running` with `core.worker` as its owner and a new epoch, or `ready`
       without an owner, to be claimed.
    2. Pass it through this function and commit it, alone or in `Changes`.
    3. If the run's id is in `Committed.waiting`, it has become `ready` and waits: call `core.waits_for_slot(run_id)`
       and do not drive it: that is done once it is promoted. If not, it is as the move says: drive it, or have it
       claimed.

    A run that holds its slot, or counts in no load, does not wait; its move is returned unchanged.
    """
    if identity.load_key is None or move.slot is True:
        return move
    return move._replace(slot=True, slots=slots_of(core.entries.get(identity.workflow_id)))


async def promote(core: Core, workflows: Collection[str], *, queued: bool) -> None:
    """Give free slots to runs that wait for one, where no commit has done that: they become `ready`, to be claimed.

    That is so where a process that does not know the workflow resumed them, or ended a run; and where the mode has more
    slots than before.

    Args:
        core: of the runtime.
        workflows: whose runs; those that are not registered here are left alone.
        queued: whether to look at all loads with queued runs too, not only at those with resumed ones.
    """
    loads = await core.store.waiting_loads(workflows, queued)
    free = [
        Promotion(*pair, slots, None)
        for pair, load in loads
        if load.active < (slots := slots_of(core.entries.get(pair[0]))) and core.pause_of(pair[0]) is None
    ]
    for start in range(0, len(free), _AT_ONCE):
        portion = tuple(free[start : start + _AT_ONCE])
        await core.commit(Changes(promotions=portion, now=core.clock.now()))
