"""StepContext: what a step can read and do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from poundlock.clock import sleep_for
from poundlock.codecs import clean, dump, load
from poundlock.errors import ContainerDisposed, StepFailed, StepOver
from poundlock.guard import describe, for_the_process, traceback_text
from poundlock.model.calls import Usage
from poundlock.model.durations import Duration, seconds
from poundlock.model.events import Event
from poundlock.model.outbox import Outgoing
from poundlock.model.runs import Failure, StepProgress
from poundlock.pipeline.outgoing import collect
from poundlock.pipeline.reports import MOST_TEXTS, call_entry, entry_of, progress_of, usage_of
from poundlock.pipeline.run_view import Place, Resume, RunView
from poundlock.pipeline.threads import sleep_here
from poundlock.sensitive import conceal, concealed

logger = logging.getLogger("poundlock.step")


class StepContext:
    """One attempt of one step of one run.

    Attributes:
        run_id, workflow_id, pipeline_id, stage_id, step_id: where the step is.
        attempt: which attempt of the step this is, from 1.
        resume: why the run was resumed, if it was paused right before this stage; else None.
    """

    __slots__ = (
        "_calls",
        "_cancelled",
        "_ends",
        "_logger",
        "_notes",
        "_progress",
        "_run",
        "_state",
        "_step",
        "_visit_key",
        "attempt",
        "outgoing",
    )

    def __init__(self, run: RunView, step: Place, attempt: int) -> None:
        self._run = run
        self._step = step
        self._state = run.state
        self._visit_key = run.visit_key
        self._logger: logging.Logger | None = None
        self._notes: list[tuple[float, str, str, str, Usage | None] | None] = []
        self._cancelled = False
        self.outgoing: list[Outgoing] | None = None
        """The events it has emitted; None while there are none."""
        self.attempt = attempt

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a StepContext cannot be sent to another process: give the function only what it needs of it")

    @property
    def run_id(self) -> str:
        return self._run.run_id

    @property
    def workflow_id(self) -> str:
        return self._run.identity.workflow_id

    @property
    def pipeline_id(self) -> str:
        return self._run.identity.pipeline_id

    @property
    def stage_id(self) -> str:
        return self._step.stage_id

    @property
    def step_id(self) -> str:
        return self._step.id

    @property
    def state(self) -> Any:
        """The state as it was when the stage began: a detached model instance, or a read-only mapping."""
        return self._run.view(self._state)

    def latest(self) -> Any:
        """Return the state, merged with the signals that came since the stage began."""
        return self._run.latest()

    @property
    def event(self) -> Event:
        """The event that started the run."""
        return self._run.event.detached()

    @property
    def resume(self) -> Resume | None:
        return self._run.resume

    @property
    def failure(self) -> Failure | None:
        """The failure that led the run to this stage by `on_failure`, or to the aside stages before it; else None."""
        return self._run.handled

    def require(self, stage_id: str) -> Any:
        """Return the output of an earlier stage of this run: what its step returned, as it was stored.

        In a loop it is the latest one. A `Task` with an output model gives an instance of it, other steps a mapping. A
        stage of several steps gives a mapping of their ids to what each returned. The outputs are kept by workflows
        that `flow` builds, and with `Workflow(keep_outputs=True)`.

        Raises:
            OutputMissing: the stage has not run yet, the pipeline has no such stage, or outputs are not kept; the
                message says what ran, and near matches.
            StateInvalid: what was stored does not fit the output model of now.
        """
        return self._run.output(stage_id, required=True)

    def optional(self, stage_id: str) -> Any:
        """Return the output of a stage as `require` does, or None if it has not run.

        Raises:
            OutputMissing: the pipeline has no such stage, or outputs are not kept.
            StateInvalid: as `require`.
        """
        return self._run.output(stage_id, required=False)

    @property
    def cancelled(self) -> bool:
        """True once this step's result is not needed any more; a long step in a thread should check it regularly.

        True also once the step has returned, for threads and tasks it has started.
        """
        run = self._run
        return self._cancelled or run.abort is not None or run.interruption is not None

    def now(self) -> float:
        """Return the time by the runtime's clock, in seconds since 1970 UTC."""
        return self._run.clock.now()

    def sleep(self, duration: Duration) -> Awaitable[None]:
        """Wait in memory by the runtime's clock, for example `await ctx.sleep("30s")`; zero only lets others run.

        In a `def` step, `ctx.sleep("30s")` blocks its thread. An abort, a timeout and the stop of the runtime end it at
        once. A crash begins the stage anew, so let a longer wait be a `Delay`, during which the run keeps no task.

        Args:
            duration: seconds, a timedelta, or text such as "1m30s".

        Raises:
            ValueError: it is not a duration.
            StepFailed: this is a thread of an executor that is a service: it does not know the runtime's clock.
        """
        delay, clock = seconds(duration), self._run.clock
        if sleep_here(clock, delay):
            return _slept()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise StepFailed(
                f"step '{self.step_id}' cannot sleep by the runtime's clock in a thread of its executor: use time.sleep"
            ) from None
        return sleep_for(clock, delay)

    @property
    def deadline(self) -> float | None:
        """When this attempt has to be done, in seconds since 1970 UTC; None without a limit.

        It is the nearest of three: the timeout of its step, that of its stage, and the deadline of the run.
        """
        run = self._run
        ends: float | None = getattr(self, "_ends", None)
        if ends is None:
            return run.deadline
        own = run.clock.now() + ends - run.clock.monotonic()
        return own if run.deadline is None else min(own, run.deadline)

    def end_by(self, ends: float) -> None:
        """Note that this attempt is given up at a time on the monotonic clock, unless that is so earlier already."""
        self._ends = min(ends, getattr(self, "_ends", ends))  # most attempts never set it, and pay nothing for it

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this step at this point of the run, also after a crash; for external calls.

        The next visit of the stage in a loop gets another key: the log has grown meanwhile.
        """
        return f"{self.run_id}/{self.stage_id}/{self.step_id}/{self._visit_key}"

    async def use(self, fn: Callable[..., Any]) -> Any:
        """Run `fn(deps)` with the run's services: `deps.require(id)`, `deps.resolve(id)`, `deps.select(selector)`.

        For async steps; a `def` step takes its services as parameters: `Annotated[T, Use(id)]`.

        Raises:
            ArtifactNotFound: no such service; the message names near matches.
            ContainerDisposed: the step has returned, or was abandoned: its services may be closed.
        """
        if self._cancelled:
            raise ContainerDisposed(
                f"step '{self.step_id}' is over and gets no more services: end what it has started before it returns, "
                f"or when ctx.cancelled is True"
            )
        return await self._run.services().use(fn)

    async def start(self, workflow_id: str, payload: Any = None, *, key: str | None = None) -> str:
        """Start a run of another workflow, which is not waited for, and return its id. It is stored when this returns.

        The same call at this point of the run, in another attempt or after a crash, returns the same run. Aborting this
        run does not abort it; a stage that waits for it is made by `workflow.call`.

        Args:
            workflow_id: a workflow that is registered here; its run begins as one of `runtime.invoke` would.
            payload: what its state begins with: a mapping or a model.
            key: tells several runs of one workflow apart that one step starts; default: the workflow's id.

        Raises:
            NotRegistered, InvalidDefinition: there is no such workflow, or its runs have to name a trigger.
            NotStorable, StateInvalid, InvalidEvent: it cannot begin with that payload.
            IdempotencyConflict: this step has started a run by this key with another payload: give each its own key.
            ContainerDisposed: the step has returned, or was abandoned.
        """
        if self._cancelled:
            raise ContainerDisposed(f"step '{self.step_id}' is over and starts no more runs")
        return await self._run.start_run(workflow_id, payload, f"{self.idempotency_key}/{key or workflow_id}")

    @property
    def logger(self) -> logging.Logger:
        """A standard logger whose records also go to the run's timeline, with source `logger`."""
        if self._logger is None:
            # Not getLogger: it would keep one logger per run for ever.
            own = logging.Logger(logger.name, logging.DEBUG)  # noqa: LOG001 - see above
            own.parent = logger
            own.addHandler(_TimelineHandler(self))
            self._logger = own
        return self._logger

    def emit(self, event: Event | str, payload: Any = None, /, **fields: Any) -> str:
        """Emit an event that leaves if, and only if, this step's stage commits; return its id.

        It is written with the stage's result and then offered to all workflows and waiting runs, in the order in which
        the run emitted; a step that fails, or is given up, leaves nothing. With a type instead of an Event, payload and
        fields are merged into the payload, the source is `/run/<workflow>`, and the id is the same for every attempt of
        this step at this point of the run, also after a crash. An Event keeps its own id and source.

        Raises:
            InvalidEvent, NotStorable: it is not an event; nothing is emitted.
            StepOver: the step has returned, or was given up.
        """
        self.check_emitting()
        if self.outgoing is None:
            self.outgoing = []
        return collect(self.outgoing, self._run, self._place(), event, payload, fields)

    def _place(self) -> str:
        """Return what names this step at this point of the run."""
        return f"{self.run_id}/{self._step.path_json[1:-1]}/{self._visit_key}"

    def annotate(self, key: str, value: Any) -> None:
        """Put a note into the timeline.

        Raises:
            NotStorable: the value is not data.
        """
        self._notes.append(
            (
                self._run.clock.now(),
                "services",
                "annotation",
                hidden(self._run, {"key": key, "value": value}),
                None,
            )
        )

    def progress(self, done: float, of: float | None = None, message: str = "") -> None:
        """Say how far this step is, as often as it likes: `RunInfo.progress` shows it at once.

        The last report of an attempt is stored in the timeline, as `step:progress`; the others cost no more than
        memory for one.

        Args:
            done: how much is done: a number of whatever is counted.
            of: of how much; None if that is not known.
            message: what it is doing; of a long one the first 1000 characters count.

        Raises:
            NotStorable: it is no finite number, or the message is no text.
        """
        now = self._run.clock.now()
        text = self._run.conceal(message) if isinstance(message, str) and message else message
        report = progress_of(self.stage_id, self.step_id, done, of, text, now)
        if not self._cancelled:
            self._keep(report)
            self._run.report(self._step, report)

    def heartbeat(self) -> None:
        """Give a sign of life: `RunInfo.progress` shows its time. Nothing is stored, and no timeout is extended."""
        if not self._cancelled:
            now = self._run.clock.now()
            self._run.report(self._step, StepProgress(self.stage_id, self.step_id, None, None, "", now))

    def record_call(
        self,
        *,
        model: str,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost: float = 0.0,
        prompt: Any = None,
        answer: Any = None,
        **details: Any,
    ) -> None:
        """Record a call of a language model, or of another service that is paid by use.

        It is an entry of the timeline, `step:call`, also with `timeline=False`. The sums are in the `metadata["calls"]`
        of the run's result, and per workflow in `runtime.statistics()`. A call counts even if the attempt that recorded
        it fails afterwards, because it has been paid for; what an attempt records after it was given up does not.

        Args:
            model: name of the model.
            input_tokens, output_tokens: what it read and wrote; None counts as 0.
            cost: in your currency.
            prompt, answer: what was asked and answered: a text, or any data. Of a longer one the first 2000 characters
                are kept, and how many more there were. From the 1001st call of an attempt on they are left out.
            details: any data besides, cut in the same way.

        Raises:
            NotStorable: a number is none or below zero, or a value is not data; `path` names it.
        """
        usage = usage_of(input_tokens, output_tokens, cost)
        payload = call_entry(model, usage, self.attempt, prompt, answer, details)
        if self._cancelled:
            return
        self._calls = number = getattr(self, "_calls", 0) + 1
        if number > MOST_TEXTS:
            payload = call_entry(model, usage, self.attempt, None, None, {})
        self._notes.append(
            (
                self._run.clock.now(),
                "pipeline",
                "step:call",
                hidden(self._run, load(payload)) if self._run.secrets() else payload,
                usage,
            )
        )

    def check_emitting(self) -> None:
        """Raise StepOver if this attempt is over: it emits nothing more."""
        if self._cancelled:
            raise StepOver(
                f"step '{self.step_id}' is over and emits nothing more: emit before it returns, or before its result "
                f"is not needed any more (ctx.cancelled)",
                path=self.step_id,
            )

    def abandon(self) -> None:
        """Abandon this attempt: notes made so far count, later ones do not."""
        self.flush()
        self._cancelled = True

    def flush(self) -> None:
        """Move log records and notes into the journal."""
        if self._notes:
            notes, self._notes = self._notes, []
            if self._cancelled:
                return
            run, path = self._run, self._step.path_json
            for noted in notes:
                if noted is None:
                    continue
                time, source, kind, payload, usage = noted
                if usage is None:
                    run.journal.add(time, source, kind, path, payload)
                else:
                    run.journal.add_lasting(time, source, kind, path, payload)
                    run.spend(self.stage_id or self.step_id, usage)
            last: StepProgress | None = getattr(self, "_progress", None)
            if last is not None:
                run.journal.add(last.time, "pipeline", "step:progress", path, entry_of(last))

    def _keep(self, report: StepProgress) -> None:
        """Keep a report for the timeline, in place of the one before."""
        if getattr(self, "_progress", None) is None:
            self._notes.append(None)  # there is something to flush
        self._progress = report


class _slept:  # noqa: N801 - awaited like a function
    """What a thread that has slept may await, and need not."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


class _TimelineHandler(logging.Handler):
    """Copies records into the context's notes; bounded, and never raises into the step."""

    LIMIT = 1000

    def __init__(self, context: StepContext) -> None:
        super().__init__()
        self._context = context

    def emit(self, record: logging.LogRecord) -> None:
        context = self._context
        notes = context._notes  # noqa: SLF001 - the handler is the context's own
        full = len(notes) >= self.LIMIT or context._cancelled  # noqa: SLF001 - its own context
        try:
            message = _hide_in(record, context._run.secrets())  # noqa: SLF001 - its own context
            if full:
                return
            payload = dump({"level": record.levelname, "message": clean(message or record.getMessage())})
        except BaseException as error:  # a logged value may raise anything when it is formatted
            if for_the_process(error):
                raise
            if full:
                return
            said = describe(error)
            payload = dump({"level": record.levelname, "message": f"(cannot be shown: {said.type}: {said.message})"})
        notes.append((context._run.clock.now(), "logger", f"log:{record.levelname.lower()}", payload, None))  # noqa: SLF001 - its own context


def _hide_in(record: logging.LogRecord, secrets: set[str]) -> str:
    """Take what may be shown nowhere out of a record, before other handlers get it; returns its message, if it did."""
    if not secrets:
        return ""
    message = record.getMessage()
    told = conceal(message, secrets)
    if told != message:
        record.msg, record.args = told, ()
    raised = record.exc_info[1] if record.exc_info else None
    if raised is not None:
        record.exc_text = conceal(traceback_text(raised), secrets).rstrip()  # formatters take it as it is
    return told


def hidden(run: RunView, data: Any) -> str:
    """Return data of a step as the JSON text of a note, without what may be shown nowhere."""
    return dump(concealed(data, run.secrets(), numbers=False))
