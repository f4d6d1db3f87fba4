"""Driving a run this process owns, from its current stage to its next pause or its end.

House rules: a failure here concerns this run only. However a task ends, its run is paused, ended or released, or it is
unsure or stranded in the run table, so that `abort`, `recover` and waiting callers find it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from poundlock.errors import (
    InboxAhead,
    LeaseLost,
    PoundlockError,
    RunAborted,
    RunDamaged,
    RunNotFound,
    RuntimeStopped,
    StageGone,
    StaleVersion,
)
from poundlock.guard import (
    Interrupted,
    Interruption,
    being_closed,
    call_now,
    clear_cancellation,
    describe,
    for_the_process,
    log_text,
)
from poundlock.model.changes import Committed, RunCreate, RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.operator_pause import has_pause, is_new, paused_with, pauses_of
from poundlock.model.runs import Checkpoint, LogRow, OperatorPause, RunQuery, RunRecord, RunResult, delay_is_over
from poundlock.pipeline.active import ActiveRun, NewChild
from poundlock.pipeline.concluding import Driven
from poundlock.pipeline.context import hidden
from poundlock.pipeline.deadline import begin_late, goes_on, passed
from poundlock.pipeline.inbox import abort_request
from poundlock.pipeline.interrupting import interrupt
from poundlock.pipeline.memo import has_children, visit_row
from poundlock.pipeline.mending import begin_attempt, is_to_begin
from poundlock.pipeline.operator_pausing import begins_paused, look
from poundlock.pipeline.outcome import Aborted, Delayed, Failed, Halted, Outcome, Paused, Released, lose
from poundlock.pipeline.outgoing import send
from poundlock.pipeline.prepare import hook_context, prepare
from poundlock.pipeline.run_view import Resume
from poundlock.pipeline.runner import Progress, drive, reconsider, stopped
from poundlock.pipeline.states import fits
from poundlock.pipeline.undoing import end_badly
from poundlock.pipeline.writing import boundary_of, take_commit, take_resumption
from poundlock.runtime.children import Launcher, abort_and_wait, child_at_rest, tell_parent, tell_parent_again
from poundlock.runtime.core import Core, log
from poundlock.runtime.damaged import set_aside
from poundlock.runtime.entries import call_hook
from poundlock.runtime.equipment import close_container, recall_exports
from poundlock.runtime.healing import FAULTS, again, commit_again, notify, patiently, read_checkpoint
from poundlock.runtime.hooks import in_time
from poundlock.runtime.phases import Phase
from poundlock.runtime.reading import outcome_of, result_of_checkpoint
from poundlock.runtime.run_table import LiveRun
from poundlock.runtime.runs import ensure_written, restored_run, unparked, without_stages
from poundlock.runtime.settling import announce_found, finish, log_failure, settle
from poundlock.runtime.transitions import release_move
from poundlock.runtime.waiters import give_up

_RUNNING = RunStatus.RUNNING  # the look-up of an enum member costs more than the comparison
_PATIENCE = 2
"""After so many refused stops, deliveries of this process wait until the run has stopped."""


# ---------------------------------------------------------------------------------------------------- beginning
def start(core: Core, live: LiveRun) -> None:
    """Drive a run in its own task."""
    live.run.interruption = None  # requested during an earlier drive
    # Accepted just before the stop: it is released before its first stage begins. A child is part of a run.
    if not core.accepting or (live.entry.closing and not _of_driven(core, live)):
        live.run.stopping = True
    if core.pauses and core.pause_of(live.entry.id) is not None:
        live.run.pausing = True
    if live.run.identity.parent_id is not None:
        _pause_with_parent(core, live.run)
    if live.run.waits:
        look(live.run)
    before = core.runs.begin(live)
    if before is not None:
        core.tasks.keep(before.task)
    # Named like its run: that helps in debugging, and generating a name takes as long as a step.
    # Other code that cancels it before its first line leaves the run to `abort` and `recover`. Noticing that was tried:
    # a callback per turn of the loop costs 4 percent of a run in memory, a coroutine of ours around this one 5.
    driving = execute if live.run.plan.limit is None else _execute_in_time
    live.task = asyncio.get_running_loop().create_task(driving(core, live, before), name=live.run.run_id)
    if live.run.stopping and core.accepting:
        # Its workflow may be registered again before it is released: then it is to be claimed.
        live.task.add_done_callback(lambda _: core.wake_at(core.clock.now()))


def _pause_with_parent(core: Core, run: ActiveRun) -> None:
    """Pause a child whose parent is being paused: the commit that created it was in flight then."""
    parent = core.runs.live(run.identity.parent_id or "")
    if parent is None or not parent.run.pausing or has_pause(run.waits, "parent"):
        return
    pauses = pauses_of(parent.run.waits)
    if not pauses:  # taken in at its next boundary
        asked = [message.body for message in parent.run.inbox if message.kind == "pause" and message.body is not None]
        if not asked:
            return
        pauses = (OperatorPause("parent", asked[0]["reason"], asked[0]["by"], core.clock.now()),)
    pause = OperatorPause("parent", pauses[0].reason, pauses[0].by, pauses[0].since)
    run.waits = paused_with(run.waits, pause, run.version + 1)


def _of_driven(core: Core, live: LiveRun) -> bool:
    """Whether a run of the same workflow is being driven and waits for this one, its child."""
    parent = core.runs.live(core.followed.get(live.run.run_id, ""))
    return parent is not None and parent.entry is live.entry


def adopt(core: Core, checkpoint: Checkpoint, *, recovered: bool = False, delayed: bool = False) -> bool:
    """Drive a run that this process owns, by its checkpoint.

    Returns:
        Whether it is driven now; not if its workflow was deregistered meanwhile: then it has to be released.
    """
    identity = checkpoint.record.identity
    entry = core.entries.get(identity.workflow_id)
    if entry is None or entry.closing or checkpoint.record.head.status is not RunStatus.RUNNING:
        return False
    try:
        run = restored_run(core, entry, checkpoint)
    except StageGone:
        # When it is driven, it is paused with the reason, unless its end is decided already.
        run = restored_run(core, entry, checkpoint, without_stages(entry, identity.pipeline_id))
    except Exception as error:  # noqa: BLE001 - an unexpected row must not keep others from being taken over
        _strand(core, identity.run_id, error)
        return True
    run.recovered = recovered
    delayed = delayed or delay_is_over(checkpoint.record)
    if recovered and run.plan.durability == "none" and run.undoing is None and not has_children(run.waits):
        lose(run)
    if delayed:
        run.resume = Resume("delay")
    # Before its first boundary the log has only the entries of its creation, and `on_prepare` is still to be called.
    never_began = is_new(run.waits)
    if never_began is None:  # where a run was mended, a row of its waits says whether its attempt is still to begin
        first = run.log_seq <= (3 if core.timeline else 1) and run.stage == run.plan.course[0]
        never_began = first and visit_row(run) is None
    start(core, LiveRun(run, entry, new=never_began))
    return True


def wake(core: Core, run_id: str, now: float) -> None:
    """Drive a paused run that this process owns since a commit at `now`; it is read if it is not in memory."""
    parked = core.runs.parked(run_id)
    if parked is not None:
        kept = call_now(unparked, core, parked)
        if kept.error is not None:  # a type of the user's does not let itself be decoded
            core.runs.drop(run_id)
            _load(core, run_id)
            return
        run, entry = kept.value, parked.entry
    else:
        live = core.runs.live(run_id)
        if live is None or live.phase is Phase.DRIVING:
            _load(core, run_id)
            return
        run, entry = live.run, live.entry
    take_resumption(run, now)
    start(core, LiveRun(run, entry))


def start_promoted(core: Core, promoted: Iterable[str]) -> None:
    """Drive runs that this process owns since a commit."""
    for run_id in promoted:
        core.queued.pop(run_id, None)
        live = core.runs.live(run_id)
        # A run that was looked up meanwhile is driven already. One that was resumed may still be closing its services.
        if not core.runs.has_task(run_id) or (live is not None and live.outdated):
            _load(core, run_id)


def _load(core: Core, run_id: str) -> None:
    vacancy = core.runs.load(run_id)
    vacancy.task = _look(core, [run_id], partial(_load_and_start, core, run_id))


def _look(core: Core, run_ids: Sequence[str], work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    """Find out about runs in the background; again if other code cancels that, because nothing else would drive them.

    Args:
        core: of the runtime.
        run_ids: the runs that depend on it.
        work: finds out; it may be called again.
    """
    task = core.tasks.spawn(work())

    def again(_: asyncio.Task[None]) -> None:
        if not task.cancelled() or core.ending:
            return
        another = _look(core, run_ids, work)
        for run_id in run_ids:
            vacancy = core.runs.vacancy(run_id)
            if vacancy is not None and vacancy.task is task:
                vacancy.task = another

    task.add_done_callback(again)
    return task


async def _load_and_start(core: Core, run_id: str) -> None:
    try:
        checkpoint = await read_checkpoint(core, run_id)
        if core.runs.phase(run_id) is Phase.LOADING and (checkpoint is None or not adopt(core, checkpoint)):
            await release_runs(core, [run_id], begun=False)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run has to be found by `abort` and `recover`
        if core.runs.phase(run_id) is Phase.LOADING:
            _strand(core, run_id, error)


async def release_runs(core: Core, run_ids: Iterable[str], *, begun: bool) -> None:
    """Make runs that this process owns but does not drive `ready`, under a new epoch, and forget them.

    Args:
        core: of the runtime.
        run_ids: which runs; a run that is not running, or not owned by this process, is unchanged.
        begun: whether user code may have run since their last commit: then they count as recovered when claimed.
    """
    for run_id in run_ids:
        record = await core.store.load(run_id)
        if record is not None and record.head.owner == core.worker and record.head.status is RunStatus.RUNNING:
            try:
                await core.commit(release_move(record, core.clock.now(), begun=begun))
            except (StaleVersion, LeaseLost):
                continue  # it was moved meanwhile
        core.runs.drop(run_id)


def take_up(
    core: Core,
    run_ids: Iterable[str],
    error: BaseException | None = None,
    *,
    ended_here: bool = False,
    begun: bool = True,
    creation: asyncio.Task[None] | None = None,
) -> None:
    """Look up runs that this process may own: the answer to a commit was lost, or a commit was refused.

    Args:
        core: of the runtime.
        run_ids: which runs.
        error: for callers that wait for a run which another process owns, or which was never stored.
        ended_here: whether a failed run failed here: then that has not been logged yet.
        begun: whether user code may have run since their last commit: see `release_runs`.
        creation: stores the run, because of a message to it; it is waited for first.
    """
    wanted = list(run_ids)
    task = _look(
        core, wanted, partial(_look_up, core, wanted, error, ended_here=ended_here, begun=begun, creation=creation)
    )
    for run_id in wanted:
        core.runs.lose(run_id, task)


async def written_behind(core: Core) -> None:
    """Return when all submitted commits are durable or refused; retries while the store fails."""
    await patiently(core, core.store.written_behind, "reading the outcome of a commit")


async def _look_up(
    core: Core,
    run_ids: list[str],
    error: BaseException | None,
    *,
    ended_here: bool,
    begun: bool,
    creation: asyncio.Task[None] | None,
) -> None:
    if creation is not None:
        await asyncio.wait([creation])  # it may not even be submitted yet
    await written_behind(core)  # the commit without an answer may still be in flight
    for run_id in run_ids:
        core.deliver(run_id)  # that commit may have had outgoing events
        try:
            checkpoint = await _look_up_one(core, run_id, error, begun=begun)
            if checkpoint is None or not checkpoint.record.head.status.terminal:
                continue
            identity, head, _ = checkpoint.record
            if ended_here and head.status is RunStatus.FAILED:
                log_failure(identity, outcome_of(head.outcome)[1])
            announce_found(core, checkpoint)
            await tell_parent_again(core, identity)
        except Exception as failed:  # noqa: BLE001 - whatever it is, the run has to be found by `abort` and `recover`
            if core.runs.phase(run_id) is Phase.UNSURE:
                _strand(core, run_id, failed)


async def _look_up_one(core: Core, run_id: str, error: BaseException | None, *, begun: bool) -> Checkpoint | None:
    """Look one run up and do what it needs; returns its checkpoint, unless a task drives it."""
    checkpoint = await read_checkpoint(core, run_id)
    head = None if checkpoint is None else checkpoint.record.head
    ours = head is not None and head.status is RunStatus.RUNNING and head.owner == core.worker
    live, parked = core.runs.live(run_id), core.runs.parked(run_id)
    if parked is not None:
        if head is None or parked.head.epoch >= head.epoch:
            return None
        core.runs.drop(run_id)  # its row was moved while it was kept in memory
    elif live is not None:
        dead = live.phase is Phase.DRIVING and not live.alive
        if not dead and (head is None or live.phase is Phase.RESUMING or live.run.epoch >= head.epoch):
            return None  # its task knows all that the store knows
        if dead or not ours:
            core.runs.drop(run_id)  # its task has ended, or its row was moved meanwhile
    elif core.runs.phase(run_id) not in (Phase.UNSURE, Phase.ABSENT):
        return None
    if checkpoint is not None and ours:
        if not adopt(core, checkpoint):
            await release_runs(core, [run_id], begun=begun)
        return None
    core.runs.drop(run_id)
    if checkpoint is not None:
        _notice_row(core, checkpoint.record)
        if checkpoint.record.head.status.terminal:
            return checkpoint  # its hooks come before the answer
        core.waiters.answer(result_of_checkpoint(core, checkpoint))  # if it is paused
    if error is not None:
        core.waiters.fail(run_id, error)
    return checkpoint


def _notice_row(core: Core, record: RunRecord) -> None:
    """Do what the run's own task would have done after the commit of its pause or end."""
    head, entry = record.head, core.entries.get(record.identity.workflow_id)
    if head.wake_at is not None:
        core.wake_at(head.wake_at)
    if entry is not None and head.status is RunStatus.PAUSED:
        events = [event for row in record.waits if row.parked for event in row.events]
        core.want(record.identity.run_id, [event for event in events if event not in entry.subscribed])


def find_promoted(core: Core, workflow_id: str) -> None:
    """Drive the runs of a workflow that this process owns but does not have in its table, in the background.

    They were promoted by a commit whose answer was lost.
    """
    if workflow_id in core.finding:
        core.finding[workflow_id] = True
    else:
        core.finding[workflow_id] = False
        _look(core, (), partial(_find_promoted, core, workflow_id))


async def _find_promoted(core: Core, workflow_id: str) -> None:
    async def find() -> list[str]:
        async with core.claiming:  # a run that is claimed but not adopted yet is not one of them
            core.finding[workflow_id] = False
            await core.store.written_behind()  # the commit may still be in flight
            return await unknown(core, workflow_id)

    try:
        while True:
            take_up(core, await patiently(core, find, "looking for promoted runs"))
            if not core.finding[workflow_id]:
                return
    finally:
        core.finding.pop(workflow_id, None)


async def unknown(core: Core, workflow_id: str | None = None) -> list[str]:
    """Return the runs that are running and owned by this process in the store, but not in its table."""
    found: list[str] = []
    query = RunQuery(workflow=workflow_id, status=(RunStatus.RUNNING,), limit=500)
    while True:
        page = await core.store.find(query)
        owned = [record.identity.run_id for record in page.items if record.head.owner == core.worker]
        found += [run_id for run_id in owned if core.runs.phase(run_id) is Phase.ABSENT and run_id not in core.left]
        if page.next_cursor is None:
            return found
        query = replace(query, cursor=page.next_cursor)


# ------------------------------------------------------------------------------------------------------- driving
async def execute(core: Core, live: LiveRun, before: LiveRun | None = None) -> None:
    """Drive, settle, finish; those who wait for the run get its errors.

    `before` drove the run in this process and may not have ended yet; it has to release the run first.
    """
    run = live.run
    core.enter_run(run.run_id, run)
    boundaries: Progress = Boundaries(core, live)
    behind = None
    if not run.plan.prompt:
        from poundlock.runtime.durability import lagging  # most workflows wait for each boundary

        boundaries = behind = lagging(core, live, boundaries)
    run.progress = boundaries
    live.begun = True
    try:
        if before is not None:
            await _let_finish(before)
        driven = None
        # Nearly always there is neither a pause nor a message.
        first = (run.pausing or run.inbox or run.backlog) and _begins_paused(live)
        if not first and _needs_preparing(live) and not run.stopping:
            driven = await _prepared(core, live)
        live.new = False
        if driven is None:
            driven = await drive(run, boundaries)
        refused = 0
        while True:
            outcome = driven.outcome
            if type(outcome) is Failed or type(outcome) is Aborted:  # cheaper than a union, which is made anew
                if run.waits and has_children(run.waits):
                    from poundlock.pipeline.children import abandon  # most workflows have none

                    await abandon(run, boundaries.history, "the run that started it ends")
                driven = await end_badly(run, driven, outcome, boundaries)
            if behind is not None:
                await behind.written()
            try:
                promoted = await settle(core, live, driven.outcome)
                break
            except InboxAhead:  # messages came just before the commit
                refused += 1
                driven = await _concluded_again(core, live, boundaries, driven, refused)
    except (asyncio.CancelledError, Interrupted):
        if behind is not None:
            await behind.left()
        await _interrupted(core, live)
    except (LeaseLost, StaleVersion, RunNotFound) as error:  # not found: it was aborted and then deleted
        log.warning("run '%s' is driven elsewhere now: %s", run.run_id, error)
        live.open_gate()
        if core.runs.drop_current(live):
            take_up(core, [run.run_id], error)  # refused for another reason, it would have no owner
        await close_container(core, live, error)
    except BaseException as error:
        # A lasting fault of the store, or a bug of ours: it must not end the other runs.
        if for_the_process(error) or (isinstance(error, GeneratorExit) and being_closed(live.task)):
            raise
        if core.ending or not run.written:
            gone = stopped(run) if core.ending else error
            creation = None if core.ending else live.creation
            await _give_up(core, live, gone, gone)
            if creation is not None:  # a message has it stored at this moment: then it goes on after all
                take_up(core, [run.run_id], creation=creation)
            return
        live.open_gate()
        if core.runs.is_current(live):
            _strand(core, run.run_id, error)
        await close_container(core, live, error)
    else:
        run.progress = None  # else run and boundaries refer to each other, and only the collector frees them
        live.open_gate()
        if live.notice is not None:
            tell_parent(core, live.notice)
        if type(driven.outcome) is Failed:
            log_failure(run.identity, driven.outcome.error)
        try:
            if promoted:
                start_promoted(core, promoted)
            if not run.status.terminal or run.run_id in core.wanted:
                _notice_wake(core, live, driven.outcome)
        except Exception as error:  # noqa: BLE001 - a bus or a bug of ours: the outcome is durable, and is reported
            log.error("after a commit of run '%s'\n%s", run.run_id, log_text(error))
        if isinstance(driven.outcome, Released):
            await _give_up(core, live, stopped(run), None)
        else:
            await finish(core, live, driven.outcome)
    finally:
        if live.awaited is not None:  # it was mended, and its end was not told, because that commit's answer was lost
            give_up(live.awaited, stopped(run))


async def _execute_in_time(core: Core, live: LiveRun, before: LiveRun | None = None) -> None:
    """Drive a run that has a limit: it is interrupted at its deadline."""
    run = live.run
    goes_on(run)
    if not run.pausing:  # no time acts while an operator has it paused
        begin_late(run)
    deadline = run.deadline

    def over() -> None:
        if passed(run):  # it may have led to a stage before, or its end may be decided
            interrupt(run, live.task, Interruption.DEADLINE)

    timer = None if deadline is None else core.clock.call_at(deadline, over)
    try:
        await execute(core, live, before)
    finally:
        if timer is not None:
            timer.cancel()


async def _let_finish(before: LiveRun) -> None:
    """Wait for the task that drove the run before: the run is paused, or was taken over."""
    if before.task is None or before.task.done():
        return
    if before.run.interruptible:
        interrupt(before.run, before.task, Interruption.LOST)  # the result of its step is void
    else:
        await asyncio.wait([before.task])


async def _interrupted(core: Core, live: LiveRun) -> None:
    """Release a run whose task was cancelled; if the runtime did not request that, look the run up and continue.

    A run that is being aborted is looked up too: its request is durable, and so only its end is still to be written.
    """
    run = live.run
    run_id = run.run_id
    if core.ending or run.interruption not in (None, Interruption.ABORT, Interruption.DEADLINE):
        if core.ending:
            core.left.add(run_id)  # its step may have had effects: the next owner counts that as an attempt
        left = stopped(run)
        await _give_up(core, live, left, left)
        return
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is a task's coroutine
    await clear_cancellation(task)
    live.open_gate()
    gone = None
    if not run.written:  # unless the commit that stores it is on its way
        gone = RunAborted(f"run '{run_id}' was cancelled by other code before it was stored: nothing of it is kept")
    if core.runs.is_current(live):
        log.warning("run '%s': its task was cancelled, but not by the runtime: it continues in a new task", run_id)
        core.runs.drop(run_id)
        take_up(core, [run_id], gone, ended_here=True, creation=live.creation)
        if run.identity.load_key is not None:
            find_promoted(core, run.identity.workflow_id)
    await close_container(core, live, asyncio.CancelledError())


def _strand(core: Core, run_id: str, error: BaseException) -> None:
    """Leave a run where `abort` and `recover` find it, and notify those who wait for it."""
    log.error("run '%s' cannot continue; it is as its last commit left it\n%s", run_id, log_text(error))
    core.runs.strand(run_id, error)
    core.deliver(run_id)  # the last commit may have been written, with outgoing events
    core.waiters.fail(run_id, error)
    if isinstance(error, RunDamaged):
        core.tasks.spawn(_set_aside(core, run_id, error))


async def _set_aside(core: Core, run_id: str, damage: RunDamaged) -> None:
    start_promoted(core, await set_aside(core, run_id, damage))


async def _give_up(core: Core, live: LiveRun, error: BaseException, failure: BaseException | None) -> None:
    """Stop driving a run that is neither paused nor ended.

    Args:
        core: of the runtime.
        live: the run.
        error: for those who wait for it.
        failure: what its services see; None if it was released at a boundary.
    """
    live.open_gate()
    if core.runs.is_current(live):
        core.runs.drop(live.run.run_id)
        core.waiters.fail(live.run.run_id, error)
    await close_container(core, live, failure)


def _needs_preparing(live: LiveRun) -> bool:
    entry = live.entry
    if live.run.interruption is not None:
        return False  # its time was over before it began
    if live.run.waits and is_to_begin(live.run):
        return True
    return entry.hooks.on_prepare is not None if live.new else entry.services.exports


def _begins_paused(live: LiveRun) -> bool:
    """Whether a run that has not begun is paused first; then it is prepared when it goes on."""
    return (live.new or is_to_begin(live.run)) and begins_paused(live.run)


async def _prepared(core: Core, live: LiveRun) -> Driven | None:
    """Prepare a run for its drive; returns an outcome if it failed already."""
    run = live.run
    if run.waits and is_to_begin(run):
        if not fits(run.plan.state_model, run.state):
            return None  # it is paused until its state fits, and begins then
        begin_attempt(run)
        live.new = True
    if not live.new:
        if live.entry.services.exports and run.exported is None:
            await recall_exports(core, live.entry.services, run)
        return None
    return await _call_prepare(core, live)


async def _call_prepare(core: Core, live: LiveRun) -> Driven | None:
    """Call `on_prepare`; returns an outcome if the run failed with it."""
    run, hooks = live.run, live.entry.hooks
    refused = None
    if hooks.on_prepare is not None and abort_request(run) is None:
        run.interruptible = True
        try:
            hook = in_time(hooks.on_prepare.on(core.clock, run.services), core.hook_timeout, core.clock)
            refused = await prepare(run, hook, hook_context(run))
        finally:
            run.interruptible = False
    return refused


class Boundaries:
    """Where the boundaries of one run go: the pipeline's Progress port."""

    __slots__ = ("_core", "_launcher", "_live")

    def __init__(self, core: Core, live: LiveRun) -> None:
        self._core = core
        self._live = live
        self._launcher: Launcher | None = None

    def boundary(self, run: ActiveRun) -> Awaitable[None] | None:
        live, core = self._live, self._core
        if live.gate is not None:
            live.open_gate()
        if live.creation is not None:
            return self._after_creation(live.creation)
        work = boundary_of(run, _RUNNING)
        try:
            committed = core.commit(work)
        except FAULTS as fault:
            return self._again(fault, work)
        if type(committed) is not Committed:
            return self._durable(committed, work)
        self._crossed(work)
        return None

    async def midway(self, run: ActiveRun) -> None:
        if self._launcher is None or not self._launcher.waiting:
            if (pending := self.boundary(run)) is not None:
                await pending
            return
        self._crossed(await self._launcher.commit(run, boundary_of(run, _RUNNING), self._now))

    def prepare(self, run: ActiveRun, children: Sequence[NewChild]) -> list[str]:
        if self._launcher is None:
            self._launcher = Launcher(self._core, start, take_up)
        return self._launcher.prepare(run, children)

    async def child_at_rest(self, run_id: str, *, ended: bool) -> RunResult:
        core, followed = self._core, self._core.followed
        followed[run_id] = self._live.run.run_id
        try:
            while True:
                try:
                    result = await child_at_rest(core, run_id, ended=ended)
                    break
                except (RuntimeStopped, *FAULTS) as error:
                    self._check_stopping(error)
                    if core.runs.phase(run_id) is Phase.STRANDED:
                        raise
                # Only its own workflow is taken out: it goes on once that is registered again.
        except BaseException:
            followed.pop(run_id, None)
            raise
        if result.status.terminal:
            followed.pop(run_id, None)
        return result

    async def start_run(self, run: ActiveRun, workflow_id: str, payload: Any, key: str) -> str:
        await ensure_written(self._core, self._live)  # else it could be there without the run that started it
        return await self._core.start_run(run.identity, workflow_id, payload, key)

    async def start_run_patiently(self, run: ActiveRun, workflow_id: str, payload: Any, key: str) -> str:
        core, what = self._core, f"run '{run.run_id}': starting '{workflow_id}'"
        start = partial(self.start_run, run, workflow_id, payload, key)
        try:
            return await patiently(core, start, what, partial(notify, core, run))
        except (RuntimeStopped, *FAULTS) as error:
            self._check_stopping(error)
            raise

    async def abort_child(self, run_id: str, reason: str) -> None:
        core = self._core
        try:
            await abort_and_wait(core, run_id, partial(core.abort, run_id, reason))
        except (RuntimeStopped, *FAULTS) as error:
            self._check_stopping(error)
            raise
        finally:
            core.followed.pop(run_id, None)

    def _check_stopping(self, error: PoundlockError) -> None:
        """Have the run released, if an error only says that it cannot go on in this process: the runtime stops.

        Raises:
            RuntimeStopped: it does, or the workflow is taken out.
        """
        if self._core.accepting and not self._core.ending and not self._live.entry.closing:
            return
        self._live.run.stopping = True
        raise stopped(self._live.run) from error

    def _crossed(self, work: RunMove | RunCreate) -> None:
        run = self._live.run
        take_commit(run, work)
        if type(work) is RunCreate:
            self._core.runs.written(run.run_id)

    async def _durable(self, committed: Awaitable[Committed], work: RunMove | RunCreate) -> None:
        try:
            await committed
        except FAULTS as fault:
            await self._again(fault, work)
        else:
            self._crossed(work)

    async def _after_creation(self, creation: asyncio.Task[None]) -> None:
        await asyncio.wait([creation])  # `written` has the result
        if (pending := self.boundary(self._live.run)) is not None:
            await pending

    async def _again(self, fault: PoundlockError, work: RunMove | RunCreate) -> None:
        core, run = self._core, self._live.run

        async def commit() -> RunMove | RunCreate:
            now = await self._now(work)
            await commit_again(core, now)
            return now

        self._crossed(await again(core, fault, commit, f"run '{run.run_id}'", partial(notify, core, run)))

    async def _now(self, work: RunMove | RunCreate) -> RunMove | RunCreate:
        """Return what a boundary is now: its creation may have been stored meanwhile, because of a message to it."""
        live = self._live
        while live.creation is not None:
            await asyncio.wait([live.creation])
        return boundary_of(live.run, _RUNNING) if type(work) is RunCreate and live.run.written else work

    async def resumed(self, run: ActiveRun) -> Driven | None:
        live = self._live
        live.open_gate()
        if is_to_begin(run):  # it was paused because its state did not fit: its attempt begins now
            begin_attempt(run)
            return await _call_prepare(self._core, live)
        if live.entry.hooks.on_resume is None:
            return None
        context = hook_context(run)
        run.interruptible = True
        try:
            error = await call_hook(self._core, live.entry, "on_resume", context, services=run.services)
            if error is not None:
                said = describe(error)
                payload = hidden(run, {"hook": "on_resume", "type": said.type, "message": said.message})
                run.journal.add(self._core.clock.now(), "dispatch", "hook:failure", run.plan.path_json, payload)
            elif context.outgoing:
                send(run, run.plan.path_json, context.outgoing)
        finally:
            run.interruptible = False
            context.abandon()
        return None

    async def history(self, run: ActiveRun) -> list[LogRow]:
        core, run_id = self._core, run.run_id
        return await patiently(core, lambda: core.store.history(run_id), f"reading run '{run_id}'")


async def _concluded_again(core: Core, live: LiveRun, boundaries: Progress, driven: Driven, refused: int) -> Driven:
    """Take in the messages for which the end was refused. After many refusals, deliveries wait for the stop."""
    run = live.run
    if refused >= _PATIENCE and live.gate is None:
        live.gate = asyncio.Event()
    run_id, seen = run.run_id, driven.before.inbox_seen
    messages = await patiently(
        core, lambda: core.store.inbox(run_id, seen), f"run '{run_id}'", partial(notify, core, run)
    )
    return await reconsider(run, driven, messages, boundaries)


def _notice_wake(core: Core, live: LiveRun, outcome: Outcome) -> None:
    wake_at = live.run.wake_at
    if wake_at is not None:
        core.wake_at(wake_at)
    if isinstance(outcome, Paused):
        named = live.entry.subscribed
        events = [event for row in live.run.waits if row.parked for event in row.events]  # it may be paused at several
        core.want(live.run.run_id, [event for event in events if event not in named])
    elif not isinstance(outcome, Delayed | Halted):  # a halted run continues to buffer events for its waits
        core.want(live.run.run_id, [])
