"""The tasks a runtime owns: kept alive, their failures logged, ended when it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from poundlock.clock import Clock, timeout_after
from poundlock.errors import RuntimeStopped
from poundlock.guard import log_text

log = logging.getLogger("poundlock.runtime")
T = TypeVar("T")


class Tasks:
    """Tasks by reference, because the event loop itself does not keep them alive."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self.admitting = 0
        """How many events are being admitted, in tasks of their emitters."""
        self._admitted: asyncio.Future[None] | None = None
        self._work: set[asyncio.Task[Any]] = set()
        """Work that a stop waits for before it cancels anything."""

    def spawn(self, work: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """Start a task that is kept until it is done; its failure is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.keep(task)
        return task

    def keep(self, task: asyncio.Task[Any] | None) -> None:
        """Keep a task until it is done; its failure is logged."""
        if task is not None and not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._done)

    async def to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work that must not be cut short: it continues if the caller is cancelled, and `stop` waits for it.

        Raises:
            RuntimeStopped: it did not end within the grace period of the stop.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._answered)
        caller = asyncio.current_task()
        asked = 0 if caller is None else caller.cancelling()
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled() and (caller is None or caller.cancelling() == asked):  # the caller was not
                raise RuntimeStopped("the runtime stopped before this was done: start it, then call again") from None
            raise

    def admitted(self) -> None:
        """Record that an event was admitted, or refused, and that its follow-up has begun."""
        self.admitting -= 1
        if not self.admitting and self._admitted is not None and not self._admitted.done():
            self._admitted.set_result(None)

    def follow_up(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do in the background what follows a commit whose caller was cancelled; `stop` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._done)
        return task

    async def work_done(self, grace: float) -> None:
        """Return when all work that a stop waits for is done, or after `grace` seconds."""
        try:
            async with timeout_after(self._clock, grace):
                if self.admitting:
                    self._admitted = asyncio.get_running_loop().create_future()
                    await self._admitted
                while work := [task for task in self._work if task is not asyncio.current_task()]:
                    await asyncio.wait(work)
        except TimeoutError:
            log.warning("%d commands did not end within %g s of the stop", len(self._work), grace)

    def _done(self, task: asyncio.Task[Any]) -> None:
        error = self._answered(task)
        if error is not None:
            log.error("a task of the runtime failed\n%s", log_text(error))

    def _answered(self, task: asyncio.Task[Any]) -> BaseException | None:
        self._tasks.discard(task)
        self._work.discard(task)
        return None if task.cancelled() else task.exception()  # read, so that an unawaited error causes no warning

    async def join(self, others: Callable[[], Iterable[asyncio.Task[Any]]], *, grace: float) -> None:
        """Cancel all tasks, and `others`, until none is left; after `grace` seconds the rest is left behind."""
        current = asyncio.current_task()
        tasks: list[asyncio.Task[Any]] = []
        try:
            async with timeout_after(self._clock, grace):
                while tasks := [task for task in (*self._tasks, *self._work, *others()) if task is not current]:
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)
        except TimeoutError:
            log.warning("%d tasks did not stop within %g s: left behind", len(tasks), grace)
