"""Where a run goes after a stage."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import (
    Advance,
    Delay,
    Fail,
    InvalidDefinition,
    Jump,
    Pause,
    Pipeline,
    RunStatus,
    Stage,
    Step,
    Terminate,
    Wait,
    Workflow,
)


def count(name):
    async def action(state):
        return {name: state.get(name, 0) + 1}

    return action


def flow(*stages, **options):
    return Workflow("wf", pipelines=[Pipeline("main", stages)], **options)


def stage(id, router=None):
    return Stage(id, [Step(id, count(id))], router=router)


async def run(runtime, router, **options):
    rt = await runtime(flow(stage("a", router), stage("b"), stage("c"), **options))
    result = await rt.run("wf")
    return result, (await rt.timeline(result.run_id)).path()


@pytest.mark.parametrize(
    ("router", "path"),
    [
        (None, ["a", "b", "c"]),
        (Advance(), ["a", "b", "c"]),
        (Jump("c"), ["a", "c"]),
        ("c", ["a", "c"]),
        (lambda: None, ["a", "b", "c"]),
        (lambda: "c", ["a", "c"]),
        (lambda state: Jump("c") if state["a"] == 1 else None, ["a", "c"]),
        (lambda state, results: Jump("c") if results["a"] == {"a": 1} == state else None, ["a", "c"]),
        (lambda results: Jump("c") if results["a"] == {"a": 1} else None, ["a", "c"]),
        (lambda event: Jump("c") if event.type == "wf" else None, ["a", "c"]),
        (lambda *, state: Jump("c") if state["a"] else None, ["a", "c"]),
        (lambda state: "a" if state["a"] < 3 else "c", ["a", "a", "a", "c"]),
    ],
    ids=str.split("none advance jump text nothing function state both results event keyword loop"),
)
async def test_routers_choose_the_next_stage(runtime, router, path):
    """Instructions, stage ids and functions of state, results or event, sync or async, decide where a run goes."""
    if router == Jump("c") or router == "c":
        wf = flow(stage("a", router), stage("c"))
        rt = await runtime(wf)
        result = await rt.run("wf")
        taken = (await rt.timeline(result.run_id)).path()
    else:
        result, taken = await run(runtime, router)
    assert result.ok, str(result.error)
    assert taken == path


async def test_an_async_router(runtime):
    """A router may be async."""

    async def decide(state):
        return Terminate({"a": state["a"]})

    result, path = await run(runtime, decide)
    assert (result.status, result.result, path) == ("completed", {"a": 1}, ["a"])


async def test_fail_ends_the_run(runtime):
    """Fail ends the run as failed with its reason; the stage's patch stays."""
    result, path = await run(runtime, lambda: Fail("no stock"))
    assert (result.status, result.error.message, result.error.stage) == ("failed", "no stock", "a")
    assert (path, result.state) == (["a"], {"a": 1})


@pytest.mark.parametrize("by", ["seconds", "text", "until", "past"])
async def test_delay_goes_on_later(runtime, vclock, any_store, by):
    """Delay parks the run until its time, counted by the clock, and then goes on with the next stage."""
    began = vclock.now()
    delay = {
        "seconds": Delay(3600),
        "text": Delay("1h"),
        "until": Delay(until=began + 3600),
        "past": Delay(until=began - 5),
    }[by]
    wf = flow(stage("a", lambda: delay), stage("b"))
    wf.on("go")
    vclock.autojump = False
    rt = await runtime(wf, store=any_store)
    receipt = await rt.emit("go")
    await vclock.run_until_idle()
    if by != "past":
        info = await rt.get_run(receipt.run_ids[0])
        assert (info.status, info.wake_at) == (RunStatus.DELAYED, began + 3600)
        await vclock.run_for(3599)
        assert (await rt.get_run(receipt.run_ids[0])).status is RunStatus.DELAYED
        await vclock.run_for(1)
    assert (await rt.wait(receipt.run_ids[0])).state == {"a": 1, "b": 1}
    vclock.autojump = True


async def test_a_router_may_pause(runtime):
    """A wait made by a router parks the run; resuming goes on where it says."""
    wf = flow(stage("a", lambda state: Pause(Wait("answer"), resume_at="c")), stage("b"), stage("c"))
    rt = await runtime(wf)
    result = await rt.run("wf")
    assert (result.status, [wait.events for wait in result.waits]) == ("paused", [("answer",)])
    result = await rt.resume(result.run_id, {"answered": True})
    assert result.state == {"a": 1, "answered": True, "c": 1}


async def test_a_step_may_route(runtime):
    """A step that returns an instruction routes the run itself."""

    async def ends():
        return Terminate("early")

    rt = await runtime(flow(Stage("a", [Step("s", ends)]), stage("b")))
    result = await rt.run("wf")
    assert (result.status, result.result, dict(result.state)) == ("completed", "early", {})


async def test_two_routing_steps_are_one_too_many(runtime):
    """Where two steps of a stage route the run to different places, the stage fails and commits nothing."""

    async def ends():
        return Terminate()

    async def jumps():
        return Jump("a")

    async def patches():
        return {"lost": True}

    rt = await runtime(flow(Stage("a", [Step("x", ends), Step("y", jumps), Step("z", patches)])))
    result = await rt.run("wf")
    assert (result.status, result.error.code, dict(result.state)) == ("failed", "STEP_FAILED", {})


@pytest.mark.parametrize(
    ("router", "says"),
    [
        (lambda: "revieww", "did you mean 'review'?"),
        (lambda: Jump("revieww"), "did you mean 'review'?"),
        (lambda: Pause(Wait("x"), resume_at="revieww"), "did you mean 'review'?"),
        (lambda: 7, "return an instruction, a stage id or None"),
        (lambda: 1 / 0, "division by zero"),
        (lambda: Terminate({1, 2}), "cannot be stored"),
        (lambda: Delay(None), "either seconds or until"),
        (lambda: Delay("soon"), "not a duration"),
        (lambda: Pause(Wait([])), "at least one event"),
        (lambda: Pause("approved"), "'approved' is not a Wait: Pause(Wait('approved'))"),
    ],
    ids=["text", "jump", "pause", "garbage", "raises", "result", "delay", "duration", "wait", "no wait"],
)
async def test_routers_that_lead_nowhere_fail_the_run_clearly(runtime, router, says):
    """A router that raises, names an unknown stage or returns garbage fails the run, and the stage leaves no patch."""
    rt = await runtime(flow(stage("a", router), stage("review")))
    result = await rt.run("wf")
    assert (result.status, dict(result.state)) == ("failed", {})
    assert says in result.error.message
    assert result.error.stage == "a"


def test_static_routes_are_checked_when_the_workflow_is_built():
    """A route to a stage that does not exist is a fault of the definition, with its path and near matches."""
    with pytest.raises(InvalidDefinition) as caught:
        _ = flow(stage("a", "revieww"), stage("review")).definition
    assert ("pipelines.main.a.router", "there is no stage 'revieww': did you mean 'review'?") in caught.value.faults


async def test_endless_loops_end(runtime):
    """A stage entered more often than the visit limit fails the run instead of looping for ever."""
    rt = await runtime(flow(stage("a", lambda: "a"), visit_limit=50))
    result = await rt.run("wf")
    assert (result.status, result.error.code) == ("failed", "VISIT_LIMIT")
    assert result.state == {"a": 50}
    types = (await rt.timeline(result.run_id)).types()
    assert (types.count("step:start"), types[-3:]) == (50, ["stage:start", "stage:failure", "pipeline:failure"])


async def test_a_loop_gives_each_visit_another_idempotency_key(runtime):
    """Coming back to a stage is another visit: its steps get another idempotency key."""
    keys = []

    async def work(ctx):
        keys.append(ctx.idempotency_key)

    rt = await runtime(flow(Stage("a", [Step("s", work)], router=lambda: "a" if len(keys) < 3 else None)))
    assert (await rt.run("wf")).ok
    assert len(set(keys)) == 3


async def test_other_runs_go_on_beside_a_loop(runtime):
    """A run that loops without ever waiting does not keep the others from going on."""
    stop = []

    async def spins():
        return None

    loop = Workflow(
        "loop",
        pipelines=[Pipeline("main", [Stage("a", [Step("s", spins)], router=lambda: None if stop else "a")])],
        visit_limit=100_000,
    )
    rt = await runtime(loop, flow(stage("a")))
    looping = asyncio.create_task(rt.run("loop"))
    await asyncio.sleep(0)  # noqa: TID251 - lets it begin
    assert (await rt.run("wf")).ok
    assert not looping.done()
    stop.append(True)
    await looping
