"""Look-ups of the runtime that other code cancels: the runs that depend on them are driven all the same."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import Pause, Pipeline, Stage, Step, Wait, Workflow, WorkflowRuntime
from poundlock.stores import MemoryStore
from poundlock.testing import run_until_idle


class SlowStore(MemoryStore):
    """A store that says when a checkpoint is being read, and answers once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def checkpoint(self, run_id):
        self.reading.set()
        await self.may_answer.wait()
        return await super().checkpoint(run_id)


@pytest.mark.parametrize("how", ["at once", "while it reads"])
async def test_a_checkpoint_that_is_being_read(vclock, how):
    """A resumed run whose checkpoint is being read is read again if that task is cancelled."""

    async def step():
        return {"done": True}

    stages = [Stage("one", router=Pause(Wait("continue"))), Stage("two", [Step("step", step)])]
    wf = Workflow("wf", pipelines=[Pipeline("main", stages)])
    store = SlowStore()
    async with WorkflowRuntime(wf, store=store, clock=vclock, pause_window=0) as rt:
        run = await rt.run("wf")
        [line] = await rt.emit("continue")
        assert line.verdict == "resumed"
        reading = rt._core.runs.vacancy(run.run_id).task
        if how == "while it reads":
            await store.reading.wait()
        assert reading.cancel()
        store.may_answer.set()
        await run_until_idle(vclock)
        assert reading.cancelled()
        assert (await rt.get_run(run.run_id)).status == "completed"
