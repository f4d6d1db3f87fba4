"""Worker threads for sync steps.

Not `concurrent.futures`: its threads are joined when the interpreter exits, so a step that never returns would keep
the process alive for ever. These are daemon threads; a step that is abandoned (timeout, abort) keeps its thread until
it returns, and its late result is dropped.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from poundlock.clock import Clock, Timer
from poundlock.guard import Carried

_here = threading.local()
"""What each thread of a pool works on."""


class _Job:
    """A call for a thread. `started`, `ended` and `left` (abandoned) are guarded by the pool's lock."""

    __slots__ = ("answer", "ended", "function", "left", "loop", "nap", "started")

    def __init__(
        self, function: Callable[[], Any], answer: asyncio.Future[Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.function = function
        self.answer = answer
        self.loop = loop
        self.started = self.ended = self.left = False
        self.nap: _Nap | None = None


class _Nap:
    """A sleep of a thread by a clock; all but the wait itself happens on the event loop."""

    __slots__ = ("_clock", "_delay", "_job", "_timer", "over")

    def __init__(self, job: _Job, clock: Clock, delay: float) -> None:
        self._job = job
        self._clock = clock
        self._delay = delay
        self._timer: Timer | None = None
        self.over = threading.Event()

    def begin(self) -> None:
        """Set the alarm: a virtual clock may jump from now on, since nothing but time is waited for."""
        if self._job.left:
            self.over.set()
            return
        self._timer = self._clock.call_later(self._delay, self.end)
        self._clock.busy(-1)

    def end(self) -> None:
        """Wake the thread, if it sleeps: it is at work again."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._clock.busy(1)
            self.over.set()


def sleep_here(clock: Clock, delay: float) -> bool:
    """Have this thread sleep, if it is one of a pool: until `delay` seconds have passed, or its call is abandoned.

    Returns:
        Whether it has slept; False in all other threads.

    Raises:
        asyncio.CancelledError: its call was abandoned; nobody is left to see this.
    """
    job: _Job | None = getattr(_here, "job", None)
    if job is None:
        return False
    nap = job.nap = _Nap(job, clock, delay)
    try:
        job.loop.call_soon_threadsafe(nap.begin)
        nap.over.wait()
    except RuntimeError:  # the loop is closed: no caller is left
        job.left = True
    if job.left:
        raise asyncio.CancelledError
    return True


class StepThreads:
    """A pool of daemon threads that grows on demand and shrinks only when closed.

    A thread whose call was abandoned leaves the pool: it ends after its call, and others take its place.

    Args:
        clock: notified while threads work, so that a virtual clock does not jump meanwhile.
        limit: threads at most, those left behind not counted; further steps wait in a queue.
    """

    def __init__(self, clock: Clock, limit: int = 64) -> None:
        self._clock = clock
        self._limit = limit
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._threads = 0
        self._pending = 0

    async def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function in a thread, in a copy of this context, and return its result.

        Cancelling the caller abandons the call: the thread continues, its result is discarded.
        """
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        job = _Job(lambda: context.run(function, *args, **kwargs), loop.create_future(), loop)
        self._pending += 1
        self._clock.busy(1)
        try:
            if self._pending > self._threads and self._threads < self._limit:
                name = f"poundlock-step-{self._threads + 1}"
                threading.Thread(target=self._work, name=name, daemon=True).start()  # the system may refuse it
                self._threads += 1
            self._jobs.put(job)
            return await job.answer
        finally:
            self._pending -= 1
            with self._guard:
                job.left = True
                if job.started and not job.ended:
                    self._threads -= 1
            if job.nap is not None:
                job.nap.end()
            self._clock.busy(-1)

    def close(self) -> None:
        """Let idle threads end; busy ones end after their step."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._guard:
                job.started = not job.left
            if not job.started:
                continue
            _here.job = job
            try:
                result, error = job.function(), None
            except BaseException as raised:  # noqa: BLE001 - whatever a step raises belongs to its caller
                result, error = None, raised
            _here.job = None
            with self._guard:
                job.ended = True
                if job.left:
                    return  # another thread has taken this one's place
            try:
                job.loop.call_soon_threadsafe(deliver, job.answer, result, error)
            except RuntimeError:
                return  # the loop is closed: no caller is left
            del job, result, error  # an idle thread must not keep a run's objects alive


_MEANT_FOR_THREADS = (StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit)
"""Errors that would end the loop or the process when raised again; a step in a thread may end neither."""


def deliver(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give a result, or what user code raised, to the future that its caller awaits; on the loop of the future."""
    if answer.done():
        return  # abandoned
    if error is None:
        answer.set_result(result)
    elif isinstance(error, _MEANT_FOR_THREADS):
        answer.set_exception(Carried(error))
    else:
        answer.set_exception(error)
