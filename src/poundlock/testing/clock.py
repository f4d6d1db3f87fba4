"""A clock that jumps: thirty days of waiting take a millisecond, with the same result every time.

House rules:

1. Nothing here sleeps or starts a thread. The event loop itself shows that everything waits: a loop that lets its
   selector block has no callback left to run.
2. One definition of idle, for jumps and for `run_until_idle`: the loop has nothing to run, no work outside the loop is
   reported by `busy`, and no real timer is due within `GRACE`. A jump past a short real timer, of a socket or a
   library, would let it fire years late.
3. Timers fire in order of time, and in order of creation at equal times; `now()` is then exactly their time.
4. There is one time, the monotonic one; the wall clock is an offset to it, and only `set` changes the offset. Until
   then both show the same number, so that a wall-clock timer and a monotonic timer of the same moment fire together.

Hooking the selector is the smallest change that works: an event loop of our own would have to be installed before the
test starts, and a callback that watches the loop's queue would keep the loop from ever being idle.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import heapq
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from poundlock.clock import sleep_for, sleep_until
from poundlock.model.durations import Duration
from poundlock.model.durations import seconds as to_seconds
from poundlock.model.moments import utc_text

__all__ = ["VirtualClock", "run_until_idle"]

_START: Final = 1_767_225_600.0  # 2026-01-01T00:00:00Z: recent, round, and the same in every run
_WORTH_SWEEPING: Final = 100  # with fewer cancelled timers a sweep is not worth its cost


class VirtualClock:
    """A clock for tests: implements the Clock port, and jumps to the next timer when everything waits.

    It attaches to the running event loop at its first timer, or by `async with clock:`, and detaches at `close`. It
    does not see work outside the loop that is not reported by `busy` (your own thread, a subprocess, a socket): set
    `autojump = False` while you wait for it.

    Args:
        start: the time at the beginning: seconds since 1970 UTC, or a datetime.
        autojump: whether to jump when idle; may be changed at any time.
    """

    GRACE: Final = 1.0
    """The clock does not jump while a real timer of the event loop is due within this many seconds."""

    def __init__(self, start: float | dt.datetime = _START, *, autojump: bool = True) -> None:
        self.autojump = autojump
        self._now = self._monotonic = _moment(start)
        self._offset = 0.0
        self._timers: list[_Timer] = []
        self._made = 0
        self._called_off = 0
        self._busy = 0
        self._passing = 0
        self._guard = threading.Lock()
        self._idle: list[asyncio.Future[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._selector: Any = None
        self._before: Any = None
        self._hook: Any = None
        self._really_select: Any = None

    # -- the Clock port
    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def call_at(self, when: float, callback: Callable[[], None]) -> _Timer:
        return self._arm(when - self._offset, callback, when, come=when <= self._now)

    def call_later(self, delay: float, callback: Callable[[], None]) -> _Timer:
        return self._arm(self._monotonic + delay, callback, None, come=delay <= 0)

    def _arm(self, due: float, callback: Callable[[], None], when: float | None, *, come: bool) -> _Timer:
        loop = self._install()
        timer = _Timer(loop, due, when, self._made, callback, self._forget)
        self._made += 1
        if come:
            timer.call_soon()
        else:
            timer.waiting = True
            heapq.heappush(self._timers, timer)
        return timer

    def busy(self, delta: int) -> None:
        """Block jumps (+1) or allow them again (-1); from any thread.

        Report +1 before you start the work, and -1 after you have passed its result to the event loop: then the work is
        visible at every moment.
        """
        with self._guard:
            if self._busy + delta < 0:
                raise ValueError("busy(-1) without a busy(+1) before it: report each piece of work once")
            self._busy += delta
            free = self._busy == 0
        loop = self._loop
        # On its own thread the loop reaches the selector anyway.
        if free and delta < 0 and loop is not None and threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # the loop was closed meanwhile: no jump is needed
                loop.call_soon_threadsafe(_wake)

    # -- moving time by hand: synchronous, nothing else runs meanwhile
    def advance(self, seconds: Duration = 0.0, *, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0) -> None:
        """Move time forward and call every timer that becomes due, each at its time; `advance("2h30m")` works too.

        Tasks that those calls wake run afterwards and see the new time, as after a laptop was suspended. `run_for` lets
        everything happen at its own time instead.

        Raises:
            ValueError: the duration is negative; `set` can move the wall clock back.
        """
        self._advance(self._monotonic + _stretch(seconds, minutes, hours, days))

    def advance_to(self, when: float | dt.datetime) -> None:
        """Move time forward to `when` like `advance`.

        Raises:
            ValueError: `when` has passed already; `set` can move the wall clock back.
        """
        end = _moment(when)
        if end < self._now:
            raise ValueError(f"{end} is before now ({self._now}): advance only goes forward; use set() to go back")
        offset = self._offset
        self._advance(end - offset)
        if self._offset == offset:  # no callback has set the clock
            self._now = max(self._now, end)

    def _advance(self, end: float) -> None:
        while (first := self._next()) is not None and first.due <= end:
            self._reach(first)
            heapq.heappop(self._timers)
            first.fire()
        # A callback may have moved time further.
        self._pass_to(end)

    def set(self, when: float | dt.datetime) -> None:
        """Set the wall clock to `when`, also backwards, as when the system time is corrected.

        No time passes: `monotonic` and timers of `call_later` are unchanged. Timers of `call_at` that are now in the
        past are called late, in order, with `now()` after their time.
        """
        self._now = _moment(when)
        self._offset = self._now - self._monotonic
        late = []
        for timer in self._timers:
            if timer.when is not None and timer.callback is not None:
                timer.due = timer.when - self._offset
                if timer.when <= self._now:
                    late.append(timer)
        for timer in sorted(late):
            timer.call_soon()
        self._timers = [timer for timer in self._timers if timer.waiting]
        heapq.heapify(self._timers)

    # -- waiting: everything else runs meanwhile
    async def run_for(
        self, seconds: Duration = 0.0, *, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0
    ) -> None:
        """Let time pass, jump by jump, so that everything happens at its own time; also with `autojump=False`.

        Raises:
            ValueError: the duration is negative.
        """
        await self._pass(sleep_for(self, _stretch(seconds, minutes, hours, days)))

    async def run_until(self, when: float | dt.datetime) -> None:
        """Let time pass until the wall clock shows `when`, then until the loop is idle."""
        await self._pass(sleep_until(self, _moment(when)))

    async def _pass(self, sleep: Coroutine[Any, Any, None]) -> None:
        self._passing += 1
        try:
            await sleep
        finally:
            self._passing -= 1
        await self.run_until_idle()

    async def run_until_idle(self) -> None:
        """Return when nothing can continue unless time passes; the clock makes no jump meanwhile."""
        loop = self._install()
        idle: asyncio.Future[None] = loop.create_future()
        self._idle.append(idle)
        try:
            await idle
        finally:
            if idle in self._idle:
                self._idle.remove(idle)

    # -- inspection
    @property
    def next_at(self) -> float | None:
        """The wall-clock time of the next timer; None if there is none."""
        first = self._next()
        if first is None:
            return None
        return first.due + self._offset if first.when is None else first.when

    @property
    def pending(self) -> int:
        """The number of timers that wait for their time."""
        return len(self._timers) - self._called_off

    def __repr__(self) -> str:
        return f"VirtualClock({utc_text(self._now)}, {self.pending} pending, busy {self._busy})"

    # -- the event loop
    async def __aenter__(self) -> Self:
        self._install()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Detach from the event loop; pending timers are dropped. A second call does nothing."""
        if self._loop is None:
            return
        # Other code may have put its own hook over ours; it still calls us, and `_select` passes the call through.
        if vars(self._selector).get("select") is self._hook:
            if self._before is None:
                del self._selector.select
            else:
                self._selector.select = self._before
        self._loop = self._hook = None
        for timer in self._timers:
            timer.waiting = False
        self._timers.clear()
        self._called_off = 0
        self._release()

    def _install(self) -> asyncio.AbstractEventLoop:
        running = asyncio.get_running_loop()
        if running is self._loop:
            return running
        if self._loop is not None:
            if not self._loop.is_closed():
                raise RuntimeError(
                    "this VirtualClock drives another event loop that is still open: close() it there first, "
                    "or use one clock per loop"
                )
            self.close()
        selector: Any = getattr(running, "_selector", None)
        if not hasattr(selector, "__dict__"):
            raise RuntimeError(
                f"a VirtualClock cannot drive a {type(running).__name__}: run the test on asyncio's own event loop"
            )
        other = _clock_of(running)
        if other is not None:
            if other.pending:
                raise RuntimeError(
                    "another VirtualClock with pending timers drives this event loop: share that one, or close() it"
                )
            # A clock without timers is replaced; tasks that wait there for idle now wait here.
            self._idle, other._idle = self._idle + other._idle, []  # noqa: SLF001 - of the same class
            other.close()
        self._selector = selector
        self._before = vars(selector).get("select")
        self._really_select = selector.select
        self._hook = selector.select = partial(self._select, self._really_select)
        self._thread = threading.get_ident()
        self._loop = running
        return running

    def _select(self, really: Any, timeout: float | None = None) -> Any:
        """Replace the selector's `select`: a loop that is about to block there is idle."""
        closed = self._loop is None or really is not self._really_select
        if closed or (timeout is not None and timeout <= 0):
            return really(timeout)
        # Read before polling: work that reported -1 has passed its result before, so the poll shows it.
        busy = self._busy
        happened = really(0)
        if happened:
            return happened
        if busy or (timeout is not None and timeout <= self.GRACE):
            return really(timeout)
        if self._idle:
            self._release()
            return happened
        first = self._next() if self.autojump or self._passing else None
        if first is None:
            return really(timeout)
        self._reach(first)
        moment = first.due
        while first is not None and first.due == moment:
            heapq.heappop(self._timers)
            first.call_soon()
            first = self._next()
        return happened

    def _reach(self, timer: _Timer) -> None:
        """Let time pass to a timer's moment; a callback of `call_at` then sees `now()` at or after its time."""
        self._pass_to(timer.due)
        if timer.when is not None:
            self._now = max(self._now, timer.when)

    def _pass_to(self, moment: float) -> None:
        self._monotonic = max(self._monotonic, moment)
        # With an offset the sum is rounded: the wall clock must not go back because of that.
        self._now = max(self._now, self._monotonic + self._offset)

    def _release(self) -> None:
        waiting, self._idle = self._idle, []
        for idle in waiting:
            if not idle.done():
                idle.set_result(None)

    def _next(self) -> _Timer | None:
        timers = self._timers
        while timers and timers[0].callback is None:
            heapq.heappop(timers)
            self._called_off -= 1
        return timers[0] if timers else None

    def _forget(self) -> None:
        """Count a cancelled timer; sweep when most are cancelled, because unused timeouts would accumulate."""
        self._called_off += 1
        if self._called_off > _WORTH_SWEEPING and self._called_off * 2 > len(self._timers):
            self._timers = [timer for timer in self._timers if timer.callback is not None]
            heapq.heapify(self._timers)
            self._called_off = 0


class _Timer:
    """A scheduled call. `callback` is None after the call or a cancellation.

    Attributes:
        due: its time on the monotonic clock.
        when: its time on the wall clock, for `call_at`; None for `call_later`.
        waiting: whether it is in the clock's heap.
    """

    __slots__ = ("_context", "_forget", "_handle", "_loop", "callback", "due", "number", "waiting", "when")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        due: float,
        when: float | None,
        number: int,
        callback: Callable[[], None],
        forget: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._context = copy_context()  # as call_later does
        self._forget = forget
        self._handle: asyncio.Handle | None = None
        self.callback: Callable[[], None] | None = callback
        self.due = due
        self.when = when
        self.number = number
        self.waiting = False

    def __lt__(self, other: _Timer) -> bool:
        return (self.due, self.number) < (other.due, other.number)

    def cancel(self) -> None:
        if self.callback is None:
            return
        self.callback = None
        if self._handle is not None:
            self._handle.cancel()
        elif self.waiting:
            self._forget()

    def call_soon(self) -> None:
        """Let the loop call it in its next iteration."""
        self.waiting = False
        self._handle = self._loop.call_soon(self._call, context=self._context)

    def fire(self) -> None:
        """Call it now; its errors go to the loop's exception handler, as for the loop's own callbacks."""
        self.waiting = False
        try:
            self._context.run(self._call)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - user code, treated as the loop treats it
            self._loop.call_exception_handler({"message": f"Exception in {self!r}", "exception": error})

    def _call(self) -> None:
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()

    def __repr__(self) -> str:
        return f"<timer {self.number} at {self.due if self.when is None else self.when}>"


async def run_until_idle(of: Any = None) -> None:
    """Return when nothing can continue unless time passes: the loop is idle, and no work outside of it is reported.

    Args:
        of: a VirtualClock, or an object whose `clock` is one (a runtime); default: the clock that drives the running
            event loop. Without any clock, only the loop itself is checked.
    """
    clock = getattr(of, "clock", of)
    if clock is None:
        clock = _clock_of(asyncio.get_running_loop())
    if isinstance(clock, VirtualClock):
        await clock.run_until_idle()
        return
    async with VirtualClock(autojump=False) as watcher:
        await watcher.run_until_idle()


def _clock_of(loop: asyncio.AbstractEventLoop) -> VirtualClock | None:
    hook = getattr(getattr(loop, "_selector", None), "__dict__", {}).get("select")
    clock = getattr(getattr(hook, "func", None), "__self__", None)
    return clock if isinstance(clock, VirtualClock) else None


def _moment(when: float | dt.datetime) -> float:
    if isinstance(when, dt.datetime):
        return when.replace(tzinfo=when.tzinfo or dt.UTC).timestamp()
    return float(when)


def _stretch(seconds: Duration, minutes: float, hours: float, days: float) -> float:
    total = to_seconds(seconds) if not isinstance(seconds, int | float) else float(seconds)
    total += minutes * 60 + hours * 3600 + days * 86_400
    if total < 0:
        raise ValueError(f"a duration must not be negative, and this is {total} s: use set() to go back")
    return total


def _wake() -> None:
    """Do nothing: the call itself makes the loop check again whether it is idle."""
