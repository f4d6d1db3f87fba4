"""What a durable function emits leaves with its record, once, however often the function is called."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import Event, Trigger, Workflow, workflow
from poundlock.testing import run_until_idle


def listener(seen):
    """A workflow that notes what was emitted."""
    other = Workflow("listener", triggers={"told": Trigger("told")})

    @other.step
    async def note(event: Event):
        seen.append((event.payload["n"], event.id))

    return other


async def test_what_a_function_emits_leaves_once(stores, calls, vclock):
    """Events leave as the function goes on, in order, and are not emitted again by later passes, also after a crash."""
    seen = []

    def function():
        @workflow("function", on="begin")
        async def function(step, ctx):
            first = ctx.emit("told", n=1)
            await step.run(calls.work)
            again = ctx.emit("told", n=1)
            await step.sleep("1h")
            last = ctx.emit(Event("told", {"n": 2}))  # a new one each time
            await step.sleep("1h")
            return [first, again, last]

        return function

    runtime = await stores.enter(function(), listener(seen))
    run_id = (await runtime.emit("begin")).lines[0].run_id
    await run_until_idle(vclock)
    assert [n for n, _ in seen] == [1, 1]
    await stores.crash(runtime)
    runtime = await stores.enter(function(), listener(seen))
    await vclock.run_for(hours=2, seconds=1)
    run = await runtime.wait(run_id)
    await run_until_idle(vclock)
    assert [n for n, _ in seen] == [1, 1, 2]
    assert [id for _, id in seen] == run.result
    assert len(set(run.result)) == 3


async def test_a_function_can_emit_a_question_and_wait_for_the_answer(stores):
    """What is emitted before a wait has left while the run is paused there."""
    answering = Workflow("answering", triggers={"asked": Trigger("asked")})

    @answering.step
    async def answer(event: Event, ctx):
        ctx.emit("answered", n=event.payload["n"] + 1)

    @workflow("function")
    async def function(step, ctx):
        ctx.emit("asked", n=1)
        answer = await step.wait_for("answered")
        return answer.payload["n"]

    runtime = await stores.enter(function, answering)
    run = await runtime.run("function")
    assert (await runtime.wait(run.run_id)).result == 2


async def test_a_function_that_fails(stores, calls):
    """What it emitted before its last recorded operation has left; what came after that does not leave."""
    seen = []

    @workflow("function")
    async def function(step, ctx):
        ctx.emit("told", n=1)
        await step.run(calls.work)
        ctx.emit("told", n=2)
        raise ValueError("no")

    runtime = await stores.enter(function, listener(seen))
    assert (await runtime.run("function")).status == "failed"
    await run_until_idle(stores.clock)
    assert [n for n, _ in seen] == [1]


async def test_what_is_emitted_while_a_pass_is_unwound_does_not_count(stores, vclock):
    """A `finally` runs at the end of each pass; only in the last one it emits."""
    seen = []

    @workflow("function")
    async def function(step, ctx):
        try:
            await step.sleep("1h")
        finally:
            ctx.emit("told", n=1)

    runtime = await stores.enter(function, listener(seen))
    assert (await runtime.run("function")).ok
    await run_until_idle(vclock)
    assert [n for n, _ in seen] == [1]


async def test_parts_that_emit_in_another_order_emit_once(stores, vclock):
    """The record knows an event by what it says: in a later pass another part may be first."""
    seen, order = [], []

    @workflow("function")
    async def function(step, ctx):
        async def part(n):
            ctx.emit("told", n=n)
            await step.sleep("9h", key=f"sleep {n}")

        order.append(len(order))
        await step.gather(*(part(n) for n in ((0, 1) if len(order) == 1 else (1, 0))))

    runtime = await stores.enter(function, listener(seen))
    assert (await runtime.run("function")).ok
    await run_until_idle(vclock)
    assert [n for n, _ in seen] == [0, 1]


async def test_each_generation_emits_its_own(stores, vclock):
    """After `continue_as_new` the same event is a new one; what was emitted before has left."""
    seen = []

    @workflow("function")
    async def function(step, ctx, event):
        ctx.emit("told", n=1)
        number = event.payload.get("number", 0)
        return step.continue_as_new({"number": number + 1}) if number < 2 else number

    runtime = await stores.enter(function, listener(seen))
    assert (await runtime.run("function")).result == 2
    await run_until_idle(vclock)
    assert [n for n, _ in seen] == [1, 1, 1]
    assert len({id for _, id in seen}) == 3


@pytest.mark.parametrize("durability", ["exit", "none", "step", "async"])
async def test_functions_emit_with_each_durability(stores, vclock, durability):
    """What is emitted in a thread, and in calls, leaves too; a replay does not repeat it."""
    seen = []

    @workflow("function", durability=durability)
    async def function(step, ctx):
        def work():
            ctx.emit("told", n=1)

        await step.run(work)
        replaying = step.replaying
        await step.sleep("1h")
        ctx.emit("told", n=2)
        return replaying

    runtime = await stores.enter(function, listener(seen))
    assert (await runtime.run("function")).result is True
    await run_until_idle(vclock)
    assert [n for n, _ in seen] == [1, 2]


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 13))
async def test_a_crash_at_any_commit_emits_each_event_once(stores, calls, number, where):
    """Whichever commit is the last of a process: each event starts one run, with the id that the function was given."""
    clock = stores.clock
    clock.autojump = False

    def function(seen):
        @workflow("function", on="go")
        async def function(step, ctx, event):
            if "ids" in event.payload:
                return [*event.payload["ids"], ctx.emit("told", n=5)]

            async def part(n):
                await step.sleep(f"{n}h", key=f"sleep {n}")
                id = ctx.emit("told", n=n)
                await step.run(calls.work, key=f"work {n}")
                return id

            first = ctx.emit("told", n=0)
            await step.run(calls.work)
            ids = await step.gather(part(1), part(2))
            return step.continue_as_new({"ids": [first, *ids]})

        return function, listener(seen)

    async def finished(runtime):
        await runtime.emit(Event("go", {}, id="go"))
        await run_until_idle(clock)
        await clock.run_for(hours=5)
        await run_until_idle(clock)
        return runtime

    store = stores.store()
    store.crash = (number, where)
    runtime = await stores.enter(*function([]), store=store)
    whole = asyncio.create_task(finished(runtime))
    dies = asyncio.create_task(store.crashed.wait())
    await asyncio.wait([whole, dies], return_when=asyncio.FIRST_COMPLETED)
    dies.cancel()
    if store.dead:
        whole.cancel()
        await asyncio.wait([whole])
        await stores.crash(runtime)
        runtime = await stores.enter(*function([]))
        await finished(runtime)
    [run] = (await runtime.find_runs(workflow="function")).items
    told = (await runtime.find_runs(workflow="listener", limit=50)).items
    events = {}
    for info in told:
        result = await runtime.wait(info.run_id)
        events.setdefault(result.state["n"], []).append(result.status)
    assert events == {0: ["completed"], 1: ["completed"], 2: ["completed"], 5: ["completed"]}
    assert len(set((await runtime.wait(run.run_id)).result)) == 4
