"""Performing a stage: its steps run together, and either all of them have succeeded or the stage failed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from poundlock.codecs import dump
from poundlock.errors import StepTimeout
from poundlock.model.runs import RunError
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.attempts import Attempts, Work
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.contracts import given, taken
from poundlock.pipeline.interrupting import Scope, asked_for, beside, judge
from poundlock.pipeline.mapping import Mapped
from poundlock.pipeline.memo import began, has_children
from poundlock.pipeline.outcome import run_error
from poundlock.pipeline.plan import ContractPlan, StagePlan, StepPlan
from poundlock.pipeline.resting import Resting
from poundlock.pipeline.step_results import StepDone, Suspended, digest, failure_of
from poundlock.records import dataclass


@dataclass(slots=True)
class StageDone:
    """Result of a stage: its steps in definition order, or why it failed."""

    stage: StagePlan
    steps: Sequence[StepDone] = ()
    error: RunError | None = None
    handled: BaseException | None = None
    """Why it failed, if the run goes on all the same: services of the stage see it."""
    suspended: Suspended | None = None
    """It is entered again later, and continues by its memo."""


async def perform(run: ActiveRun, stage: StagePlan, task: asyncio.Task[Any]) -> StageDone:
    """Run the steps of a stage to their end. `task` is the current one.

    Raises:
        Interrupted: the run was interrupted; nothing of the stage counts.
    """
    try:
        if stage.perform is not None:
            done: StageDone = await stage.perform(run, stage, task)
        elif stage.keeps:
            done = await _perform_kept(run, stage, task)
        elif len(stage.steps) != 1 or stage.timeout is not None or run.plan.limit is not None:
            done = await _perform_limited(run, stage, task)
        else:
            done = _stage_done(stage, [await perform_step(run, stage.steps[0], None)])
    finally:
        if run.memo is not None:  # what it has kept is written before anything else is
            await run.memo.finish(task)
    if done.error is not None and run.waits and has_children(run.waits):
        from poundlock.pipeline.children import abandon  # most workflows have none

        await abandon(run, None, f"stage '{stage.id}' failed")
    return done


async def _perform_kept(run: ActiveRun, stage: StagePlan, task: asyncio.Task[Any]) -> StageDone:
    """As `perform`, where steps may have to wait; then the run may be parked in the middle of the stage."""
    run.resting = resting = Resting(run, stage)
    run.let_go = resting.let_go
    try:
        left = resting.left_of(stage.timeout)
        if left is not None and left <= 0:
            return _too_late(run, stage)
        if len(stage.steps) != 1 or left is not None or run.plan.limit is not None:
            done = await _perform_together(run, stage, task, left)
        else:
            done = _stage_done(stage, [await perform_step(run, stage.steps[0], None)])
        if resting.parked and done.error is None:
            resting.suspend(done.steps)
            done.suspended = Suspended(resting.until, quiet=resting.quiet)
        return done
    finally:
        run.resting = run.let_go = None


async def _perform_limited(run: ActiveRun, stage: StagePlan, task: asyncio.Task[Any]) -> StageDone:
    """As `_perform_together`, within what is left of the stage's timeout: with children, it may be entered again."""
    left = stage.timeout
    if left is not None and run.waits:
        left = min(left, began(run) + left - run.clock.now())
        if left <= 0:
            return _too_late(run, stage)
    return await _perform_together(run, stage, task, left)


async def _perform_together(
    run: ActiveRun, stage: StagePlan, task: asyncio.Task[Any], timeout: float | None
) -> StageDone:
    """Several steps at once, or a timeout: after the first final failure, or the timeout, the others are given up."""
    if not stage.steps:
        return StageDone(stage)
    scope = Scope(ends=None if timeout is None else run.clock.monotonic() + timeout)
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(perform_step(run, step, scope), name=f"step {step.path}") for step in stage.steps]
    try:
        failed = await beside(run, tasks, scope, timeout, _has_failed)
    except asyncio.CancelledError as error:
        run.failure = await judge(run, task, error) or error
        return StageDone(stage, error=run_error(run.failure, stage.id, None))
    if asked_for(run) is not None:  # a step noticed it first
        await judge(run, task, None)
    if scope.timed_out:
        return _too_late(run, stage)
    if failed is not None and failed.cancelled():  # from outside, before it began: `perform_step` never raises it
        run.failure = asyncio.CancelledError()
        return StageDone(stage, error=run_error(run.failure, stage.id, None))
    return _stage_done(stage, [each.result() for each in ((failed,) if failed is not None else tasks)])


def _too_late(run: ActiveRun, stage: StagePlan) -> StageDone:
    late = StepTimeout(
        f"stage '{stage.id}' took longer than {stage.timeout:g} s: raise its timeout or make it faster",
        path=stage.path,
    )
    run.failure = late
    return StageDone(stage, error=run_error(late, stage.id, None))


def _stage_done(stage: StagePlan, results: Sequence[StepDone | RunError | Suspended | None]) -> StageDone:
    done: list[StepDone] = []
    for result in results:
        if isinstance(result, RunError):
            return StageDone(stage, error=result)
        if isinstance(result, Suspended):
            return StageDone(stage, suspended=result)
        if result is not None:  # else the run is parked while this step waits
            done.append(result)
    return StageDone(stage, done)


def _has_failed(task: asyncio.Task[StepDone | RunError | Suspended | None]) -> bool:
    return task.cancelled() or task.exception() is not None or isinstance(task.result(), RunError)


def perform_step(
    run: ActiveRun, step: StepPlan, scope: Scope | None
) -> Coroutine[Any, Any, StepDone | RunError | Suspended | None]:
    """All attempts of a step: its result, or why it failed for good; None if it was given up within `scope`.

    The end of an undo is not noted here: see `undo_log`.

    Raises:
        Interrupted: the run was interrupted, and there is no scope.
    """
    if step.children is not None:
        from poundlock.pipeline.children import Parent  # most workflows have none

        return Parent(run, step, step.children, scope).outcome()
    work: Work
    if step.each is not None:
        work = Mapped(run, step, step.each, scope)
    elif step.poll is not None:
        from poundlock.pipeline.polling import Polled  # likewise

        work = Polled(run, step, step.poll, scope)
    elif step.contract is not None and step.kind == "step":
        work = _Contracted(run, step, scope, step.contract)
    else:
        work = _Whole(run, step, scope)
    if run.resting is None or step.kind != "step":
        return work.outcome()
    assert isinstance(run.resting, Resting)  # noqa: S101 - made by `perform`
    return run.resting.outcome(step, scope, work.outcome)


class _Whole(Attempts):
    """The call of a step that is called once."""

    __slots__ = ()

    def _begin(self, number: int) -> StepContext:
        run, step = self.run, self.step
        if number > 1:
            detail = dump(self._detail(number))
            run.journal.add(run.clock.now(), "pipeline", f"{step.kind}:start", step.path_json, detail)
        elif run.journal.full:
            run.journal.put(run.clock.now(), step.start_entry)
        return StepContext(run, step, number)

    def _take(self, result: Any) -> StepDone:
        return digest(self.run, self.step, result) if self.step.kind == "step" else StepDone(self.step)

    def _succeeded(self, result: StepDone) -> StepDone:
        result.outgoing = self.outgoing
        if self.run.journal.full and self.step.kind == "step":
            self.run.journal.put(self.run.clock.now(), self.step.success_entry)
        return result

    def _failed(self, error: BaseException) -> RunError:
        return failure_of(self.run, self.step, error, self.made)


class _Contracted(_Whole):
    """The call of a step with a contract: its input is checked once before it, what it returns in each attempt."""

    __slots__ = ("_contract",)

    def __init__(self, run: ActiveRun, step: StepPlan, scope: Scope | None, contract: ContractPlan) -> None:
        super().__init__(run, step, scope)
        self._contract = contract

    async def _result(self) -> Any:
        if self._contract.input is not None:
            taken(self._contract, self.run)
        return await super()._result()

    def _take(self, result: Any) -> StepDone:
        return super()._take(given(self._contract, result))
