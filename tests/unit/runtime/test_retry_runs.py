"""Retrying a run that failed or was aborted: where it goes on, with what, and what is called again."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from pydantic import BaseModel
from support import GatedStore, ends, until_crash

from poundlock import (
    Delay,
    NotMendable,
    NotRegistered,
    Retry,
    RunFinished,
    RunNotFinished,
    RunNotFound,
    StageGone,
    StateInvalid,
    Workflow,
)
from poundlock.runtime.commands import Retry as RetryRun
from poundlock.testing import run_until_idle


class Shop:
    """A workflow of three stages; `charge` fails until it is mended."""

    def __init__(self, **options):
        self.calls = []
        self.keys = []
        self.broken = True
        self.options = options

    def workflow(self):
        wf = Workflow("shop", **self.options)

        @wf.on("order")
        @wf.step
        async def reserve(state):
            self.calls.append("reserve")
            return {"reserved": True}

        @wf.step
        async def charge(ctx, state):
            self.calls.append("charge")
            self.keys.append(ctx.idempotency_key)
            if self.broken:
                raise ValueError("no card")
            return {"charged": state.get("amount", 1)}

        @wf.step
        async def send(ctx):
            self.calls.append("send")
            return {"sent": True}

        return wf


async def failed(rt, **fields):
    [result] = await (await rt.emit("order", **fields)).results()
    assert result.status == "failed"
    return result.run_id


# ------------------------------------------------------------------------------------------------ where it goes on
@pytest.mark.parametrize("timeline", [True, False])
async def test_it_goes_on_where_it_failed(stores, timeline):
    """A retry keeps the last state, merges the patch, and enters the failed stage again: no finished one runs again."""
    shop = Shop()
    rt = await stores.enter(shop.workflow(), timeline=timeline)
    run_id = await failed(rt)
    shop.broken = False
    info = await rt.retry(run_id, patch={"amount": 5})
    assert (info.run_id, info.attempt, info.error) == (run_id, 2, None)
    result = await rt.wait(run_id)
    assert (result.status, dict(result.state)) == (
        "completed",
        {"reserved": True, "amount": 5, "charged": 5, "sent": True},
    )
    assert shop.calls == ["reserve", "charge", "charge", "send"]
    assert result.metadata["attempt"] == 2
    assert (await rt.timeline(run_id)).state_at() == dict(result.state)


@pytest.mark.parametrize("timeline", [True, False])
async def test_the_failed_stage_keeps_its_idempotency_keys(stores, timeline):
    """What failed may have had its effect: the retry names it by the same key, and an earlier stage gets a new one."""
    shop = Shop()
    rt = await stores.enter(shop.workflow(), timeline=timeline)
    run_id = await failed(rt)
    await rt.retry(run_id)
    await rt.wait(run_id)
    assert len(set(shop.keys)) == 1
    if timeline:
        await rt.retry(run_id, at="reserve")
        await rt.wait(run_id)
        assert len(set(shop.keys)) == 2


async def test_the_timeline_says_who_why_and_how_it_had_ended(stores):
    """The entry `run:retry` has who wanted it, the reason, the stage, and the earlier outcome."""
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    run_id = await failed(rt)
    await rt.retry(run_id, by="Ada", reason="the card works again")
    await rt.wait(run_id)
    [entry] = [entry for entry in (await rt.timeline(run_id)).entries if entry.type == "run:retry"]
    assert (entry.payload["by"], entry.payload["reason"], entry.payload["stage"]) == (
        "Ada",
        "the card works again",
        "charge",
    )
    earlier = entry.payload["earlier"]
    assert (earlier["status"], earlier["attempt"], earlier["error"]["message"]) == ("failed", 1, "no card")


async def test_an_earlier_stage_may_be_named(stores):
    """`at` names a stage that the run had entered on its way; it and all behind it run again."""
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    run_id = await failed(rt)
    shop.broken = False
    await rt.retry(run_id, at="reserve")
    assert (await rt.wait(run_id)).ok
    assert shop.calls == ["reserve", "charge", "reserve", "charge", "send"]
    assert (await rt.timeline(run_id)).path() == ["reserve", "charge", "reserve", "charge", "send"]


async def test_what_a_retry_went_back_behind_is_no_way_on(stores):
    """After a retry from an earlier stage, a stage of the former way counts only once it was entered again."""
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    run_id = await failed(rt)

    await rt.retry(run_id, at="reserve")
    await rt.wait(run_id)
    assert (await rt.retry(run_id, at="charge")).attempt == 3
    await rt.wait(run_id)
    with pytest.raises(NotMendable, match="it entered reserve, charge"):
        await rt.retry(run_id, at="send")


# ------------------------------------------------------------------------------------------------------- refusals
async def test_what_cannot_be_retried_is_refused_and_unchanged(stores):
    """Each reason has its own error, says what to do next, and changes nothing."""
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    run_id = await failed(rt)
    before = await rt.get_run(run_id, state=True)
    with pytest.raises(StageGone, match="did you mean 'charge'"):
        await rt.retry(run_id, at="chrage")
    with pytest.raises(NotMendable, match="has not entered stage 'send'"):
        await rt.retry(run_id, at="send")
    with pytest.raises(RunNotFound):
        await rt.retry("nothing")
    with pytest.raises(StateInvalid, match="a patch is a mapping"):
        await rt.retry(run_id, patch=[1])
    after = await rt.get_run(run_id, state=True)
    assert (after.status, after.updated_at, after.attempt) == (before.status, before.updated_at, 1)
    shop.broken = False
    await rt.retry(run_id)
    await rt.wait(run_id)
    with pytest.raises(RunFinished, match="rerun it"):
        await rt.retry(run_id)


async def test_a_run_that_has_not_ended_is_refused(stores):
    """A running or paused run has nothing to retry: the error says what can be done instead."""
    wf = Workflow("slow")
    reached, through = asyncio.Event(), asyncio.Event()

    @wf.on("go")
    @wf.step
    async def work():
        reached.set()
        await through.wait()

    wf.wait("gate", on="open")
    rt = await stores.enter(wf)
    [line] = (await rt.emit("go")).lines
    await reached.wait()
    with pytest.raises(RunNotFinished, match="wait for its end, or abort it"):
        await rt.retry(line.run_id)
    through.set()
    await rt.wait(line.run_id, until="rest")
    with pytest.raises(RunNotFinished, match="resume or abort it"):
        await rt.retry(line.run_id)


async def test_the_workflow_has_to_be_there_unless_another_process_judges(stores):
    """Without its workflow a run is not retried, unless the command says that another runtime takes it up."""
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    run_id = await failed(rt)
    await rt.deregister("shop")
    with pytest.raises(NotRegistered, match="register it first"):
        await rt.retry(run_id)
    shop.broken = False
    info = await rt.dispatch(RetryRun(run_id, patch={"amount": 3}, elsewhere=True))
    assert info.status == "ready"
    await rt.register(shop.workflow())
    result = await rt.wait(run_id)
    assert (result.status, result.state["charged"]) == ("completed", 3)


# --------------------------------------------------------------------------------------------------- pauses and waits
def gated(**options):
    wf = Workflow("gated")

    @wf.on("order")
    @wf.step
    async def ask():
        return {"asked": True}

    wf.wait("gate", on="answer", **options)

    @wf.step
    async def end(state):
        return {"end": state["answer"]}

    return wf


async def test_a_wait_that_ran_out_is_armed_anew(stores):
    """A run whose wait has expired waits again after its retry, for the whole time of the wait."""
    rt = await stores.enter(gated(timeout=60, on_timeout="fail"))
    [line] = (await rt.emit("order")).lines
    result = await rt.wait(line.run_id)
    assert (result.status, result.error.code) == ("failed", "WAIT_EXPIRED")
    now = stores.clock.now()
    await rt.retry(line.run_id)
    result = await rt.wait(line.run_id, until="rest")
    assert (result.status, result.waits[0].id, result.waits[0].expires_at) == ("paused", "gate", now + 60)
    await rt.emit("answer", answer="yes")
    assert (await rt.wait(line.run_id)).state["end"] == "yes"


async def test_an_aborted_run_goes_back_to_its_wait(stores):
    """A run that was aborted while it was paused asks again; an event from before its end does not answer."""
    rt = await stores.enter(gated())
    [line] = (await rt.emit("order")).lines
    await rt.wait(line.run_id, until="rest")
    await rt.abort(line.run_id, "wrong order")
    await rt.retry(line.run_id, reason="it was right")
    result = await rt.wait(line.run_id, until="rest")
    assert (result.status, result.waits[0].id) == ("paused", "gate")
    result = await rt.resume(line.run_id, {"answer": "yes"})
    assert (result.status, result.state["end"]) == ("completed", "yes")


async def test_its_waits_take_events_from_the_retry_on(stores):
    """Declared waits are armed with the retry itself: an event right after it is buffered, not lost."""
    shop = Shop()
    wf = shop.workflow()
    wf.wait("gate", on="answer")
    rt = await stores.enter(wf)
    run_id = await failed(rt)
    shop.broken = False
    store = rt.store
    store.hold = lambda changes: any(move.status == "running" for move in changes.moves)
    await rt.retry(run_id)
    receipt = await rt.emit("answer", answer=1)
    assert [line.verdict for line in receipt.lines if line.run_id == run_id] == ["buffered"]
    store.hold = None
    for held in list(store.held):
        held.release()
    assert (await rt.wait(run_id)).status == "completed"


async def test_a_delayed_run_that_was_aborted_goes_on_behind_its_delay(stores):
    """What it was delayed for is over: it enters the stage that was to come."""
    wf = Workflow("late")

    @wf.on("order")
    @wf.step
    async def first():
        return Delay(seconds=3600)

    @wf.step
    async def second():
        return {"second": True}

    rt = await stores.enter(wf)
    [line] = (await rt.emit("order")).lines
    await run_until_idle(stores.clock)
    await rt.abort(line.run_id)
    await rt.retry(line.run_id)
    assert dict((await rt.wait(line.run_id)).state) == {"second": True}
    assert (await rt.timeline(line.run_id)).path() == ["first", "second"]


# --------------------------------------------------------------------------------------------------------- undone
class Trip:
    """Two stages with undos, and a third one that fails twice."""

    def __init__(self):
        self.calls, self.undone = [], []

    def workflow(self):
        wf = Workflow("trip")

        async def free_seat():
            self.undone.append("seat")

        async def free_room():
            self.undone.append("room")

        @wf.on("order")
        @wf.step
        async def look():
            self.calls.append("look")

        @wf.step(undo=free_seat)
        async def seat():
            self.calls.append("seat")
            return {"seat": self.calls.count("seat")}

        @wf.step(undo=free_room)
        async def room():
            self.calls.append("room")
            return {"room": self.calls.count("room")}

        @wf.step
        async def pay():
            self.calls.append("pay")
            if self.calls.count("pay") < 3:
                raise ValueError("refused")

        return wf


async def test_where_stages_were_undone_it_begins_with_the_first_of_them(stores):
    """A retry does not build on work that was undone: by default it begins there, and a later stage is refused."""
    place = Trip()
    rt = await stores.enter(place.workflow())
    run_id = await failed(rt)
    assert place.undone == ["room", "seat"]
    for at in ("pay", "room"):
        with pytest.raises(NotMendable, match=r"seat, room was undone .* retry it at 'seat'") as refused:
            await rt.retry(run_id, at=at)
        assert refused.value.fields["undone"] == ["seat", "room"]
    await rt.retry(run_id)
    assert (await rt.wait(run_id)).status == "failed"
    assert place.calls == ["look", "seat", "room", "pay", "seat", "room", "pay"]
    assert place.undone == ["room", "seat", "room", "seat"], "what is undone is undone once"
    await rt.retry(run_id, at="look")
    result = await rt.wait(run_id)
    assert (result.status, dict(result.state)) == ("completed", {"seat": 3, "room": 3})
    assert place.calls[7:] == ["look", "seat", "room", "pay"]


# ------------------------------------------------------------------------------------------------------------ hooks
async def test_hooks_run_again_and_see_the_attempt(stores):
    """`on_prepare`, `on_complete` and `on_cleanup` are called for each attempt, in their order."""
    shop, seen = Shop(), []
    rt = await stores.enter()
    await rt.register(
        shop.workflow(),
        on_prepare=lambda ctx: seen.append("prepare"),
        on_complete=lambda result: seen.append((str(result.status), result.metadata["attempt"])),
        on_cleanup=lambda: seen.append("cleanup"),
    )
    run_id = await failed(rt)
    shop.broken = False
    await rt.retry(run_id)
    await rt.wait(run_id)
    await run_until_idle(stores.clock)
    assert seen == ["prepare", ("failed", 1), "cleanup", "prepare", ("completed", 2), "cleanup"]


async def test_on_complete_may_retry_its_own_run(stores):
    """A hook that retries its run at the end of an attempt: the new one begins after the hooks of the old one."""
    shop, seen = Shop(), []
    rt = await stores.enter()

    async def again(result):
        seen.append((str(result.status), result.metadata["attempt"]))
        if result.status == "failed":
            shop.broken = False
            await rt.retry(result.run_id, by="hook")

    await rt.register(shop.workflow(), on_complete=again, on_cleanup=lambda: seen.append("cleanup"))
    [line] = (await rt.emit("order")).lines
    await run_until_idle(stores.clock)
    result = await rt.wait(line.run_id)
    assert (result.status, result.metadata["attempt"]) == ("completed", 2)
    assert seen == [("failed", 1), "cleanup", ("completed", 2), "cleanup"]


async def test_callers_get_the_end_that_they_waited_for(stores):
    """Who waited before the retry gets the first end, also if its hooks are slow; who comes after it gets the next."""
    shop = Shop()
    reached, through = asyncio.Event(), asyncio.Event()
    rt = await stores.enter()

    async def slowly(result):
        if result.status == "failed":
            reached.set()
            await through.wait()

    await rt.register(shop.workflow(), on_complete=slowly)
    [line] = (await rt.emit("order")).lines
    before = asyncio.create_task(rt.wait(line.run_id))
    await reached.wait()
    shop.broken = False
    await rt.retry(line.run_id)
    after = asyncio.create_task(rt.wait(line.run_id))
    await run_until_idle(stores.clock)
    assert [before.done(), after.done()] == [False, False]
    through.set()
    assert [(await each).status for each in (before, after)] == ["failed", "completed"]


async def test_the_end_of_a_run_without_a_task_is_told_before_it_goes_on(stores):
    """A paused run that is aborted and retried at once: who waited is told of the abort, and so is `on_complete`."""
    seen = []
    rt = await stores.enter()
    await rt.register(gated(), on_complete=lambda result: seen.append(str(result.status)))
    [line] = (await rt.emit("order")).lines
    await rt.wait(line.run_id, until="rest")
    waiting = asyncio.create_task(rt.wait(line.run_id))
    await run_until_idle(stores.clock)

    store = rt.store
    store.hold_after = ends
    aborting = asyncio.create_task(rt.abort(line.run_id))
    await store.until_held()
    store.hold_after = None
    await rt.retry(line.run_id)
    await run_until_idle(stores.clock)
    store.held[0].release()
    await aborting
    assert (await waiting).status == "aborted"
    assert (await rt.wait(line.run_id, until="rest")).status == "paused"
    assert seen == ["aborted"]


# --------------------------------------------------------------------------------------------------------- the time
async def test_its_deadline_starts_anew(stores):
    """The time of the workflow counts from the retry, as for a new run."""
    wf = Workflow("timed", timeout=100)
    calls = itertools.count(1)

    @wf.on("order")
    @wf.step
    async def work(ctx):
        await ctx.sleep(150 if next(calls) == 1 else 80)

    rt = await stores.enter(wf)
    [line] = (await rt.emit("order")).lines
    assert (await rt.wait(line.run_id)).error.code == "RUN_TIMEOUT"
    await rt.retry(line.run_id)
    assert (await rt.wait(line.run_id)).status == "completed"


async def test_a_step_has_its_attempts_again(stores):
    """The attempts of the failed step count anew, and so does the visit limit."""
    wf, calls = Workflow("often"), []

    @wf.on("order")
    @wf.step(retry=Retry(3, backoff=10))
    async def work(ctx):
        calls.append(ctx.attempt)
        if len(calls) < 6:
            raise ValueError("not yet")

    rt = await stores.enter(wf)
    run_id = await failed(rt)
    await rt.retry(run_id)
    assert (await rt.wait(run_id)).status == "completed"
    assert calls == [1, 2, 3, 1, 2, 3]


# -------------------------------------------------------------------------------------------------- state and models
class Order(BaseModel):
    """A state whose model can change."""

    amount: int = 0
    charged: bool = False


def typed(model, broken, **options):
    wf = Workflow("typed", state=model, **options)

    @wf.on("order")
    @wf.step
    async def charge(state):
        if broken:
            raise ValueError("no card")
        return {"charged": True}

    return wf


async def test_a_state_that_does_not_fit_is_refused(stores):
    """The patch is judged by the model before anything is written: unknown keys and values of the wrong kind."""
    broken = [1]
    rt = await stores.enter(typed(Order, broken))
    run_id = await failed(rt, amount=1)
    for patch in ({"amount": "much"}, {"amuont": 2}):
        with pytest.raises(StateInvalid):
            await rt.retry(run_id, patch=patch)
    assert (await rt.get_run(run_id)).attempt == 1
    broken.clear()
    await rt.retry(run_id, patch={"amount": 2})
    assert (await rt.wait(run_id)).state == Order(amount=2, charged=True)


async def test_a_state_that_no_longer_fits_is_refused(stores):
    """A deployment with a stricter model: the retry says so and changes nothing; a patch that makes it fit goes on."""

    class Strict(Order):
        customer: str

    rt = await stores.enter(typed(Order, [1]))
    run_id = await failed(rt, amount=1)
    await rt.deregister("typed")
    await rt.register(typed(Strict, []))
    with pytest.raises(StateInvalid, match="customer"):
        await rt.retry(run_id)
    assert (await rt.get_run(run_id)).status == "failed"
    await rt.retry(run_id, patch={"customer": "Ada"})
    assert (await rt.wait(run_id)).state.customer == "Ada"


async def test_an_unjudged_state_that_does_not_fit_pauses_the_run(stores):
    """Retried where its workflow is unknown, such a run is paused with the error; mended, its attempt begins."""
    seen = []
    rt = await stores.enter(typed(Order, [1]))
    run_id = await failed(rt, amount=1)
    await rt.deregister("typed")
    await rt.dispatch(RetryRun(run_id, patch={"amount": "much"}, elsewhere=True))
    await rt.register(typed(Order, []), on_prepare=lambda ctx: seen.append(ctx.state.amount))
    result = await rt.wait(run_id, until="rest")
    assert (result.status, result.error.code, seen) == ("paused", "STATE_INVALID", [])
    await run_until_idle(stores.clock)  # the registration may try it once more
    result = await rt.resume(run_id, {"amount": 4})
    assert (result.status, result.state.amount, seen) == ("completed", 4, [4])


async def test_a_state_is_migrated_once(stores):
    """A run that was migrated, and failed later, is not migrated again by its retry; an old one is."""
    moved = []

    def migrate(state, definition_hash):
        moved.append(definition_hash)
        return {**state, "migrated": state.get("migrated", 0) + 1}

    def workflow(version, broken, **options):
        wf = Workflow("moving", **options)

        @wf.on("order")
        @wf.step
        async def first():
            return {"first": version}

        wf.wait("gate", on="open")

        @wf.step
        async def last():
            if broken:
                raise ValueError("no")

        for number in range(version):
            wf.step(lambda: None, id=f"more{number}")
        return wf

    broken = [1]
    rt = await stores.enter(workflow(0, broken))
    [line] = (await rt.emit("order")).lines
    await rt.wait(line.run_id, until="rest")
    await rt.deregister("moving")
    await rt.register(workflow(1, broken, migrate=migrate))
    result = await rt.resume(line.run_id)
    assert (result.status, result.state["migrated"]) == ("failed", 1)
    broken.clear()
    await rt.retry(line.run_id)
    result = await rt.wait(line.run_id)
    assert (result.status, result.state["migrated"], len(moved)) == ("completed", 1, 1)


# ------------------------------------------------------------------------------------------------------------ crashes
@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("timeline", [True, False])
async def test_a_crash_at_any_commit(stores, where, timeline):
    """Whichever commit the process dies at, the run is as it had failed or goes on; no finished stage runs again."""
    number = 0
    while True:
        number += 1
        shop = Shop()
        rt = await stores.enter(shop.workflow(), timeline=timeline)
        run_id = await failed(rt, id=f"order-{number}")
        await rt.stop()
        shop.broken = False
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(shop.workflow(), store=store, timeline=timeline)

        async def work(rt=rt, run_id=run_id):
            await rt.retry(run_id, patch={"amount": 2})
            await rt.wait(run_id)

        over = await until_crash(store, work())
        await stores.crash(rt)
        rt = await stores.enter(shop.workflow(), timeline=timeline)
        await run_until_idle(stores.clock)
        if (await rt.get_run(run_id)).status == "failed":
            assert shop.calls == ["reserve", "charge"], "it is as it was"
            await rt.retry(run_id, patch={"amount": 2})
        result = await rt.wait(run_id)
        assert (result.status, result.state["charged"], result.state["sent"]) == ("completed", 2, True), number
        assert shop.calls.count("reserve") == 1
        assert len(set(shop.keys)) == 1
        await rt.stop()
        if over:
            assert number > 3
            return


# -------------------------------------------------------------------------------------------------------------- races
async def test_of_two_retries_one_wins(stores):
    """Two calls at once: one retries, the other is told that the run has not ended, or has completed; it runs once."""
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    run_id = await failed(rt)
    shop.broken = False
    answers = await asyncio.gather(*(rt.retry(run_id) for _ in range(2)), return_exceptions=True)
    [refused] = [answer for answer in answers if isinstance(answer, Exception)]
    assert isinstance(refused, RunNotFinished | RunFinished)
    assert (await rt.wait(run_id)).metadata["attempt"] == 2
    assert shop.calls == ["reserve", "charge", "charge", "send"]


@pytest.mark.parametrize("first", ["retry", "abort"])
async def test_an_abort_and_a_retry(stores, first):
    """An abort behind a retry ends the run again; before it, it finds a run that has ended."""
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    run_id = await failed(rt)
    shop.broken = False
    store = rt.store
    if first == "retry":
        store.hold_after = lambda changes: any(move.status == "running" for move in changes.moves)
        await rt.retry(run_id)
        await rt.abort(run_id, "enough")
        store.hold_after = None
        for held in list(store.held):
            held.release()
        result = await rt.wait(run_id)
        assert (result.status, result.metadata["attempt"]) == ("aborted", 2)
        await rt.retry(run_id)
        assert (await rt.wait(run_id)).status == "completed"
        return
    store.hold = lambda changes: any(move.status == "ready" for move in changes.moves)
    retrying = asyncio.create_task(rt.retry(run_id))
    await store.until_held()
    with pytest.raises(RunFinished):
        await rt.abort(run_id)
    store.hold = None
    store.held[0].release()
    await retrying
    assert (await rt.wait(run_id)).status == "completed"


@pytest.mark.parametrize("first", ["retry", "emit"])
async def test_the_event_that_began_it_stays_a_duplicate(stores, first):
    """The same event, before or behind the retry, starts nothing: what it started is being mended."""
    from poundlock import Event

    shop = Shop()
    rt = await stores.enter(shop.workflow())
    event = Event("order", {}, id="order-1")
    [result] = await (await rt.emit(event)).results()
    shop.broken = False
    if first == "emit":
        assert (await rt.emit(event)).lines[0].verdict == "duplicate"
        await rt.retry(result.run_id)
    else:
        await rt.retry(result.run_id)
        assert (await rt.emit(event)).lines[0].verdict == "duplicate"
    assert (await rt.wait(result.run_id)).status == "completed"
    assert len((await rt.find_runs("shop")).items) == 1


@pytest.mark.parametrize("first", ["retry", "deregister"])
async def test_a_retry_and_a_deregistration(stores, first):
    """Behind the deregistration the retry is refused; before it, the run goes on once the workflow is back."""
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    run_id = await failed(rt)
    shop.broken = False
    store = rt.store
    if first == "deregister":
        leaving = asyncio.create_task(rt.deregister("shop"))
        await run_until_idle(stores.clock)
        with pytest.raises(NotRegistered):
            await rt.retry(run_id)
        await leaving
        assert (await rt.get_run(run_id)).status == "failed"
        return
    store.hold = lambda changes: any(move.status == "ready" for move in changes.moves)
    retrying = asyncio.create_task(rt.retry(run_id))
    await store.until_held()
    await rt.deregister("shop")
    store.hold = None
    store.held[0].release()
    assert (await retrying).status == "ready"
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status == "ready"
    await rt.register(shop.workflow())
    assert (await rt.wait(run_id)).status == "completed"


async def test_a_caller_that_goes_away_stops_nothing(stores):
    """A retry whose caller is cancelled while the commit is under way is carried out."""
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    run_id = await failed(rt)
    shop.broken = False
    rt.store.hold_after = lambda changes: any(move.status == "ready" for move in changes.moves)
    retrying = asyncio.create_task(rt.retry(run_id))
    await rt.store.until_held()
    retrying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await retrying
    rt.store.hold_after = None
    rt.store.held[0].release()
    assert (await rt.wait(run_id)).status == "completed"


async def test_a_run_that_was_deleted_meanwhile(vclock):
    """Where old runs are deleted, a retry of one that is gone says so, also if that happened since it was read."""
    from poundlock import WorkflowRuntime
    from poundlock.stores import MemoryStore

    shop = Shop()
    store = GatedStore(MemoryStore(keep=1), vclock)
    async with WorkflowRuntime(shop.workflow(), store=store, clock=vclock) as rt:
        run_id = await failed(rt)
        store.hold = lambda changes: any(move.status == "ready" for move in changes.moves)
        retrying = asyncio.create_task(rt.retry(run_id))
        await store.until_held()
        await failed(rt, n=2)
        await failed(rt, n=3)
        store.hold = None
        store.held[0].release()
        with pytest.raises(RunNotFound):
            await retrying
        with pytest.raises(RunNotFound):
            await rt.retry(run_id)


async def test_a_mended_run_ended_last(vclock):
    """A run that was retried is as young as its last end: it is not deleted as the first one that ended."""
    from poundlock import WorkflowRuntime
    from poundlock.stores import MemoryStore

    shop = Shop()
    async with WorkflowRuntime(shop.workflow(), store=MemoryStore(keep=2), clock=vclock) as rt:
        first, second = await failed(rt, n=1), await failed(rt, n=2)
        await rt.retry(first)
        await rt.wait(first)
        await failed(rt, n=3)
        assert (await rt.get_run(first)).attempt == 2
        with pytest.raises(RunNotFound):
            await rt.get_run(second)
