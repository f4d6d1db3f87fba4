"""When time runs out for a wait, and delays."""

from __future__ import annotations

import pytest

from poundlock import Delay, Pause, Pipeline, RunStatus, Stage, Step, Trigger, Wait, Workflow

COMPLETED, PAUSED, DELAYED = RunStatus.COMPLETED, RunStatus.PAUSED, RunStatus.DELAYED


def waiting(on_timeout, ran):
    def step(name):
        async def run(ctx):
            ran.append(name)
            return {"why": ctx.resume.reason if ctx.resume else None}

        return Step(name, run)

    def seen(resume):
        ran.append(f"router {resume.reason}" if resume else "router")

    stages = [
        Stage("one", [step("one")], router=Pause(Wait("go", timeout=60, on_timeout=on_timeout, id="w"))),
        Stage("two", [step("two")], router=seen),
        Stage("late", [step("late")], router=seen),
    ]
    return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)])


async def begin(rt):
    [result] = await (await rt.emit("begin")).results(10)
    return result


@pytest.mark.parametrize("window", [0, 600])
@pytest.mark.parametrize(
    ("on_timeout", "status", "order"),
    [
        ("fail", "failed", ["one"]),
        ("abort", "aborted", ["one"]),
        ("resume", "completed", ["one", "two", "router timeout", "late", "router"]),
        ("late", "completed", ["one", "late", "router timeout"]),
    ],
)
async def test_what_a_timeout_does(stores, window, on_timeout, status, order):
    """A wait that nobody answers ends as it says, at its time and not before, once."""
    ran = []
    stores.clock.autojump = False
    rt = await stores.enter(waiting(on_timeout, ran), pause_window=window)
    run = await begin(rt)
    assert [wait.expires_at for wait in run.waits] == [stores.clock.now() + 60]
    await stores.clock.run_for(59.9)
    assert (await rt.get_run(run.run_id)).status is PAUSED
    await stores.clock.run_for(0.2)
    result = await rt.wait(run.run_id)
    assert (result.status, ran) == (status, order)
    assert [*(await rt.timeline(run.run_id)).types()].count("wait:expired") == 1
    if status == "failed":
        assert (result.error.type, result.error.code) == ("WaitExpired", "WAIT_EXPIRED")
    if status == "aborted":
        assert "by timeout" in result.error.message


@pytest.mark.parametrize("ending", ["stop", "crash"])
@pytest.mark.parametrize("down", [30, 120])
async def test_a_timeout_survives_a_restart(stores, ending, down):
    """A wait expires at its time also if the runtime was away meanwhile; what fell due then is done at the start."""
    ran = []
    stores.clock.autojump = False
    rt = await stores.enter(waiting("resume", ran))
    run = await begin(rt)
    await (rt.stop() if ending == "stop" else stores.crash(rt))
    stores.clock.advance(down)
    rt = await stores.enter(waiting("resume", ran))
    await stores.clock.run_until_idle()
    if down < 60:
        assert (await rt.get_run(run.run_id)).status is PAUSED
        await stores.clock.run_for(60 - down + 0.1)
    result = await rt.wait(run.run_id)
    assert (result.status, ran) == (COMPLETED, ["one", "two", "router timeout", "late", "router"])


@pytest.mark.parametrize("ending", ["stop", "crash"])
@pytest.mark.parametrize("down", [30, 120])
async def test_a_delay_survives_a_restart(stores, ending, down):
    """A delayed run goes on at its time, also in the next runtime, not before, and its next step is told why."""
    ran = []

    def workflow():
        async def one():
            ran.append("one")

        async def two(ctx):
            ran.append(("two", ctx.resume.reason, ctx.resume.wait))

        async def three(ctx):
            ran.append(("three", ctx.resume))

        stages = [
            Stage("one", [Step("one", one)], router=Delay(60)),
            Stage("two", [Step("two", two)]),
            Stage("three", [Step("three", three)]),
        ]
        return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)])

    stores.clock.autojump = False
    rt = await stores.enter(workflow())
    [run_id] = (await rt.emit("begin")).run_ids
    await stores.clock.run_until_idle()
    assert (await rt.get_run(run_id)).status is DELAYED
    await (rt.stop() if ending == "stop" else stores.crash(rt))
    stores.clock.advance(down)
    rt = await stores.enter(workflow())
    await stores.clock.run_until_idle()
    if down < 60:
        assert (await rt.get_run(run_id)).status is DELAYED
        await stores.clock.run_for(60 - down + 0.1)
    assert (await rt.wait(run_id)).status is COMPLETED
    assert ran == ["one", ("two", "delay", None), ("three", None)]


async def test_an_answer_calls_the_timeout_off(stores):
    """Once a wait was answered its time passes without any effect."""
    ran = []
    stores.clock.autojump = False
    rt = await stores.enter(waiting("fail", ran))
    run = await begin(rt)
    await stores.clock.run_for(59)
    await rt.emit("go")
    await stores.clock.run_for(120)
    assert (await rt.wait(run.run_id)).status is COMPLETED


async def test_a_clock_put_back_makes_no_wait_expire_early(stores):
    """When the system's time jumps back after a wait was due by the wrong time, the run still waits until its time."""
    ran = []
    stores.clock.autojump = False
    rt = await stores.enter(waiting("resume", ran))
    run = await begin(rt)
    start = stores.clock.now()
    stores.clock.set(start - 3600)
    await stores.clock.run_for(3600)
    assert (await rt.get_run(run.run_id)).status is PAUSED
    await stores.clock.run_for(61)
    assert (await rt.wait(run.run_id)).status is COMPLETED
    assert stores.clock.now() >= start + 60
