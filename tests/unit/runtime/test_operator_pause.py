"""Pausing a run by its id: wherever it is, it rests until it is unpaused, and loses nothing meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from support import ends, parks, until_crash
from support_operators import Gate, begun, in_step, two_stages, waiting

from poundlock import (
    Delay,
    Jump,
    NotPaused,
    Pause,
    Pending,
    Pipeline,
    Retry,
    RunFinished,
    RunNotFound,
    RunStatus,
    Serialized,
    Stage,
    Step,
    Transient,
    Trigger,
    Verdict,
    Wait,
    Workflow,
    workflow,
)
from poundlock.model.changes import Changes, Post
from poundlock.testing import run_until_idle

ABORTED, COMPLETED, DELAYED, PAUSED = RunStatus.ABORTED, RunStatus.COMPLETED, RunStatus.DELAYED, RunStatus.PAUSED
QUEUED, READY, RUNNING = RunStatus.QUEUED, RunStatus.READY, RunStatus.RUNNING


async def paused(rt, run_id):
    """The run, once it is paused by an operator."""
    result = await rt.wait(run_id, until="rest")
    assert result.status is PAUSED
    info = await rt.get_run(run_id)
    assert info.paused_by
    assert rt.watch(info.workflow_id, run_id) in (None, info)
    return info


# ----------------------------------------------------------------------------------------------------- wherever it is
async def test_a_running_run(stores):
    """A running run is paused at its next boundary, says by whom and why, and goes on with its next stage."""
    gate, ran = Gate(), []
    rt, run_id = await in_step(stores, gate, two_stages(gate, ran))
    await rt.pause(run_id, "maintenance")
    gate.open.set()
    info = await paused(rt, run_id)
    assert (info.stage, ran) == ("second", [])
    [pause] = info.paused_by
    assert (pause.scope, pause.by, pause.reason, pause.since) == ("run", "api", "maintenance", rt.clock.now())
    assert info.to_dict()["paused_by"] == [pause.to_dict()]
    await run_until_idle(stores.clock)
    assert ran == []
    await rt.unpause(run_id)
    result = await rt.wait(run_id)
    assert result.status is COMPLETED
    assert result.state == {"gate": True, "second": True}
    types = [(entry.type, entry.payload) for entry in (await rt.timeline(run_id)).entries if entry.source == "dispatch"]
    said = {"scope": "run", "reason": "maintenance", "by": "api"}
    assert types[1:] == [("run:paused", said), ("run:unpaused", {"scope": "run", "by": "api"})]
    assert (await rt.get_run(run_id)).paused_by == ()
    assert rt.statistics()["paused_by_operator"] == 1


async def test_callers_see_the_pause(stores):
    """`run` returns at the pause, and its result says who has paused the run."""
    gate = Gate()
    rt = await stores.enter(two_stages(gate))
    call = asyncio.create_task(rt.run("w"))
    await gate.begun.wait()
    [info] = rt.list_all_runs()
    await rt.pause(info.run_id, "look at it")
    gate.open.set()
    result = await call
    assert (result.status, result.ok, result.waits) == (PAUSED, True, ())
    assert [pause["reason"] for pause in result.metadata["paused_by"]] == ["look at it"]


async def test_a_run_at_a_wait(stores):
    """A run that is paused at a wait buffers what comes for it, is not answered by hand, and goes on when unpaused."""
    rt = await stores.enter(waiting())
    run_id = await begun(rt)
    await rt.wait(run_id, until="rest")
    await rt.pause(run_id)
    info = await paused(rt, run_id)
    assert [wait.id for wait in info.waits if wait.parked] == ["gate"]
    with pytest.raises(NotPaused, match="unpause"):
        await rt.resume(run_id)
    [line] = (await rt.emit("go", n=2)).lines
    assert (line.verdict, line.run_id) == (Verdict.BUFFERED, run_id)
    assert "paused by an operator" in line.reason
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status is PAUSED
    await rt.unpause(run_id)
    result = await rt.wait(run_id)
    assert result.state == {"n": 2, "why": "event"}


async def test_unpaused_at_its_wait(stores):
    """A run that nobody has answered meanwhile waits on when it is unpaused: no stage runs again."""
    rt = await stores.enter(waiting())
    run_id = await begun(rt)
    await rt.wait(run_id, until="rest")
    await rt.pause(run_id)
    await rt.unpause(run_id)
    await run_until_idle(stores.clock)
    info = await rt.get_run(run_id)
    assert (info.status, info.paused_by, info.waits[0].parked) == (PAUSED, (), True)
    assert (await rt.resume(run_id)).state["why"] == "api"


async def test_the_time_of_a_wait(stores):
    """A wait's timeout does not act while its run is paused; it acts when that is unpaused."""
    after = []
    rt = await stores.enter(waiting(timeout=60, on_timeout="resume", after=after))
    run_id = await begun(rt)
    await rt.wait(run_id, until="rest")
    await rt.pause(run_id)
    stores.clock.advance(3600)
    await run_until_idle(stores.clock)
    assert (after, (await rt.get_run(run_id)).wake_at) == ([], None)
    await rt.unpause(run_id)
    assert (await rt.wait(run_id)).status is COMPLETED
    assert after == ["timeout"]


async def test_an_event_in_time(stores):
    """An event that came while the run was paused counts before a timeout that passed meanwhile."""
    after = []
    rt = await stores.enter(waiting(timeout=60, on_timeout="resume", after=after))
    run_id = await begun(rt)
    await rt.wait(run_id, until="rest")
    await rt.pause(run_id)
    await rt.emit("go")
    stores.clock.advance(3600)
    await rt.unpause(run_id)
    await rt.wait(run_id)
    assert after == ["event"]


async def test_a_delayed_run(stores):
    """A delayed run is paused, and delayed again when it is unpaused in time; else it goes on at once."""
    wf = Workflow("w")
    wf.on("begin")
    wf.step(lambda: Delay(100), id="first")
    wf.step(lambda ctx: {"why": ctx.resume.reason}, id="second")
    rt = await stores.enter(wf)
    run_id = await begun(rt)
    await run_until_idle(stores.clock)
    due = (await rt.get_run(run_id)).wake_at
    for late in (False, True):
        await rt.pause(run_id)
        info = await paused(rt, run_id)
        assert info.wake_at is None
        if late:
            stores.clock.advance(1000)
            await run_until_idle(stores.clock)
            assert (await rt.get_run(run_id)).status is PAUSED
        await rt.unpause(run_id)
        if not late:
            info = await rt.get_run(run_id)
            assert (info.status, info.wake_at) == (DELAYED, due)
    assert (await rt.wait(run_id)).state == {"why": "delay"}
    assert stores.clock.now() < due + 1001


async def test_a_queued_run(stores):
    """A queued run keeps its place; when its turn has come it is paused before its first stage, and begins after."""
    gate, prepared = Gate(), []
    rt = await stores.enter()
    await rt.register(two_stages(gate), Transient(concurrency=1), on_prepare=lambda ctx: prepared.append(ctx.run_id))
    first, second = await begun(rt), await begun(rt)
    await rt.pause(second, "not yet")
    info = await rt.get_run(second)
    assert (info.status, [pause.reason for pause in info.paused_by]) == (QUEUED, ["not yet"])
    third = await begun(rt)
    gate.open.set()
    assert (await rt.wait(first)).status is COMPLETED
    assert (await rt.wait(third)).status is COMPLETED
    info = await paused(rt, second)
    assert info.stage == "first"
    assert second not in prepared
    await rt.unpause(second)
    assert (await rt.wait(second)).status is COMPLETED
    assert sorted(prepared) == sorted([first, second, third])


async def test_a_queued_run_that_is_unpaused_in_line(stores):
    """A queued run that is unpaused before its turn keeps its place and runs as if nothing had been."""
    gate, prepared = Gate(), []
    rt = await stores.enter()
    await rt.register(two_stages(gate), Serialized(), on_prepare=lambda ctx: prepared.append(ctx.run_id))
    runs = [await begun(rt) for _ in range(3)]
    await rt.pause(runs[1])
    await rt.unpause(runs[1])
    assert (await rt.get_run(runs[1])).status is QUEUED
    gate.open.set()
    for run_id in runs:
        assert (await rt.wait(run_id)).status is COMPLETED
    assert prepared == runs


async def test_before_it_begins(stores):
    """A run that is paused before its first stage has begun is prepared once, when it is unpaused."""
    gate, prepared = Gate(), []
    gate.open.set()
    store = stores.store()
    rt = await stores.enter(store=store)
    await rt.register(two_stages(gate), on_prepare=lambda ctx: prepared.append(ctx.run_id))
    store.hold_after = lambda changes: bool(changes.creates)
    emitting = asyncio.create_task(rt.emit("begin"))
    [held] = await store.until_held()
    run_id = held.changes.creates[0].identity.run_id
    pausing = asyncio.create_task(rt.pause(run_id))
    await run_until_idle(stores.clock)
    held.release()
    await asyncio.gather(emitting, pausing)
    await paused(rt, run_id)
    assert prepared == []
    await rt.unpause(run_id)
    assert (await rt.wait(run_id)).status is COMPLETED
    assert prepared == [run_id]


async def test_a_ready_run(stores):
    """A run that waits for a process with its workflow is paused, and ready again when it is unpaused."""
    rt = await stores.enter(waiting())
    run_id = await begun(rt)
    await rt.wait(run_id, until="rest")
    await rt.stop()
    other = await stores.enter()
    await other.resume(run_id)
    assert (await other.get_run(run_id)).status is READY
    await other.pause(run_id)
    await paused(other, run_id)
    await other.unpause(run_id)
    assert (await other.get_run(run_id)).status is READY
    await other.register(waiting())
    assert (await other.wait(run_id)).state["why"] == "api"


async def test_a_run_that_waits_for_its_next_attempt(stores):
    """A run whose step waits for its next attempt is paused at once, and its attempts go on counting."""
    attempts = []
    wf = Workflow("w")
    wf.on("begin")

    @wf.step(retry=Retry(3, backoff=20, factor=1))
    async def fragile(ctx):
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return {"done": True}

    rt = await stores.enter(wf)
    run_id = await begun(rt)
    await run_until_idle(stores.clock)
    assert attempts == [1]
    await rt.pause(run_id)
    await paused(rt, run_id)
    stores.clock.advance(100)
    await run_until_idle(stores.clock)
    assert attempts == [1]
    await rt.unpause(run_id)
    assert (await rt.wait(run_id)).state == {"done": True}
    assert attempts == [1, 2, 3]


async def test_a_run_that_polls(stores):
    """A run that polls is paused between two checks; what it began is not begun again."""
    begun_jobs, checks = [], []
    wf = Workflow("w")
    wf.on("begin")

    def look(job):
        checks.append(job)
        return {"done": job} if len(checks) == 3 else Pending()

    @wf.step(poll=look, every=10)
    async def submit():
        begun_jobs.append("job")
        return "job"

    rt = await stores.enter(wf)
    run_id = await begun(rt)
    await run_until_idle(stores.clock)
    stores.clock.advance(15)
    await run_until_idle(stores.clock)
    assert len(checks) == 1
    await rt.pause(run_id)
    await paused(rt, run_id)
    stores.clock.advance(100)
    await run_until_idle(stores.clock)
    assert len(checks) == 1
    await rt.unpause(run_id)
    assert (await rt.wait(run_id)).state == {"done": "job"}
    assert (begun_jobs, len(checks)) == (["job"], 3)


async def test_a_durable_function(stores):
    """A durable function is paused before its next operation; nothing on record is done again."""
    gate, calls = Gate(), []

    async def one():
        calls.append("one")
        return await gate()

    async def two():
        calls.append("two")

    @workflow("w", on="begin")
    async def function(step, event):
        await step.run(one)
        await step.run(two)
        found = await step.wait_for("go")
        return found.payload

    rt, run_id = await in_step(stores, gate, function)
    await rt.pause(run_id)
    gate.open.set()
    await paused(rt, run_id)
    assert calls == ["one"]
    await rt.unpause(run_id)
    await rt.wait(run_id, until="rest")
    await run_until_idle(stores.clock)
    assert calls == ["one", "two"]
    await rt.pause(run_id)
    [line] = (await rt.emit("go", n=1)).lines
    assert line.verdict is Verdict.BUFFERED
    await rt.unpause(run_id)
    assert (await rt.wait(run_id)).result == {"n": 1}
    assert calls == ["one", "two"]


def family(gate, ran):
    """A workflow whose middle stage has two children, each with a stage behind the gate."""
    wf = Workflow("w")
    wf.on("begin")

    for name in ("left", "right"):
        child = wf.pipeline(name)

        async def slow(name=name):
            await gate()
            return {name: True}

        async def end(name=name):
            ran.append(name)

        child.step(slow, id=f"{name}-slow")
        child.step(end, id=f"{name}-end")
    wf.fork("left", "right", into="checks")
    wf.step(lambda: ran.append("main"), id="last")
    return wf


async def test_a_run_with_children(stores):
    """A run is paused with its children, and unpaused with them; one that was paused by its own id stays paused."""
    gate, ran = Gate(), []
    rt, run_id = await in_step(stores, gate, family(gate, ran))
    await run_until_idle(stores.clock)
    left, right = sorted(
        (run for run in (await rt.find_runs()).items if run.parent_id == run_id), key=lambda run: run.pipeline_id
    )
    await rt.pause(right.run_id)
    await rt.pause(run_id, "all of it")
    gate.open.set()
    await paused(rt, run_id)
    assert [pause.scope for pause in (await paused(rt, left.run_id)).paused_by] == ["parent"]
    assert [pause.scope for pause in (await paused(rt, right.run_id)).paused_by] == ["run", "parent"]
    await run_until_idle(stores.clock)
    assert ran == []
    await rt.unpause(run_id)
    await rt.wait(left.run_id)
    await run_until_idle(stores.clock)
    assert ran == ["left"]
    assert [pause.scope for pause in (await rt.get_run(right.run_id)).paused_by] == ["run"]
    await rt.unpause(right.run_id)
    assert (await rt.wait(run_id)).status is COMPLETED
    assert sorted(ran) == ["left", "main", "right"]


async def test_a_child_ends_while_its_parent_is_paused(stores):
    """The end of a child is kept for a paused parent, which goes on with it when it is unpaused."""
    gate, ran = Gate(), []
    rt, run_id = await in_step(stores, gate, family(gate, ran))
    await run_until_idle(stores.clock)
    children = [run.run_id for run in (await rt.find_runs()).items if run.parent_id == run_id]
    await rt.pause(run_id)
    await paused(rt, run_id)
    for child in children:
        await rt.abort(child)
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status is PAUSED
    await rt.unpause(run_id)
    assert (await rt.wait(run_id)).status is RunStatus.FAILED


# ------------------------------------------------------------------------------------------------------ odd requests
async def test_twice(stores):
    """Pausing and unpausing twice is fine; the first reason stays."""
    rt = await stores.enter(waiting())
    run_id = await begun(rt)
    await rt.wait(run_id, until="rest")
    await rt.unpause(run_id)
    await rt.pause(run_id, "one")
    before = await rt.get_run(run_id)
    await rt.pause(run_id, "two")
    assert await rt.get_run(run_id) == before
    await rt.unpause(run_id)
    await rt.unpause(run_id)
    assert (await rt.resume(run_id)).status is COMPLETED


async def test_unknown_and_ended_runs(stores):
    """An unknown run cannot be paused, nor one that has ended; nothing changes."""
    rt = await stores.enter(waiting())
    run_id = await begun(rt)
    await rt.wait(run_id, until="rest")
    await rt.abort(run_id)
    for call in (rt.pause, rt.unpause):
        with pytest.raises(RunNotFound):
            await call("nobody")
        with pytest.raises(RunFinished):
            await call(run_id)


async def test_aborted_while_paused(stores):
    """A paused run is aborted like any other, wherever it was paused."""
    gate = Gate()
    rt, run_id = await in_step(stores, gate, two_stages(gate))
    await rt.pause(run_id)
    gate.open.set()
    await paused(rt, run_id)
    await rt.abort(run_id)
    assert (await rt.wait(run_id)).status is ABORTED
    with pytest.raises(RunFinished):
        await rt.unpause(run_id)


@pytest.mark.parametrize("first", ["request", "pause"])
@pytest.mark.parametrize("rests", ["waits", "delayed"])
async def test_a_run_that_is_asked_to_end(stores, first, rests):
    """A pause does not keep a run from ending whose abort was requested before its process died."""

    def flow():
        wf = Workflow("w")
        wf.on("begin")
        wf.step(lambda: Pause(Wait("go")) if rests == "waits" else Delay("3d"), id="begin")
        wf.step(lambda: None, id="after")
        return wf

    rt = await stores.enter(flow())
    run_id = await begun(rt)
    await run_until_idle(stores.clock)
    await rt.stop()
    other, request = await stores.enter(), Post(run_id, "abort", {"reason": "", "by": "api"}, stores.clock.now())
    if first == "pause":
        await other.pause(run_id)
        await other.store.commit(Changes(posts=(request,)))
        await other.unpause(run_id)
    else:
        await other.store.commit(Changes(posts=(request,)))
        with pytest.raises(RunFinished, match="about to end"):
            await other.pause(run_id)
    await other.stop()
    rt = await stores.enter(flow())
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status is ABORTED


async def test_an_abort_of_a_paused_run_that_nobody_followed(stores):
    """A run that an operator has paused ends as soon as its workflow is registered, if its abort was requested."""
    gate = Gate()
    rt, run_id = await in_step(stores, gate, two_stages(gate))
    await rt.pause(run_id)
    gate.open.set()
    await paused(rt, run_id)
    await rt.store.commit(Changes(posts=(Post(run_id, "abort", {"reason": "", "by": "api"}, stores.clock.now()),)))
    await stores.crash(rt)
    rt = await stores.enter(two_stages(gate))
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status is ABORTED


async def test_signals_wait(stores):
    """A signal to a paused run is taken in when that goes on."""
    gate = Gate()
    rt, run_id = await in_step(stores, gate, two_stages(gate))
    await rt.pause(run_id)
    gate.open.set()
    await paused(rt, run_id)
    await rt.signal(run_id, {"told": True})
    await rt.unpause(run_id)
    assert (await rt.wait(run_id)).state["told"] is True


async def test_a_loop_is_paused(stores):
    """A run that goes round in a loop without an end is paused between two rounds."""
    rounds = []
    wf = Workflow("w", visit_limit=1_000_000)
    wf.on("begin")

    @wf.step
    async def again():
        rounds.append(1)
        return Jump("again")

    rt = await stores.enter(wf)
    run_id = await begun(rt)
    await rt.pause(run_id)
    await paused(rt, run_id)
    count = len(rounds)
    await run_until_idle(stores.clock)
    assert len(rounds) == count
    await rt.abort(run_id)


async def test_paused_while_it_resumes(stores):
    """A run that is paused while it leaves its wait performs the stage behind it, with its reason, and then rests."""
    after, gate = [], Gate()

    async def finish(ctx):
        after.append((ctx.resume.reason, ctx.resume.event.payload))

    async def held_up(_ctx):
        await gate()

    stages = [
        Stage("gate", router=Pause(Wait("go"))),
        Stage("after", [Step("after", finish)]),
        Stage("last", [Step("last", lambda: after.append("last"))]),
    ]
    wf = Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)])
    rt = await stores.enter()
    await rt.register(wf, on_resume=held_up)
    run_id = await begun(rt)
    await rt.wait(run_id, until="rest")
    await rt.emit("go", n=1)
    await gate.begun.wait()
    await rt.pause(run_id)
    gate.open.set()
    await paused(rt, run_id)
    assert after == [("event", {"n": 1})]
    await rt.unpause(run_id)
    assert (await rt.wait(run_id)).status is COMPLETED
    assert after[1:] == ["last"]


async def test_the_reason_is_kept(stores):
    """A run that was claimed behind its delay at the moment its workflow was paused still knows why it goes on."""
    wf, store = Workflow("w"), stores.store()
    wf.on("begin")
    wf.step(lambda: Delay(10), id="first")
    wf.step(lambda ctx: {"why": ctx.resume.reason}, id="second")
    rt = await stores.enter(wf, store=store)
    claim = store.claim

    async def claim_and_pause(*args):
        claims = await claim(*args)
        if claims:
            await rt.pause_workflow("w")
        return claims

    run_id = await begun(rt)
    await run_until_idle(stores.clock)
    store.claim = claim_and_pause
    stores.clock.advance(20)
    await paused(rt, run_id)
    store.claim = claim
    await rt.unpause_workflow("w")
    assert (await rt.wait(run_id)).state == {"why": "delay"}


async def test_slots(stores):
    """A paused run gives its slot back or keeps it, as its mode says."""
    for mode, runs_meanwhile in ((Transient(concurrency=1), True), (Serialized(), False)):
        gate = Gate()
        rt = await stores.enter()
        await rt.register(two_stages(gate), mode)
        first = await begun(rt)
        await gate.begun.wait()
        await rt.pause(first)
        gate.open.set()
        await paused(rt, first)
        second = await begun(rt)
        await run_until_idle(stores.clock)
        assert ((await rt.get_run(second)).status is COMPLETED) is runs_meanwhile
        await rt.unpause(first)
        assert (await rt.wait(first)).status is COMPLETED
        assert (await rt.wait(second)).status is COMPLETED
        await rt.stop()


# ------------------------------------------------------------------------------------------------------------- races
@pytest.mark.parametrize("pause_first", [True, False])
async def test_pause_against_the_end(stores, pause_first):
    """A pause and the end of a run at the same moment: it has ended, and the pause says so or is forgotten."""
    gate = Gate()
    store = stores.store()
    rt, run_id = await in_step(stores, gate, two_stages(gate), store=store)
    store.hold = ends
    gate.open.set()
    [end] = await store.until_held()
    if pause_first:
        await rt.pause(run_id)
        store.hold = None
        end.release()
    else:
        store.hold = lambda changes: bool(changes.posts)
        pausing = asyncio.create_task(rt.pause(run_id))
        await store.until_held(2)
        end.release()
        await rt.wait(run_id)
        store.hold = None
        for held in list(store.held):
            held.release()
        with pytest.raises(RunFinished):
            await pausing
    assert (await rt.wait(run_id)).status is COMPLETED


@pytest.mark.parametrize("pause_first", [True, False])
async def test_pause_against_park(stores, pause_first):
    """A pause and a park at the same moment: the run is paused by the operator, at its wait."""
    store = stores.store()
    rt = await stores.enter(waiting(), store=store)
    store.hold = parks
    run_id = await begun(rt)
    [park] = await store.until_held()
    if pause_first:
        await rt.pause(run_id)
        store.hold = None
        park.release()
    else:
        store.hold = lambda changes: bool(changes.posts)
        pausing = asyncio.create_task(rt.pause(run_id))
        await store.until_held(2)
        park.release()
        await rt.wait(run_id, until="rest")
        store.hold = None
        for held in list(store.held):
            held.release()
        await pausing
    info = await paused(rt, run_id)
    assert info.waits[0].parked
    [line] = (await rt.emit("go")).lines
    assert line.verdict is Verdict.BUFFERED
    await run_until_idle(stores.clock)
    await rt.unpause(run_id)
    assert (await rt.wait(run_id)).state["why"] == "event"


@pytest.mark.parametrize("event_first", [True, False])
async def test_pause_against_an_event(stores, event_first):
    """A pause and the event that a run waits for at the same moment: it rests, and no event is lost."""
    store = stores.store()
    rt = await stores.enter(waiting(), store=store)
    run_id = await begun(rt)
    await rt.wait(run_id, until="rest")
    store.hold = lambda changes: bool(changes.deliveries) if not event_first else bool(changes.moves)
    other = asyncio.create_task(rt.pause(run_id) if event_first else rt.emit("go"))
    [held] = await store.until_held()
    store.hold = None
    if event_first:
        [line] = (await rt.emit("go")).lines
        assert line.verdict is Verdict.RESUMED
    else:
        await rt.pause(run_id)
    held.release()
    if event_first:
        with_end = await asyncio.gather(other, return_exceptions=True)
        assert isinstance(with_end[0], RunFinished | None)
    else:
        [line] = (await other).lines
        assert line.verdict is Verdict.BUFFERED
    await run_until_idle(stores.clock)
    if (await rt.get_run(run_id)).status is PAUSED:
        await rt.unpause(run_id)
    assert (await rt.wait(run_id)).state["why"] == "event"


@pytest.mark.parametrize("first", ["unpause", "abort"])
async def test_unpause_against_abort(stores, first):
    """Unpause and abort at the same moment: the run ends aborted."""
    store = stores.store()
    rt = await stores.enter(waiting(), store=store)
    run_id = await begun(rt)
    await rt.wait(run_id, until="rest")
    await rt.pause(run_id)
    calls = {"unpause": lambda: rt.unpause(run_id), "abort": lambda: rt.abort(run_id)}
    store.hold = lambda changes: bool(changes.moves)
    slow = asyncio.create_task(calls["abort" if first == "unpause" else "unpause"]())
    [held] = await store.until_held()
    store.hold = None
    await calls[first]()
    held.release()
    [outcome] = await asyncio.gather(slow, return_exceptions=True)
    assert isinstance(outcome, RunFinished | None)
    assert (await rt.wait(run_id)).status is ABORTED


async def test_unpaused_twice_at_once(stores):
    """Two calls that unpause a run at the same moment both succeed, and it goes on once."""
    gate, ran = Gate(), []
    rt, run_id = await in_step(stores, gate, two_stages(gate, ran))
    await rt.pause(run_id)
    gate.open.set()
    await paused(rt, run_id)
    await asyncio.gather(rt.unpause(run_id), rt.unpause(run_id))
    assert (await rt.wait(run_id)).status is COMPLETED
    assert ran == ["second"]


async def test_unpaused_before_its_boundary(stores):
    """A run that is unpaused before it has come to a boundary goes on as if nothing had been."""
    gate, ran = Gate(), []
    rt, run_id = await in_step(stores, gate, two_stages(gate, ran))
    await rt.pause(run_id)
    await rt.unpause(run_id)
    gate.open.set()
    assert (await rt.wait(run_id, until="rest")).status is COMPLETED
    assert ran == ["second"]


async def test_stopped_before_its_boundary(stores):
    """A pause that the runtime's stop overtakes holds after the restart."""
    gate, ran = Gate(), []
    rt, run_id = await in_step(stores, gate, two_stages(gate, ran))
    await rt.pause(run_id)
    await rt.stop(drain=0)
    gate = Gate()
    gate.open.set()
    rt = await stores.enter(two_stages(gate, ran))
    await paused(rt, run_id)
    assert ran == []
    await rt.unpause(run_id)
    assert (await rt.wait(run_id)).status is COMPLETED


async def test_unpaused_while_nobody_drives_it(stores):
    """A pause that was never taken in is taken back by an unpause from a process that does not know the workflow."""
    gate, ran = Gate(), []
    rt, run_id = await in_step(stores, gate, two_stages(gate, ran))
    await rt.pause(run_id)
    await rt.stop(drain=0)
    other = await stores.enter()
    await other.unpause(run_id)
    await other.stop()
    gate = Gate()
    gate.open.set()
    rt = await stores.enter(two_stages(gate, ran))
    assert (await rt.wait(run_id, until="rest")).status is COMPLETED


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_crash_at_any_commit(stores, where):
    """Whichever commit the process dies at, the run can be paused and unpaused, and comes to the same end."""
    number = 0
    while True:
        number += 1
        after = []
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(waiting(after=after, timeout=1000), store=store)

        async def work(rt=rt):
            run_id = await begun(rt)
            await rt.pause(run_id)
            await rt.wait(run_id, until="rest")
            await rt.unpause(run_id)
            await run_until_idle(stores.clock)
            await rt.pause(run_id)
            await rt.emit("go")
            await rt.unpause(run_id)
            await rt.wait(run_id)

        over = await until_crash(store, work())
        await stores.crash(rt)
        rt = await stores.enter(waiting(after=after, timeout=1000))
        await run_until_idle(stores.clock)
        for info in (await rt.find_runs(status=["running", "ready", "queued", "delayed", "paused"])).items:
            assert info.status is PAUSED, (number, info)
            await rt.unpause(info.run_id)
            await run_until_idle(stores.clock)
            if not (await rt.get_run(info.run_id)).status.terminal:
                await rt.emit("go")
            assert (await rt.wait(info.run_id)).state["why"] == "event", number
        assert len(after) <= 2
        await rt.stop()
        if over:
            assert number > 6
            return


# --------------------------------------------------------------------------------- where nobody knows its mode
@pytest.mark.parametrize("holds", [False, True])
async def test_a_pause_that_knows_no_mode(stores, holds):
    """Paused where its workflow is not registered, a run gives its slot back once its mode is known, in one commit."""
    gate, ran = Gate(), []

    def version():
        wf = Workflow("two", mode=Transient(1, holds_slot_while_paused=holds))
        wf.on("go")

        @wf.step
        async def work(n: int):
            ran.append(n)
            if n == 1:
                await gate()

        return wf

    rt = await stores.enter(version())
    [first] = (await rt.emit("go", n=1)).run_ids
    [second] = (await rt.emit("go", n=2)).run_ids
    await run_until_idle(stores.clock)
    assert ran == [1]
    await stores.crash(rt)
    elsewhere = await stores.enter()
    await elsewhere.pause(first, "look")
    assert (await elsewhere.get_run(first)).status is PAUSED
    await elsewhere.stop()
    rt = await stores.enter(version())
    await run_until_idle(stores.clock)
    if not holds:
        together = [changes for changes in rt.store.written if any(m.release for m in changes.moves)]
        assert [move.run_id for move in together[0].moves] == [first]
    assert (await rt.get_run(first)).status is PAUSED
    assert (await rt.get_run(second)).status is (QUEUED if holds else COMPLETED)
    gate.open.set()
    await rt.unpause(first)
    assert (await rt.wait(first)).status is COMPLETED
    assert (await rt.wait(second)).status is COMPLETED


async def test_a_paused_run_of_a_mode_that_changed(stores):
    """A mode that does not leave the slot to paused runs any more takes it when it is registered."""

    def version(holds):
        wf = Workflow("two", mode=Serialized(holds_slot_while_paused=holds))
        wf.on("go")
        wf.wait("gate", on="open")
        return wf

    rt = await stores.enter(version(True))
    [first] = (await rt.emit("go")).run_ids
    [second] = (await rt.emit("go")).run_ids
    await run_until_idle(stores.clock)
    assert (await rt.get_run(second)).status is QUEUED
    await rt.stop()
    rt = await stores.enter(version(False))
    await run_until_idle(stores.clock)
    assert [(await rt.get_run(run_id)).status for run_id in (first, second)] == [PAUSED, PAUSED]
    await rt.emit("open")
    assert [(await rt.wait(run_id)).status for run_id in (first, second)] == [COMPLETED, COMPLETED]
