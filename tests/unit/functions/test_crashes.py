"""Durable functions across crashes and races: whatever the moment, nothing is lost and nothing is done twice."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from support import parks

from poundlock import Event, Use, Wait, Workflow, workflow
from poundlock.testing import run_until_idle


def busy_function(calls):
    """A function with all that takes commits: steps, an early event, waits and sleeps at once, a second generation."""

    @workflow("busy", on="go", waits=[Wait("early")])
    async def busy(step, event):
        if "again" in event.payload:
            return [event.payload["again"], await step.run(calls.work, "last")]
        await step.run(calls.work, "first")
        early = await step.wait_for("early")

        async def waits():
            answer = await step.wait_for("answer")
            return [answer.payload["n"], await step.run(calls.work, "answered", key="answered")]

        async def sleeps():
            await step.sleep("1h")
            return await step.run(calls.work, "slept", key="slept")

        found = await step.gather(waits(), sleeps(), step.run(calls.work, "beside", key="beside"))
        return step.continue_as_new({"again": [early.payload["n"], found[0][0]]})

    return busy


EVENTS = [Event("go", {}, id="go"), Event("early", {"n": 1}, id="early"), Event("answer", {"n": 2}, id="answer")]


async def finished(runtime, clock):
    """Send the events, again where nobody knows whether they came, and let time pass; returns the run's result."""
    for event in EVENTS:
        await runtime.emit(event)
        await run_until_idle(clock)
    await clock.run_for(hours=2)
    [info] = (await runtime.find_runs()).items
    return await runtime.wait(info.run_id)


async def commits_of_a_whole_run(stores, calls):
    runtime = await stores.enter(busy_function(calls))
    run = await finished(runtime, stores.clock)
    assert run.result == [[1, 2], 1]
    assert sorted(calls) == ["answered", "beside", "first", "last", "slept"]
    return runtime.store.commits


async def test_a_whole_run(stores, calls):
    """Without a crash each step is called once."""
    stores.clock.autojump = False
    assert await commits_of_a_whole_run(stores, calls) <= 20


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 19))
async def test_a_crash_at_any_commit(stores, calls, number, where):
    """After a crash at any commit the result is the same, and only steps in flight are called again."""
    clock = stores.clock
    clock.autojump = False
    store = stores.store()
    store.crash = (number, where)
    first = await stores.enter(busy_function(calls), store=store)
    whole = asyncio.create_task(finished(first, clock))
    crashed = asyncio.create_task(store.crashed.wait())
    await asyncio.wait({whole, crashed}, return_when=asyncio.FIRST_COMPLETED)
    if whole.done():
        crashed.cancel()
        assert whole.result().result == [[1, 2], 1]
        return
    flying = calls.copy()
    whole.cancel()
    clock.autojump = True  # tasks that its dead store never answers are left behind after a while
    await stores.crash(first)
    clock.autojump = False
    second = await stores.enter(busy_function(calls))
    run = await finished(second, clock)
    assert run.result[0] == [1, 2]
    repeated = {name for name in calls if calls.count(name) > 1}
    assert repeated <= set(flying)
    assert len(calls) == 5 + len(repeated)
    assert len(repeated) <= 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_an_event_while_the_pause_is_written(stores, after):
    """An event that comes while the run is being paused is not lost: it is taken at once, or resumes the run."""

    @workflow("pausing", on="go")
    async def pausing(step):
        one, two = await step.gather(step.wait_for("one"), step.wait_for("two"))
        return [one.payload["n"], two.payload["n"]]

    runtime = await stores.enter(pausing)
    store = runtime.store
    if after:
        store.hold_after = parks
    else:
        store.hold = parks
    run_id = (await runtime.emit("go")).run_ids[0]
    [held] = await store.until_held()
    emitting = asyncio.create_task(runtime.emit("two", n=2))
    await run_until_idle(stores.clock)
    store.hold = store.hold_after = None
    held.release()
    lines = (await emitting).lines
    assert [line.verdict for line in lines] == ["resumed" if after else "buffered"]
    await run_until_idle(stores.clock)
    await runtime.emit("one", n=1)
    assert (await runtime.wait(run_id)).result == [1, 2]


async def test_runs_that_are_not_kept_in_memory(stores, calls):
    """A parked function that is only a row, or a row in memory, goes on by its record."""

    @workflow("row")
    async def row(step, n: int):
        first = await step.run(calls.work, n)
        event = await step.wait_for("said", correlate={"n": n})
        return [first, event.payload["n"]]

    runtime = await stores.enter(row, pause_window=0.0)
    kept = await stores_runs(runtime, 3)
    for n, run_id in enumerate(kept):
        await runtime.emit("said", n=n)
        assert (await runtime.wait(run_id)).result == [1, n]
    assert sorted(calls) == [0, 1, 2]


async def stores_runs(runtime, count):
    return [(await runtime.run("row", n=n)).run_id for n in range(count)]


async def test_without_a_timeline(stores, calls):
    """The record is kept without a timeline too."""

    @workflow("silent")
    async def silent(step):
        first = await step.run(calls.work)
        event = await step.wait_for("said")
        return [first, event.payload["n"]]

    first = await stores.enter(silent, timeline=False)
    run = await first.run("silent")
    await stores.crash(first)
    second = await stores.enter(silent, timeline=False)
    await second.emit("said", n=2)
    assert (await second.wait(run.run_id)).result == [1, 2]
    assert len(calls) == 1


async def test_a_record_that_cannot_be_written_is_no_error_of_the_function(stores, calls):
    """A commit that is refused for good does not reach the function: the run stays as its last commit left it."""
    from poundlock.errors import StoreCorrupt

    @workflow("broken", on="go")
    async def broken(step):
        try:
            return await step.run(calls.work)
        except Exception:  # noqa: BLE001 - it must not see it
            return "caught"

    runtime = await stores.enter(broken)
    store = runtime.store
    store.failing = lambda _number, changes: StoreCorrupt("gone") if changes.moves else None
    run_id = (await runtime.emit("go")).run_ids[0]
    await run_until_idle(stores.clock)
    store.failing = lambda _number, _changes: None
    await runtime.recover()
    assert (await runtime.wait(run_id)).result == 2


async def test_a_store_that_is_away_for_a_while_delays_the_record(stores, calls):
    """A commit that the store cannot take now is repeated; the step is not."""
    from poundlock.errors import StoreUnavailable

    @workflow("patient", on="go")
    async def patient(step):
        return await step.run(calls.work)

    runtime = await stores.enter(patient)
    away = [1, 1, 1]
    runtime.store.failing = lambda _n, changes: (
        StoreUnavailable("away") if changes.moves and away and away.pop() else None
    )
    run_id = (await runtime.emit("go")).run_ids[0]
    assert (await runtime.wait(run_id)).result == 1


async def test_a_store_that_is_away_for_long_delays_the_start_of_a_run(stores, vclock, caplog):
    """It is logged once, those who wait for the run are told after a while, and the run starts when the store can."""
    from poundlock.errors import StoreUnavailable

    child = Workflow("child")
    child.step(lambda: {"a": 1}, id="a")

    @workflow("parent", on="go")
    async def parent(step):
        return await step.start("child")

    runtime = await stores.enter(child, parent)
    away = True
    runtime.store.failing = lambda _n, changes: (
        StoreUnavailable("away")
        if away and any(each.identity.workflow_id == "child" for each in changes.creates)
        else None
    )
    run_id = (await runtime.emit("go")).run_ids[0]
    with pytest.raises(StoreUnavailable):
        await runtime.wait(run_id)
    said = [record.message for record in caplog.records if "starting 'child'" in record.message]
    assert len(said) == 1
    away = False
    child_id = (await runtime.wait(run_id)).result
    assert (await runtime.wait(child_id)).ok


async def test_a_typed_state_that_no_longer_fits(stores):
    """A function whose state does not fit the model any more stays paused, with its answer on record."""
    from pydantic import BaseModel

    def of(**fields):
        state = type("State", (BaseModel,), {"__annotations__": fields})

        @workflow("typed", state=state)
        async def typed(step, state):
            event = await step.wait_for("said")
            return [state.n, event.payload["word"]]

        return typed

    first = await stores.enter(of(n=int))
    run = await first.run("typed", n=1)
    await stores.crash(first)
    second = await stores.enter(of(n=int, more=int))
    await second.emit("said", word="yes")
    run = await second.wait(run.run_id, until="rest")
    assert (run.status, run.error.code) == ("paused", "STATE_INVALID")
    await stores.crash(second)
    third = await stores.enter(of(n=int))
    assert (await third.wait(run.run_id)).result == [1, "yes"]


async def test_services_of_a_stage_live_for_one_pass(stores, calls):
    """A service with scope "stage" is closed when a pass ends, and made anew in the next one."""

    @workflow("scoped")
    async def scoped(step, thing: Annotated[str, Use("thing")]):
        await step.wait_for("said")
        return thing

    @scoped.service(scope="stage")
    def thing():
        calls.append("open")
        yield "thing"
        calls.append("close")

    runtime = await stores.enter(scoped)
    run = await runtime.run("scoped")
    assert calls == ["open", "close"]
    await runtime.emit("said")
    assert (await runtime.wait(run.run_id)).result == "thing"
    assert calls == ["open", "close"] * 2


async def test_a_wide_gather(stores, calls):
    """A thousand parts at once share commits, and come back in order."""

    @workflow("wide", on="go")
    async def wide(step):
        return await step.gather(*[step.run(calls.work, n, key=f"part {n}") for n in range(1000)])

    runtime = await stores.enter(wide)
    run_id = (await runtime.emit("go")).run_ids[0]
    assert (await runtime.wait(run_id)).result == [1] * 1000
    assert len(runtime.store.written) < 20
