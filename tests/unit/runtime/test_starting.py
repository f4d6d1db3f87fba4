"""`start` and `stop` beside `async with`: one meaning, however they are mixed."""

from __future__ import annotations

import asyncio

import pytest
from support import GatedStore

from poundlock import InvalidDefinition, Stage, Workflow, WorkflowRuntime
from poundlock.errors import RuntimeStopped, StoreUnavailable, WrongLoop
from poundlock.model.definitions import Pipeline
from poundlock.stores import MemoryStore


def greeter() -> Workflow:
    wf = Workflow("hello")

    @wf.on("greet")
    @wf.step
    async def greet(name: str):
        return {"text": f"Hello {name}"}

    return wf


async def runs(rt) -> bool:
    return (await rt.run("hello", name="Ada")).state["text"] == "Hello Ada"


async def test_start_and_stop_do_what_a_block_does(any_store, vclock):
    """After `start` the workflows are registered and the store is open; after `stop` nothing is taken any more."""
    rt = WorkflowRuntime(greeter(), store=any_store, clock=vclock)
    with pytest.raises(RuntimeStopped, match="start"):
        await rt.run("hello", name="Ada")
    assert await rt.start() is rt
    assert rt.list_workflows() == ["hello"]
    assert await runs(rt)
    await rt.stop()
    with pytest.raises(RuntimeStopped):
        await rt.run("hello", name="Ada")


async def test_starting_twice_does_nothing_more(vclock):
    """The second start, also one that comes while the first is under way, ends with it and changes nothing."""
    rt = WorkflowRuntime(greeter(), clock=vclock)
    assert await asyncio.gather(rt.start(), rt.start(), rt.start()) == [rt] * 3
    await rt.start()
    assert rt.list_workflows() == ["hello"]
    assert await runs(rt)
    await rt.stop()
    await rt.stop()


async def test_a_block_around_a_started_runtime_stops_it(vclock):
    """`start` and then `async with` is one runtime: leaving the block stops it."""
    rt = WorkflowRuntime(greeter(), clock=vclock)
    await rt.start()
    async with rt as same:
        assert same is rt
        await rt.start()
        assert await runs(rt)
    with pytest.raises(RuntimeStopped):
        await rt.run("hello", name="Ada")


@pytest.mark.parametrize("way", ["start", "block"])
async def test_a_stopped_runtime_is_not_started_again(vclock, way):
    """Both ways raise RuntimeStopped and say to make a new one."""
    rt = WorkflowRuntime(greeter(), clock=vclock)
    async with rt:
        pass
    with pytest.raises(RuntimeStopped, match="make a new one"):
        await (rt.start() if way == "start" else rt.__aenter__())


async def test_starting_while_it_stops_is_refused(vclock, gate):
    """A runtime that lets its runs reach a boundary is on its way out."""
    came = asyncio.Event()
    wf = Workflow("slow")

    @wf.step
    async def hold():
        came.set()
        await gate()

    rt = await WorkflowRuntime(wf, clock=vclock).start()
    running = asyncio.ensure_future(rt.run("slow"))
    await came.wait()
    stopping = asyncio.ensure_future(rt.stop())
    await asyncio.sleep(0)  # noqa: TID251 - lets the stop begin in its own task
    with pytest.raises(RuntimeStopped):
        await rt.start()
    gate.open()
    await stopping
    await asyncio.wait([running])
    running.exception()


@pytest.mark.parametrize("fault", ["workflow", "store"])
async def test_a_start_that_fails_fails_for_all_who_wait_for_it(vclock, fault):
    """Who started it gets the fault; who waited for that start, or tries again, hears that it is stopped."""
    store = GatedStore(MemoryStore())
    wf = greeter()
    if fault == "store":

        async def refuse(worker):
            raise StoreUnavailable("gone")

        store.open = refuse
    else:
        wf = Workflow("bad", pipelines=[Pipeline("main", [Stage("one", router="nowhere")])])
    rt = WorkflowRuntime(wf, store=store, clock=vclock)
    first, second = await asyncio.gather(rt.start(), rt.start(), return_exceptions=True)
    assert isinstance(first, StoreUnavailable if fault == "store" else InvalidDefinition)
    assert isinstance(second, RuntimeStopped)
    with pytest.raises(RuntimeStopped):
        await rt.start()
    await rt.stop()


def test_another_loop_is_refused(vclock):
    """A runtime that runs belongs to its loop, also when it is started again."""

    async def begin(rt):
        return await rt.start()

    with asyncio.Runner() as first:
        rt = WorkflowRuntime(greeter())
        first.run(begin(rt))
        with asyncio.Runner() as second, pytest.raises(WrongLoop):
            second.run(begin(rt))
        first.run(rt.stop())
