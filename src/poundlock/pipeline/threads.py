"""Worker threads for sync steps.

Not `concurrent.futures`: its threads are joined when the interpreter exits, so one step that never returns would keep
the process alive for ever. These are daemon threads; a step that is abandoned (timeout, abort) keeps its thread until
it returns, and its late result goes nowhere.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from poundlock.clock import Clock

_Job = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class StepThreads:
    """A pool of daemon threads that grows on demand and shrinks only when closed.

    Args:
        clock: told while threads work, so that a virtual clock does not jump meanwhile.
        limit: threads at most; further steps wait their turn.
    """

    def __init__(self, clock: Clock, limit: int = 64) -> None:
        self._clock = clock
        self._limit = limit
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = 0
        self._pending = 0

    async def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function in a thread, in a copy of this context, and return its result.

        Cancelling the caller abandons the call: the thread goes on, its result is discarded.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()
        self._pending += 1
        self._clock.busy(1)
        try:
            if self._pending > self._threads and self._threads < self._limit:
                self._threads += 1
                threading.Thread(target=self._work, name=f"poundlock-step-{self._threads}", daemon=True).start()
            self._jobs.put((lambda: context.run(function, *args, **kwargs), answer, loop))
            return await answer
        finally:
            self._pending -= 1
            self._clock.busy(-1)

    def close(self) -> None:
        """Let idle threads end; busy ones end after their step."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, answer, loop = job
            try:
                result, error = function(), None
            except BaseException as raised:  # noqa: BLE001 - whatever a step raises belongs to its caller
                result, error = None, raised
            try:
                loop.call_soon_threadsafe(_answer, answer, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody is left to hear it
            del job, function, answer, result, error  # an idle thread must not keep a run's objects alive


def _answer(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():
        return  # abandoned
    if error is None:
        answer.set_result(result)
    elif isinstance(error, StopIteration):  # a future refuses it; PEP 479 turns it into this as well
        answer.set_exception(RuntimeError("a step raised StopIteration"))
    else:
        answer.set_exception(error)
