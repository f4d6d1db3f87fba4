"""What a durable function's operations come to is on record: a crash repeats the one in flight, and no other."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools

import pytest
from support import happens

from poundlock import (
    Delay,
    DuplicateKey,
    Fail,
    InvalidDefinition,
    Jump,
    Pending,
    Retry,
    StepError,
    Terminate,
    WorkflowRuntime,
    workflow,
)
from poundlock.testing import run_until_idle


def three_steps(calls):
    @workflow("three", on="go")
    async def three(step, event):
        first = await step.run(calls.work, "a")
        second = await step.run(calls.work, "b")
        third = await step.run(calls.work, "c")
        return [event.payload["n"], first, second, third]

    return three


async def test_a_function_runs_its_steps_and_returns_the_result(any_store, calls):
    """What the function returns is the run's result; its steps run in order, once."""
    async with WorkflowRuntime(three_steps(calls), store=any_store) as runtime:
        run = await runtime.run("three", n=7)
        assert (run.status, run.result, calls) == ("completed", [7, 1, 1, 1], ["a", "b", "c"])


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 7))
async def test_a_crash_repeats_only_the_step_in_flight(stores, calls, number, where):
    """At any commit, a crash repeats at most the step whose record it cut short, and the result is the same."""
    store = stores.store()
    store.crash = (number, where)
    first = await stores.enter(three_steps(calls), store=store)
    emitting = asyncio.create_task(first.emit("go", n=7))
    await happens(store.crashed.wait(), stores.clock)
    await stores.crash(first)
    emitting.cancel()
    second = await stores.enter(three_steps(calls))
    await second.recover()
    found = (await second.find_runs()).items
    assert len(calls) <= 3 + bool(found)
    for run in found:
        assert (await second.wait(run.run_id)).result[0] == 7
        repeated = [name for name in "abc" if calls.count(name) == 2]
        assert len(calls) == 3 + len(repeated)
        assert len(repeated) <= 1


async def test_the_first_value_is_what_is_read_back(any_store):
    """A step gives what its value is when it is read from the record, the first time too."""

    @workflow("codec")
    async def codec(step):
        value = await step.run(lambda: {"when": dt.date(2026, 1, 2), "pair": (1, 2)}, key="value")
        value["pair"].append(3)  # its own copy
        return value

    async with WorkflowRuntime(codec, store=any_store) as runtime:
        assert (await runtime.run("codec")).result == {"when": dt.date(2026, 1, 2), "pair": [1, 2, 3]}


async def test_kinds_of_functions(any_store, calls):
    """Async functions, generators and async generators are called alike."""

    @workflow("coroutine")
    async def coroutine(step):
        return await step.run(calls.work)

    @workflow("generator")
    def generator(step):
        found = yield step.run(calls.work)
        return found

    @workflow("async-generator")
    async def async_generator(step):
        found = yield step.run(calls.work)
        yield Terminate(found)

    @workflow("nothing")
    async def nothing(step):
        yield step.run(calls.work)

    async with WorkflowRuntime(coroutine, generator, async_generator, nothing, store=any_store) as runtime:
        ids = ("coroutine", "generator", "async-generator", "nothing")
        assert [(await runtime.run(id)).result for id in ids] == [1, 2, 3, None]


async def test_errors_come_back_into_the_function(any_store):
    """A step's error is raised where it is awaited, with type and message, and may be caught."""

    def fails():
        raise ValueError("no header")

    @workflow("caught")
    async def caught(step):
        try:
            await step.run(fails)
        except StepError as error:
            return [error.type, error.message, str(error), error.path]

    @workflow("yielded")
    def yielded(step):
        try:
            yield step.run(fails)
        except StepError as error:
            return error.type

    @workflow("uncaught")
    async def uncaught(step):
        await step.run(fails)

    async with WorkflowRuntime(caught, yielded, uncaught, store=any_store) as runtime:
        run = await runtime.run("caught")
        assert run.result == ["ValueError", "no header", "ValueError: no header", "fails"]
        assert (await runtime.run("yielded")).result == "ValueError"
        run = await runtime.run("uncaught")
        assert (run.status, str(run.error), run.error.step) == ("failed", "ValueError: no header", "fails")


async def test_an_error_is_raised_again_from_the_record(stores, calls):
    """On replay the recorded error is raised at the same place, and the step is not called again."""

    async def fails():
        calls.append("fails")
        raise KeyError("k")

    @workflow("again")
    async def again(step):
        try:
            await step.run(fails)
        except StepError as error:
            said = [error.type, error.message]
        await step.wait_for("go on")
        return said

    first = await stores.enter(again)
    run = await first.run("again")
    assert run.status == "paused"
    await stores.crash(first)
    second = await stores.enter(again)
    await second.emit("go on")
    assert (await second.wait(run.run_id)).result == ["KeyError", "'k'"]
    assert calls == ["fails"]


async def test_keys(any_store, calls):
    """A key is given, or made of the function's name and a number; the second use of one raises before the call."""

    @workflow("keys")
    async def keys(step):
        await step.run(calls.work, "x")
        await step.run(calls.work, "y")
        await step.run(calls.work, "z", key="own")
        try:
            await step.run(calls.work, "never", key="own")
        except DuplicateKey as error:
            return error.path

    async with WorkflowRuntime(keys, store=any_store) as runtime:
        run = await runtime.run("keys")
        kept = [entry for entry in (await runtime.timeline(run.run_id)).entries if entry.type == "step:kept"]
    assert (run.result, calls) == ("key", ["x", "y", "z"])
    assert [entry.payload[0] for entry in kept] == ["work", "work#2", "own"]
    assert [(entry.payload[1]["op"], entry.payload[1]["name"]) for entry in kept] == [("run", "work")] * 3
    assert kept[0].path == "main/keys/work"


async def test_what_cannot_be_an_operation(any_store):
    """A wrong argument is refused where it is made, and says what to do."""

    @workflow("wrong")
    async def wrong(step):
        said = []
        for make in (
            lambda: step.run("text"),
            lambda: step.run(functools.partial(print), key="__own"),
            lambda: step.run(print, timeout="soon"),
            lambda: step.run(print, retry=3),
            lambda: step.sleep(-1),
            lambda: step.sleep_until(dt.datetime(2026, 1, 1)),  # noqa: DTZ001 - it is to be refused
            lambda: step.wait_for([]),
            lambda: step.wait_for({"a": "b"}),
            lambda: step.poll(print, every="x"),
            lambda: step.start(""),
            lambda: step.gather(1),
        ):
            try:
                make()
            except InvalidDefinition as error:
                said.append(error.path)
        return said

    async with WorkflowRuntime(wrong, store=any_store) as runtime:
        run = await runtime.run("wrong")
    assert run.result == [
        "function",
        "key",
        "timeout",
        "retry",
        "duration",
        "until",
        "wait_for.events",
        "events",
        "every",
        "workflow_id",
        "parts",
    ]


async def test_a_result_that_is_no_data_fails_the_step(any_store):
    """What cannot be recorded is the step's failure, and names the place."""

    @workflow("odd")
    async def odd(step):
        await step.run(lambda: {"it": object()}, key="odd")

    async with WorkflowRuntime(odd, store=any_store) as runtime:
        run = await runtime.run("odd")
    assert (run.status, run.error.type, run.error.step) == ("failed", "NotStorable", "odd")


async def test_an_operation_that_is_not_awaited_is_noticed(any_store, calls):
    """A forgotten await fails the run with the operation's key, instead of doing nothing."""

    @workflow("forgot")
    async def forgot(step):
        step.run(calls.work)

    async with WorkflowRuntime(forgot, store=any_store) as runtime:
        run = await runtime.run("forgot")
    assert run.status == "failed"
    assert "step.run('work') was made and never awaited" in run.error.message
    assert calls == []


async def test_what_is_yielded_has_to_be_an_operation(any_store):
    """A generator that yields something else is told so, where it yields."""

    @workflow("yields")
    def yields(step):
        yield 5

    async with WorkflowRuntime(yields, store=any_store) as runtime:
        run = await runtime.run("yields")
    assert run.status == "failed"
    assert "the function yielded 5" in run.error.message


async def test_time_and_random_values_are_the_same_each_time(stores, vclock):
    """`now`, `uuid` and `random` give the same values when the function is called again."""
    seen = []

    @workflow("values")
    async def values(step):
        seen.append([step.now(), step.uuid(), step.random(), step.uuid(key="own")])
        await step.wait_for("go on")
        return step.now() > seen[0][0]

    first = await stores.enter(values)
    run = await first.run("values")
    await stores.crash(first)
    await vclock.run_for(hours=1)
    second = await stores.enter(values)
    await second.emit("go on")
    assert (await second.wait(run.run_id)).result is True
    assert seen[0] == seen[1]
    assert len({seen[0][1], seen[0][3]}) == 2
    assert 0 <= seen[0][2] < 1


async def test_a_long_record_is_replayed_in_linear_time(any_store, calls):
    """Each recorded operation is looked up once per pass: twice as many take twice the look-ups, and no more."""
    looked = []

    class Counting(dict):
        def get(self, key, default=None):
            looked.append(key)
            return super().get(key, default)

    @workflow("long")
    async def long(step, n: int):
        for number in range(n):
            await step.run(calls.work, key=f"k{number}")
        await step.wait_for("go on")
        return n

    async def look_ups(runtime, n):
        run = await runtime.run("long", n=n)
        parked = runtime._core.runs.parked(run.run_id)
        parked.kept.memo.kept = Counting(parked.kept.memo.kept)
        looked.clear()
        await runtime.resume(run.run_id)
        assert (await runtime.wait(run.run_id)).result == n
        return len(looked)

    async with WorkflowRuntime(long, store=any_store) as runtime:
        assert await look_ups(runtime, 600) - await look_ups(runtime, 300) <= 301
    assert len(calls) == 900


@pytest.mark.parametrize("kind", ["poll", "retry"])
async def test_what_is_tried_again_at_once_leaves_the_loop_to_others(stores, kind):
    """Without a time between two calls, and with nothing written in between, others have their turn all the same."""
    goes_on = [True]

    async def looks():
        if goes_on and kind == "retry":
            raise ConnectionError("down")
        return Pending() if goes_on else "done"

    @workflow("function", durability="exit")
    async def function(step):
        if kind == "poll":
            return await step.poll(looks, every=0)
        return await step.run(looks, retry=Retry(100_000, backoff=0))

    runtime = await stores.enter(function)
    run = asyncio.create_task(runtime.run("function"))
    for _ in range(50):
        await asyncio.sleep(0)  # noqa: TID251 - the poll has its turns
    goes_on.clear()
    assert (await run).result == "done"


async def test_notes_of_a_function_are_noted_once(stores, calls, vclock):
    """Annotations and recorded calls between operations are not repeated by later passes, also after a crash."""

    def function():
        @workflow("function", on="begin")
        async def function(step, ctx):
            ctx.annotate("first", 1)
            await step.run(calls.work)
            ctx.record_call(model="m", input_tokens=10, cost=0.5)
            await step.sleep("1h")
            await step.sleep("1h")
            ctx.record_call(model="m", input_tokens=1, cost=0.25)

        return function

    runtime = await stores.enter(function())
    run_id = (await runtime.emit("begin")).lines[0].run_id
    await run_until_idle(vclock)
    await stores.crash(runtime)
    runtime = await stores.enter(function())
    run = await runtime.wait(run_id)
    assert (run.metadata["calls"]["input_tokens"], run.metadata["calls"]["cost"]) == (11, 0.75)
    types = (await runtime.timeline(run_id)).types()
    assert (types.count("annotation"), types.count("step:call")) == (1, 2)


@pytest.mark.parametrize("instruction", [Jump("other"), Fail("no"), Delay(1)], ids=["jump", "fail", "delay"])
async def test_a_function_that_returns_an_instruction(stores, instruction):
    """A function has no stages: what would be taken for its result is refused, and the error says what to do."""

    @workflow("function")
    async def function(step):
        return instruction

    runtime = await stores.enter(function)
    run = await runtime.run("function")
    assert (run.status, run.error.code) == ("failed", "STEP_FAILED")
    assert "return the run's result" in run.error.message
