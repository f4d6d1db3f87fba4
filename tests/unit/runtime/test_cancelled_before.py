"""Look-ups of the runtime that other code cancels: the runs that depend on them are driven all the same."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import Pause, Pipeline, Stage, Step, Wait, Workflow, WorkflowRuntime
from poundlock.testing import run_until_idle


@pytest.mark.parametrize("how", ["before it begins", "while it reads"])
async def test_a_checkpoint_that_is_being_read(vclock, tmp_path, how):
    """A resumed run whose checkpoint is being read is read again if that task is cancelled."""

    async def step():
        return {"done": True}

    stages = [Stage("one", router=Pause(Wait("continue"))), Stage("two", [Step("step", step)])]
    wf = Workflow("wf", pipelines=[Pipeline("main", stages)])
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    async with WorkflowRuntime(wf, store=store, clock=vclock, pause_window=0) as rt:
        run = await rt.run("wf")
        before = asyncio.all_tasks()
        [line] = await rt.emit("continue")
        assert line.verdict == "resumed"
        [reading] = asyncio.all_tasks() - before
        if how == "while it reads":
            begun = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(begun.set_result, None)
            await begun
        reading.cancel()
        await run_until_idle(vclock)
        assert (await rt.get_run(run.run_id)).status == "completed"
