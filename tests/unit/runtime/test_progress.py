"""How far a step is: shown at once, stored once."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support import LAST_RESORT

from poundlock import NotStorable, Pipeline, Retry, Stage, Step, StepContext, Trigger, Workflow, WorkflowRuntime
from poundlock.testing import run_until_idle


def workflow(*stages, **options):
    return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)], **options)


async def begin(rt, **fields):
    [line] = (await rt.emit("begin", **fields)).lines
    return line.run_id


def said(info):
    return [(each.stage, each.step, each.done, each.of, each.message) for each in info.progress]


def stored(timeline):
    return [entry.payload for entry in timeline.entries if entry.type == "step:progress"]


async def test_it_is_shown_at_once(stores, gate):
    """In all views of a run that this process drives; of steps that say so, of the present stage only."""

    async def one(ctx: StepContext):
        ctx.progress(1, 4, "loading")
        await gate("one")
        ctx.progress(2, 4)
        await gate("again")

    def two(ctx: StepContext):
        ctx.progress(0.5)

    async def last():
        await gate("last")

    rt = await stores.enter(
        workflow(Stage("s", [Step("one", one), Step("two", two)]), Stage("t", [Step("last", last)]))
    )
    run_id = await begin(rt)
    await run_until_idle(stores)
    shown = [("s", "one", 1, 4, "loading"), ("s", "two", 0.5, None, "")]
    assert sorted(said(await rt.get_run(run_id))) == shown
    assert sorted(said(rt.watch("w", run_id))) == shown
    assert sorted(said(rt.list_all_runs()[0])) == shown
    assert sorted(said((await rt.find_runs()).items[0])) == shown
    [first, _] = sorted((await rt.get_run(run_id)).progress, key=lambda each: each.step)
    assert first.time == stores.clock.now()
    assert first.to_dict() in (await rt.get_run(run_id)).to_dict()["progress"]
    gate.open()
    result = await rt.wait(run_id)
    assert (result.status, said(await rt.get_run(run_id))) == ("completed", [])


async def test_the_next_stage_begins_without_any(stores, gate):
    """Nor does the next visit of the same stage show what the last one said."""

    async def one(ctx: StepContext):
        ctx.progress(1, 1)

    async def two():
        await gate("two")

    rt = await stores.enter(workflow(Stage("s", [Step("one", one)]), Stage("t", [Step("two", two)])))
    run_id = await begin(rt)
    await run_until_idle(stores)
    assert said(await rt.get_run(run_id)) == []
    gate.open()
    await rt.wait(run_id)


@pytest.mark.parametrize("timeline", [True, False], ids=["timeline", "without"])
async def test_the_last_one_is_stored(stores, timeline):
    """Thousands of reports are one entry of the timeline; none without a timeline."""

    async def step(ctx: StepContext):
        for number in range(5000):
            ctx.progress(number + 1, 5000, "counting")

    rt = await stores.enter(workflow(Stage("s", [Step("one", step)])), timeline=timeline)
    run_id = await begin(rt)
    await rt.wait(run_id)
    expected = [{"done": 5000, "of": 5000, "message": "counting"}]
    assert stored(await rt.timeline(run_id)) == (expected if timeline else [])


async def test_each_attempt_stores_its_last(stores):
    """Also one that fails."""

    async def step(ctx: StepContext):
        ctx.progress(ctx.attempt)
        ctx.progress(ctx.attempt * 10)
        if ctx.attempt < 2:
            raise ValueError("again")

    rt = await stores.enter(workflow(Stage("s", [Step("one", step, retry=Retry(2))])))
    run_id = await begin(rt)
    await rt.wait(run_id)
    assert [payload["done"] for payload in stored(await rt.timeline(run_id))] == [10, 20]


async def test_elements_share_one_entry(stores):
    """A step with thousands of elements does not grow the log by as many."""

    async def step(ctx: StepContext, item: int):
        ctx.progress(item + 1, 50)
        return item

    rt = await stores.enter(workflow(Stage("s", [Step("one", step, each="items")])))
    run_id = await begin(rt, items=list(range(50)))
    assert (await rt.wait(run_id)).status == "completed"
    assert [payload["done"] for payload in stored(await rt.timeline(run_id))] == [50]


async def test_from_threads(stores):
    """Plain functions report at once as well, all at the same time."""
    came, go = threading.Barrier(9), threading.Event()

    def step(ctx: StepContext):
        for number in range(100):
            ctx.progress(number + 1, 100)
        came.wait(LAST_RESORT)
        go.wait(LAST_RESORT)

    names = [f"s{number}" for number in range(8)]
    rt = await stores.enter(workflow(Stage("s", [Step(name, step) for name in names])))
    run_id = await begin(rt)
    await asyncio.to_thread(came.wait, LAST_RESORT)
    info = await rt.get_run(run_id)
    go.set()
    assert sorted(said(info)) == [("s", name, 100, 100, "") for name in names]
    await rt.wait(run_id)
    assert len(stored(await rt.timeline(run_id))) == 8


async def test_a_sign_of_life(stores):
    """It shows its time, keeps what was said before, and is not stored."""
    seen = []

    async def step(ctx: StepContext):
        ctx.heartbeat()
        seen.append((said(await rt.get_run(ctx.run_id)), (await rt.get_run(ctx.run_id)).progress[0].time))
        ctx.progress(1, 2, "half")
        await ctx.sleep(60)
        ctx.heartbeat()
        seen.append((said(await rt.get_run(ctx.run_id)), (await rt.get_run(ctx.run_id)).progress[0].time))

    def quiet(ctx: StepContext):
        ctx.heartbeat()

    rt = await stores.enter(workflow(Stage("s", [Step("one", step)]), Stage("t", [Step("two", quiet)])))
    start = stores.clock.now()
    run_id = await begin(rt)
    await rt.wait(run_id)
    assert seen == [([("s", "one", None, None, "")], start), ([("s", "one", 1, 2, "half")], start + 60)]
    assert stored(await rt.timeline(run_id)) == [{"done": 1, "of": 2, "message": "half"}]


async def test_a_step_that_was_given_up_says_nothing_more(stores, gate):
    """What it says is not taken for that of the next attempt."""

    async def step(ctx: StepContext):
        ctx.progress(ctx.attempt)
        if ctx.attempt == 1:
            try:
                await ctx.sleep("1h")
            finally:
                ctx.progress(100)
                ctx.heartbeat()
        await gate("here")

    rt = await stores.enter(workflow(Stage("s", [Step("one", step, retry=Retry(2), timeout="1m")])))
    run_id = await begin(rt)
    await stores.clock.run_for(90)
    assert [each[2] for each in said(await rt.get_run(run_id))] == [2]
    gate.open()
    await rt.wait(run_id)
    assert [payload["done"] for payload in stored(await rt.timeline(run_id))] == [1, 2]


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (("1",), "done"),
        ((1, "2"), "of"),
        ((float("inf"),), "done"),
        ((10**400,), "done"),
        ((True,), "done"),
        ((1, 2, 3), "message"),
    ],
    ids=["text", "of", "infinite", "huge", "bool", "message"],
)
async def test_what_is_no_progress(given, path):
    """It is refused at the call."""
    caught = []

    async def step(ctx: StepContext):
        try:
            ctx.progress(*given)
        except NotStorable as error:
            caught.append(error.path)

    async with WorkflowRuntime(workflow(Stage("s", [Step("one", step)]))) as rt:
        await rt.run("w")
    assert caught == [path]


async def test_a_long_message_is_cut(stores):
    """One report must not fill the log either."""

    async def step(ctx: StepContext):
        ctx.progress(1, message="x" * 5000)

    rt = await stores.enter(workflow(Stage("s", [Step("one", step)])))
    run_id = await begin(rt)
    await rt.wait(run_id)
    [payload] = stored(await rt.timeline(run_id))
    assert payload["message"] == "x" * 1000 + " and 4000 more characters"
