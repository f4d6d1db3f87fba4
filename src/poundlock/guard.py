"""The one place that knows how to call user code.

House rules:

1. The runtime decides by what it asked for, never by what came out of user code. It asks by an `Interruption`. Whatever
   a step, router or hook raises or returns after that, the interruption is what counts.
2. Where nothing was asked for, everything that user code raises is that code's failure: also a CancelledError, a
   GeneratorExit or a SystemExit. Only a KeyboardInterrupt in the main thread goes on to the process.
3. A cancellation that user code left behind in a task is cleared before our own code awaits anything: otherwise it
   would hit a commit.
4. Describing an error never raises.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable
from contextvars import Context
from enum import StrEnum
from typing import Any, Final, NamedTuple

from poundlock.clock import Clock
from poundlock.codecs import clean
from poundlock.errors import HookTimeout, PoundlockError

log = logging.getLogger("poundlock.guard")


class Interruption(StrEnum):
    """Why the runtime interrupts a run. Kept on the run, so that its task can tell this from a stray cancellation."""

    ABORT = "abort"
    """Somebody asked for the run's end; the request is durable."""
    STOP = "stop"
    """The runtime stops, or its event loop ends: the run stays as its last commit left it."""
    LOST = "lost"
    """Another owner drives the run now."""


class Interrupted(BaseException):
    """Unwinds a run that was interrupted. A BaseException, so that no `except Exception` keeps it."""

    def __init__(self, interruption: Interruption) -> None:
        super().__init__(interruption.value)
        self.interruption = interruption


# ------------------------------------------------------------------------------------------------ describing errors
class Description(NamedTuple):
    """An error as text that can be stored: the name of its type, its message, its code if it is one of ours."""

    type: str
    message: str
    code: str | None


_STRAY: Final = "it was cancelled, but not by Poundlock: the code that runs here cancelled itself"
_EXPLAINED: Final[dict[str, str]] = {
    "CancelledError": _STRAY,
    "GeneratorExit": "it raised GeneratorExit, which only ends generators",
    "SystemExit": "it tried to end the process",
    "KeyboardInterrupt": "it raised KeyboardInterrupt outside the main thread",
}
"""What to say of BaseExceptions, whose own text is mostly empty."""


_STOPPED: Final = ("coroutine raised StopIteration",)


class Carried(RuntimeError):
    """Carries an error that a future or a coroutine cannot raise as it is; the error itself is its cause."""

    def __init__(self, error: BaseException) -> None:
        said = describe(error)
        super().__init__(f"{said.type}: {said.message}")
        self.__cause__ = error


def as_raised(error: BaseException) -> BaseException:
    """Return the error that user code raised.

    A coroutine cannot raise StopIteration: Python makes it a RuntimeError, with the StopIteration as its cause.
    """
    while isinstance(error, Carried) or (type(error) is RuntimeError and error.args == _STOPPED):
        cause = error.__cause__
        if cause is None or not (isinstance(error, Carried) or isinstance(cause, StopIteration)):
            break
        error = cause
    return error


def describe(error: BaseException) -> Description:
    """Return an error's type, message and code; never raises, whatever the error's own methods do."""
    error = as_raised(error)
    name = name_of(type(error))
    message = _quietly(lambda: str(error), "(this error cannot be shown: its __str__ raised)")
    code = _quietly(lambda: str(error.code) if isinstance(error, PoundlockError) else "", "")
    if not issubclass(type(error), Exception) and name in _EXPLAINED:
        message = f"{_EXPLAINED[name]} ({message})" if message else _EXPLAINED[name]
    return Description(name, message, code or None)


def name_of(kind: type) -> str:
    """Return the name of a class; never raises, whatever its metaclass does."""
    return _quietly(lambda: kind.__name__, "a class without a name")


def repr_of(value: Any, limit: int = 200) -> str:
    """Return a value as code shows it, cut to `limit` characters; never raises, whatever its `__repr__` does."""
    return _quietly(lambda: repr(value), f"(a {name_of(type(value))} that cannot be shown)")[:limit]


def shortened(text: str, limit: int = 1000) -> str:
    """Return a text cut to `limit` characters, for what is stored with each refusal: events come from anybody."""
    return text if len(text) <= limit else f"{text[:limit]} and {len(text) - limit} more characters"


def traceback_text(error: BaseException) -> str:
    """Return an error's traceback; never raises.

    Formatting runs user code (`__str__`, source loaders), and up to CPython 3.11.7 it may raise SystemError by itself:
    the compiler's depth counter is shared by nested parses.
    """
    return _quietly(lambda: "".join(traceback.format_exception(as_raised(error))), "(the traceback cannot be shown)\n")


def log_text(error: BaseException) -> str:
    """Return an error for a log record; use it instead of `exc_info`, whose formatting could raise inside the call."""
    return traceback_text(error).rstrip() or describe(error).message


def _quietly(make: Callable[[], str], fallback: str) -> str:
    """Return a text made by user code, cleaned; whatever that raises, and however odd a text it makes, is contained."""
    try:
        text = make()
        return clean(text if type(text) is str else str.__str__(text))
    except BaseException as raised:
        if for_the_process(raised):
            raise
        return fallback


def for_the_process(error: BaseException) -> bool:
    """Whether an error is meant for the process: a KeyboardInterrupt in the main thread, and nothing else."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


# ------------------------------------------------------------------------------------------------- cancellations
def being_closed(task: asyncio.Task[Any] | None) -> bool:
    """Whether a GeneratorExit came because this task's coroutine is closed from outside, after its loop has ended.

    Then nothing may be awaited any more, so it has to go on.
    """
    try:
        return asyncio.current_task() is not task
    except RuntimeError:
        return True


def passes(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Whether what user code raised in this task is no failure of it: meant for the process, or the end of the task."""
    return for_the_process(error) or (isinstance(error, GeneratorExit) and being_closed(task))


def ends(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Whether what came out of user code ends this task: it passes, or somebody has cancelled the task.

    For tasks that nobody cancels but for their end. Where a run is concerned its Interruption tells that.
    """
    return passes(error, task) or (
        isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
    )


async def clear_cancellation(task: asyncio.Task[Any], down_to: int = 0) -> None:
    """Take back the cancellations of the current task that user code left behind, delivered or not.

    Before CPython 3.13 `uncancel` leaves one that was not delivered yet; it comes at the next await, which is here.

    Args:
        task: the current task.
        down_to: how many cancellations were asked for before user code was called; those stay.
    """
    while task.cancelling() > down_to:
        task.uncancel()
    try:
        await _turn()
    except asyncio.CancelledError:
        while task.cancelling() > down_to:  # in a run's task: asked for meanwhile, which its Interruption tells
            task.uncancel()


class _turn:  # noqa: N801 - awaited like a function
    """One turn of the loop, without a timer: no time passes."""

    __slots__ = ()

    def __await__(self) -> Any:
        yield


class LoopWatch:
    """Tells whether the event loop itself is ending.

    `asyncio.run` cancels every task when its main coroutine has returned, also those of a runtime that was not stopped.
    A task that waits for ever and that nobody else knows is cancelled then, and only then.
    """

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self, at_end: Callable[[], Awaitable[None]] | None = None) -> None:
        """Begin to watch the running loop.

        Args:
            at_end: called when the loop ends; the loop waits for it.
        """
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._watch(loop.create_future(), at_end), name="poundlock-loop-watch")

    async def _watch(self, never: asyncio.Future[None], at_end: Callable[[], Awaitable[None]] | None) -> None:
        try:
            await never
        except asyncio.CancelledError:
            if self._task is not None and at_end is not None:  # not closed: so it is the loop that ends
                await at_end()
            raise

    @property
    def ending(self) -> bool:
        """Whether the loop cancels all its tasks."""
        task = self._task
        return task is not None and (task.done() or task.cancelling() > 0)

    def close(self) -> None:
        """Stop watching: a loop that ends is no concern any more."""
        if not self.ending:
            task, self._task = self._task, None
            if task is not None:
                task.cancel()


# ------------------------------------------------------------------------------------- hooks, clean-ups and the like
class Answer(NamedTuple):
    """What a call of user code came to: its value, or the error it raised."""

    value: Any = None
    error: BaseException | None = None


BLOCKING: Final = 1.0
"""Seconds after which a plain function that held up the event loop is named in the log."""


def name_blocking(clock: Clock, since: float, function: Callable[..., Any]) -> None:
    """Name a function in the log if it has held up the event loop since then: nothing else could run meanwhile.

    Args:
        clock: measures the time.
        since: when it was called, on the monotonic clock.
        function: what was called.
    """
    seconds = clock.monotonic() - since
    if seconds >= BLOCKING:
        name = _quietly(lambda: f"{function.__module__}.{function.__qualname__}", repr_of(function))
        log.warning("%s blocked the event loop for %.1f s: make it async, or give the work to a thread", name, seconds)


def call_now(function: Callable[..., Any], *args: Any) -> Answer:
    """Call a plain function of a user (`when`, `map`, `key`, a validator); never raises."""
    try:
        return Answer(function(*args))
    except BaseException as error:
        if for_the_process(error):
            raise
        return Answer(None, error)


async def call_within(
    seconds: float | None,
    function: Callable[..., Any],
    *args: Any,
    clock: Clock,
    keep: Callable[[asyncio.Task[Any]], None],
    grace: float = 1.0,
    context: Context | None = None,
) -> Answer:
    """Call a user's function, sync or async, and wait for it at most so long.

    What has to be awaited runs in a task of its own: only such a task can be left behind when it does not react to its
    cancellation. If the caller is cancelled, the task is cancelled as well and left to end by itself.

    Args:
        seconds: how long it may take, on the monotonic clock; None for ever.
        function: called with `args` on the loop; what it returns is awaited if that is possible.
        clock: measures the time.
        keep: is given the task, to keep a reference to it for as long as it runs.
        grace: seconds it has to end once it was cancelled; after that it is left behind.
        context: what it runs in; default: the current one.

    Returns:
        Its value or error; the error is a HookTimeout if it took too long.

    Raises:
        asyncio.CancelledError: the caller was cancelled from outside.
    """
    caller = asyncio.current_task()
    before = caller.cancelling() if caller is not None else 0
    since = clock.monotonic()
    answer = call_now(function, *args) if context is None else call_now(context.run, function, *args)
    name_blocking(clock, since, function)
    if caller is not None and caller.cancelling() > before:
        await clear_cancellation(caller, before)
    if answer.error is not None or not inspect.isawaitable(answer.value):
        return answer
    loop = asyncio.get_running_loop()
    task: asyncio.Task[Answer] = loop.create_task(answer_of(answer.value), context=context)
    keep(task)
    try:
        if await _done_within(task, seconds, clock):
            # Whoever cancels its own task and returns ends that task as cancelled.
            return Answer(None, asyncio.CancelledError()) if task.cancelled() else task.result()
        task.cancel()
        await _done_within(task, grace, clock)
    except asyncio.CancelledError:
        task.cancel()
        raise
    return Answer(None, HookTimeout(f"it took longer than {seconds:g} s and was cancelled: raise hook_timeout"))


async def answer_of(awaitable: Awaitable[Any]) -> Answer:
    """Wait for what user code gave, in a task of its own: a SystemExit that left a task would end the loop."""
    task = asyncio.current_task()
    try:
        return Answer(await awaitable)
    except BaseException as error:
        if passes(error, task):
            raise
        return Answer(None, error)


async def _done_within(task: asyncio.Task[Any], seconds: float | None, clock: Clock) -> bool:
    """Wait for a task without cancelling it; False if the time is over before."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(_: Any = None) -> None:
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(end)
    timer = None if seconds is None else clock.call_later(seconds, end)
    try:
        await ended
    finally:
        task.remove_done_callback(end)
        if timer is not None:
            timer.cancel()
    return task.done()
