"""Tokens of questions: an answer reaches the question it was given for, however often that is asked, and no other."""

from __future__ import annotations

import asyncio

import pytest
from support import takes

from poundlock import NotPaused, RunFinished, RunStatus, StaleResume, StateRef, Workflow
from poundlock.testing import run_until_idle

WINDOWS = pytest.mark.parametrize("window", [{}, {"pause_window": 0}], ids=["warm", "cold"])


def rounds(**wait):
    """A run that asks at one wait again and again, until it is told to stop; each hour it sends a reminder."""
    wf = Workflow("wf")
    wf.on("begin")
    wf.wait("gate", on="go", timeout="1h", on_timeout="remind", **wait)

    @wf.step
    def look(ctx):
        return {"rounds": ctx.state.get("rounds", 0) + 1}

    wf.route(after="look")(lambda state: None if state.get("stop") else "gate")

    @wf.aside(then="gate")
    def remind(ctx):
        return {"reminded": ctx.state.get("reminded", 0) + 1}

    return wf


async def begin(rt, clock, **fields):
    [run_id] = (await rt.emit("begin", **fields)).run_ids
    await run_until_idle(clock)
    return run_id


async def token_of(rt, run_id):
    [wait] = (await rt.get_run(run_id)).waits
    known = rt.watch("wf", run_id)
    assert known is None or known.waits[0].token == wait.token
    return wait.token


@WINDOWS
async def test_a_reminder_keeps_the_token(stores, window):
    """A mailed link answers the question after its reminders; once it is answered, the next question has another."""
    rt = await stores.enter(rounds(), **window)
    run_id = await begin(rt, stores.clock)
    token = await token_of(rt, run_id)
    await stores.clock.run_for(hours=3.5)
    assert (await rt.get_run(run_id, state=True)).state["reminded"] == 3
    assert await token_of(rt, run_id) == token
    result = await rt.resume(run_id, {"a": 1}, wait=token)
    assert (result.status, result.state["rounds"]) == (RunStatus.PAUSED, 1)
    assert result.waits[0].token == await token_of(rt, run_id) != token
    with pytest.raises(StaleResume):
        await rt.resume(run_id, {"a": 2}, wait=token)
    result = await rt.resume(run_id, {"stop": True}, wait="gate")
    assert (result.status, result.state["a"]) == (RunStatus.COMPLETED, 1)
    with pytest.raises(RunFinished):
        await rt.resume(run_id, {"a": 2}, wait=token)


@WINDOWS
async def test_an_event_closes_the_question_too(stores, window):
    """After an event has answered it, the token of the question is stale."""
    rt = await stores.enter(rounds(), **window)
    run_id = await begin(rt, stores.clock)
    token = await token_of(rt, run_id)
    await rt.emit("go")
    await run_until_idle(stores.clock)
    with pytest.raises(StaleResume):
        await rt.resume(run_id, wait=token)
    assert await token_of(rt, run_id) != token


@WINDOWS
async def test_other_values_are_another_question(stores, window):
    """A reminder that asks with other values asks something else: an answer to the old one does not count."""
    wf = Workflow("wf")
    wf.on("begin")
    wf.wait("gate", on="go", correlate={"n": StateRef("n")}, timeout="1h", on_timeout="remind")

    @wf.aside(then="gate")
    def remind(n: int):
        return {"n": n + 1}

    rt = await stores.enter(wf, **window)
    run_id = await begin(rt, stores.clock, n=1)
    token = await token_of(rt, run_id)
    await stores.clock.run_for(hours=1.5)
    assert await token_of(rt, run_id) != token
    with pytest.raises(StaleResume):
        await rt.resume(run_id, wait=token)


async def test_a_token_survives_a_restart(stores):
    """It is stored with the run."""
    rt = await stores.enter(rounds())
    run_id = await begin(rt, stores.clock)
    token = await token_of(rt, run_id)
    await stores.crash(rt)
    rt = await stores.enter(rounds())
    assert await token_of(rt, run_id) == token
    assert (await rt.resume(run_id, {"stop": True}, wait=token)).status is RunStatus.COMPLETED


@WINDOWS
@pytest.mark.parametrize("first", [0, 1])
async def test_two_people_answer(stores, window, first):
    """In either order of their commits one wins, and the other is told; its patch changes nothing."""
    rt = await stores.enter(rounds(), **window)
    run_id = await begin(rt, stores.clock)
    token = await token_of(rt, run_id)
    rt.store.hold = takes
    both = [asyncio.create_task(rt.resume(run_id, {"by": who}, wait=token)) for who in ("Ada", "Bob")]
    held = await rt.store.until_held(2)
    rt.store.hold = None
    by_name = {each.changes.posts[0].body["patch"]["by"]: each for each in held}
    names = ["Ada", "Bob"] if first == 0 else ["Bob", "Ada"]
    for name in names:
        by_name[name].release()
        await run_until_idle(stores.clock)
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert outcomes[first].state["by"] == names[0]
    assert isinstance(outcomes[1 - first], NotPaused | StaleResume)
    assert (await rt.get_run(run_id, state=True)).state["by"] == names[0]


@WINDOWS
@pytest.mark.parametrize("first", ["event", "answer"])
async def test_an_event_against_a_token(stores, window, first):
    """One of them answers this question; the other one does not answer the next."""
    rt = await stores.enter(rounds(early=False), **window)
    run_id = await begin(rt, stores.clock)
    token = await token_of(rt, run_id)
    rt.store.hold = lambda changes: bool(changes.deliveries) or takes(changes)
    emitting = asyncio.create_task(rt.emit("go", by="event"))
    await rt.store.until_held(1)
    answering = asyncio.create_task(rt.resume(run_id, {"by": "answer", "stop": True}, wait=token))
    held = await rt.store.until_held(2)
    rt.store.hold = None
    for each in held if first == "event" else reversed(held):
        each.release()
        await run_until_idle(stores.clock)
    receipt, answer = await asyncio.gather(emitting, answering, return_exceptions=True)
    state = (await rt.get_run(run_id, state=True)).state
    assert (state["by"], state["rounds"]) == (first, 1)
    if first == "event":
        assert isinstance(answer, NotPaused | StaleResume)
    else:
        assert [str(line.verdict) for line in receipt.lines] == ["filtered"]


@WINDOWS
@pytest.mark.parametrize("first", ["timer", "answer"])
async def test_a_reminder_against_a_token(stores, window, first):
    """A token whose question is being asked again is not stale: the answer is taken, or told to come back."""
    rt = await stores.enter(rounds(), **window)
    run_id = await begin(rt, stores.clock)
    token = await token_of(rt, run_id)
    if first == "timer":
        await stores.clock.run_for(hours=1)
    rt.store.hold = takes
    answering = asyncio.create_task(rt.resume(run_id, {"stop": True}, wait=token))
    [held] = await rt.store.until_held()
    rt.store.hold = None
    await stores.clock.run_for(hours=1)  # the timer comes while the answer is on its way
    held.release()
    result = await answering
    assert result.status is RunStatus.COMPLETED
    assert result.state["reminded"] == (2 if first == "timer" else 1)


async def test_the_token_of_a_child(stores):
    """A parent shows its children's questions with their tokens; answered through the parent, they reach the child."""
    wf = Workflow("wf")
    wf.on("begin")
    review = wf.pipeline("review")
    review.wait("ask", on="answered")

    @review.step
    def again(ctx):
        return {"n": ctx.state.get("n", 0) + 1}

    review.route(after="again")(lambda state: "ask" if state["n"] < 2 else None)
    wf.fork(review, id="checks")
    rt = await stores.enter(wf)
    run_id = await begin(rt, stores.clock)
    [wait] = (await rt.get_run(run_id)).waits
    assert wait.id == "checks/review/ask"
    await rt.resume(run_id, {"by": "Ada"}, wait=wait.token)
    await run_until_idle(stores.clock)
    with pytest.raises((StaleResume, NotPaused)):
        await rt.resume(run_id, {"by": "Bob"}, wait=wait.token)
    [wait] = (await rt.get_run(run_id)).waits
    await rt.resume(run_id, {"by": "Bob"}, wait=wait.token)
    assert (await rt.wait(run_id)).status is RunStatus.COMPLETED
