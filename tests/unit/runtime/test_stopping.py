"""Stopping is one thing, done once, whoever asks for it and whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from poundlock import (
    PoundlockError,
    RunStatus,
    Serialized,
    Service,
    StepContext,
    StoreUnavailable,
    Workflow,
    WorkflowRuntime,
)
from poundlock.errors import RuntimeStopped, WrongLoop
from poundlock.stores import MemoryStore


class Watched(MemoryStore):
    """A store that counts how often it was closed, and may refuse to be."""

    def __init__(self):
        super().__init__()
        self.closed = 0
        self.trouble: BaseException | None = None

    async def close(self):
        self.closed += 1
        if self.trouble is not None:
            raise self.trouble


def busy(gate, mode=None):
    wf = Workflow("busy", mode=mode)
    wf.on("go")

    @wf.step
    async def work(n: int = 0):
        await gate(n)
        return {"done": n}

    return wf


async def entered(*workflows, **options) -> WorkflowRuntime:
    rt = WorkflowRuntime(*workflows, **options)
    await rt.__aenter__()
    return rt


async def test_two_stops_are_one(vclock, gate):
    """Whoever stops a runtime that is stopping waits for the same end; the store is closed once."""
    store = Watched()
    rt = await entered(busy(gate), store=store, clock=vclock)
    await rt.emit("go")
    await vclock.run_until_idle()
    first = asyncio.create_task(rt.stop(drain=5))
    second = asyncio.create_task(rt.stop(drain=0))
    await vclock.run_until_idle()
    assert not second.done()
    gate.open()
    await asyncio.gather(first, second)
    await rt.stop()
    assert store.closed == 1


async def test_a_cancelled_stop_is_completed(vclock, gate):
    """Who is cancelled while stopping gets the cancellation once all is stopped; the drain ends at once."""
    store = Watched()
    vclock.autojump = False
    rt = await entered(busy(gate), store=store, clock=vclock)
    [run_id] = (await rt.emit("go")).run_ids
    await vclock.run_until_idle()
    stopping = asyncio.create_task(rt.stop(drain=1000))
    await vclock.run_until_idle()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert store.closed == 1
    assert rt.list_all_runs() == []
    with pytest.raises(RuntimeStopped):
        await rt.emit("go")
    record = await store.load(run_id)
    assert record.head.status is RunStatus.RUNNING  # as its last commit left it
    async with WorkflowRuntime(busy(gate), store=store, clock=vclock) as again:
        gate.open()
        assert (await again.wait(run_id)).status is RunStatus.COMPLETED


@pytest.mark.parametrize("where", ["step", "thread", "on_complete", "started task"])
async def test_stop_from_inside_a_run(vclock, where):
    """A step or hook may stop its own runtime: the call returns at once, the run reaches its boundary, all is shut."""
    store, said, kept = Watched(), [], []
    wf = Workflow("suicidal")
    wf.on("go")
    rt = WorkflowRuntime(store=store, clock=vclock)

    @wf.step
    async def work(ctx: StepContext):
        if where == "step":
            await rt.stop()
            said.append("stopped")
        elif where == "started task":
            kept.append(asyncio.create_task(rt.stop()))
            await asyncio.wait(kept)
        return {"done": ctx.run_id}

    @wf.step
    def other():
        loop = rt._core.loop
        if where == "thread":
            asyncio.run_coroutine_threadsafe(rt.stop(), loop).result()

    async def finished(_result):
        if where == "on_complete":
            await rt.stop()

    async with rt:
        await rt.register(wf, on_complete=finished)
        receipt = await rt.emit("go")
        with contextlib.suppress(RuntimeStopped):
            await receipt.results()
        await rt.stop()
    assert store.closed == 1
    record = await store.load(receipt.run_ids[0])
    assert record.head.status in (RunStatus.READY, RunStatus.COMPLETED)
    assert said == (["stopped"] if where == "step" else [])


async def test_leaving_while_a_serialized_run_ends_does_not_take_the_next_one(vclock, gate, any_store):
    """What a stopping runtime promotes it does not own: after a clean exit nothing counts as crashed."""
    rt = await entered(busy(gate, Serialized()), store=any_store, clock=vclock)
    one = await rt.emit("go", n=1)
    two = await rt.emit("go", n=2)
    await vclock.run_until_idle()
    stopping = asyncio.create_task(rt.stop())
    await vclock.run_until_idle()
    gate.open()
    await stopping
    async with WorkflowRuntime(busy(gate, Serialized()), store=any_store, clock=vclock) as again:
        first, second = await again.wait(one.run_ids[0]), await again.wait(two.run_ids[0])
    assert (first.status, second.status) == (RunStatus.COMPLETED, RunStatus.COMPLETED)
    assert second.metadata["attempt"] == 1
    assert gate.came == [1, 2]


async def test_a_run_whose_checkpoint_was_being_read_is_given_back(vclock, gate):
    """A run that was promoted right before a stop and did not begin is no crash: the next runtime begins it as new."""
    store = Watched()
    rt = await entered(busy(gate, Serialized()), store=store, clock=vclock)
    gate.open()
    read, asked = store.checkpoint, asyncio.Event()

    async def never(_run_id):
        asked.set()
        await asyncio.get_running_loop().create_future()

    store.checkpoint = never
    await rt.emit("go", n=1)
    receipt = await rt.emit("go", n=2)
    await asked.wait()
    await rt.stop(drain=0)
    store.checkpoint = read
    assert gate.came == [1]
    async with WorkflowRuntime(busy(gate, Serialized()), store=store, clock=vclock) as again:
        result = await again.wait(receipt.run_ids[0])
    assert (result.status, result.metadata["attempt"]) == (RunStatus.COMPLETED, 1)


@pytest.mark.parametrize("trouble", [StoreUnavailable("gone"), RuntimeError("a bug")])
async def test_a_store_that_cannot_be_closed_is_told(vclock, gate, trouble):
    """An error of the store at the end reaches who stops; everything else was let go of."""
    store = Watched()
    rt = await entered(busy(gate), store=store, clock=vclock)
    store.trouble = trouble
    with pytest.raises(type(trouble)):
        await rt.stop()
    with pytest.raises(RuntimeStopped):
        await rt.emit("go")


@pytest.mark.parametrize("failure", [ValueError("no"), SystemExit(3), GeneratorExit(), asyncio.CancelledError()])
async def test_clean_ups_that_raise_anything_keep_nothing_open(vclock, caplog, failure):
    """A clean-up of a workflow's service may raise any BaseException; the others and the store are closed anyway."""
    store, closed = Watched(), []

    def bad(ctx):
        def clean_up():
            raise failure

        ctx.on_cleanup(clean_up)
        return "bad"

    def good(ctx):
        ctx.on_cleanup(lambda: closed.append("good"))
        return "good"

    wf = Workflow("served", services=[Service("bad", bad), Service("good", good)])
    wf.on("go")

    @wf.step
    async def work(ctx: StepContext):
        await ctx.use(lambda deps: deps.require("good"))
        await ctx.use(lambda deps: deps.require("bad"))

    with caplog.at_level(logging.ERROR):
        async with WorkflowRuntime(wf, store=store, clock=vclock) as rt:
            [result] = await (await rt.emit("go")).results()
            assert result.status is RunStatus.COMPLETED
    assert closed == ["good"]
    assert store.closed == 1


async def test_a_clean_up_that_hangs_is_left_behind(vclock):
    """A clean-up that never ends holds a run's result and the stop for `hook_timeout` seconds and no longer."""
    store, leave = Watched(), asyncio.Event()

    def hanging(ctx):
        async def clean_up():
            while not leave.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await leave.wait()

        ctx.on_cleanup(clean_up)
        return "it"

    wf = Workflow("served", services=[Service("it", hanging, scope="run")])
    wf.on("go")

    @wf.step
    async def work(ctx: StepContext):
        await ctx.use(lambda deps: deps.require("it"))

    before = vclock.monotonic()
    async with WorkflowRuntime(wf, store=store, clock=vclock, hook_timeout=5, abort_grace=1) as rt:
        [result] = await (await rt.emit("go")).results()
        assert result.status is RunStatus.COMPLETED
        assert 5 <= vclock.monotonic() - before < 20
    assert store.closed == 1
    leave.set()


def test_a_loop_that_ends_without_a_stop_counts_as_one(tmp_path):
    """`asyncio.run` that returns without stopping leaves runs as their last commit left them; none fails for good."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    seen = []

    def workflow():
        wf = Workflow("w")
        wf.on("go")

        @wf.step
        async def one():
            return {"one": True}

        @wf.step
        async def two():
            seen.append("two")
            if len(seen) == 1:
                await asyncio.get_running_loop().create_future()

        return wf

    async def forgetful():
        rt = WorkflowRuntime(workflow(), store=url)
        await rt.__aenter__()
        receipt = await rt.emit("go")
        while not seen:  # noqa: ASYNC110 - ends by the step, however long that takes
            await asyncio.sleep(0)  # noqa: TID251 - the loop's own clock: this test is about the loop
        return rt, receipt.run_ids[0]

    rt, run_id = asyncio.run(forgetful())
    del rt

    async def next_one():
        async with WorkflowRuntime(workflow(), store=url) as again:
            return await again.wait(run_id)

    result = asyncio.run(next_one())
    assert result.status is RunStatus.COMPLETED
    assert result.state["one"] is True


# ------------------------------------------------------------------------------------------------ another loop
CALLS = {
    "emit": lambda rt: rt.emit("go"),
    "explain": lambda rt: rt.explain("go"),
    "invoke": lambda rt: rt.invoke("busy"),
    "run": lambda rt: rt.run("busy"),
    "resume": lambda rt: rt.resume("r"),
    "signal": lambda rt: rt.signal("r", {}),
    "abort": lambda rt: rt.abort("r"),
    "pause": lambda rt: rt.pause("r"),
    "unpause": lambda rt: rt.unpause("r"),
    "pause_workflow": lambda rt: rt.pause_workflow("busy"),
    "unpause_workflow": lambda rt: rt.unpause_workflow("busy"),
    "pause_all": lambda rt: rt.pause_all(),
    "unpause_all": lambda rt: rt.unpause_all(),
    "retry": lambda rt: rt.retry("r"),
    "rerun": lambda rt: rt.rerun("r", "only"),
    "fork": lambda rt: rt.fork("r", "only"),
    "wait": lambda rt: rt.wait("r"),
    "get_run": lambda rt: rt.get_run("r"),
    "find_runs": lambda rt: rt.find_runs(),
    "timeline": lambda rt: rt.timeline("r"),
    "register": lambda rt: rt.register(Workflow("other")),
    "deregister": lambda rt: rt.deregister("busy"),
    "dead_letters": lambda rt: rt.dead_letters(),
    "replay": lambda rt: rt.replay("1"),
    "recover": lambda rt: rt.recover(),
    "vacuum": lambda rt: rt.vacuum(),
    "compare": lambda rt: rt.compare("r", "s"),
    "start": lambda rt: rt.start(),
    "stop": lambda rt: rt.stop(),
    "dispatch": lambda rt: rt.dispatch("anything"),
    "replay_dead_letters": lambda rt: rt.replay_dead_letters(),
}


@pytest.mark.parametrize("call", CALLS)
async def test_calls_from_another_loop_are_refused(gate, any_store, call):
    """A call from another event loop, in a thread, is refused before anything is written; the runtime works on."""
    async with WorkflowRuntime(busy(gate), store=any_store) as rt:

        async def elsewhere():
            await CALLS[call](rt)

        with pytest.raises(PoundlockError) as refused:
            await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        assert isinstance(refused.value, WrongLoop)
        assert refused.value.code == "WRONG_LOOP"
        assert (await rt.find_runs()).items == []
        gate.open()
        [result] = await (await rt.emit("go")).results()
        assert result.status is RunStatus.COMPLETED


def test_every_async_method_is_checked():
    """Each public coroutine method of the runtime is in the table above."""
    methods = {
        name
        for name, value in vars(WorkflowRuntime).items()
        if asyncio.iscoroutinefunction(value) and not name.startswith("_")
    }
    assert methods == set(CALLS)


async def test_leaving_leaves_no_task(vclock, gate):
    """What a runtime has started is over when the block is left: runs, hooks, timers of waits, holds and times."""
    wf = busy(gate)
    wf.on("held", id="held", debounce="5s")
    wf.on(every="1h")
    paused = Workflow("paused")
    paused.on("go")
    paused.wait("answer", on="answer", timeout="1d")
    before = asyncio.all_tasks()
    async with WorkflowRuntime(wf, paused, clock=vclock) as rt:
        await rt.emit("go", n=1)
        await rt.emit("held", n=2)
        assert (await rt.run("paused")).status is RunStatus.PAUSED
        assert asyncio.all_tasks() > before
        gate.open()
    assert asyncio.all_tasks() == before
