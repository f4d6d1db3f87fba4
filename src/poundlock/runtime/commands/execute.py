"""Driving a run this process owns, from where it stands to where it rests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from poundlock.errors import InboxAhead, LeaseLost, PoundlockError, StaleVersion
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.outcome import Outcome, Paused, Released
from poundlock.pipeline.runner import Driven, drive, reconsider, stopped
from poundlock.runtime.core import Core, LiveRun, log
from poundlock.runtime.registration import call_hook
from poundlock.runtime.settle import close_container, fail_waiters, finish, settle

if TYPE_CHECKING:
    from poundlock.model.runs import RunResult

_PATIENCE = 2
"""Refused attempts to stop after which deliveries of this process wait until the run has stopped."""


def start(core: Core, live: LiveRun) -> None:
    """Drive a run in a task of its own."""
    core.live[live.run.identity.run_id] = live
    live.task = core.spawn(execute(core, live))


def rest_of(live: LiveRun) -> asyncio.Future[RunResult]:
    """Return a future of the run's result at its next pause or its end."""
    waiter: asyncio.Future[RunResult] = asyncio.get_running_loop().create_future()
    live.until_rest.append(waiter)
    return waiter


async def execute(core: Core, live: LiveRun) -> None:
    """Drive, settle, finish. What goes wrong here concerns this run only."""
    run = live.run
    try:
        driven = await _prepared(core, live)
        outcome, promoted = await _settled(core, live, driven)
    except asyncio.CancelledError:
        _let_go(core, live, stopped(run))
        await close_container(live)
        raise
    except (LeaseLost, StaleVersion) as error:
        log.warning("run '%s' is driven elsewhere now: %s", run.identity.run_id, error)
        _let_go(core, live, error)
        await close_container(live)
        return
    except PoundlockError as error:
        log.exception("run '%s' cannot be written; it stands where its last commit left it", run.identity.run_id)
        _let_go(core, live, error)
        await close_container(live)
        return
    start_promoted(core, promoted)
    if isinstance(outcome, Released):
        _let_go(core, live, stopped(run))
        await close_container(live)
        return
    await finish(core, live, outcome)
    _notice_wake(core, live, outcome)


async def _prepared(core: Core, live: LiveRun) -> Driven:
    run, hooks = live.run, live.entry.hooks
    if live.new and hooks.on_prepare is not None:
        live.new = False
        refused = await _prepare(live)
        if refused is not None:
            return refused
    if live.resumed and hooks.on_resume is not None:
        await call_hook(live.entry, "on_resume", _hook_context(live))
    live.resumed = False
    return await drive(run, core)


async def _prepare(live: LiveRun) -> Driven | None:
    """Call `on_prepare`, which may patch the state; if it raises, the run fails."""
    from poundlock.pipeline.prepare import prepare

    return await prepare(live.run, live.entry.hooks.on_prepare, _hook_context(live))


def _hook_context(live: LiveRun) -> StepContext:
    from poundlock.pipeline.prepare import hook_step

    return StepContext(live.run, hook_step(live.run), 1)


async def _settled(core: Core, live: LiveRun, driven: Driven) -> tuple[Outcome, tuple[str, ...]]:
    """Settle, taking in messages that come in the very last moment and concluding again."""
    run = live.run
    refused = 0
    try:
        while True:
            try:
                return driven.outcome, await settle(core, live, driven.outcome)
            except InboxAhead:
                refused += 1
                if refused >= _PATIENCE and live.gate is None:
                    live.gate = asyncio.Event()
                messages = await core.store.inbox(run.identity.run_id, driven.before.inbox_seen)
                driven = await reconsider(run, driven, messages, core)
    finally:
        if live.gate is not None:
            live.gate.set()
            live.gate = None


def _let_go(core: Core, live: LiveRun, error: BaseException) -> None:
    core.live.pop(live.run.identity.run_id, None)
    fail_waiters(core, live, error)


def start_promoted(core: Core, promoted: tuple[str, ...]) -> None:
    """Drive runs that a commit moved from the queue to this process."""
    for run_id in promoted:
        core.spawn(_load_and_start(core, run_id))


async def _load_and_start(core: Core, run_id: str) -> None:
    from poundlock.runtime.commands.claim import adopt

    checkpoint = await core.store.checkpoint(run_id)
    if checkpoint is not None:
        await adopt(core, checkpoint)


def _notice_wake(core: Core, live: LiveRun, outcome: Outcome) -> None:
    if isinstance(outcome, Paused):
        if outcome.wait.expires_at is not None:
            core.wake_at(outcome.wait.expires_at)
        core.want(outcome.wait.events)
    elif live.run.status == "delayed":
        core.wake_at(outcome.until)  # type: ignore[union-attr]  # only Delayed leaves a run delayed
