"""What is said of a run that waits for a slot: how many there are, who holds them, and who else waits."""

from __future__ import annotations

from typing import Final

from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import NEEDS_SLOT, RunHead, RunQuery
from poundlock.runtime.core import Core

LOOKED_AT: Final = 500
"""Runs of a workflow that are looked at, the newest ones."""
_NAMED: Final = 3
_HOLDING: Final = (RunStatus.RUNNING, RunStatus.READY, RunStatus.PAUSED, RunStatus.DELAYED)

Pair = tuple[str, str]


def waits_for_slot(head: RunHead) -> bool:
    """Whether a run goes on only with a slot that it does not have."""
    return head.status is RunStatus.QUEUED or head.slot == NEEDS_SLOT


async def line_told(core: Core, pair: Pair) -> str:
    """Return why a run of a (workflow, key) waits for a slot; empty if one is free.

    It is as of the last commits: a slot may be given back at any moment.
    """
    workflow_id, load_key = pair
    entry = core.entries.get(workflow_id)
    [(load, _)] = await core.loads.read([pair])
    if not load.active or (entry is not None and load.active < entry.mode.slots):
        return ""
    page = await core.store.find(RunQuery(workflow=workflow_id, status=_HOLDING, limit=LOOKED_AT))
    holding = [
        f"run {record.identity.run_id} ({record.head.status})"
        for record in page.items
        if record.identity.load_key == load_key and record.head.slot is True
    ]
    named = holding[:_NAMED]
    if load.active > len(named) and named:
        named.append(f"{load.active - len(named)} more")
    of_all = "" if entry is None else f" of {entry.mode.slots}"
    taken = f"{load.active}{of_all} taken" + (f" by {', '.join(named)}" if named else "")
    others = []
    if load.returning:
        others.append(f"{load.returning} resumed")
    if load.queued:
        others.append(f"{load.queued} queued")
    return f"waits for a slot: {taken}" + (f"; {' and '.join(others)} in line" if others else "")
