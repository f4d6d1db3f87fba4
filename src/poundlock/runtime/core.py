"""The core: what all files of this room share. No behaviour beyond keeping things and telling them apart."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from poundlock.clock import Clock, Timer, timeout_after
from poundlock.errors import NotRegistered, RuntimeStopped, suggest
from poundlock.ids import Ids, default_ids
from poundlock.model.changes import Changes
from poundlock.model.runs import Message
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.threads import StepThreads
from poundlock.runtime.dispatch import DispatchIndex
from poundlock.runtime.loads import LoadDesk
from poundlock.runtime.waiters import Waiters

if TYPE_CHECKING:
    from poundlock.artifacts import ArtifactContainer
    from poundlock.ports import Bus, Store
    from poundlock.runtime.registration import Registered

log = logging.getLogger("poundlock.runtime")
T = TypeVar("T")


class LiveRun:
    """A run this process owns, and the task that drives it."""

    __slots__ = ("creation", "entry", "gate", "left", "new", "run", "task")

    def __init__(self, run: ActiveRun, entry: Registered, *, new: bool = False) -> None:
        self.run = run
        self.entry = entry
        self.new = new
        self.task: asyncio.Task[None] | None = None
        self.gate: asyncio.Event | None = None
        self.creation: asyncio.Task[None] | None = None
        """The run's creation while somebody else writes it; its own boundaries come after that."""
        self.left: asyncio.Future[None] | None = None
        """Done when the run's task is left behind, if anybody asked."""

    def open_gate(self) -> None:
        """Let deliveries in again: the run has stopped, or goes on after all."""
        gate = self.gate
        if gate is not None:
            gate.set()
            self.gate = None


class Core:
    """State of one runtime. Built when the runtime is entered."""

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
        abort_grace: float,
        container: Callable[[], ArtifactContainer],
        state_registry: Any = None,
    ) -> None:
        self.store = store
        self.bus = bus
        self.clock = clock
        self.ids = ids
        self.env = env
        self.timeline = timeline
        self.pause_window = pause_window
        self.abort_grace = abort_grace
        self.make_container = container
        self._container: ArtifactContainer | None = None
        self.worker = default_ids.unique()
        self.threads = StepThreads(clock)
        self.entries: dict[str, Registered] = {}
        self.index = DispatchIndex()
        self.loads = LoadDesk(store)
        self.live: dict[str, LiveRun] = {}
        self.unwritten: dict[str, LiveRun] = {}
        """Invoked runs that the store does not know yet; what is for them is looked up here."""
        self.parked: OrderedDict[str, tuple[float, LiveRun]] = OrderedDict()
        self.resuming: dict[str, int] = {}
        """Epoch of the wait of each run whose resume is being committed: a second caller means that one too."""
        self.stranded: set[str] = set()
        """Runs of this process that nobody drives: the store failed them, or they were promoted a moment ago."""
        self.unheard: set[str] = set()
        """Runs that a commit may have made this process's own, and nobody heard what it came to."""
        self.waiters = Waiters()
        self.accepting = False
        self.state_registry = state_registry
        self.wake_at: Callable[[float], None] = _nobody
        """Have due runs claimed at a time; set when the runtime starts."""
        self.want: Callable[[str, list[str]], None] = _nobody
        """Listen for what a run waits for from now on; set when the runtime starts."""
        self.counters: dict[str, int] = {}
        self.size_at_start = 0
        """Bytes that the store took when it was opened."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._eviction: Timer | None = None

    # --------------------------------------------------------------------------------------------------- tasks
    def spawn(self, work: Coroutine[Any, Any, None], name: str | None = None) -> asyncio.Task[None]:
        """Start a task that this runtime owns: it is kept alive, and its failure is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    async def to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what must not stop half-way: it goes on if the caller is cancelled meanwhile."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._heard)
        return await asyncio.shield(task)

    def _heard(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever called may have gone away

    def drive(self, live: LiveRun, work: Coroutine[Any, Any, None]) -> None:
        """Drive a run in a task of its own. It is kept alive by its place among the live runs, and never raises.

        Whoever takes the run from that place while the task still has something to do calls `own` first.
        """
        run_id = live.run.identity.run_id
        self.live[run_id] = live
        if not live.run.written:
            self.unwritten[run_id] = live
        # Named like its run: that helps who debugs, and making a name up takes as long as a step.
        live.task = asyncio.get_running_loop().create_task(work, name=run_id)

    def own(self, task: asyncio.Task[None] | None) -> None:
        """Keep a task alive until it is done: the event loop itself does not."""
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of the runtime failed", exc_info=task.exception())

    async def join_tasks(self, *, cancel: bool) -> None:
        """Wait until all owned tasks have ended; `cancel` asks them to, and leaves behind who does not in time."""
        current = asyncio.current_task()
        try:
            async with timeout_after(self.clock, self.abort_grace if cancel else None):
                while tasks := [task for task in (*self._tasks, *self._driving()) if task is not current]:
                    for task in tasks if cancel else ():
                        task.cancel()
                    await asyncio.wait(tasks)
        except TimeoutError:
            log.warning("%d tasks did not stop within %g s: left behind", len(tasks), self.abort_grace)

    def _driving(self) -> list[asyncio.Task[None]]:
        return [live.task for live in self.live.values() if live.task is not None and not live.task.done()]

    # ------------------------------------------------------------------------------------------------ containers
    @property
    def container(self) -> ArtifactContainer:
        """The container of global services; made when somebody first needs it."""
        if self._container is None:
            self._container = self.make_container()
        return self._container

    @property
    def built_container(self) -> ArtifactContainer | None:
        """The container of global services, if it was ever needed."""
        return self._container

    # ---------------------------------------------------------------------------------------------------- look-ups
    def entry(self, workflow_id: str) -> Registered:
        """Return a registered workflow.

        Raises:
            NotRegistered: no such workflow; the message names near matches.
        """
        entry = self.entries.get(workflow_id)
        if entry is None:
            raise NotRegistered(
                f"no workflow '{workflow_id}' is registered: {suggest(workflow_id, list(self.entries))}",
                workflow_id=workflow_id,
            )
        return entry

    def check_accepting(self) -> None:
        """Refuse work while the runtime is not entered, or stops (`RuntimeStopped`)."""
        if not self.accepting:
            raise RuntimeStopped("the runtime is not running: use it inside `async with runtime:`")

    def count(self, what: str) -> None:
        """Count something for `statistics`."""
        self.counters[what] = self.counters.get(what, 0) + 1

    # ----------------------------------------------------------------------------------------- runs held in memory
    def committed(self, run: ActiveRun, changes: Changes) -> None:
        """Let a run take over what a commit made true."""
        run.committed(changes)
        if changes.creates:
            self.unwritten.pop(run.identity.run_id, None)

    def held(self, run_id: str) -> LiveRun | None:
        """Return a run that is in this process's memory, driven or parked."""
        live = self.live.get(run_id)
        if live is None and run_id in self.parked:
            return self.parked[run_id][1]
        return live

    def tell(self, message: Message) -> None:
        """Hand a message that is durable to the run, if it is in this process's memory."""
        live = self.held(message.run_id)
        if live is not None:
            live.run.inbox.append(message)

    def keep_parked(self, live: LiveRun) -> None:
        """Keep a parked run's state in memory for the pause window."""
        run_id = live.run.identity.run_id
        if self.pause_window <= 0:
            return
        self.parked[run_id] = (self.clock.monotonic() + self.pause_window, live)
        if self._eviction is None:
            self._arm_eviction()

    def unpark(self, run_id: str) -> LiveRun | None:
        """Take a parked run out of memory, to drive it or to change it."""
        held = self.parked.pop(run_id, None)
        return None if held is None else held[1]

    def _arm_eviction(self) -> None:
        first = next(iter(self.parked.values()))[0]
        self._eviction = self.clock.call_later(first - self.clock.monotonic(), self._evict)

    def _evict(self) -> None:
        self._eviction = None
        now = self.clock.monotonic()
        while self.parked:
            run_id, (deadline, _) = next(iter(self.parked.items()))
            if deadline > now:
                self._arm_eviction()
                return
            del self.parked[run_id]

    def stop_evicting(self) -> None:
        """Forget parked runs held in memory; their rows stay."""
        self.parked.clear()
        if self._eviction is not None:
            self._eviction.cancel()
            self._eviction = None


def _nobody(*_what: Any) -> None:
    """Before the runtime starts there is nobody to ask."""
