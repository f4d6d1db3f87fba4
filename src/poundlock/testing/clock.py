"""A clock that jumps: thirty days of waiting take a millisecond, and always the same way.

House rules:

1. Nothing here sleeps or starts a thread. The clock learns that everything waits from the event loop itself: a loop
   that asks its selector to block has no callback left to run.
2. One idea of idle, for jumps and for `run_until_idle` alike: the loop has nothing to run, nobody outside the loop is
   busy, and no real timer is due within `GRACE`. Jumping ahead of a socket's or a library's own short timer would make
   it fire years late.
3. Timers fire in order of time, and first come first served at equal times; `now()` is then exactly their time.
4. Time is one line, the monotonic one, and the wall clock is an offset to it: only `set` changes the offset. Until
   then both show the same number, so that appointments and stretches of one moment meet exactly.

Hooking the selector is the least that works: an event loop of our own would have to be installed before the test
starts, and watching the loop's queue from a callback would keep it from ever being idle.
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
_WORTH_SWEEPING: Final = 100  # below this many, called-off timers are not worth looking for


class VirtualClock:
    """A clock for tests: satisfies the Clock port, and jumps to the next timer when everything waits.

    It takes hold of the running event loop at its first timer, or by `async with clock:`, and lets go at `close`.
    Work outside the loop that does not report itself by `busy` (a thread of yours, a subprocess, a socket) is not seen:
    set `autojump = False` while waiting for it.

    Args:
        start: where time begins: seconds since 1970 UTC, or a datetime.
        autojump: whether to jump when idle; may be switched at any time.
    """

    GRACE: Final = 1.0
    """A real timer of the event loop due within this many seconds is waited for before any jump."""

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
        """Hold jumps (+1) or let them go (-1); from any thread.

        Report +1 before the work is handed out, and -1 after its result was handed to the event loop: then there is no
        moment at which the work is neither.
        """
        with self._guard:
            if self._busy + delta < 0:
                raise ValueError("busy(-1) without a busy(+1) before it: report each piece of work once")
            self._busy += delta
            free = self._busy == 0
        loop = self._loop
        # On its own thread the loop comes by the selector anyway.
        if free and delta < 0 and loop is not None and threading.get_ident() != self._thread:
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody is left who could jump
                loop.call_soon_threadsafe(_wake)

    # -- moving time by hand: at once, nothing else runs meanwhile
    def advance(self, seconds: Duration = 0.0, *, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0) -> None:
        """Move time forward and call what was due on the way, each at its time; `advance("2h30m")` works too.

        What those calls wake runs afterwards and sees the end of the stretch, as after a night of a suspended laptop.
        `run_for` lets everything happen at its own time instead.

        Raises:
            ValueError: the stretch is negative; `set` can move the wall clock back.
        """
        self._advance(self._monotonic + _stretch(seconds, minutes, hours, days))

    def advance_to(self, when: float | dt.datetime) -> None:
        """Move time forward to `when` like `advance`.

        Raises:
            ValueError: `when` has passed already; `set` can move the wall clock back.
        """
        end = _moment(when)
        if end < self._now:
            raise ValueError(f"{end} is before now ({self._now}): a clock only goes forward; use set() to put it back")
        offset = self._offset
        self._advance(end - offset)
        if self._offset == offset:  # nothing that was called has set the clock
            self._now = max(self._now, end)

    def _advance(self, end: float) -> None:
        while (first := self._next()) is not None and first.due <= end:
            self._reach(first)
            heapq.heappop(self._timers)
            first.fire()
        # A call may have moved time further by itself.
        self._pass_to(end)

    def set(self, when: float | dt.datetime) -> None:
        """Put the wall clock to `when`, also backwards: what a wrong system time looks like.

        No time passes by that: `monotonic` and what waits by `call_later` stay as they are. Appointments whose time
        has passed by that are called late, in order, with `now()` after their time.
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

    # -- letting time pass, or not: everything else runs meanwhile
    async def run_for(
        self, seconds: Duration = 0.0, *, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0
    ) -> None:
        """Let time pass, jump by jump, everything happening at its own time; also with `autojump=False`.

        Raises:
            ValueError: the stretch is negative.
        """
        await self._pass(sleep_for(self, _stretch(seconds, minutes, hours, days)))

    async def run_until(self, when: float | dt.datetime) -> None:
        """Let time pass until the wall clock shows `when`; what was due by then has then gone as far as it can."""
        await self._pass(sleep_until(self, _moment(when)))

    async def _pass(self, sleep: Coroutine[Any, Any, None]) -> None:
        self._passing += 1
        try:
            await sleep
        finally:
            self._passing -= 1
        await self.run_until_idle()

    async def run_until_idle(self) -> None:
        """Return when nothing can go on unless time passes; the clock makes no jump meanwhile."""
        loop = self._install()
        idle: asyncio.Future[None] = loop.create_future()
        self._idle.append(idle)
        try:
            await idle
        finally:
            if idle in self._idle:
                self._idle.remove(idle)

    # -- what tests ask
    @property
    def next_at(self) -> float | None:
        """The wall-clock time of the next timer; None if nobody waits for time to pass."""
        first = self._next()
        if first is None:
            return None
        return first.due + self._offset if first.when is None else first.when

    @property
    def pending(self) -> int:
        """How many timers wait for their time."""
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
        """Let go of the event loop; timers still pending are dropped. Closing twice does nothing."""
        if self._loop is None:
            return
        # Somebody may have put a hook over ours; it then goes on calling us, and `_select` passes that through.
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
                    "or give each loop a clock of its own"
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
            # One that nobody waits for gives way; who waits there for idleness waits here from now on.
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
        """Stand in for the selector's `select`; a loop that wants to block there is idle."""
        closed = self._loop is None or really is not self._really_select
        if closed or (timeout is not None and timeout <= 0):
            return really(timeout)
        # Read before polling: whoever reported -1 has handed its result over before, so the poll shows it.
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
        """Let time pass to a timer's moment; whoever is called for an appointment finds that it has come."""
        self._pass_to(timer.due)
        if timer.when is not None:
            self._now = max(self._now, timer.when)

    def _pass_to(self, moment: float) -> None:
        self._monotonic = max(self._monotonic, moment)
        # With an offset the sum is rounded: the wall clock must not go back by that.
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
        """Count a called-off timer; sweep when they are most of all, as timeouts that never strike would pile up."""
        self._called_off += 1
        if self._called_off > _WORTH_SWEEPING and self._called_off * 2 > len(self._timers):
            self._timers = [timer for timer in self._timers if timer.callback is not None]
            heapq.heapify(self._timers)
            self._called_off = 0


class _Timer:
    """A call that is due later. `callback` is None once it ran or was called off.

    Attributes:
        due: when, on the monotonic clock.
        when: when, on the wall clock, for an appointment; None for a stretch.
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
        """Let the loop call it in its next turn."""
        self.waiting = False
        self._handle = self._loop.call_soon(self._call, context=self._context)

    def fire(self) -> None:
        """Call it now; what it raises goes where the loop sends what its own callbacks raise."""
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
    """Return when nothing can go on unless time passes: the loop is idle and nobody outside of it is busy.

    Args:
        of: a VirtualClock, or something with a `clock` that is one (a runtime); default: the clock that drives the
            running event loop. Without any, only the loop itself is looked at.
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
        raise ValueError(f"{total} seconds is no stretch of time: it must not be negative; use set() to go back")
    return total


def _wake() -> None:
    """Do nothing: being called is the point, as it makes the loop look again whether it is idle."""
