"""One pass of a durable function: it is called from its top, and goes on until it ends or only waits.

House rules:

1. The function runs in a task of its own, and so does each part of a `gather`: its *fibers*. An operation can be
   awaited in a fiber only, so that it is always known who still works and who waits.
2. A fiber that waits for something far off is *blocked*. Once all fibers are blocked the pass is over, and the run
   leaves its stage in the middle. Nothing that runs beside a waiting operation is cut short by that.
3. What ends a pass is a value (`end`), set by `Fibers.finish`. The fibers are unwound by Withdrawn, which no
   `except Exception` takes; whatever they do then does not count.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import Any, cast

from poundlock.errors import ReplayDivergence, StepError, StepFailed
from poundlock.guard import Answer, name_of
from poundlock.model.definitions import INSTRUCTIONS, Instruction, Jump, Terminate
from poundlock.model.events import Event
from poundlock.model.runs import DIVERGED_WAIT, GENERATION_WAIT, RunError, WaitRow, own_row
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.changing import FAIL
from poundlock.pipeline.durable_steps import Steps
from poundlock.pipeline.durable_waits import operation_path, pause
from poundlock.pipeline.functions.emitting import FunctionContext
from poundlock.pipeline.functions.fibers import Again, Broken, Diverged, Endless, Waiting, answer_in
from poundlock.pipeline.functions.generators import result_of
from poundlock.pipeline.functions.operations import Operations
from poundlock.pipeline.injection import Calling, arguments
from poundlock.pipeline.interrupting import Withdrawn, asked_for, beside, judge
from poundlock.pipeline.memo import memo_of
from poundlock.pipeline.outcome import Halted, Outcome, run_error
from poundlock.pipeline.plan import StagePlan
from poundlock.pipeline.step_results import StepDone, Suspended, failure_of
from poundlock.pipeline.steps import StageDone
from poundlock.pipeline.waits import pause_at

log = logging.getLogger("poundlock.pipeline")


async def perform_function(run: ActiveRun, stage: StagePlan, task: asyncio.Task[Any]) -> StageDone:
    """Call the function of a stage from its top. `task` is the current one.

    Raises:
        Interrupted: the run was interrupted; operations on record stay on record.
    """
    return await _Pass(run, stage).outcome(task)


class _Pass:
    """One pass."""

    def __init__(self, run: ActiveRun, stage: StagePlan) -> None:
        self._run = run
        self._stage = stage
        self._step = stage.steps[0]
        self._generation = next((row for row in run.waits if row.wait_id == GENERATION_WAIT), None)
        self._seen: Any = run if self._generation is None else _Seen(run, _given_again(run, self._generation))
        self._context = FunctionContext(
            self._seen, run, self._step, lambda: self._fibers.end is not None, lambda: self._operations.replaying
        )
        self._operations = Operations(run, stage, self._context)
        self._fibers = self._operations.fibers

    async def outcome(self, task: asyncio.Task[Any]) -> StageDone:
        run, fibers = self._run, self._fibers
        body = fibers.start(self._body())
        body.add_done_callback(lambda _: fibers.settle())
        both = [body, cast("asyncio.Task[Any]", fibers.quiet)]
        try:
            await beside(run, both, fibers.scope, None, lambda each: each is both[1])
        except asyncio.CancelledError as error:
            run.failure = await judge(run, task, error) or error
            return StageDone(self._stage, error=run_error(run.failure, self._stage.id, None))
        finally:
            self._context.abandon()
        if asked_for(run) is not None:  # the function noticed it first
            await judge(run, task, None)
        return self._came_to(answer_in(body) if body.done() else None)

    async def _body(self) -> Any:
        """Call the function.

        Raises:
            StepFailed: it made operations that it did not await.
            BaseException: what the function raised.
        """
        args, kwargs = await arguments(self._seen, self._step.binding, Calling(Steps(self._operations), self._context))
        result = await result_of(self._step.action(*args, **kwargs))
        forgotten = self._operations.forgotten() if self._operations.unasked else None
        if forgotten is not None and self._fibers.end is None:
            raise StepFailed(
                f"{forgotten!r} was made and never awaited: write `await` (or `yield`) before it", path=forgotten.key
            )
        if isinstance(result, INSTRUCTIONS):
            raise StepFailed(
                f"the function returned {name_of(type(result))}, and it has no stages to go to: return the run's "
                f"result, raise an error to fail, and wait with step.sleep or step.wait_for",
                path=self._stage.path,
            )
        return result

    # ------------------------------------------------------------------------------------------- what it came to
    def _came_to(self, answer: Answer | None) -> StageDone:
        """Return what the pass came to; `answer` is the function's own, None if it was left behind."""
        run, stage, end = self._run, self._stage, self._fibers.end
        failed = end is None and answer is not None and answer.error is not None
        if not failed and not isinstance(end, Broken | Diverged):
            self._context.record()
        if end is None:
            assert answer is not None  # noqa: S101 - nothing else ends a pass
            if answer.error is None:
                return self._concluded(Terminate(answer.value))
            return self._failed(answer.error)
        if answer is None or not isinstance(answer.error, Withdrawn):
            log.warning(
                "function '%s' of run '%s' took the exception that ends its pass and went on; nothing of that counts: "
                "let it pass, and catch Exception where you catch all",
                stage.id,
                run.run_id,
            )
        if isinstance(end, Broken):
            raise end.error
        if isinstance(end, Endless):
            return self._failed(end.error)
        if isinstance(end, Diverged):
            return self._diverged(end.error)
        if isinstance(end, Again):
            return self._begin_again(end)
        return self._suspended(end)

    def _left(self, leave: Any) -> StageDone:
        return StageDone(self._stage, suspended=Suspended(leave=leave))

    def _diverged(self, error: ReplayDivergence) -> StageDone:
        run, stage = self._run, self._stage
        said = run_error(error, stage.id, error.path)
        if run.plan.on_change == FAIL:
            run.failure = error
            return StageDone(stage, error=said)
        return self._left(partial(_halt, error=said, stage=stage))

    def _suspended(self, end: Waiting) -> StageDone:
        if self._run.leaving and any(blocked.row is None and blocked.until is None for blocked in end.blocked):
            return StageDone(self._stage, suspended=Suspended(released=True))  # one of them would have begun something
        rows: list[WaitRow] = [blocked.row for blocked in end.blocked if blocked.row is not None]
        times = {
            blocked.operation.key: blocked.until
            for blocked in end.blocked
            if blocked.row is None and blocked.until is not None
        }
        if rows:
            # A sleep beside a wait is one more row, which no event answers.
            rows += [
                own_row(key, epoch=0, on_timeout="resume", resume_at=self._stage.id)._replace(expires_at=until)
                for key, until in times.items()
            ]
            return self._left(partial(pause, rows=rows))
        if times:
            return StageDone(self._stage, suspended=Suspended(until=min(times.values())))
        key = end.blocked[0].operation.key
        gone = ReplayDivergence(
            f"operation '{key}' was given up beside a failure that does not happen any more: restore the function, "
            f"give the operation another key, or abort the run",
            path=key,
        )
        return self._diverged(gone)

    def _begin_again(self, end: Again) -> StageDone:
        run, stage, before = self._run, self._stage, self._generation
        number = 1 if before is None or not isinstance(before.patch, dict) else before.patch["number"] + 1
        kept = {"number": number, "input": end.input}
        row = own_row(GENERATION_WAIT, epoch=run.version + 1, on_timeout="resume", patch=kept)
        run.waits = (*(other for other in run.waits if other.wait_id != GENERATION_WAIT), row)
        return self._concluded(Jump(stage.id))

    def _concluded(self, instruction: Instruction) -> StageDone:
        return StageDone(self._stage, [StepDone(self._step, instruction=instruction)])

    def _failed(self, error: BaseException) -> StageDone:
        run, stage = self._run, self._stage
        said = failure_of(run, self._step, error)
        key = error.path if isinstance(error, StepError) and isinstance(error.path, str) else ""
        record = memo_of(run).kept.get(key)
        if isinstance(record, dict) and "error" in record:  # else the function has made the error itself
            said = replace(said, **record["error"], step=key)
            if stage.on_failure == "pause":
                # Somebody may help: then what failed is tried again.
                memo_of(run).note(operation_path(stage.path, key), key, {"op": record["op"], "name": record["name"]})
        return StageDone(stage, error=said)


class _Seen:
    """A run as its function sees it: with the event of its present generation."""

    def __init__(self, run: ActiveRun, event: Event) -> None:
        self._run = run
        self.event = event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)


def _given_again(run: ActiveRun, row: WaitRow) -> Event:
    assert isinstance(row.patch, dict)  # noqa: S101 - written above
    event = run.event
    return Event.trusted(
        event.type,
        row.patch["input"],
        id=event.id,
        time=event.time,
        source=event.source,
        key=event.key,
        headers=event.headers,
    )


def _halt(run: ActiveRun, error: RunError, stage: StagePlan) -> Outcome:
    """Pause a run whose function does not fit its record, until it is registered anew or resumed by hand."""
    row = own_row(DIVERGED_WAIT, epoch=run.version + 1, on_timeout="resume", parked=True, resume_at=stage.id)
    pause_at(run, row)
    log.error("run '%s' is paused: %s", run.run_id, error)
    return Halted(row, error)
