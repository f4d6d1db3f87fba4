"""The only module that reads the time.

House rules:

1. Nothing else in the package calls `time`, `datetime.now` or the event loop's clock; a linter checks it.
2. A duration (timeout, back-off, drain) is measured on the monotonic clock: `call_later`, `sleep_for`, `timeout_after`.
   A point in time (a wait's deadline, the end of a delay, every stored time) is a wall-clock time: `call_at`,
   `sleep_until`. Setting the wall clock moves points in time, never a duration.
3. Everything that waits uses the `Clock` port, so that a test clock can jump.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Protocol, Self


class Timer(Protocol):
    """A scheduled call that can be cancelled."""

    def cancel(self) -> None:
        """Cancel the call; a second time, or after the call, this does nothing."""


class Clock(Protocol):
    """The port for time: seconds, as floats. Callbacks run on the running event loop."""

    def now(self) -> float:
        """Return the wall-clock time in seconds since 1970-01-01 UTC; it may be set back or forward."""

    def monotonic(self) -> float:
        """Return the seconds since a fixed moment; setting the wall clock does not change them, they never go back."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` when `now()` has reached `when`; soon, if that has passed."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` when `monotonic()` has grown by `delay`; soon, if that is zero or less."""

    def busy(self, delta: int) -> None:
        """Report that work outside the event loop began (+1) or ended (-1); a real clock ignores this."""


class SystemClock:
    """The system clock.

    `call_at` reads the wall clock again at least once a minute, so a jump of the system time (or a suspended laptop)
    delays a timer by at most a minute and never loses it. `call_later` is the event loop's own.
    """

    LONGEST_NAP = 60.0

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return _SystemTimer(when, callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, callback)

    def busy(self, delta: int) -> None:
        pass


class _SystemTimer:
    __slots__ = ("_callback", "_handle", "_when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self._when = when
        self._callback = callback
        self._arm()

    def _arm(self) -> None:
        nap = min(max(self._when - time.time(), 0.0), SystemClock.LONGEST_NAP)
        self._handle = asyncio.get_running_loop().call_later(nap, self._fire)

    def _fire(self) -> None:
        if time.time() < self._when:
            self._arm()
        else:
            self._callback()

    def cancel(self) -> None:
        self._handle.cancel()


async def sleep_until(clock: Clock, when: float) -> None:
    """Wait until `clock.now()` has reached `when`; a time in the past yields to the loop once."""
    await _called(partial(clock.call_at, when))


async def sleep_for(clock: Clock, delay: float) -> None:
    """Wait for `delay` seconds on the monotonic clock; zero or less yields to the loop once."""
    await _called(partial(clock.call_later, delay))


async def _called(arm: Callable[[Callable[[], None]], Timer]) -> None:
    reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not reached.done():
            reached.set_result(None)

    timer = arm(wake)
    try:
        await reached
    finally:
        timer.cancel()


class timeout_after:  # noqa: N801 - reads as the statement it is, like asyncio.timeout
    """`async with timeout_after(clock, delay)`: cancel the body after `delay` seconds and raise TimeoutError.

    The seconds count from the creation of this object, as in `asyncio.timeout`; None never expires. Built on
    `asyncio.timeout`: when the clock calls back, its deadline is set to now.
    """

    __slots__ = ("_clock", "_delay", "_made", "_scope", "_timer")

    def __init__(self, clock: Clock, delay: float | None) -> None:
        self._clock = clock
        self._delay = delay
        self._made = clock.monotonic()

    async def __aenter__(self) -> Self:
        self._scope = asyncio.timeout(None)
        await self._scope.__aenter__()
        self._timer: Timer | None = None
        if self._delay is not None:
            waited = self._clock.monotonic() - self._made
            self._timer = self._clock.call_later(self._delay - waited, self._expire)
        return self

    def _expire(self) -> None:
        self._scope.reschedule(asyncio.get_running_loop().time())

    @property
    def expired(self) -> bool:
        """Whether this timeout, and not a cancellation from outside, ended the body."""
        return self._scope.expired()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._scope.__aexit__(kind, error, trace)
