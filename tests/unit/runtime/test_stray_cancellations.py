"""A run goes on, whatever other code does to its task while a commit of the run is on its way."""

from __future__ import annotations

import asyncio

import pytest
from support import ends

from poundlock import Workflow
from poundlock.errors import StoreUnavailable
from poundlock.runtime.runs import ensure_written


def two_steps(first=None):
    """Two steps; the first one waits for the gate, if there is one."""
    wf = Workflow("w")

    @wf.step(stage="one")
    async def one():
        if first is not None:
            await first()
        return {"one": 1}

    @wf.step(stage="two")
    async def two():
        return {"two": 2}

    wf.on("begin")
    return wf


def creates(changes):
    """Whether a commit creates a run."""
    return bool(changes.creates)


def task_of(rt):
    [live] = rt._core.runs.all_driven()
    return live.task


async def test_the_answer_to_the_first_boundary_is_lost(stores):
    """A run that its first boundary stored goes on, though its task was cancelled before it heard of that."""
    rt = await stores.enter(two_steps())
    rt.store.hold_after = creates
    running = asyncio.create_task(rt.run("w", {}))
    [held] = await rt.store.until_held()
    rt.store.hold_after = None
    task_of(rt).cancel()
    await stores.clock.run_until_idle()
    held.release()
    result = await running
    assert (result.status, result.state) == ("completed", {"one": 1, "two": 2})
    assert len(rt._core.runs) == 0


async def test_nothing_is_kept_of_a_run_that_was_not_stored(stores):
    """A run that is cancelled before its first commit reaches the store is over, and its caller hears so."""
    rt = await stores.enter(two_steps())
    rt.store.hold = creates
    running = asyncio.create_task(rt.run("w", {}))
    await rt.store.until_held()
    task_of(rt).cancel()
    with pytest.raises(Exception, match="before it was stored"):
        await running
    assert ((await rt.find_runs()).items, len(rt._core.runs)) == ([], 0)


@pytest.mark.parametrize("where", ["hold", "hold_after"])
async def test_a_message_stores_a_run_whose_task_is_cancelled(stores, gate, where):
    """A message has a new run stored; the run goes on, though its task was cancelled while it waited for that."""
    rt = await stores.enter(two_steps(gate))
    setattr(rt.store, where, creates)
    running = asyncio.create_task(rt.run("w", {}))
    await stores.clock.run_until_idle()
    live = rt._core.runs.all_driven()[0]
    signalled = asyncio.create_task(rt.signal(live.run.identity.run_id, {"said": True}))
    [held] = await rt.store.until_held()
    rt.store.hold = rt.store.hold_after = None
    gate.open()
    await stores.clock.run_until_idle()
    live.task.cancel()
    await stores.clock.run_until_idle()
    held.release()
    await signalled
    result = await running
    assert (result.status, result.state) == ("completed", {"one": 1, "said": True, "two": 2})
    assert len(rt._core.runs) == 0


async def test_a_run_that_is_aborted_is_cancelled_by_others_too(stores, gate):
    """The end of an aborted run is written, though its task was cancelled while it was about to write it."""
    rt = await stores.enter(two_steps(gate))
    [run_id] = (await rt.emit("begin", {})).run_ids
    await stores.clock.run_until_idle()
    rt.store.hold = ends
    await rt.abort(run_id)
    await rt.store.until_held()
    rt.store.hold = None
    task_of(rt).cancel()
    assert (await rt.wait(run_id, 60)).status == "aborted"
    assert len(rt._core.runs) == 0


@pytest.mark.parametrize("last", [False, True], ids=["boundary", "end"])
async def test_a_repeated_creation_waits_for_that_of_a_message(stores, gate, last):
    """A run whose first commit failed is not created a second time while a message has it stored."""
    wf = two_steps(gate)
    if last:
        wf = Workflow("w")

        @wf.step
        async def one():
            await gate()
            return {"one": 1, "two": 2}

    rt = await stores.enter(wf)
    running = asyncio.create_task(rt.run("w", {}))
    await stores.clock.run_until_idle()
    stores.clock.autojump = False
    run_id = rt._core.runs.all_driven()[0].run.identity.run_id
    rt.store.failing = lambda _number, changes: StoreUnavailable("for a moment") if creates(changes) else None
    gate.open()
    await stores.clock.run_until_idle()
    rt.store.failing = lambda _number, _changes: None
    rt.store.hold_after = creates
    signalled = asyncio.create_task(rt.signal(run_id, {"said": True}))
    [held] = await rt.store.until_held()
    rt.store.hold_after = None
    stores.clock.advance(1)
    await stores.clock.run_until_idle()
    held.release()
    stores.clock.autojump = True
    await signalled
    result = await running
    assert (result.status, result.state) == ("completed", {"one": 1, "said": True, "two": 2})
    assert len(rt._core.runs) == 0


async def test_the_first_commit_waits_for_every_creation(stores, gate):
    """A run that ends before its first boundary waits for each message that has it stored, also after one failed."""
    wf = Workflow("w")

    @wf.step
    async def only():
        await gate()
        return {"only": 1}

    rt = await stores.enter(wf)
    running = asyncio.create_task(rt.run("w", {}))
    await stores.clock.run_until_idle()
    [live] = rt._core.runs.all_driven()
    rt.store.hold = creates
    first = asyncio.create_task(ensure_written(rt._core, live))
    [held] = await rt.store.until_held()
    second = []
    live.creation.add_done_callback(lambda _: second.append(asyncio.create_task(ensure_written(rt._core, live))))
    gate.open()
    await stores.clock.run_until_idle()
    held.fail(StoreUnavailable("for a moment"))
    [held] = await rt.store.until_held()
    rt.store.hold = None
    held.release()
    result = await running
    assert (result.status, result.state) == ("completed", {"only": 1})
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], StoreUnavailable)
    await asyncio.gather(*second)
    assert (await rt.get_run(result.run_id)).status == "completed"


async def test_a_run_that_is_given_up_may_be_stored_by_a_message(stores):
    """A caller hears of a lasting fault of the store; if a message has the run stored nevertheless, the run goes on."""
    rt = await stores.enter(two_steps())
    stores.clock.autojump = False
    rt.store.failing = lambda _number, changes: StoreUnavailable("for long") if creates(changes) else None
    running = asyncio.create_task(rt.run("w", {}))
    await stores.clock.run_until_idle()
    [live] = rt._core.runs.all_driven()
    run_id = live.run.identity.run_id
    stores.clock.advance(31)
    rt.store.failing = lambda _number, _changes: None
    rt.store.hold = creates
    [last] = await rt.store.until_held()
    signalled = asyncio.create_task(rt.signal(run_id, {"said": True}))
    _, creation = await rt.store.until_held(2)
    rt.store.hold = None
    last.fail(StoreUnavailable("for long"))
    with pytest.raises(StoreUnavailable):
        await running
    creation.release()
    await signalled
    result = await rt.wait(run_id)
    assert (result.status, result.state) == ("completed", {"one": 1, "said": True, "two": 2})
    assert len(rt._core.runs) == 0
