"""What a step knows of time: now, sleeping, and its deadline."""

from __future__ import annotations

import asyncio
import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest

from poundlock import Pipeline, Retry, Service, Stage, Step, StepContext, Trigger, Workflow


def workflow(*steps, **options):
    of_stage = {name: options.pop(name) for name in ("stage_timeout",) if name in options}
    stage = Stage("s", steps, timeout=of_stage.get("stage_timeout"))
    return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", [stage])], **options)


async def begin(rt):
    [line] = (await rt.emit("begin")).lines
    return line.run_id


@pytest.mark.parametrize("duration", [90, "1m30s", dt.timedelta(seconds=90)], ids=["number", "text", "timedelta"])
async def test_sleeping(stores, duration):
    """An async step sleeps by the runtime's clock, and sees its time."""
    times = []

    async def step(ctx: StepContext):
        times.append(ctx.now())
        await ctx.sleep(duration)
        times.append(ctx.now())

    rt = await stores.enter(workflow(Step("step", step)))
    start = stores.clock.now()
    assert (await rt.wait(await begin(rt))).status == "completed"
    assert times == [start, start + 90]


async def test_sleeping_in_a_thread(stores):
    """A plain function blocks its thread for as long, by the same clock; awaiting the answer is not needed."""
    times = []

    def step(ctx: StepContext):
        times.append(ctx.now())
        ctx.sleep("1h")
        times.append(ctx.now())
        ctx.sleep(0)
        times.append(ctx.now())

    rt = await stores.enter(workflow(Step("one", step), Step("two", lambda: None, executor="thread")))
    start = stores.clock.now()
    assert (await rt.wait(await begin(rt))).status == "completed"
    assert times == [start, start + 3600, start + 3600]


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_timeout_ends_a_sleep(stores, kind):
    """At once, also in a thread: nothing is left that sleeps on."""
    after = []

    async def on_loop(ctx: StepContext):
        await ctx.sleep("1h")
        after.append("slept")

    def in_thread(ctx: StepContext):
        try:
            ctx.sleep("1h")
        except Exception:
            after.append("caught")
            raise
        after.append("slept")

    step = Step("step", on_loop if kind == "async" else in_thread, timeout="1m")
    rt = await stores.enter(workflow(step))
    start = stores.clock.now()
    result = await rt.wait(await begin(rt))
    assert (result.error.code, stores.clock.now(), after) == ("STEP_TIMEOUT", start + 60, [])
    await stores.clock.run_for(hours=2)
    assert after == []


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_an_abort_ends_a_sleep(stores, kind):
    """No time has to pass."""
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def on_loop(ctx: StepContext):
        reached.set()
        await ctx.sleep("1h")

    def in_thread(ctx: StepContext):
        loop.call_soon_threadsafe(reached.set)
        ctx.sleep("1h")

    stores.clock.autojump = False
    rt = await stores.enter(workflow(Step("step", on_loop if kind == "async" else in_thread)))
    run_id = await begin(rt)
    await reached.wait()
    await rt.abort(run_id)
    assert (await rt.wait(run_id)).status == "aborted"


async def test_an_executor_of_its_own(stores):
    """Its threads know nothing of the runtime's clock, and say so; the rest of the context works there too."""
    seen = []

    def step(ctx: StepContext):
        seen.append((ctx.now(), ctx.deadline - ctx.now()))
        ctx.progress(1, 2)
        ctx.heartbeat()
        ctx.record_call(model="m")
        ctx.sleep(1)

    pool = Service("pool", ThreadPoolExecutor, scope="workflow")
    wf = workflow(Step("step", step, executor="pool"), timeout="1h", services=[pool])
    rt = await stores.enter(wf)
    start = stores.clock.now()
    result = await rt.wait(await begin(rt))
    assert (result.error.code, seen) == ("STEP_FAILED", [(start, pytest.approx(3600))])
    assert "use time.sleep" in result.error.message
    assert result.metadata["calls"]["calls"] == 1


async def test_no_duration(stores):
    """What is no duration fails the step with a text that says so."""

    async def step(ctx: StepContext):
        await ctx.sleep("soon")

    rt = await stores.enter(workflow(Step("step", step)))
    result = await rt.wait(await begin(rt))
    assert "'soon' is not a duration" in str(result.error)


@pytest.mark.parametrize(
    ("step", "stage", "run", "left"),
    [
        (None, None, None, None),
        (10, None, None, 10),
        (None, 20, None, 20),
        (None, None, 30, 30),
        (10, 20, 30, 10),
        (40, 20, 30, 20),
        (40, 50, 30, 30),
    ],
    ids=["none", "step", "stage", "run", "step-first", "stage-first", "run-first"],
)
async def test_the_nearest_deadline_counts(stores, step, stage, run, left):
    """Of the step's timeout, the stage's and the run's deadline; for plain functions too."""
    seen = []

    async def on_loop(ctx: StepContext):
        await ctx.sleep(1)
        seen.append(ctx.deadline and ctx.deadline - ctx.now())

    def in_thread(ctx: StepContext):
        ctx.sleep(1)
        seen.append(ctx.deadline and ctx.deadline - ctx.now())

    steps = [Step("one", on_loop, timeout=step), Step("two", in_thread, timeout=step)]
    for each in steps:
        rt = await stores.enter(workflow(each, stage_timeout=stage, timeout=run))
        assert (await rt.wait(await begin(rt))).status == "completed"
        await rt.stop()
    assert seen == [left and pytest.approx(left - 1)] * 2


async def test_each_attempt_has_its_own_deadline(stores):
    """A step's timeout begins anew with each attempt; the stage's does not."""
    seen = []

    async def step(ctx: StepContext):
        seen.append(ctx.deadline - ctx.now())
        await ctx.sleep(100)

    wf = workflow(Step("step", step, timeout=10, retry=Retry(3, backoff=5, factor=1.0)), stage_timeout=35)
    rt = await stores.enter(wf)
    assert (await rt.wait(await begin(rt))).error.code == "STEP_TIMEOUT"
    assert seen == [pytest.approx(10), pytest.approx(10), pytest.approx(5)]
