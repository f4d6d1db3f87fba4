"""The only module that calls user code.

House rules:

1. The runtime decides by what it requested, never by what user code raised or returned. It requests an `Interruption`;
   after that the interruption counts, not the result of the step, router or hook.
2. Without such a request, everything that user code raises is a failure of that code: also a CancelledError, a
   GeneratorExit or a SystemExit. Only a KeyboardInterrupt in the main thread is passed on to the process.
3. A cancellation that user code left in a task is cleared before our own code awaits anything: otherwise it would
   interrupt a commit.
4. Describing an error never raises.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar
from enum import StrEnum
from typing import Any, Final, Protocol

from poundlock.clock import Clock
from poundlock.codecs import clean
from poundlock.errors import HookTimeout, PoundlockError
from poundlock.records import NamedTuple

log = logging.getLogger("poundlock.guard")


class Interruption(StrEnum):
    """Why the runtime interrupts a run. Set on the run, so that its task can tell it from a stray cancellation."""

    ABORT = "abort"
    """An abort was requested; the request is durable."""
    STOP = "stop"
    """The runtime stops, or its event loop ends: the run keeps the state of its last commit."""
    LOST = "lost"
    """The run has another owner now."""
    DEADLINE = "deadline"
    """The run's time is over: its workflow's `on_timeout` decides. Every other request counts more."""


class Interrupted(BaseException):
    """Ends a run that was interrupted. A BaseException, so that no `except Exception` catches it."""

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
"""Messages for BaseExceptions, whose own text is mostly empty."""


_STOPPED: Final = ("coroutine raised StopIteration",)


class Carried(RuntimeError):
    """Wraps an error that a future or a coroutine cannot raise; the error itself is the cause."""

    def __init__(self, error: BaseException) -> None:
        said = describe(error)
        super().__init__(f"{said.type}: {said.message}")
        self.__cause__ = error


def as_raised(error: BaseException) -> BaseException:
    """Return the error that user code raised.

    A coroutine cannot raise StopIteration: Python turns it into a RuntimeError whose cause is the StopIteration.
    """
    while isinstance(error, Carried) or (type(error) is RuntimeError and error.args == _STOPPED):
        cause = error.__cause__
        if cause is None or not (isinstance(error, Carried) or isinstance(cause, StopIteration)):
            break
        error = cause
    return error


def describe(error: BaseException) -> Description:
    """Return an error's type, message and code; never raises, even if the error's own methods do."""
    error = as_raised(error)
    name = name_of(type(error))
    message = _quietly(lambda: str(error), "(this error cannot be shown: its __str__ raised)")
    code = _quietly(lambda: str(error.code) if isinstance(error, PoundlockError) else "", "")
    if not issubclass(type(error), Exception) and name in _EXPLAINED:
        message = f"{_EXPLAINED[name]} ({message})" if message else _EXPLAINED[name]
    return Description(name, concealed_here(message), code or None)


class Secretive(Protocol):
    """A run, as far as it knows what its texts must not show."""

    def conceal(self, text: str) -> str:
        """Return a text without the values that are shown nowhere."""


INSIDE: Final[ContextVar[tuple[str, str, Secretive | None] | None]] = ContextVar("poundlock_run", default=None)
"""(worker, run id, run) of the run that the current code belongs to; what a step starts inherits it."""


def concealed_here(text: str) -> str:
    """Return a text without what the run, whose code this is, must not show; outside of runs, the text itself."""
    inside = INSIDE.get()
    if inside is None or inside[2] is None or not text:
        return text
    run = inside[2]
    return _quietly(lambda: run.conceal(text), "(this text cannot be shown)")


def name_of(kind: type) -> str:
    """Return the name of a class; never raises, even if its metaclass does."""
    return _quietly(lambda: kind.__name__, "a class without a name")


def repr_of(value: Any, limit: int = 200) -> str:
    """Return the `repr` of a value, cut to `limit` characters; never raises, even if its `__repr__` does."""
    return _quietly(lambda: repr(value), f"(a {name_of(type(value))} that cannot be shown)")[:limit]


def shortened(text: str, limit: int = 1000) -> str:
    """Return a text cut to `limit` characters, for what is stored with each refusal: events come from anybody."""
    return text if len(text) <= limit else f"{text[:limit]} and {len(text) - limit} more characters"


def traceback_text(error: BaseException) -> str:
    """Return an error's traceback; never raises.

    Formatting runs user code (`__str__`, source loaders). Up to CPython 3.11.7 it may also raise SystemError, because
    nested parses share the compiler's depth counter.
    """
    text = _quietly(lambda: "".join(traceback.format_exception(as_raised(error))), "(the traceback cannot be shown)\n")
    return concealed_here(text)


def log_text(error: BaseException) -> str:
    """Return an error for a log record; use it instead of `exc_info`, whose formatting could raise in the logger."""
    return traceback_text(error).rstrip() or describe(error).message


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an error; never raises. An error that refuses attributes, such as a frozen dataclass, gets none."""
    try:
        error.add_note(note)
    except BaseException as raised:
        if for_the_process(raised):
            raise


def _quietly(make: Callable[[], str], fallback: str) -> str:
    """Return a text made by user code, cleaned; the fallback if that raises or gives no usable text."""
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

    Then nothing may be awaited any more, so the error has to be raised on.
    """
    try:
        return asyncio.current_task() is not task
    except RuntimeError:
        return True


def passes(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Whether an error in this task is not a failure of user code: it is for the process, or it closes the task."""
    return for_the_process(error) or (isinstance(error, GeneratorExit) and being_closed(task))


def ends(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Whether an error from user code ends this task: it passes, or the task was cancelled from outside.

    For tasks that are cancelled only to end them. For the task of a run, check its Interruption instead.
    """
    return passes(error, task) or (
        isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
    )


async def clear_cancellation(task: asyncio.Task[Any], down_to: int = 0) -> None:
    """Undo the cancellations of the current task that user code left, delivered or not.

    Before CPython 3.13 `uncancel` does not remove one that was not delivered yet; it is delivered at the next await,
    which is the one here.

    Args:
        task: the current task.
        down_to: number of cancellations requested before user code was called; those are kept.
    """
    while task.cancelling() > down_to:
        task.uncancel()
    try:
        await _turn()
    except asyncio.CancelledError:
        while task.cancelling() > down_to:  # a run's task cancelled meanwhile is safe: its Interruption records that
            task.uncancel()


class _turn:  # noqa: N801 - awaited like a function
    """One iteration of the loop, without a timer: no time passes."""

    __slots__ = ()

    def __await__(self) -> Any:
        yield


class LoopWatch:
    """Detects that the event loop itself is ending.

    `asyncio.run` cancels every task when its main coroutine has returned, also those of a runtime that was not stopped.
    A private task that waits for ever is cancelled then, and only then.
    """

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self, at_end: Callable[[], Awaitable[None]] | None = None) -> None:
        """Start to watch the running loop.

        Args:
            at_end: called when the loop ends; the loop waits for it.
        """
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._watch(loop.create_future(), at_end), name="poundlock-loop-watch")

    async def _watch(self, never: asyncio.Future[None], at_end: Callable[[], Awaitable[None]] | None) -> None:
        try:
            await never
        except asyncio.CancelledError:
            if self._task is not None and at_end is not None:  # not closed by us, so the loop is ending
                await at_end()
            raise

    @property
    def ending(self) -> bool:
        """Whether the loop is cancelling all its tasks."""
        task = self._task
        return task is not None and (task.done() or task.cancelling() > 0)

    def close(self) -> None:
        """Stop watching."""
        if not self.ending:
            task, self._task = self._task, None
            if task is not None:
                task.cancel()


# ------------------------------------------------------------------------------------- hooks, clean-ups and the like
class Answer(NamedTuple):
    """The result of a call of user code: its value, or the error it raised."""

    value: Any = None
    error: BaseException | None = None


_new_answer = tuple.__new__  # half of the cost of a call of `Answer`, which is a Python function

BLOCKING: Final = 1.0
"""A plain function that blocks the event loop for this many seconds is named in the log."""


def name_blocking(clock: Clock, since: float, function: Callable[..., Any]) -> None:
    """Log a function that has blocked the event loop too long.

    Args:
        clock: measures the time.
        since: when the function was called, on the monotonic clock.
        function: the called function.
    """
    seconds = clock.monotonic() - since
    if seconds >= BLOCKING:
        name = _quietly(lambda: f"{function.__module__}.{function.__qualname__}", repr_of(function))
        log.warning("%s blocked the event loop for %.1f s: make it async, or move the work to a thread", name, seconds)


def call_now(function: Callable[..., Any], *args: Any) -> Answer:
    """Call a plain function of a user (`when`, `map`, `key`, a validator); never raises."""
    try:
        return _new_answer(Answer, (function(*args), None))
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
    """Call a user's function, sync or async, with a time limit.

    An awaitable result runs in its own task: only such a task can be left behind when it ignores its cancellation. If
    the caller is cancelled, the task is cancelled as well; the caller does not wait for its end.

    Args:
        seconds: the limit, on the monotonic clock; None means no limit.
        function: called with `args` on the loop; its result is awaited if it is awaitable.
        clock: measures the time.
        keep: called with the task, to keep a reference to it while it runs.
        grace: seconds the task has to end after its cancellation; after that it is left behind.
        context: the context it runs in; default: the current one.

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
            # A function that cancels its own task and returns ends that task as cancelled.
            return Answer(None, asyncio.CancelledError()) if task.cancelled() else task.result()
        task.cancel()
        await _done_within(task, grace, clock)
    except asyncio.CancelledError:
        task.cancel()
        raise
    return Answer(None, HookTimeout(f"it took longer than {seconds:g} s and was cancelled: increase hook_timeout"))


async def answer_of(awaitable: Awaitable[Any]) -> Answer:
    """Await the result of user code in its own task; catches all, because a SystemExit in a task would end the loop."""
    task = asyncio.current_task()
    try:
        return Answer(await awaitable)
    except BaseException as error:
        if passes(error, task):
            raise
        return Answer(None, error)


async def _done_within(task: asyncio.Task[Any], seconds: float | None, clock: Clock) -> bool:
    """Wait for a task without cancelling it; False if the time is over first."""
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
