"""The end or pause of a run, or its release: one commit, then hooks, in the documented order.

(1) one commit with the final status, the freed slot and the promotion of the next run; (2) `on_complete(result)`;
(3) the container is closed and the registry pruned; (4) `on_cleanup()`; then those who wait are answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from poundlock.clock import timeout_after
from poundlock.codecs import dump
from poundlock.errors import PoundlockError, RunAborted, RunDamaged, RuntimeStopped
from poundlock.guard import Interruption, clear_cancellation
from poundlock.model.calls import with_sums
from poundlock.model.changes import Committed, Release, RunCreate, RunMove, Token, Work
from poundlock.model.drafts import new_tuple
from poundlock.model.lifecycle import RunStatus, check_move
from poundlock.model.modes.decisions import Load
from poundlock.model.runs import OPERATOR_WAIT, Checkpoint, RunError, RunIdentity, RunResult
from poundlock.pipeline import operator_pausing
from poundlock.pipeline.deadline import rests
from poundlock.pipeline.interrupting import interrupt
from poundlock.pipeline.memo import has_children
from poundlock.pipeline.outcome import (
    Aborted,
    Completed,
    Delayed,
    Failed,
    Halted,
    Outcome,
    Paused,
    failure_of_outcome,
)
from poundlock.pipeline.writing import boundary_of, take_commit
from poundlock.ports import AtHand
from poundlock.runtime.children import commit_end, tell_parent_again
from poundlock.runtime.core import Core, log
from poundlock.runtime.entries import Registered, call_hook
from poundlock.runtime.equipment import close_container, container_of_ended, dispose, note_exports
from poundlock.runtime.healing import (
    FAULTS,
    REPEATED,
    again,
    find_promoted,
    is_written,
    notify,
    patiently,
    read_checkpoint,
)
from poundlock.runtime.hooks import BoundHooks
from poundlock.runtime.pending_hooks import at_end, begin, end, ending, uncalled, with_pending
from poundlock.runtime.phases import Phase
from poundlock.runtime.reading import aborted_error, result_of, result_of_checkpoint, waits_now
from poundlock.runtime.run_table import LiveRun
from poundlock.runtime.transitions import outcome_text
from poundlock.runtime.waiters import Waiter, give_up, own_copy, resolve
from poundlock.stores.answers import not_found

if TYPE_CHECKING:  # heavy, and needed for a type alone
    from poundlock.artifacts import ArtifactContainer

_RUNNING, _READY, _COMPLETED = RunStatus.RUNNING, RunStatus.READY, RunStatus.COMPLETED
_PAUSED, _DELAYED = RunStatus.PAUSED, RunStatus.DELAYED
_NO_HOOKS = BoundHooks()


async def settle(core: Core, live: LiveRun, outcome: Outcome) -> tuple[str, ...]:
    """Commit the outcome of driving a run, and return the runs that this promoted. Retries while the store fails.

    Raises:
        InboxAhead: messages came that the run has not seen; nothing was written.
        LeaseLost, StaleVersion: the run has another owner now.
    """
    run = live.run
    while live.creation is not None:  # after one that failed there may be another
        await asyncio.wait([live.creation])  # `written` has the result
    status, wake_at, record = _head_of(outcome)
    if status is _READY:
        wake_at = run.wake_at  # if it has not come to a boundary, this is why it goes on
    check_move(_RUNNING, status)
    if run.reports is not None and status.terminal:
        record = with_sums(record, run.reports.calls)
    keeps_slot = run.slot and not status.terminal and (status is _READY or live.entry.mode.holds_slot_while_paused)
    if status is _PAUSED or status is _DELAYED:
        note_exports(core, live.entry.services, run)
        if run.plan.limit is not None:
            wake_at = rests(run, outcome, wake_at)
        if run.pausing:
            in_between = type(outcome) is Paused and outcome.wait.wait_id == OPERATOR_WAIT
            status, wake_at = operator_pausing.rests(run, status, wake_at, in_between=in_between)

    guarded = status is not _READY
    release = leaving(core, live.entry, run.identity) if run.slot and not keeps_slot else None
    work = boundary_of(
        run, status, wake_at=wake_at, outcome=record, slot=keeps_slot, guard_inbox=guarded, release=release
    )
    pending = (run.run_id,) if status.terminal and at_end(live.entry.hooks) else ()
    of_parent = status.terminal and run.identity.parent_id is not None
    try:
        answer = _commit_of_child(core, live, work, pending) if of_parent else commit_leaving(core, work, pending)
        promoted = (answer if isinstance(answer, Committed) else await answer).promoted
    except FAULTS as fault:
        propose = partial(
            boundary_of,
            run,
            status,
            wake_at=wake_at,
            outcome=record,
            slot=keeps_slot,
            guard_inbox=guarded,
            release=release,
        )
        work, promoted = await _settle_again(core, live, fault, work, propose, pending)
    take_commit(run, work)
    if type(work) is RunCreate:
        core.runs.written(run.run_id)
    return promoted


async def _settle_again(
    core: Core,
    live: LiveRun,
    fault: PoundlockError,
    work: RunMove | RunCreate,
    propose: Callable[[], RunMove | RunCreate],
    pending: tuple[str, ...],
) -> tuple[RunMove | RunCreate, tuple[str, ...]]:
    """Retry a commit that failed in the store; returns what was committed in the end, and the promoted runs."""
    run = live.run

    async def commit() -> tuple[RunMove | RunCreate, tuple[str, ...]]:
        # It may have been stored meanwhile, because of a message to it.
        while live.creation is not None:
            await asyncio.wait([live.creation])
        now = propose() if type(work) is RunCreate and run.written else work
        ends = now.start if isinstance(now, RunCreate) else now
        of_parent = ends.status.terminal and run.identity.parent_id is not None
        try:
            committed = _commit_of_child(core, live, now, pending) if of_parent else commit_leaving(core, now, pending)
            return now, (await committed).promoted
        except REPEATED:
            if not await is_written(core, now):
                raise
        if of_parent:
            core.tasks.spawn(tell_parent_again(core, run.identity))
        return now, ()  # those it promoted are looked for

    return await again(core, fault, commit, f"run '{run.run_id}'", partial(notify, core, run))


async def _commit_of_child(core: Core, live: LiveRun, work: RunMove | RunCreate, pending: tuple[str, ...]) -> Committed:
    """Commit the end of a run that another one may wait for."""
    commit = partial(commit_leaving, core, pending=pending)
    committed, live.notice = await commit_end(core, live.run.identity, work, pending, commit)
    return committed


def leaving(core: Core, entry: Registered | None, identity: RunIdentity, *, queued: bool = False) -> Release | None:
    """Return how a run leaves its load; None if it counts in none.

    Args:
        core: of the runtime.
        entry: the run's workflow; None if it is not registered here: then this process promotes no run.
        identity: of the run.
        queued: it leaves the queue; otherwise it releases its slot.
    """
    load_key = identity.load_key
    if load_key is None:
        return None
    slots = 1 if entry is None else entry.mode.slots
    if core.pauses and core.pause_of(identity.workflow_id) is not None:
        slots = 0  # no queued run is started
    # While the workflow is being deregistered, or the runtime stops, no run is started any more.
    owner = core.worker if entry is not None and not entry.closing and not core.ending else None
    return new_tuple(Release, (identity.workflow_id, load_key, identity.run_id, queued, slots, owner))


def commit_leaving(core: Core, work: RunMove | RunCreate, pending: tuple[str, ...] = ()) -> Awaitable[Committed]:
    """Commit what may take a run out of its load; the answer names the runs that may start then.

    An end is never refused because of other changes of the load. `pending`: the run, if its hooks are pending then.
    """
    if pending:
        return _ending(core, work, pending)
    return _commit(core, work, work.release if type(work) is RunMove else None)


async def _ending(core: Core, work: RunMove | RunCreate, pending: tuple[str, ...]) -> Committed:
    release = work.release if isinstance(work, RunMove) else None
    with ending(core, pending):
        return await _commit(core, with_pending(work, pending), release)


def _commit(core: Core, work: Work, release: Release | None) -> Awaitable[Committed]:
    if release is None:
        return core.commit(work)
    # Read only so that the next decisions know the load after this.
    loads = core.loads.read([release[:2]])
    if not isinstance(loads, AtHand):
        return _read_and_left(core, work, release, loads)
    try:
        answer = core.commit(work)
    except FAULTS:
        find_promoted(core, release)
        raise
    # Where there is nothing to wait for, nobody can decide meanwhile.
    return answer if isinstance(answer, Committed) else _left(core, release, loads[0], answer)


async def _read_and_left(
    core: Core, work: Work, release: Release, loads: Awaitable[list[tuple[Load, Token | None]]]
) -> Committed:
    [loaded] = await loads
    return await _left(core, release, loaded, core.commit(work))


async def _left(
    core: Core, release: Release, loaded: tuple[Load, Token | None], answer: Awaitable[Committed]
) -> Committed:
    """Wait for the commit of a release; meanwhile others see the load as it will be."""
    load, token = loaded
    after = load.left(release.run_id, release.slots, queued=release.queued).load
    following = None if token is None or after.idle else token.next(release.run_id)
    line = core.loads.submitted((release.workflow_id, release.load_key), after, following)
    if load.returning:
        line.broken = True  # which run is going to be active is not known here
    applied = False
    try:
        committed = await answer
        applied = True
    except FAULTS:
        find_promoted(core, release)
        raise
    finally:
        core.loads.settled(line, applied=applied)
    return committed


def log_failure(identity: RunIdentity, error: RunError | None) -> None:
    """Log that a run has failed, once its end is durable. All values here are text, so it never raises."""
    if error is None:
        return
    place = f" in stage '{error.stage}'" if error.stage is not None else ""
    if error.step is not None:
        place += f", step '{error.step}'" if error.stage is not None else f" in {error.step}"
    log.error(
        "run '%s' of workflow '%s' failed%s: %s%s",
        identity.run_id,
        identity.workflow_id,
        place,
        error,
        f"\n{error.traceback.rstrip()}" if error.traceback else "",
    )


async def finish(core: Core, live: LiveRun, outcome: Outcome) -> None:
    """Do what follows the commit: hooks, closing, pruning, answering. The order is part of the contract.

    The outcome is durable. So no part of this may prevent the other parts or the
    answer: hooks and clean-ups are bounded and may raise anything, and a state may no longer fit its model.
    """
    run, hooks = live.run, live.entry.hooks
    run_id = run.run_id
    status = run.status
    core.count(status._value_)
    ended = status.terminal
    # As it is now: the run may be resumed while hooks are called or its services are closed.
    result = result_of(core, run, status, outcome) if hooks.on_complete or core.waiters.has_waiters(run_id) else None
    if result is not None and not ended and has_children(run.waits):
        with suppress(PoundlockError):  # the store fails: then it says what they waited for before
            result = await waits_now(core, result)
    pending = ended and begin(core, hooks, run_id)
    called = True
    if not ended or hooks.on_complete is not None or run.container is not None:
        if core.runs.is_current(live):
            core.runs.rest(live)
        if ended and hooks.on_complete is not None and result is not None:
            call = call_hook(core, live.entry, "on_complete", own_copy(result), services=run.services)
            called = await _part(core, call)
        if run.container is not None:
            await _part(core, close_container(core, live, failure_of_outcome(run, outcome)))
    run.failure = None
    # It may have been resumed by now, and then another task drives it.
    if ended or isinstance(outcome, Halted):  # a halted run is read again once it is mended
        current = core.runs.drop_current(live)
    elif live.outdated:  # resumed by an event meanwhile, and waits for a slot
        core.runs.drop_current(live)
        current = False
    elif current := core.runs.is_current(live):
        core.runs.park(live)
    if ended and hooks.on_cleanup is not None:
        core.tasks.keep(live.task)
        called = await _part(core, call_hook(core, live.entry, "on_cleanup")) and called
    if pending:
        await end(core, run_id, called=called)
    if live.awaited is not None:  # it was mended meanwhile: whoever has come since then waits for its next end
        resolve(live.awaited, result or result_of(core, run, status, outcome))
    elif current or ended:  # for a run that continues already, callers get their answer at its next pause or end
        if result is None and core.waiters.has_waiters(run_id):
            result = result_of(core, run, status, outcome)
        if result is not None:
            core.waiters.answer(result)


async def _part(core: Core, part: Coroutine[Any, Any, Any]) -> bool:
    """Do one part of what follows a commit; the others are done even if the task is cancelled in this one.

    Returns whether it was done to its end. Only for tasks of the runtime: in a caller's task it would take back a
    cancellation meant for the caller.
    """
    try:
        await part
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and not core.watch.ending:  # a loop that ends cancels once; the remaining parts are quick
            await clear_cancellation(task)
        return False
    return True


def announce_end(core: Core, move: RunMove) -> asyncio.Task[None]:
    """Call hooks and answer for a run that ended with this move, without being driven, in a task of the runtime.

    The end is committed, so neither a fault of the store nor the caller's cancellation may prevent this,
    and its errors are not the caller's: to wait for the task, use `asyncio.wait`.
    """
    run_id = move.run_id
    core.lost_ends.pop(run_id, None)  # it is announced here, once
    waiting = core.waiters.set_aside(run_id)  # whoever comes later may wait for another end
    task = core.tasks.spawn(_announce_end(core, move, waiting))
    core.announcing[run_id] = task

    def done(_: asyncio.Task[None]) -> None:
        if core.announcing.get(run_id) is task:
            del core.announcing[run_id]

    task.add_done_callback(done)
    return task


def announce_if_written(core: Core, move: RunMove) -> None:
    """Announce an end in the background, if it was written although the store gave no answer to its commit."""
    core.lost_ends[move.run_id] = move
    core.tasks.spawn(_announce_if_written(core, move))


async def _announce_if_written(core: Core, move: RunMove) -> None:
    run_id, what = move.run_id, f"reading run '{move.run_id}'"
    try:
        if await patiently(core, partial(is_written, core, move), what) and core.lost_ends.get(run_id) is move:
            announce_end(core, move)
            record = await patiently(core, partial(core.store.load, run_id), what)
            if record is not None:
                await tell_parent_again(core, record.identity)
    finally:
        if core.lost_ends.get(run_id) is move:
            del core.lost_ends[run_id]


async def _announce_end(core: Core, move: RunMove, waiting: list[Waiter]) -> None:
    run_id = move.run_id
    core.enter_run(run_id)
    core.queued.pop(run_id, None)
    try:
        checkpoint = await read_checkpoint(core, run_id)
    except BaseException as error:
        _drop_ended(core, move)
        stopped = RuntimeStopped(f"the runtime stopped before the end of run '{run_id}' was told", run_id=run_id)
        give_up(waiting, error if isinstance(error, Exception) else stopped)
        raise
    entry = _drop_ended(core, move)
    if checkpoint is None:
        give_up(waiting, not_found(run_id))
        return
    record = checkpoint.record
    if record.head.status.terminal:
        waiting += core.waiters.set_aside(run_id)  # some may have waited for a task that did not react
    else:  # it was retried or rerun since then
        head = replace(record.head, status=move.status, outcome=move.outcome, attempt=move.attempt)
        checkpoint = checkpoint._replace(record=record._replace(head=head))
    result = result_of_checkpoint(core, checkpoint)
    core.count(str(result.status))
    if run_id in core.wanted:
        core.want(run_id, [])
    workflow = core.entries.get(result.workflow_id)
    pending = begin(core, _NO_HOOKS if workflow is None else workflow.hooks, run_id)
    called = True
    try:
        if workflow is not None and workflow.hooks.on_complete is not None:
            called = await _call_on_complete(core, workflow, entry, checkpoint, result)
        if isinstance(entry, LiveRun):
            if entry.run.interruption is Interruption.LOST and entry.alive:
                await until_gone(core, entry)
            aborted = RunAborted(str(result.error or f"run '{run_id}' was aborted"), run_id=run_id)
            await _part(core, close_container(core, entry, aborted))
        if workflow is not None:
            called = await _part(core, call_hook(core, workflow, "on_cleanup")) and called
        if pending:
            await end(core, run_id, called=called)
    finally:
        resolve(waiting, result)


async def until_gone(core: Core, live: LiveRun) -> None:
    """Wait until the task of a run has ended, or does not react: what the run used is closed after that."""
    if live.task is None or live.task.done():
        return
    with suppress(TimeoutError):
        async with timeout_after(core.clock, core.abort_grace):
            await asyncio.wait([live.task])


def _drop_ended(core: Core, move: RunMove) -> object:
    """Forget a run that has ended, and return its entry; not one that goes on already."""
    live, parked = core.runs.live(move.run_id), core.runs.parked(move.run_id)
    epoch = live.run.epoch if live is not None else parked.head.epoch if parked is not None else 0
    if epoch > move.new_epoch:
        return None
    if live is not None and live.alive and live.phase is Phase.DRIVING and live.run.interruption is None:
        # Its task began while its end was being written: nobody has told it, and its step might never end.
        core.tasks.keep(live.task)
        interrupt(live.run, live.task, Interruption.LOST)
    return core.runs.drop(move.run_id)


def announce_found(core: Core, checkpoint: Checkpoint) -> None:
    """Call hooks and answer for a run that was found ended: whoever wrote that may not have heard of it."""
    run_id = checkpoint.record.identity.run_id
    if run_id not in core.announcing:
        core.tasks.spawn(_announce_found(core, checkpoint, core.waiters.set_aside(run_id)))


async def _announce_found(core: Core, checkpoint: Checkpoint, waiting: list[Waiter]) -> None:
    identity = checkpoint.record.identity
    entry = None if identity.run_id in core.lost_ends else core.entries.get(identity.workflow_id)
    try:
        if entry is not None and at_end(entry.hooks) and identity.run_id in await uncalled(core, entry):
            await call_pending(core, entry, identity.run_id, replayed=False)
    finally:
        resolve(waiting, result_of_checkpoint(core, checkpoint))


async def call_pending(core: Core, entry: Registered, run_id: str, *, replayed: bool = True) -> None:
    """Call the hooks of a run that ended before this runtime was started, or its workflow registered.

    `replayed`: they may have been called before.
    """
    core.enter_run(run_id)
    if not begin(core, entry.hooks, run_id):
        await end(core, run_id, called=True)  # the workflow has none any more
        return
    called = False
    try:
        try:
            checkpoint = await read_checkpoint(core, run_id)
        except RunDamaged as damage:
            log.error("the hooks of run '%s' stay pending: %s", run_id, damage)
            return
        called = True
        if checkpoint is None or not checkpoint.record.head.status.terminal:
            return  # it was deleted, or goes on: then its next end calls them
        result = result_of_checkpoint(core, checkpoint)
        if replayed:
            result = replace(result, metadata={**result.metadata, "replayed": True})
        if entry.hooks.on_complete is not None:
            called = await _call_on_complete(core, entry, None, checkpoint, result)
        called = await _part(core, call_hook(core, entry, "on_cleanup")) and called
    finally:
        await end(core, run_id, called=called)


async def _call_on_complete(
    core: Core, workflow: Registered, entry: object, checkpoint: Checkpoint, result: RunResult
) -> bool:
    """Call `on_complete` for a run that ended without being driven; its services are created if the hook needs any."""
    if isinstance(entry, LiveRun):
        call = call_hook(core, workflow, "on_complete", own_copy(result), services=entry.run.services)
        return await _part(core, call)
    made: list[ArtifactContainer] = []

    def services() -> ArtifactContainer:
        made.append(container_of_ended(core, workflow, checkpoint))
        return made[0]

    called = await _part(core, call_hook(core, workflow, "on_complete", own_copy(result), services=services))
    for container in made:
        await _part(core, dispose(core, container, result.run_id))
    return called


def _head_of(outcome: Outcome) -> tuple[RunStatus, float | None, str | None]:
    """Return the status, wake time and recorded outcome a run gets."""
    if type(outcome) is Completed:  # mostly; a match statement is slower
        return _COMPLETED, None, None if outcome.result is None else dump({"result": outcome.result})
    match outcome:
        case Halted(_, error):
            return _PAUSED, None, outcome_text(error)
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
