"""Runs that end, and are deleted by their store, while somebody asks for their result."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import Pause, Pipeline, RunNotFound, RunStatus, Stage, Step, Trigger, Wait, Workflow, WorkflowRuntime
from poundlock.stores.memory import MemoryStore


class SlowStore(MemoryStore):
    """Keeps one ended run, and takes its time for one kind of read."""

    def __init__(self, slow):
        super().__init__(keep=1)
        self.slow = slow
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def status(self, run_id):
        await self._wait("status")
        return await super().status(run_id)

    async def checkpoint(self, run_id):
        await self._wait("checkpoint")
        return await super().checkpoint(run_id)

    async def _wait(self, read):
        if read == self.slow and not self.go_on.is_set():
            self.asked.set()
            await self.go_on.wait()


def workflow():
    async def step():
        return None

    stages = [Stage("begin", [], router=Pause(Wait("ok"))), Stage("end", [Step("end", step)])]
    return Workflow("w", triggers={"go": Trigger("go")}, pipelines=[Pipeline("main", stages)])


@pytest.mark.parametrize("slow", ["status", "checkpoint"])
async def test_who_waited_before_a_run_ended_gets_its_result(slow):
    """The result is in memory when the store says that there is no such run any more."""
    store = SlowStore(slow)
    async with WorkflowRuntime(workflow(), store=store, pause_window=0) as rt:
        receipt = await rt.emit("go")
        [run] = await receipt.results()
        store.go_on.clear()
        asked = asyncio.ensure_future(receipt.results())
        await store.asked.wait()
        store.slow = None
        for _ in range(3):
            assert await rt.resume(run.run_id)
            await rt.wait(run.run_id)
            [run] = await (await rt.emit("go")).results()
        store.go_on.set()
        [ended] = await asked
        assert (ended.run_id, ended.status) == (receipt.run_ids[0], RunStatus.COMPLETED)
        with pytest.raises(RunNotFound):
            await rt.wait(ended.run_id)
