"""Asking and waiting: events that lead to different stages, questions that are asked again, and `until`."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from poundlock import (
    Condition,
    Delay,
    Event,
    InvalidDefinition,
    InvalidEvent,
    RunNotFound,
    StateRef,
    Terminate,
    Verdict,
    Workflow,
)


def asking(*, early=True, timeout=None, on=None, working=None, **options):
    """A run that asks until somebody agrees: "again" leads back to the work before the question."""
    wf = Workflow("w")

    @wf.on("begin")
    @wf.step
    async def work(state):
        if working is not None and state.get("rounds"):
            await working.wait()
        return {"rounds": state.get("rounds", 0) + 1}

    ways = on or {"agreed": "done", "again": "work", "any.*": "other"}
    wf.wait(
        "review",
        on=ways,
        correlate={"id": StateRef("id")},
        early=early,
        timeout=timeout,
        on_timeout="remind" if timeout else "fail",
        **options,
    )

    @wf.step
    async def done(state):
        return Terminate(state["rounds"])

    @wf.aside
    async def other():
        return Terminate("other")

    @wf.aside(then="review")
    async def remind(state):
        return {"reminders": state.get("reminders", 0) + 1}

    return wf


async def begin(rt):
    [result] = await (await rt.emit("begin", id=1)).results()
    return result.run_id


def said(receipt):
    return [(line.verdict, line.reason) for line in receipt.lines]


@pytest.mark.parametrize(
    ("event", "result"),
    [("agreed", 1), ("any.thing", "other")],
)
async def test_an_event_type_names_the_stage(stores, event, result):
    """Each event type or pattern leads to its own stage."""
    rt = await stores.enter(asking())
    run_id = await begin(rt)
    await rt.emit(event, id=1)
    assert (await rt.wait(run_id)).result == result


async def test_an_exact_type_comes_first(runtime):
    """An exact type is taken before a pattern that is written first; of patterns the first one counts."""
    wf = Workflow("w")
    wf.wait("gate", on={"a.*": "pattern", "a.b": "exact", "a.**": "late"})
    for name in ("pattern", "exact", "late"):
        wf.aside(lambda name=name: Terminate(name), id=name)
    rt = await runtime(wf)
    for event, stage in (("a.b", "exact"), ("a.c", "pattern"), ("a.c.d", "late")):
        run = await rt.run("w")
        await rt.emit(event)
        assert (await rt.wait(run.run_id)).result == stage


async def test_an_early_event_takes_its_way(stores):
    """An event that was buffered before the run got there leads to the same stage."""
    wf = Workflow("w")

    @wf.on("begin")
    @wf.step
    async def work():
        await rt.emit("no", id=1)

    wf.wait("gate", on={"yes": "yes", "no": "no"})
    wf.aside(lambda: Terminate("yes"), id="yes")
    wf.aside(lambda: Terminate("no"), id="no")
    rt = await stores.enter(wf)
    [result] = await (await rt.emit("begin")).results()
    assert result.result == "no"


async def test_an_answer_by_hand_says_which_way(stores):
    """By hand such a wait is answered with one of its events; an answer without one changes nothing."""
    rt = await stores.enter(asking())
    run_id = await begin(rt)
    with pytest.raises(InvalidEvent, match=r"event='agreed' \(to 'done'\)") as raised:
        await rt.resume(run_id, {"n": 1})
    assert raised.value.path == "event"
    with pytest.raises(InvalidEvent, match="'maybe' is not an event of wait 'review'"):
        await rt.resume(run_id, event="maybe")
    assert (await rt.get_run(run_id)).status == "paused"
    result = await rt.resume(run_id, {"n": 1}, event="again")
    assert (result.status, result.state["rounds"], result.state["n"]) == ("paused", 2, 1)
    result = await rt.resume(run_id, event="any.*")
    assert (result.status, result.result) == ("completed", "other")


async def test_an_answer_by_hand_survives_a_crash(stores):
    """An answer that is durable takes its way also if the process dies before the run has left the wait."""
    rt = await stores.enter(asking())
    run_id = await begin(rt)
    await rt.stop()
    other = await stores.enter()  # it does not know the workflow: it only leaves the answer
    await other.resume(run_id, event="any.*")
    await stores.crash(other)
    rt = await stores.enter(asking())
    assert (await rt.wait(run_id)).result == "other"


async def test_a_plain_wait_may_be_told_its_event(runtime):
    """Where all events lead to the same stage, `event=` may be left out, or must be one of them."""
    wf = Workflow("w")
    wf.wait("gate", on=["yes", "no"])
    rt = await runtime(wf)
    run = await rt.run("w")
    with pytest.raises(InvalidEvent, match="it has yes, no"):
        await rt.resume(run.run_id, event="other")
    assert (await rt.resume(run.run_id, event="no")).status == "completed"


async def test_a_wait_says_where_its_events_lead(stores):
    """`waits` names the ways, and there is no single stage to go on with."""
    rt = await stores.enter(asking())
    run_id = await begin(rt)
    [wait] = (await rt.get_run(run_id)).waits
    assert wait.leads_to == {"agreed": "done", "again": "work", "any.*": "other"}
    assert (wait.resume_at, wait.to_dict()["leads_to"]) == (None, wait.leads_to)


@pytest.mark.parametrize("crashes", [False, True])
async def test_only_what_comes_after_the_question_counts(stores, crashes):
    """With `early=False` an event before the question is filtered; so is a second click before the next one."""
    rt = await stores.enter(asking(early=False))
    wf = Workflow("first")
    wf.wait("start", on="go", correlate={"id": StateRef("id")})
    wf.wait("review", on="agreed", correlate={"id": StateRef("id")}, early=False)
    await rt.register(wf)
    run = await rt.run("first", id=5)
    assert said(await rt.emit("agreed", id=5)) == [(Verdict.FILTERED, "wait review: not asked yet")]
    if crashes:
        await stores.crash(rt)
        rt = await stores.enter(asking(early=False), wf)
    await rt.emit("go", id=5)
    await stores.clock.run_until_idle()
    assert said(await rt.emit("agreed", id=5)) == [(Verdict.RESUMED, "wait review")]
    assert (await rt.wait(run.run_id)).status == "completed"


async def test_a_second_click_does_not_answer_the_next_question(stores, vclock):
    """A click between the answer and the next question is filtered, also before the run's next boundary."""
    working = asyncio.Event()
    rt = await stores.enter(asking(early=False, working=working))
    run_id = await begin(rt)
    assert said(await rt.emit("again", id=1)) == [(Verdict.RESUMED, "wait review")]
    for _ in range(2):
        assert said(await rt.emit("again", id=1)) == [(Verdict.FILTERED, "wait review: not asked yet")]
        await vclock.run_until_idle()  # its step works on
    working.set()
    await vclock.run_until_idle()
    assert (await rt.get_run(run_id)).status == "paused"
    assert (await rt.timeline(run_id)).state_at()["rounds"] == 2
    await rt.emit("agreed", id=1)
    assert (await rt.wait(run_id)).result == 2


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_timeout_does_not_close_the_question(stores, vclock, crashes):
    """What comes between a timeout and the next pause at the same wait is buffered, and answers it."""

    def workflow():
        wf = Workflow("w")
        wf.on("begin")
        wf.wait("review", on="agreed", early=False, timeout="1d", on_timeout="remind")

        @wf.step
        async def done(state):
            return Terminate(state.get("reminders", 0))

        @wf.aside(then="second")
        async def remind(state):
            return {"reminders": state.get("reminders", 0) + 1}

        wf.wait("second", on="reminded", resume_at="review")
        return wf

    rt = await stores.enter(workflow())
    [line] = (await rt.emit("begin")).lines
    await vclock.run_for(days=1, seconds=1)
    run = await rt.get_run(line.run_id)
    assert [wait.id for wait in run.waits if wait.parked] == ["second"]
    assert said(await rt.emit("agreed")) == [(Verdict.BUFFERED, "wait review")]
    if crashes:
        await stores.crash(rt)
        rt = await stores.enter(workflow())
    await rt.emit("reminded")
    assert (await rt.wait(line.run_id)).result == 1


async def test_other_values_are_another_question(stores):
    """If the values a wait correlates with change, what was buffered for the old question does not answer the new."""
    wf = Workflow("w")

    @wf.on("begin")
    @wf.step
    async def work(state):
        return {"round": state.get("round", 0) + 1}

    wf.wait(
        "review",
        on={"agreed": "done", "again": "work"},
        correlate={"round": StateRef("round")},
        where=[Condition("by", "exists")],
        early=False,
    )
    wf.aside(lambda state: Terminate(state["round"]), id="done")
    rt = await stores.enter(wf)
    [line] = (await rt.emit("begin")).lines
    await stores.clock.run_until_idle()
    assert [line.verdict for line in (await rt.emit("agreed", round=1)).lines] == [Verdict.FILTERED]
    await rt.emit("again", round=1, by="a")
    await stores.clock.run_until_idle()
    assert said(await rt.emit("agreed", round=1, by="a")) == [(Verdict.UNMATCHED, "")]
    await rt.emit("agreed", round=2, by="a")
    assert (await rt.wait(line.run_id)).result == 2


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"on": {"agreed": "nowhere"}}, "events.agreed"),
        ({"on_timeout": "resume"}, "on_timeout"),
        ({"early": "no"}, "early"),
        ({"resume_at": "end"}, "resume_at"),
    ],
    ids=["stage", "timeout", "early", "resume_at"],
)
def test_faults_are_found(options, path):
    """A way to no stage, a timeout that does not say which way, and the like are found in the definition."""
    wf = Workflow("w")
    wf.wait("gate", **{"on": {"agreed": "end"}, **options})
    wf.aside(lambda: None, id="end")
    with pytest.raises(InvalidDefinition) as raised:
        _ = wf.definition
    assert any(place.endswith(path) for place, _ in raised.value.faults)


# ------------------------------------------------------------------------------------------------- how long to wait
async def test_accepted_does_not_wait(stores):
    """With `until="accepted"` a call returns once the run is durable; the result says what the run is now."""
    working = asyncio.Event()
    wf = Workflow("w", visit_limit=3)

    @wf.step
    async def work(n: int):
        await working.wait()
        return {"n": n + 1}

    wf.wait("gate", on="go")

    @wf.step
    async def last():
        await working.wait()

    rt = await stores.enter(wf)
    event = Event("begin", {"n": 1})
    begun = await rt.invoke("w", event=event, run_id="r", until="accepted")
    assert (begun.status, begun.ok, begun.state["n"]) == ("running", False, 1)
    working.set()
    assert (await rt.wait("r", until="rest")).status == "paused"
    working.clear()
    going = await rt.resume("r", until="accepted")
    assert (going.status, going.state["n"]) == ("running", 2)
    working.set()
    assert (await rt.wait("r")).status == "completed"


async def test_an_invoked_run_without_an_id_is_seen_before_it_is_stored(stores):
    """A run that is not stored yet is read from memory, as it was created."""
    working = asyncio.Event()
    wf = Workflow("w")

    @wf.step
    async def work(n: int):
        await working.wait()
        return {"n": n + 1}

    rt = await stores.enter(wf)
    begun = await rt.invoke("w", event=Event("begin", {"n": 1}), until="accepted")
    assert (begun.status, begun.state["n"]) == ("running", 1)
    info = await rt.get_run(begun.run_id, state=True)
    assert (info.status, info.state["n"]) == ("running", 1)
    working.set()
    assert (await rt.wait(begun.run_id)).state["n"] == 2


async def test_until_the_end_goes_through_pauses(stores):
    """With `until="end"` a call waits through the pauses; `until="rest"` returns at the next one."""
    rt = await stores.enter(asking())
    ended = asyncio.create_task(rt.invoke("w", event=Event("begin", {"id": 1}), run_id="r", until="end"))
    await stores.clock.run_until_idle()
    assert (await rt.wait("r", until="rest")).status == "paused"
    assert not ended.done()
    assert (await rt.resume("r", event="again", until="rest")).state["rounds"] == 2
    await rt.emit("agreed", id=1)
    assert (await ended).result == 2


async def test_a_resumed_run_is_not_at_rest(stores):
    """Once an event was answered `resumed`, waiting for rest and the receipt's results mean the next pause."""
    rt = await stores.enter(asking())
    run_id = await begin(rt)
    await rt.emit("again", id=1)
    assert (await rt.wait(run_id, until="rest")).state["rounds"] == 2
    [result] = await (await rt.emit("again", id=1)).results()
    assert (result.run_id, result.status, result.state["rounds"]) == (run_id, "paused", 3)


async def test_rest_has_a_timeout(stores, vclock):
    """A run that delays is not at rest; the error says what did not happen, and the run is unchanged."""
    wf = Workflow("w")
    wf.route(Delay("1h"), after="work")
    wf.step(lambda: None, id="work")
    wf.step(lambda: None, id="later")
    rt = await stores.enter(wf)
    await rt.invoke("w", run_id="r", until="accepted")
    waiting = asyncio.create_task(rt.wait("r", "1m", until="rest"))
    await vclock.run_for(minutes=2)
    with pytest.raises(TimeoutError, match="is neither paused nor ended within 1m"):
        await waiting
    assert (await rt.get_run("r")).status == "delayed"


async def test_an_unknown_until_does_nothing(stores):
    """An `until` that there is not is refused before anything happens."""
    rt = await stores.enter(asking())
    for call in (
        rt.invoke("w", run_id="r", until="done"),
        rt.resume("r", until="done"),
        rt.wait("r", until="accepted"),
    ):
        with pytest.raises(InvalidDefinition, match="until is") as raised:
            await call
        assert raised.value.path == "until"
    assert (await rt.find_runs()).items == []


@pytest.mark.parametrize("typed", [False, True])
async def test_a_run_with_its_state(stores, typed):
    """`get_run(state=True)` has the state, as an instance of the model if there is one; without, it is None."""

    class State(BaseModel):
        n: int

    wf = Workflow("w", state=State if typed else None)
    wf.wait("gate", on="go")
    rt = await stores.enter(wf)
    await rt.invoke("w", event=Event("begin", {"n": 1}), run_id="r")
    info = await rt.get_run("r", state=True)
    assert info.state == (State(n=1) if typed else {"n": 1})
    assert info.to_dict()["state"] == {"n": 1}
    assert (await rt.get_run("r")).state is None
    assert "state" not in (await rt.get_run("r")).to_dict()
    with pytest.raises(RunNotFound):
        await rt.get_run("other", state=True)
