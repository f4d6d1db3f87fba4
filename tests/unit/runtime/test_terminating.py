"""`conflict="terminate_existing"`: a run begins in the place of one of its id, and has nothing of that one."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from support_operators import Gate

from poundlock import (
    Children,
    Event,
    IdempotencyConflict,
    InvalidDefinition,
    Pipeline,
    RunAborted,
    RunExists,
    RunStatus,
    Stage,
    StateInvalid,
    Trigger,
    Workflow,
)
from poundlock.errors import LeaseLost, WouldDeadlock
from poundlock.model.changes import Changes, RunMove
from poundlock.testing import run_until_idle

ABORTED, COMPLETED, PAUSED, RUNNING = RunStatus.ABORTED, RunStatus.COMPLETED, RunStatus.PAUSED, RunStatus.RUNNING


def gated(gate=None, ended=None):
    """A workflow with a step that may wait, and a wait behind it."""
    wf = Workflow("wf", triggers={"go": Trigger("go")})

    @wf.step
    async def first(n: int):
        if gate is not None and n == 1:
            await gate()
        return {"first": n}

    wf.wait("gate", on="open")
    wf.step(lambda n: {"last": n}, id="last")
    return wf


def call(rt, n, **options):
    return rt.invoke("wf", None, Event("go", {"n": n}), run_id="mine", conflict="terminate_existing", **options)


async def test_there_is_none(stores):
    """Without a run of the id it is an ordinary call."""
    rt = await stores.enter(gated())
    assert (await call(rt, 1)).state == {"n": 1, "first": 1}


@pytest.mark.parametrize("state", ["running", "paused", "completed", "failed", "crashed"])
async def test_the_new_run_has_nothing_of_the_old_one(stores, state):
    """The old one is aborted if it has not ended; log, state, messages and waits are those of the new one."""
    gate, results = Gate(), []
    wf = gated(gate if state == "running" else None)
    rt = await stores.enter()
    await rt.register(wf, on_complete=results.append)
    first = asyncio.create_task(rt.invoke("wf", None, Event("go", {"n": 1}), run_id="mine", until="end"))
    await run_until_idle(stores.clock)
    if state in ("paused", "crashed"):
        await rt.signal("mine", {"stale": True})
    if state == "completed":
        await rt.emit("open")
        await first
    if state == "failed":
        await rt.abort("mine")
        await first
    if state == "crashed":
        first.cancel()
        await stores.crash(rt)
        rt = await stores.enter(gated())
    second = await call(rt, 2)
    assert (second.run_id, second.status, second.state) == ("mine", PAUSED, {"n": 2, "first": 2})
    if state in ("running", "paused"):
        assert (await first).status is ABORTED
        assert [result.status for result in results] == [ABORTED]
    timeline = await rt.timeline("mine")
    assert [entry.seq for entry in timeline.entries] == list(range(1, len(timeline.entries) + 1))
    assert timeline.types().count("run:created") == 1
    assert [info.run_id for info in (await rt.find_runs()).items] == ["mine"]
    await rt.emit("open")
    assert (await rt.wait("mine")).state == {"n": 2, "first": 2, "last": 2}
    await stores.crash(rt)
    rt = await stores.enter(gated())
    assert (await rt.wait("mine")).state == {"n": 2, "first": 2, "last": 2}


async def test_both_are_one_commit(stores):
    """A crash leaves the old run or the new one, and never none."""
    rt = await stores.enter(gated())
    await rt.invoke("wf", None, Event("go", {"n": 1}), run_id="mine")
    before = len(rt.store.written)
    await call(rt, 2)
    gone = [changes for changes in rt.store.written[before:] if changes.deletes]
    assert [(len(changes.deletes), len(changes.creates)) for changes in gone] == [(1, 1)]


async def test_nothing_of_the_old_owner_is_written_to_it(stores):
    """The new run has a higher epoch: a boundary of the old one, still under way, is refused."""
    rt = await stores.enter(gated())
    await rt.invoke("wf", None, Event("go", {"n": 1}), run_id="mine")
    old = await rt.store.load("mine")
    await call(rt, 2)
    new = await rt.store.load("mine")
    assert new.head.epoch > old.head.epoch
    late = RunMove.of(old, RunStatus.READY, now=rt.clock.now())._replace(version=new.head.version)
    with pytest.raises(LeaseLost):
        await rt.store.commit(Changes(moves=(late,), now=rt.clock.now()))


async def test_calls_at_the_same_time(stores):
    """Each begins a run in the place of the one before; one is left, and every caller gets an answer."""
    rt = await stores.enter(gated())
    results = await asyncio.gather(*(call(rt, n) for n in range(2, 6)))
    assert {result.run_id for result in results} == {"mine"}
    assert {str(result.status) for result in results} <= {"aborted", "paused"}
    assert (await rt.get_run("mine")).status is PAUSED


async def test_a_step_that_does_not_react(stores):
    """A step that swallows its cancellation for ever keeps no caller waiting: the run in its place begins."""
    inside, free = asyncio.Event(), asyncio.Event()
    wf = Workflow("wf", triggers={"go": Trigger("go")})

    @wf.step
    async def work(n: int):
        inside.set()
        while n == 1 and not free.is_set():
            with suppress(asyncio.CancelledError):
                await free.wait()
        return {"done": n}

    rt = await stores.enter(wf)
    first = asyncio.ensure_future(rt.invoke("wf", None, Event("go", {"n": 1}), run_id="mine"))
    await inside.wait()
    assert (await call(rt, 2)).state == {"n": 2, "done": 2}
    free.set()
    with suppress(RunAborted):
        await first
    await run_until_idle(stores.clock)
    assert (await rt.get_run("mine", state=True)).state == {"n": 2, "done": 2}


async def test_with_an_idempotency_key(stores):
    """The same call again returns the run of the first one, and terminates nothing; another request is refused."""
    rt = await stores.enter(gated())
    await rt.invoke("wf", None, Event("go", {"n": 1}), run_id="mine")
    first = await call(rt, 2, idempotency_key="k")
    assert first.state["n"] == 2
    again = await call(rt, 2, idempotency_key="k")
    assert again.state == first.state
    assert (await rt.timeline("mine")).types().count("run:created") == 1
    with pytest.raises(IdempotencyConflict):
        await call(rt, 3, idempotency_key="k")
    assert (await rt.get_run("mine")).status is PAUSED
    assert (await call(rt, 3, idempotency_key="other")).state["n"] == 3
    assert (await call(rt, 2, idempotency_key="k")).state["n"] == 2  # the key went with its run


async def test_a_call_that_is_refused_terminates_nothing(stores):
    """What cannot begin a run, and a word that is none, leave the old one as it is."""
    from pydantic import BaseModel

    class Strict(BaseModel):
        n: int

    wf = Workflow("wf", state=Strict, triggers={"go": Trigger("go")})
    wf.wait("gate", on="open")
    rt = await stores.enter(wf)
    await call(rt, 1)
    with pytest.raises(StateInvalid):
        await rt.invoke("wf", None, Event("go", {"n": "many"}), run_id="mine", conflict="terminate_existing")
    with pytest.raises(InvalidDefinition, match="'terminate_existing'"):
        await rt.invoke("wf", None, Event("go", {"n": 2}), run_id="mine", conflict="terminate")
    assert (await rt.get_run("mine", state=True)).state.n == 1
    assert (await rt.get_run("mine")).status is PAUSED


async def test_its_own_run(stores):
    """A step that would terminate its own run is refused at once, in place of waiting for ever."""
    refused = []
    wf = Workflow("wf", triggers={"go": Trigger("go")})
    holder = {}

    @wf.step
    async def own(n: int):
        try:
            await call(holder["rt"], 2)
        except WouldDeadlock as error:
            refused.append(error.code)
        return {"done": n}

    holder["rt"] = rt = await stores.enter(wf)
    result = await rt.invoke("wf", None, Event("go", {"n": 1}), run_id="mine")
    assert (result.status, result.state["done"]) == (COMPLETED, 1)
    assert refused == ["WOULD_DEADLOCK"]


async def test_a_child_that_its_parent_waits_for(stores):
    """It is not terminated by its id: its parent would wait for a run that is not its child."""
    parent = Workflow("parent", pipelines=[Pipeline("main", [Stage("below", children=Children(workflow="wf"))])])
    rt = await stores.enter(gated(), parent)
    above = await rt.run("parent", n=1)
    [child] = [info.run_id for info in (await rt.find_runs("wf")).items]
    with pytest.raises(RunExists, match="is a child of run"):
        await rt.invoke("wf", None, Event("go", {"n": 2}), run_id=child, conflict="terminate_existing")
    await rt.emit("open")
    assert (await rt.wait(above.run_id)).status is COMPLETED


async def test_it_undoes_what_it_has_done(stores):
    """The old run is aborted as by `abort`: with `undo_on_abort` its stages are undone before the new one begins."""
    told = []
    wf = Workflow("wf", triggers={"go": Trigger("go")}, undo_on_abort=True)
    wf.step(lambda n: told.append(f"do {n}"), id="first", undo=lambda n: told.append(f"undo {n}"))
    wf.wait("gate", on="open")
    rt = await stores.enter(wf)
    await call(rt, 1)
    await call(rt, 2)
    assert told == ["do 1", "undo 1", "do 2"]
