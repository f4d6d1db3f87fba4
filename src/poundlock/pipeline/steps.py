"""Performing a stage: its steps run together, and either all of them have succeeded or the stage failed.

Every error of a step ends here, as the failure of its stage, unless the runtime requested it (`interrupting`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from poundlock.codecs import dump, pack
from poundlock.errors import StepFailed, StepTimeout
from poundlock.guard import Interrupted, answer_of, describe, name_blocking, name_of, repr_of
from poundlock.model.definitions import INSTRUCTIONS, Instruction
from poundlock.model.runs import RunError
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.injection import arguments
from poundlock.pipeline.interrupting import (
    Scope,
    Withdrawn,
    asked_for,
    beside,
    current_task,
    disturbed,
    judge,
)
from poundlock.pipeline.outcome import run_error
from poundlock.pipeline.plan import StagePlan, StepPlan
from poundlock.pipeline.retry import repeat
from poundlock.pipeline.states import Written, as_result, returned, written
from poundlock.records import dataclass


@dataclass(slots=True)
class StepDone:
    """Result of one step: the patch as it is stored, its text, and its instruction."""

    step: StepPlan
    patch: dict[str, Any] | None = None
    text: str | None = None
    instruction: Instruction | None = None

    @property
    def result(self) -> Any:
        """The result as routers see it."""
        return self.patch


@dataclass(slots=True)
class ModelDone(StepDone):
    """A step that returned a model; the patch holds only what it changed."""

    whole: Any = None

    @property
    def result(self) -> Any:
        """The whole model."""
        return self.whole


@dataclass(slots=True)
class StageDone:
    """Result of a stage: its steps in definition order, or why it failed."""

    stage: StagePlan
    steps: Sequence[StepDone] = ()
    error: RunError | None = None
    handled: BaseException | None = None
    """Why it failed, if the run goes on all the same: services of the stage see it."""


async def perform(run: ActiveRun, stage: StagePlan, task: asyncio.Task[Any]) -> StageDone:
    """Run the steps of a stage to their end. `task` is the current one.

    Raises:
        Interrupted: the run was interrupted; nothing of the stage counts.
    """
    if len(stage.steps) != 1 or stage.timeout is not None:
        return await _perform_together(run, stage, task)
    return _stage_done(stage, [await perform_step(run, stage.steps[0], None)])


async def _perform_together(run: ActiveRun, stage: StagePlan, task: asyncio.Task[Any]) -> StageDone:
    """Several steps at once, or a timeout: after the first final failure, or the timeout, the others are given up."""
    if not stage.steps:
        return StageDone(stage)
    scope = Scope()
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(perform_step(run, step, scope), name=f"step {step.path}") for step in stage.steps]
    try:
        failed = await beside(run, tasks, scope, stage.timeout, _has_failed)
    except asyncio.CancelledError as error:
        run.failure = await judge(run, task, error) or error
        return StageDone(stage, error=run_error(run.failure, stage.id, None))
    if asked_for(run) is not None:  # a step noticed it first
        await judge(run, task, None)
    if scope.timed_out:
        late = StepTimeout(
            f"stage '{stage.id}' took longer than {stage.timeout:g} s: raise its timeout or make it faster",
            path=stage.path,
        )
        run.failure = late
        return StageDone(stage, error=run_error(late, stage.id, None))
    if failed is not None and failed.cancelled():  # from outside, before it began: `perform_step` never raises it
        run.failure = asyncio.CancelledError()
        return StageDone(stage, error=run_error(run.failure, stage.id, None))
    return _stage_done(stage, [each.result() for each in ((failed,) if failed is not None else tasks)])


def _stage_done(stage: StagePlan, results: Sequence[StepDone | RunError | None]) -> StageDone:
    done: list[StepDone] = []
    for result in results:
        if isinstance(result, RunError):
            return StageDone(stage, error=result)
        assert result is not None  # noqa: S101 - nothing was given up
        done.append(result)
    return StageDone(stage, done)


def _has_failed(task: asyncio.Task[StepDone | RunError | None]) -> bool:
    return task.cancelled() or task.exception() is not None or isinstance(task.result(), RunError)


async def perform_step(run: ActiveRun, step: StepPlan, scope: Scope | None) -> StepDone | RunError | None:
    """All attempts of a step: its result, or why it failed for good; None if it was given up within `scope`.

    The end of an undo is not noted here: see `undo_log`.

    Raises:
        Interrupted: the run was interrupted, and there is no scope.
    """
    journal, task = run.journal, current_task()
    made = 1

    async def attempt(number: int) -> StepDone:
        nonlocal made
        made = number
        journal.add(run.clock.now(), "pipeline", f"{step.kind}:start", step.path_json, dump({"attempt": number}))
        context = StepContext(run, step, number)
        if scope is not None:
            scope.enter(context)
        try:
            if step.timeout is None:
                return await _attempt(run, step, context, scope)
            return await _attempt_within(run, step, context, scope)
        finally:
            context.abandon()

    def on_retry(number: int, delay: float, error: BaseException) -> None:
        detail = {"attempt": number, "delay": delay, "error": describe(error)._asdict()}
        journal.add(run.clock.now(), "pipeline", f"{step.kind}:retry", step.path_json, dump(detail))

    try:
        try:
            done = await (attempt(1) if step.retry is None else repeat(step.retry, run.clock, attempt, on_retry))
        except (Interrupted, Withdrawn):
            raise
        except BaseException as error:  # noqa: BLE001 - a step may raise anything; it fails the run, not the runtime
            # Judged again, because its task may have been cancelled between two attempts.
            return failure_of(run, step, await judge(run, task, error, scope) or error, made)
    except (Interrupted, Withdrawn):
        if scope is None:
            raise
        return None  # in its own task: the scope that gave it up knows
    if step.kind == "step":
        journal.add(run.clock.now(), "pipeline", "step:success", step.path_json)
    return done


async def _attempt(run: ActiveRun, step: StepPlan, context: StepContext, scope: Scope | None) -> StepDone:
    """One attempt; raises its error, Interrupted or Withdrawn."""
    task = current_task()
    try:
        result = await _invoke(run, step, context)
        done = digest(run, step, result) if step.kind == "step" else StepDone(step)
    except BaseException as error:
        await judge(run, task, error, scope)
        raise
    if disturbed(run, task) or (scope is not None and scope.given_up):
        stray = await judge(run, task, None, scope)
        if stray is not None:
            raise stray
    return done


async def _attempt_within(run: ActiveRun, step: StepPlan, context: StepContext, outer: Scope | None) -> StepDone:
    """One attempt that is given up at its timeout."""
    scope = Scope(outer)
    scope.enter(context)
    work = answer_of(_attempt(run, step, context, scope))
    attempt = asyncio.get_running_loop().create_task(work, name=f"step {step.path}")
    try:
        await beside(run, [attempt], scope, step.timeout)
    except asyncio.CancelledError as error:
        await judge(run, current_task(), error, outer)
        raise
    if asked_for(run) is not None or (outer is not None and outer.given_up):
        await judge(run, current_task(), None, outer)
    if scope.timed_out:
        run.journal.add(
            run.clock.now(), "pipeline", f"{step.kind}:timeout", step.path_json, dump({"attempt": context.attempt})
        )
        raise StepTimeout(
            f"step '{step.id}' took longer than {step.timeout:g} s: raise its timeout or make it faster",
            path=step.path,
        )
    answer = attempt.result()
    try:
        if answer.error is not None:
            raise answer.error
        return answer.value  # type: ignore[no-any-return]  # what `_attempt` returns
    finally:
        del answer, attempt  # else the error refers to itself through its traceback


async def _invoke(run: ActiveRun, step: StepPlan, context: StepContext) -> Any:
    args, kwargs = await arguments(run, step.binding, context)
    if step.is_async:
        return await step.action(*args, **kwargs)
    if step.in_thread:
        result = await run.threads.call(step.action, tuple(args), kwargs)
    else:
        since = run.clock.monotonic()
        result = step.action(*args, **kwargs)
        name_blocking(run.clock, since, step.action)
    # A plain wrapper around an async function does not look async before it is called.
    return await result if asyncio.iscoroutine(result) else result


def digest(run: ActiveRun, step: StepPlan, result: Any) -> StepDone:
    """Turn a step's return value into a patch or an instruction; from now on its decoded copy is used."""
    if type(result) is dict and run.plan.state_model is None:  # nearly always; a check for Mapping costs more
        patch, text = pack(result, "", "patch")
        return StepDone(step, patch, text)
    if result is None:
        return StepDone(step)
    model = run.plan.state_model
    if isinstance(result, INSTRUCTIONS):
        carried = carried_patch(run, result, step.path)
        if carried is None:
            return StepDone(step, instruction=result)
        return StepDone(step, *carried, instruction=result)
    if not isinstance(result, Mapping):
        if not hasattr(type(result), "model_dump"):
            # A router may name the next stage by text. For a step, text is more likely a wrong patch.
            jump = f" (to go to a stage: Jump({repr_of(result, 60)}))" if isinstance(result, str) else ""
            raise StepFailed(
                f"step '{step.id}' returned a {name_of(type(result))}: return a mapping, a model, "
                f"an instruction or None{jump}",
                path=step.path,
            )
        patch, text = returned(model, result, run.state)
        return ModelDone(step, patch, text, whole=as_result(model, result))
    patch, text = written(model, result, run.state)
    return StepDone(step, patch, text)


def carried_patch(run: ActiveRun, instruction: Instruction, path: str) -> Written | None:
    """Return the patch an instruction carries, as it is stored; None if it carries none.

    Raises:
        StepFailed: it is not a mapping.
        StateInvalid, NotStorable: it does not fit the state's model, or is not data.
    """
    patch: object = instruction.patch
    if patch is None:
        return None
    if not isinstance(patch, Mapping):
        raise StepFailed(
            f"the patch of {name_of(type(instruction))} is a {name_of(type(patch))}: give a mapping", path=path
        )
    return written(run.plan.state_model, patch, run.state, "patch")


def failure_of(run: ActiveRun, step: StepPlan, error: BaseException, attempt: int = 1) -> RunError:
    """Note that a step failed for good, and return why its stage does."""
    if run.failure is None:  # the first of several counts
        run.failure = error
    if step.kind == "step":
        payload = dump(describe(error)._asdict())
        run.journal.add(run.clock.now(), "pipeline", "step:failure", step.path_json, payload)
    return run_error(error, step.stage_id, step.id, attempt)
