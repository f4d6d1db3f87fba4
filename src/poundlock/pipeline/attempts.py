"""The attempts of a step, or of one of its elements: called, repeated, timed, and given up where nobody needs them.

Every error ends here, as a failure of the step, unless the runtime requested it (`interrupting`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from poundlock.codecs import dump
from poundlock.errors import StepTimeout
from poundlock.guard import Interrupted, answer_of, describe, name_blocking
from poundlock.model.definitions import Retry
from poundlock.model.outbox import Outgoing
from poundlock.model.runs import RunError
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.attempts_kept import AttemptsKept
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.injection import arguments
from poundlock.pipeline.interrupting import Scope, Withdrawn, asked_for, beside, current_task, disturbed, judge
from poundlock.pipeline.plan import StepPlan
from poundlock.pipeline.retry import repeat
from poundlock.pipeline.step_results import failure_of


class Work:
    """Something of a step that succeeds, fails for good, or is given up.

    Args:
        run: the run.
        step: the step.
        scope: in which it may be given up; None if only the run itself can be interrupted.
    """

    __slots__ = ("run", "scope", "step")

    def __init__(self, run: ActiveRun, step: StepPlan, scope: Scope | None) -> None:
        self.run = run
        self.step = step
        self.scope = scope

    async def outcome(self) -> Any | RunError | None:
        """Return its result, or why it failed for good; None if it was given up within its scope.

        Raises:
            Interrupted: the run was interrupted, and there is no scope.
        """
        task = current_task()
        try:
            try:
                return self._succeeded(await self._result())
            except (Interrupted, Withdrawn):
                raise
            except BaseException as error:  # noqa: BLE001 - a step may raise anything; it fails the run, not the runtime
                # Judged again, because its task may have been cancelled between two attempts.
                return self._failed(await judge(self.run, task, error, self.scope) or error)
        except (Interrupted, Withdrawn):
            if self.scope is None:
                raise
            return None  # in its own task: the scope that gave it up knows

    def _result(self) -> Coroutine[Any, Any, Any]:
        """Return what it comes to; raises its error, Interrupted or Withdrawn."""
        raise NotImplementedError

    def _succeeded(self, result: Any) -> Any:
        """Note that it succeeded, and return its result."""
        return result

    def _failed(self, error: BaseException) -> RunError | None:
        """Note the final failure, and return it."""
        return failure_of(self.run, self.step, error)


class Attempts(Work):
    """The attempts of one call of a step's function, by the step's Retry and timeout.

    Attributes:
        made: number of the latest attempt.
        outgoing: the events that the one which succeeded has emitted.
    """

    __slots__ = ("made", "outgoing")

    def __init__(self, run: ActiveRun, step: StepPlan, scope: Scope | None) -> None:
        self.run = run
        self.step = step
        self.scope = scope
        self.made = 1
        self.outgoing: Sequence[Outgoing] | None = None

    # ------------------------------------------------------------------------------- what a kind of call has of its own
    def _begin(self, number: int) -> StepContext:
        """Note that an attempt begins, and return its context."""
        raise NotImplementedError

    def _take(self, result: Any) -> Any:
        """Return what the function returned, as it is stored."""
        raise NotImplementedError

    def _detail(self, number: int) -> dict[str, Any]:
        """Return what names an attempt in the timeline."""
        return {"attempt": number}

    def _place(self) -> str:
        """Return what names this call among those of its step, in a memo; empty if it is the only one."""
        return ""

    # -------------------------------------------------------------------------------------------------------- attempts
    def _result(self) -> Coroutine[Any, Any, Any]:
        if self.step.retry is None:
            return self._attempt(1)
        return self._repeated(self.step.retry)

    async def _repeated(self, retry: Retry) -> Any:
        waiting = AttemptsKept(self.run, self.step, self._place)
        number = await waiting.number()
        self.made = max(1, number - 1)
        return await repeat(retry, self._attempt, partial(self._note_retry, waiting), waiting.wait, number)

    async def _attempt(self, number: int) -> Any:
        self.made = number
        context = self._begin(number)
        scope = self.scope
        if scope is not None:
            scope.enter(context)
        try:
            if self.step.timeout is None:
                done = await self._once(context, scope)
            else:
                done = await self._within(context, self.step.timeout)
            self.outgoing = context.outgoing
            return done
        finally:
            context.abandon()
            if scope is not None:
                scope.leave(context)

    def _note_retry(self, waiting: AttemptsKept, number: int, delay: float, error: BaseException) -> None:
        said = describe(error)._asdict()
        waiting.failed(number, delay, said)
        detail = {**self._detail(number), "delay": delay, "error": said}
        self.run.journal.add(
            self.run.clock.now(), "pipeline", f"{self.step.kind}:retry", self.step.path_json, dump(detail)
        )

    async def _once(self, context: StepContext, scope: Scope | None) -> Any:
        """One attempt; raises its error, Interrupted or Withdrawn."""
        run, task = self.run, current_task()
        try:
            done = self._take(await _invoke(run, self.step, context))
        except BaseException as error:
            await judge(run, task, error, scope)
            raise
        if disturbed(run, task) or (scope is not None and scope.given_up):
            stray = await judge(run, task, None, scope)
            if stray is not None:
                raise stray
        return done

    async def _within(self, context: StepContext, seconds: float) -> Any:
        """One attempt that is given up at its timeout."""
        run, step, outer = self.run, self.step, self.scope
        scope = Scope(outer, run.clock.monotonic() + seconds)
        scope.enter(context)
        work = answer_of(self._once(context, scope))
        attempt = asyncio.get_running_loop().create_task(work, name=f"step {step.path}")
        try:
            await beside(run, [attempt], scope, seconds)
        except asyncio.CancelledError as error:
            await judge(run, current_task(), error, outer)
            raise
        if asked_for(run) is not None or (outer is not None and outer.given_up):
            await judge(run, current_task(), None, outer)
        if scope.timed_out:
            detail = dump(self._detail(context.attempt))
            run.journal.add(run.clock.now(), "pipeline", f"{step.kind}:timeout", step.path_json, detail)
            raise StepTimeout(
                f"step '{step.id}' took longer than {seconds:g} s: raise its timeout or make it faster",
                path=step.path,
            )
        answer = attempt.result()
        try:
            if answer.error is not None:
                raise answer.error
            return answer.value
        finally:
            del answer, attempt  # else the error refers to itself through its traceback


async def _invoke(run: ActiveRun, step: StepPlan, context: StepContext) -> Any:
    args, kwargs = await arguments(run, step.binding, context)
    if step.is_async:
        return await step.action(*args, **kwargs)
    if step.in_thread:
        result = await run.threads.call(step.action, tuple(args), kwargs)
    elif step.elsewhere is not None:
        result = await step.elsewhere(run, step.action, args, kwargs)
    else:
        since = run.clock.monotonic()
        result = step.action(*args, **kwargs)
        name_blocking(run.clock, since, step.action)
    # A plain wrapper around an async function does not look async before it is called.
    return await result if asyncio.iscoroutine(result) else result
