"""The tasks of one pass of a durable function: who works, who waits, and when all only wait.

House rules: `running` counts the fibers that are not blocked. It changes at once where one is blocked, woken, or ends,
so that no other task sees it wrong. The pass is over when `quiet` is done; `end` is set once at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from poundlock.clock import Timer
from poundlock.errors import PoundlockError, ReplayDivergence, StepFailed
from poundlock.guard import Answer, answer_of
from poundlock.model.runs import WaitRow
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.durable_steps import Operation
from poundlock.pipeline.interrupting import Scope, Withdrawn, asked_for, current_task, judge
from poundlock.records import dataclass

_REFUSALS: Final = 100
"""Operations refused after the end, or to a part that was given up. More means a loop that swallows errors."""


# -------------------------------------------------------------------------------------------------- how a pass ends
@dataclass(slots=True)
class Blocked:
    """A fiber that waits for something far off.

    Attributes:
        operation: which one waits.
        fiber: where.
        turn: done when it goes on.
        until: when it goes on by itself, in seconds since 1970 UTC; None: never.
        row: the wait whose events it waits for, if it waits for events.
        timer: wakes it at that time, while other fibers work.
    """

    operation: Operation[Any]
    fiber: Fiber
    turn: asyncio.Future[None]
    until: float | None
    row: WaitRow | None
    timer: Timer | None = None


@dataclass(slots=True)
class Waiting:
    """All fibers wait."""

    blocked: Sequence[Blocked]


@dataclass(slots=True)
class Diverged:
    """The function asks for something else than its record has."""

    error: ReplayDivergence


@dataclass(slots=True)
class Again:
    """The function is to begin again with an empty record."""

    input: Any


@dataclass(slots=True)
class Broken:
    """The record cannot be written."""

    error: PoundlockError


@dataclass(slots=True)
class Endless:
    """A part of it goes on for ever although it was given up, so what gathers it would wait for ever."""

    error: StepFailed


End = Waiting | Diverged | Again | Broken | Endless


# ---------------------------------------------------------------------------------------------------------- fibers
class Fiber:
    """A task of a pass.

    Attributes:
        family: the gathered fibers it belongs to; None: it is the function itself.
        busy: the operation that is performed in it.
        over: it was given up, because another one of its family failed.
    """

    __slots__ = ("busy", "family", "over")

    def __init__(self, family: Family | None) -> None:
        self.family = family
        self.busy: Operation[Any] | None = None
        self.over = False

    def within(self, family: Family) -> bool:
        """Whether it belongs to a family, or to one that a member of it has gathered."""
        own = self.family
        while own is not None and own is not family:
            own = own.parent.family
        return own is family


class Family:
    """Fibers that are gathered.

    Attributes:
        parent: the fiber that gathers them.
        left: how many have not ended.
        failed: whether one of them has failed.
        turn: done when all have ended.
    """

    __slots__ = ("failed", "left", "parent", "turn")

    def __init__(self, parent: Fiber, size: int) -> None:
        self.parent = parent
        self.left = size
        self.failed = False
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Fibers:
    """The fibers of one pass.

    Args:
        run: the run.
        name: of the function, for the names of the tasks.
        give_up: called with an operation that is given up while it waits.

    Attributes:
        scope: over when the pass is.
        quiet: done when the pass is over.
        end: how it ended; None while it goes on, and where the function has returned or raised.
        blocked: those that wait, by the key of their operation.
        running: how many do not wait.
        refused: operations that were asked for after the end, or by a part that was given up.
    """

    def __init__(self, run: ActiveRun, name: str, give_up: Callable[[Operation[Any]], None]) -> None:
        self.run = run
        self.scope = Scope()
        self.quiet: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.end: End | None = None
        self.blocked: dict[str, Blocked] = {}
        self.running = 0
        self.refused = 0
        self._name = name
        self._give_up = give_up
        self._tasks: dict[asyncio.Task[Any], Fiber] = {}
        self._families: list[Family] = []

    def start(self, work: Coroutine[Any, Any, Any], family: Family | None = None) -> asyncio.Task[Answer]:
        """Start a fiber."""
        task = asyncio.get_running_loop().create_task(answer_of(work), name=f"function {self._name}")
        self._tasks[task] = Fiber(family)
        self.running += 1
        task.add_done_callback(self._ended)
        task.add_done_callback(lambda _: work.close())  # if it was cancelled before it began
        return task

    def finish(self, end: End) -> None:
        """End the pass. The first call counts."""
        if self.end is None:
            self.end = end
        self.settle()

    def settle(self) -> None:
        """Note that the pass is over."""
        if not self.quiet.done():
            self.quiet.set_result(None)

    # ------------------------------------------------------------------------------------------------- operations
    async def enter(self, operation: Operation[Any]) -> Fiber:
        """Return the fiber that awaits an operation.

        Raises:
            Withdrawn: the pass is over.
            StepFailed: the operation cannot be awaited here.
        """
        fiber = self._tasks.get(current_task())
        if fiber is None:
            raise StepFailed(
                f"{operation!r} is awaited in a task that this call of the function did not get from Poundlock: keep "
                f"no operation for another call, and use step.gather, which takes operations and coroutines, in place "
                f"of asyncio.gather, create_task or wait_for",
                path=operation.key,
            )
        if self.end is not None or self.scope.given_up or asked_for(self.run) is not None or fiber.over:
            self.refused += 1
            if self.refused > _REFUSALS:
                said = (
                    "a part of step.gather was given up, because another one had failed, and takes each exception and "
                    "goes on: let it pass, and catch Exception where you catch all"
                )
                self.finish(Endless(StepFailed(said)))
                await asyncio.get_running_loop().create_future()  # until it is left behind: it blocks no other run
            raise Withdrawn
        if fiber.busy is not None:
            raise StepFailed(
                f"{operation!r} is awaited inside of {fiber.busy!r}: await operations in the function only",
                path=operation.key,
            )
        if operation.begun:
            raise StepFailed(f"{operation!r} is awaited twice: keep what it gave the first time", path=operation.key)
        return fiber

    async def block(self, operation: Operation[Any], until: float | None, row: WaitRow | None = None) -> None:
        """Wait until the operation is woken, or its time has come.

        Raises:
            Withdrawn: the pass is over: all fibers wait.
            Interrupted: the run was interrupted.
        """
        task = current_task()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        blocked = self.blocked[operation.key] = Blocked(operation, self._tasks[task], turn, until, row)
        self.running -= 1
        self._look()
        if self.end is None and until is not None:
            blocked.timer = self.run.clock.call_at(until, partial(self.wake, operation.key))
        try:
            await turn
        except asyncio.CancelledError as error:
            await judge(self.run, task, error, self.scope)
            raise
        finally:
            if blocked.timer is not None:
                blocked.timer.cancel()
            if self.blocked.pop(operation.key, None) is not None:
                self.running += 1

    def wake(self, key: str, error: BaseException | None = None) -> None:
        """Let a blocked operation go on, or unwind its fiber with an error."""
        blocked = self.blocked.get(key)
        if blocked is None or self.end is not None:
            return
        del self.blocked[key]
        self.running += 1
        if blocked.turn.done():
            return
        if error is None:
            blocked.turn.set_result(None)
        else:
            blocked.turn.set_exception(error)

    async def together(self, parts: Sequence[Coroutine[Any, Any, Any]]) -> list[Answer]:
        """Run coroutines in fibers of their own, and return what they came to, in order.

        Raises:
            Withdrawn: the pass is over. Interrupted: the run was interrupted.
        """
        task = current_task()
        family = Family(self._tasks[task], len(parts))
        self._families.append(family)
        tasks = [self.start(part, family) for part in parts]
        self.running -= 1
        try:
            await family.turn
        except asyncio.CancelledError as error:
            await _unwound(tasks)
            await judge(self.run, task, error, self.scope)
            raise
        finally:
            self._families.remove(family)
        return [answer_in(each) for each in tasks]

    # ---------------------------------------------------------------------------------------------------- counting
    def _ended(self, task: asyncio.Task[Answer]) -> None:
        fiber = self._tasks.pop(task)
        family = fiber.family
        if family is not None:
            family.left -= 1
            family.failed = family.failed or answer_in(task).error is not None
            if not family.left:
                self.running += 1  # the one that gathers them
                if not family.turn.done():
                    family.turn.set_result(None)
        self.running -= 1
        self._look()

    def _look(self) -> None:
        """End the pass if all fibers wait, unless some wait beside one that has failed: those are given up."""
        if self.running or not self.blocked or self.end is not None:
            return
        if self.run.leaving and any(each.row is None and each.until is None for each in self.blocked.values()):
            self.finish(Waiting(tuple(self.blocked.values())))  # what has not begun is not given up: it begins later
            return
        for family in reversed(self._families):
            if family.failed:
                for key, blocked in list(self.blocked.items()):
                    if blocked.fiber.within(family):
                        self._give_up(blocked.operation)
                        blocked.fiber.over = True
                        self.wake(key, Withdrawn())
                return
        self.finish(Waiting(tuple(self.blocked.values())))


def answer_in(task: asyncio.Task[Answer]) -> Answer:
    """Return what a fiber that has ended came to."""
    if task.cancelled():
        return Answer(None, asyncio.CancelledError())
    error = task.exception()
    return task.result() if error is None else Answer(None, error)


async def _unwound(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel fibers and wait for their end."""
    left = {each for each in tasks if not each.done()}
    for each in left:
        each.cancel()
    while left:
        try:
            _, left = await asyncio.wait(left)
        except asyncio.CancelledError:  # again: pass it on, and continue to wait
            left = {each for each in left if not each.done()}
            for each in left:
                each.cancel()
