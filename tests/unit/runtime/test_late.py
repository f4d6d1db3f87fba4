"""Waiting in vain: the error says which run it is, what it does, where it is, and what to do."""

from __future__ import annotations

import asyncio

import pytest
from support import happens

from poundlock import Delay, Serialized, Workflow
from poundlock.testing import run_until_idle


async def begin(rt, kind="begin", **fields):
    [line] = (await rt.emit(kind, **fields)).lines
    return line.run_id


async def late(rt, clock, run_id, until="end"):
    """Wait for a run in vain, and return what the error says."""
    waiting = asyncio.create_task(rt.wait(run_id, 5, until=until))
    await clock.run_for(seconds=6)
    with pytest.raises(TimeoutError) as error:
        await waiting
    assert str(error.value).startswith(f"run '{run_id}' ")
    return str(error.value)


def steps(gate, **options):
    wf = Workflow("w", **options)
    wf.on("begin")

    @wf.step
    async def load():
        await gate()

    return wf


@pytest.mark.parametrize("until", ["rest", "end"])
async def test_a_running_one(stores, gate, until):
    """Of a run that is running it says in which stage."""
    rt = await stores.enter(steps(gate))
    run_id = await begin(rt)
    said = await late(rt, stores.clock, run_id, until)
    missed = "has not ended" if until == "end" else "is neither paused nor ended"
    assert said == (
        f"run '{run_id}' {missed} within 5 s: it is running in stage 'load'; it continues: wait again, or abort it"
    )
    gate.open()


@pytest.mark.parametrize("until", ["rest", "end"])
async def test_a_queued_one(stores, gate, until):
    """A queued run is not at rest; it waits for a slot of its workflow."""
    rt = await stores.enter(steps(gate, mode=Serialized()))
    await begin(rt)
    said = await late(rt, stores.clock, await begin(rt), until)
    assert "it is queued until workflow 'w' has a free slot; it continues" in said
    gate.open()


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_paused_one(stores, forgotten):
    """Of a paused run it says at which wait, and for which events; so also of one that only its row is left of."""
    wf = Workflow("w")
    wf.on("begin")
    wf.wait("answer", on=["yes", "no"])
    rt = await stores.enter(wf)
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    if forgotten:
        await stores.clock.run_for(minutes=5)
    said = await late(rt, stores.clock, run_id)
    assert "it is paused at wait 'answer' for yes or no; answer it, wait again, or abort it" in said


async def test_one_that_is_paused_because_it_failed(stores):
    """It says where it failed, and why."""
    wf = Workflow("w", on_failure="pause")
    wf.on("begin")

    @wf.step
    def load():
        raise ValueError("no header")

    rt = await stores.enter(wf)
    run_id = await begin(rt)
    said = await late(rt, stores.clock, run_id)
    assert "it is paused because stage 'load' failed" in said
    assert "answer it, wait again, or abort it" in said


@pytest.mark.parametrize("until", ["rest", "end"])
async def test_a_delayed_one(stores, until):
    """A delayed run is not at rest; it says until when."""
    wf = Workflow("w")
    wf.on("begin")
    wf.step(lambda: None, id="work")
    wf.route(Delay("1h"), after="work")
    wf.step(lambda: None, id="later")
    rt = await stores.enter(wf)
    said = await late(rt, stores.clock, await begin(rt), until)
    assert "it is delayed until 2026-01-01T01:00:00" in said


@pytest.mark.parametrize("until", ["rest", "end"])
async def test_a_ready_one(stores, gate, until):
    """A run that nobody has taken is not at rest; it says whose workflow is missing."""
    rt = await stores.enter(steps(gate))
    run_id = await begin(rt)
    await run_until_idle(stores)
    await rt.stop(drain=0)
    rt = await stores.enter()
    said = await late(rt, stores.clock, run_id, until)
    assert "it is ready, and no runtime with workflow 'w' has taken it yet" in said


async def test_several(stores, gate):
    """`results` names those that are late, and no other; of many only the first ones."""
    quick = Workflow("quick")
    quick.on("begin")
    quick.step(lambda: None, id="only")
    rt = await stores.enter(quick, steps(gate))
    receipt = await rt.emit("begin")
    waiting = asyncio.create_task(receipt.results(5))
    await stores.clock.run_for(seconds=6)
    with pytest.raises(TimeoutError) as error:
        await waiting
    [slow] = [line.run_id for line in receipt.lines if line.workflow_id == "w"]
    assert str(error.value) == (
        f"not all of 2 runs paused or ended within 5 s: run '{slow}' is running in stage 'load'; "
        f"they continue: wait again, or abort them"
    )
    gate.open()


async def test_a_store_that_does_not_answer(stores, gate):
    """The error comes all the same, a moment later: it does not wait for what it would say."""
    rt = await stores.enter(steps(gate, mode=Serialized()))
    await begin(rt)
    run_id = await begin(rt)
    waiting = asyncio.create_task(rt.wait(run_id, 5))
    await run_until_idle(stores)
    never = asyncio.Event()

    async def load(_run_id):
        await never.wait()

    rt.store.load = load
    await stores.clock.run_for(seconds=10)
    assert await happens(asyncio.wait([waiting]), stores.clock)
    with pytest.raises(TimeoutError, match="could not be read; it continues"):
        await waiting
    del rt.store.load
    gate.open()


@pytest.mark.parametrize("read", ["status", "checkpoint"])
async def test_a_store_that_hangs_before_the_wait(stores, read):
    """The timeout also counts while the store is asked how the run is."""
    wf = Workflow("w")
    wf.on("begin")
    wf.step(lambda: None, id="only")
    rt = await stores.enter(wf)
    run_id = await begin(rt)
    await rt.wait(run_id)
    never = asyncio.Event()

    async def hanging(_run_id):
        await never.wait()

    setattr(rt.store, read, hanging)
    said = await late(rt, stores.clock, run_id)
    assert "it is completed by now; wait again for its result" in said


async def test_from_any_task(stores, gate):
    """Many tasks wait for one run, some until it rests and some until it ends; each gets its own answer."""
    wf = Workflow("w")
    wf.on("begin")
    wf.wait("answer", on="answered")
    wf.step(gate, id="last")
    rt = await stores.enter(wf)
    run_id = await begin(rt)
    rest = [asyncio.create_task(rt.wait(run_id, until="rest")) for _ in range(20)]
    end = [asyncio.create_task(rt.wait(run_id)) for _ in range(20)]
    assert {(await each).status for each in rest} == {"paused"}
    await rt.emit("answered")
    again = asyncio.create_task(rt.wait(run_id, until="rest"))
    await run_until_idle(stores)
    assert not again.done()
    gate.open()
    assert {(await each).status for each in (*end, again)} == {"completed"}
