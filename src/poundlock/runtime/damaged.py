"""Runs of which what is stored is damaged: they are paused with that as their error, so that nothing waits for them.

They are tried again when their workflow is registered next, as all runs that are paused with an error: the file may
have been restored by then.
"""

from __future__ import annotations

from poundlock.errors import LeaseLost, PoundlockError, RunDamaged, StaleVersion
from poundlock.model.changes import RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import RunHead
from poundlock.pipeline.outcome import run_error
from poundlock.runtime.core import Core, log
from poundlock.runtime.healing import patiently
from poundlock.runtime.reading import outcome_of
from poundlock.runtime.settling import commit_leaving, leaving
from poundlock.runtime.transitions import outcome_text


async def set_aside(core: Core, run_id: str, damage: RunDamaged) -> tuple[str, ...]:
    """Pause a run that nobody drives, and return the runs that this promotes; those who wait for it get the damage."""
    try:
        return await patiently(core, lambda: _set_aside(core, run_id, damage), f"setting run '{run_id}' aside")
    except PoundlockError as error:
        # Its record is damaged as well: it stays as it is, and keeps no other from going on.
        log.error("run '%s' cannot be set aside: %s", run_id, error)
        return ()


async def _set_aside(core: Core, run_id: str, damage: RunDamaged) -> tuple[str, ...]:
    while True:
        record = await core.store.load(run_id)
        if record is None or not _nobodys(core, record.head):
            return ()
        identity, head, _ = record
        error = run_error(damage, head.stage, None)
        move = RunMove.of(record, RunStatus.PAUSED, now=core.clock.now(), outcome=outcome_text(error))
        entry = core.entries.get(identity.workflow_id)
        if head.slot is True and entry is not None and not entry.mode.holds_slot_while_paused:
            move = move._replace(slot=False, release=leaving(core, entry, identity))
        try:
            committed = await commit_leaving(core, move)
        except (StaleVersion, LeaseLost):
            continue  # it was aborted meanwhile, for one
        core.runs.drop(run_id)
        log.error("run '%s' is paused, as it cannot go on: %s", run_id, damage)
        core.count("damaged")
        core.waiters.fail(run_id, damage)
        await _abort_if_asked(core, run_id)
        return committed.promoted


async def _abort_if_asked(core: Core, run_id: str) -> None:
    """Abort a run whose abort was requested before it was known that it cannot see to that itself."""
    for message in await core.store.inbox(run_id, 0):
        if message.kind == "abort":
            await core.abort(run_id, (message.body or {}).get("reason", ""))
            return


def _nobodys(core: Core, head: RunHead) -> bool:
    """Whether a run can be paused from here: it has no owner that drives it, and has not ended."""
    if head.status is RunStatus.RUNNING:
        return head.owner == core.worker
    return not head.status.terminal and head.status is not RunStatus.QUEUED


def is_set_aside(head: RunHead) -> bool:
    """Whether a run is paused because it is damaged."""
    error = outcome_of(head.outcome)[1] if head.status is RunStatus.PAUSED else None
    return error is not None and error.code == RunDamaged.code
