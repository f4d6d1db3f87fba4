"""Messages that come in the very moment in which a run comes to rest or goes on, in every order."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import Annotated

import pytest
from support import OrderedStore, ends, parks, rests, takes

from poundlock import (
    Condition,
    Delay,
    Event,
    NotPaused,
    Pause,
    Pipeline,
    RunFinished,
    RunStatus,
    Serialized,
    Service,
    Stage,
    StaleResume,
    StateRef,
    Step,
    Trigger,
    Use,
    Verdict,
    Wait,
    Workflow,
)

COMPLETED, PAUSED, ABORTED = RunStatus.COMPLETED, RunStatus.PAUSED, RunStatus.ABORTED


def workflow(ran, *, router=None, ending=None, wait=None):
    def step(name):
        async def run(ctx):
            ran.append(name)
            return {name: ctx.resume.reason if ctx.resume else None}

        return Step(name, run)

    stages = [
        Stage("one", [step("one")]),
        Stage("gate", router=router or Pause(wait or Wait("go", id="w"))),
        Stage("two", [step("two")], router=ending),
        Stage("three", [step("three")]),
    ]
    return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)])


def verdicts(receipt):
    return [str(line.verdict) for line in receipt.lines]


@pytest.fixture(params=["before", "after"])
async def caught(request, stores):
    """Start a run and catch the commit that brings it to rest: before the store sees it, or after it was written."""

    async def catch(wf, which=rests, fields=None, **options):
        rt = await stores.enter(wf, **options)
        setattr(rt.store, "hold" if request.param == "before" else "hold_after", which)
        begun = await rt.emit("begin", fields or {})
        [held] = await rt.store.until_held()
        rt.store.hold = rt.store.hold_after = None
        return rt, begun.run_ids[0], held

    catch.when = request.param
    return catch


async def test_event_while_the_parking_commit_is_on_its_way(stores, caught):
    """An event that meets the parking commit, on whichever side, resumes the run: no wake-up is lost."""
    ran = []
    rt, run_id, held = await caught(workflow(ran))
    emitting = asyncio.create_task(rt.emit("go", n=1))
    await stores.clock.run_until_idle()
    held.release()
    receipt = await emitting
    assert verdicts(receipt) == ["buffered" if caught.when == "before" else "resumed"]
    result = await rt.wait(run_id, 60)
    assert (result.status, result.state) == (COMPLETED, {"n": 1, "one": None, "two": "event", "three": None})
    assert ran == ["one", "two", "three"]


async def test_event_not_for_this_wait_while_parking(stores, caught):
    """An event the run only buffers does not keep it from parking, and is there for the next wait."""
    ran = []
    wf = workflow(ran, wait=Wait("go", id="w", where=[Condition("n", "==", 1)]), ending=Pause(Wait("go", id="v")))
    rt, run_id, held = await caught(wf)
    emitting = asyncio.create_task(rt.emit("go", n=2))
    await stores.clock.run_until_idle()
    held.release()
    assert verdicts(await emitting) == ["buffered"]
    await stores.clock.run_until_idle()
    assert (await rt.get_run(run_id)).status is PAUSED
    await rt.emit("go", n=1)
    result = await rt.wait(run_id, 60)
    assert (result.state["n"], result.state["three"], ran) == (2, "event", ["one", "two", "three"])


async def test_signal_while_parking(stores, caught):
    """A signal that meets the parking commit is in the state when the run goes on."""
    ran = []
    rt, run_id, held = await caught(workflow(ran))
    signalling = asyncio.create_task(rt.signal(run_id, {"told": True}))
    await stores.clock.run_until_idle()
    held.release()
    await signalling
    await stores.clock.run_until_idle()
    assert (await rt.resume(run_id)).state == {"told": True, "one": None, "two": "api", "three": None}


@pytest.mark.parametrize("signals", [1, 5])
async def test_a_signal_is_applied_once(stores, signals):
    """However often the parking commit is refused, and after a restart, each signal changes the state once."""
    ran = []
    wf = workflow(ran)
    rt = await stores.enter(wf)
    rt.store.hold = parks
    [run_id] = (await rt.emit("begin")).run_ids
    for number in range(signals):
        [held] = await rt.store.until_held()
        await rt.signal(run_id, {"told": number})
        held.release()
        await stores.clock.run_until_idle()
    rt.store.hold = None
    for held in list(rt.store.held):
        held.release()
    await stores.clock.run_until_idle()
    assert (await rt.get_run(run_id)).status is PAUSED
    await stores.crash(rt)
    rt = await stores.enter(workflow(ran))
    assert (await rt.resume(run_id)).state["told"] == signals - 1
    patches = [entry.patch for entry in (await rt.timeline(run_id)).entries if entry.type == "state:signal"]
    assert patches == [{"told": number} for number in range(signals)]


async def test_abort_while_coming_to_rest(stores, caught):
    """An abort that meets the commit that brings a run to rest ends the run."""
    ran = []
    rt, run_id, held = await caught(workflow(ran))
    aborting = asyncio.create_task(rt.abort(run_id, "stop it"))
    await stores.clock.run_until_idle()
    held.release()
    await aborting
    result = await rt.wait(run_id, 60)
    assert (result.status, ran) == (ABORTED, ["one"])
    await stores.clock.run_until_idle()
    assert rt.list_all_runs() == []


async def test_abort_while_delaying(stores, caught):
    """The same for a run that is about to be delayed."""
    ran = []
    rt, run_id, held = await caught(workflow(ran, router=Delay(3600)))
    aborting = asyncio.create_task(rt.abort(run_id))
    await stores.clock.run_until_idle()
    held.release()
    await aborting
    assert (await rt.wait(run_id, 60)).status is ABORTED


@pytest.mark.parametrize("first", ["rest", "request"])
async def test_the_caller_of_an_abort_goes_away(stores, first):
    """The request is durable, so the run ends, also if it rests by then and the caller does not look any more."""
    rt = await stores.enter(workflow([]))
    rt.store.hold = lambda changes: rests(changes) or bool(changes.posts)
    [run_id] = (await rt.emit("begin")).run_ids
    [resting] = await rt.store.until_held()
    aborting = asyncio.create_task(rt.abort(run_id))
    [_, request] = await rt.store.until_held(2)
    rt.store.hold = None
    aborting.cancel()
    for held in (resting, request) if first == "rest" else (request, resting):
        held.release()
        await stores.clock.run_until_idle()
    with pytest.raises(asyncio.CancelledError):
        await aborting
    assert (await rt.get_run(run_id)).status is ABORTED


@pytest.mark.parametrize("by", ["event", "promotion"])
async def test_a_run_that_begins_to_be_driven_while_its_abort_is_written(stores, by):
    """A step that has begun just before its run's abort was written is cancelled: nothing else would end it."""
    begun, cancelled = [], []

    async def works(n):
        begun.append(n)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.append(n)

    waits = Stage("gate", router=Pause(Wait("go")))
    stages = [waits, Stage("two", [Step("works", works)])] if by == "event" else [Stage("two", [Step("works", works)])]
    wf = Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)], mode=Serialized())
    rt = await stores.enter(wf, pause_window=0)
    [first] = (await rt.emit("begin", n=1)).run_ids
    await stores.clock.run_until_idle()
    run_id, n = first, 1
    if by == "promotion":
        [run_id], n = (await rt.emit("begin", n=2)).run_ids, 2
    rt.store.hold_after = lambda changes: bool(changes.deliveries) or ends(changes)
    going_on = asyncio.create_task(rt.emit("go") if by == "event" else rt.abort(first))
    [unheard] = await rt.store.until_held()
    rt.store.hold_after, rt.store.hold = None, ends
    aborting = asyncio.create_task(rt.abort(run_id))
    await rt.store.until_held(2)
    unheard.release()
    await stores.clock.run_until_idle()
    assert begun[-1] == n
    rt.store.hold = None
    rt.store.held[0].release()
    await stores.clock.run_until_idle()
    assert cancelled[-1] == n
    assert (await rt.wait(run_id)).status is ABORTED
    await asyncio.gather(going_on, aborting)
    assert rt._core.runs.all_live() == []


async def test_an_abort_waits_for_the_answer_by_which_its_run_goes_on(stores):
    """A promoted run of which nobody here has heard yet is not lost: it keeps its slot until its step has ended."""
    stores.wrapper = OrderedStore
    inside, most = [], 0

    async def works(n):
        nonlocal most
        inside.append(n)
        most = max(most, len(inside))
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            inside.remove(n)

    stages = [Stage("one", [Step("works", works)])]
    wf = Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)], mode=Serialized())
    rt = await stores.enter(wf)
    first, second, third = [(await rt.emit("begin", n=n)).run_ids[0] for n in (1, 2, 3)]
    await stores.clock.run_until_idle()
    rt.store.hold_after = ends
    await rt.abort(first)
    [unheard] = await rt.store.until_held()
    rt.store.hold_after, rt.store.hold = None, ends
    aborting = asyncio.create_task(rt.abort(second))
    await stores.clock.run_until_idle()
    unheard.release()
    await stores.clock.run_until_idle()
    rt.store.hold = None
    for held in [*rt.store.held]:
        held.release()
    await stores.clock.run_until_idle()
    await aborting
    assert [(await rt.get_run(run_id)).status for run_id in (first, second, third)] == [ABORTED, ABORTED, "running"]
    assert (inside, most) == ([3], 1)
    await rt.abort(third)


async def test_event_while_delaying_is_kept(stores, caught):
    """An event that meets the delaying commit is buffered for the wait that comes later."""
    ran = []
    rt, run_id, held = await caught(workflow(ran, router=Delay(60), ending=Pause(Wait("go", id="w"))))
    emitting = asyncio.create_task(rt.emit("go", n=1))
    await stores.clock.run_until_idle()
    held.release()
    assert verdicts(await emitting) == ["buffered"]
    assert (await rt.wait(run_id, 600)).state["three"] == "event"


async def test_signal_while_ending(stores, caught):
    """A signal that meets the ending commit is in the final state, or its sender is told that it came too late."""
    ran = []
    rt, run_id, held = await caught(workflow(ran, router=Delay(0)), which=ends)
    signalling = asyncio.create_task(rt.signal(run_id, {"late": True}))
    await stores.clock.run_until_idle()
    held.release()
    [outcome] = await asyncio.gather(signalling, return_exceptions=True)
    state = (await rt.wait(run_id, 60)).state
    assert (type(outcome), "late" in state) in [(RunFinished, False), (type(None), True)]
    assert (caught.when == "before") is ("late" in state)


async def test_buffered_leftovers_of_the_last_moment_expire(stores, caught):
    """An event that meets the ending commit of a run with a wait for it is recorded as expired, or has no line."""

    async def step():
        return None

    ending = Workflow(
        "v",
        triggers={"begin": Trigger("begin")},
        pipelines=[
            Pipeline(
                "main",
                [
                    Stage("one", [Step("one", step)], router=lambda: "three"),
                    Stage("two", router=Pause(Wait("go"))),
                    Stage("three", [Step("three", step)]),
                ],
            )
        ],
    )
    rt, run_id, held = await caught(ending, which=ends)
    emitting = asyncio.create_task(rt.emit("go"))
    await stores.clock.run_until_idle()
    held.release()
    receipt = await emitting
    assert (await rt.wait(run_id, 60)).status is COMPLETED
    expired = (await rt.timeline(run_id)).types().count("wait:expired")
    assert (verdicts(receipt), expired) in [(["buffered"], 1), (["unmatched"], 0)]


async def test_a_run_that_is_refused_again_and_again_stops_in_the_end(stores):
    """Under a stream of events that it only buffers a run still parks, and the events it was sent are all kept."""
    ran = []
    wf = workflow(ran, wait=Wait("go", id="w", where=[Condition("n", "<", 0)]), ending=Pause(Wait("go", id="v")))
    rt = await stores.enter(wf)
    rt.store.hold = parks
    [run_id] = (await rt.emit("begin")).run_ids
    sent = []
    await stores.clock.run_until_idle()
    while rt.store.held and len(sent) < 10:
        [held] = rt.store.held
        sent.append(asyncio.create_task(rt.emit("go", n=len(sent))))
        await stores.clock.run_until_idle()
        held.release()
        await stores.clock.run_until_idle()
    assert (await rt.get_run(run_id)).status is PAUSED
    assert {verdict for emitting in sent for verdict in verdicts(await emitting)} <= {"buffered", "filtered"}
    assert len(sent) == 3  # two are let in, the third waits at the gate


async def test_a_step_behind_the_gate_may_emit_for_its_own_run(stores):
    """A run that was refused twice and then goes on after all does not stand in the way of what its steps emit."""
    emitted = []
    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.step
    async def one(): ...

    wf.wait("a", on="go", where=[Condition("n", "==", 3)])

    @wf.step
    async def two():
        emitted.append(verdicts(await rt.emit("go", n=4)))

    wf.wait("b", on="go", where=[Condition("n", "!=", 3)])
    rt = await stores.enter(wf)
    rt.store.hold = parks
    [run_id] = (await rt.emit("begin")).run_ids
    for number in (1, 2):
        [held] = await rt.store.until_held()
        await rt.emit("go", n=number)
        held.release()
        await stores.clock.run_until_idle()
    [held] = await rt.store.until_held()
    rt.store.hold = None
    third = asyncio.create_task(rt.emit("go", n=3))
    await stores.clock.run_until_idle()
    held.release()
    await third
    assert (await rt.wait(run_id, 60)).status is COMPLETED
    assert emitted == [["buffered"]]


async def test_the_declared_wait_is_armed_anew_while_an_event_is_on_its_way(stores):
    """An event that was matched against a wait that is armed anew meanwhile is matched again, and not lost."""
    from poundlock import StateRef

    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.step
    async def one():
        return {"id": 1}

    @wf.step
    async def two():
        return {"id": 2}

    wf.wait("gate", on="go", correlate={"id": StateRef("id")})
    rt = await stores.enter(wf)
    rt.store.hold = lambda changes: bool(changes.moves)
    [run_id] = (await rt.emit("begin", id=2)).run_ids
    rt.store.hold = lambda changes: bool(changes.moves or changes.deliveries)
    [boundary] = await rt.store.until_held()
    emitting = asyncio.create_task(rt.emit("go", id=2, n=1))
    held = await rt.store.until_held(2)
    boundary.release()  # armed for 1 now
    await stores.clock.run_until_idle()
    rt.store.hold = None
    for other in held[1:]:
        other.release()
    await stores.clock.run_until_idle()
    for other in list(rt.store.held):
        other.release()
    receipt = await emitting
    await stores.clock.run_until_idle()
    info = await rt.get_run(run_id)
    # Either it was matched again while the wait was for 1, or once it was for 2 again: said and done are the same.
    found = (verdicts(receipt)[0] in ("buffered", "resumed"), info.status)
    assert found in [(False, PAUSED), (True, COMPLETED)]


async def test_ways_of_going_on_at_once(stores):
    """Resume, event, timeout and abort at the same moment, in all orders: one outcome, typed errors for the others."""
    for order in permutations(["resume", "event", "timeout", "abort"]):
        ran = []
        wf = workflow(ran, wait=Wait("go", id="w", timeout=60, on_timeout="resume"))
        wf.id = f"w-{'-'.join(order)}"
        stores.clock.autojump = False
        rt = await stores.enter(wf, pause_window=0 if order[0] < order[1] else 60)
        [run] = await (await rt.emit("begin")).results()

        async def act(kind, rt=rt, run=run):
            if kind == "resume":
                return await rt.resume(run.run_id, {"by": "api"})
            if kind == "event":
                return await rt.emit("go", by="event")
            if kind == "timeout":
                stores.clock.advance(60)
                return None
            return await rt.abort(run.run_id, "no more")

        acts = [asyncio.create_task(act(kind)) for kind in order]
        outcomes = dict(zip(order, await asyncio.gather(*acts, return_exceptions=True), strict=True))
        await stores.clock.run_until_idle()
        result = await rt.wait(run.run_id)
        types = (await rt.timeline(run.run_id)).types()
        assert types.count("pipeline:resume") + types.count("pipeline:abort") >= 1, order
        assert types.count("pipeline:success") + types.count("pipeline:abort") == 1, order
        if result.status is COMPLETED:
            assert isinstance(outcomes["abort"], RunFinished), order
            assert types.count("pipeline:resume") == 1, order
            assert result.state["two"] in ("api", "event", "timeout"), order
        else:
            assert result.status is ABORTED, order
            assert outcomes["abort"] is None, order
        resumed = outcomes["resume"]
        if isinstance(resumed, BaseException):
            assert isinstance(resumed, NotPaused | StaleResume | RunFinished), (order, resumed)
        elif result.status is COMPLETED:
            assert result.state["by"] == "api", order
        assert not isinstance(outcomes["event"], BaseException), order
        assert ran.count("two") <= 1, order
        await rt.stop()


async def test_event_and_resume_in_both_orders_of_their_commits(stores):
    """Whichever of an event and a resume reaches the store first wins; the other is told, and nothing is used twice."""
    for first in ("event", "resume"):
        ran = []
        wf = workflow(ran, ending=Pause(Wait("stay", id="s")))
        rt = await stores.enter(wf)
        [run] = await (await rt.emit("begin")).results(60)
        rt.store.hold = lambda changes: takes(changes) or bool(changes.deliveries)
        emitting = asyncio.create_task(rt.emit("go", by="event"))
        resuming = asyncio.create_task(rt.resume(run.run_id, {"by": "api"}))
        held = await rt.store.until_held(2)
        rt.store.hold = None
        held.sort(key=lambda item: bool(item.changes.deliveries) is not (first == "event"))
        for item in held:
            item.release()
            await stores.clock.run_until_idle()
        outcomes = await asyncio.gather(emitting, resuming, return_exceptions=True)
        info = await rt.get_run(run.run_id)
        assert (info.status, info.stage, ran) == (PAUSED, "two", ["one", "two"]), first
        if first == "event":
            assert verdicts(outcomes[0]) == ["resumed"]
            assert isinstance(outcomes[1], NotPaused | StaleResume)
        else:
            assert verdicts(outcomes[0]) in (["buffered"], ["filtered"])
            assert outcomes[1].state["by"] == "api"
        await rt.abort(run.run_id)
        await rt.stop()


async def test_a_drained_event_is_consumed_also_if_the_next_park_is_refused(stores):
    """An event that resumed a run is used up even if the commit that says so is refused once for a newer message."""
    ran = []
    wf = workflow(ran, ending=Pause(Wait("go", id="v")))
    rt = await stores.enter(wf)
    [run] = await (await rt.emit("begin")).results(60)
    rt.store.hold = parks
    await rt.emit("go", n=1)
    [held] = await rt.store.until_held()
    await rt.signal(run.run_id, {"told": True})
    held.release()
    await stores.clock.run_until_idle()
    rt.store.hold = None
    for held in list(rt.store.held):
        held.release()
    await stores.clock.run_until_idle()
    await stores.crash(rt)
    rt = await stores.enter(workflow(ran, ending=Pause(Wait("go", id="v"))))
    await stores.clock.run_until_idle()
    info = await rt.get_run(run.run_id)
    assert (info.status, info.stage) == (PAUSED, "two")
    await rt.emit("go", n=2)
    result = await rt.wait(run.run_id, 60)
    assert (result.status, result.state["n"], ran) == (COMPLETED, 2, ["one", "two", "three"])


async def test_writing_an_unwritten_run_and_its_first_boundary_at_once(stores, make_gate):
    """A message for an invoked run that ends its first stage at that moment is kept, and no patch is lost."""
    for early in (True, False):
        gate = make_gate()
        wf = Workflow("w", triggers={"begin": Trigger("begin")})

        @wf.step
        async def one(gate=gate):
            await gate()
            return {"one": 1}

        @wf.step
        async def two(): ...

        wf.wait("w", on="go")
        rt = await stores.enter(wf)
        running = asyncio.create_task(rt.run("w"))
        await stores.clock.run_until_idle()
        assert gate.came
        setattr(rt.store, "hold" if early else "hold_after", lambda changes: bool(changes.creates))
        emitting = asyncio.create_task(rt.emit("go", n=1))
        [held] = await rt.store.until_held()
        gate.open()
        await stores.clock.run_until_idle()
        rt.store.hold = rt.store.hold_after = None
        for other in list(rt.store.held):
            other.release()
        assert verdicts(await emitting) in (["buffered"], ["resumed"])
        result = await running
        if result.status is PAUSED:
            result = await rt.wait(result.run_id, 60)
        assert (result.status, result.state) == (COMPLETED, {"one": 1, "n": 1})
        assert held is not None
        await rt.stop()


async def test_prepare_that_fails_stays_failed(stores):
    """A run whose `on_prepare` failed does not begin after all because a message came while it ended."""
    ran = []

    def refuse(ctx):
        raise ValueError("not prepared")

    rt = await stores.enter()
    await rt.register(workflow(ran), on_prepare=refuse)
    rt.store.hold = ends
    [run_id] = (await rt.emit("begin")).run_ids
    [held] = await rt.store.until_held()
    rt.store.hold = None
    await rt.emit("go")
    held.release()
    result = await rt.wait(run_id, 60)
    assert (result.status, result.error.message, ran) == (RunStatus.FAILED, "not prepared", [])


async def test_what_a_parked_run_kept_expires_when_it_is_aborted(stores):
    """Events that a run buffered and never used are recorded as expired also if it is aborted while it is parked."""
    ran = []
    wf = workflow(ran, ending=Pause(Wait("later", id="v")), wait=Wait("never", id="w"))
    rt = await stores.enter(wf)
    [run] = await (await rt.emit("begin")).results(60)
    assert verdicts(await rt.emit(Event("later", {"n": 1}, id="e1"))) == ["buffered"]
    await rt.abort(run.run_id)
    entries = (await rt.timeline(run.run_id)).entries
    assert [entry.payload["event"]["id"] for entry in entries if entry.type == "wait:expired"] == ["e1"]
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))


async def test_an_emitter_that_goes_away_strands_nobody(stores):
    """An event whose emitter is cancelled while its commit is on its way starts and resumes all that it says."""
    ran = []
    rt = await stores.enter(workflow(ran), pause_window=60)
    [parked] = await (await rt.emit("begin")).results(60)
    for kind in ("begin", "go"):
        rt.store.hold_after = lambda changes: changes.receipt is not None
        emitting = asyncio.create_task(rt.emit(kind))
        [held] = await rt.store.until_held()
        rt.store.hold_after = None
        emitting.cancel()
        await stores.clock.run_until_idle()
        assert held.after
    page = await rt.find_runs()
    statuses = {info.run_id == parked.run_id: info.status for info in page.items}
    # Both runs matched the event, and none of them is left standing.
    assert statuses == {True: COMPLETED, False: COMPLETED}


async def test_an_emitter_that_goes_away_leaves_driven_runs_alone(stores, gate):
    """A run that is driven while such an emitter's event is buffered for it goes on undisturbed: no step twice."""
    ran = []

    async def work():
        ran.append("work")
        await gate()

    stages = [
        Stage("work", [Step("work", work)]),
        Stage("gate", router=Pause(Wait("go", id="w"))),
        Stage("after", [Step("after", lambda: ran.append("after"), executor="inline")]),
    ]
    wf = Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)])
    rt = await stores.enter(wf)
    [run_id] = (await rt.emit("begin")).run_ids
    await stores.clock.run_until_idle()
    rt.store.hold_after = lambda changes: changes.receipt is not None
    emitting = asyncio.create_task(rt.emit("go"))
    await rt.store.until_held()
    rt.store.hold_after = None
    emitting.cancel()
    await stores.clock.run_until_idle()
    gate.open()
    result = await rt.wait(run_id, 60)
    assert (result.status, result.metadata["attempt"], ran) == (COMPLETED, 1, ["work", "after"])


@pytest.mark.parametrize("by", ["event", "hand"])
async def test_resuming_while_the_last_services_close_strands_nobody(stores, gate, by):
    """A run is parked, its services still close, and who resumes it goes away: somebody drives it all the same."""
    closing = asyncio.Event()

    async def slow():
        yield "service"
        if not closing.is_set():
            closing.set()
            await gate()

    async def use(service: Annotated[str, Use("slow")]):
        return {"used": service}

    async def end():
        return {"done": True}

    stages = [
        Stage("one", [Step("one", use)]),
        Stage("gate", router=Pause(Wait("go", id="w"))),
        Stage("end", [Step("end", end)]),
    ]
    services = [Service("slow", slow, scope="run")]
    wf = Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)], services=services)
    rt = await stores.enter(wf)
    [run_id] = (await rt.emit("begin")).run_ids
    await closing.wait()
    rt.store.hold_after = takes if by == "hand" else lambda changes: changes.receipt is not None
    resuming = asyncio.create_task(rt.emit("go") if by == "event" else rt.resume(run_id, {}))
    await rt.store.until_held()
    rt.store.hold_after = None
    resuming.cancel()
    await stores.clock.run_until_idle()
    gate.open()
    result = await rt.wait(run_id, 60)
    assert (result.status, result.state["done"]) == (COMPLETED, True)
    assert result.metadata["attempt"] == 1  # nobody died, so nothing was recovered
    entries = (await rt.timeline(run_id)).entries
    assert not [entry for entry in entries if "recovered" in (entry.payload or {})]


async def test_a_refused_pause_leaves_no_wait_for_another_time(stores):
    """A router paused, was asked again as a message came, and went on: the wait is armed for the state as it is."""
    wait = Wait("paid", id="gate", correlate={"order": StateRef("order")})
    asked, begun, free = [], asyncio.Event(), asyncio.Event()

    async def first(ctx):
        asked.append(ctx.run_id)
        return {"order": 1}

    async def router(state):
        if "told" in state:
            return None
        await rt.signal(asked[0], {"told": True})
        return Pause(wait)

    async def slow():
        begun.set()
        await free.wait()

    stages = [
        Stage("one", [Step("one", first)]),
        Stage("two", [Step("two", lambda: {"order": 2}, executor="inline")], router=router),
        Stage("slow", [Step("slow", slow)]),
        Stage("gate", router=Pause(wait)),
        Stage("end", [Step("end", lambda: {"done": True}, executor="inline")]),
    ]
    wf = Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)])
    rt = await stores.enter(wf)
    [run_id] = (await rt.emit("begin")).run_ids
    await begun.wait()
    assert verdicts(await rt.emit("paid", order=2)) == ["buffered"]
    free.set()
    assert (await rt.wait(run_id, 60)).state["done"] is True


async def test_an_event_that_found_its_wait_gone_may_come_again(stores):
    """An event whose only run ended before it was written was taken by nobody: sent again it is no duplicate."""
    ran = []
    rt = await stores.enter(workflow(ran))
    [first] = await (await rt.emit("begin")).results(60)
    rt.store.hold = lambda changes: changes.receipt is not None
    event = Event("go", {"n": 1}, id="e1")
    emitting = asyncio.create_task(rt.emit(event))
    [held] = await rt.store.until_held()
    rt.store.hold = None
    await rt.abort(first.run_id)
    held.release()
    assert verdicts(await emitting) == ["filtered"]
    [second] = await (await rt.emit("begin")).results(60)
    receipt = await rt.emit(event)
    assert [(line.run_id, str(line.verdict)) for line in receipt.lines] == [(second.run_id, "resumed")]


async def test_dedupe_holds_for_two_emits_at_once(stores):
    """The same event emitted twice at once reaches a parked run once."""
    ran = []
    rt = await stores.enter(workflow(ran, ending=Pause(Wait("go", id="v"))))
    [run] = await (await rt.emit("begin")).results(60)
    event = Event("go", {"n": 1})
    receipts = await asyncio.gather(*(rt.emit(event) for _ in range(5)))
    found = sorted(verdict for receipt in receipts for verdict in verdicts(receipt))
    assert found.count(str(Verdict.RESUMED)) == 1
    assert set(found) <= {"resumed", "duplicate", "unmatched", "filtered"}
    await stores.clock.run_until_idle()
    assert (await rt.get_run(run.run_id)).stage == "two"
