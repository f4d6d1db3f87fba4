"""Hooks, signals, aborts and stopping: what happens around a run, and how it ends before its time."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from support import LAST_RESORT

from poundlock import (
    Delay,
    Retry,
    RunFinished,
    RunNotFound,
    RunStatus,
    Serialized,
    Service,
    StateInvalid,
    StepContext,
    Workflow,
    WorkflowRuntime,
)
from poundlock.errors import RuntimeStopped


def one_step(action, id="one", **options):
    """A workflow of one step, started by "go"."""
    wf = Workflow(id, **options)
    wf.on("go")
    wf.step(id="work")(action)
    return wf


async def forever():
    await asyncio.get_running_loop().create_future()


# -- hooks
async def test_hooks_come_in_the_documented_order(runtime, any_store):
    """Durable end, on_complete, services closed and registry pruned, on_cleanup, answer: in this order."""
    told = []

    def open_it(ctx):
        told.append("open")
        ctx.on_cleanup(lambda: told.append("close"))
        return "service"

    wf = Workflow("one", services=[Service("it", open_it, scope="run")])

    @wf.step
    async def work(ctx: StepContext):
        await ctx.use(lambda deps: deps.require("it"))
        told.append("work")

    rt = await runtime(store=any_store)

    def prepare(ctx):
        told.append("prepare")
        return {"prepared": True}

    async def complete(result):
        stored = (await rt.get_run(result.run_id)).status
        told.append(f"complete {result.status} {stored} {rt.watch('one', result.run_id) is not None}")

    def cleanup():
        told.append(f"cleanup {rt.list_all_runs()}")

    await rt.register(wf, on_prepare=prepare, on_complete=complete, on_cleanup=cleanup)
    result = await rt.run("one")
    told.append("answered")
    assert told == [
        "prepare",
        "open",
        "work",
        "complete completed completed True",
        "close",
        "cleanup []",
        "answered",
    ]
    assert result.state == {"prepared": True}


@pytest.mark.parametrize("hook", ["on_complete", "on_cleanup"])
async def test_a_workflow_may_be_deregistered_from_its_hooks(runtime, any_store, hook):
    """`deregister` from on_complete or on_cleanup returns, closes services in order, and the caller is answered."""
    told = []

    def thing(name):
        def make(ctx):
            ctx.on_cleanup(lambda: told.append(f"close {name}"))
            return name

        return make

    wf = Workflow("one", services=[Service("wf", thing("wf")), Service("run", thing("run"), scope="run")])
    wf.on("go")

    @wf.step
    async def work(ctx: StepContext):
        await ctx.use(lambda deps: deps.require("wf"))
        await ctx.use(lambda deps: deps.require("run"))

    rt = await runtime(store=any_store)

    async def leave(*_):
        await rt.deregister("one")
        told.append("deregistered")

    await rt.register(wf, **{hook: leave})
    result = await rt.run("one")
    assert result.ok
    assert told == ["close run", "close wf", "deregistered"]
    assert not rt.has_workflow("one")
    await rt.register(wf)
    assert (await rt.run("one")).ok


async def test_two_runs_may_deregister_their_workflow_at_once(runtime, gate):
    """Hooks of two runs that both deregister the workflow do not wait for each other."""
    rt = await runtime()

    async def leave(*_):
        if rt.has_workflow("one"):
            await rt.deregister("one")

    await rt.register(one_step(lambda_gate(gate)), on_complete=leave, on_cleanup=leave)
    running = [asyncio.create_task(rt.run("one")) for _ in range(3)]
    await rt.clock.run_until_idle()
    gate.open()
    assert [result.ok for result in await asyncio.gather(*running)] == [True] * 3
    await rt.clock.run_until_idle()
    assert rt.list_workflows() == []


def lambda_gate(gate):
    async def work():
        await gate()

    return work


@pytest.mark.parametrize("hook", ["on_complete", "on_cleanup", "on_dispatch"])
async def test_a_raising_hook_stops_nobody(runtime, caplog, hook):
    """A hook that raises is logged; the result, the other hooks and the next run are as if it had not."""
    told = []

    def bad(*_):
        raise RuntimeError("hook")

    async def work():
        return None

    hooks = {name: (lambda *_, name=name: told.append(name)) for name in ("on_complete", "on_cleanup", "on_dispatch")}
    rt = await runtime()
    await rt.register(one_step(work, mode=Serialized()), **{**hooks, hook: bad})
    for _ in range(2):
        [result] = await (await rt.emit("go")).results()
        assert result.ok
    assert sorted(set(told)) == sorted({"on_complete", "on_cleanup", "on_dispatch"} - {hook})
    assert f"{hook} of workflow 'one' raised" in caplog.text


async def test_a_raising_on_prepare_fails_the_run(runtime, any_store):
    """If on_prepare raises, no step runs, and the run fails with that error, in its timeline too."""
    ran = []

    async def work():
        ran.append(1)

    async def prepare(ctx):
        raise RuntimeError("not today")

    rt = await runtime(store=any_store)
    await rt.register(one_step(work, mode=Serialized()), on_prepare=prepare)
    first, second = await rt.emit("go"), await rt.emit("go")
    for receipt in (first, second):
        [result] = await receipt.results()
        assert (result.status, str(result.error)) == ("failed", "RuntimeError: not today")
    assert ran == []
    assert "pipeline:failure" in (await rt.timeline(first.run_ids[0])).types()


async def test_on_complete_cannot_change_the_result(runtime):
    """What a hook does to the result it is given, the caller does not see."""
    from pydantic import BaseModel

    class State(BaseModel):
        items: list[int] = []

    wf = Workflow("one", state=State)

    @wf.step
    async def work():
        return {"items": [1]}

    def spoil(result):
        result.state.items.append(2)
        result.result["rows"].append(3)

    @wf.route(after="work")
    def end():
        from poundlock import Terminate

        return Terminate({"rows": [1]})

    rt = await runtime()
    await rt.register(wf, on_complete=spoil)
    result = await rt.run("one")
    assert (result.state.items, result.result) == ([1], {"rows": [1]})


# -- signal
async def test_a_signal_reaches_state_at_the_next_boundary(runtime, gate, any_store):
    """A running step sees a signal with `latest()` at once, its `state` stays, and the next stage finds it merged."""
    wf = Workflow("two")
    wf.on("go")

    @wf.step
    async def first(ctx: StepContext):
        await gate()
        return {"seen": ctx.latest().get("n"), "before": ctx.state.get("n")}

    @wf.step
    async def second(n):
        return {"after": n}

    rt = await runtime(wf, store=any_store)
    receipt = await rt.emit("go")
    await rt.clock.run_until_idle()
    await rt.signal(receipt.run_ids[0], {"n": 7, "more": {"x": [1]}})
    gate.open()
    [result] = await receipt.results()
    assert result.state == {"seen": 7, "before": None, "n": 7, "more": {"x": [1]}, "after": 7}


async def test_a_queued_run_keeps_its_signal(runtime, gate, any_store):
    """A signal to a queued run is in its state when it starts."""

    async def work(n):
        await gate(n)
        return {"done": n}

    rt = await runtime(one_step(work, mode=Serialized()), store=any_store)
    await rt.emit("go", n=0)
    queued = await rt.emit("go", n=1)
    await rt.signal(queued.run_ids[0], {"extra": True})
    gate.open()
    [result] = await queued.results()
    assert result.state == {"n": 1, "extra": True, "done": 1}


async def test_signals_to_nobody_are_refused(runtime):
    """A signal to an unknown run is RunNotFound, to an ended one RunFinished; what is not a patch is refused."""
    from poundlock import NotStorable

    async def work():
        return None

    rt = await runtime(one_step(work))
    result = await rt.run("one")
    with pytest.raises(RunFinished):
        await rt.signal(result.run_id, {"n": 1})
    with pytest.raises(RunNotFound):
        await rt.signal("nobody", {"n": 1})
    with pytest.raises(StateInvalid):
        await rt.signal(result.run_id, 7)
    with pytest.raises(NotStorable) as caught:
        await rt.signal(result.run_id, {"a": [object()]})
    assert caught.value.path == "patch.a.0"


async def test_a_signal_that_does_not_fit_the_model_is_refused(runtime, gate, any_store):
    """A signal against the state's model is an error of who sends it; the run goes on with the others."""
    from pydantic import BaseModel

    class State(BaseModel):
        n: int = 0

    wf = Workflow("typed", state=State)
    wf.on("go")

    @wf.step
    async def work(ctx: StepContext):
        await gate()
        return {"n": ctx.latest().n + 1}

    rt = await runtime(wf, store=any_store)
    receipt = await rt.emit("go")
    await rt.clock.run_until_idle()
    await rt.signal(receipt.run_ids[0], {"n": 5})
    with pytest.raises(StateInvalid) as caught:
        await rt.signal(receipt.run_ids[0], {"n": "many"})
    assert caught.value.path == "n"
    gate.open()
    [result] = await receipt.results()
    assert (result.status, result.state.n) == ("completed", 6)
    assert "state:refused" not in (await rt.timeline(receipt.run_ids[0])).types()


async def test_signalling_an_invoked_run_at_its_first_boundary(runtime, gate, any_store):
    """A signal that comes while an invoked run is not written yet has a place to go, whenever its boundary comes."""
    wf = Workflow("two")

    @wf.step
    async def first(ctx: StepContext):
        ids.append(ctx.run_id)
        await gate()
        return {"first": True}

    @wf.step
    async def second(ctx: StepContext):
        await told.wait()
        return {"second": True}

    for _ in range(2):
        ids, told = [], asyncio.Event()
        rt = await runtime(wf, store=any_store)
        running = asyncio.create_task(rt.run("two"))
        await rt.clock.run_until_idle()
        signalling = asyncio.create_task(rt.signal(ids[0], {"told": True}))
        gate.open()
        await signalling
        told.set()
        result = await running
        assert result.state == {"first": True, "second": True, "told": True}
        timeline = await rt.timeline(result.run_id)
        assert timeline.state_at(len(timeline)) == result.state
        assert timeline.path() == ["first", "second"]
        await rt.stop()


# -- abort
async def test_aborting_a_step_on_the_loop(runtime, any_store):
    """Aborting cancels the running step; the run ends aborted with who and why, and the state of its last commit."""
    told = []

    async def work():
        try:
            await forever()
        finally:
            told.append("cleaned")

    rt = await runtime(one_step(work), store=any_store)
    receipt = await rt.emit("go", n=1)
    await rt.clock.run_until_idle()
    await rt.abort(receipt.run_ids[0], "enough")
    result = await rt.wait(receipt.run_ids[0])
    assert (result.status, str(result.error)) == ("aborted", "RunAborted: aborted by api: enough")
    assert result.error.code == "RUN_ABORTED"
    assert result.state == {"n": 1}
    assert not result.ok
    assert told == ["cleaned"]
    await rt.abort(receipt.run_ids[0])
    entry = (await rt.timeline(receipt.run_ids[0])).entries[-1]
    assert (entry.type, entry.payload) == ("pipeline:abort", {"reason": "enough", "by": "api"})


async def test_aborting_before_the_run_has_begun(runtime, any_store):
    """An abort that comes right after the emit, before the run's first step, ends it without a step."""
    ran = []

    async def work():
        ran.append(1)
        await forever()

    rt = await runtime(one_step(work), store=any_store)
    receipt = await rt.emit("go")
    await rt.abort(receipt.run_ids[0], "at once")
    assert (await rt.wait(receipt.run_ids[0], 60)).status == "aborted"


async def test_aborting_at_every_moment(runtime, any_store):
    """Whenever an abort comes, a run ends exactly once: aborted, or what it came to before; and never hangs."""
    wf = Workflow("many", mode=Serialized())
    wf.on("go")
    for name in "abc":

        async def work():
            await asyncio.sleep(0)  # noqa: TID251 - a place to be interrupted at

        wf.step(id=name)(work)
    ended = []
    rt = await runtime(store=any_store)
    await rt.register(wf, on_complete=lambda result: ended.append((result.run_id, str(result.status))))
    statuses = set()
    for turns in range(40):
        receipt = await rt.emit("go")
        run_id = receipt.run_ids[0]
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251 - another moment each time
        with contextlib.suppress(RunFinished):
            await rt.abort(run_id)
        result = await rt.wait(run_id, 60)
        assert (await rt.get_run(run_id)).status == result.status
        statuses.add(str(result.status))
        assert ended.count((run_id, str(result.status))) == 1
    assert len(ended) == 40
    assert statuses >= {"aborted"}
    [(_, token)] = await rt.store.read_loads([("many", "")])
    assert token is None


async def test_aborting_a_step_in_a_thread(runtime, any_store):
    """A step in a thread is left behind at once, sees `cancelled`, and its late result goes nowhere."""
    entered, leave, seen = threading.Event(), threading.Event(), []

    def work(ctx: StepContext):
        entered.set()
        leave.wait(LAST_RESORT)
        seen.append(ctx.cancelled)
        return {"late": True}

    rt = await runtime(one_step(work), store=any_store)
    receipt = await rt.emit("go")
    assert await asyncio.to_thread(entered.wait, LAST_RESORT)
    await rt.abort(receipt.run_ids[0])
    result = await rt.wait(receipt.run_ids[0])
    assert (result.status, dict(result.state)) == ("aborted", {})
    leave.set()
    for thread in threading.enumerate():
        if thread.name.startswith("poundlock-step"):
            await asyncio.to_thread(thread.join, LAST_RESORT)
    assert seen == [True]
    assert dict((await rt.wait(receipt.run_ids[0])).state) == {}


async def test_aborting_a_step_that_waits_for_its_next_attempt(runtime, vclock):
    """A retry wait ends at once with the run; no time passes."""

    async def work():
        raise RuntimeError("again")

    wf = Workflow("one")
    wf.on("go")
    wf.step(retry=Retry(5, backoff="1d", max="1d"))(work)
    rt = await runtime(wf)
    vclock.autojump = False
    began = vclock.now()
    receipt = await rt.emit("go")
    await vclock.run_until_idle()
    await rt.abort(receipt.run_ids[0])
    assert (await rt.wait(receipt.run_ids[0])).status == "aborted"
    assert vclock.now() == began
    vclock.autojump = True


async def test_aborting_a_delayed_run(runtime, vclock, any_store):
    """A delayed run is aborted when the call returns, and its time never comes."""

    async def work():
        return {"a": 1}

    wf = Workflow("late")
    wf.on("go")
    wf.step(work)

    @wf.route(after="work")
    def later():
        return Delay("30d")

    @wf.step
    async def after():
        return {"b": 1}

    vclock.autojump = False
    rt = await runtime(wf, store=any_store)
    receipt = await rt.emit("go")
    await vclock.run_until_idle()
    assert (await rt.get_run(receipt.run_ids[0])).status is RunStatus.DELAYED
    await rt.abort(receipt.run_ids[0], "no")
    assert (await rt.get_run(receipt.run_ids[0])).status is RunStatus.ABORTED
    await vclock.run_for(days=31)
    assert (await rt.wait(receipt.run_ids[0])).state == {"a": 1}
    vclock.autojump = True


async def test_aborting_an_invoked_run_that_is_not_written_yet(runtime, any_store):
    """A run that has no row yet can be aborted all the same; the caller of `run` gets the aborted result."""
    ids = []

    async def work(ctx: StepContext):
        ids.append(ctx.run_id)
        await forever()

    rt = await runtime(one_step(work), store=any_store)
    running = asyncio.create_task(rt.run("one"))
    await rt.clock.run_until_idle()
    await rt.abort(ids[0], "why")
    assert (await running).status == "aborted"
    assert (await rt.get_run(ids[0])).status is RunStatus.ABORTED


@pytest.mark.parametrize("hook", ["on_prepare"])
async def test_aborting_while_a_hook_runs_before_the_first_stage(runtime, any_store, hook):
    """An abort also interrupts the hooks that come before a run goes on."""

    async def work():
        return None

    async def slow(ctx):
        await forever()

    rt = await runtime(store=any_store)
    await rt.register(one_step(work), **{hook: slow})
    receipt = await rt.emit("go")
    await rt.clock.run_until_idle()
    await rt.abort(receipt.run_ids[0])
    assert (await rt.wait(receipt.run_ids[0], 60)).status == "aborted"


async def test_aborting_while_a_router_decides(runtime, any_store):
    """An abort interrupts an async router, and the stage it belongs to leaves no patch."""
    wf = Workflow("one")
    wf.on("go")

    @wf.step
    async def work():
        return {"patched": True}

    @wf.route(after="work")
    async def think(state):
        await forever()

    rt = await runtime(wf, store=any_store)
    receipt = await rt.emit("go")
    await rt.clock.run_until_idle()
    await rt.abort(receipt.run_ids[0])
    result = await rt.wait(receipt.run_ids[0], 60)
    assert (result.status, dict(result.state)) == ("aborted", {})
    timeline = await rt.timeline(result.run_id)
    assert timeline.state_at(len(timeline)) == {}


async def test_finished_and_unknown_runs_cannot_be_aborted(runtime, any_store):
    """Aborting a completed run is RunFinished, an unknown one RunNotFound."""

    async def work():
        return None

    rt = await runtime(one_step(work), store=any_store)
    result = await rt.run("one")
    with pytest.raises(RunFinished):
        await rt.abort(result.run_id)
    with pytest.raises(RunNotFound):
        await rt.abort("nobody")


async def test_a_step_that_ignores_its_abort_is_left_behind(runtime, vclock, any_store, caplog):
    """After abort_grace a step that swallows cancellation is left behind, and what it then does is fenced off."""
    leave = asyncio.Event()

    async def work():
        while not leave.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await leave.wait()
        return {"zombie": True}

    began = vclock.now()
    rt = await runtime(one_step(work, mode=Serialized()), abort_grace=5, store=any_store)
    receipt, following = await rt.emit("go"), await rt.emit("go")
    await vclock.run_until_idle()
    await rt.abort(receipt.run_ids[0], "now")
    result = await rt.wait(receipt.run_ids[0])
    assert (result.status, vclock.now() - began) == ("aborted", 5.0)
    assert "did not react to its abort" in caplog.text
    leave.set()
    assert [r.status for r in await following.results()] == ["completed"]
    await vclock.run_until_idle()
    assert dict((await rt.wait(receipt.run_ids[0])).state) == {}


async def test_deregister_abort_does_not_wait_for_who_never_stops(runtime, vclock):
    """`deregister(active="abort")` returns after the grace although a step swallows its cancellation."""
    leave = asyncio.Event()

    async def work():
        while not leave.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await leave.wait()

    rt = await runtime(one_step(work), abort_grace=5)
    receipt = await rt.emit("go")
    await vclock.run_until_idle()
    await rt.deregister("one", active="abort")
    assert (await rt.get_run(receipt.run_ids[0])).status is RunStatus.ABORTED
    leave.set()


# -- stop
async def test_stop_lets_runs_reach_a_boundary(runtime, gate, any_store):
    """Stopping lets each run reach its next boundary; in a new runtime on the same store it goes on from there."""
    ran = []

    def build(gate):
        wf = Workflow("two")
        wf.on("go")

        @wf.step
        async def first():
            ran.append("first")
            await gate()
            return {"first": True}

        @wf.step
        async def second():
            ran.append("second")
            return {"second": True}

        return wf

    rt = await runtime(build(gate), store=any_store)
    receipt = await rt.emit("go")
    waiting = [asyncio.create_task(receipt.results()), asyncio.create_task(rt.wait(receipt.run_ids[0]))]
    await rt.clock.run_until_idle()
    stopping = asyncio.create_task(rt.stop())
    await asyncio.sleep(0)  # noqa: TID251 - lets it begin
    gate.open()
    await stopping
    for task in waiting:
        with pytest.raises(RuntimeStopped):
            await task
    assert ran == ["first"]
    rt = await runtime(build(gate), store=any_store)
    assert (await rt.wait(receipt.run_ids[0])).state == {"first": True, "second": True}
    assert ran == ["first", "second"]


async def test_stop_interrupts_who_does_not_reach_one(runtime, gate, vclock, any_store):
    """What reaches no boundary within the drain is interrupted where it is, and begins its stage again later."""
    began = vclock.now()

    def build(action):
        return one_step(action)

    rt = await runtime(build(lambda_gate(gate)), store=any_store)
    receipt = await rt.emit("go", n=1)
    await vclock.run_until_idle()
    await rt.stop(drain="7s")
    assert vclock.now() - began == 7.0

    async def quick():
        return {"done": True}

    rt = await runtime(build(quick), store=any_store)
    assert (await rt.wait(receipt.run_ids[0])).state == {"n": 1, "done": True}


async def test_stop_is_bounded_and_answers_everybody(runtime, vclock):
    """A step that swallows its cancellation does not keep `stop` from returning, nor its caller from hearing of it."""
    leave = asyncio.Event()

    async def work():
        while not leave.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await leave.wait()

    rt = await runtime(one_step(work), abort_grace=3)
    running = asyncio.create_task(rt.run("one"))
    await vclock.run_until_idle()
    await rt.stop(drain=0)
    with pytest.raises(RuntimeStopped):
        await running
    leave.set()


async def test_stop_during_a_hook_still_gives_the_result(runtime, vclock):
    """A run that has ended is answered with its result, although stopping interrupts its hook."""

    async def slow(result):
        await forever()

    async def work():
        return {"done": True}

    rt = await runtime()
    await rt.register(one_step(work), on_complete=slow)
    running = asyncio.create_task(rt.run("one"))
    await vclock.run_until_idle()
    await rt.stop(drain=0)
    assert (await running).state == {"done": True}


async def test_a_stopped_runtime_refuses_work(runtime):
    """After stop every call that would start something raises RuntimeStopped; stopping again does nothing."""

    async def work():
        return None

    rt = await runtime(one_step(work))
    await rt.stop()
    await rt.stop()
    for call in (rt.emit("go"), rt.run("one"), rt.explain("go"), rt.register(one_step(work, "b")), rt.invoke("one")):
        with pytest.raises(RuntimeStopped):
            await call


async def test_leaving_on_an_exception_does_not_drain(vclock):
    """Leaving `async with` by an exception interrupts at once instead of waiting for boundaries."""
    from poundlock import WorkflowRuntime

    began = vclock.now()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - leaving by an exception is what is tested
        async with WorkflowRuntime(one_step(forever), clock=vclock) as rt:
            await rt.emit("go")
            await vclock.run_until_idle()
            _ = 1 / 0
    assert vclock.now() == began


# -- deregister with runs
async def test_deregister_lets_active_runs_finish(runtime, gate, any_store):
    """By default deregister waits for active runs; queued ones stay in the store and go on after registering again."""
    wf = one_step(lambda_gate(gate), mode=Serialized())
    rt = await runtime(wf, store=any_store)
    first, queued = await rt.emit("go"), await rt.emit("go")
    await rt.clock.run_until_idle()
    leaving = asyncio.create_task(rt.deregister("one"))
    await asyncio.sleep(0)  # noqa: TID251 - lets it begin
    assert [str(verdict) for verdict in (await rt.emit("go")).verdicts] == ["unmatched"]
    gate.open()
    await leaving
    assert (await rt.get_run(first.run_ids[0])).status is RunStatus.COMPLETED
    assert (await rt.get_run(queued.run_ids[0])).status in (RunStatus.QUEUED, RunStatus.READY)
    assert not rt.has_workflow("one")
    await rt.register(wf)
    assert (await rt.wait(queued.run_ids[0], 60)).status == "completed"


async def test_deregister_may_abort_active_runs(runtime, any_store):
    """With active="abort" running runs end aborted, by "deregister"."""
    rt = await runtime(one_step(forever), store=any_store)
    receipt = await rt.emit("go")
    await rt.clock.run_until_idle()
    await rt.deregister("one", active="abort")
    info = await rt.get_run(receipt.run_ids[0])
    assert info.status is RunStatus.ABORTED
    assert "deregister" in info.error.message


async def test_what_an_ended_run_shows_is_not_part_of_another_run(any_store, gate):
    """Two runs begin with one event: whatever is done to the result of one, the state of the other stays as it is."""
    quick, slow = Workflow("quick"), Workflow("slow")

    @quick.on("go")
    @quick.step
    async def look():
        return None

    @slow.on("go")
    @slow.step
    async def wait(items):
        await gate()
        return {"seen": 1}

    @slow.step
    async def then(items):
        return {"items_then": items}

    async with WorkflowRuntime(quick, slow, store=any_store) as rt:
        receipt = await rt.emit("go", items=[1, {"a": [2]}])
        first, second = (line.run_id for line in sorted(receipt.lines, key=lambda line: line.workflow_id))
        result = await rt.wait(first)
        dict.__getitem__(result.state, "items").append("changed")  # as code in C reaches it
        gate.open()
        assert (await rt.wait(second)).state["items_then"] == [1, {"a": [2]}]


async def test_what_an_ended_run_shows_is_not_part_of_a_message(runtime, any_store, gate):
    """An event begins one run and is buffered by another: whatever is done to the result of one, the other gets it."""
    quick, waits = Workflow("quick"), Workflow("waits")

    @quick.on("go")
    @quick.step
    async def look():
        return None

    @waits.step
    async def before():
        await gate()
        return {"seen": 1}

    waits.wait("told", on="go")

    rt = await runtime(quick, waits, store=any_store)
    waiting = asyncio.create_task(rt.run("waits"))
    await rt.clock.run_until_idle()
    receipt = await rt.emit("go", items=[1, {"a": [2]}])
    assert receipt.verdicts == ["started", "buffered"]
    [result] = await receipt.results()
    dict.__getitem__(result.state, "items").append("changed")  # as code in C reaches it
    gate.open()
    assert (await waiting).state["items"] == [1, {"a": [2]}]
