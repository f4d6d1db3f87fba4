"""What users give the runtime besides steps may do anything: conditions, maps, keys, hooks and clean-ups."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from support_nasty import RAISES, Bad, throw

from poundlock import (
    InvalidEvent,
    RunStatus,
    Serialized,
    Service,
    StepContext,
    Transient,
    Trigger,
    Verdict,
    Workflow,
    WorkflowRuntime,
)

COMPLETED, ABORTED = RunStatus.COMPLETED, RunStatus.ABORTED


def simple(mode=None, **options):
    wf = Workflow("w", mode=mode, **options)

    @wf.step
    async def work(n: int = 0):
        return {"n": n}

    return wf


def cancels_itself(_event):
    asyncio.current_task().cancel()
    return True


# ------------------------------------------------------------------------------------------- when, map and key
@pytest.mark.parametrize("place", ["when", "map", "key", "mode's key"])
@pytest.mark.parametrize("raises", [*RAISES, "cancels itself"])
async def test_what_functions_of_an_event_raise_is_one_rejected_line(vclock, place, raises):
    """Whatever `when`, `map` or `key` raise is told in their line; other workflows and the emitter go on."""

    def bad(event):
        return cancels_itself(event) if raises == "cancels itself" else throw(raises)

    mode = Transient(key=bad) if place == "mode's key" else None
    options = {place: bad} if place != "mode's key" else {}
    wf = simple(mode, triggers={"go": Trigger("go", **options)})
    other = Workflow("other", triggers={"go": Trigger("go")}, pipelines=simple().definition.pipelines)
    async with WorkflowRuntime(wf, other, clock=vclock) as rt:
        receipt = await rt.emit("go", n=1)
        first, second = receipt.lines
        assert (first.verdict, second.verdict) == (Verdict.REJECTED, Verdict.STARTED)
        assert first.reason
        assert [result.status for result in await receipt.results()] == [COMPLETED]
        assert asyncio.current_task().cancelling() == 0
        dry = await rt.explain("go", n=1)
        assert dry.lines[0].verdict is Verdict.REJECTED


@pytest.mark.parametrize("raises", RAISES)
async def test_what_map_raises_reaches_who_invokes(vclock, raises):
    """An invocation whose `map` raises gets the error, a BaseException as InvalidEvent, and no run is made."""
    error = RAISES[raises]()

    def bad(_event):
        raise error

    wf = simple(triggers={"go": Trigger("go", map=bad)})
    async with WorkflowRuntime(wf, clock=vclock) as rt:
        with pytest.raises(Exception) as raised:
            await rt.run("w")
        passes = isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration))
        assert raised.value is error if passes else isinstance(raised.value, InvalidEvent)
        assert (await rt.find_runs()).items == []


# --------------------------------------------------------------------------------------------------------- hooks
def hooks_of(name, act):
    return {name: lambda *_args: act()}


@pytest.mark.parametrize("hook", ["on_complete", "on_cleanup", "on_resume", "on_dispatch"])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("raises", RAISES)
async def test_a_hook_may_raise_anything(runtime, hook, kind, raises):
    """Whatever a hook raises is logged; the run completes and answers, its slot is free, the next one runs."""

    async def later():
        throw(raises)

    def act(*_args):
        return later() if kind == "async" else throw(raises)

    wf = simple(Serialized())
    wf.on("go")
    wf.wait("ok", on="ok")
    rt = await runtime()
    await rt.register(wf, **{hook: act})
    for n in range(2):
        [run_id] = (await rt.emit("go", n=n)).run_ids
        waiting = asyncio.create_task(rt.wait(run_id))
        await rt.clock.run_until_idle()
        await rt.emit("ok")
        assert (await waiting).status is COMPLETED


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("hook", ["on_complete", "on_cleanup", "on_resume"])
async def test_a_hook_that_hangs_is_cancelled_in_time(runtime, vclock, hook, deaf):
    """A hook has `hook_timeout` seconds, also one that does not react to its cancellation; the run answers then."""
    leave = asyncio.Event()

    async def hangs(*_args):
        while not leave.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await leave.wait()
                return
            if not deaf:
                raise asyncio.CancelledError

    wf = simple()
    wf.wait("ok", on="ok")
    rt = await runtime(hook_timeout=5, abort_grace=1)
    await rt.register(wf, **{hook: hangs})
    run = await rt.run("w")
    before = vclock.monotonic()
    result = await rt.resume(run.run_id)
    assert result.status is COMPLETED
    assert vclock.monotonic() - before == pytest.approx(6 if deaf else 5, abs=1.01)
    leave.set()


@pytest.mark.parametrize("what", ["is cancelled", "raises", "returns"])
async def test_on_prepare_that_hangs_fails_its_run(stores, what):
    """It has `hook_timeout` seconds, whatever it makes of its cancellation; then its slot is free."""
    wf = simple(Serialized())
    wf.on("go")
    hangs = [True]

    async def prepare(_ctx):
        if not hangs.pop():
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if what == "raises":
                raise ConnectionError("gone") from None
            if what == "is cancelled":
                raise

    rt = await stores.enter(hook_timeout=5)
    await rt.register(wf, on_prepare=prepare)
    [late] = (await rt.emit("go")).run_ids
    [queued] = (await rt.emit("go")).run_ids
    hangs.insert(0, False)
    before = stores.clock.monotonic()
    result = await rt.wait(late)
    assert (result.status, result.error.type, result.error.step) == (RunStatus.FAILED, "HookTimeout", "on_prepare")
    assert stores.clock.monotonic() - before == pytest.approx(5, abs=0.01)
    assert (await rt.wait(queued)).status is COMPLETED


async def test_an_abort_reaches_a_run_in_its_hook(runtime, vclock):
    """A run whose `on_resume` hook hangs can be aborted before its time is over."""

    async def hangs(*_args):
        await asyncio.get_running_loop().create_future()

    wf = simple()
    wf.wait("ok", on="ok")
    rt = await runtime(hook_timeout=1000)
    await rt.register(wf, on_resume=hangs)
    run = await rt.run("w")
    resuming = asyncio.create_task(rt.resume(run.run_id))
    await vclock.run_until_idle()
    before = vclock.monotonic()
    await rt.abort(run.run_id, "enough")
    assert (await resuming).status is ABORTED
    assert vclock.monotonic() == before


@pytest.mark.parametrize("raises", RAISES)
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_clean_up_may_raise_anything(runtime, raises, kind):
    """Whatever the clean-up of a run's service raises is logged; the run has completed and answers."""

    def service(ctx):
        async def later():
            throw(raises)

        ctx.on_cleanup(later if kind == "async" else lambda: throw(raises))
        return "it"

    wf = Workflow("w", services=[Service("it", service, scope="run")])

    @wf.step
    async def work(ctx: StepContext):
        await ctx.use(lambda deps: deps.require("it"))

    rt = await runtime(wf)
    assert (await rt.run("w")).status is COMPLETED
    assert rt.list_all_runs() == []


async def test_a_bus_that_refuses_a_subscription_ends_no_run(vclock):
    """A router's wait that the bus cannot listen for is logged; the run is paused and answers all the same."""
    wf = Workflow("w")

    @wf.step
    async def work():
        pass

    @wf.route(after="work")
    def ask():
        from poundlock import Pause, Wait

        return Pause(Wait("strange.event", id="gate"))

    async with WorkflowRuntime(wf, clock=vclock) as rt:

        def refuse(_pattern, _handler):
            raise Bad

        rt.bus.subscribe_publications = refuse
        run = await rt.run("w")
        assert run.status is RunStatus.PAUSED
        assert (await rt.resume(run.run_id)).status is COMPLETED


# ------------------------------------------------------------------------------------- cancellations from elsewhere
async def first_result(receipt):
    return (await receipt.results())[0]


@pytest.mark.parametrize("how", ["emitted", "serialized", "invoked"])
async def test_a_task_that_somebody_cancels_in_a_commit_is_replaced(stores, how):
    """A run whose task is cancelled by user code while its commit is under way goes on; nobody waits for ever."""
    ran = []
    wf = Workflow("w", mode=Serialized() if how == "serialized" else None)
    wf.on("go")

    @wf.step
    async def one():
        ran.append("one")

    @wf.step
    async def two():
        ran.append("two")

    rt = await stores.enter(wf)
    store = rt.store
    store.hold = lambda changes: any(move.status == "running" or move.status.terminal for move in changes.moves)
    if how == "invoked":
        waiting = [asyncio.create_task(rt.invoke("w", run_id=name)) for name in ("a", "b")]
    else:
        waiting = [asyncio.create_task(first_result(await rt.emit("go"))) for _ in range(2)]
    cancelled = 0
    while not all(task.done() for task in waiting):
        await stores.clock.run_until_idle()
        assert store.held or all(task.done() for task in waiting), "all is idle, and somebody still waits"
        for held in list(store.held):
            driven = [live for live in rt._core.runs.all_driven() if live.alive]
            if cancelled < 6:
                cancelled += 1
                for live in driven:
                    live.task.cancel()
            await stores.clock.run_until_idle()
            if held in store.held:
                held.release()
            await stores.clock.run_until_idle()
    assert cancelled
    assert [task.result().status for task in waiting] == [COMPLETED, COMPLETED]
    assert {task.result().metadata["attempt"] for task in waiting} == {1}
    assert rt.list_all_runs() == []


async def test_a_cancelled_poller_goes_on(stores):
    """Runs that are due are still found after somebody cancelled the task that looks for them."""
    wf = Workflow("w")
    wf.wait("ok", on="ok", timeout="1h", on_timeout="resume")
    rt = await stores.enter(wf)
    run = await rt.run("w")
    [poller] = [task for task in asyncio.all_tasks() if task.get_name() == "poundlock-poller"]
    poller.cancel()
    await stores.clock.run_until_idle()
    await stores.clock.run_for("2h")
    assert (await rt.wait(run.run_id, 60)).status is COMPLETED


# ---------------------------------------------------------------------------------------------- blocking the loop
@pytest.mark.parametrize("place", ["when", "map", "key", "on_complete", "on_dispatch", "step", "router", "patch"])
async def test_a_plain_function_that_blocks_the_loop_is_named(runtime, vclock, caplog, place):
    """A `def` that holds the event loop up for seconds is named in the log; a quick one is not."""

    def slowly(*_args, **_kwargs):
        vclock.advance(3)

    def slow_when(_event):
        slowly()
        return True

    def slow_key(_event):
        slowly()
        return "key"

    def slow_map(_event):
        slowly()
        return {}

    def slow_hook(_about):
        slowly()

    def slow_step():
        slowly()

    def slow_router():
        slowly()

    def slow_patch(_event):
        slowly()
        return {}

    functions = {"when": slow_when, "map": slow_map, "key": slow_key}
    wf = Workflow("w", triggers={"go": Trigger("go", **{name: functions[name] for name in functions if name == place})})

    @wf.step(id="inline", executor="inline")
    def work():
        return slow_step() if place == "step" else None

    @wf.route(after="inline")
    def decide():
        return slow_router() if place == "router" else None

    wf.wait("ok", on="ok", patch=slow_patch if place == "patch" else None)
    vclock.autojump = False
    rt = await runtime()
    await rt.register(wf, **({place: slow_hook} if place.startswith("on_") else {}))
    [run_id] = (await rt.emit("go")).run_ids
    await vclock.run_until_idle()
    await rt.emit("ok")
    assert (await rt.wait(run_id)).status is COMPLETED
    named = {"step": "work", "router": "decide"}.get(place, functions.get(place, slow_hook).__name__)
    if place == "patch":
        named = "slow_patch"
    said = [record.getMessage() for record in caplog.records if "blocked the event loop" in record.getMessage()]
    assert len(said) == (2 if place == "on_dispatch" else 1)
    assert all(named in text and "3.0 s" in text for text in said)
