"""StepContext: what a step can read and do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from poundlock.codecs import clean, dump
from poundlock.errors import ContainerDisposed
from poundlock.guard import describe, for_the_process
from poundlock.model.events import Event
from poundlock.model.runs import Failure
from poundlock.pipeline.run_view import Place, Resume, RunView

logger = logging.getLogger("poundlock.step")


class StepContext:
    """One attempt of one step of one run.

    Attributes:
        run_id, workflow_id, pipeline_id, stage_id, step_id: where the step is.
        attempt: which attempt of the step this is, from 1.
        resume: why the run was resumed, if it was paused right before this stage; else None.
    """

    __slots__ = ("_cancelled", "_log_position", "_logger", "_notes", "_run", "_state", "_step", "attempt")

    def __init__(self, run: RunView, step: Place, attempt: int) -> None:
        self._run = run
        self._step = step
        self._state = run.state
        self._log_position = run.entered_at
        self._logger: logging.Logger | None = None
        self._notes: list[tuple[float, str, str, str]] = []
        self._cancelled = False
        self.attempt = attempt

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

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this step at this point of the run, also after a crash; for external calls.

        The next visit of the stage in a loop gets another key: the log has grown meanwhile.
        """
        return f"{self.run_id}/{self.stage_id}/{self.step_id}/{self._log_position}"

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

    def annotate(self, key: str, value: Any) -> None:
        """Put a note into the timeline.

        Raises:
            NotStorable: the value is not data.
        """
        self._notes.append((self._run.clock.now(), "services", "annotation", dump({"key": key, "value": value})))

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
            for time, source, kind, payload in notes:
                self._run.journal.add(time, source, kind, self._step.path_json, payload)


class _TimelineHandler(logging.Handler):
    """Copies records into the context's notes; bounded, and never raises into the step."""

    LIMIT = 1000

    def __init__(self, context: StepContext) -> None:
        super().__init__()
        self._context = context

    def emit(self, record: logging.LogRecord) -> None:
        context = self._context
        notes = context._notes  # noqa: SLF001 - the handler is the context's own
        if len(notes) >= self.LIMIT or context._cancelled:  # noqa: SLF001 - its own context
            return
        try:
            payload = dump({"level": record.levelname, "message": clean(record.getMessage())})
        except BaseException as error:  # a logged value may raise anything when it is formatted
            if for_the_process(error):
                raise
            said = describe(error)
            payload = dump({"level": record.levelname, "message": f"(cannot be shown: {said.type}: {said.message})"})
        notes.append((context._run.clock.now(), "logger", f"log:{record.levelname.lower()}", payload))  # noqa: SLF001 - its own context
