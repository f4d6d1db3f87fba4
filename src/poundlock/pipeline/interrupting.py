"""Interrupting a run, and deciding afterwards what caused it: the runtime, or user code.

House rules:

1. To stop a run, its reason is set first, then its task is cancelled (`interrupt`). So a cancellation without a
   reason comes from user code.
2. Every call of user code ends in `judge`, unless nothing needs a judgement (`disturbed`): no error, no
   cancellation left behind, no interruption. It decides by what was requested, see `guard`.
3. A step that may be given up (by its stage, because a sibling failed; by its timeout) runs in its own task,
   under a `Scope`: only such a task can be left behind when it does not react to its cancellation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from poundlock.guard import Interrupted, Interruption, clear_cancellation, passes
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.inbox import abort_request

log = logging.getLogger("poundlock.pipeline")


def interrupt(run: ActiveRun, task: asyncio.Task[Any] | None, why: Interruption) -> None:
    """Ask a run to stop: its task is cancelled if user code runs in it, else the run checks at its next boundary.

    An abort has to be among the run's messages already. LOST overrules an earlier request, as nothing of the run can
    be written any more, and a deadline overrules none; else the first request counts.

    Args:
        task: drives the run; None, a task that is done, or the one that calls are not cancelled.
        why: the runtime's request.
    """
    if run.interruption in (None, Interruption.DEADLINE) or why is Interruption.LOST:
        run.interruption = why
    if run.interruptible and task is not None and task is not asyncio.current_task():
        task.cancel()


def current_task() -> asyncio.Task[Any]:
    """Return the current task; all code here runs in one."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is only called from coroutines that a task drives
    return task


class Scope:
    """Around steps that can be given up while their run continues: those of a stage, or an attempt with a timeout.

    Attributes:
        over: their results are not needed any more.
        timed_out: because of their timeout.
        ends: when their timeout is over, on the monotonic clock; None without one.
        contexts: of the attempts inside that have not ended, in the order they began.
    """

    __slots__ = ("contexts", "ends", "outer", "over", "timed_out")

    def __init__(self, outer: Scope | None = None, ends: float | None = None) -> None:
        self.outer = outer
        self.ends = ends
        self.over = False
        self.timed_out = False
        self.contexts: dict[StepContext, None] = {}

    @property
    def given_up(self) -> bool:
        """Whether this scope, or one around it, is over."""
        return self.over or (self.outer is not None and self.outer.given_up)

    def enter(self, context: StepContext) -> None:
        """Add an attempt, here and in the scopes around."""
        self.contexts[context] = None
        if self.ends is not None:
            context.end_by(self.ends)
        if self.outer is not None:
            self.outer.enter(context)

    def leave(self, context: StepContext) -> None:
        """Remove an attempt that has ended, here and in the scopes around: a step may have thousands of elements."""
        self.contexts.pop(context, None)
        if self.outer is not None:
            self.outer.leave(context)

    def give_up(self) -> None:
        """Close the scope: notes that attempts made so far count, later ones do not."""
        self.over = True
        for context in self.contexts:
            context.abandon()


class Withdrawn(BaseException):
    """Unwinds a step that was given up. Like Interrupted, it is not a failure and passes every `except Exception`."""


def asked_for(run: ActiveRun) -> Interruption | None:
    """Return why the runtime wants a run to stop, if it does."""
    why = run.interruption
    if why is not None and why is not Interruption.DEADLINE:
        return why
    if run.supervision.watch.ending:
        return Interruption.STOP
    if run.undoing is not None:  # once its end is decided, a request changes nothing
        return None
    return why if abort_request(run) is None else Interruption.ABORT


def disturbed(run: ActiveRun, task: asyncio.Task[Any]) -> bool:
    """Whether user code that returned has to be judged nevertheless."""
    # `uncancel` leaves a cancellation that was not delivered, before CPython 3.13; it would hit our next await.
    return task.cancelling() > 0 or task._must_cancel or run.interruption is not None  # type: ignore[attr-defined]  # noqa: SLF001 - see above


async def judge(
    run: ActiveRun, task: asyncio.Task[Any], error: BaseException | None, scope: Scope | None = None
) -> BaseException | None:
    """Decide what counts, after user code has raised `error`, or returned and left a cancellation behind.

    Cancellations left behind in the task are cleared.

    Args:
        run: the run of the code.
        task: the task it ran in, which is the current one.
        error: what it raised; None if it returned.
        scope: the innermost scope it ran in; None if only the run itself can be interrupted.

    Returns:
        The error the code failed with: `error`, or a CancelledError if it returned while cancelling itself; None if
        what it returned counts.

    Raises:
        Interrupted: the run was interrupted; this overrides all else.
        Withdrawn: the step was given up by a scope around it.
        BaseException: `error` is meant for the process or for the coroutine itself.
    """
    if error is not None and passes(error, task):
        raise error
    # With a cancellation requested but not delivered, a task would end as cancelled; so this counts as cancelled.
    if error is None and task._must_cancel and task.cancelling():  # type: ignore[attr-defined]  # noqa: SLF001 - the loop gives no other way to tell
        error = asyncio.CancelledError()
    await clear_cancellation(task)
    if (why := asked_for(run)) is not None:
        raise Interrupted(why)
    if scope is not None and scope.given_up:
        raise Withdrawn
    return error


_GOING_ON: Final = (None, Interruption.DEADLINE)
"""Requests after which the run itself goes on: nobody else would leave its steps behind."""


async def beside(
    run: ActiveRun,
    tasks: Sequence[asyncio.Task[Any]],
    scope: Scope,
    seconds: float | None,
    fails: Callable[[asyncio.Task[Any]], bool] = lambda _: False,
) -> asyncio.Task[Any] | None:
    """Wait for steps in their own tasks. They are given up when one fails, at the timeout, or on interruption.

    A step given up is cancelled and has `abort_grace` to end; then it is left behind. An interrupted run waits for as
    long as the runtime lets it.

    Args:
        run: the run of the steps.
        tasks: they run in these.
        scope: given up in those cases; its `timed_out` is set for the timeout.
        seconds: timeout; None for no limit.
        fails: whether a finished task has failed.

    Returns:
        The first that failed.

    Raises:
        asyncio.CancelledError: the current task was cancelled meanwhile; the caller has to judge it.
    """
    group = _Group(run, tasks, scope, fails)
    cancelled: asyncio.CancelledError | None = None
    limited = True
    try:
        await group.decided(seconds)
    except asyncio.CancelledError as error:
        cancelled = error
        limited = asked_for(run) in _GOING_ON and not (scope.outer is not None and scope.outer.given_up)
    if group.pending:
        cancelled = await group.give_up(run.supervision.abort_grace if limited else None) or cancelled
    if cancelled is not None:
        raise cancelled
    return group.failed


class _Group:
    """Steps of a run in their own tasks: first all of them are awaited, then those that were given up.

    Attributes:
        pending: those that have not ended.
        failed: the first that failed, before anything was given up.
    """

    def __init__(
        self,
        run: ActiveRun,
        tasks: Sequence[asyncio.Task[Any]],
        scope: Scope,
        fails: Callable[[asyncio.Task[Any]], bool],
    ) -> None:
        self.pending = set(tasks)
        self.failed: asyncio.Task[Any] | None = None
        self._run = run
        self._scope = scope
        self._fails = fails
        self._turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for task in tasks:
            task.add_done_callback(self._done)

    async def decided(self, seconds: float | None) -> None:
        """Return when all have ended, one has failed, or after `seconds`."""
        timer = None if seconds is None else self._run.clock.call_later(seconds, self._time_over)
        try:
            await self._turn
        finally:
            if timer is not None:
                timer.cancel()

    async def give_up(self, grace: float | None) -> asyncio.CancelledError | None:
        """Cancel the remaining ones, and wait for their end; after `grace` seconds they are left behind.

        Returns:
            The cancellation of the current task meanwhile; it was passed on to them.
        """
        self._scope.give_up()
        self._cancel()
        cancelled: asyncio.CancelledError | None = None
        self._turn = asyncio.get_running_loop().create_future()
        timer = None if grace is None else self._run.clock.call_later(grace, self._wake)
        while self.pending and not self._turn.done():
            try:
                await asyncio.shield(self._turn)
            except asyncio.CancelledError as error:  # again, or for another reason: pass it on and continue to wait
                cancelled = error
                self._cancel()
        if timer is not None:
            timer.cancel()
        for task in self.pending:
            self._run.supervision.keep(task)
            log.warning(
                "%s of run '%s' did not end within %g s of its cancellation: left behind",
                task.get_name(),
                self._run.run_id,
                grace,
            )
        return cancelled

    def _cancel(self) -> None:
        for task in self.pending:
            if task not in self._run.spared:
                task.cancel()

    def _wake(self) -> None:
        if not self._turn.done():
            self._turn.set_result(None)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.pending.discard(task)
        if self.failed is None and not self._scope.over and self._fails(task):
            self.failed = task
            self._wake()
        elif not self.pending:
            self._wake()

    def _time_over(self) -> None:
        if self.pending and not self._scope.over:
            self._scope.timed_out = True
            self._wake()
