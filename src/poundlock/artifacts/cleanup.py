"""Running clean-ups: all of them, last in first out, whatever one of them does.

House rules: a clean-up that fails is noted and the next one runs; one that hangs is given up after the node's
`cleanup_timeout`; nobody's cancellation stops a sweep half-way. A failure that generators are shown stays a failure,
whatever they make of it.
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
    """The clean-up of a generator factory: what follows its yield, or, after a failure, what catches it there."""

    __slots__ = ("_generator",)

    def __init__(self, generator: Generator[Any, None, None]) -> None:
        self._generator = generator

    def __call__(self, failure: BaseException | None = None) -> None:
        if failure is None:
            for _ in self._generator:
                self._generator.close()
                raise RuntimeError(_AGAIN)
            return
        with _passing(failure), suppress(StopIteration):
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
        with _passing(failure), suppress(StopAsyncIteration):
            await self._generator.athrow(failure)
            await self._generator.aclose()
            raise RuntimeError(_AGAIN)


class ExitManager:
    """The clean-up of a context manager factory. What `__exit__` returns does not make a failure undone."""

    __slots__ = ("_manager",)

    def __init__(self, manager: AbstractContextManager[Any]) -> None:
        self._manager = manager

    def __call__(self, failure: BaseException | None = None) -> None:
        if failure is None:
            self._manager.__exit__(None, None, None)
            return
        with _passing(failure):
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
        with _passing(failure):
            await self._manager.__aexit__(type(failure), failure, failure.__traceback__)


_AT_ONCE: Final = frozenset({FinishGenerator, ExitManager})
_SEE_FAILURES: Final = frozenset({FinishGenerator, FinishAsyncGenerator, ExitManager, ExitAsyncManager})


class _passing:  # noqa: N801 - used like a function; one of contextlib's cannot pass an error that refuses attributes
    """Let a failure that was thrown in come out again; any other error is the clean-up's own."""

    __slots__ = ("_failure", "_trace")

    def __init__(self, failure: BaseException) -> None:
        self._failure = failure
        self._trace = failure.__traceback__

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, raised: BaseException | None, trace: object) -> bool:
        failure = self._failure
        # Else it would grow with each that it passed. Not by assignment: a frozen dataclass refuses that.
        BaseException.with_traceback(failure, self._trace)
        # A generator makes a RuntimeError of the end of an iterator that passes it.
        ends_iterators = isinstance(failure, StopIteration | StopAsyncIteration)
        return raised is failure or (ends_iterators and raised is not None and raised.__cause__ is failure)


def add_cleanup(slot: Slot, cleanup: CleanUp) -> None:
    """Owe a clean-up when this instance goes."""
    if slot.cleanups is None:
        slot.cleanups = []
    slot.cleanups.append(cleanup)
    if type(cleanup) not in _AT_ONCE:
        slot.node.waits_to_close = True


class Sweep:
    """Clean-ups on their way: run at once as far as that goes, the rest in a task.

    Args:
        owed: (slot, clean-up) pairs in the order they are to be run.
        leaving: slots whose next build has to wait until the sweep is over.
        beneath: slots that those rested on, whose own clean-ups have to wait for it.
        after: clean-ups in other tasks that have to be over first.
        failure: what generators see at their yield, and context managers at their exit; None: all went well.
        together: whether a clean-up that fails is a failure for those after it, and all have one time to succeed.
    """

    __slots__ = ("_after", "_beneath", "_failure", "_leaving", "_slot", "_todo", "_together", "_until", "errors")

    def __init__(
        self,
        owed: Iterable[tuple[Slot, CleanUp]],
        leaving: Sequence[Slot] = (),
        beneath: Iterable[Slot] = (),
        after: Iterable[asyncio.Task[None]] = (),
        failure: BaseException | None = None,
        *,
        together: bool = False,
    ) -> None:
        self._failure = failure
        self._together = together
        self._todo = list(owed)[::-1]
        self._leaving = leaving
        self._beneath = beneath
        self._after = {task for task in after if not task.done()}
        self._slot: Slot | None = None
        self._until: float | None = None
        self.errors: list[Exception] = []

    def advance(self) -> Awaitable[Any] | None:
        """Run clean-ups up to the first that gives something to be awaited, and return that; None if all are done."""
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
        """Run all, beginning with what `advance` returned, each within the time that `node` allows."""
        if awaitable is None:
            awaitable = self.advance()
        while awaitable is not None:
            await self._bounded(node, awaitable)
            awaitable = self.advance()

    def start(self, node: Node) -> asyncio.Task[None] | None:
        """Run what can be run now, and the rest in a task of `node`, which is returned.

        Without a running event loop the rest waits for `dispose()`.
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
        for slot in self._leaving:
            slot.leaving = task
        for slot in self._beneath:
            slot.held_by = {each for each in slot.held_by or () if not each.done()} | {task}
        return task

    def soon(self, node: Node) -> asyncio.Task[None] | None:
        """Start, with nobody there to raise errors to: they are logged."""
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
            late = f"did not end within {node.cleanup_timeout} s and was given up"
            self._note(ArtifactTimeout(f"a clean-up of {self._at()} {late}") if scope.expired else error)

    def _limit(self, node: Node) -> float | None:
        """Return how long the next clean-up may take.

        Those that fail together share the time until one has failed: whoever waits for them gives up then, and none may
        succeed later. To roll back each has it for itself.
        """
        limit = node.cleanup_timeout
        if limit is None or not self._together or self._failure is not None:
            return limit
        now = node.clock.monotonic()
        if self._until is None:
            self._until = now + limit
        return max(0.0, self._until - now)

    def _at(self) -> str:
        return "what rested on it" if self._slot is None else f"'{self._slot.name}'"

    def _note(self, raised: BaseException) -> None:
        error = raised
        if not isinstance(error, Exception):  # a group of errors to raise holds no others
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
    """Wait until `task` is done, whatever happens to the caller; a cancellation is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
