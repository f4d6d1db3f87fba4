"""Workflows for the tests of operator pauses."""

from __future__ import annotations

import asyncio

from poundlock import Pause, Pipeline, Stage, Step, Trigger, Wait, Workflow


class Gate:
    """A step that tells when it began, and waits until it is let on."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self):
        self.begun.set()
        await self.open.wait()
        return {"gate": True}


def two_stages(gate, ran=None, **options):
    """A workflow whose first stage waits for the gate, and whose second one notes that it ran."""
    wf = Workflow("w", **options)

    @wf.on("begin")
    @wf.step
    async def first():
        return await gate()

    @wf.step
    async def second():
        if ran is not None:
            ran.append("second")
        return {"second": True}

    return wf


def waiting(timeout=None, on_timeout="fail", after=None, **options):
    """A workflow that waits for `go` between two stages."""

    async def start():
        return {"n": 1}

    async def finish(ctx):
        if after is not None:
            after.append(ctx.resume.reason)
        return {"why": ctx.resume.reason}

    stages = [
        Stage("first", [Step("first", start)]),
        Stage("gate", router=Pause(Wait("go", timeout=timeout, on_timeout=on_timeout))),
        Stage("after", [Step("after", finish)]),
    ]
    return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)], **options)


async def begun(rt, **fields):
    receipt = await rt.emit("begin", **fields)
    return receipt.run_ids[0]


async def in_step(stores, gate, workflow, **options):
    """Return a runtime and the id of a run that is in the step of this workflow which waits for the gate."""
    rt = await stores.enter(workflow, **options)
    run_id = await begun(rt)
    await gate.begun.wait()
    return rt, run_id
