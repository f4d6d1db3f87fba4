"""Runs that never rest leave the loop to others: nothing they do has to be waited for in the memory store."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import Jump, StateRef, Workflow

ROUNDS = 500
"""After so many rounds a run gives up: a loop that nobody gets a turn in would hang instead of failing."""


class Feeding:
    """A loop of a step and a wait, in which each round finds its event; a second workflow waits for a turn."""

    def __init__(self):
        self.rounds = 0
        self.done = None

    def loop(self):
        wf = Workflow("loop")

        @wf.on("go")
        @wf.step
        async def work(id):
            self.rounds += 1
            if self.rounds == 3:
                self.done = asyncio.get_running_loop().create_task(self.rt.run("other"))
            if self.rounds >= ROUNDS or (self.done is not None and self.done.done()):
                return {"over": True}
            await self.rt.emit("next", id=id, number=self.rounds)
            return None

        wf.wait("next", on="next", correlate={"id": StateRef("id")})

        @wf.step
        async def behind():
            return {"behind": True}

        @wf.route(after="behind")
        def back(state):
            return None if state.get("over") else Jump("work")

        return wf

    def other(self):
        wf = Workflow("other")

        @wf.step
        async def one():
            await asyncio.sleep(0)  # noqa: TID251 - it needs several turns, as most runs do
            return {"one": True}

        @wf.step
        async def two():
            return {"two": True}

        return wf


@pytest.mark.parametrize("durability", ["stage", "async", "exit"])
async def test_a_run_that_feeds_its_own_wait_lets_others_go_on(runtime, durability):
    """Its event is always there, so it never pauses, and no limit of visits ends it: others have their turns."""
    feeding = Feeding()
    wf = feeding.loop()
    wf.durability = durability
    feeding.rt = await runtime(wf, feeding.other())
    [run_id] = (await feeding.rt.emit("go", id=1)).run_ids
    await asyncio.wait([asyncio.create_task(feeding.rt.wait(run_id, until="rest"))])
    assert feeding.done.done()
    assert feeding.rounds < ROUNDS
