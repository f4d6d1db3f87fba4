"""Calls of models that steps record: entries of the timeline, and sums that outlive pauses, crashes and the end."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from poundlock import (
    Fail,
    NotStorable,
    Pause,
    Pipeline,
    Retry,
    Stage,
    Step,
    StepContext,
    Trigger,
    Wait,
    Workflow,
    WorkflowRuntime,
)


def record(ctx, **more):
    ctx.record_call(**{"model": "m-1", "input_tokens": 20, "output_tokens": 5, "cost": 0.25, **more})


async def call(ctx: StepContext):
    record(ctx)


def in_thread(ctx: StepContext):
    record(ctx)


def workflow(*stages, **options):
    return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)], **options)


async def begin(rt):
    [line] = (await rt.emit("begin")).lines
    return line.run_id


def of(number):
    return {"calls": number, "input_tokens": 20 * number, "output_tokens": 5 * number, "cost": 0.25 * number}


def entries(timeline, kind="step:call"):
    return [entry for entry in timeline.entries if entry.type == kind]


@pytest.mark.parametrize("action", [call, in_thread], ids=["async", "thread"])
async def test_they_are_summed_per_stage_and_run(stores, action):
    """In the result of the run, also for those who ask after its end, in any process."""
    stages = [Stage("one", [Step("a", action), Step("b", action)]), Stage("two", [Step("a", action)])]
    rt = await stores.enter(workflow(*stages))
    run_id = await begin(rt)
    sums = {**of(3), "stages": {"one": of(2), "two": of(1)}}
    assert (await rt.wait(run_id)).metadata["calls"] == sums
    assert (await rt.wait(run_id)).metadata["calls"] == sums
    assert rt.statistics()["calls:w"] == 3
    assert rt.statistics()["calls:w:input_tokens"] == 60
    assert rt.statistics()["calls:w:output_tokens"] == 15
    assert rt.statistics()["calls:w:cost"] == 0.75
    await rt.stop()
    rt = await stores.enter(workflow(*stages))
    result = await rt.wait(run_id)
    assert (result.metadata["calls"], result.result, result.error) == (sums, None, None)
    assert "calls:w" not in rt.statistics()


async def test_a_run_without_calls_says_nothing(stores):
    """Its metadata is as it always was."""

    async def step(): ...

    rt = await stores.enter(workflow(Stage("one", [Step("a", step)])))
    run_id = await begin(rt)
    assert "calls" not in (await rt.wait(run_id)).metadata
    assert "calls" not in (await rt.wait(run_id)).metadata


@pytest.mark.parametrize("window", [0, 600], ids=["row-only", "in-memory"])
async def test_sums_survive_pauses(stores, window):
    """A pause shows them, a resumed run adds to them, and they are no wait."""
    stages = [
        Stage("one", [Step("a", call)], router=Pause(Wait("go", id="w"))),
        Stage("two", [Step("a", call)], router="three"),
        Stage("three", [Step("a", call)], router=Pause(Wait("go", id="w2"))),
        Stage("four", [Step("a", call)]),
    ]
    rt = await stores.enter(workflow(*stages), pause_window=window)
    run_id = await begin(rt)
    paused = await rt.wait(run_id, until="rest")
    assert (paused.metadata["calls"]["calls"], [wait.id for wait in paused.waits]) == (1, ["w"])
    assert [wait.id for wait in (await rt.get_run(run_id)).waits] == ["w", "w2"]
    assert (await rt.resume(run_id)).metadata["calls"] == {
        **of(3),
        "stages": {"one": of(1), "two": of(1), "three": of(1)},
    }
    assert (await rt.resume(run_id)).metadata["calls"]["calls"] == 4


async def test_sums_survive_a_crash(stores):
    """What a stage has committed counts once, and what a crash interrupts does not: it is called again."""
    reached, held = asyncio.Event(), True

    async def second(ctx: StepContext):
        record(ctx)
        reached.set()
        if held:
            await asyncio.Event().wait()

    stages = [Stage("one", [Step("a", call)]), Stage("two", [Step("a", second)])]
    rt = await stores.enter(workflow(*stages))
    run_id = await begin(rt)
    await reached.wait()
    await stores.crash(rt)
    held = False
    rt = await stores.enter(workflow(*stages))
    assert (await rt.wait(run_id)).metadata["calls"] == {**of(2), "stages": {"one": of(1), "two": of(1)}}


async def test_a_failed_attempt_counts(stores):
    """The call was paid for; the same holds for a run that fails, and for one that is aborted."""

    async def step(ctx: StepContext):
        record(ctx)
        if ctx.attempt < 3:
            raise ValueError("nonsense")
        return Fail("enough")

    rt = await stores.enter(workflow(Stage("one", [Step("a", step, retry=Retry(3))])))
    run_id = await begin(rt)
    for _ in range(2):
        result = await rt.wait(run_id)
        assert (result.status, result.metadata["calls"]["calls"], str(result.error)) == ("failed", 3, "Fail: enough")
    assert [entry.payload.get("attempt") for entry in entries(await rt.timeline(run_id))] == [None, 2, 3]


@pytest.mark.parametrize("where", ["paused", "running"])
async def test_an_aborted_run_keeps_them(stores, where):
    """Also if nobody drives it when it is aborted."""
    reached = asyncio.Event()

    async def second():
        reached.set()
        await asyncio.Event().wait()

    router = Pause(Wait("go", id="w")) if where == "paused" else None
    stages = [Stage("one", [Step("a", call)], router=router), Stage("two", [Step("b", second)])]
    rt = await stores.enter(workflow(*stages), pause_window=0)
    run_id = await begin(rt)
    if where == "paused":
        await rt.wait(run_id, until="rest")
    else:
        await reached.wait()
    await rt.abort(run_id)
    for _ in range(2):
        result = await rt.wait(run_id)
        assert (result.status, result.metadata["calls"]["calls"]) == ("aborted", 1)


async def test_calls_of_undos_count(stores):
    """An undo may ask a model too; its sums are those of its stage, and a crash while undoing loses none before it."""
    reached, held = asyncio.Event(), True

    async def undo(ctx: StepContext):
        record(ctx)
        reached.set()
        if held:
            await asyncio.Event().wait()

    async def fail():
        raise ValueError("no")

    stages = [Stage("one", [Step("a", call, undo=undo)]), Stage("two", [Step("a", fail)])]
    rt = await stores.enter(workflow(*stages))
    run_id = await begin(rt)
    await reached.wait()
    await stores.crash(rt)
    held = False
    rt = await stores.enter(workflow(*stages))
    assert (await rt.wait(run_id)).metadata["calls"] == {**of(2), "stages": {"one": of(2)}}


@pytest.mark.parametrize("timeline", [True, False], ids=["timeline", "without"])
async def test_the_entry(stores, timeline):
    """It has what was recorded, also without a timeline, and changes no state."""

    async def step(ctx: StepContext):
        ctx.record_call(
            model="m", input_tokens=1, cost=Decimal("0.5"), prompt=["hi"], answer="ho", temperature=0.5, seed=None
        )
        return {"n": 1}

    rt = await stores.enter(workflow(Stage("one", [Step("a", step)])), timeline=timeline)
    run_id = await begin(rt)
    assert dict((await rt.wait(run_id)).state) == {"n": 1}
    [entry] = entries(await rt.timeline(run_id))
    assert (entry.path, entry.source) == ("main/one/a", "pipeline")
    assert entry.payload == {
        "model": "m",
        "input_tokens": 1,
        "output_tokens": 0,
        "cost": 0.5,
        "prompt": ["hi"],
        "answer": "ho",
        "details": {"temperature": 0.5, "seed": None},
    }


async def test_long_texts_are_cut(stores):
    """And say how much is missing; data is cut as its JSON text."""

    async def step(ctx: StepContext):
        ctx.record_call(model="m", prompt="p" * 5000, answer={"text": "a" * 3000}, note="n" * 2001, short="s" * 2000)

    rt = await stores.enter(workflow(Stage("one", [Step("a", step)])))
    run_id = await begin(rt)
    await rt.wait(run_id)
    [entry] = entries(await rt.timeline(run_id))
    assert entry.payload["prompt"] == "p" * 2000 + " and 3000 more characters"
    assert entry.payload["answer"].startswith('{"text":"aaa')
    assert entry.payload["answer"].endswith(" more characters")
    details = entry.payload["details"]
    assert details == {"note": "n" * 2000 + " and 1 more characters", "short": "s" * 2000}


async def test_thousands_of_calls(stores):
    """All are counted; from the 1001st of an attempt on their texts are left out."""

    async def step(ctx: StepContext):
        for _ in range(1500):
            record(ctx, prompt="p")

    rt = await stores.enter(workflow(Stage("one", [Step("a", step)])))
    run_id = await begin(rt)
    assert (await rt.wait(run_id)).metadata["calls"]["calls"] == 1500
    found = entries(await rt.timeline(run_id))
    assert ["prompt" in entry.payload for entry in found] == [True] * 1000 + [False] * 500


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"model": None}, "model"),
        ({"input_tokens": -1}, "input_tokens"),
        ({"output_tokens": 1.5}, "output_tokens"),
        ({"output_tokens": True}, "output_tokens"),
        ({"cost": float("nan")}, "cost"),
        ({"cost": -0.1}, "cost"),
        ({"cost": 10**400}, "cost"),
        ({"cost": Decimal("sNaN")}, "cost"),
        ({"cost": "1"}, "cost"),
        ({"prompt": object()}, "prompt"),
        ({"more": {1}}, "more"),
    ],
    ids=[
        "model",
        "below-zero",
        "no-whole-number",
        "bool",
        "nan",
        "negative",
        "huge",
        "signalling",
        "text",
        "no-data",
        "a-set",
    ],
)
async def test_what_cannot_be_recorded(given, path):
    """It is refused at the call, and nothing of it counts."""
    caught = []

    async def step(ctx: StepContext):
        try:
            record(ctx, **given)
        except NotStorable as error:
            caught.append(error.path)
            raise

    async with WorkflowRuntime(workflow(Stage("one", [Step("a", step)]))) as rt:
        result = await rt.run("w")
    assert ([name.partition(".")[0] for name in caught], result.error.code) == ([path], "NOT_STORABLE")
    assert "calls" not in result.metadata


async def test_nothing_counts_after_the_attempt_was_given_up(stores):
    """A step that lives on after its timeout is over for the run."""

    async def step(ctx: StepContext):
        record(ctx)
        try:
            await ctx.sleep("1h")
        finally:
            record(ctx)

    rt = await stores.enter(workflow(Stage("one", [Step("a", step, timeout="1m")])))
    assert (await rt.wait(await begin(rt))).metadata["calls"]["calls"] == 1


async def test_a_message_at_the_end_counts_nothing_twice(stores):
    """A stage that is concluded again, because a signal came, has recorded its calls once."""
    store = stores.store()
    rt = await stores.enter(workflow(Stage("one", [Step("a", call)])), store=store)
    store.hold = lambda changes: any(move.status == "completed" for move in changes.moves)
    run_id = await begin(rt)
    [held] = await store.until_held()
    store.hold = None
    await rt.signal(run_id, {"more": 1})
    held.release()
    result = await rt.wait(run_id)
    assert (dict(result.state), result.metadata["calls"]["calls"]) == ({"more": 1}, 1)
    assert len(entries(await rt.timeline(run_id))) == 1


@pytest.mark.parametrize("fails", [False, True], ids=["decides", "raises"])
async def test_routers_record_calls_too(stores, fails):
    """A router that is called again, because a signal came, has spent twice; both entries stay."""

    async def router(ctx: StepContext):
        record(ctx)
        if fails:
            raise ValueError("undecided")

    async def step(): ...

    store = stores.store()
    rt = await stores.enter(workflow(Stage("one", [Step("a", step)], router=router)), store=store)
    store.hold = lambda changes: any(move.status.terminal for move in changes.moves)
    run_id = await begin(rt)
    [held] = await store.until_held()
    store.hold = None
    await rt.signal(run_id, {"more": 1})
    held.release()
    result = await rt.wait(run_id)
    assert (result.status, result.metadata["calls"]["stages"]["one"]["calls"]) == (
        "failed" if fails else "completed",
        2,
    )
    assert len(entries(await rt.timeline(run_id))) == 2


async def test_calls_of_a_stage_that_its_deadline_interrupts_count(stores):
    """They are noted with the stage that comes then."""

    async def step(ctx: StepContext):
        record(ctx)
        await ctx.sleep("1h")

    stages = [Stage("one", [Step("a", step)]), Stage("late", [Step("a", call)], aside=True)]
    rt = await stores.enter(workflow(*stages, timeout="1m", on_timeout="late"))
    run_id = await begin(rt)
    assert (await rt.wait(run_id)).metadata["calls"]["stages"] == {"one": of(1), "late": of(1)}
    assert len(entries(await rt.timeline(run_id))) == 2
