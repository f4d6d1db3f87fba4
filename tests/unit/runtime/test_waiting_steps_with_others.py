"""Steps that wait, and durabilities, together with deadlines, children and processes."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import Pending, Pipeline, Retry, RetryAfter, Stage, Step, StepContext, Trigger, Workflow
from poundlock.testing import run_until_idle

LEVELS = ("stage", "step", "async", "exit", "none")


async def begin(rt, **payload):
    [run_id] = (await rt.emit("begin", payload)).run_ids
    return run_id


def one(step, **options):
    late = Stage("late", [Step("late", lambda: {"late": True})], aside=True)
    pipelines = [Pipeline("main", [Stage("work", [step]), late])]
    return Workflow("w", triggers={"t": Trigger("begin")}, pipelines=pipelines, **options)


async def fails():
    raise RetryAfter("3h")


# ------------------------------------------------------------------------------------------------------- deadlines
@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize(("on_timeout", "status"), [("fail", "failed"), ("abort", "aborted"), ("late", "completed")])
@pytest.mark.parametrize("kind", ["retry", "poll"])
async def test_a_deadline_while_a_step_waits(stores, kind, on_timeout, status, crash):
    """The deadline of a run ends the wait of its step at its moment, whether the run is parked or not."""
    clock = stores.clock
    clock.autojump = False
    began = clock.now()

    def made():
        if kind == "retry":
            step = Step("s", fails, retry=Retry(9))
        else:
            step = Step("s", lambda: 1, poll=lambda job: Pending(), every="3h")
        return one(step, timeout="2h", on_timeout=on_timeout)

    rt = await stores.enter(made())
    run_id = await begin(rt)
    await clock.run_for(minutes=30)
    assert (await rt.get_run(run_id)).status == "delayed"
    if crash:
        await stores.crash(rt)
        rt = await stores.enter(made())
    await clock.run_for(hours=9)
    result = await rt.wait(run_id)
    assert (result.status, result.state.get("late")) == (status, True if status == "completed" else None)
    ended = [entry.time for entry in (await rt.timeline(run_id)).entries if entry.type == "pipeline:timeout"]
    assert ended == [began + 7200]
    record = await rt.store.load(run_id)
    assert [row.wait_id for row in record.waits if row.wait_id == "__visit__"] == []


async def test_a_deadline_while_a_commit_is_in_flight(stores):
    """The run goes on at the stage of its deadline behind the commit that was under way."""
    clock = stores.clock
    clock.autojump = False

    async def act():
        raise OSError("no")

    rt = await stores.enter(one(Step("s", act, retry=Retry(9, backoff=30)), timeout=10, on_timeout="late"))
    rt.store.hold = lambda changes: any(
        row.wait_id == "__visit__" for move in changes.moves for row in (move.waits or ())
    )
    run_id = await begin(rt)
    [commit] = await rt.store.until_held()
    await clock.run_for(15)
    assert (await rt.get_run(run_id)).status == "running"
    rt.store.hold = None
    commit.release()
    assert (await rt.wait(run_id)).state["late"] is True


# -------------------------------------------------------------------------------------------------------- children
def family(level, block=None, ran=None, reached=None):
    wf = Workflow("w", durability=level)
    child = wf.pipeline("child")

    @child.step
    async def work(ctx: StepContext):
        if ran is not None:
            ran.append(ctx.run_id)
        if reached is not None:
            reached.set()
        if block is not None:
            await block.wait()
        return {"done": True}

    wf.on("begin")
    wf.step(lambda: {"first": 1}, id="first")
    wf.fork(child, id="kids")
    wf.step(lambda: {"last": 1}, id="last")
    return wf


@pytest.mark.parametrize("level", LEVELS)
async def test_children_whatever_the_durability(stores, level):
    """A stage with children starts them with a commit, and goes on when they have ended."""
    rt = await stores.enter(family(level))
    result = await rt.wait(await begin(rt))
    assert (result.status, result.state["kids"]["child"]["done"], result.state["last"]) == ("completed", True, 1)


@pytest.mark.parametrize("level", LEVELS)
async def test_a_kill_while_children_run(stores, level):
    """After a kill no child is started twice, and the parent waits for it as before."""
    block, reached, ran = asyncio.Event(), asyncio.Event(), []
    rt = await stores.enter(family(level, block, ran, reached))
    run_id = await begin(rt)
    await reached.wait()
    await run_until_idle(stores.clock)
    await stores.crash(rt)
    block.set()
    rt = await stores.enter(family(level, block, ran))
    result = await rt.wait(run_id)
    assert len(set(ran)) == 1
    if level == "none":  # the child was under way: it is lost, and its parent fails with it
        assert (result.status, result.error.code) == ("failed", "CHILD_FAILED")
    else:
        assert (result.status, result.state["last"]) == ("completed", 1)


async def test_a_child_that_is_parked(stores):
    """A child whose step waits for hours is delayed; its parent goes on when it has ended."""
    clock = stores.clock
    clock.autojump = False

    def made():
        wf = Workflow("w")
        child = wf.pipeline("child")

        @child.step(retry=Retry(2))
        async def work(ctx: StepContext):
            if ctx.attempt == 1:
                raise RetryAfter("5h")
            return {"done": ctx.attempt}

        wf.on("begin")
        wf.fork(child, id="kids")
        return wf

    rt = await stores.enter(made())
    run_id = await begin(rt)
    await clock.run_for(hours=1)
    statuses = sorted(str(info.status) for info in (await rt.find_runs()).items)
    assert "delayed" in statuses
    await stores.crash(rt)
    rt = await stores.enter(made())
    await clock.run_for(hours=5)
    assert (await rt.wait(run_id)).state["kids"]["child"]["done"] == 2


# ------------------------------------------------------------------------------------------------------- processes
def begin_it(n: int):
    return n * 2


def look(job: int):
    return {"came": job + 1}


async def test_polling_in_a_process(stores):
    """With `executor="process"` the step and its poll function are called in a process."""
    rt = await stores.enter(one(Step("s", begin_it, poll=look, every=10, executor="process")))
    assert (await rt.wait(await begin(rt, n=2))).state["came"] == 5
