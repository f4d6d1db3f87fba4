"""Callers that go away while their commit is on its way, and stops that come meanwhile."""

import asyncio
import contextlib

import pytest
from support import ends, happens

from poundlock import Exclusive, RunStatus, SingletonLoop, StepContext, Verdict, Workflow


def held_workflow(mode=None, **options):
    """A workflow whose only step waits for `release`, and what its steps did."""
    workflow = Workflow("wf") if mode is None else Workflow("wf", mode=mode)
    workflow.on("go")
    release, did = asyncio.Event(), []
    began = asyncio.Queue()

    @workflow.step
    async def work(n: int = 0):
        did.append(("began", n))
        began.put_nowait(n)
        try:
            await release.wait()
        except asyncio.CancelledError:
            did.append(("cancelled", n))
            raise

    return workflow, release, did, began


async def gone(stores, runtime, call, hold):
    """Cancel a call once its commit is durable, before it hears of that; then let the answer go."""
    store = runtime.store
    store.hold_after = hold
    caller = asyncio.create_task(call)
    [held] = await store.until_held()
    caller.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await caller
    store.hold_after = None
    held.release()
    assert caller.cancelled()


async def test_an_emitter_that_goes_away_leaves_no_run_without_a_driver(stores):
    """What a durable admission starts is driven, also if its emitter was cancelled before it heard of it."""
    workflow, release, _, began = held_workflow()
    runtime = await stores.enter(workflow)
    await gone(stores, runtime, runtime.emit("go", n=7), lambda changes: bool(changes.creates))
    assert await began.get() == 7
    release.set()
    [run] = (await runtime.find_runs()).items
    assert (await runtime.wait(run.run_id)).status is RunStatus.COMPLETED


async def test_a_replaced_run_is_aborted_though_the_emitter_went_away(stores):
    """A run that a durable admission replaces is aborted, whoever hears of it."""
    workflow, release, did, began = held_workflow(SingletonLoop(on_busy="replace"))
    runtime = await stores.enter(workflow)
    [first] = (await runtime.emit("go", n=1)).run_ids
    await began.get()
    await gone(stores, runtime, runtime.emit("go", n=2), lambda changes: bool(changes.creates))
    assert (await runtime.wait(first)).status is RunStatus.ABORTED
    assert await began.get() == 2
    assert ("cancelled", 1) in did
    release.set()


async def test_a_superseded_run_is_told_though_the_emitter_went_away(stores):
    """Who waits for a queued run that a durable admission superseded gets its end."""
    workflow, release, _, began = held_workflow(Exclusive(on_busy="queue_single"))
    runtime = await stores.enter(workflow)
    await runtime.emit("go", n=1)
    await began.get()
    [second] = (await runtime.emit("go", n=2)).run_ids
    waiting = asyncio.create_task(runtime.wait(second))
    await gone(stores, runtime, runtime.emit("go", n=3), lambda changes: bool(changes.creates))
    assert (await waiting).status is RunStatus.ABORTED
    release.set()


async def test_a_signal_whose_sender_went_away_keeps_nothing_back(stores):
    """A durable signal reaches its run at the next boundary though its sender was cancelled, and so do later ones."""
    workflow, release, _, began = held_workflow()
    seen = []

    @workflow.step
    async def look(ctx: StepContext):
        seen.append(dict(ctx.state))

    runtime = await stores.enter(workflow)
    [run_id] = (await runtime.emit("go")).run_ids
    await began.get()
    await gone(stores, runtime, runtime.signal(run_id, {"a": 1}), lambda changes: bool(changes.posts))
    await runtime.signal(run_id, {"b": 2})
    release.set()
    await runtime.wait(run_id)
    assert seen == [{"a": 1, "b": 2}]


async def test_an_abort_whose_caller_went_away_is_done(stores):
    """A durable request to abort interrupts its run though its caller was cancelled."""
    workflow, _, did, began = held_workflow()
    runtime = await stores.enter(workflow)
    [run_id] = (await runtime.emit("go")).run_ids
    await began.get()
    await gone(stores, runtime, runtime.abort(run_id), lambda changes: bool(changes.posts))
    assert (await runtime.wait(run_id)).status is RunStatus.ABORTED
    assert ("cancelled", 0) in did


async def test_a_stop_waits_for_an_end_that_is_on_its_way(stores):
    """A run whose end is being written while the runtime stops has ended: its result is told, its hooks are called."""
    workflow, release, _, began = held_workflow()
    called = []
    runtime = await stores.enter()
    await runtime.register(workflow, on_complete=lambda result: called.append(result.status))
    [run_id] = (await runtime.emit("go")).run_ids
    await began.get()
    waiting = asyncio.create_task(runtime.wait(run_id))
    runtime.store.hold = ends
    release.set()
    [held] = await runtime.store.until_held()
    stopping = asyncio.create_task(runtime.stop(drain=0))
    runtime.store.hold = None
    held.release()
    await stopping
    assert (await waiting).status is RunStatus.COMPLETED
    assert called == [RunStatus.COMPLETED]


@pytest.mark.parametrize("drain", [0, 30])
async def test_an_event_that_was_accepted_before_a_stop_gets_its_receipt(stores, drain):
    """An event whose commit is on its way when the runtime stops is answered with what became of it."""
    workflow, release, _, _ = held_workflow()
    release.set()
    runtime = await stores.enter(workflow)
    runtime.store.hold_after = lambda changes: bool(changes.creates)
    emitting = asyncio.create_task(runtime.emit("go"))
    [held] = await runtime.store.until_held()
    stopping = asyncio.create_task(runtime.stop(drain=drain))
    assert not await happens(asyncio.shield(stopping), stores.clock)
    runtime.store.hold_after = None
    held.release()
    assert [line.verdict for line in (await emitting).lines] == [Verdict.STARTED]
    await stopping
