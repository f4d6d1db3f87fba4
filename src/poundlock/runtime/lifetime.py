"""Starting and stopping a runtime."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, Literal

from poundlock.callables import is_coroutine_function
from poundlock.clock import Clock, timeout_after
from poundlock.errors import InvalidDefinition, RuntimeStopped
from poundlock.guard import Interruption, call_within, log_text, repr_of
from poundlock.model.definitions import Service, several
from poundlock.model.durations import seconds
from poundlock.model.events import CONTROL_EVENTS
from poundlock.model.hiding import noted_masks, notes
from poundlock.model.modes import Mode
from poundlock.model.retention import KEEP, Retention
from poundlock.model.timeline_entry import TimelineEntry
from poundlock.pipeline.builder import Workflow
from poundlock.pipeline.interrupting import interrupt
from poundlock.ports import Bus, FollowsClock, FollowsRetention, Publication, Store
from poundlock.runtime.commands.cancel import cancel_child
from poundlock.runtime.commands.claim import give_back, try_unfit
from poundlock.runtime.commands.create import start_run
from poundlock.runtime.core import Core, State, log
from poundlock.runtime.driver import find_promoted, release_runs, unknown
from poundlock.runtime.emitting import from_bus
from poundlock.runtime.healing import FAULTS, again, patiently
from poundlock.runtime.holding import end_due, end_now
from poundlock.runtime.hooks import Hooks
from poundlock.runtime.outbox import Outbox
from poundlock.runtime.pending_hooks import call_all
from poundlock.runtime.phases import Phase
from poundlock.runtime.poller import Poller, claim_due
from poundlock.runtime.queued import QueuedLimits
from poundlock.runtime.reading import hidden_for_sink
from poundlock.runtime.registration import Subscriptions, deregister, register
from poundlock.runtime.returning import promote
from poundlock.runtime.settling import call_pending
from poundlock.runtime.time_triggers import TimeTriggers
from poundlock.runtime.vacuuming import Vacuuming
from poundlock.sensitive import Masks

_NOTED: Final = 1000
"""Runs of which it is known at most, for sinks, what they have noted to be hidden."""


def default_bus() -> Bus:
    """Return the default bus of a runtime."""
    from poundlock.bus import LocalBus

    return LocalBus()


def split_services(services: Iterable[Service] | Any) -> tuple[tuple[Any, ...], tuple[Service, ...]]:
    """Return (parents, services): a dependency-injector container is a parent, everything else a list of services."""
    if hasattr(services, "providers"):
        return (services,), ()
    return (), several(services)


class Lifetime:
    """The lifetime of a runtime, from start to stop. `core.state` has the current state."""

    def __init__(self, core: Core, workflows: Sequence[Workflow], services: tuple[Service, ...]) -> None:
        self._core = core
        self._workflows = workflows
        self._services = services
        self._poller = Poller(core, partial(claim_due, core), "looking for due runs")
        self._holds = Poller(core, partial(end_due, core), "looking for what triggers hold")
        self._queued = QueuedLimits(core)
        self._vacuuming = Vacuuming(core)
        self._times = TimeTriggers(core)
        self._opened = False
        self._entered = asyncio.Event()
        """Set when the start is over, successful or not."""
        self._stop: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        """Set when the drain is cut short."""
        self.subscriptions = Subscriptions(core, self._heard)
        self._outbox = Outbox(core, lambda: self.subscriptions.own)
        self._noted: dict[str, Masks] = {}
        """What runs have noted to be hidden, for sinks: of the runs that wrote last."""

    async def start(self) -> None:
        """Open the store, register the workflows, claim runs without an owner.

        Starting it again does nothing; concurrent calls wait for the same start.

        Raises:
            RuntimeStopped: it has stopped, is stopping, or could not be started.
            PoundlockError: the store cannot be opened, or a workflow cannot be registered; nothing is left open.
        """
        core = self._core
        if core.state is not State.NEW:
            if core.state is State.STARTED:
                await self._entered.wait()
            if core.state is not State.STARTED:
                raise RuntimeStopped("this runtime has stopped and cannot be started again: make a new one")
            return
        core.move_to(State.STARTED)
        core.loop = asyncio.get_running_loop()
        try:
            _follow(core.store, core.clock)
            _retain(core.store, core.retention)
            await core.store.open(core.worker)
            self._opened = True
            core.check_accepting()  # it may have been stopped meanwhile
            core.size_at_start = core.store.size
            core.pauses = {pause.workflow_id: pause for pause in await core.store.pauses()}
            core.watch.start(self._loop_ends)
            core.wake_at = self._poller.wake_at
            core.hide = self._hidden
            core.want = self.subscriptions.want
            core.find_promoted = partial(find_promoted, core)
            core.abort = partial(cancel_child, core)
            core.start_run = partial(start_run, core)
            core.note_queued = self._queued.note
            core.hold_until = self._holds.wake_at
            core.end_hold = partial(end_now, core)
            core.note_waiting = self._queued.note_waiting
            core.unpaused = self._unpaused
            for pattern in CONTROL_EVENTS if core.control_events else ():
                self.subscriptions.take(pattern)
            for workflow in self._workflows:
                await self.register(workflow, None, Hooks())
            core.tasks.spawn(self._poller.run(), "poundlock-poller")
            core.tasks.spawn(self._holds.run(), "poundlock-holds")
            self._outbox.start()
            if core.retention != KEEP:
                self._vacuuming.start()
        except BaseException:
            self._entered.set()
            await self.stop(drain=0.0)
            raise
        self._entered.set()

    async def _hidden(self, run_id: str, entries: list[TimelineEntry]) -> list[TimelineEntry]:
        """Return entries for a sink; a fault of the store does not lose them."""
        core = self._core
        noted = self._noted.pop(run_id, ())
        if any(map(notes, entries)):
            noted = (*noted, *noted_masks(entries))
        if noted:
            self._noted[run_id] = noted
            if len(self._noted) > _NOTED:
                del self._noted[next(iter(self._noted))]
        return await patiently(
            core, lambda: hidden_for_sink(core, run_id, entries, noted), "reading what sinks must not show"
        )

    async def register(self, workflow: Workflow, mode: Mode | None, hooks: Hooks) -> None:
        """Register a workflow and claim its orphaned and due runs."""
        core = self._core
        if not core.accepting:
            raise RuntimeStopped(
                "the runtime is not running: register after `await runtime.start()`, or inside `async with runtime:`"
            )
        entry = await register(core, self.subscriptions, workflow, mode, hooks, self._services)
        self._outbox.registered()
        self._times.registered(entry)
        if core.store.holding:
            self._holds.wake()
        # In the background: the workflow is registered, even if the store fails or the caller is cancelled.
        core.tasks.spawn(self._claim(entry.id))
        entry.replaying = core.tasks.spawn(call_all(core, entry, call_pending))
        self._queued.watch(entry)
        self._vacuuming.watch(entry)

    async def deregister(self, workflow_id: str, active: Literal["finish", "abort"]) -> None:
        """Deregister a workflow; its timers are cancelled first.

        Raises:
            NotRegistered: there is none. InvalidDefinition: unknown `active`.
        """
        if active not in ("finish", "abort"):
            raise InvalidDefinition(f"active is {repr_of(active, 60)}: use 'finish' or 'abort'", path="active")
        self._times.deregistered(self._core.entry(workflow_id))
        await deregister(self._core, self.subscriptions, workflow_id, active)

    async def _claim(self, workflow_id: str) -> None:
        """Claim the runs of a new workflow, also those whose states did not fit before."""
        core = self._core

        async def look() -> None:
            await try_unfit(core, workflow_id)
            await core.tasks.to_the_end(give_back(core, workflow_id))
            await promote(core, [workflow_id], queued=True)  # its mode may be another one

        try:
            await look()
        except FAULTS as fault:
            self._poller.wake()  # the others need not wait
            with contextlib.suppress(*FAULTS):  # it ends when the runtime stops: the next registration finds the runs
                await again(core, fault, look, f"claiming runs of '{workflow_id}'")
        except GeneratorExit:
            raise  # the loop is gone: there is nobody to wake
        except BaseException:
            self._poller.wake()
            raise
        self._poller.wake()

    def _unpaused(self) -> None:
        """Have the runs of workflows that are no longer paused go on: those that are due, and queued ones."""
        core = self._core
        working = core.working()
        for workflow_id in working:
            self._queued.watch(core.entries[workflow_id])
        core.tasks.spawn(self._promote(working))

    async def _promote(self, workflows: Collection[str]) -> None:
        core = self._core
        with contextlib.suppress(*FAULTS):  # it ends when the runtime stops: the next registration finds the runs
            await patiently(core, lambda: promote(core, workflows, queued=True), "starting queued runs")
        self._poller.wake()

    async def stop(self, *, drain: float) -> None:
        """Stop, once: concurrent calls wait for the same stop.

        Called during the start, it waits for the end of the start first: only then there is a store to
        close. Called from inside (a step, a hook, or a task they started) it begins the stop and returns at once: it
        cannot wait for its own run or hook. A cancelled caller ends the drain; the stop is completed all the
        same, and the cancellation continues after it.
        """
        core = self._core
        if core.state is State.NEW:
            return
        if self._stop is None:
            core.move_to(State.STOPPING)
            self._stop = core.loop.create_task(self._stopping_after_entering(drain), name="poundlock-stop")  # type: ignore[union-attr]  # set when it started
        if core.inside is not None:
            return
        interrupted: asyncio.CancelledError | None = None
        while not self._stop.done():
            try:
                await asyncio.shield(self._stop)
            except asyncio.CancelledError as cancelled:
                if self._stop.cancelled():
                    raise
                interrupted = cancelled
                self._hurry.set()
        if interrupted is not None:
            raise interrupted
        self._stop.result()

    async def _stopping_after_entering(self, drain: float) -> None:
        while not self._entered.is_set():
            try:
                await self._entered.wait()
            except asyncio.CancelledError:
                self._hurry.set()  # the loop ends: it has cancelled the start too
        await self._stopping(drain)

    async def _loop_ends(self) -> None:
        """Stop as far as possible: the caller of `stop` is gone, and another runtime may need the store."""
        await self.stop(drain=0.0)

    async def _stopping(self, drain: float) -> None:
        """Stop the runtime part by part. Each part is done even if others failed."""
        core = self._core
        self._times.stop()
        self._poller.stop()
        self._holds.stop()
        self._queued.stop()
        self._vacuuming.stop()
        self._outbox.stop()
        self.subscriptions.close()
        await self._part("finishing what was accepted", core.tasks.work_done(core.abort_grace))
        await self._part("letting runs reach a boundary", self._drain(drain))
        await self._part("ending tasks", self._interrupt())
        await self._part("releasing runs", self._release_runs())
        await self._part("writing to sinks", core.watching.close(core.abort_grace))
        core.runs.close()
        core.threads.close()
        await self._part("ending step processes", core.close_processes())
        for entry in list(core.entries.values()):
            await self._part(f"cleaning up services of workflow '{entry.id}'", self._bounded(entry.services.close))
        core.entries.clear()
        if core.built_container is not None:
            await self._part("cleaning up global services", self._bounded(core.built_container.dispose))
        core.waiters.close(RuntimeStopped("the runtime stopped before the run ended: start it again and it continues"))
        core.watch.close()
        try:
            await core.store.close()
        finally:
            core.move_to(State.STOPPED)

    async def _part(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            self._hurry.set()  # the loop ends: it has cancelled every task, this one included
        except Exception as error:  # noqa: BLE001 - the store has to be closed whatever went wrong before
            log.error("%s failed while stopping\n%s", what, log_text(error))

    async def _bounded(self, disposal: Callable[[], Any]) -> None:
        core = self._core
        answer = await call_within(core.hook_timeout, disposal, clock=core.clock, keep=core.tasks.keep)
        if isinstance(answer.error, Exception):
            raise answer.error
        if answer.error is not None:
            log.error("a clean-up raised\n%s", log_text(answer.error))

    async def _drain(self, drain: float) -> None:
        """Let runs reach their next boundary; the others are interrupted."""
        core = self._core
        driven = core.runs.all_driven()
        for live in driven:
            live.run.stopping = True
            if live.run.let_go is not None:
                live.run.let_go()
        tasks = [live.task for live in driven if live.task is not None and live.alive]
        if not tasks or drain <= 0 or self._hurry.is_set():
            return
        hurry = core.tasks.spawn(_set(self._hurry))
        try:
            async with timeout_after(core.clock, drain):
                left = {*tasks}
                while left and not hurry.done():
                    _, rest = await asyncio.wait({*left, hurry}, return_when=asyncio.FIRST_COMPLETED)
                    left = {task for task in rest if task is not hurry}
        except TimeoutError:
            left = {task for task in tasks if not task.done()}
            log.warning("%d runs did not reach a boundary in %g s; they continue from their last one", len(left), drain)
        finally:
            hurry.cancel()

    async def _interrupt(self) -> None:
        """Interrupt user code, wait for commits in flight and what follows them, and end the remaining tasks."""
        core = self._core
        for live in core.runs.all_driven():
            live.run.stopping = True
            interrupt(live.run, live.task, Interruption.STOP)
        with contextlib.suppress(TimeoutError):
            async with timeout_after(core.clock, core.abort_grace):
                while tasks := self._driving():
                    await asyncio.wait(tasks)
        await self._end_tasks()

    async def _end_tasks(self) -> None:
        core = self._core
        await core.tasks.join(self._driving, grace=core.abort_grace)

    def _driving(self) -> list[asyncio.Task[None]]:
        for live in self._core.runs.all_driven():
            interrupt(live.run, None, Interruption.STOP)
        return [live.task for live in self._core.runs.all_driven() if live.task is not None and live.alive]

    async def _release_runs(self) -> None:
        """Release the runs that this process took and never began: they were not interrupted by a crash."""
        core = self._core
        if not self._opened:
            return  # it cannot own any run
        await core.store.written_behind()
        idle = [live.run.run_id for live in core.runs.all_driven() if not live.begun]
        vacant = [*core.runs.vacant(Phase.LOADING), *core.runs.vacant(Phase.UNSURE)]
        for run_id in [*vacant, *idle, *await unknown(core)]:
            await self._part(f"releasing run '{run_id}'", release_runs(core, [run_id], begun=False))

    async def _heard(self, publication: Publication) -> None:
        await from_bus(self._core, publication)


def _follow(store: Store | FollowsClock, clock: Clock) -> None:
    """Give this clock to the store, if the store uses one; a wrapper whose methods are all async keeps its own."""
    # Not `isinstance`: from Python 3.12 on that does not see the methods that a wrapper forwards.
    adopt = getattr(store, "adopt", None)
    if callable(adopt) and not is_coroutine_function(adopt):
        adopt(clock)


def _retain(store: Store | FollowsRetention, retention: Retention) -> None:
    """Tell the store how long receipts are kept, if that is not what it does anyway, and it can be told."""
    retain = getattr(store, "retain", None)
    if callable(retain) and not is_coroutine_function(retain):
        retain(seconds(retention.receipts), seconds(retention.unwanted_events))


async def _set(event: asyncio.Event) -> None:
    await event.wait()
