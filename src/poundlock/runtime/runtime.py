"""WorkflowRuntime: the map of this room. Open this file first.

House rule: a public method here is a docstring and one call into the file that does the work. The path of an event is
in the package's docstring; the imports below show where to find the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

from poundlock.clock import Clock, SystemClock
from poundlock.errors import InvalidDefinition
from poundlock.ids import default_ids
from poundlock.model.comparing import Comparison
from poundlock.model.definitions import Service
from poundlock.model.durations import Duration
from poundlock.model.events import Event, merged
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes import Mode
from poundlock.model.outbox import DeadLetter
from poundlock.model.receipts import ReceiptLine
from poundlock.model.retention import KEEP, Retention, Vacuumed
from poundlock.model.runs import OperatorPause, RunInfo, RunResult
from poundlock.model.timeline import Timeline
from poundlock.model.validation import (
    check_env,
    check_global_services,
    check_redact,
    check_retention,
    duration,
    whole_number,
)
from poundlock.pipeline.builder import Workflow
from poundlock.ports import Bus, Page, Store
from poundlock.runtime import dead_letters, lifetime, reading, results
from poundlock.runtime.commands import HANDLERS
from poundlock.runtime.commands.cancel import Cancel, cancel
from poundlock.runtime.commands.create import Create, create
from poundlock.runtime.commands.fork import Fork, fork
from poundlock.runtime.commands.mend import Rerun, Retry, rerun, retry
from poundlock.runtime.commands.outbox import ReplayDeadLetters, replay_dead_letters
from poundlock.runtime.commands.pause import Pause, pause
from poundlock.runtime.commands.pause_workflow import PauseWorkflow, pause_workflow
from poundlock.runtime.commands.reap import ReapStuck, reap
from poundlock.runtime.commands.resume import Resume, resume
from poundlock.runtime.commands.signal import Signal, signal
from poundlock.runtime.commands.unpause import Unpause, unpause
from poundlock.runtime.commands.unpause_workflow import UnpauseWorkflow, unpause_workflow
from poundlock.runtime.commands.vacuum import Vacuum, vacuum
from poundlock.runtime.core import Core
from poundlock.runtime.emitting import emit, explain
from poundlock.runtime.following import Follower, follow
from poundlock.runtime.hooks import Hooks
from poundlock.runtime.receipts import Receipt
from poundlock.runtime.sinks import Sink, checked_sinks
from poundlock.runtime.unmatched import checked_hook
from poundlock.services.install import global_container, not_global
from poundlock.stores import open as open_store


class WorkflowRuntime:
    """Runs workflows: takes events, runs pipelines, pauses and resumes them, and keeps a timeline of everything.

    Use it as an async context manager, or call `start` and `stop`, which do the same. Starting opens the store,
    registers the given workflows and takes over runs that a crash interrupted.

    Args:
        workflows: registered at the start, in their own mode and without hooks; use `register` for other options.
        bus: where events are published and received; default: a new LocalBus.
        store: None keeps everything in memory; "sqlite:///runs.db", `Path("runs.db")` or a Store makes it durable. A
            Store uses this runtime's clock, unless it was given one.
        services: global services, or a dependency-injector container whose providers become global services.
        env: variables for `__env__`; default: the process's environment.
        clock: default: the system's.
        timeline: False keeps only the state deltas of a run's timeline.
        state_registry: creates the state stores that services select from; see `poundlock.state`.
        pause_window: how long a paused run stays in memory; after that only its row is left. A run whose steps
            only wait for their next attempts is parked if that takes as long.
        pause_window_runs: how many paused runs stay in memory at most; above that the one that paused first leaves.
        abort_grace: how long an aborted step may take to stop before it is left behind.
        hook_timeout: how long an async hook, or the clean-up of a run's services, may take; then it is cancelled.
        retention: how long ended runs, receipts and dead letters are kept, see `Retention`; for ended runs, the
            workflow's own `retention=` comes before it. Default: ended runs are kept for ever.
        redact: paths of payloads that no run needs, such as "card.number" or "items.*.pin": every event has "***" there
            before anything of it is written.
        process_workers: how many processes at most run steps with `executor="process"`; default: one per CPU. The first
            such step starts the first one.
        sinks: other places that get the timeline entries of all runs, behind their commits: functions of
            `(run_id, entries)`, async or not, or objects with such a method `write`. Best effort: they never delay or
            fail a run; what they cannot take is dropped, and counted in `statistics`. See `poundlock.sinks`.
        on_unmatched: `(event)`, sync or async, for each event that no workflow and no paused run wanted, after that is
            durable; `emit` returns after it. For events that steps have emitted it is called again if the process died
            before it returned. It is not called for what it emits itself.
        control_events: whether `run:abort` and `run:signal` events do what `abort` and `signal` do. Then anybody who
            may emit events, or publish on the bus, may end any run; with False they are events like others.
    """

    def __init__(
        self,
        *workflows: Workflow,
        bus: Bus | None = None,
        store: str | os.PathLike[str] | Store | None = None,
        services: Iterable[Service] | Any = (),
        env: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        timeline: bool = True,
        state_registry: Any = None,
        pause_window: Duration = 60.0,
        pause_window_runs: int = 10_000,
        abort_grace: Duration = 10.0,
        hook_timeout: Duration = 60.0,
        process_workers: int | None = None,
        sinks: Iterable[Sink] = (),
        on_unmatched: Callable[[Event], Any] | None = None,
        control_events: bool = True,
        retention: Retention | None = None,
        redact: Sequence[str] = (),
    ) -> None:
        self.workflows = workflows
        self.clock: Clock = clock or SystemClock()
        self.store: Store = open_store(store, clock=self.clock)
        self.bus = bus if bus is not None else lifetime.default_bus()
        parents, self.services = lifetime.split_services(services)
        check_global_services(self.services)
        check_retention(retention)
        self.retention = KEEP if retention is None else retention
        self._core = Core(
            store=self.store,
            bus=self.bus,
            clock=self.clock,
            ids=default_ids,
            env=os.environ if env is None else check_env(env),
            timeline=timeline,
            pause_window=duration("pause_window", pause_window),
            pause_window_runs=whole_number("pause_window_runs", pause_window_runs),
            abort_grace=duration("abort_grace", abort_grace),
            hook_timeout=duration("hook_timeout", hook_timeout),
            container=lambda: global_container(self.clock, self.services, parents),
            has_services=bool(parents or self.services),
            state_registry=state_registry,
            process_workers=None if process_workers is None else whole_number("process_workers", process_workers, 1),
            sinks=checked_sinks(sinks),
            on_unmatched=checked_hook(on_unmatched),
            retention=self.retention,
            redact=check_redact(redact),
        )
        self._core.control_events = control_events
        self._lifetime = lifetime.Lifetime(self._core, workflows, self.services)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lifetime.stop(drain=30.0 if error is None else 0.0)

    # ---------------------------------------------------------------------------------------------- registering
    async def register(
        self,
        workflow: Workflow,
        mode: Mode | None = None,
        *,
        on_prepare: Callable[[Any], Any] | None = None,
        on_complete: Callable[[RunResult], Any] | None = None,
        on_resume: Callable[[Any], Any] | None = None,
        on_cleanup: Callable[[], Any] | None = None,
        on_dispatch: Callable[[ReceiptLine], Any] | None = None,
    ) -> None:
        """Register a workflow: it is validated and wired, and its orphaned runs are claimed.

        Args:
            workflow: what to register.
            mode: execution mode; default: the workflow's own.
            on_prepare: `(ctx)` before the first stage; may return a patch; if it raises, the run fails.
            on_complete: `(result)` after a run's end is durable.
            on_resume: `(ctx)` before a resumed run continues.
            on_cleanup: `()` after the run's services are closed; the workflow may be deregistered from here.
            on_dispatch: `(line)` for each receipt line of this workflow, after it is durable.

        Raises:
            AlreadyRegistered, DuplicateKey, InvalidDefinition, EnvMissing: nothing was registered.
        """
        hooks = Hooks(on_prepare, on_complete, on_resume, on_cleanup, on_dispatch)
        self._core.here()
        await self._lifetime.register(workflow, mode, hooks)

    @contextmanager
    def override(self, id: str, replacement: Any, *, workflow: str | None = None) -> Iterator[None]:
        """Replace a service, for tests: `with runtime.override("mail", FakeMail()): ...`.

        Args:
            id: which service.
            replacement: a function or class is the factory, any other object is the instance.
            workflow: whose service; None for a global one, used by every workflow that does not define this id itself.

        Raises:
            NotRegistered: no such workflow. ArtifactNotFound: no such service; the message names near matches.
        """
        if workflow is None:
            if self._core.container.key_of(id) is None:
                raise not_global(self._core.container, id, self._core.workflows_with(id))
            with self._core.container.override(id, replacement):
                yield
        else:
            with self._core.entry(workflow).services.override(id, replacement):
                yield

    async def deregister(self, id: str, active: Literal["finish", "abort"] = "finish") -> None:
        """Deregister a workflow; its active runs finish or are aborted, parked ones stay in the store.

        It is done once: concurrent calls wait for the same end, and it continues if its callers
        are cancelled. From a hook it does not wait for the hook's own run; if it is in progress it returns at once, and
        also inside a run that one of the active runs waits for.

        Raises:
            NotRegistered: no such workflow. InvalidDefinition: unknown `active`; nothing is done.
        """
        self._core.at_work()
        await self._lifetime.deregister(id, active)

    def has_workflow(self, id: str) -> bool:
        """Whether a workflow of this id is registered."""
        return id in self._core.entries

    def list_workflows(self) -> list[str]:
        """Return the ids of the registered workflows, in order of registration."""
        return list(self._core.entries)

    def registry(self, id: str) -> reading.PipelineRegistry:
        """Return the runs of a workflow that are in this process's memory (`NotRegistered` if unknown)."""
        return reading.PipelineRegistry(self._core, self._core.entry(id))

    # --------------------------------------------------------------------------------------------------- events
    async def emit(self, event: Event | str, payload: Any = None, /, **fields: Any) -> Receipt:
        """Offer an event to all workflows and waiting runs, and return a receipt when the result is durable.

        Never waits for a run. With a type instead of an Event, payload and fields are merged into the payload.

        Raises:
            InvalidEvent, NotStorable: it is not an event; nothing happened.
            IdempotencyConflict: its id was used before with other content; nothing was decided.
            Contended: too many concurrent decisions; nothing was decided, emit it again.
        """
        return await emit(self._core.here(), self._lifetime.subscriptions.own, event, payload, fields)

    async def explain(self, event: Event | str, payload: Any = None, /, **fields: Any) -> Receipt:
        """Return what `emit` would return; change nothing.

        A line whose run does not exist before `emit` has no `run_id`. Of a run that would be queued, or that takes the
        event while it is queued or was resumed without a slot, the reason also says what it waits for: how many slots
        are taken, by which runs, and how many others are in line. Behind the lines of `emit` there are `filtered` ones
        for runs that wait for events of this type, but by their correlation not for this one: up to ten of the newest
        500 that are waiting. Raises the errors of `emit`.
        """
        return await explain(self._core.here(), event, payload, fields)

    # ----------------------------------------------------------------------------------------------------- runs
    async def invoke(
        self,
        workflow_id: str,
        trigger_id: str | None = None,
        event: Event | None = None,
        *,
        run_id: str | None = None,
        conflict: Literal["fail", "use_existing", "terminate_existing"] = "fail",
        idempotency_key: str | None = None,
        until: results.Until = "rest",
    ) -> RunResult:
        """Run a workflow without bus and mode; returns at its pause or end, or as `until` says.

        Args:
            workflow_id: which workflow.
            trigger_id: which trigger's pipeline and map; default: the only one.
            event: what it runs on; default: one without payload.
            run_id: the run's id; default: a new one.
            conflict: what to do if that id exists: "fail"; "use_existing" and return its result; "terminate_existing":
                abort that run if it has not ended, and begin a new one in its place, which has nothing of the old one.
            idempotency_key: a second call with the same key and content returns the first one's result.
            until: "rest" waits until it is paused or has ended, "end" through its pauses, "accepted" not at all: then
                the result says what the run is now. Give a `run_id` with it, so that the run is durable by then.

        Raises:
            NotRegistered: unknown workflow or trigger.
            InvalidDefinition: there are several triggers or pipelines and none is named, or `until` is unknown.
            RunExists: the id is taken; unless `conflict` is "fail", by a run of another workflow.
            IdempotencyConflict: the key was used with other content.
            WouldDeadlock: the run to terminate is the one that calls this, or waits for it.
            NotStorable, StateInvalid, InvalidEvent: the event cannot begin a run.
        """
        core = self._core.here()
        command = Create(
            workflow_id, trigger_id, event, run_id=run_id, conflict=conflict, idempotency_key=idempotency_key
        )
        results.check_until(until, "rest", "end", "accepted")
        return await results.result_at(core, await create(core, command), until)

    async def run(self, workflow_id: str, payload: Any = None, /, **fields: Any) -> RunResult:
        """Invoke a workflow with a payload; the short form of `invoke`."""
        whole = merged(payload, fields) if fields or payload is None else payload
        core = self._core.here()
        return await results.next_result(core, await create(core, Create(workflow_id, payload=whole)))

    async def resume(
        self,
        run_id: str,
        patch: Mapping[str, Any] | None = None,
        *,
        wait: str | None = None,
        event: str | None = None,
        until: results.Until = "rest",
    ) -> RunResult:
        """Resume a paused run; returns at its next pause or end, or as `until` says.

        Args:
            run_id: which run.
            patch: merged into its state.
            wait: id of the wait that is answered; default: the one it is paused at when this call begins. While the run
                waits for its children, the address of a wait of one of them, "stage/child/wait".
            event: the event type that the answer stands for, at a wait whose event types lead to different stages.
            until: "rest", "end" or "accepted", see `invoke`; the answer is durable in any case.

        Raises:
            RunNotFound, RunFinished, NotPaused: there is nothing to resume, or another call was quicker.
            StaleResume: this wait has been answered already.
            StageGone, DefinitionChanged: it cannot go on with its workflow as it is now; nothing was changed.
            InvalidEvent: `event` is missing where the way depends on it, or is not an event of the wait.
            NotStorable, StateInvalid: the patch does not fit; nothing was changed.
        """
        core = self._core.here()
        results.check_until(until, "rest", "end", "accepted")
        answered = await resume(core, Resume(run_id, patch, wait, event))
        if answered not in (None, run_id) and until == "rest":
            await results.next_result(core, answered)  # a child of it; the run itself rests until that one does
        # Without its workflow nobody here brings it to rest.
        return await results.result_at(core, run_id, until if answered or until == "end" else "accepted")

    async def retry(
        self,
        run_id: str,
        at: str | None = None,
        patch: Mapping[str, Any] | None = None,
        *,
        by: str = "api",
        reason: str = "",
    ) -> RunInfo:
        """Go on with a run that failed or was aborted, with its last state; returns when that is durable.

        What the stage had kept before it failed is kept. The run's deadline starts anew, and hooks are called again.

        Args:
            run_id: which run.
            at: the stage to begin with, one that it had entered; default: the one that failed, or, where stages were
                undone, the first of these.
            patch: merged into its state.
            by, reason: who wants it, and why; for its timeline.

        Returns:
            The run. Its mode decides when it begins: see `wait`.

        Raises:
            RunNotFound: no such run. RunNotFinished: it has not ended. RunFinished: it is completed.
            NotMendable: it cannot begin there, or is a child of another run; the message says what can be done.
            StageGone: there is no such stage. NotRegistered: its workflow is not registered here.
            DefinitionChanged: it has to stay under its own definition.
            StateInvalid, NotStorable: its state does not fit with this patch.
        """
        return await retry(self._core.here(), Retry(run_id, at, patch, by, reason))

    async def rerun(
        self,
        run_id: str,
        from_stage: str,
        patch: Mapping[str, Any] | None = None,
        *,
        by: str = "api",
        reason: str = "",
    ) -> RunInfo:
        """Repeat a run that has ended, from a stage that it had entered; returns when that is durable.

        The state is restored as it was at the latest start of that stage. What was undone is not looked at.

        Args:
            run_id: which run.
            from_stage: the stage.
            patch: merged into the restored state.
            by, reason: who wants it, and why; for its timeline.

        Returns:
            The run.

        Raises:
            As `retry`, but it takes a completed run too.
        """
        return await rerun(self._core.here(), Rerun(run_id, from_stage, patch, by, reason))

    async def fork(
        self,
        run_id: str,
        at: str | int,
        patch: Mapping[str, Any] | None = None,
        *,
        by: str = "api",
        reason: str = "",
    ) -> RunInfo:
        """Start a new run from a recorded point of another one, which may be doing anything; that one is not changed.

        Args:
            run_id: the other run; `lineage` of the new one ends with it.
            at: a stage, for its latest start; or the number of an entry of the timeline, for the start of the stage it
                belongs to. An entry between two stages belongs to the next one, unless the run was paused there.
            patch: merged into the state as it was there.
            by, reason: who wants it, and why; for the timeline of the new run.

        Returns:
            The new run.

        Raises:
            RunNotFound: no such run. NotMendable: it was never at that point. StageGone: there is no such stage.
            NotRegistered: its workflow is not registered here. InvalidDefinition: `at` is neither of both.
            StateInvalid, NotStorable: the state does not fit with this patch.
        """
        return await fork(self._core.here(), Fork(run_id, at, patch, by, reason))

    async def signal(self, run_id: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into a run's state at its next boundary; a running step sees it with `ctx.latest()`.

        It does not wake a paused or delayed run: the run takes it in when it continues. See `resume` and `abort`.

        Raises:
            RunNotFound, RunFinished: no run can take it. NotStorable, StateInvalid: the patch is not valid.
        """
        await signal(self._core.at_work(), Signal(run_id, patch))

    async def abort(self, run_id: str, reason: str = "") -> None:
        """End a run: at once if no task drives it, else as soon as its step has stopped (see `wait`).

        With `Workflow(undo_on_abort=True)`, its committed stages are undone first. One that is undoing goes on.

        Raises:
            RunNotFound: no such run. RunFinished: it completed or failed; aborting an aborted run does nothing.
        """
        await cancel(self._core.at_work(), Cancel(run_id, reason))

    async def pause(self, run_id: str, reason: str = "") -> None:
        """Pause a run until `unpause`: a running one at its next boundary, with its children. Twice is fine.

        Its waits go on buffering events, and no time acts meanwhile: delays, timeouts and deadlines that pass act when
        it is unpaused. A queued run keeps its place, and is paused when its turn has come. Whether a paused run keeps
        its slot, its mode says. `RunInfo.paused_by` shows the pause as soon as the run is paused.

        Raises:
            RunNotFound: no such run. RunFinished: it has ended, is being aborted, or its stages are being undone.
        """
        await pause(self._core.at_work(), Pause(run_id, reason))

    async def unpause(self, run_id: str) -> None:
        """Let a run go on that `pause` has paused, with its children; one that is not paused is left as it is.

        It is again what it was, and takes in what came meanwhile. It stays paused as long as its workflow is.

        Raises:
            RunNotFound: no such run. RunFinished: it has ended.
        """
        await unpause(self._core.at_work(), Unpause(run_id))

    async def pause_workflow(
        self, id: str, incoming: Literal["queue", "reject"] = "queue", *, reason: str = ""
    ) -> None:
        """Pause a workflow until `unpause_workflow`, also across restarts: no run of it starts or goes on.

        Active runs are paused at their next boundary. It may be a workflow that only the store has runs of.

        Args:
            id: which workflow.
            incoming: "queue": events that would start a run become queued runs, as far as the mode takes them, and what
                is invoked is paused before its first stage. "reject": the receipt says `rejected`, and `invoke` and
                `run` raise `WorkflowPaused`.
            reason: why, for people.

        Raises:
            NotRegistered: nobody knows such a workflow. InvalidDefinition: unknown `incoming`.
        """
        await pause_workflow(self._core.at_work(), PauseWorkflow(id, incoming, reason))

    async def unpause_workflow(self, id: str) -> None:
        """Let a workflow go on, and start its queued runs in the free slots; one that is not paused is unchanged.

        Raises:
            NotRegistered: nobody knows such a workflow.
        """
        await unpause_workflow(self._core.at_work(), UnpauseWorkflow(id))

    async def pause_all(self, incoming: Literal["queue", "reject"] = "queue", *, reason: str = "") -> None:
        """Pause all workflows, also those that are registered later; see `pause_workflow`."""
        await pause_workflow(self._core.at_work(), PauseWorkflow(None, incoming, reason))

    async def unpause_all(self) -> None:
        """Take away the pause of `pause_all`; what was paused by its own id stays paused."""
        await unpause_workflow(self._core.at_work(), UnpauseWorkflow(None))

    def paused_workflows(self) -> dict[str, OperatorPause]:
        """Return the workflows that are paused, by id; under "*" the pause of all."""
        return {pause.workflow_id or "*": pause.shown() for pause in self._core.pauses.values()}

    async def wait(
        self, run_id: str, timeout: Duration | None = None, *, until: Literal["end", "rest"] = "end"
    ) -> RunResult:
        """Return a run's result once it has ended; with `until="rest"` also when it is paused, by its last commit.

        Raises:
            RunNotFound: no such run. TimeoutError: that did not happen within `timeout`; the run is unchanged.
            InvalidDefinition: unknown `until`.
        """
        core = self._core.at_work()
        results.check_until(until, "end", "rest")
        return await results.wait_for(core, run_id, until, timeout)

    async def get_run(self, run_id: str, *, state: bool = False) -> RunInfo:
        """Return a run as it is stored (`RunNotFound` if it is not); with `state=True` its state too."""
        return await reading.get_run(self._core.here(), run_id, state=state)

    async def find_runs(
        self,
        workflow: str | None = None,
        status: RunStatus | str | Sequence[RunStatus | str] | None = None,
        key: str | None = None,
        text: str | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[RunInfo]:
        """Return stored runs, newest first.

        Args:
            workflow, status, key: exact matches; several statuses may be given.
            text: found in the run's id, key, event type or outcome.
            since, until: creation time in seconds since 1970, [since, until).
            limit: 1 to 500 per page.
            cursor: the previous page's `next_cursor`.

        Raises:
            InvalidEvent: the cursor or a filter is not valid; `path` names it.
        """
        query = reading.query(workflow, status, key, text, since, until, limit, cursor)
        return await reading.find_runs(self._core.here(), query)

    def watch(self, workflow_id: str, run_id: str) -> RunInfo | None:
        """Return a run in this process's memory, or None. Equal to `get_run`, without reading the store."""
        return reading.watch(self._core, workflow_id, run_id)

    def list_all_runs(self) -> list[RunInfo]:
        """Return the runs in this process's memory."""
        return reading.list_all_runs(self._core)

    async def timeline(self, run_id: str) -> Timeline:
        """Return the timeline of a run (`RunNotFound` if there is none)."""
        return await reading.timeline(self._core.here(), run_id)

    async def compare(
        self, run_a: str, run_b: str, *, attempt_a: int | None = None, attempt_b: int | None = None
    ) -> Comparison:
        """Return how two runs differ, such as a run and its fork: their way through the stages, state and outcome.

        To compare two attempts of one run, name it twice.

        Args:
            run_a, run_b: which runs; they need not be over.
            attempt_a, attempt_b: an attempt that ended and was retried or rerun; default: the last one.

        Raises:
            RunNotFound: there is no such run. InvalidDefinition: it has no such attempt.
        """
        return await reading.compare(self._core.here(), (run_a, attempt_a), (run_b, attempt_b))

    def follow(self, run_id: str, after: int = 0) -> Follower:
        """Return what happens in a run as it happens: `async for entry in runtime.follow(run_id): ...`.

        First what was, then each timeline entry as soon as it is durable, and what steps report with `ctx.progress` at
        once; that ends with the run, behind its last entry (`pipeline:success`, `pipeline:failure` or
        `pipeline:abort`). Stored entries come once each, in order. What is reported is marked `live`; its `seq` is that
        of the stored entry before it, so `after=entry.seq` goes on behind any entry. A follower that is too slow for
        the reports misses some, and gets `follow:dropped` with their number; of stored entries it misses none. No run
        waits for a follower. With `timeline=False` only live entries and the end come.

        It may be left with `break`; `aclose()` ends it at once.

        Args:
            run_id: which run, whatever its status.
            after: only entries behind this `seq`, for example the last one that was seen.

        Raises:
            InvalidEvent: `after` is negative, or no number.
            RunNotFound: no such run, or it is deleted meanwhile; raised when the first entry is asked for, like all
                below.
            RuntimeStopped: the runtime stops before the run ends.
            WouldDeadlock: a step follows a run that waits for it.
        """
        return follow(self._core, run_id, after)

    # ----------------------------------------------------------------------------------------------- the runtime
    async def start(self) -> Self:
        """Open the store, register the workflows and take over interrupted runs; the same as entering.

        Starting a running runtime does nothing. After this call `stop` at the end, also after
        an error; `async with` does both.

        Returns:
            The runtime.

        Raises:
            RuntimeStopped: it was stopped: create a new one.
            WrongLoop: it runs on another event loop.
            PoundlockError: the store cannot be opened, or a workflow cannot be registered; nothing is left open.
        """
        self._core.here()
        await self._lifetime.start()
        return self

    async def dispatch(self, command: Any) -> Any:
        """Carry out a command of `poundlock.runtime.commands` and return its handler's answer."""
        core = self._core.here()
        handler = HANDLERS.get(type(command))
        if handler is None:
            known = ", ".join(kind.__name__ for kind in HANDLERS)
            raise InvalidDefinition(f"{command!r:.60} is not a command: use one of {known}", path="command")
        return await handler(core.at_work(), command)

    def statistics(self) -> Mapping[str, float]:
        """Return counters since the runtime was created, and what it holds now.

        `event:<verdict>`: lines of receipts. `completed`, `failed`, `aborted`, `paused`, `delayed`: how often a run got
        this status. `time:fired`, `time:skipped`: times of time triggers. Held now: `workflows`, `runs:live` (driven
        here), `runs:parked` (parked, still in memory), `outbox` (events of steps that are still to be delivered),
        `dead_letters` (those that could not be), `holds` (of triggers), `workflows:paused`
        (workflows paused by operators). `paused_by_operator`: how often a run was paused by its id.
        `calls:<workflow>`: calls that its steps recorded with `ctx.record_call`, with `:input_tokens`, `:output_tokens`
        and `:cost` behind it what these took. Of a store on a disk also `store:bytes`, and its growth since the start.
        `sinks:dropped` and `sinks:failed`: entries that a sink was too slow for, and for which it raised.
        The store's own `stats()` counts its rows.
        """
        return reading.statistics(self._core)

    async def dead_letters(self, limit: int = 50, after: str | None = None) -> list[DeadLetter]:
        """Return events that steps have emitted and that could not be delivered, in the order of their emission.

        Args:
            limit: how many at most.
            after: the id of a dead letter: only those behind it.

        Raises:
            DeadLetterNotFound: `after` is no such id.
        """
        return await dead_letters.dead_letters(self._core.here(), whole_number("limit", limit), after)

    async def replay(self, id: str) -> None:
        """Deliver a dead letter again; the event keeps its id. Returns when that is durable, before it is delivered.

        Raises:
            DeadLetterNotFound: there is no such dead letter, or another call was quicker.
        """
        await replay_dead_letters(self._core.at_work(), ReplayDeadLetters((id,)))

    async def replay_dead_letters(self) -> int:
        """Deliver all dead letters again, in the order of their emission; returns how many, before they are delivered.

        Those that a trigger held which is not registered here stay.
        """
        return await replay_dead_letters(self._core.at_work(), ReplayDeadLetters())

    async def recover(self) -> int:
        """Take over what is ready, orphaned, due or stuck now, as the command `ReapStuck`; returns how many runs."""
        return await reap(self._core.at_work(), ReapStuck())

    async def vacuum(
        self, *, limit: int | None = None, older_than: Duration | None = None, dry_run: bool = False
    ) -> Vacuumed:
        """Delete what `retention` says is kept no longer, in small portions; it also happens by itself, once an hour.

        Never deletes a run that has not ended, that somebody here waits for, whose hooks are still to be called, or
        whose events are still to be delivered; nor a child before its parent.

        Args:
            limit: how many runs at most, beside the children that go with them; the next call goes on. Default: all.
            older_than: delete all runs that ended so long ago too, whatever retention says, also of workflows that are
                not registered.
            dry_run: only count what would be deleted.

        Raises:
            InvalidDefinition: an argument is not valid.
            StoreUnavailable, StoreFull: the store failed; nothing was deleted by half.
        """
        return await vacuum(self._core.at_work(), Vacuum(limit, older_than, dry_run))

    async def stop(self, drain: Duration = 30.0) -> None:
        """Accept no more events, let runs reach a boundary for up to `drain` seconds, then release everything.

        Commits in flight are waited for, up to `abort_grace`. Unfinished runs are in the store and continue
        when a runtime is started on it again.
        """
        self._core.here()
        await self._lifetime.stop(drain=duration("drain", drain))
