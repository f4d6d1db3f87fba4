"""Time triggers through restarts, crashes, deregistrations and clocks that are set: each time at most once."""

from __future__ import annotations

import asyncio
import datetime as dt
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from support import Stores

from poundlock import Workflow
from poundlock.model.schedules import Interval
from poundlock.testing import VirtualClock, run_until_idle

START = dt.datetime(2026, 6, 1, 5, 30, tzinfo=dt.UTC).timestamp()
EVERY = 600.0

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["pass", "pass", "stop", "crash", "deregister", "set forward", "set back"]),
        st.integers(0, 5000),
    ),
    min_size=1,
    max_size=12,
)


async def story(folder, steps, missed):
    """Do what the steps say, with a registered workflow or without one; return what it fired for, and the clock."""
    clock = VirtualClock(START, autojump=False)
    stores = Stores("memory", folder, clock)
    fired = []

    def ticks():
        wf = Workflow("ticks")

        @wf.on(every=EVERY, missed=missed)
        @wf.step
        async def tick(scheduled: str):
            fired.append(dt.datetime.fromisoformat(scheduled).timestamp())

        return wf

    rt = await stores.enter(ticks())
    registered = True
    await run_until_idle(clock)
    for what, seconds in steps:
        if what == "pass":
            await clock.run_for(seconds)
        elif what == "deregister":
            if registered:
                await rt.deregister("ticks")
            else:
                await rt.register(ticks())
            registered = not registered
        elif what.startswith("set"):
            clock.set(clock.now() + (seconds if what == "set forward" else -seconds))
        else:
            await (rt.stop() if what == "stop" else stores.crash(rt))
            clock.advance(seconds)
            rt, registered = await stores.enter(ticks()), True
        await run_until_idle(clock)
    if not registered:
        await rt.register(ticks())
        await run_until_idle(clock)
    counts = rt.statistics()
    runs = (await rt.find_runs("ticks", limit=500)).items
    await stores.close()
    clock.close()
    return fired, runs, counts, clock.now()


@settings(max_examples=80)
@given(steps=STEPS, missed=st.sampled_from(["once", "all", "skip"]))
def test_each_time_fires_at_most_once_and_only_if_it_has_come(steps, missed):
    """No time fires twice or out of order, whatever happens; with "all", none is left out either."""
    with tempfile.TemporaryDirectory() as folder:
        fired, runs, _, now = asyncio.run(story(Path(folder), steps, missed))
    assert fired == sorted(set(fired))
    assert len(runs) == len(fired)
    assert all(str(run.status) == "completed" for run in runs)
    assert all(time % EVERY == 0 and time > START for time in fired)
    if not any(what == "set back" for what, _ in steps):
        assert all(time <= now for time in fired)
        if missed == "all":
            assert len(fired) == Interval(EVERY).count(START, now)
        if missed == "once" and Interval(EVERY).count(START, now):
            assert fired[-1] == Interval(EVERY).latest(now)
