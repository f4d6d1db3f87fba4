"""Times that no datetime can hold: waits and delays may lie that far ahead."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from poundlock import Delay, Pause, Pipeline, Stage, Step, Wait, Workflow, WorkflowRuntime
from poundlock.testing import VirtualClock, run_until_idle


async def fine():
    return {"a": 1}


FAR = {
    "a wait": Pause(Wait("answered", timeout="9000000d")),
    "the longest wait": Pause(Wait("answered", timeout=1e299)),
    "a delay": Delay(seconds=1e12),
    "a date": Delay(until=1e12),
}


@pytest.mark.parametrize("router", FAR.values(), ids=FAR)
def test_runs_that_wait_beyond_the_year_9999_can_be_shown(call, store, router):
    """`runs show`, `runs ls` and `timeline` tell of such a run, for people and as JSON."""
    stages = [Stage("one", router=router), Stage("two", [Step("s", fine)])]

    async def begin():
        wf = Workflow("wf", pipelines=[Pipeline("main", stages)])
        with contextlib.closing(VirtualClock(autojump=False)) as clock:
            async with WorkflowRuntime(wf, store=store, clock=clock) as rt:
                running = asyncio.ensure_future(rt.invoke("wf", run_id="r1"))
                await run_until_idle(clock)
                running.cancel()

    asyncio.run(begin())
    shown = call("runs", "show", "r1", "--store", store)
    assert shown.code == 0, shown.err
    assert "after the year 9999" in shown.out
    assert call("runs", "show", "r1", "--store", store, "--json").json["wake_at"] >= 1e11
    for words in (["runs", "ls"], ["timeline", "show", "r1"]):
        listed = call(*words, "--store", store)
        assert listed.code == 0, listed.err
