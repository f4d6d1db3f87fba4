"""Driving a run this process owns, from where it stands to where it rests."""

from __future__ import annotations

import asyncio

from poundlock.errors import InboxAhead, LeaseLost, RunNotFound, StaleVersion
from poundlock.model.changes import Changes
from poundlock.model.lifecycle import RunStatus
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.outcome import Outcome, Paused, Released
from poundlock.pipeline.runner import Driven, abort_request, cancelled, drive, reconsider, stopped
from poundlock.runtime.core import Core, LiveRun, log
from poundlock.runtime.equipment import recall_exports
from poundlock.runtime.registration import call_hook, close_container
from poundlock.runtime.settle import finish, settle

_PATIENCE = 2
"""Refused attempts to stop after which deliveries of this process wait until the run has stopped."""


def start(core: Core, live: LiveRun) -> None:
    """Drive a run in a task of its own."""
    run_id = live.run.identity.run_id
    core.stranded.discard(run_id)
    core.unheard.discard(run_id)
    core.drive(live, execute(core, live, core.live.get(run_id)))


async def execute(core: Core, live: LiveRun, before: LiveRun | None = None) -> None:
    """Drive, settle, finish. What goes wrong here concerns this run only, and is told to those who wait for it.

    `before` drove the run in this process and may not have heard yet that it rests; it lets go first.
    """
    run = live.run
    boundaries = Boundaries(core, live)
    try:
        if before is not None:
            await _let_finish(before)
        driven = await _prepared(core, live) if _needs_preparing(live) else None
        live.new = False
        if driven is None:
            driven = await drive(run, boundaries)
        refused = 0
        while True:
            try:
                promoted = await settle(core, live, driven.outcome)
                break
            except InboxAhead:  # messages came in the very last moment
                refused += 1
                driven = await _concluded_again(core, live, boundaries, driven, refused)
    except asyncio.CancelledError:
        await _let_go(core, live, stopped(run))
    except (LeaseLost, StaleVersion, RunNotFound) as error:  # not found: it was aborted, and is forgotten by now
        log.warning("run '%s' is driven elsewhere now: %s", run.identity.run_id, error)
        await _let_go(core, live, error)
    except Exception as error:  # noqa: BLE001 - the store's faults and our own bugs must not end the other runs
        log.exception("run '%s' cannot go on; it stands where its last commit left it", run.identity.run_id)
        core.stranded.add(run.identity.run_id)
        await _let_go(core, live, error)
    else:
        live.open_gate()
        if promoted:
            start_promoted(core, promoted)
        outcome = driven.outcome
        if isinstance(outcome, Released):
            await _let_go(core, live, stopped(run))
        else:
            await finish(core, live, outcome)
            _notice_wake(core, live, outcome)


async def _let_finish(before: LiveRun) -> None:
    if before.task is None or before.task is asyncio.current_task():
        return
    if before.run.interruptible:
        before.task.cancel()  # its run was taken away: whatever its step comes to is void
    else:
        await asyncio.wait([before.task])


async def _let_go(core: Core, live: LiveRun, error: BaseException) -> None:
    """Stop driving a run without having brought it to rest."""
    live.open_gate()
    run_id = live.run.identity.run_id
    if core.live.get(run_id) is live:
        del core.live[run_id]
        core.unwritten.pop(run_id, None)
        core.waiters.fail(run_id, error)
    await close_container(live)


def _needs_preparing(live: LiveRun) -> bool:
    entry = live.entry
    return entry.hooks.on_prepare is not None if live.new else entry.services.exports


async def _prepared(core: Core, live: LiveRun) -> Driven | None:
    """Get a run ready to be driven; an outcome if it failed already."""
    run, hooks = live.run, live.entry.hooks
    if not live.new:
        if live.entry.services.exports and run.exported is None:
            await recall_exports(core, live.entry.services, run)
        return None
    refused = None
    if hooks.on_prepare is not None and abort_request(run) is None:
        run.interruptible = True
        try:
            refused = await _prepare(live)
        except asyncio.CancelledError:
            refused = cancelled(run)
        finally:
            run.interruptible = False
    return refused


class Boundaries:
    """Where the boundaries of one run go: the pipeline's Progress port."""

    __slots__ = ("_core", "_live")

    def __init__(self, core: Core, live: LiveRun) -> None:
        self._core = core
        self._live = live

    async def boundary(self, run: ActiveRun, changes: Changes) -> None:
        live = self._live
        if live.gate is not None:
            live.open_gate()
        if live.creation is not None:
            await asyncio.shield(live.creation)
            changes = run.changes(RunStatus.RUNNING)
        core = self._core
        await core.store.commit(changes)
        run.committed(changes)
        if changes.creates:
            core.unwritten.pop(run.identity.run_id, None)

    async def resumed(self, run: ActiveRun) -> None:
        live = self._live
        live.open_gate()
        if live.entry.hooks.on_resume is None:
            return
        context = _hook_context(live)
        run.interruptible = True
        try:
            await call_hook(live.entry, "on_resume", context)
        finally:
            run.interruptible = False
        context.flush()


async def _prepare(live: LiveRun) -> Driven | None:
    """Call `on_prepare`, which may patch the state; if it raises, the run fails."""
    from poundlock.pipeline.prepare import prepare

    return await prepare(live.run, live.entry.hooks.on_prepare, _hook_context(live))


def _hook_context(live: LiveRun) -> StepContext:
    from poundlock.pipeline.prepare import hook_step

    return StepContext(live.run, hook_step(live.run), 1)


async def _concluded_again(core: Core, live: LiveRun, boundaries: Boundaries, driven: Driven, refused: int) -> Driven:
    """Take in the messages for which the end was refused. Who is refused often has deliveries wait for it."""
    run = live.run
    if refused >= _PATIENCE and live.gate is None:
        live.gate = asyncio.Event()
    messages = await core.store.inbox(run.identity.run_id, driven.before.inbox_seen)
    return await reconsider(run, driven, messages, boundaries)


def start_promoted(core: Core, promoted: tuple[str, ...]) -> None:
    """Drive runs that a commit made this process's own."""
    for run_id in promoted:
        core.stranded.add(run_id)
        core.spawn(_load_and_start(core, run_id))


async def _load_and_start(core: Core, run_id: str) -> None:
    from poundlock.runtime.commands.claim import adopt

    checkpoint = await core.store.checkpoint(run_id)
    if checkpoint is not None and run_id in core.stranded:
        adopt(core, checkpoint)


def _notice_wake(core: Core, live: LiveRun, outcome: Outcome) -> None:
    if isinstance(outcome, Paused):
        if outcome.wait.expires_at is not None:
            core.wake_at(outcome.wait.expires_at)
        named = live.entry.subscribed
        core.want(live.run.identity.run_id, [event for event in outcome.wait.events if event not in named])
    elif live.run.status == "delayed":
        core.wake_at(outcome.until)  # type: ignore[union-attr]  # only Delayed leaves a run delayed
    else:
        core.want(live.run.identity.run_id, [])
