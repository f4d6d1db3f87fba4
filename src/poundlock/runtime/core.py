"""The core: the parts of a runtime, and nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import Context, copy_context
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from poundlock.clock import Clock
from poundlock.errors import NotRegistered, RuntimeStopped, WrongLoop, suggest
from poundlock.guard import INSIDE, LoopWatch, Secretive, repr_of
from poundlock.ids import Ids, default_ids
from poundlock.model.changes import RunMove
from poundlock.model.events import Event
from poundlock.model.holds import HoldKey
from poundlock.model.operator_pause import WorkflowPause, pause_in
from poundlock.model.retention import KEEP, Retention
from poundlock.model.runs import RunIdentity
from poundlock.model.timeline_entry import TimelineEntry
from poundlock.pipeline.active import Supervision
from poundlock.pipeline.answers import Answers
from poundlock.pipeline.threads import StepThreads
from poundlock.ports import Bus, Store
from poundlock.runtime.dispatch import DispatchIndex
from poundlock.runtime.entries import Registered
from poundlock.runtime.hold_desk import HoldDesk
from poundlock.runtime.loads import LoadDesk
from poundlock.runtime.redaction import Redaction
from poundlock.runtime.run_table import RunTable
from poundlock.runtime.sinks import Hide, SinkQueue
from poundlock.runtime.tasks import Tasks
from poundlock.runtime.waiters import Waiters, Wanted
from poundlock.runtime.watching import Commit, Watching

if TYPE_CHECKING:  # heavy, and needed for a type alone
    from poundlock.artifacts import ArtifactContainer
    from poundlock.pipeline.processes import StepProcesses

log = logging.getLogger("poundlock.runtime")


class State(Enum):
    """State of a runtime between creation and stop; it only moves forward."""

    NEW = "new"
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"


# Checked for every run: reading a member from its class is a call of Python code before CPython 3.12.
_NEW: Final = State.NEW
_STARTED: Final = State.STARTED
_STOPPED: Final = State.STOPPED


class Core:
    """The parts of one runtime, created with it."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        clock: Clock,
        ids: Ids,
        env: Mapping[str, str],
        timeline: bool,
        pause_window: float,
        pause_window_runs: int,
        abort_grace: float,
        hook_timeout: float,
        container: Callable[[], ArtifactContainer],
        has_services: bool,
        state_registry: Any = None,
        process_workers: int | None = None,
        sinks: Sequence[Any] = (),
        on_unmatched: Callable[[Event], Any] | None = None,
        retention: Retention = KEEP,
        redact: Iterable[str] = (),
    ) -> None:
        self.store = store
        self.commit: Commit = store.commit
        """Commits a unit of work to the store, and tells followers and sinks of it while there are any. Nothing in this
        package calls the store's own `commit`."""
        self.bus = bus
        self.clock = clock
        self.ids = ids
        self.env = env
        self.timeline = timeline
        self.abort_grace = abort_grace
        self.hook_timeout = hook_timeout
        self.on_unmatched = on_unmatched
        self.make_container = container
        self.has_services = has_services
        self._container: ArtifactContainer | None = None
        self.worker = default_ids.unique()
        self.state = State.NEW
        self.accepting = False
        """Whether work is accepted: kept beside the state because every run checks it."""
        self.tasks = Tasks(clock)
        self.threads = StepThreads(clock)
        self.watch = LoopWatch()
        self.watching = Watching(store, self.tasks.spawn, self._watched)
        self._process_workers = process_workers
        self._processes: StepProcesses | None = None
        self.supervision = Supervision(
            self.watch,
            abort_grace,
            self.tasks.keep,
            Answers(),
            self.step_processes,
            {},
            pause_window,
            self._sent,
            self.watching.feeds,
            self.pause_of,
        )
        self.deliver: Callable[[str], None] = _nothing
        """Delivers what a run has left in the outbox; set when the runtime starts."""
        self.flush: Callable[[], Awaitable[None]] = _no_flush
        """Delivers what is in the outbox now, without waiting for the next attempts; set when the runtime starts."""
        self.control_events = True
        """Whether `run:abort` and `run:signal` events are carried out."""
        self.pauses: dict[str, WorkflowPause] = {}
        """The workflows that are paused, as the store has them; under `ALL` the pause of all."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop it was started on."""
        self.entries: dict[str, Registered] = {}
        self.index = DispatchIndex()
        self.loads = LoadDesk(store)
        self.holds = HoldDesk(store)
        self.hold_until: Callable[[float], None] = _nothing
        """Schedules a look at what triggers hold; set when the runtime starts."""
        self.end_hold: Callable[[HoldKey], Awaitable[None]] = _no_end
        """Ends a hold whose time is up, before another event is taken; set like `abort`."""
        self.runs = RunTable(clock, pause_window, pause_window_runs)
        self.waiters = Waiters()
        self.awaited: dict[str, list[Wanted]] = {}
        """By run: the runs that its steps and hooks are waiting for."""
        self.followed: dict[str, str] = {}
        """By child: the run that drives a stage which waits for its end."""
        self.announcing: dict[str, asyncio.Task[None]] = {}
        """By run that has ended without being driven: calls its hooks and answers those who wait for it."""
        self.places: dict[str, tuple[asyncio.Lock, int]] = {}
        """By run: held by the call that begins a run in its place, and how many calls want to."""
        self.lost_ends: dict[str, RunMove] = {}
        """Ends whose commit got no answer, until it is known whether they were written: see `announce_if_written`."""
        self.state_registry = state_registry
        self.retention = retention
        """Of the workflows that have none of their own."""
        self.redaction = Redaction(redact)
        self.hides = False
        """Whether a workflow that was registered here has sensitive values."""
        self.vacuuming = asyncio.Lock()
        """Held while ended runs are deleted."""
        self.wake_at: Callable[[float], None] = _nothing
        """Schedules a claim of due runs at a time; set when the runtime starts."""
        self.note_queued: Callable[[RunIdentity], None] = _nothing
        """Notes that a run was queued, because it may have a deadline; set when the runtime starts."""
        self.note_waiting: Callable[[Sequence[str]], None] = _nothing
        """Notes that runs wait for a slot to go on, because they may have deadlines; set when the runtime starts."""
        self.queued: dict[str, float] = {}
        """By run that waits for a slot here and has a limit: its deadline."""
        self.claiming = asyncio.Lock()
        """Held from a claim until the claimed runs are driven."""
        self.hooks_running: set[str] = set()
        """Runs that have ended, and whose hooks are being called here."""
        self.hooks_seen: list[set[str]] = []
        """One set per reading of pending hooks under way: the runs it leaves out, also those called since."""
        self.left: set[str] = set()
        """Runs whose step this runtime interrupted when it stopped."""
        self.wanted: dict[str, list[str]] = {}
        """By run, the event types of its current wait that its workflow does not declare."""
        self.abort: Callable[[str, str], Awaitable[None]] = _no_abort
        """Aborts a run, with a reason; set by the commands, which are above what drives runs."""
        self.start_run: Callable[[RunIdentity, str, Any, str], Awaitable[str]] = _no_start
        """Starts a run for another one, by workflow, payload and idempotency key; set like `abort`."""
        self.unpaused: Callable[[], None] = _nothing
        """Has workflows that are no longer paused go on; set when the runtime starts."""
        self.find_promoted: Callable[[str], None] = _nothing
        """Drives runs of a workflow that a commit without an answer has promoted; set when the runtime starts."""
        self.finding: dict[str, bool] = {}
        """By workflow for which that is being done: whether it has to be done once more."""
        self.want: Callable[[str, list[str]], None] = _nothing
        """Subscribes to the events that a run is waiting for; set when the runtime starts."""
        self.counters: dict[str, int] = {}
        self.hide: Hide = _as_they_are
        """Returns entries of a run as they are shown; set when the runtime starts."""
        self.watching.send_to([SinkQueue(sink, clock, self.count, hook_timeout, self._hidden) for sink in sinks])
        self.size_at_start = 0
        """Size of the store in bytes when it was opened."""

    async def _hidden(self, run_id: str, entries: list[TimelineEntry]) -> list[TimelineEntry]:
        return await self.hide(run_id, entries)

    def step_processes(self) -> StepProcesses:
        """Return the processes that steps run in, made at the first use."""
        if self._processes is None:
            from poundlock.pipeline.processes import StepProcesses  # most programs run no step in a process

            self._processes = StepProcesses(self.clock, self._process_workers)
        return self._processes

    async def close_processes(self) -> None:
        """End all processes."""
        if self._processes is not None:
            await self._processes.close(self.abort_grace)

    # ------------------------------------------------------------------------------------------------ containers
    @property
    def container(self) -> ArtifactContainer:
        """The container of global services; created at its first use."""
        if self._container is None:
            self._container = self.make_container()
        return self._container

    @property
    def built_container(self) -> ArtifactContainer | None:
        """The container of global services, if it was created."""
        return self._container

    # ---------------------------------------------------------------------------------------------------- look-ups
    def pause_of(self, workflow_id: str) -> WorkflowPause | None:
        """Return the pause of a workflow, or of all of them; None if it is not paused."""
        return pause_in(self.pauses, workflow_id) if self.pauses else None

    def working(self) -> dict[str, int]:
        """Return the workflows whose runs this process may take over, registered and not paused, with their slots."""
        entries = self.entries.values()
        return {
            entry.id: entry.mode.slots for entry in entries if not entry.closing and self.pause_of(entry.id) is None
        }

    def entry(self, workflow_id: str) -> Registered:
        """Return a registered workflow.

        Raises:
            NotRegistered: no such workflow; the message names near matches.
        """
        entry = self.entries.get(workflow_id) if isinstance(workflow_id, str) else None
        if entry is None:
            raise NotRegistered(
                f"no workflow {repr_of(workflow_id, 60)} is registered: {suggest(workflow_id, list(self.entries))}",
                workflow_id=workflow_id,
            )
        return entry

    def move_to(self, state: State) -> None:
        """Set the runtime's state."""
        self.state = state
        self.accepting = state is _STARTED

    def workflows_with(self, service_id: str) -> list[str]:
        """Return the workflows that define a service of this id."""
        return [
            entry.id
            for entry in self.entries.values()
            if any(service.id == service_id for service in entry.definition.services)
        ]

    @property
    def ending(self) -> bool:
        """Whether runs are to be left as their last commit left them: the runtime stops, or its loop ends."""
        return (self.state is not _STARTED and self.state is not _NEW) or self.watch.ending

    def here(self) -> Core:
        """Return the core if the caller runs on the loop it was started on.

        Raises:
            WrongLoop: another event loop, or none, is running; nothing was done.
        """
        if self.loop is not None and asyncio.get_running_loop() is not self.loop:
            raise WrongLoop(
                "this runtime belongs to another event loop: call it there, for example with "
                "asyncio.run_coroutine_threadsafe(runtime.emit(...), loop), or make a runtime on this loop"
            )
        return self

    def at_work(self) -> Core:
        """Return the core like `here`, for calls that write or wait for a run.

        Raises:
            WrongLoop: see `here`.
            RuntimeStopped: the runtime has not been started, or has stopped.
        """
        core = self.here()
        if self.state is _NEW or self.state is _STOPPED:
            raise RuntimeStopped(
                "the runtime is not running: use it after `await runtime.start()`, or inside `async with runtime:`"
            )
        return core

    async def announced(self, run_id: str) -> None:
        """Return once the hooks of an end without a driver were called; at once inside of them."""
        while (announcing := self.announcing.get(run_id)) is not None and self.inside != run_id:
            await asyncio.wait([announcing])

    def check_accepting(self) -> None:
        """Refuse work unless the runtime is running (`RuntimeStopped`)."""
        if not self.accepting:
            raise RuntimeStopped(
                "the runtime is not running: use it after `await runtime.start()`, or inside `async with runtime:`"
            )

    # ------------------------------------------------------------------------------------------ whose code this is
    def enter_run(self, run_id: str, run: Secretive | None = None) -> None:
        """Mark the current task as belonging to a run; `run` knows what its texts must not show."""
        INSIDE.set((self.worker, run_id, run))

    def context_of_hook(self) -> Context | None:
        """Return the context for a hook that is called outside of any run; None if the current one can be used.

        A hook is inside the runtime: code that stops the runtime from there cannot wait for the stop.
        """
        if self.inside is not None:
            return None
        context = copy_context()
        context.run(self.enter_run, "")
        return context

    @property
    def inside(self) -> str | None:
        """The id of the run of this runtime that the current code belongs to: a step, a hook, or what they started.

        Empty in a hook that belongs to no run.
        """
        found = INSIDE.get()
        return found[1] if found is not None and found[0] == self.worker else None

    def _watched(self, commit: Commit) -> None:
        self.commit = commit

    def _sent(self, run_id: str) -> None:
        self.deliver(run_id)

    def waits_for_slot(self, run_id: str) -> None:
        """Note that a commit of this process resumed a run, which waits for a slot now."""
        self.runs.outdate(run_id)
        self.note_waiting([run_id])

    def count(self, what: str, number: int = 1) -> None:
        """Add to a counter of `statistics`."""
        self.counters[what] = self.counters.get(what, 0) + number


async def _no_start(*_what: Any) -> str:
    """Before the commands are known nothing runs."""
    raise RuntimeStopped("the runtime is not running")


async def _as_they_are(_run_id: str, entries: list[TimelineEntry]) -> list[TimelineEntry]:
    """Before the runtime starts there is nothing to hide."""
    return entries


async def _no_abort(*_what: Any) -> None:
    """Before the commands are known there is no run."""


async def _no_end(*_what: Any) -> None:
    """Before the commands are known nothing is held."""


def _nothing(*_what: Any) -> None:
    """Before the runtime starts there is nothing to wake and nothing to listen with."""


async def _no_flush() -> None:
    """Before the runtime starts nothing is delivered."""
