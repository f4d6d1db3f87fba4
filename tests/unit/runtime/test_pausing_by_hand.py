"""Resuming by hand: one winner, and typed errors for everybody who comes early, late, twice or to the wrong wait."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from decimal import Decimal

import pytest
from pydantic import BaseModel
from support import parks, takes

from poundlock import (
    NotPaused,
    NotStorable,
    Pause,
    Pipeline,
    RunFinished,
    RunNotFound,
    RunStatus,
    Stage,
    StaleResume,
    StateInvalid,
    StateRef,
    Step,
    Trigger,
    Wait,
    Workflow,
)

COMPLETED, PAUSED = RunStatus.COMPLETED, RunStatus.PAUSED


class Order(BaseModel):
    n: int = 0
    by: str = ""


def gates(*ids, state=None, ran=None, slow=None):
    """A workflow of waits, one after another, with a step behind each."""
    stages = []

    def passed(place):
        async def step(ctx):
            if ran is not None:
                ran.append(f"after {place}")
            if slow is not None:
                await slow(place)
            return {"n": place}

        return step

    for place, wait_id in enumerate(ids):
        stages.append(Stage(f"pause-{place}", router=Pause(Wait(f"go.{place}", id=wait_id))))
        stages.append(Stage(f"after-{place}", [Step(f"after-{place}", passed(place))]))
    return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)], state=state)


async def begin(rt, **fields):
    [result] = await (await rt.emit("begin", **fields)).results(60)
    return result


@pytest.fixture(params=[0, 60], ids=["row", "memory"])
def window(request):
    """A parked run that is only a row, and one still held in memory."""
    return request.param


@pytest.mark.parametrize(
    ("patch", "error", "path"),
    [
        ({"n": "many"}, StateInvalid, "n"),
        ({"n": {"deep": 1}}, StateInvalid, "n"),
        ("text", StateInvalid, "patch"),
        ({"by": object()}, NotStorable, "patch.by"),
        ({"by": math.nan}, NotStorable, "patch.by"),
    ],
    ids=["wrong type", "wrong shape", "no mapping", "no data", "nan"],
)
async def test_a_bad_patch_changes_nothing(stores, window, patch, error, path):
    """A patch that does not fit is refused with the field's path; the run still waits and resumes with a good one."""
    rt = await stores.enter(gates("a", state=Order), pause_window=window)
    run = await begin(rt)
    before = await rt.get_run(run.run_id)
    with pytest.raises(error) as raised:
        await rt.resume(run.run_id, patch)
    assert raised.value.path == path
    assert await rt.get_run(run.run_id) == before
    result = await rt.resume(run.run_id, {"by": "Ada"})
    assert (result.status, result.state) == (COMPLETED, Order(n=0, by="Ada"))


async def test_the_patch_and_the_reason_are_seen(stores, window):
    """A resume by hand merges its patch, and the step behind the wait sees that a person answered, and which wait."""
    wf = Workflow("w", triggers={"begin": Trigger("begin")})
    wf.wait("gate", on="go")

    @wf.step
    async def after(ctx, state):
        return {"seen": [ctx.resume.reason, ctx.resume.wait, ctx.resume.event, state["by"]]}

    rt = await stores.enter(wf, pause_window=window)
    run = await begin(rt)
    result = await rt.resume(run.run_id, {"by": "Ada"}, wait="gate")
    assert result.state == {"by": "Ada", "seen": ["api", "gate", None, "Ada"]}
    types = (await rt.timeline(run.run_id)).types()
    assert types.count("pipeline:resume") == 1


async def test_an_answer_keeps_its_types(stores, window):
    """Values of registered types in an answer are the same in the state, in the timeline, and after a restart."""
    when = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    rt = await stores.enter(gates("a", "b"), pause_window=window)
    run = await begin(rt, since=when)
    answered = await rt.resume(run.run_id, {"at": when, "sum": Decimal("1.50")})
    assert answered.state == {"since": when, "at": when, "sum": Decimal("1.50"), "n": 0}
    timeline = await rt.timeline(run.run_id)
    assert timeline.state_at(len(timeline)) == answered.state
    await rt.stop()
    rt = await stores.enter(gates("a", "b"))
    assert (await rt.resume(run.run_id)).state == {**answered.state, "n": 1}


async def test_a_wait_is_noted_with_its_types(stores):
    """The timeline shows what a wait is correlated by as the values they are."""
    when = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    pause = Pause(Wait("go", id="w", correlate={"at": StateRef("at")}))
    wf = Workflow(
        "w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", [Stage("gate", router=pause)])]
    )
    rt = await stores.enter(wf)
    run = await begin(rt, at=when)
    entries = (await rt.timeline(run.run_id)).entries
    assert [entry.payload["correlate"] for entry in entries if entry.type == "wait:registered"] == [{"at": when}]


async def test_resuming_early_is_refused(stores, gate):
    """A run that is still on its way, written or not, cannot be resumed."""
    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.step
    async def one():
        await gate()

    wf.wait("gate", on="go")
    rt = await stores.enter(wf)
    [emitted] = (await rt.emit("begin")).run_ids
    async with asyncio.TaskGroup() as group:
        invoked = group.create_task(rt.invoke("w", run_id=None))
        await stores.clock.run_until_idle()
        assert len(gate.came) == 2
        for info in rt.list_all_runs():
            with pytest.raises(NotPaused):
                await rt.resume(info.run_id)
        gate.open()
    assert invoked.result().status is PAUSED
    assert (await rt.resume(emitted)).status is COMPLETED


async def test_resuming_late_or_nobody_is_refused(stores, window):
    """A finished run cannot be resumed, neither again, nor one that does not exist."""
    rt = await stores.enter(gates("a"), pause_window=window)
    run = await begin(rt)
    await rt.resume(run.run_id)
    with pytest.raises(RunFinished):
        await rt.resume(run.run_id)
    with pytest.raises(RunNotFound):
        await rt.resume("nobody")


async def test_resuming_the_wrong_wait_is_refused(stores, window):
    """Naming another wait than the run stands at is refused and changes nothing."""
    rt = await stores.enter(gates("a", "b"), pause_window=window)
    run = await begin(rt)
    with pytest.raises(StaleResume):
        await rt.resume(run.run_id, wait="b")
    assert (await rt.resume(run.run_id, wait="a")).status is PAUSED
    with pytest.raises(StaleResume):
        await rt.resume(run.run_id, wait="a")
    assert (await rt.resume(run.run_id, wait="b")).status is COMPLETED


async def test_a_delayed_run_cannot_be_resumed(stores, window):
    """A run that waits for a time, not for an answer, refuses to be resumed and goes on when it is due."""
    from poundlock import Delay

    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.step
    async def one(): ...

    @wf.route(after="one")
    def later():
        return Delay(600)

    @wf.step
    async def two(): ...

    rt = await stores.enter(wf, pause_window=window)
    [run_id] = (await rt.emit("begin")).run_ids
    await stores.clock.run_until_idle()
    with pytest.raises(NotPaused):
        await rt.resume(run_id)
    assert (await rt.wait(run_id, 6000)).status is COMPLETED


@pytest.mark.parametrize("named", [None, "a"])
async def test_of_ten_resumes_one_wins(stores, window, named):
    """However many resume at once, exactly one patch counts; the others get a typed error."""
    ran = []
    rt = await stores.enter(gates("a", ran=ran), pause_window=window)
    run = await begin(rt)
    outcomes = await asyncio.gather(
        *(rt.resume(run.run_id, {"by": place}, wait=named) for place in range(10)), return_exceptions=True
    )
    winners = [place for place, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)]
    assert len(winners) == 1
    losers = {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)}
    assert losers <= {NotPaused, StaleResume, RunFinished}
    assert (await rt.wait(run.run_id)).state["by"] == winners[0]
    assert ran == ["after 0"]


@pytest.mark.parametrize("ids", [("a", "b"), ("a", "a")], ids=["two ids", "one id"])
async def test_a_double_click_cannot_approve_the_next_gate(stores, window, ids):
    """Two resumes that enter at the first gate never pass the second, whatever order their commits take."""
    rt = await stores.enter(gates(*ids), pause_window=window)
    run = await begin(rt)
    store = rt.store
    store.hold = takes
    first = asyncio.create_task(rt.resume(run.run_id))
    second = asyncio.create_task(rt.resume(run.run_id))
    await stores.clock.run_until_idle()
    while store.held:
        store.held[0].release()
        await stores.clock.run_until_idle()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    winners = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert [winner.status for winner in winners] == [PAUSED]
    assert {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)} <= {NotPaused, StaleResume}
    info = await rt.get_run(run.run_id)
    assert (info.status, info.stage) == (PAUSED, "pause-1")


async def test_the_last_held_resume_wins_nothing(stores, window):
    """Two resumes whose commits reach the store in the other order: still one winner, the other is told so."""
    rt = await stores.enter(gates("a", "b"), pause_window=window)
    run = await begin(rt)
    store = rt.store
    store.hold = takes
    first = asyncio.create_task(rt.resume(run.run_id, {"by": 1}))
    second = asyncio.create_task(rt.resume(run.run_id, {"by": 2}))
    await stores.clock.run_until_idle()
    store.hold = None
    for held in reversed(list(store.held)):
        held.release()
        await stores.clock.run_until_idle()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    winners = [place for place, outcome in enumerate(outcomes, 1) if not isinstance(outcome, BaseException)]
    assert len(winners) == 1
    assert outcomes[winners[0] - 1].state["by"] == winners[0]
    assert (await rt.get_run(run.run_id)).stage == "pause-1"


async def test_resume_right_after_the_store_says_paused(stores):
    """Who learns of the pause from the store, before this process has heard its own commit answered, may resume."""
    rt = await stores.enter(gates("a"))
    store = rt.store
    store.hold_after = parks
    begun = await rt.emit("begin")
    [held] = await store.until_held()
    assert (await rt.get_run(begun.run_ids[0])).status is PAUSED
    resumed = asyncio.create_task(rt.resume(begun.run_ids[0], {"by": "Ada"}))
    await stores.clock.run_until_idle()
    held.release()
    assert (await resumed).state == {"by": "Ada", "n": 0}
    assert (await rt.wait(begun.run_ids[0])).status is COMPLETED
    await stores.clock.run_until_idle()
    assert rt.list_all_runs() == []


async def test_resume_where_the_workflow_is_unknown(stores, window):
    """Where nobody can run it the resumed run is left `ready`, and goes on once its workflow is registered."""
    seen = []
    wf = Workflow("w", triggers={"begin": Trigger("begin")})
    wf.wait("gate", on="go")

    @wf.step
    async def after(ctx, state):
        return {"seen": [ctx.resume and ctx.resume.reason, state["by"]]}

    rt = await stores.enter(wf, pause_window=window)
    run = await begin(rt)
    await rt.stop()
    rt = await stores.enter()
    left = await rt.resume(run.run_id, {"by": "Ada"})
    assert left.status is RunStatus.READY
    with pytest.raises(NotPaused):
        await rt.resume(run.run_id)
    await rt.register(wf, on_resume=lambda ctx: seen.append(ctx.state["by"]))
    result = await rt.wait(run.run_id, 60)
    assert (result.status, result.state["seen"]) == (COMPLETED, ["api", "Ada"])
    assert seen == ["Ada"]


async def test_an_event_where_the_workflow_is_unknown(stores):
    """An event for a parked run of an unknown workflow makes it `ready`; once registered it goes on with the event."""
    rt = await stores.enter(gates("a"))
    run = await begin(rt)
    await rt.stop()
    rt = await stores.enter()
    receipt = await rt.emit("go.0", by="Ada")
    assert [(str(line.verdict), line.run_id) for line in receipt.lines] == [("resumed", run.run_id)]
    assert (await rt.get_run(run.run_id)).status is RunStatus.READY
    await rt.register(gates("a"))
    assert (await rt.wait(run.run_id, 60)).state == {"by": "Ada", "n": 0}


async def test_on_resume_sees_the_restored_state_and_the_reason(stores, window):
    """`on_resume` is called before the run goes on, with what was folded in and why, however it was resumed."""
    seen = []
    rt = await stores.enter(pause_window=window)
    wf = Workflow("w", triggers={"begin": Trigger("begin")})
    wf.wait("a", on="go", timeout=60, on_timeout="resume")
    wf.wait("b", on="go", timeout=60, on_timeout="resume")
    wf.wait("c", on="go", timeout=60, on_timeout="resume")
    await rt.register(wf, on_resume=lambda ctx: seen.append((ctx.resume.reason, ctx.resume.wait, dict(ctx.state))))
    stores.clock.autojump = False
    run = await begin(rt)
    await rt.emit("go", n=1)
    await stores.clock.run_until_idle()
    await rt.resume(run.run_id, {"n": 2})
    await stores.clock.run_for(61)
    assert seen == [("event", "a", {"n": 1}), ("api", "b", {"n": 2}), ("timeout", "c", {"n": 2})]
    assert (await rt.wait(run.run_id)).status is COMPLETED


async def test_an_on_resume_that_raises_is_in_the_timeline(stores, window):
    """The run goes on without what the hook was to do; its timeline says what the hook raised, and hides secrets."""

    def refuse(_ctx):
        raise ValueError("no line to warehouse-7")

    rt = await stores.enter(pause_window=window, env={"WAREHOUSE": "warehouse-7"})
    wf = Workflow("w", triggers={"begin": Trigger("begin")})
    wf.wait("a", on="go")
    await rt.register(wf, on_resume=refuse)
    run = await begin(rt)
    assert (await rt.resume(run.run_id)).status is COMPLETED
    timeline = await rt.timeline(run.run_id)
    [entry] = [entry for entry in timeline.entries if entry.type == "hook:failure"]
    assert entry.payload == {"hook": "on_resume", "type": "ValueError", "message": "no line to ***"}
    assert timeline.types().index("pipeline:resume") < entry.seq


async def test_a_caller_that_goes_away_takes_nothing_along(stores, window):
    """A resume whose caller is cancelled while its commit is on its way either happened wholly or not at all."""
    ran = []
    rt = await stores.enter(gates("a", "b", ran=ran), pause_window=window)
    run = await begin(rt)
    store = rt.store
    store.hold_after = takes
    resuming = asyncio.create_task(rt.resume(run.run_id, {"by": "Ada"}))
    [held] = await store.until_held()
    resuming.cancel()
    await stores.clock.run_until_idle()
    store.hold_after = None
    if store.held:
        held.release()
    await stores.clock.run_until_idle()
    info = await rt.get_run(run.run_id)
    assert (info.status, info.stage, ran) == (PAUSED, "pause-1", ["after 0"])
