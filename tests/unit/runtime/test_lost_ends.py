"""An end without a driver is announced, once, also if it was written and the store's answer was lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from support import ends, parks

from poundlock import Event, Exclusive, Pause, Serialized, SingletonLoop, Transient, Wait, Workflow
from poundlock.errors import RunFinished, StoreUnavailable
from poundlock.testing import run_until_idle


def flow(gate, mode, timeout=None, *, waits=False):
    limit = {"timeout": timeout, "on_timeout": "abort"} if timeout else {}
    wf = Workflow("w", mode=mode, **limit)
    wf.on("go")
    if waits:
        wf.wait("answer", on="answered")

    @wf.step
    async def work():
        with suppress(asyncio.CancelledError):  # its slot is not free at once when its time is over
            await gate.wait()
        await gate.wait()

    return wf


CASES = {
    "superseded": (Exclusive(on_busy="queue_single"), None, False),
    "replaced": (SingletonLoop("replace"), None, True),
    "timeout": (Serialized(), "10s", False),
    "queued": (Serialized(), None, False),
    "paused": (Serialized(), None, True),
}


@pytest.mark.parametrize("written", [True, False], ids=["written", "not-written"])
@pytest.mark.parametrize("case", CASES)
async def test_an_end_without_an_answer(stores, case, written):
    """The waiter gets its result and the hooks are called once, whether or not the commit was written, and retried."""
    mode, timeout, waits = CASES[case]
    gate, calls, store = asyncio.Event(), [], stores.store()
    rt = await stores.enter(store=store)
    await rt.register(flow(gate, mode, timeout, waits=waits), on_complete=lambda result: calls.append(result.run_id))
    await rt.emit(Event("go", {}, id="1"))
    if not waits:
        await rt.emit(Event("go", {}, id="2"))
    await run_until_idle(stores.clock)
    status = "paused" if waits else "queued"
    [run_id] = [info.run_id for info in (await rt.find_runs()).items if str(info.status) == status]
    waiter = asyncio.ensure_future(rt.wait(run_id, until="end"))

    def its_end(changes):
        return any(move.run_id == run_id and move.status.terminal for move in changes.moves)

    async def act():
        if case in ("queued", "paused"):
            await rt.abort(run_id)
        elif case != "timeout":
            await rt.emit(Event("go", {}, id="3"))

    setattr(store, "hold_after" if written else "hold", its_end)
    acting = asyncio.ensure_future(act())
    if case == "timeout":
        stores.clock.advance(11)
    await store.until_held()
    store.hold = store.hold_after = None
    store.held[0].fail(StoreUnavailable("away"))
    if case == "timeout":
        await acting
    else:
        with pytest.raises(StoreUnavailable):
            await acting
        with suppress(RunFinished):
            await act()
    if written:
        await run_until_idle(stores.clock)
        assert waiter.done()
    result = await waiter
    assert result.run_id == run_id
    assert str(result.status) == "aborted"
    await run_until_idle(stores.clock)
    assert calls.count(run_id) == 1
    assert rt._core.lost_ends == {}
    gate.set()


# ------------------------------------------------------------------------------------------------ of a driven run
def steps(ran, how, mode, gate, **options):
    """Runs that complete, fail, or pause, one after another; the first one waits for the gate."""
    wf = Workflow("w", mode=mode, **options)
    wf.on("go")

    @wf.step
    async def work(n):
        ran.append(n)
        if n == 1:
            await gate.wait()
        if how == "failed":
            raise ValueError("broken")
        return Pause(Wait("on")) if how == "paused" else {"done": n}

    @wf.step
    async def after():
        return {}

    return wf


async def without_answer(stores, store, which, *, written):
    """Let the answer to a commit be lost, once the store has written it, or before."""
    setattr(store, "hold_after" if written else "hold", which)
    [held] = await store.until_held()
    store.hold = store.hold_after = None
    held.fail(StoreUnavailable("away"))
    await stores.clock.run_for(60)
    await run_until_idle(stores.clock)


@pytest.mark.parametrize("written", [True, False], ids=["written", "not-written"])
@pytest.mark.parametrize("how", ["completed", "failed", "aborted"])
async def test_the_end_of_a_driven_run_without_an_answer(stores, how, written, caplog):
    """Its hooks are called once, its callers are answered, and the next run starts."""
    gate, ran, calls, store = asyncio.Event(), [], [], stores.store()
    rt = await stores.enter(store=store)
    await rt.register(
        steps(ran, how, Serialized(), gate),
        on_complete=lambda result: calls.append((result.run_id, result.metadata.get("replayed"))),
        on_cleanup=lambda: calls.append("cleanup"),
    )
    first, second = [(await rt.emit("go", n=n)).run_ids[0] for n in (1, 2)]
    waiting = [asyncio.ensure_future(rt.wait(run_id, until="end")) for run_id in (first, second)]
    await run_until_idle(stores.clock)
    if how == "aborted":
        aborting = asyncio.ensure_future(rt.abort(first))
    else:
        gate.set()
    await without_answer(stores, store, ends, written=written)
    assert all(task.done() for task in waiting)
    if how == "aborted":
        await aborting
    ended = ["completed" if how == "aborted" else how] * 2
    assert [str(result.status) for result in await asyncio.gather(*waiting)] == [how, *ended[1:]]
    assert ran == [1, 2]
    assert sorted(call for call in calls if call != "cleanup") == [(first, None), (second, None)]
    assert calls.count("cleanup") == 2
    failures = [record for record in caplog.records if first in record.message and "' failed in" in record.message]
    assert len(failures) == (how == "failed")
    [(load, _)] = await store.read_loads([("w", "")])
    assert load.idle
    assert await store.pending_hooks("w") == []


@pytest.mark.parametrize("written", [True, False], ids=["written", "not-written"])
async def test_a_pause_without_an_answer(stores, written):
    """A run that gives its slot back has the next one started, and can be resumed."""
    gate, ran, store = asyncio.Event(), [], stores.store()
    gate.set()
    mode = Transient(1, holds_slot_while_paused=False)
    rt = await stores.enter(steps(ran, "paused", mode, gate), store=store)
    store.hold = parks
    first, second = [(await rt.emit("go", n=n)).run_ids[0] for n in (1, 2)]
    waiting = asyncio.ensure_future(rt.wait(first, until="rest"))
    [held] = await store.until_held()
    store.hold = None
    if written:
        store.hold_after = parks
        held.release()
        [held] = await store.until_held()
        store.hold_after = None
    held.fail(StoreUnavailable("away"))
    await stores.clock.run_for(30)
    await run_until_idle(stores.clock)
    assert waiting.done()
    assert (await waiting).status == "paused"
    assert ran == [1, 2]
    assert [(await rt.resume(run_id)).status for run_id in (first, second)] == ["completed"] * 2


@pytest.mark.parametrize("written", [True, False], ids=["written", "not-written"])
@pytest.mark.parametrize("first", ["boundary", "end"])
async def test_a_creation_without_an_answer(stores, first, written):
    """A run that is stored with its first boundary or its end goes on to its end, and its caller gets that."""
    calls, store = [], stores.store()
    wf = Workflow("w")
    wf.step(lambda: {"a": 1}, id="one")
    if first == "boundary":
        wf.step(lambda: {"b": 1}, id="two")
    rt = await stores.enter(store=store)
    await rt.register(wf, on_complete=lambda result: calls.append(result.run_id))
    running = asyncio.ensure_future(rt.run("w"))
    await without_answer(stores, store, lambda changes: bool(changes.creates), written=written)
    assert running.done()
    result = await running
    assert (str(result.status), result.state) == ("completed", {"a": 1} | ({"b": 1} if first == "boundary" else {}))
    assert calls == [result.run_id]


# --------------------------------------------------------------------------------------- of a run without a driver
@pytest.mark.parametrize("written", [True, False], ids=["written", "not-written"])
async def test_a_slot_that_is_given_back_without_an_answer(stores, written):
    """The run that gets the slot of a run which nobody drives is started, though the answer was lost."""
    gate, ran, store = asyncio.Event(), [], stores.store()
    gate.set()
    rt = await stores.enter(steps(ran, "paused", Serialized(), gate), store=store)
    first, second = [(await rt.emit("go", n=n)).run_ids[0] for n in (1, 2)]
    await run_until_idle(stores.clock)
    asking = asyncio.ensure_future(rt.abort(first))
    setattr(store, "hold_after" if written else "hold", ends)
    [held] = await store.until_held()
    store.hold = store.hold_after = None
    held.fail(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await asking
    await run_until_idle(stores.clock)
    assert ran == ([1, 2] if written else [1])
    await rt.abort(first)
    await run_until_idle(stores.clock)
    assert ran == [1, 2]
    assert (await rt.resume(second)).status == "completed"


@pytest.mark.parametrize("written", [True, False], ids=["written", "not-written"])
async def test_the_end_of_an_aborted_child_without_an_answer(stores, written):
    """The parent that is paused until its child ends goes on, also if it is aborted while nobody drives it."""
    store = stores.store()
    wf = Workflow("w")
    wf.on("go")
    line = wf.pipeline("line")
    line.wait("answer", on="answered")
    wf.fork(line, into="results")
    rt = await stores.enter(wf, store=store)
    [parent] = (await rt.emit("go")).run_ids
    await rt.wait(parent, until="rest")
    [child] = [info.run_id for info in (await rt.find_runs()).items if info.parent_id == parent]
    setattr(store, "hold_after" if written else "hold", ends)
    aborting = asyncio.ensure_future(rt.abort(child))
    [held] = await store.until_held()
    store.hold = store.hold_after = None
    held.fail(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await aborting
    await run_until_idle(stores.clock)
    await rt.abort(child)
    await run_until_idle(stores.clock)
    assert (await rt.get_run(parent)).status.terminal


async def test_other_code_cancels_a_run_in_the_commit_of_its_end(stores):
    """Its hooks are called once, then its caller is answered, and the next run starts."""
    gate, ran, told, store = asyncio.Event(), [], [], stores.store()
    gate.set()
    rt = await stores.enter(store=store)
    hooks = {"on_complete": lambda result: told.append(result.run_id), "on_cleanup": lambda: told.append("cleanup")}
    await rt.register(steps(ran, "completed", Serialized(), gate), **hooks)
    store.hold_after = ends
    first, second = [(await rt.emit("go", n=n)).run_ids[0] for n in (1, 2)]
    waiting = asyncio.ensure_future(rt.wait(first))
    waiting.add_done_callback(lambda _: told.append("answered"))
    [held] = await store.until_held()
    store.hold_after = None
    rt._core.runs.live(first).task.cancel()
    await run_until_idle(stores.clock)
    held.release()
    await run_until_idle(stores.clock)
    assert told.index(first) < told.index("answered")
    assert (told.count(first), told.count(second), told.count("cleanup")) == (1, 1, 2)
    assert ran == [1, 2]
