"""Run clean-ups: all of them, last in, first out, even if some fail.

House rules: a failed clean-up is recorded and the next one runs; one that hangs is abandoned after the node's
`cleanup_timeout`; the cancellation of a caller never stops a sweep. A failure that is thrown into a generator stays a
failure, even if the generator catches it.
"""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from typing import Any, Final

from poundlock.artifacts.events import logger
from poundlock.artifacts.node import CleanUp, Node, Slot
from poundlock.clock import timeout_after
from poundlock.errors import ArtifactTimeout
from poundlock.guard import add_note, describe, ends, for_the_process, log_text

_AGAIN: Final = "a factory must yield once, and this one yielded again"


class FinishGenerator:
    """The clean-up of a generator factory: the code after its yield, or, after a failure, the code that handles it."""

    __slots__ = ("_generator",)

    def __init__(self, generator: Generator[Any, None, None]) -> None:
        self._generator = generator

    def __call__(self, failure: BaseException | None = None) -> None:
        if failure is None:
            for _ in self._generator:
                self._generator.close()
                raise RuntimeError(_AGAIN)
            return
        with _passing_through(failure), suppress(StopIteration):
            self._generator.throw(failure)
            self._generator.close()
            raise RuntimeError(_AGAIN)


class FinishAsyncGenerator:
    """The same for an async generator."""

    __slots__ = ("_generator",)

    def __init__(self, generator: AsyncGenerator[Any, None]) -> None:
        self._generator = generator

    async def __call__(self, failure: BaseException | None = None) -> None:
        if failure is None:
            async for _ in self._generator:
                await self._generator.aclose()
                raise RuntimeError(_AGAIN)
            return
        with _passing_through(failure), suppress(StopAsyncIteration):
            await self._generator.athrow(failure)
            await self._generator.aclose()
            raise RuntimeError(_AGAIN)


class ExitManager:
    """The clean-up of a context manager factory. `__exit__` cannot suppress the failure."""

    __slots__ = ("_manager",)

    def __init__(self, manager: AbstractContextManager[Any]) -> None:
        self._manager = manager

    def __call__(self, failure: BaseException | None = None) -> None:
        if failure is None:
            self._manager.__exit__(None, None, None)
            return
        with _passing_through(failure):
            self._manager.__exit__(type(failure), failure, failure.__traceback__)


class ExitAsyncManager:
    """The same for an async context manager."""

    __slots__ = ("_manager",)

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager

    async def __call__(self, failure: BaseException | None = None) -> None:
        if failure is None:
            await self._manager.__aexit__(None, None, None)
            return
        with _passing_through(failure):
            await self._manager.__aexit__(type(failure), failure, failure.__traceback__)


_AT_ONCE: Final = frozenset({FinishGenerator, ExitManager})
_SEE_FAILURES: Final = frozenset({FinishGenerator, FinishAsyncGenerator, ExitManager, ExitAsyncManager})


class _passing_through:  # noqa: N801 - used like a function; contextlib's fail for errors that refuse attributes
    """Suppress the failure if it comes out again; any other error is the clean-up's own."""

    __slots__ = ("_failure", "_trace")

    def __init__(self, failure: BaseException) -> None:
        self._failure = failure
        self._trace = failure.__traceback__

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, raised: BaseException | None, trace: object) -> bool:
        failure = self._failure
        # Else it would grow with every clean-up. Not by assignment, which a frozen dataclass refuses.
        BaseException.with_traceback(failure, self._trace)
        # A StopIteration that leaves a generator becomes a RuntimeError.
        ends_iterators = isinstance(failure, StopIteration | StopAsyncIteration)
        return raised is failure or (ends_iterators and raised is not None and raised.__cause__ is failure)


def add_cleanup(slot: Slot, cleanup: CleanUp) -> None:
    """Register a clean-up for the current instance."""
    if slot.cleanups is None:
        slot.cleanups = []
    slot.cleanups.append(cleanup)
    if type(cleanup) not in _AT_ONCE:
        slot.node.waits_to_close = True


class Sweep:
    """One pass of clean-ups: synchronous ones run directly, from the first awaitable on they run in a task.

    Args:
        pending: (slot, clean-up) pairs, in the order of execution.
        cleaning: slots whose next build has to wait for this sweep.
        beneath: slots that those depended on; their clean-ups have to wait for this sweep.
        after: clean-ups in other tasks that have to end first.
        failure: what generators see at their yield, and context managers at their exit; None means success.
        together: whether a failed clean-up is a failure for those after it, and all share one time limit.
    """

    __slots__ = ("_after", "_beneath", "_cleaning", "_failure", "_slot", "_todo", "_together", "_until", "errors")

    def __init__(
        self,
        pending: Iterable[tuple[Slot, CleanUp]],
        cleaning: Sequence[Slot] = (),
        beneath: Iterable[Slot] = (),
        after: Iterable[asyncio.Task[None]] = (),
        failure: BaseException | None = None,
        *,
        together: bool = False,
    ) -> None:
        self._failure = failure
        self._together = together
        self._todo = list(pending)[::-1]
        self._cleaning = cleaning
        self._beneath = beneath
        self._after = {task for task in after if not task.done()}
        self._slot: Slot | None = None
        self._until: float | None = None
        self.errors: list[Exception] = []

    def advance(self) -> Awaitable[Any] | None:
        """Run clean-ups up to the first that returns an awaitable, and return that; None if all are done."""
        if self._after and self._todo:
            after, self._after = self._after, set()
            return asyncio.wait(after)
        while self._todo:
            self._slot, cleanup = self._todo.pop()
            self._slot.node.cleanups_run += 1
            try:
                given = cleanup(self._failure) if type(cleanup) in _SEE_FAILURES else cleanup()
            except BaseException as error:  # isolation is what a sweep is for
                if for_the_process(error):
                    raise
                self._note(error)
                continue
            if hasattr(given, "__await__"):
                return given  # type: ignore[no-any-return]
        return None

    async def run(self, node: Node, awaitable: Awaitable[Any] | None = None) -> None:
        """Run all, beginning with what `advance` returned, each within the node's `cleanup_timeout`."""
        if awaitable is None:
            awaitable = self.advance()
        while awaitable is not None:
            await self._bounded(node, awaitable)
            awaitable = self.advance()

    def start(self, node: Node) -> asyncio.Task[None] | None:
        """Run what is synchronous now, and the others in a task of `node`, which is returned.

        Without a running event loop the others wait for `dispose()`.
        """
        awaitable = self.advance()
        if awaitable is None:
            return None
        work = self.run(node, awaitable)
        if _get_running_loop() is None:
            node.deferred = [*(node.deferred or ()), work]
            node.waits_to_close = True
            return None
        task: asyncio.Task[None] = node.tasks().start(work, "clean up")
        for slot in self._cleaning:
            slot.cleaning = task
        for slot in self._beneath:
            slot.held_by = {each for each in slot.held_by or () if not each.done()} | {task}
        return task

    def soon(self, node: Node) -> asyncio.Task[None] | None:
        """Start without a caller that could get the errors: they are logged."""
        task = self.start(node)
        if task is None:
            self._log()
        else:
            task.add_done_callback(lambda _: self._log())
        return task

    async def _bounded(self, node: Node, awaitable: Awaitable[Any]) -> None:
        limit, task = self._limit(node), asyncio.current_task()
        scope = timeout_after(node.clock, limit)
        try:
            async with scope:
                await awaitable
        except BaseException as error:  # isolation is what a sweep is for
            if ends(error, task):
                raise
            late = f"did not end within {node.cleanup_timeout} s and was abandoned"
            self._note(ArtifactTimeout(f"a clean-up of {self._at()} {late}") if scope.expired else error)

    def _limit(self, node: Node) -> float | None:
        """Return how long the next clean-up may take.

        Clean-ups that fail together share one limit until one has failed: their caller waits no longer than that, and
        none may succeed later. To roll back, each has the whole limit.
        """
        limit = node.cleanup_timeout
        if limit is None or not self._together or self._failure is not None:
            return limit
        now = node.clock.monotonic()
        if self._until is None:
            self._until = now + limit
        return max(0.0, self._until - now)

    def _at(self) -> str:
        return "what depended on it" if self._slot is None else f"'{self._slot.name}'"

    def _note(self, raised: BaseException) -> None:
        error = raised
        if not isinstance(error, Exception):  # an ExceptionGroup holds no BaseException
            said = describe(error)
            error = RuntimeError(f"a clean-up of {self._at()} raised {said.type}: {said.message}")
        if self._slot is not None:
            add_note(error, f"in a clean-up of '{self._slot.name}' in container '{self._slot.node.name}'")
        if self._together and self._failure is None:
            self._failure = raised
        self.errors.append(error)

    def _log(self) -> None:
        for error in self.errors:
            logger.error("a clean-up failed\n%s", log_text(error))


async def outlast(task: asyncio.Task[Any]) -> None:
    """Wait until `task` is done, even if the caller is cancelled; the cancellation is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
