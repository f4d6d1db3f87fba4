"""Performing a stage: its steps run together, and either all of them have succeeded or the stage failed.

Whatever a step raises ends here, as the failure of its stage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poundlock.clock import timeout_after
from poundlock.codecs import clean, dump, pack
from poundlock.errors import PoundlockError, StepFailed, StepTimeout
from poundlock.model.definitions import INSTRUCTIONS, Instruction
from poundlock.model.runs import RunError
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.outcome import run_error
from poundlock.pipeline.plan import StagePlan, StepPlan


@dataclass(slots=True)
class StepDone:
    """What one step came to: the patch as everyone sees it from now on, its text, and where it sends the run."""

    step: StepPlan
    patch: dict[str, Any] | None = None
    text: str | None = None
    instruction: Instruction | None = None


@dataclass(slots=True)
class StageDone:
    """What a stage came to: its steps in definition order, or why it failed."""

    stage: StagePlan
    steps: Sequence[StepDone] = ()
    error: RunError | None = None


class StageFailedError(Exception):
    """Carries the reason of a step's final failure to its stage."""

    def __init__(self, error: RunError) -> None:
        super().__init__(str(error))
        self.error = error


async def perform(run: ActiveRun, stage: StagePlan) -> StageDone:
    """Run the steps of a stage to their end.

    Raises:
        asyncio.CancelledError: the run's task was cancelled; nothing of the stage counts.
    """
    try:
        if len(stage.steps) == 1 and stage.timeout is None:
            return StageDone(stage, (await _perform_step(run, stage.steps[0]),))
        return StageDone(stage, await _perform_together(run, stage) if stage.steps else ())
    except StageFailedError as failed:
        return StageDone(stage, error=failed.error)


async def _perform_step(run: ActiveRun, step: StepPlan) -> StepDone:
    """All attempts of a step."""
    journal = run.journal

    async def attempt(number: int) -> StepDone:
        journal.add(run.clock.now(), "pipeline", "step:start", step.path_json, dump({"attempt": number}))
        context = StepContext(run, step, number)
        try:
            return digest(step, await _call(run, step, context))
        except TimeoutError as error:
            context.abandon()
            if isinstance(error, _AttemptTimeout):
                journal.add(run.clock.now(), "pipeline", "step:timeout", step.path_json, dump({"attempt": number}))
                raise StepTimeout(
                    f"step '{step.id}' took longer than {step.timeout:g} s: raise its timeout or make it faster",
                    path=step.path,
                ) from None
            raise
        except asyncio.CancelledError:
            context.abandon()
            raise
        finally:
            context.flush()

    def on_retry(number: int, delay: float, error: BaseException) -> None:
        detail = {"attempt": number, "delay": delay, "error": _describe(error)}
        journal.add(run.clock.now(), "pipeline", "step:retry", step.path_json, dump(detail))

    try:
        outcome: StepDone = await (attempt(1) if step.retry is None else step.retry(attempt, on_retry))
    except asyncio.CancelledError as error:
        raise whose_cancellation(run, step, error) from None
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise  # meant for the process, or for the coroutine itself
    except BaseException as error:  # noqa: BLE001 - a step may raise anything; it fails the run, not the runtime
        raise failure_of(run, step, error) from None
    journal.add(run.clock.now(), "pipeline", "step:success", step.path_json)
    return outcome


async def _perform_together(run: ActiveRun, stage: StagePlan) -> list[StepDone]:
    """Several steps at once: the first final failure cancels the others."""
    try:
        async with timeout_after(run.clock, stage.timeout) as limit, asyncio.TaskGroup() as group:
            tasks = [group.create_task(_perform_step(run, step)) for step in stage.steps]
    except TimeoutError:
        if not limit.expired:
            raise
        error = StepTimeout(
            f"stage '{stage.id}' took longer than {stage.timeout:g} s: raise its timeout or make it faster",
            path=stage.path,
        )
        raise StageFailedError(run_error(error, stage.id, None)) from None
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        if isinstance(first, StageFailedError):  # the first to fail; the others were cancelled because of it
            raise first from None
        raise
    return [task.result() for task in tasks]


class _AttemptTimeout(TimeoutError):
    """Our deadline, not a TimeoutError of the step's own making."""


async def _call(run: ActiveRun, step: StepPlan, context: StepContext) -> Any:
    if step.timeout is None:
        return await _invoke(run, step, context)
    try:
        async with timeout_after(run.clock, step.timeout) as limit:
            return await _invoke(run, step, context)
    except TimeoutError:
        if limit.expired:
            raise _AttemptTimeout from None
        raise


async def _invoke(run: ActiveRun, step: StepPlan, context: StepContext) -> Any:
    binding = step.binding
    args = [getter(run, context) for getter in binding.positional]
    kwargs = {name: getter(run, context) for name, getter in binding.keyword}
    if binding.services:
        services = run.services()
        for place, key in binding.services:
            if isinstance(place, int):
                args[place] = await services.require(key)
            else:
                kwargs[place] = await services.require(key)
    if step.is_async:
        return await step.action(*args, **kwargs)
    if step.in_thread:
        result = await run.threads.call(step.action, tuple(args), kwargs)
    else:
        result = step.action(*args, **kwargs)
    # A plain wrapper around an async function does not look async before it is called.
    return await result if asyncio.iscoroutine(result) else result


def digest(step: StepPlan, result: Any) -> StepDone:
    """Turn what a step returned into a patch or an instruction; the decoded copy is what counts from now on."""
    if type(result) is dict:  # nearly always; asking whether something is a Mapping costs more than a step
        patch, text = pack(result)
        return StepDone(step, patch, text)
    if result is None:
        return StepDone(step)
    if isinstance(result, INSTRUCTIONS):
        return StepDone(step, instruction=result)
    if not isinstance(result, Mapping):
        if not hasattr(type(result), "model_dump"):
            raise StepFailed(
                f"step '{step.id}' returned a {type(result).__qualname__}: return a mapping, a model, "
                f"an instruction or None",
                path=step.path,
            )
        result = result.model_dump()
    patch, text = pack(result)
    return StepDone(step, patch, text)


def whose_cancellation(
    run: ActiveRun, step: StepPlan, error: asyncio.CancelledError
) -> asyncio.CancelledError | StageFailedError:
    """A cancellation nobody asked this task for was raised by the step itself: an ordinary failure."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return error
    return failure_of(run, step, error)


def failure_of(run: ActiveRun, step: StepPlan, error: BaseException) -> StageFailedError:
    """Note that a step failed for good, and return why its stage does."""
    journal = run.journal
    journal.add(run.clock.now(), "pipeline", "step:failure", step.path_json, dump(_describe(error)))
    return StageFailedError(run_error(error, step.stage_id, step.id))


def _describe(error: BaseException) -> dict[str, Any]:
    code = error.code if isinstance(error, PoundlockError) else None
    return {"type": type(error).__name__, "message": clean(str(error)), "code": code}
