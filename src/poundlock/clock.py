"""The only reader of time.

House rules: nothing else in the package calls `time`, `datetime.now` or the event loop's clock; a linter checks it.
`Clock` is the port; everything that waits goes through `call_at`, so that a test clock can jump.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self


class Timer(Protocol):
    """A call that is due later and can be called off."""

    def cancel(self) -> None:
        """Call it off; calling it off twice, or after it ran, does nothing."""


class Clock(Protocol):
    """What the rest of the package knows of time. Seconds since the Unix epoch, as floats."""

    def now(self) -> float:
        """Return the wall-clock time in seconds since 1970-01-01 UTC."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on the running event loop once `now()` has reached `when`."""

    def busy(self, delta: int) -> None:
        """Tell that work outside the event loop began (+1) or ended (-1); a real clock does not care."""


class SystemClock:
    """The machine's clock.

    `call_at` re-reads the wall clock at least once a minute, so a jump of the system time (or a suspended laptop)
    delays a timer by a minute at most and never loses one.
    """

    LONGEST_NAP = 60.0

    now = staticmethod(time.time)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return _SystemTimer(when, callback)

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
    reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not reached.done():
            reached.set_result(None)

    timer = clock.call_at(when, wake)
    try:
        await reached
    finally:
        timer.cancel()


class timeout_at:  # noqa: N801 - reads as the statement it is, like asyncio.timeout_at
    """`async with timeout_at(clock, when)`: cancel the body once `clock` reaches `when` and raise TimeoutError.

    `when=None` never expires. Built on `asyncio.timeout`, whose deadline is pulled in when the clock says so.
    """

    __slots__ = ("_clock", "_scope", "_timer", "_when")

    def __init__(self, clock: Clock, when: float | None) -> None:
        self._clock = clock
        self._when = when

    async def __aenter__(self) -> Self:
        self._scope = asyncio.timeout(None)
        await self._scope.__aenter__()
        self._timer = None if self._when is None else self._clock.call_at(self._when, self._expire)
        return self

    def _expire(self) -> None:
        self._scope.reschedule(asyncio.get_running_loop().time())

    @property
    def expired(self) -> bool:
        """Whether this deadline, and not somebody's cancellation, ended the body."""
        return self._scope.expired()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._scope.__aexit__(kind, error, trace)
