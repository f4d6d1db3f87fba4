"""What tests may rely on when time is virtual."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import gc
import os
import threading
import weakref

import pytest
from support import LAST_RESORT

from poundlock.clock import Clock, sleep_for, sleep_until, timeout_after
from poundlock.testing import VirtualClock, run_until_idle

DAY = 86_400.0


@pytest.fixture
def clock():
    clock = VirtualClock(start=1000.0)
    yield clock
    clock.close()


def run_in_thread(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


# -- jumping
async def test_thirty_days_pass_at_once(clock):
    """A month of daily sleeps ends without waiting for any of it, and each wakes at its exact time."""
    woke = []
    for day in range(30):
        await sleep_until(clock, 1000.0 + (day + 1) * DAY)
        woke.append(clock.now())
    assert woke == [1000.0 + (day + 1) * DAY for day in range(30)]


async def test_the_clock_is_a_clock(clock):
    """VirtualClock satisfies the Clock port."""
    port: Clock = clock
    assert port.now() == 1000.0
    before = port.monotonic()
    await sleep_for(port, 5)
    assert port.monotonic() - before == 5


async def test_time_stands_while_anything_runs(clock):
    """While some task has work, however many turns it takes, the clock does not move."""
    loop = asyncio.get_running_loop()
    sleeper = asyncio.create_task(sleep_until(clock, 2000.0))
    for _ in range(1000):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn
        assert clock.now() == 1000.0
    assert not sleeper.done()
    await sleeper


async def test_timers_fire_in_order_first_come_first_served(clock):
    """Timers fire by time; at equal times in the order they were made; `now()` is exactly their time."""
    fired = []
    for name, when in [("c", 1003.0), ("a1", 1001.0), ("b", 1002.0), ("a2", 1001.0), ("a3", 1001.0)]:
        clock.call_at(when, lambda name=name: fired.append((name, clock.now())))
    await sleep_until(clock, 1003.0)
    assert fired == [("a1", 1001.0), ("a2", 1001.0), ("a3", 1001.0), ("b", 1002.0), ("c", 1003.0)]


async def test_many_timers_of_one_moment(clock):
    """A hundred timers of one moment fire in the order in which they were made, by jump and by hand alike."""
    fired = []
    for when in (1001.0, 1002.0):
        for number in range(100):
            clock.call_at(when, lambda number=number: fired.append(number))
    await sleep_until(clock, 1001.0)
    clock.advance_to(1002.0)
    assert fired == [*range(100), *range(100)]


async def test_what_one_timer_wakes_is_done_before_the_next_time_comes(clock):
    """Everything that follows from one moment happens in it, before the clock goes on."""
    log = []

    async def worker(when):
        await sleep_until(clock, when)
        for _ in range(20):
            turn = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(turn.set_result, None)
            await turn
        log.append(clock.now())

    async with asyncio.TaskGroup() as group:
        for when in (1002.0, 1001.0, 1001.5):
            group.create_task(worker(when))
    assert log == [1001.0, 1001.5, 1002.0]


@pytest.mark.parametrize("when", [1000.0, 999.0, -1.0])
async def test_a_time_that_has_come_needs_no_jump(clock, when):
    """A timer for now or the past fires in the next turn of the loop, even where the clock may not jump."""
    clock.autojump = False
    clock.busy(1)
    fired = []
    clock.call_at(when, lambda: fired.append(clock.now()))
    assert fired == []
    await sleep_until(clock, when)
    assert fired == [1000.0]
    clock.busy(-1)


async def test_cancelled_timers_never_fire(clock):
    """A cancelled timer does not fire, cancelling twice or late does nothing, and time does not stop for it."""
    fired = []
    timer = clock.call_at(1001.0, lambda: fired.append("cancelled"))
    timer.cancel()
    timer.cancel()
    done = clock.call_at(1002.0, lambda: fired.append("fired"))
    assert (clock.pending, clock.next_at) == (1, 1002.0)
    await sleep_until(clock, 1003.0)
    done.cancel()
    assert fired == ["fired"]
    assert clock.next_at is None


async def test_a_timer_may_cancel_its_neighbour(clock):
    """A timer cancelled by another one of the same moment does not fire any more."""
    fired, neighbours = [], []
    clock.call_at(1001.0, lambda: [timer.cancel() for timer in neighbours])
    neighbours.append(clock.call_at(1001.0, lambda: fired.append("neighbour")))
    await sleep_until(clock, 1002.0)
    assert fired == []


async def test_timers_that_never_strike_do_not_pile_up(clock):
    """A hundred thousand timeouts that were called off leave next to nothing behind, and the rest in order."""
    fired = []
    for number in range(1000):
        clock.call_at(5000.0 - number, lambda number=number: fired.append(number))
    for _ in range(100_000):
        clock.call_at(1e9, print).cancel()
    assert clock.pending == 1000
    assert len(clock._timers) < 2500
    await sleep_until(clock, 5000.0)
    assert fired == [*range(999, 0, -1), 0]


async def test_callbacks_that_raise_reach_the_loops_handler(clock):
    """What a timer raises goes to the loop's exception handler; other timers go on, by jump and by hand alike."""
    problems, fired = [], []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(str(context["exception"])))

    def broken():
        raise ValueError("broken timer")

    clock.call_at(1001.0, broken)
    clock.call_at(1001.0, lambda: fired.append(1))
    await sleep_until(clock, 1002.0)
    clock.call_at(1003.0, broken)
    clock.call_at(1003.0, lambda: fired.append(2))
    clock.advance(seconds=2)
    assert problems == ["broken timer", "broken timer"]
    assert fired == [1, 2]


async def test_callbacks_keep_the_context_they_were_made_in(clock):
    """A timer runs in the context in which it was made, as with the loop's own timers."""
    variable, seen = contextvars.ContextVar("variable", default="outside"), []

    def arm(when):
        variable.set(f"made for {when}")
        clock.call_at(when, lambda: seen.append(variable.get()))

    contextvars.copy_context().run(arm, 1001.0)
    contextvars.copy_context().run(arm, 1002.0)
    await sleep_until(clock, 1001.0)
    clock.advance_to(1002.0)
    assert seen == ["made for 1001.0", "made for 1002.0"]
    assert variable.get() == "outside"


# -- timeouts
async def test_timeouts_on_the_virtual_clock(clock):
    """A timeout of three days strikes at its time, at once."""
    scope = timeout_after(clock, 3 * DAY)
    with pytest.raises(TimeoutError):
        async with scope:
            await asyncio.get_running_loop().create_future()
    assert scope.expired
    assert clock.now() == 1000.0 + 3 * DAY


async def test_what_ends_in_time_is_not_cut_off(clock):
    """A body that ends before its timeout leaves no timer behind; the shorter of two timeouts strikes."""
    async with timeout_after(clock, 1000) as scope:
        await sleep_until(clock, 1500.0)
    assert not scope.expired
    assert clock.pending == 0
    outer, inner = timeout_after(clock, 200), timeout_after(clock, 400)
    with pytest.raises(TimeoutError):
        async with outer, inner:
            await sleep_until(clock, 1800.0)
    assert (outer.expired, inner.expired) == (True, False)
    assert clock.now() == 1700.0


async def test_a_far_real_timeout_does_not_stop_the_jump(clock):
    """A guard by `asyncio.timeout` around a test leaves virtual time free, and does not strike by a jump."""
    async with asyncio.timeout(60):
        await sleep_until(clock, 1000.0 + 365 * DAY)
    assert clock.now() == 1000.0 + 365 * DAY


async def test_a_near_real_timer_comes_first(clock):
    """A real timer due within a second is waited for, so that no library's short wait is jumped over."""
    order, loop = [], asyncio.get_running_loop()
    loop.call_later(0.02, lambda: order.append(("real", clock.now())))
    clock.call_at(2000.0, lambda: order.append(("virtual", clock.now())))
    await sleep_until(clock, 2000.0)
    assert order == [("real", 1000.0), ("virtual", 2000.0)]


async def test_a_real_timeout_strikes_where_nothing_is_due(clock):
    """With no virtual timer left, real time goes on as usual."""
    await sleep_until(clock, 1001.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.get_running_loop().create_future()
    assert clock.now() == 1001.0


async def test_cancelling_a_sleeper(clock):
    """A cancelled sleep is over at once and leaves no timer."""
    sleeper = asyncio.create_task(sleep_until(clock, 2000.0))
    other = asyncio.create_task(sleep_until(clock, 3000.0))
    await run_until_idle()
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
    assert (clock.pending, clock.now()) == (1, 1000.0)
    await other


# -- work outside the loop
async def test_busy_work_holds_the_clock_and_wakes_it(clock):
    """While somebody is busy outside the loop no jump is made; the last to finish lets time go on, unasked."""
    go, before = threading.Event(), []
    clock.busy(1)
    clock.busy(1)

    def work():
        go.wait(LAST_RESORT)
        before.append(clock.now())
        clock.busy(-1)
        before.append(clock.now())
        clock.busy(-1)

    thread = run_in_thread(work)
    sleeper = asyncio.create_task(sleep_until(clock, 2000.0))
    asyncio.get_running_loop().call_later(0.01, go.set)
    await sleeper
    assert before == [1000.0, 1000.0]
    assert clock.now() == 2000.0
    thread.join(LAST_RESORT)


async def test_a_result_handed_over_before_busy_ends_is_seen_before_any_jump(clock):
    """Whoever reports -1 after handing in its result is never overtaken by a jump; tried a thousand times."""
    loop, late = asyncio.get_running_loop(), 0
    for _ in range(1000):
        answer = loop.create_future()
        clock.busy(1)

        def work(answer=answer):
            loop.call_soon_threadsafe(answer.set_result, None)
            clock.busy(-1)

        deadline = clock.now() + 1
        timer = clock.call_at(deadline, lambda: None)
        run_in_thread(work)
        await answer
        late += clock.now() >= deadline
        timer.cancel()
    assert late == 0


async def test_work_that_ends_while_the_clock_decides(clock):
    """Work that hands in its result just after the clock has looked for results is not overtaken either."""
    loop = asyncio.get_running_loop()
    answer, selector = loop.create_future(), loop._selector
    really, moments = selector.select, []

    def select(timeout=None):
        happened = really(timeout)
        if timeout == 0 and armed and not happened:
            armed.clear()
            loop.call_soon_threadsafe(answer.set_result, None)
            clock.busy(-1)
        return happened

    armed = []
    selector.select = select
    clock.call_at(2000.0, lambda: None)
    clock.busy(1)
    await clock_is_asked_next(loop)
    armed.append(True)
    await answer
    moments.append(clock.now())
    clock.close()
    del selector.select
    assert moments == [1000.0]


async def clock_is_asked_next(loop):
    """Let the loop turn once, so that the next thing to happen is that it looks for something to do."""
    turn = loop.create_future()
    loop.call_soon(turn.set_result, None)
    await turn


async def test_busy_on_the_loop_itself(clock):
    """Reporting from the loop's own thread works without waking anybody."""
    clock.busy(1)
    asyncio.get_running_loop().call_later(0.01, clock.busy, -1)
    await sleep_until(clock, 2000.0)
    assert clock.now() == 2000.0


def test_busy_must_balance():
    """More endings than beginnings are a mistake of the caller, told at once; the count stays right."""
    clock = VirtualClock()
    with pytest.raises(ValueError, match="without"):
        clock.busy(-1)
    clock.busy(1)
    clock.busy(-1)
    assert "busy 0" in repr(clock)


def test_busy_may_end_after_the_loop(clock):
    """A thread that finishes when its loop is closed already harms nobody."""

    async def arm():
        clock.call_at(2000.0, print)
        clock.busy(1)

    asyncio.run(arm())
    thread = run_in_thread(lambda: clock.busy(-1))
    thread.join(LAST_RESORT)
    assert "busy 0" in repr(clock)


async def test_data_on_a_socket_comes_before_a_jump(clock):
    """What has arrived already is handled before time moves."""
    loop, order = asyncio.get_running_loop(), []
    read, write = os.pipe()
    loop.add_reader(read, lambda: (order.append(("data", clock.now())), loop.remove_reader(read)))
    os.write(write, b"x")
    await sleep_until(clock, 2000.0)
    order.append(("time", clock.now()))
    os.close(read)
    os.close(write)
    assert order == [("data", 1000.0), ("time", 2000.0)]


async def test_waiting_for_the_unreported_is_plain_waiting(clock):
    """With no timer and nobody reported busy the loop waits as ever, here for a thread that nobody told of."""
    answer = await asyncio.to_thread(threading.Event().wait, 0.02)
    assert answer is False
    clock.autojump = False
    clock.call_at(2000.0, print)
    await asyncio.to_thread(threading.Event().wait, 0.02)
    assert clock.now() == 1000.0


# -- moving time by hand
async def test_without_autojump_time_stands(clock):
    """With `autojump=False` only the test moves time; `autojump` may be switched at any moment."""
    clock.autojump = False
    sleeper = asyncio.create_task(sleep_until(clock, 2000.0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.shield(sleeper)
    assert clock.now() == 1000.0
    clock.autojump = True
    await sleeper
    assert clock.now() == 2000.0


async def test_advance_calls_each_timer_at_its_time(clock):
    """`advance` calls what is due on the way, also what those calls add, each at its time, and ends where it should."""
    fired = []

    def again():
        fired.append(clock.now())
        clock.call_at(clock.now() + 3600, again)

    clock.call_at(1000.0 + 3600, again)
    clock.advance(hours=3)
    assert fired == [1000.0 + 3600 * hour for hour in (1, 2, 3)]
    assert clock.now() == 1000.0 + 3 * 3600
    assert clock.next_at == 1000.0 + 4 * 3600


async def test_a_timer_may_move_time_itself(clock):
    """When a timer called by `advance` moves time on, time does not fall back to where `advance` was going."""
    clock.call_at(1001.0, lambda: clock.advance_to(5000.0))
    clock.advance_to(1002.0)
    assert clock.now() == 5000.0


@pytest.mark.parametrize(
    ("args", "units", "expected"),
    [
        ((5,), {}, 5),
        (("2h30m",), {}, 9000),
        ((dt.timedelta(days=2),), {}, 172_800),
        ((), {"minutes": 1, "hours": 1, "days": 1, "seconds": 1}, 90_061),
        ((), {}, 0),
    ],
)
def test_advance_takes_durations_and_units(args, units, expected):
    """Seconds, text, timedeltas and units all work, without any event loop."""
    clock = VirtualClock(start=0)
    clock.advance(*args, **units)
    assert clock.now() == expected


async def test_time_goes_back_only_by_set(clock):
    """`advance` and `run_until` never go back; `set` does, and earlier timers still fire at their time."""
    with pytest.raises(ValueError, match="set"):
        clock.advance_to(999.0)
    with pytest.raises(ValueError, match="negative"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="negative"):
        await clock.run_for(days=-1)
    clock.set(500.0)
    assert clock.now() == 500.0
    await sleep_until(clock, 750.0)
    assert clock.now() == 750.0


async def test_set_forward_makes_timers_late(clock):
    """After a jump of the system time, timers that were passed by fire in order, late: `now()` is after their time."""
    clock.autojump = False
    fired = []
    clock.call_at(1002.0, lambda: fired.append(("b", clock.now())))
    clock.call_at(1001.0, lambda: fired.append(("a", clock.now())))
    clock.call_at(9000.0, lambda: fired.append(("c", clock.now())))
    clock.set(5000.0)
    assert fired == []
    await clock.run_until_idle()
    assert fired == [("a", 5000.0), ("b", 5000.0)]
    assert clock.next_at == 9000.0


@pytest.mark.parametrize("jump", [-DAY, DAY])
async def test_set_moves_appointments_and_no_stretch(clock, jump):
    """After `set`, `call_later` fires when its seconds are over; `call_at` when the wall clock shows its time."""
    fired = []
    began = clock.monotonic()
    clock.call_later(10, lambda: fired.append(("stretch", clock.monotonic() - began)))
    clock.call_at(1000.0 + 2 * DAY, lambda: fired.append(("appointment", clock.now())))
    clock.set(1000.0 + jump)
    assert (clock.now(), clock.monotonic(), clock.pending) == (1000.0 + jump, began, 2)
    assert clock.next_at == 1010.0 + jump
    await sleep_until(clock, 1000.0 + 2 * DAY)
    assert fired == [("stretch", 10), ("appointment", 1000.0 + 2 * DAY)]
    assert clock.monotonic() - began == 2 * DAY - jump


async def test_both_kinds_of_timers_of_one_moment_keep_their_order(clock):
    """Appointments and stretches that end in one moment fire as they were made, in one jump, also after a `set`."""
    for base in (1000.0, 500.0, 1_767_225_600.25):
        clock.set(base)
        fired = []
        clock.call_later(5, lambda fired=fired: fired.append(("a", clock.now())))
        clock.call_at(base + 5, lambda fired=fired: fired.append(("b", clock.now())))
        clock.call_later(5, lambda fired=fired: fired.append(("c", clock.now())))
        await sleep_for(clock, 5)
        assert fired == [("a", base + 5), ("b", base + 5), ("c", base + 5)]


async def test_an_appointment_has_come_when_it_is_called(clock):
    """However odd the numbers: after a `set` no appointment is called before `now()` shows its time."""
    for number in range(1, 200):
        clock.set(number * 0.1)
        clock.advance(number * 0.7)
        when = clock.now() + number * 1e-7
        seen = []
        clock.call_at(when, lambda seen=seen: seen.append(clock.now()))
        await sleep_until(clock, when)
        assert seen[0] >= when
        assert clock.now() >= when


async def test_time_passes_as_told_wherever_the_wall_clock_is_set(clock):
    """`run_for` and `advance` let their stretch pass, also when something sets the wall clock on the way."""
    began = clock.monotonic()
    clock.call_later(1, lambda: clock.set(5.0))
    await clock.run_for(3)
    assert (clock.monotonic() - began, clock.now()) == (3, 7.0)
    clock.call_later(1, lambda: clock.set(0.0))
    clock.advance(3)
    assert (clock.monotonic() - began, clock.now()) == (6, 2.0)


async def test_set_leaves_cancelled_timers_behind(clock):
    """Timers called off before or after a jump of the wall clock do not fire, and are counted once."""
    fired = []
    before, after = (clock.call_at(when, lambda: fired.append(1)) for when in (1001.0, 1002.0))
    before.cancel()
    clock.set(5000.0)
    after.cancel()
    await clock.run_for(1)
    assert (fired, clock.pending) == ([], 0)


async def test_run_for_lets_everything_happen_at_its_own_time(clock):
    """`run_for` passes time jump by jump, also with `autojump=False`: a daily job runs once a day, at its hour."""
    clock.autojump = False
    ran = []

    async def daily():
        while True:
            await sleep_until(clock, clock.now() + DAY)
            ran.append(clock.now())

    job = asyncio.create_task(daily())
    await run_until_idle()
    await clock.run_for(days=7)
    assert ran == [1000.0 + day * DAY for day in range(1, 8)]
    assert clock.now() == 1000.0 + 7 * DAY
    await clock.run_until(1000.0 + 7.5 * DAY)
    assert (len(ran), clock.now()) == (7, 1000.0 + 7.5 * DAY)
    job.cancel()


def test_start_and_moments_may_be_datetimes():
    """Datetimes are as good as seconds, and naive ones are UTC; time starts at the same moment in every test."""
    clock = VirtualClock(dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
    assert clock.now() == dt.datetime(2026, 3, 1, tzinfo=dt.UTC).timestamp()
    clock.advance_to(dt.datetime(2026, 3, 2))  # noqa: DTZ001 - a naive one is the point
    assert clock.now() == dt.datetime(2026, 3, 2, tzinfo=dt.UTC).timestamp()
    clock.set(dt.datetime(2025, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))))
    assert "2024-12-31T23:00:00+00:00" in repr(clock)
    assert VirtualClock().now() == VirtualClock().now()


# -- idle
async def test_run_until_idle_lets_all_run_and_no_time_pass(clock):
    """It returns when every task waits, having let all of them run as far as they go, without a jump."""
    log = []

    async def worker(turns):
        for _ in range(turns):
            turn = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(turn.set_result, None)
            await turn
        log.append(turns)
        await sleep_until(clock, 2000.0)
        log.append(clock.now())

    tasks = [asyncio.create_task(worker(turns)) for turns in (5, 50)]
    await clock.run_until_idle()
    assert (log, clock.now()) == ([5, 50], 1000.0)
    await asyncio.gather(*tasks)
    assert log == [5, 50, 2000.0, 2000.0]


async def test_run_until_idle_waits_for_threads(clock):
    """Work reported busy is waited for, and what its result leads to."""
    clock.busy(1)
    loop = asyncio.get_running_loop()
    answer, log = loop.create_future(), []

    def work():
        loop.call_soon_threadsafe(answer.set_result, "answer")
        clock.busy(-1)

    async def waiter():
        log.append(await answer)

    task = asyncio.create_task(waiter())
    loop.call_later(0.01, run_in_thread, work)
    await clock.run_until_idle()
    assert log == ["answer"]
    await task


async def test_several_may_wait_for_idleness(clock):
    """All that wait for idleness are told together; one that gives up is forgotten."""
    waiters = [asyncio.create_task(clock.run_until_idle()) for _ in range(3)]
    quitter = asyncio.create_task(clock.run_until_idle())
    asyncio.get_running_loop().call_soon(quitter.cancel)
    await asyncio.gather(*waiters)
    assert quitter.cancelled()
    assert clock._idle == []


@pytest.mark.parametrize("of", ["clock", "runtime", "nothing"])
async def test_run_until_idle_finds_the_clock(clock, of):
    """`run_until_idle` takes a clock, something with a clock, or finds the one that drives the loop."""
    sleeper = asyncio.create_task(sleep_until(clock, 2000.0))

    class Runtime:
        pass

    runtime = Runtime()
    runtime.clock = clock
    await run_until_idle({"clock": clock, "runtime": runtime, "nothing": None}[of])
    assert (clock.pending, clock.now()) == (1, 1000.0)
    await sleeper


async def test_run_until_idle_works_without_any_clock():
    """On a loop that no clock drives it watches the loop alone, and leaves no trace on it."""
    log = []

    async def worker():
        log.append("ran")

    task = asyncio.create_task(worker())
    selector = asyncio.get_running_loop()._selector
    await run_until_idle()
    assert log == ["ran"]
    assert "select" not in vars(selector)
    await task


async def test_a_clock_may_arrive_while_idleness_is_awaited():
    """A runtime that arms its first timer during a bare `run_until_idle` takes over, and the wait still ends."""
    clock = VirtualClock(start=0)
    waiting = asyncio.create_task(run_until_idle())

    async def runtime():
        await sleep_until(clock, 10)

    task = asyncio.create_task(runtime())
    await waiting
    assert (clock.pending, clock.now()) == (1, 0)
    await task
    assert clock.now() == 10
    clock.close()


# -- taking hold and letting go
async def test_the_selector_is_restored():
    """`async with clock:` takes hold of the loop and lets go; closing twice does nothing."""
    selector = asyncio.get_running_loop()._selector
    async with VirtualClock() as clock:
        assert "select" in vars(selector)
        timer = clock.call_at(clock.now() + 5, print)
    assert "select" not in vars(selector)
    timer.cancel()
    assert clock.pending == 0
    clock.close()
    assert "select" not in vars(selector)


async def test_closing_under_somebody_elses_hook():
    """Another tool's hook over the clock's stays, and the clock underneath passes through."""
    selector = asyncio.get_running_loop()._selector
    clock, calls = VirtualClock(), []
    async with clock:
        ours = selector.select

        def theirs(timeout=None):
            calls.append(timeout)
            return ours(timeout)

        selector.select = theirs
    assert vars(selector)["select"] is theirs
    await run_until_idle()
    assert calls
    async with clock:
        await sleep_until(clock, clock.now() + 5)
    assert vars(selector)["select"] is theirs
    del selector.select


async def test_closing_releases_those_who_wait_for_idleness(clock):
    """Nobody is left hanging by `close`."""
    clock.busy(1)
    waiting = asyncio.create_task(clock.run_until_idle())
    turn = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn
    clock.close()
    await waiting


async def test_a_second_clock_with_the_first_in_use_is_refused(clock):
    """Two clocks cannot both decide when one loop jumps; the error says what to do."""
    clock.call_at(2000.0, print)
    with pytest.raises(RuntimeError, match="share that one"):
        VirtualClock().call_at(1e12, print)


async def test_a_clock_nobody_waits_for_gives_way(clock):
    """A clock left over without timers does not stand in the way of the next."""
    await sleep_until(clock, 2000.0)
    async with VirtualClock(start=0) as other:
        await sleep_until(other, 5)
        assert (clock.now(), other.now()) == (2000.0, 5)


def test_one_loop_at_a_time(clock):
    """A clock drives one open loop; on another it says so. Once that loop is closed the clock may move on."""
    first = asyncio.new_event_loop()

    async def arm():
        return clock.call_at(clock.now() + 1, print)

    first.run_until_complete(arm())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(arm())
    first.close()
    asyncio.run(sleep_for(clock, 7))
    assert clock.now() == 1007.0


def test_a_loop_that_cannot_be_driven_is_refused(clock):
    """A loop without a selector of Python's kind is refused with a word on what works."""

    class OtherLoop(asyncio.SelectorEventLoop):
        pass

    loop = OtherLoop()
    selector, loop._selector = loop._selector, Slotted(loop._selector)

    async def arm():
        clock.call_at(2000.0, print)

    try:
        with pytest.raises(RuntimeError, match="cannot drive a OtherLoop"):
            loop.run_until_complete(arm())
    finally:
        loop._selector = selector
        loop.close()


class Slotted:
    """A selector that takes no attributes, as compiled ones do."""

    __slots__ = ("_real",)

    def __init__(self, real):
        self._real = real

    def select(self, timeout=None):
        return self._real.select(timeout)


def test_timers_need_a_running_loop(clock):
    """There is no timer without a loop to call it on."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        clock.call_at(2000.0, print)


def test_a_finished_loop_is_not_kept_alive():
    """A clock forgotten together with its loop is collected with it."""

    async def arm():
        clock = VirtualClock()
        clock.call_at(clock.now() + 5, print)
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(arm())
    gc.collect()
    assert loop() is None


def test_a_clock_beyond_all_datetimes_can_be_shown():
    """A test that jumped over a wait of ten thousand years can still print its clock."""
    clock = VirtualClock()
    clock.advance_to(1e12)
    assert repr(clock).startswith("VirtualClock(after the year 9999")
