"""A run that is retried while it is about to be deleted: one of the two wins, and the other notices."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import Children, Pipeline, RunNotFound, Stage, Step, Trigger, Workflow
from poundlock.testing import run_until_idle


def flow(broken):
    wf = Workflow("w")

    @wf.step
    async def work():
        if broken:
            raise ValueError("broken")

    return wf


def deletes(changes):
    return bool(changes.deletes)


def revives(changes):
    return any(move.status == "ready" for move in changes.moves)


async def failed(stores, broken):
    """Return a runtime with a run that failed a day ago."""
    stores.clock.autojump = False
    rt = await stores.enter(flow(broken))
    run = await rt.run("w")
    assert run.status == "failed"
    broken.clear()
    await stores.clock.run_for(days=1)
    return rt, run.run_id


async def test_a_retry_before_the_deletion(stores):
    """The deletion names the version it has read: a run that goes on meanwhile stays."""
    rt, run_id = await failed(stores, [True])
    rt.store.hold = deletes
    deleting = asyncio.create_task(rt.vacuum(older_than="1h"))
    [held] = await rt.store.until_held()
    await rt.retry(run_id)
    assert (await rt.wait(run_id)).status == "completed"
    rt.store.hold = None
    held.release()
    assert (await deleting).runs == 0
    assert (await rt.get_run(run_id)).status == "completed"


async def test_a_deletion_before_the_retry(stores):
    """The retry of a run that is deleted meanwhile is refused as that of an unknown run, and nothing comes back."""
    rt, run_id = await failed(stores, [True])
    rt.store.hold = revives
    retrying = asyncio.create_task(rt.retry(run_id))
    [held] = await rt.store.until_held()
    assert (await rt.vacuum(older_than="1h")).runs == 1
    rt.store.hold = None
    held.release()
    with pytest.raises(RunNotFound):
        await retrying
    await run_until_idle(stores.clock)
    with pytest.raises(RunNotFound):
        await rt.get_run(run_id)


async def test_a_limit_leaves_no_child_behind(stores):
    """The children of a deleted run go with it, whatever the limit: nothing would ever delete them later."""
    stores.clock.autojump = False
    child = Pipeline("child", [Stage("c", [Step("c", lambda: None)])])
    stages = [Stage("kids", children=Children(["child"], over="items"))]
    wf = Workflow("w", triggers={"t": Trigger("go", pipeline="main")}, pipelines=[Pipeline("main", stages), child])
    rt = await stores.enter(wf)
    [run_id] = (await rt.emit("go", items=[1, 2, 3])).run_ids
    await run_until_idle(stores.clock)
    assert (await rt.wait(run_id)).ok
    await stores.clock.run_for(days=1)
    done = await rt.vacuum(older_than="1h", limit=1)
    assert (done.runs, done.children) == (4, 3)
    assert (await rt.find_runs()).items == []
