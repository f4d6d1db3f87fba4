"""SingletonLoop("replace"): the active run is aborted in the commit that queues its successor."""

from __future__ import annotations

import asyncio

import pytest
from support import rests, until_crash

from poundlock import Delay, Pause, RunStatus, SingletonLoop, Verdict, Wait, Workflow
from poundlock.testing import run_until_idle


def loop(mode, log, *, cleans_up=None, undo=False):
    """Runs work until they are aborted, or pause if their `n` is 0."""
    wf = Workflow("loop", mode=mode, undo_on_abort=undo)
    wf.on("go")

    def take_back(n):
        log.append(f"undo {n}")

    @wf.step(undo=take_back if undo else None)
    async def begin(n):
        log.append(f"begin {n}")
        return Pause(Wait("on")) if n == 0 and not undo else {}

    @wf.step
    async def work(n):
        if n == 0 and undo:
            return Pause(Wait("on"))
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if cleans_up is not None:
                await cleans_up(n)
            log.append(f"end {n}")

    return wf


async def load_of(rt):
    [(load, _)] = await rt.store.read_loads([("loop", "")])
    return load


async def test_the_abort_is_in_the_commit_of_the_successor(stores):
    """One commit queues the new run and requests the abort of the old one; the receipt names both."""
    log = []
    store = stores.store()
    rt = await stores.enter(loop(SingletonLoop("replace"), log), store=store)
    [old] = (await rt.emit("go", n=1)).run_ids
    await run_until_idle(stores.clock)
    store.written.clear()
    [line] = (await rt.emit("go", n=2)).lines
    assert (line.verdict, line.reason) == (Verdict.REPLACED, f"replaces {old}")
    [admission] = [changes for changes in store.written if changes.creates]
    assert [create.identity.run_id for create in admission.creates] == [line.run_id]
    assert [(post.run_id, post.kind) for post in admission.posts] == [(old, "abort")]
    await run_until_idle(stores.clock)
    result = await rt.wait(old)
    assert result.status is RunStatus.ABORTED
    assert f"replaced by run {line.run_id}" in result.error.message
    assert log == ["begin 1", "end 1", "begin 2"]
    assert (await load_of(rt))[:3] == (1, line.run_id, 0)
    await rt.abort(line.run_id)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("first", [0, 1], ids=["paused", "running"])
async def test_a_crash_at_any_commit(stores, where, first):
    """Whichever commit the process dies at, the old run ends aborted, one run is active, and it is the latest."""
    number = 0
    while True:
        number += 1
        log = []
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(loop(SingletonLoop("replace"), log), store=store)
        receipts = []

        async def work(rt=rt, receipts=receipts):
            for n in (first, 2, 3):
                receipts.append(await rt.emit("go", n=n))
                await run_until_idle(stores.clock)

        over = await until_crash(store, work())
        await stores.crash(rt)
        rt = await stores.enter(loop(SingletonLoop("replace"), log))
        await run_until_idle(stores.clock)
        runs = (await rt.find_runs(limit=500)).items
        going = [run for run in runs if not run.status.terminal]
        assert len(going) <= 1, number
        if going:
            assert going[0].status in (RunStatus.RUNNING, RunStatus.PAUSED), number
            assert going[0].run_id == max(run.run_id for run in runs)
            assert (await load_of(rt))[:3] == (1, going[0].run_id, 0), number
            await rt.abort(going[0].run_id)
            await run_until_idle(stores.clock)
        for receipt in receipts[:-1]:
            for run_id in receipt.run_ids:
                assert (await rt.get_run(run_id)).status is RunStatus.ABORTED, number
        assert (await load_of(rt)).idle, number
        await rt.stop()
        if over:
            assert number > 4
            return


async def test_a_paused_run_is_replaced_at_once(stores):
    """A run that is paused ends with the commit that queues its successor, which starts."""
    log = []
    rt = await stores.enter(loop(SingletonLoop("replace"), log))
    [old] = (await rt.emit("go", n=0)).run_ids
    await run_until_idle(stores.clock)
    assert (await rt.get_run(old)).status is RunStatus.PAUSED
    [line] = (await rt.emit("go", n=2)).lines
    assert line.verdict is Verdict.REPLACED
    assert (await rt.get_run(old)).status is RunStatus.ABORTED
    assert (await rt.wait(old)).status is RunStatus.ABORTED
    await run_until_idle(stores.clock)
    assert log == ["begin 0", "begin 2"]
    await rt.abort(line.run_id)
    await run_until_idle(stores.clock)
    assert (await load_of(rt)).idle


async def test_a_paused_run_undoes_its_stages_first(stores):
    """A paused run with stages to undo does that before its successor starts."""
    log = []
    rt = await stores.enter(loop(SingletonLoop("replace"), log, undo=True))
    [old] = (await rt.emit("go", n=0)).run_ids
    await run_until_idle(stores.clock)
    [line] = (await rt.emit("go", n=2)).lines
    assert line.verdict is Verdict.REPLACED
    await run_until_idle(stores.clock)
    assert (await rt.wait(old)).status is RunStatus.ABORTED
    assert log == ["begin 0", "undo 0", "begin 2"]
    await rt.abort(line.run_id)
    await run_until_idle(stores.clock)
    assert (await load_of(rt)).idle


async def test_a_clean_up_that_takes_too_long_is_left_behind(stores):
    """The successor starts after `abort_grace` at the latest, and the old run can write nothing any more."""
    log, stuck = [], asyncio.Event()

    async def cleans_up(n):
        if n == 1:
            await stuck.wait()

    rt = await stores.enter(loop(SingletonLoop("replace"), log, cleans_up=cleans_up), abort_grace=5)
    [old] = (await rt.emit("go", n=1)).run_ids
    await run_until_idle(stores.clock)
    [line] = (await rt.emit("go", n=2)).lines
    await run_until_idle(stores.clock)
    assert log == ["begin 1"]
    assert (await rt.get_run(line.run_id)).status is RunStatus.QUEUED
    stores.clock.advance(5)
    await run_until_idle(stores.clock)
    assert log == ["begin 1", "begin 2"]
    ended = await rt.get_run(old)
    assert ended.status is RunStatus.ABORTED
    stuck.set()
    await run_until_idle(stores.clock)
    assert await rt.get_run(old) == ended
    assert (await rt.get_run(line.run_id)).status is RunStatus.RUNNING
    await rt.abort(line.run_id)


async def test_a_run_that_ends_by_itself_at_that_moment(stores):
    """If the active run ends just before the replacement is decided, the new run starts, and nothing is aborted."""
    done = asyncio.Event()
    wf = Workflow("loop", mode=SingletonLoop("replace"))
    wf.on("go")

    @wf.step
    async def work(n):
        if n == 1:
            await done.wait()

    store = stores.store()
    rt = await stores.enter(wf, store=store)
    first = await rt.emit("go", n=1)
    store.hold = lambda changes: any(post.kind == "abort" for post in changes.posts)
    second = asyncio.create_task(rt.emit("go", n=2))
    [held] = await store.until_held()
    store.hold = None
    done.set()
    await run_until_idle(stores.clock)
    held.release()
    receipt = await second
    assert receipt.verdicts == [Verdict.STARTED]
    assert [(await rt.wait(each.run_ids[0])).status for each in (first, receipt)] == ["completed", "completed"]
    assert (await load_of(rt)).idle


def resting(log, how):
    """Its first run comes to rest in its first stage: at a wait, or for a delay; later ones work until aborted."""
    wf = Workflow("loop", mode=SingletonLoop("replace"))
    wf.on("go")

    @wf.step
    async def begin(n):
        log.append(f"begin {n}")
        if n != 1:
            await asyncio.get_running_loop().create_future()
        return Pause(Wait("on")) if how == "pause" else Delay("3d")

    @wf.step
    async def after():
        log.append("after")

    return wf


async def coming_to_rest(stores, log, how, first):
    """Return a runtime, its run, and the commit by which that comes to rest: not written yet, or without an answer."""
    store = stores.store()
    rt = await stores.enter(resting(log, how), store=store)
    setattr(store, "hold" if first == "request" else "hold_after", rests)
    [old] = (await rt.emit("go", n=1)).run_ids
    [held] = await store.until_held()
    store.hold = store.hold_after = None
    return rt, old, held


async def replaced(stores, rt, old, log):
    """Check that the run has ended and its successor is active, and end that too."""
    await run_until_idle(stores.clock)
    assert (await rt.get_run(old)).status is RunStatus.ABORTED
    [new] = (await rt.find_runs(status=RunStatus.RUNNING)).items
    assert (await load_of(rt))[:3] == (1, new.run_id, 0)
    assert "after" not in log
    assert log[-1] == "begin 2"
    await rt.abort(new.run_id)
    await run_until_idle(stores.clock)
    assert (await load_of(rt)).idle


@pytest.mark.parametrize("first", ["rest", "request"])
@pytest.mark.parametrize("how", ["pause", "delay"])
async def test_a_run_that_is_replaced_while_it_comes_to_rest(stores, how, first):
    """It ends aborted and its successor starts, whichever of the two commits is first."""
    log = []
    rt, old, held = await coming_to_rest(stores, log, how, first)
    assert (await rt.emit("go", n=2)).verdicts == [Verdict.REPLACED]
    held.release()
    await replaced(stores, rt, old, log)


@pytest.mark.parametrize("first", ["rest", "request"])
@pytest.mark.parametrize("how", ["pause", "delay"])
async def test_a_crash_while_a_run_that_is_replaced_comes_to_rest(stores, how, first):
    """The same if the process dies after any commit from that of the request on."""
    ahead, over = 0, False
    while not over:
        ahead += 1
        log = []
        rt, old, held = await coming_to_rest(stores, log, how, first)
        rt.store.crash = (rt.store.commits + ahead, "after")

        async def go_on(rt=rt, held=held):
            await rt.emit("go", n=2)
            held.release()
            await run_until_idle(stores.clock)

        over = await until_crash(rt.store, go_on())
        await stores.crash(rt)
        rt = await stores.enter(resting(log, how))
        await replaced(stores, rt, old, log)
        await rt.stop()
    assert ahead > 2
