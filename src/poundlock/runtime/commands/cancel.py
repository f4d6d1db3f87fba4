"""Aborting a run, wherever it is: running, ready, queued, delayed or paused."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from poundlock.errors import InboxAhead, LeaseLost, RunFinished, StaleVersion
from poundlock.model.changes import Changes, Post
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import Message, RunRecord
from poundlock.runtime.commands.execute import start_promoted
from poundlock.runtime.core import Core, LiveRun, log
from poundlock.runtime.registration import call_hook, close_container
from poundlock.runtime.runs import ensure_written
from poundlock.runtime.settle import commit_freeing
from poundlock.runtime.supersede import ending
from poundlock.runtime.views import result_of_checkpoint
from poundlock.stores.answers import finished, not_found


@dataclass(frozen=True, slots=True)
class Cancel:
    """Abort a run. `by` says who asked: "api", "replaced", "deregister" or a name."""

    run_id: str
    reason: str = ""
    by: str = "api"


async def cancel(core: Core, command: Cancel) -> None:
    """Handle `Cancel`. A run nobody drives is aborted when this returns; a running one has its request durable.

    Raises:
        RunNotFound: no such run.
        RunFinished: it completed or failed. Aborting an aborted run does nothing.
    """
    while True:
        live = core.live.get(command.run_id)
        if live is not None:
            await ensure_written(core, live)
        record = await core.store.load(command.run_id)
        if record is None:
            raise not_found(command.run_id)
        status = record.head.status
        if status is RunStatus.ABORTED:
            return
        if status.terminal:
            raise finished(command.run_id, status)
        try:
            if status is RunStatus.RUNNING:
                await _ask(core, command)
                record = await core.store.load(command.run_id)
                if record is not None and record.head.status is not RunStatus.RUNNING:
                    continue  # it came to rest before it could hear of the request
            else:
                await core.to_the_end(_abort_unowned(core, command, record))
        except (StaleVersion, LeaseLost, InboxAhead):
            continue  # it moved between reading and writing: look again
        except RunFinished:
            continue
        return


async def _ask(core: Core, command: Cancel) -> None:
    """Make the request durable, then interrupt the run."""
    now = core.clock.now()
    body = {"reason": command.reason, "by": command.by}
    committed = await core.store.commit(Changes(posts=(Post(command.run_id, "abort", body, now),), now=now))
    core.tell(Message(command.run_id, committed.posted[0], "abort", now, body, None))
    live = core.live.get(command.run_id)
    if live is not None and live.task is not None and live.task is not asyncio.current_task():
        # Where no user code runs, the run looks for requests itself; a commit on its way must not be interrupted.
        if live.run.interruptible:
            live.task.cancel()
        _insist_later(core, live, command)


def _insist_later(core: Core, live: LiveRun, command: Cancel) -> None:
    """End a run whose step swallows its cancellation: after the grace its task is left behind, fenced off."""
    task = live.task
    assert task is not None  # noqa: S101 - checked by `_ask`

    def give_up() -> None:
        core.spawn(_leave_behind(core, live, command))

    timer = core.clock.call_later(core.abort_grace, give_up)
    task.add_done_callback(lambda _: timer.cancel())


async def _leave_behind(core: Core, live: LiveRun, command: Cancel) -> None:
    record = await core.store.load(command.run_id)
    if core.live.get(command.run_id) is not live or record is None or record.head.status is not RunStatus.RUNNING:
        return
    log.warning("run '%s' did not react to its abort within %g s: left behind", command.run_id, core.abort_grace)
    try:
        await _abort_unowned(core, command, record)
    except (StaleVersion, LeaseLost, InboxAhead):
        return  # it reached a boundary after all, where the request waits for it
    if live.left is not None and not live.left.done():
        live.left.set_result(None)


async def _abort_unowned(core: Core, command: Cancel, record: RunRecord) -> None:
    """Write the end of a run that nobody drives, on its version."""
    identity, head = record.identity, record.head
    move = await ending(core, record, reason=command.reason, by=command.by)
    promoted = await commit_freeing(
        core,
        core.entries.get(identity.workflow_id),
        identity,
        Changes(moves=(move,), now=move.updated_at),
        freed=head.slot,
        unqueued=head.status is RunStatus.QUEUED,
    )
    start_promoted(core, promoted)
    await tell_end(core, identity.run_id)


async def tell_end(core: Core, run_id: str) -> None:
    """Hooks and answers for a run that ended without being driven."""
    live = core.live.pop(run_id, None) or core.unpark(run_id)
    checkpoint = await core.store.checkpoint(run_id)
    if checkpoint is None:
        return
    result = result_of_checkpoint(core, checkpoint)
    core.count(str(RunStatus.ABORTED))
    core.want(run_id, [])
    entry = core.entries.get(result.workflow_id)
    if entry is not None:
        await call_hook(entry, "on_complete", result)
        if live is not None:
            await close_container(live)
        await call_hook(entry, "on_cleanup")
    core.waiters.answer(result)
