"""Aborting a run, wherever it is: running, ready, queued, delayed or paused."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

from poundlock.errors import InboxAhead, LeaseLost, RunDamaged, RunFinished, RunNotFound, StaleVersion
from poundlock.guard import Interruption
from poundlock.model.changes import Changes, Post, RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import UNDO_WAIT, VISIT_WAIT, LogRow, Message, RunRecord
from poundlock.pipeline.interrupting import interrupt
from poundlock.pipeline.memo import has_children
from poundlock.records import dataclass
from poundlock.runtime.children import commit_end, tell_parent
from poundlock.runtime.core import Core, log
from poundlock.runtime.damaged import is_set_aside
from poundlock.runtime.driver import start_promoted
from poundlock.runtime.healing import FAULTS, patiently
from poundlock.runtime.pending_hooks import pending_of
from poundlock.runtime.phases import Phase
from poundlock.runtime.returning import back_in_line
from poundlock.runtime.run_table import LiveRun
from poundlock.runtime.runs import ensure_written
from poundlock.runtime.settling import announce_end, announce_if_written, commit_leaving, leaving
from poundlock.runtime.transitions import ending, has_more_to_do
from poundlock.stores.answers import finished, not_found


@dataclass(frozen=True, slots=True)
class Cancel:
    """Abort a run. `by` says who requested it: "api", "replaced", "deregister" or a name."""

    run_id: str
    reason: str = ""
    by: str = "api"


async def cancel(core: Core, command: Cancel) -> None:
    """Handle `Cancel`. A run without a task is aborted when this returns, unless it has to undo stages first.

    For that one, and for a running one, the request is durable. A run that is undoing already is not stopped.

    Raises:
        RunNotFound: no such run.
        RunFinished: it completed or failed. Aborting an aborted run does nothing.
    """
    waited = -1
    while True:
        live = core.runs.driven(command.run_id)
        if live is not None and live.alive:
            await ensure_written(core, live)
        record = await core.store.load(command.run_id)
        if record is None:
            raise not_found(command.run_id)
        status = record.head.status
        if status is RunStatus.ABORTED:
            return
        if status.terminal:
            raise finished(command.run_id, status)
        lost = _undriven(core, record)
        if lost and waited < record.head.version:
            # The commit by which it goes on may be durable, and its answer on the way: then it is driven in a moment.
            waited = record.head.version
            await core.store.written_behind()
            continue
        lost = lost or is_set_aside(record.head)
        if not lost and any(row.wait_id == UNDO_WAIT for row in record.waits):
            return  # its end is decided, and its stages are being undone: see `undoing`
        try:
            if status is RunStatus.RUNNING and not lost:
                await core.tasks.to_the_end(_ask(core, command, asyncio.current_task()))
                record = await core.store.load(command.run_id)
                if record is not None and record.head.status is not RunStatus.RUNNING:
                    continue  # it was paused or ended before it saw the request
            else:
                await core.tasks.to_the_end(_end_unowned(core, command, record, lost=lost))
        except (StaleVersion, LeaseLost, InboxAhead):
            continue  # it changed between read and write: look again
        except RunFinished:
            continue
        return


async def cancel_child(core: Core, run_id: str, reason: str) -> None:
    """Abort a run because its parent does not need it any more. Raises as `cancel`."""
    await cancel(core, Cancel(run_id, reason, "parent"))


def _undriven(core: Core, record: RunRecord) -> bool:
    """Whether a running run is owned by this process, but no task here drives it or is about to."""
    if record.head.owner != core.worker:
        return False
    run_id = record.identity.run_id
    live = core.runs.live(run_id)
    if live is not None:
        return live.phase is Phase.DRIVING and not live.alive
    return core.runs.phase(run_id) in (Phase.STRANDED, Phase.ABSENT)


async def _ask(core: Core, command: Cancel, caller: asyncio.Task[Any] | None) -> None:
    """Make the request durable, then interrupt the run; `caller` is the task that requested it."""
    now = core.clock.now()
    body = {"reason": command.reason, "by": command.by}
    committed = await core.commit(Changes(posts=(Post(command.run_id, "abort", body, now),), now=now))
    _tell(core, command, Message(command.run_id, committed.posted[0], "abort", now, body, None), caller)
    core.wake_at(now)  # it may rest by now: then it is due, and the caller that would look at it may have gone away


def interrupt_replaced(core: Core, command: Cancel) -> bool:
    """Interrupt a run, if it is driven here, whose abort another commit has requested and delivered; whether it is."""
    live = core.runs.driven(command.run_id)
    if live is None or not live.alive:
        return False
    _interrupt(core, command, asyncio.current_task())
    return True


def _tell(core: Core, command: Cancel, request: Message, caller: asyncio.Task[Any] | None) -> None:
    """Interrupt the run, if it is driven here, with a request that is durable."""
    core.runs.deliver(request)
    _interrupt(core, command, caller)


def _interrupt(core: Core, command: Cancel, caller: asyncio.Task[Any] | None) -> None:
    live = core.runs.driven(command.run_id)
    if live is None or live.task is None or live.task is caller or live.run.undoing is not None:
        return  # a step that aborts its own run is not interrupted; the run sees the request at the step's end
    # While no user code runs, the run checks for requests itself; a commit in flight must not be interrupted.
    if core.inside == command.run_id:
        live.run.spared = (*live.run.spared, caller)  # likewise, if it is one of several
    interrupt(live.run, live.task, Interruption.ABORT)
    _insist_later(core, live, command)


def _insist_later(core: Core, live: LiveRun, command: Cancel) -> None:
    """End a run whose step swallows its cancellation: after the grace its task is left behind, fenced off."""
    task = live.task
    assert task is not None  # noqa: S101 - checked by `_ask`

    def give_up() -> None:
        core.tasks.spawn(_leave_behind(core, live, command))

    timer = core.clock.call_later(core.abort_grace, give_up)
    task.add_done_callback(lambda _: timer.cancel())


async def _leave_behind(core: Core, live: LiveRun, command: Cancel) -> None:
    """Write the end of a run whose task does not react; in any case those who wait for it are notified."""
    what = f"leaving run '{command.run_id}' behind"
    over = True
    try:
        while not await patiently(core, lambda: _left_behind(core, live, command), what):
            pass  # it changed between read and write: look again
        over = not core.runs.is_current(live)  # else the run is paused or has ended, and its task ends by itself
    finally:
        core.tasks.keep(live.task)
        if over and live.left is not None and not live.left.done():
            live.left.set_result(None)


async def _left_behind(core: Core, live: LiveRun, command: Cancel) -> bool:
    """Try to end it; False if this has to be repeated."""
    record = await core.store.load(command.run_id)
    if (
        live.run.undoing is not None
        or not core.runs.is_current(live)
        or record is None
        or record.head.status is not RunStatus.RUNNING
    ):
        return True  # its task is ending after all
    if record.head.owner != core.worker:
        core.runs.drop_current(live)
        return True
    log.warning("run '%s' did not react to its abort within %g s: left behind", command.run_id, core.abort_grace)
    try:
        await _end_unowned(core, command, record)
    except (StaleVersion, LeaseLost, InboxAhead):
        return False
    return True


async def _end_unowned(core: Core, command: Cancel, record: RunRecord, *, lost: bool = False) -> None:
    """End a run without a task, or that does not react; what it has to undo first, it does in a new task.

    `lost`: it could not be driven here, so it would not come to an end.
    """
    if lost or not await has_more_to_do(core, record):
        # First: a crash in between must not leave them without it. Their ends may move it; then it is looked at again.
        await _abort_children(core, command, record)
        await _abort_unowned(core, command, record)
        return
    identity, now = record.identity, core.clock.now()
    run_id, body = identity.run_id, {"reason": command.reason, "by": command.by}
    moves: tuple[RunMove, ...] = ()
    if record.head.status is not RunStatus.READY:
        moves = (back_in_line(core, identity, RunMove.of(record, RunStatus.READY, now=now)),)
    committed = await core.commit(Changes(moves=moves, posts=(Post(run_id, "abort", body, now),), now=now))
    if moves:
        core.runs.drop(run_id)
    core.wake_at(now)
    # It may have been claimed here while the request was on its way.
    _tell(core, command, Message(run_id, committed.posted[0], "abort", now, body, None), None)


async def _abort_children(core: Core, command: Cancel, record: RunRecord) -> None:
    """Abort the children of a run that could not do that itself."""
    if not has_children(record.waits):
        return
    visit = next((row for row in record.waits if row.wait_id == VISIT_WAIT), None)
    from poundlock.pipeline.children import started  # most runs have none

    rows: list[LogRow] = []
    with suppress(RunDamaged):  # then nobody knows which they are
        rows = await core.store.history(command.run_id)
    for run_id in started(rows, visit):
        with suppress(RunFinished, RunNotFound):
            await cancel(core, Cancel(run_id, "the run that started it was aborted", command.by))


async def _abort_unowned(core: Core, command: Cancel, record: RunRecord) -> None:
    """Write the end of a run without an owner task, on its version."""
    identity, head = record.identity, record.head
    move = await ending(core, record, reason=command.reason, by=command.by)
    queued = head.status is RunStatus.QUEUED
    if queued or head.slot is True:  # one that waits for a slot is taken out of its line by the store
        entry = core.entries.get(identity.workflow_id)
        move = move._replace(release=leaving(core, entry, identity, queued=queued))
    pending = pending_of(core, identity)
    commit = partial(commit_leaving, core, pending=pending)
    try:
        if identity.parent_id is None:
            committed, notice = await commit(move), None
        else:
            committed, notice = await commit_end(core, identity, move, pending, commit)
    except FAULTS:
        announce_if_written(core, move)
        raise
    if notice is not None:
        tell_parent(core, notice)
    start_promoted(core, committed.promoted)
    await asyncio.wait([announce_end(core, move)])
