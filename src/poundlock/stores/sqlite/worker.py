"""A thread for work that would block the event loop.

House rules: jobs are taken in order, all queued ones together, and answered together in one call of the loop, which
costs as much for a hundred jobs as for one. A waiter may be cancelled at any time: its job is still done, and others
are not affected. `Clock.busy` is called while work is in progress, so that a test clock does not jump.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol

from poundlock.clock import Clock
from poundlock.stores.sqlite.failures import contained

_STOP: Final = object()

CALM: Final = 5.0
"""Seconds without a job after which `idle` of the performer is called."""


class Job:
    """Some work, the future of its caller, and in the end the answer: a value, or the exception to raise."""

    __slots__ = ("answer", "future", "work")

    def __init__(self, work: Any, future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future
        self.answer: Any = None


class Performer(Protocol):
    """The work of a worker's thread; called in that thread only."""

    def perform(self, jobs: Sequence[Job]) -> Callable[[], None] | None:
        """Do a batch of at least one job and set the answers; return a function for the loop, called before waiters."""

    def idle(self) -> float | None:
        """Called while nothing is queued; return after how many such seconds to call it again; None means never."""

    def close(self) -> None:
        """Release all resources; nothing is performed afterwards."""


class Worker:
    """One thread and its queue.

    Args:
        name: name of the thread.
        performer: does the work.
        clock: its `busy` is called while work is in progress.
    """

    def __init__(self, name: str, performer: Performer, clock: Clock) -> None:
        self._performer = performer
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self._outstanding = 0
        # A daemon: a program that forgot to close its store can still exit; what was acknowledged is on the disk.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether no work is in progress."""
        return not self._outstanding

    def submit(self, work: Any) -> asyncio.Future[Any]:
        """Queue a job and return the future of its answer."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._outstanding:
            self._clock.busy(1)
        self._outstanding += 1
        self._queue.put(Job(work, future))
        return future

    async def stop(self) -> None:
        """Finish what is queued, close the performer and end the thread; cancelling it only takes effect after that."""
        stopped = self.submit(_STOP)
        interrupted: asyncio.CancelledError | None = None
        while not stopped.done():
            try:
                await asyncio.shield(stopped)
            except asyncio.CancelledError as cancelled:
                interrupted = cancelled
        self._thread.join()
        if interrupted is not None:
            raise interrupted

    def _run(self) -> None:
        queue = self._queue
        stop: Job | None = None
        calm: float | None = CALM
        while stop is None:
            try:
                jobs = [queue.get(timeout=calm)]
            except Empty:
                calm = self._performer.idle()
                continue
            calm = CALM
            jobs += [queue.get_nowait() for _ in range(queue.qsize())]
            if jobs[-1].work is _STOP:
                stop = jobs.pop()
            if jobs:
                self._perform(jobs)
        with contextlib.suppress(Exception):  # the caller of `stop` cannot do anything about it
            self._performer.close()
        self._answer([stop], None)

    def _perform(self, jobs: list[Job]) -> None:
        before: Callable[[], None] | None = None
        try:
            before = self._performer.perform(jobs)
        except BaseException as error:  # noqa: BLE001 - without an answer or a thread the waiters would wait for ever
            for job in jobs:
                job.answer = error
        self._answer(jobs, before)

    def _answer(self, jobs: list[Job], before: Callable[[], None] | None) -> None:
        # If the loop was closed without closing the store, there are no waiters left.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._acknowledge, jobs, before)

    def _acknowledge(self, jobs: list[Job], before: Callable[[], None] | None) -> None:
        if before is not None:
            before()
        for job in jobs:
            future = job.future
            if future.done():
                continue  # cancelled
            answer = job.answer
            if isinstance(answer, BaseException):
                future.set_exception(contained(answer))
            else:
                future.set_result(answer)
        self._outstanding -= len(jobs)
        if not self._outstanding:
            self._clock.busy(-1)
