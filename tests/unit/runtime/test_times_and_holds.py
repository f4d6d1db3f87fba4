"""Triggers that fire by time and hold what they get: a delay, a throttle, a batch."""

from __future__ import annotations

import datetime as dt

import pytest

from poundlock import Batch, Event, Throttle, Workflow
from poundlock.testing import VirtualClock, run_until_idle


def at(text):
    return dt.datetime.fromisoformat(f"2026-06-01T{text}+00:00").timestamp()


@pytest.fixture
def vclock():
    """The clock stands at half past five in the morning, and goes on only while a test lets time pass."""
    return VirtualClock(at("05:30"), autojump=False)


def hourly(seen, **options):
    wf = Workflow("work")

    @wf.on(cron="0 * * * *", **options)
    @wf.step
    async def note(event: Event, ctx):
        payload = event.payload
        times = payload.get("events", [payload])
        seen.append((round(ctx.now()), [each["scheduled"][11:16] for each in times]))

    return wf


async def test_a_fire_that_is_delayed(stores):
    """A time trigger with a delay starts its run that much later; each time once."""
    seen = []
    await stores.enter(hourly(seen, delay="5m"))
    await stores.clock.run_until(at("07:30"))
    assert seen == [(at("06:05"), ["06:00"]), (at("07:05"), ["07:00"])]


async def test_fires_that_are_throttled(stores):
    """The first of a window starts a run, of the others the latest is held until the window ends."""
    seen = []
    await stores.enter(hourly(seen, throttle=Throttle(1, "150m")))
    await stores.clock.run_until(at("09:30"))
    assert [times for _, times in seen][:2] == [["06:00"], ["08:00"]]


async def test_fires_in_a_batch(stores):
    """A batch of fires is one run."""
    seen = []
    await stores.enter(hourly(seen, batch=Batch(3, within="5h")))
    await stores.clock.run_until(at("08:30"))
    assert seen == [(at("08:00"), ["06:00", "07:00", "08:00"])]


@pytest.mark.parametrize("end", ["stop", "crash"])
async def test_a_delayed_fire_across_a_restart(stores, end):
    """What is held after a fire is held by the store: the time is decided, and its run starts once."""
    seen = []
    rt = await stores.enter(hourly(seen, delay="5m", missed="all"))
    await stores.clock.run_until(at("06:02"))
    await (rt.stop() if end == "stop" else stores.crash(rt))
    await stores.enter(hourly(seen, delay="5m", missed="all"))
    await run_until_idle(stores.clock)
    assert seen == []
    await stores.clock.run_until(at("06:30"))
    assert seen == [(at("06:05"), ["06:00"])]
