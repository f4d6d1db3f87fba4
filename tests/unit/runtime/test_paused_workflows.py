"""Pausing workflows, one or all: nothing of them starts or goes on until they are unpaused, across restarts."""

from __future__ import annotations

import asyncio

import pytest
from support import ends, until_crash
from support_operators import Gate, begun, in_step, two_stages, waiting

from poundlock import (
    Delay,
    Exclusive,
    InvalidDefinition,
    NotPaused,
    NotRegistered,
    RunStatus,
    Serialized,
    SingletonLoop,
    Transient,
    Verdict,
    Workflow,
    WorkflowPaused,
)
from poundlock.testing import run_until_idle

ABORTED, COMPLETED, DELAYED, PAUSED = RunStatus.ABORTED, RunStatus.COMPLETED, RunStatus.DELAYED, RunStatus.PAUSED
QUEUED, READY, RUNNING = RunStatus.QUEUED, RunStatus.READY, RunStatus.RUNNING


async def statuses(rt, *run_ids):
    return [(await rt.get_run(run_id)).status for run_id in run_ids]


def quick(ran=None, **options):
    """A workflow of one step."""
    wf = Workflow("w", **options)

    @wf.on("begin")
    @wf.step
    async def only(ctx):
        if ran is not None:
            ran.append(ctx.run_id)

    return wf


async def test_active_runs(stores):
    """A running run is paused at its next boundary, shows why, and goes on when its workflow is unpaused."""
    gate, ran = Gate(), []
    rt, run_id = await in_step(stores, gate, two_stages(gate, ran))
    await rt.pause_workflow("w", reason="deployment")
    gate.open.set()
    assert (await rt.wait(run_id, until="rest")).status is PAUSED
    info = await rt.get_run(run_id)
    assert [(pause.scope, pause.reason) for pause in info.paused_by] == [("workflow", "deployment")]
    assert rt.watch("w", run_id) in (None, info)
    assert rt.paused_workflows() == {"w": info.paused_by[0]}
    assert rt.statistics()["workflows:paused"] == 1
    await run_until_idle(stores.clock)
    assert ran == []
    await rt.unpause_workflow("w")
    assert (await rt.wait(run_id)).status is COMPLETED
    assert ran == ["second"]
    types = [entry.type for entry in (await rt.timeline(run_id)).entries if entry.type.startswith("run:")]
    assert types == ["run:created", "run:paused", "run:unpaused"]


async def test_waits_go_on_buffering(stores):
    """What comes for a waiting run of a paused workflow is buffered; the run goes on with it when that is unpaused."""
    rt = await stores.enter(waiting())
    first, second = await begun(rt), await begun(rt)
    for run_id in (first, second):
        await rt.wait(run_id, until="rest")
    await rt.pause_workflow("w")
    for run_id in (first, second):
        with pytest.raises(NotPaused, match="unpause"):
            await rt.resume(run_id)
    lines = (await rt.emit("go", n=1)).lines
    assert [line.verdict for line in lines] == [Verdict.BUFFERED] * 2
    assert "paused by an operator" in lines[0].reason
    await run_until_idle(stores.clock)
    assert await statuses(rt, first, second) == [PAUSED, PAUSED]
    await rt.unpause_workflow("w")
    for run_id in (first, second):
        assert (await rt.wait(run_id)).state["why"] == "event"


async def test_times_do_not_act(stores):
    """Delays and timeouts that pass while their workflow is paused act when it is unpaused."""
    after = []
    wf = Workflow("late")
    wf.on("begin")
    wf.step(lambda: Delay(10), id="first")
    wf.step(lambda: after.append("delay"), id="second")
    rt = await stores.enter(waiting(timeout=60, on_timeout="resume", after=after), wf)
    receipt = await rt.emit("begin")
    await run_until_idle(stores.clock)
    await rt.pause_all()
    stores.clock.advance(3600)
    await run_until_idle(stores.clock)
    assert after == []
    await rt.unpause_all()
    for run_id in receipt.run_ids:
        assert (await rt.wait(run_id)).status is COMPLETED
    assert sorted(after) == ["delay", "timeout"]


@pytest.mark.parametrize("mode", [Transient(concurrency=2), Serialized()])
async def test_events_are_queued(stores, mode):
    """Events that would start a run are queued while their workflow is paused, and run in order afterwards."""
    ran = []
    rt = await stores.enter()
    await rt.register(quick(ran), mode)
    await rt.pause_workflow("w", reason="deployment")
    lines = [(await rt.emit("begin")).lines[0] for _ in range(5)]
    assert [line.verdict for line in lines] == [Verdict.QUEUED] * 5
    assert lines[0].reason == "workflow 'w' is paused: deployment"
    await run_until_idle(stores.clock)
    assert ran == []
    await rt.unpause_workflow("w")
    for line in lines:
        assert (await rt.wait(line.run_id)).status is COMPLETED
    assert ran == [line.run_id for line in lines]
    assert (await rt.emit("begin")).lines[0].verdict is Verdict.STARTED


async def test_capacity_counts(stores):
    """The queue of a paused workflow is no longer than its mode allows."""
    rt = await stores.enter()
    await rt.register(quick(), Transient(concurrency=1, capacity=2))
    await rt.pause_workflow("w")
    verdicts = [(await rt.emit("begin")).lines[0].verdict for _ in range(3)]
    assert verdicts == [Verdict.QUEUED, Verdict.QUEUED, Verdict.DROPPED]
    await rt.unpause_workflow("w")


@pytest.mark.parametrize(
    ("mode", "second"),
    [
        (SingletonLoop(), Verdict.DROPPED),
        (SingletonLoop("signal"), Verdict.SIGNALLED),
        (SingletonLoop("replace"), Verdict.QUEUED),
        (Exclusive(), Verdict.REJECTED),
        (Exclusive("queue_single"), Verdict.QUEUED),
    ],
)
async def test_modes_of_one(stores, mode, second):
    """In a mode of one run, the run that waits for the end of the pause stands for the active one."""
    rt = await stores.enter()
    await rt.register(quick(), mode)
    await rt.pause_workflow("w")
    lines = [(await rt.emit("begin", n=number)).lines[0] for number in range(2)]
    assert [line.verdict for line in lines] == [Verdict.QUEUED, second]
    await rt.unpause_workflow("w")
    runs = list(dict.fromkeys(line.run_id for line in lines if line.run_id))
    ends = [await rt.wait(run_id) for run_id in runs]
    assert [end.status for end in ends] == [COMPLETED] if len(runs) == 1 else [ABORTED, COMPLETED]
    if second is Verdict.SIGNALLED:
        assert ends[0].state["n"] == 1


async def test_events_are_rejected(stores):
    """With `incoming="reject"` the receipt says so, calls raise, and the same event is accepted afterwards."""
    rt = await stores.enter(quick())
    await rt.pause_workflow("w", "reject", reason="closed")
    [line] = (await rt.emit("begin", id="e-1")).lines
    assert (line.verdict, line.run_id, line.reason) == (Verdict.REJECTED, None, "workflow 'w' is paused: closed")
    with pytest.raises(WorkflowPaused, match="closed"):
        await rt.run("w")
    await rt.unpause_workflow("w")
    assert (await rt.emit("begin", id="e-1")).lines[0].verdict is Verdict.STARTED


async def test_held_events_and_times(stores):
    """What a trigger holds back, and what a time trigger starts, is queued while the workflow is paused."""
    ran = []
    wf = Workflow("w")
    wf.on("begin", debounce=10)
    wf.on(every=60)

    @wf.step
    async def only(ctx):
        ran.append(ctx.event.type)

    rt = await stores.enter(wf)
    await rt.pause_workflow("w")
    assert (await rt.emit("begin")).lines[0].verdict is Verdict.DELAYED
    await run_until_idle(stores.clock)
    stores.clock.advance(61)
    await run_until_idle(stores.clock)
    waiting_runs = (await rt.find_runs()).items
    assert [str(info.status) for info in waiting_runs] == ["queued", "queued"]
    assert ran == []
    await rt.unpause_workflow("w")
    for info in waiting_runs:
        assert (await rt.wait(info.run_id)).status is COMPLETED
    assert len(ran) == 2


async def test_what_is_invoked_is_paused(stores):
    """What is invoked while events are queued is paused before its first stage, and its hook is called once."""
    ran, prepared = [], []
    rt = await stores.enter()
    await rt.register(quick(ran), on_prepare=lambda ctx: prepared.append(ctx.run_id))
    await rt.pause_workflow("w")
    result = await rt.run("w")
    assert (result.status, result.metadata["paused_by"][0]["scope"]) == (PAUSED, "workflow")
    assert (ran, prepared) == ([], [])
    await rt.unpause_workflow("w")
    assert (await rt.wait(result.run_id)).status is COMPLETED
    assert ran == prepared == [result.run_id]


async def test_both_pauses(stores):
    """A run that is paused by its own id and with its workflow goes on once neither is left."""
    for order in (0, 1):
        gate, ran = Gate(), []
        rt, run_id = await in_step(stores, gate, two_stages(gate, ran))
        await rt.pause(run_id)
        await rt.pause_workflow("w")
        gate.open.set()
        await rt.wait(run_id, until="rest")
        assert [pause.scope for pause in (await rt.get_run(run_id)).paused_by] == ["run", "workflow"]
        calls = [lambda rt=rt, run_id=run_id: rt.unpause(run_id), lambda rt=rt: rt.unpause_workflow("w")]
        await calls[order]()
        await run_until_idle(stores.clock)
        assert ran == []
        await calls[1 - order]()
        assert (await rt.wait(run_id)).status is COMPLETED
        await rt.stop()


async def test_all(stores):
    """A pause of all holds for workflows that are registered later; one that is paused by its own id stays paused."""
    rt = await stores.enter(quick())
    await rt.pause_all(reason="maintenance")
    await rt.pause_workflow("w", "reject")
    other = Workflow("other")
    other.on("begin")
    other.step(lambda: None, id="only")
    await rt.register(other)
    lines = {line.workflow_id: line for line in (await rt.emit("begin")).lines}
    assert (lines["w"].verdict, lines["other"].verdict) == (Verdict.REJECTED, Verdict.QUEUED)
    assert lines["other"].reason == "all workflows are paused: maintenance"
    assert list(rt.paused_workflows()) == ["*", "w"]
    await rt.unpause_all()
    assert (await rt.wait(lines["other"].run_id)).status is COMPLETED
    assert (await rt.emit("begin")).lines[0].verdict is Verdict.REJECTED


async def test_it_holds_after_a_restart(stores):
    """A workflow stays paused across restarts, with everything that came, until it is unpaused."""
    gate, ran = Gate(), []
    gate.open.set()
    rt = await stores.enter(two_stages(gate, ran))
    await rt.pause_workflow("w", reason="deployment")
    queued = (await rt.emit("begin")).run_ids[0]
    await rt.stop()
    rt = await stores.enter(two_stages(gate, ran))
    await run_until_idle(stores.clock)
    assert await statuses(rt, queued) == [QUEUED]
    assert (await rt.get_run(queued)).paused_by[0].reason == "deployment"
    later = (await rt.emit("begin")).run_ids[0]
    await rt.unpause_workflow("w")
    for run_id in (queued, later):
        assert (await rt.wait(run_id)).status is COMPLETED


async def test_without_the_workflow(stores):
    """A workflow is paused and unpaused by a process that does not have it; a name that nobody knows is refused."""
    rt = await stores.enter(quick())
    await rt.pause_workflow("w")
    queued = (await rt.emit("begin")).run_ids[0]
    await rt.stop()
    rt = await stores.enter()
    await rt.unpause_workflow("w")
    assert rt.paused_workflows() == {}
    with pytest.raises(NotRegistered):
        await rt.pause_workflow("nobody")
    with pytest.raises(InvalidDefinition):
        await rt.pause_workflow("w", "drop")
    with pytest.raises(InvalidDefinition):
        await rt.pause_workflow("w", reason=1)
    await rt.register(quick())
    assert (await rt.wait(queued)).status is COMPLETED


async def test_twice(stores):
    """Pausing twice replaces the reason; unpausing what is not paused does nothing."""
    rt = await stores.enter(quick())
    await rt.unpause_workflow("w")
    await rt.unpause_all()
    await rt.pause_workflow("w", reason="one")
    await rt.pause_workflow("w", "reject", reason="two")
    assert rt.paused_workflows()["w"].reason == "two"
    assert (await rt.emit("begin")).lines[0].verdict is Verdict.REJECTED
    await rt.unpause_workflow("w")
    await rt.unpause_workflow("w")
    assert (await rt.run("w")).status is COMPLETED


async def test_an_end_promotes_nobody(stores):
    """A run of a paused workflow that ends leaves its slot free; unpausing starts the queued ones."""
    gate, ran = Gate(), []
    rt = await stores.enter()
    wf = Workflow("w")

    @wf.on("begin")
    @wf.step
    async def only(ctx):
        ran.append(ctx.run_id)
        return await gate()

    await rt.register(wf, Serialized())
    runs = [await begun(rt) for _ in range(3)]
    await gate.begun.wait()
    await rt.pause_workflow("w")
    gate.open.set()
    assert (await rt.wait(runs[0])).status is COMPLETED
    await run_until_idle(stores.clock)
    assert ran == runs[:1]
    assert await statuses(rt, *runs[1:]) == [QUEUED, QUEUED]
    await rt.unpause_workflow("w")
    for run_id in runs:
        assert (await rt.wait(run_id)).status is COMPLETED
    assert ran == runs


async def test_a_decision_in_flight(stores):
    """A run that was admitted at the moment its workflow was paused does not begin its first stage."""
    ran = []
    store = stores.store()
    rt = await stores.enter(quick(ran), store=store)
    store.hold_after = lambda changes: bool(changes.creates)
    emitting = asyncio.create_task(rt.emit("begin"))
    [held] = await store.until_held()
    await rt.pause_workflow("w")
    store.hold_after = None
    held.release()
    [line] = (await emitting).lines
    assert line.verdict is Verdict.STARTED
    assert (await rt.wait(line.run_id, until="rest")).status is PAUSED
    assert ran == []
    await rt.unpause_workflow("w")
    assert (await rt.wait(line.run_id)).status is COMPLETED


async def test_unpaused_before_the_boundary(stores):
    """A running run whose workflow is unpaused before it has come to a boundary goes on without a pause."""
    gate, ran = Gate(), []
    rt, run_id = await in_step(stores, gate, two_stages(gate, ran))
    await rt.pause_workflow("w")
    await rt.unpause_workflow("w")
    gate.open.set()
    assert (await rt.wait(run_id, until="rest")).status is COMPLETED


async def test_queued_deadlines_wait(stores):
    """The deadline of a queued run does not act while its workflow is paused; it acts afterwards."""
    rt = await stores.enter()
    await rt.register(quick(timeout=60), Serialized())
    await rt.pause_workflow("w")
    run_id = await begun(rt)
    stores.clock.advance(3600)
    await run_until_idle(stores.clock)
    assert await statuses(rt, run_id) == [QUEUED]
    await rt.unpause_workflow("w")
    assert (await rt.wait(run_id)).error.code == "RUN_TIMEOUT"


async def test_children_of_a_paused_workflow(stores):
    """A child of a paused workflow is paused before its first stage, and its parent waits for it."""
    ran = []
    parent = Workflow("parent")
    parent.on("go")
    parent.call("w", into="child")
    rt = await stores.enter(quick(ran), parent)
    await rt.pause_workflow("w", "reject")
    run_id = (await rt.emit("go")).run_ids[0]
    assert (await rt.wait(run_id, until="rest")).status is PAUSED
    assert ran == []
    await rt.unpause_workflow("w")
    assert (await rt.wait(run_id)).status is COMPLETED


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_crash_at_any_commit(stores, where):
    """Whichever commit the process dies at, nothing runs while the workflow is paused, and all ends afterwards."""
    number = 0
    while True:
        number += 1
        ran = []
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(store=store)
        await rt.register(quick(ran), Serialized())

        async def work(rt=rt):
            await rt.emit("begin")
            await rt.pause_workflow("w")
            for _ in range(2):
                await rt.emit("begin")
            await run_until_idle(stores.clock)
            await rt.unpause_workflow("w")
            await run_until_idle(stores.clock)

        over = await until_crash(store, work())
        await stores.crash(rt)
        rt = await stores.enter()
        before = len(ran)
        await rt.register(quick(ran), Serialized())
        await run_until_idle(stores.clock)
        if rt.paused_workflows():
            assert len(ran) == before
            await rt.unpause_workflow("w")
            await run_until_idle(stores.clock)
        for info in (await rt.find_runs()).items:
            assert info.status is COMPLETED, (number, info)
        await rt.stop()
        if over:
            assert number > 5
            return


async def test_pause_against_the_end(stores):
    """A run that is promoted at the moment its workflow is paused does not begin its first stage."""
    gate, store, ran = Gate(), stores.store(), []
    wf = Workflow("w")

    @wf.on("begin")
    @wf.step
    async def only(ctx):
        ran.append(ctx.run_id)
        return await gate()

    rt = await stores.enter(store=store)
    await rt.register(wf, Serialized())
    first, second = await begun(rt), await begun(rt)
    await gate.begun.wait()
    store.hold = ends
    gate.open.set()
    [end] = await store.until_held()
    await rt.pause_workflow("w")
    store.hold = None
    end.release()
    assert (await rt.wait(first)).status is COMPLETED
    assert (await rt.wait(second, until="rest")).status is PAUSED
    assert ran == [first]
    await rt.unpause_workflow("w")
    assert (await rt.wait(second)).status is COMPLETED
