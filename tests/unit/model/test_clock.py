"""The machine's clock, and what is built on any clock."""

from __future__ import annotations

import asyncio
import time

import pytest

from poundlock import clock as clock_module
from poundlock.clock import SystemClock, sleep_for, sleep_until, timeout_after


class Wall:
    """A wall clock whose hands the test moves, and a loop that notes how long it is asked to wait."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        self.naps = []
        monkeypatch.setattr(clock_module.time, "time", lambda: self.now)
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr(self._loop, "call_later", self._call_later)

    def _call_later(self, delay, callback):
        self.naps.append(delay)
        self.wake = callback
        return self._loop.call_at(self._loop.time() + 3600, callback)


@pytest.fixture
async def wall(monkeypatch):
    return Wall(monkeypatch)


def test_now_is_the_wall_clock():
    """SystemClock tells the seconds since 1970, and does not care who is busy."""
    clock = SystemClock()
    assert time.time() <= clock.now() <= time.time()
    clock.busy(1)
    clock.busy(-1)


async def test_a_timer_fires_when_its_time_has_come():
    """A timer fires once the wall clock has reached its time, not before."""
    clock = SystemClock()
    when = clock.now() + 0.02
    await sleep_until(clock, when)
    assert clock.now() >= when


async def test_a_time_in_the_past_yields_once():
    """Sleeping until a time that has passed lets others run and returns."""
    order = []
    asyncio.get_running_loop().call_soon(order.append, "other")
    await sleep_until(SystemClock(), 0.0)
    order.append("sleeper")
    assert order == ["other", "sleeper"]


async def test_the_wall_clock_is_looked_at_every_minute(wall):
    """A far timer naps a minute at a time, so that a jump of the system time is noticed within a minute."""
    fired = []
    SystemClock().call_at(1000.0 + 86_400, lambda: fired.append(wall.now))
    assert wall.naps == [60.0]
    wall.now += 60
    wall.wake()
    assert wall.naps == [60.0, 60.0]
    wall.now = 1000.0 + 86_400 + 5  # the laptop was asleep
    wall.wake()
    assert fired == [1000.0 + 86_400 + 5]


async def test_a_clock_that_went_back_makes_nothing_early(wall):
    """When the system time jumps back during the last nap, the timer waits on instead of firing early."""
    fired = []
    timer = SystemClock().call_at(1010.0, lambda: fired.append(wall.now))
    wall.now = 500.0
    wall.wake()
    assert (fired, wall.naps) == ([], [10.0, 60.0])
    timer.cancel()
    timer.cancel()


async def test_a_stretch_is_the_loops_own_timer(wall):
    """`call_later` hands the whole delay to the loop and never looks at the wall clock, wherever it is set."""
    fired = []
    timer = SystemClock().call_later(86_400.0, lambda: fired.append(1))
    wall.now -= 86_400
    wall.wake()
    assert (wall.naps, fired) == ([86_400.0], [1])
    timer.cancel()


async def test_a_clock_put_forward_makes_an_appointment_due_within_a_minute(wall):
    """A timer whose time has come by a jump of the system time fires at the next look, with its time in the past."""
    fired = []
    SystemClock().call_at(1000.0 + 86_400, lambda: fired.append(wall.now))
    wall.now += 7 * 86_400
    wall.wake()
    assert fired == [1000.0 + 7 * 86_400]


async def test_the_monotonic_clock_is_not_the_wall_clock(wall):
    """`monotonic` goes on where the wall clock is set back."""
    clock = SystemClock()
    before = clock.monotonic()
    wall.now -= 86_400
    assert clock.monotonic() >= before


async def test_cancelled_timers_do_not_fire():
    """A cancelled timer is gone; a cancelled sleep takes its timer along."""
    clock, fired = SystemClock(), []
    clock.call_at(clock.now() + 0.005, lambda: fired.append(1)).cancel()
    sleeper = asyncio.create_task(sleep_until(clock, clock.now() + 3600))
    await sleep_until(clock, clock.now() + 0.01)
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
    assert fired == []


# -- timeouts, on a clock that needs no waiting
async def test_timeout_strikes(vclock):
    """When its seconds are over the body is cancelled and TimeoutError raised."""
    scope = timeout_after(vclock, 5)
    with pytest.raises(TimeoutError):
        async with scope:
            await asyncio.get_running_loop().create_future()
    assert scope.expired


async def test_no_timeout_never_strikes(vclock):
    """A delay of None is no timeout at all."""
    async with timeout_after(vclock, None) as scope:
        await sleep_for(vclock, 1e6)
    assert not scope.expired


async def test_a_timeout_without_any_time_strikes_at_the_first_wait(vclock):
    """A timeout of less than nothing lets the body run to its first wait."""
    ran = []

    async def body():
        async with timeout_after(vclock, -5):
            ran.append(1)
            await asyncio.get_running_loop().create_future()
            ran.append(2)

    with pytest.raises(TimeoutError):
        await body()
    assert ran == [1]


async def test_somebody_elses_cancellation_is_no_timeout(vclock):
    """Cancelling the task from outside stays a cancellation."""
    scope = timeout_after(vclock, 5)

    async def body():
        async with scope:
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(body())
    vclock.autojump = False
    await vclock.run_until_idle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not scope.expired
    assert vclock.pending == 0


async def test_a_timeout_counts_from_its_making(vclock):
    """Seconds that pass between making a timeout and entering it count, as in `asyncio.timeout`."""
    scope, made = timeout_after(vclock, 5), vclock.now()
    await sleep_for(vclock, 3)
    with pytest.raises(TimeoutError):
        async with scope:
            await asyncio.get_running_loop().create_future()
    assert vclock.now() == made + 5


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
async def test_stretches_do_not_care_about_the_wall_clock(vclock, jump):
    """A timeout and a sleep take their seconds, whether the wall clock is set back or forward meanwhile."""
    began = vclock.monotonic()
    vclock.call_later(1, lambda: vclock.set(vclock.now() + jump))
    with pytest.raises(TimeoutError):
        async with timeout_after(vclock, 5):
            await asyncio.get_running_loop().create_future()
    assert vclock.monotonic() == began + 5
    vclock.call_later(1, lambda: vclock.set(vclock.now() + jump))
    await sleep_for(vclock, 2)
    assert vclock.monotonic() == began + 7


async def test_errors_of_the_body_come_through(vclock):
    """What the body raises is raised, and no timer is left."""
    with pytest.raises(ZeroDivisionError):
        async with timeout_after(vclock, 5):
            _ = 1 / 0
    assert vclock.pending == 0


@pytest.mark.parametrize("finished_first", [True, False])
async def test_a_timeout_in_the_moment_of_finishing(vclock, finished_first):
    """Where result and timeout fall on one moment, whichever was armed first wins, and nothing is left behind."""
    done, when = asyncio.get_running_loop().create_future(), vclock.now() + 5

    async def body():
        async with timeout_after(vclock, 5):
            await done

    def finish():
        if not done.done():
            done.set_result(None)

    if finished_first:
        vclock.call_at(when, finish)
    task = asyncio.create_task(body())
    await vclock.run_until_idle()
    if not finished_first:
        vclock.call_at(when, finish)
    if finished_first:
        await task
    else:
        with pytest.raises(TimeoutError):
            await task
    assert vclock.pending == 0
