"""An event that cannot be applied to a waiting run is refused for that run, and the run goes on waiting."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel
from support import parks, takes

from poundlock import (
    DELETE,
    Event,
    Pause,
    Pipeline,
    RunStatus,
    Serialized,
    Stage,
    Step,
    Trigger,
    Verdict,
    Wait,
    Workflow,
)

PAUSED, COMPLETED = RunStatus.PAUSED, RunStatus.COMPLETED


class State(BaseModel):
    n: int = 0
    by: str = ""
    late: bool = False


def approval(*, mode=None, timeout="1h", patch=None, entered=None, on_timeout="late"):
    """A run that is paused at a wait which only takes events that say by whom they are."""

    async def begin():
        if entered is not None:
            await entered.wait()

    async def finish(ctx):
        return None

    async def late():
        return {"late": True}

    gate = Wait("ok", id="gate", patch=patch, timeout=timeout, on_timeout=on_timeout)
    stages = [
        Stage("begin", [Step("begin", begin)], router=Pause(gate, resume_at="finish")),
        Stage("late", [Step("late", late)]),
        Stage("finish", [Step("finish", finish)]),
    ]
    return Workflow("w", triggers={"go": Trigger("go")}, pipelines=[Pipeline("main", stages)], state=State, mode=mode)


def by_function(event):
    return {"by": event.payload["by"]}


BAD = {"function": (by_function, {"who": "Ada"}, "'by'"), "model": (None, {"by": 5}, "by: Input should be")}


@pytest.fixture(params=BAD)
def bad(request):
    """A wait's patch, an event's payload it cannot take, and what the reason says."""
    return BAD[request.param]


async def paused(stores, wf, **options):
    rt = await stores.enter(wf, **options)
    [run] = await (await rt.emit("go")).results()
    assert run.status is PAUSED
    return rt, run.run_id


async def gate_of(rt, run_id):
    """Return what must not change while a run waits: its status, and the wait's epoch and deadline, as stored."""
    record = await rt.store.load(run_id)
    [row] = [row for row in record.waits if row.parked]
    return record.head.status, row.epoch, row.expires_at, record.head.wake_at


def told(receipt):
    return [(str(line.verdict), line.run_id) for line in receipt.lines]


@pytest.mark.parametrize("window", [60.0, 0.0], ids=["in memory", "only a row"])
async def test_a_malformed_event_is_rejected_and_the_run_waits_on(stores, bad, window):
    """The receipt says rejected with the reason; status, deadline and token are as they were; a good one resumes."""
    patch, payload, said = bad
    rt, run_id = await paused(stores, approval(patch=patch), pause_window=window)
    before = await gate_of(rt, run_id)
    line = (await rt.explain(Event("ok", payload))).lines[0]
    assert (line.verdict, line.run_id) == (Verdict.REJECTED, run_id)
    line = (await rt.emit("ok", payload)).lines[0]
    assert (line.verdict, line.run_id) == (Verdict.REJECTED, run_id)
    assert line.reason.startswith("wait gate: ")
    assert said in line.reason
    assert await gate_of(rt, run_id) == before
    assert told(await rt.emit("ok", by="Ada")) == [("resumed", run_id)]
    assert (await rt.wait(run_id)).state.by == "Ada"


@pytest.mark.parametrize("gives", ["a coroutine", "a list", "DELETE in a list", "an unknown key"])
async def test_what_no_patch_can_be_is_refused(stores, gives):
    """A patch function that gives no mapping, or one that cannot be written: the event is rejected with the reason."""

    async def later():
        return {}

    given = {"a list": [1], "DELETE in a list": {"by": [DELETE]}, "an unknown key": {"bye": 1}}

    def patch(event):
        return later() if gives == "a coroutine" else given[gives]

    rt, run_id = await paused(stores, approval(patch=patch))
    line = (await rt.emit("ok", by="Ada")).lines[0]
    said = {
        "a coroutine": "it must be a plain function",
        "a list": "return a mapping",
        "DELETE in a list": "by.0",
        "an unknown key": "did you mean 'by'",
    }[gives]
    assert (line.verdict, line.run_id) == (Verdict.REJECTED, run_id)
    assert said in line.reason
    assert (await rt.get_run(run_id)).status is PAUSED


async def test_a_rejected_event_may_be_sent_again(stores):
    """It is not remembered: the same event is judged anew once the workflow takes it."""
    rt, run_id = await paused(stores, approval(patch=by_function))
    event = Event("ok", {"by": "Ada"}, id="e1")
    calls = []

    def picky(event):
        calls.append(event.id)
        if len(calls) == 1:
            raise ValueError("not now")
        return {"by": event.payload["by"]}

    await rt.deregister("w")
    await rt.register(approval(patch=picky))
    assert told(await rt.emit(event)) == [("rejected", run_id)]
    assert told(await rt.emit(event)) == [("resumed", run_id)]
    assert (await rt.wait(run_id)).state.by == "Ada"
    assert calls == ["e1", "e1"]  # judged and used is one call


async def test_what_was_buffered_is_judged_when_it_is_used(stores, bad):
    """`wait:refused` keeps the event's payload; the run is paused then, with its whole time before it."""
    patch, payload, _ = bad
    entered = asyncio.Event()
    rt = await stores.enter(approval(patch=patch, entered=entered))
    receipt = await rt.emit("go")
    run_id = receipt.run_ids[0]
    assert told(await rt.emit("ok", payload)) == [("buffered", run_id)]
    entered.set()
    [run] = await receipt.results()
    assert run.status is PAUSED
    timeline = await rt.timeline(run_id)
    [refused] = [entry for entry in timeline.entries if entry.type == "wait:refused"]
    assert refused.payload["payload"] == payload
    assert refused.payload["wait"] == "gate"
    assert timeline.types()[-1] == "pipeline:pause"
    assert (await gate_of(rt, run_id))[2] == pytest.approx(rt.clock.now() + 3600)
    assert await rt.store.inbox(run_id, 0) == []
    assert told(await rt.emit("ok", by="Ada")) == [("resumed", run_id)]
    assert (await rt.wait(run_id)).state.by == "Ada"


async def test_of_several_buffered_events_the_first_that_fits_is_used(stores):
    """A malformed one in front of a good one is refused, and the good one resumes without a pause."""
    entered = asyncio.Event()
    rt = await stores.enter(approval(patch=by_function, entered=entered))
    receipt = await rt.emit("go")
    for payload in ({"who": 1}, {"by": "Ada"}, {"by": "Bob"}):
        await rt.emit("ok", payload)
    entered.set()
    run = await rt.wait(receipt.run_ids[0])
    assert (run.status, run.state.by) == (COMPLETED, "Ada")
    assert "pipeline:pause" not in (await rt.timeline(run.run_id)).types()


@pytest.mark.parametrize("late", [False, True], ids=["in time", "too late"])
async def test_made_ready_where_the_workflow_is_unknown(stores, bad, late):
    """The claim judges: refused, the run is paused again with deadline and token as they were, or its time is up."""
    patch, payload, _ = bad
    rt, run_id = await paused(stores, approval(patch=patch))
    before = await gate_of(rt, run_id)
    await rt.stop()
    elsewhere = await stores.enter()
    assert told(await elsewhere.emit("ok", payload)) == [("resumed", run_id)]
    assert (await elsewhere.get_run(run_id)).status is RunStatus.READY
    await elsewhere.stop()
    if late:
        await stores.clock.run_for(hours=2)
    again = await stores.enter(approval(patch=patch))
    if late:
        run = await again.wait(run_id)
        assert (run.status, run.state.late) == (COMPLETED, True)
        assert "wait:refused" in (await again.timeline(run_id)).types()
        return
    await stores.clock.run_until_idle()
    assert "wait:refused" in (await again.timeline(run_id)).types()
    assert await gate_of(again, run_id) == before
    await stores.clock.run_for(hours=2)
    assert (await again.wait(run_id)).state.late


@pytest.mark.parametrize("order", ["event first", "answer first, on its way", "answer first, durable"])
async def test_an_answer_by_hand_while_an_event_is_refused(stores, order):
    """Both are judged by what the store says: rejected before the answer is durable, buffered after it; one resume."""
    rt, run_id = await paused(stores, approval(patch=by_function, timeout=None))
    event = Event("ok", {"who": "x"})
    if order == "event first":
        rt.store.hold = lambda changes: changes.receipt is not None
        emitting = asyncio.create_task(rt.emit(event))
        [held] = await rt.store.until_held()
        rt.store.hold = None
        run = await rt.resume(run_id, {"by": "hand"})
        held.release()
        receipt = await emitting
    else:
        setattr(rt.store, "hold_after" if order.endswith("durable") else "hold", takes)
        resuming = asyncio.create_task(rt.resume(run_id, {"by": "hand"}))
        [held] = await rt.store.until_held()
        rt.store.hold = rt.store.hold_after = None
        receipt = await rt.emit(event)
        held.release()
        run = await resuming
    assert told(receipt) == [("buffered" if order.endswith("durable") else "rejected", run_id)]
    assert (run.status, run.state.by) == (COMPLETED, "hand")


@pytest.mark.parametrize("when", ["hold", "hold_after"])
@pytest.mark.parametrize("by_hand", [True, False])
async def test_what_comes_while_a_refusing_run_is_paused_again(stores, when, by_hand):
    """A good event or an answer that meets the commit which pauses the run again resumes it: no wake-up is lost."""
    entered = asyncio.Event()
    rt = await stores.enter(approval(patch=by_function, entered=entered, timeout=None))
    receipt = await rt.emit("go")
    run_id = receipt.run_ids[0]
    await rt.emit("ok", who="x")
    setattr(rt.store, when, parks)
    entered.set()
    [held] = await rt.store.until_held()
    rt.store.hold = rt.store.hold_after = None
    if by_hand:
        held.release()
        await receipt.results()
        assert (await rt.resume(run_id, {"by": "Ada"})).status is COMPLETED
    else:
        emitting = asyncio.create_task(rt.emit("ok", by="Ada"))
        await stores.clock.run_until_idle()
        held.release()
        await emitting
    run = await rt.wait(run_id)
    assert (run.status, run.state.by) == (COMPLETED, "Ada")
    assert (await rt.timeline(run_id)).types().count("wait:refused") == 1


async def test_a_crash_while_an_event_is_being_refused(stores):
    """Before the commit that notes the refusal, nothing of it counts; whoever takes the run over refuses it again."""
    entered = asyncio.Event()
    rt = await stores.enter(approval(patch=by_function, entered=entered, timeout=None))
    run_id = (await rt.emit("go")).run_ids[0]
    await rt.emit("ok", who="x")
    rt.store.hold = parks
    entered.set()
    await rt.store.until_held()
    await stores.crash(rt)
    again = await stores.enter(approval(patch=by_function, entered=entered, timeout=None))
    await stores.clock.run_until_idle()
    assert (await again.get_run(run_id)).status is PAUSED
    assert (await again.timeline(run_id)).types().count("wait:refused") == 1
    assert told(await again.emit("ok", by="Ada")) == [("resumed", run_id)]
    assert (await again.wait(run_id)).state.by == "Ada"


@pytest.mark.parametrize("refused", [True, False])
async def test_an_event_and_the_time_out_at_one_moment(stores, refused):
    """Taken over because its time is up, a run uses what came meanwhile if it fits; refused, its time is up."""
    rt, run_id = await paused(stores, approval(patch=by_function, timeout="1h"))
    rt.store.hold = lambda changes: changes.receipt is not None
    emitting = asyncio.create_task(rt.emit("ok", {"who": "x"} if refused else {"by": "Ada"}))
    [held] = await rt.store.until_held()
    rt.store.hold = None
    await stores.clock.run_for(hours=2)
    run = await rt.wait(run_id)
    held.release()
    verdict = told(await emitting)[0][0]
    assert run.state.late
    assert verdict == ("rejected" if refused else "filtered")


async def test_a_run_that_refuses_gives_its_slot_back(stores):
    """Made ready elsewhere it takes its slot; refused, it gives it back, and the next run starts."""
    mode = Serialized(holds_slot_while_paused=False)
    rt, run_id = await paused(stores, approval(patch=by_function, timeout=None, mode=mode))
    await rt.stop()
    elsewhere = await stores.enter()
    await elsewhere.emit("ok", who="x")
    await elsewhere.stop()
    again = await stores.enter(approval(patch=by_function, timeout=None, mode=mode))
    await stores.clock.run_until_idle()
    receipt = await again.emit("go")
    assert told(receipt)[0][0] == "started"
    [run] = await receipt.results()
    assert run.status is PAUSED
    assert (await again.get_run(run_id)).status is PAUSED


async def test_a_state_that_does_not_fit_is_not_the_events_fault(stores):
    """A new deployment's model that the state does not fit: the event is kept for when it does, not rejected."""
    rt, run_id = await paused(stores, approval(timeout=None))
    await rt.deregister("w")

    class Next(State):
        region: str

    wf = approval(timeout=None)
    wf.state = Next
    await rt.register(wf)
    assert told(await rt.emit("ok", by="Ada")) == [("resumed", run_id)]
    await stores.clock.run_until_idle()
    assert "region" in (await rt.get_run(run_id)).error.message
    assert (await rt.resume(run_id, {"region": "eu"})).status is COMPLETED


async def test_an_event_that_resumed_another_run_is_a_duplicate_for_who_refused_it(stores):
    """Of two runs one refuses an event that resumes the other: sent again it is told to be a duplicate."""

    def only_the_second(event, state):
        if state.n == 1:
            raise ValueError("not for the first")
        return {"by": "Ada"}

    rt = await stores.enter(approval(patch=only_the_second))
    first, second = [(await rt.run("w", n=number)).run_id for number in (1, 2)]
    event = Event("ok", {}, id="e1")
    verdicts = {line.run_id: line.verdict for line in (await rt.emit(event)).lines}
    assert verdicts == {first: Verdict.REJECTED, second: Verdict.RESUMED}
    await rt.wait(second)
    assert told(await rt.emit(event)) == [("duplicate", first)]
    assert told(await rt.emit(Event("ok", {}, id="e2"))) == [("rejected", first)]
    assert told(await rt.emit(Event("ok", {}, id="e2"))) == [("rejected", first)]
