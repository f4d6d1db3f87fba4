"""Following a run by its rows alone."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import RunNotFound, Workflow
from poundlock.cli.tailing import EVERY, tail
from poundlock.testing import run_until_idle


def waiting():
    wf = Workflow("w")
    wf.on("begin")
    wf.wait("answer", on="answered")

    @wf.step
    def last():
        return {"c": 3}

    return wf


async def test_until_the_end(stores):
    """What was comes, then what comes, each entry once, until the run ends; a run that pauses is looked at again."""
    rt = await stores.enter(waiting())
    run_id = (await rt.emit("begin")).run_ids[0]
    await rt.wait(run_id, until="rest")
    got = []

    async def follow():
        got.extend([entry async for entry in tail(rt.store, run_id, stores.clock)])

    task = asyncio.create_task(follow())
    await stores.clock.run_for(10 * EVERY)
    assert not task.done()
    await rt.emit("answered")
    await task
    assert got == list((await rt.timeline(run_id)).entries)


async def test_in_portions(stores):
    """A log that is longer than one portion comes whole."""
    wf = Workflow("loop")
    wf.on("begin")

    @wf.step(then="go")
    def go(n: int = 0):
        from poundlock import Terminate

        return Terminate("done") if n == 700 else {"n": n + 1}

    rt = await stores.enter(wf)
    run = await rt.run("loop", {})
    got = [entry async for entry in tail(rt.store, run.run_id, stores.clock)]
    assert got == list((await rt.timeline(run.run_id)).entries)


async def test_a_run_that_is_not_there(stores):
    """An unknown run is an error."""
    rt = await stores.enter(waiting())
    with pytest.raises(RunNotFound):
        await anext(tail(rt.store, "nobody", stores.clock))
    await run_until_idle(stores)
