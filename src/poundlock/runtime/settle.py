"""The end of a run, and every other way it stops being driven: one commit, then hooks, in the documented order.

(1) one commit with the final status, the freed slot and the promotion of the next run; (2) `on_complete(result)`;
(3) the container is closed and the registry pruned; (4) `on_cleanup()`; then those who wait are answered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from poundlock.codecs import dump
from poundlock.model.changes import Changes, Release
from poundlock.model.lifecycle import RunStatus, check_move
from poundlock.model.runs import RunError, RunIdentity
from poundlock.pipeline.outcome import Aborted, Completed, Delayed, Failed, Outcome, Paused
from poundlock.runtime.core import Core, LiveRun
from poundlock.runtime.equipment import note_exports
from poundlock.runtime.registration import call_hook, close_container
from poundlock.runtime.views import aborted_error, result_of
from poundlock.runtime.waiters import own_copy

if TYPE_CHECKING:
    from poundlock.runtime.registration import Registered

_RUNNING, _READY, _COMPLETED = RunStatus.RUNNING, RunStatus.READY, RunStatus.COMPLETED
_PAUSED, _DELAYED = RunStatus.PAUSED, RunStatus.DELAYED


async def settle(core: Core, live: LiveRun, outcome: Outcome) -> tuple[str, ...]:
    """Commit what driving a run came to, and return the runs that this promoted.

    Raises:
        InboxAhead: messages came that the run has not seen; nothing was written.
        LeaseLost, StaleVersion: the run belongs to somebody else now.
    """
    run = live.run
    if live.creation is not None:
        await asyncio.shield(live.creation)
    status, wake_at, record = _head_of(outcome)
    check_move(_RUNNING, status)
    keeps_slot = run.slot and not status.terminal and (status is _READY or live.entry.mode.holds_slot_while_paused)
    if status is _PAUSED or status is _DELAYED:
        note_exports(core, live.entry.services, run)
    changes = run.changes(status, wake_at=wake_at, outcome=record, slot=keeps_slot, guard_inbox=status is not _READY)
    if run.slot and not keeps_slot:
        promoted = await commit_freeing(core, live.entry, run.identity, changes, freed=True)
    else:
        promoted = (await core.store.commit(changes)).promoted
    core.committed(run, changes)
    return promoted


async def commit_freeing(
    core: Core,
    entry: Registered | None,
    identity: RunIdentity,
    changes: Changes,
    *,
    freed: bool = False,
    unqueued: bool = False,
) -> tuple[str, ...]:
    """Commit changes that take a run out of its load, promoting whoever may start then.

    An end is never refused because others came or went meanwhile.

    Args:
        entry: the run's workflow; None if it is not registered here: then nobody is promoted by this process.
        identity: whose load.
        changes: what else is committed.
        freed: the run gives its slot back.
        unqueued: the run leaves the queue.
    """
    if identity.load_key is None or not (freed or unqueued):
        return (await core.store.commit(changes)).promoted
    pair = (identity.workflow_id, identity.load_key)
    run_id = identity.run_id
    slots = 1 if entry is None else entry.mode.slots
    # Of a workflow that is being taken out, nobody is started any more.
    owner = core.worker if entry is not None and not entry.closing else None
    changes.releases = (Release(*pair, run_id, unqueued, slots, owner),)
    # Read only so that those who decide next know what this comes to.
    [(load, token)] = await core.loads.read([pair])
    after, _ = load.left(run_id, slots, queued=unqueued)
    line = core.loads.submitted(pair, after, None if token is None or after.idle else token.next())
    applied = False
    try:
        promoted = (await core.store.commit(changes)).promoted
        applied = True
    finally:
        core.loads.settled(line, applied=applied)
    return promoted


async def finish(core: Core, live: LiveRun, outcome: Outcome) -> None:
    """Do what follows the commit: hooks, closing, pruning, answering. The order is part of the contract."""
    run, hooks = live.run, live.entry.hooks
    run_id = run.identity.run_id
    status = run.status
    core.count(status._value_)
    ended = status.terminal
    replaced = False
    # As it stands now: while hooks are called, or its services closed, the run may be resumed.
    result = result_of(core, run, status, outcome) if hooks.on_complete or core.waiters.anybody(run_id) else None
    try:
        if ended and hooks.on_complete is not None and result is not None:
            await call_hook(live.entry, "on_complete", own_copy(result))
        if run.container is not None:
            await close_container(live)
        mine = core.live.get(run_id) is live  # it may have been resumed by now, and then it is another one's
        replaced = not mine and not ended
        if ended and hooks.on_cleanup is not None:
            core.own(live.task)
        if mine:
            del core.live[run_id]
            if status is _PAUSED or status is _DELAYED:
                core.keep_parked(live)
        if ended and hooks.on_cleanup is not None:
            await call_hook(live.entry, "on_cleanup")
    finally:
        if not replaced:  # who waits for a run that goes on already is answered when it rests again
            # What came of the run is durable, whatever interrupts its hooks.
            if result is None and core.waiters.anybody(run_id):
                result = result_of(core, run, status, outcome)
            if result is not None:
                core.waiters.answer(result)


def _head_of(outcome: Outcome) -> tuple[RunStatus, float | None, str | None]:
    """Return the status, wake time and recorded outcome a run gets."""
    if type(outcome) is Completed:  # mostly; matching patterns takes a while
        return _COMPLETED, None, None if outcome.result is None else dump({"result": outcome.result})
    match outcome:
        case Paused(wait):
            return _PAUSED, wait.expires_at, None
        case Delayed(until):
            return _DELAYED, until, None
        case Failed(error):
            return RunStatus.FAILED, None, outcome_text(error)
        case Aborted(reason, by):
            return RunStatus.ABORTED, None, outcome_text(aborted_error(reason, by))
        case _:  # released
            return _READY, None, None


def outcome_text(error: RunError) -> str:
    """Return an error as a run's head records it."""
    return dump({"error": _plain(error)})


def _plain(error: RunError) -> dict[str, str | None]:
    return {
        "type": error.type,
        "message": error.message,
        "code": error.code,
        "stage": error.stage,
        "step": error.step,
        "traceback": error.traceback,
    }
