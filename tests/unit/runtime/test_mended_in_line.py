"""Runs that are mended obey the mode of their workflow: they wait in line, before what is queued."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import Serialized, Workflow
from poundlock.testing import run_until_idle


@pytest.mark.parametrize("crash", [False, True], ids=["", "crash"])
@pytest.mark.parametrize("way", ["retry", "rerun", "fork"])
async def test_a_mended_run_waits_for_a_slot(stores, way, crash):
    """While another run is active it is not begun; when that has ended it comes before what was queued earlier."""
    broken, free, order = [True], asyncio.Event(), []
    wf = Workflow("w", mode=Serialized())
    wf.on("go")

    @wf.step
    async def work(n: int):
        order.append(n)
        if n == 1 and broken:
            raise ValueError("broken")
        if n == 2:
            await free.wait()

    rt = await stores.enter(wf)
    [first] = (await rt.emit("go", n=1)).run_ids
    assert (await rt.wait(first)).status == "failed"
    active, queued = [(await rt.emit("go", n=n)).run_ids[0] for n in (2, 3)]
    broken.clear()
    mend = {"retry": rt.retry, "rerun": rt.rerun, "fork": rt.fork}[way]
    info = await (mend(first) if way == "retry" else mend(first, "work"))
    await run_until_idle(stores.clock)
    assert order == [1, 2]
    assert (await rt.get_run(info.run_id)).status == "ready"
    if crash:
        await stores.crash(rt)
        rt = await stores.enter(wf)
        await run_until_idle(stores.clock)
    free.set()
    for run_id in (active, info.run_id, queued):
        assert (await rt.wait(run_id)).status == "completed"
    assert order == [1, 2, *([2] if crash else []), 1, 3]
    [(load, _)] = await rt.store.read_loads([("w", "")])
    assert load.idle
