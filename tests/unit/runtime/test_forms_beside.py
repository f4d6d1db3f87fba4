"""Several waits for one event type with different forms: an event is for the wait whose form it fits."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel, field_validator

from poundlock import RunStatus, StateRef, Wait, Workflow, workflow
from poundlock.testing import run_until_idle

WINDOWS = pytest.mark.parametrize("window", [{}, {"pause_window": 0}], ids=["warm", "cold"])


class Price(BaseModel):
    price: int


class Name(BaseModel):
    name: str


class Even(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def even(cls, n):
        """A rule that no schema says: only a process that has the workflow can check it."""
        if n % 2:
            raise ValueError("it is odd")
        return n


def one_and_two(hold=None, first=None, second=None):
    """A run that waits for two answers of one type, one after another."""
    wf = Workflow("wf")
    wf.on("begin")

    @wf.step
    async def work():
        if hold is not None:
            await hold.wait()

    wf.wait("one", **{"on": "answer", "form": Price, **(first or {})})
    wf.wait("two", **{"on": "answer", "form": Name, **(second or {})})
    wf.step(id="end")(lambda: None)
    return wf


async def begin(rt, clock, **fields):
    [run_id] = (await rt.emit("begin", **fields)).run_ids
    await run_until_idle(clock)
    return run_id


async def said(rt, **fields):
    return [f"{line.verdict} {line.reason}" for line in (await rt.emit("answer", **fields)).lines]


async def end_of(rt, run_id):
    """Return status and state of a run that is at rest, and how many events were refused by its waits."""
    await run_until_idle(rt.clock)
    info = await rt.get_run(run_id, state=True)
    return info.status, dict(info.state), (await rt.timeline(run_id)).types().count("wait:refused")


ANSWERS = {"two": {"name": "Ada"}, "one": {"price": 3}}
DONE = (RunStatus.COMPLETED, {"price": 3, "name": "Ada"}, 0)


@WINDOWS
@pytest.mark.parametrize("order", [["one", "two"], ["two", "one"]])
async def test_both_are_buffered_before_the_first_wait(stores, window, order):
    """In whichever order they came, each is used by the wait that it fits."""
    hold = asyncio.Event()
    rt = await stores.enter(one_and_two(hold), **window)
    run_id = await begin(rt, stores.clock)
    for wait in order:
        assert await said(rt, **ANSWERS[wait]) == [f"buffered wait {wait}"]
    hold.set()
    assert await end_of(rt, run_id) == DONE


@WINDOWS
async def test_the_second_answer_comes_at_the_first_wait(stores, window):
    """The first wait does not take it, and does not throw it away when its own comes."""
    rt = await stores.enter(one_and_two(), **window)
    run_id = await begin(rt, stores.clock)
    assert await said(rt, **ANSWERS["two"]) == ["buffered wait two"]
    assert await said(rt, other=1) == ["rejected wait two: name: Field required; wait one: price: Field required"]
    assert await said(rt, **ANSWERS["one"]) == ["resumed wait one"]
    assert await end_of(rt, run_id) == DONE


async def test_ways_by_event_type(stores):
    """The same at a wait whose event types lead to different stages."""
    hold = asyncio.Event()
    rt = await stores.enter(one_and_two(hold, first={"on": {"answer": "two", "no": "end"}}))
    run_id = await begin(rt, stores.clock)
    for wait in ("two", "one"):
        assert await said(rt, **ANSWERS[wait]) == [f"buffered wait {wait}"]
    hold.set()
    assert await end_of(rt, run_id) == DONE


async def test_a_wait_that_has_not_asked_takes_nothing(stores):
    """With `early=False` the second wait counts only what comes once it asks: so the first one refuses it."""
    rt = await stores.enter(one_and_two(second={"early": False}))
    run_id = await begin(rt, stores.clock)
    assert await said(rt, **ANSWERS["two"]) == ["rejected wait one: price: Field required"]
    assert await said(rt, **ANSWERS["one"]) == ["resumed wait one"]
    await run_until_idle(stores.clock)
    assert await said(rt, **ANSWERS["two"]) == ["resumed wait two"]
    assert await end_of(rt, run_id) == DONE


@pytest.mark.parametrize("asked", [True, False], ids=["while asked", "before"])
async def test_what_nobody_could_check(stores, asked):
    """An event that came where the workflow is unknown, and that no wait takes, is refused, and a dead letter."""
    hold = asyncio.Event()
    if asked:
        hold.set()
    rt = await stores.enter(one_and_two(hold, first={"form": Even}, second={"form": Even}))
    run_id = await begin(rt, stores.clock)
    await stores.crash(rt)
    rt = await stores.enter()
    [line] = await said(rt, n=1)
    assert line.startswith("resumed" if asked else "buffered")
    await stores.crash(rt)
    hold.set()
    rt = await stores.enter(one_and_two(hold, first={"form": Even}, second={"form": Even}))
    status, _, refused = await end_of(rt, run_id)
    assert (status, refused) == (RunStatus.PAUSED, 1)
    [letter] = await rt.dead_letters()
    assert letter.event.payload == {"n": 1}
    for n in (2, 4):
        assert (await said(rt, n=n))[0].startswith("resumed")
        await run_until_idle(stores.clock)
    assert (await end_of(rt, run_id))[0] is RunStatus.COMPLETED


async def test_an_answer_without_its_last_part(stores):
    """What seemed to complete an answer, and is for another wait: the run waits on, and counts without it."""

    def made():
        return one_and_two(first={"form": Even, "mode": 2, "collect": "got"})

    rt = await stores.enter(made())
    run_id = await begin(rt, stores.clock)
    await stores.crash(rt)
    rt = await stores.enter()
    assert await said(rt, n=2) == ["buffered wait one: 1 of 2"]
    assert await said(rt, n=1, name="Ada") == ["resumed waits for a slot"]
    await stores.crash(rt)
    rt = await stores.enter(made())
    assert await end_of(rt, run_id) == (RunStatus.PAUSED, {}, 0)
    info = await rt.get_run(run_id)
    assert (info.waits[0].have, info.waits[0].need) == (1, 2)
    assert await said(rt, n=4) == ["resumed wait one: 2 of 2"]
    assert await end_of(rt, run_id) == (
        RunStatus.COMPLETED,
        {"got": [{"n": 2}, {"n": 4}], "n": 1, "name": "Ada"},
        0,
    )


async def test_a_wait_whose_values_are_not_there_yet(stores):
    """A wait that is not armed now may want the event later, if it is for its type and fits its form."""
    hold = asyncio.Event()
    wf = Workflow("wf")
    wf.on("begin")

    @wf.step
    async def work():
        await hold.wait()
        return {"id": 2}

    wf.wait("one", on="answer", form=Price)
    wf.wait("two", on="answer", form=Name, correlate={"id": StateRef("id")})
    wf.step(id="end")(lambda: None)
    rt = await stores.enter(wf)
    run_id = await begin(rt, stores.clock, id=1)
    assert await said(rt, id=1, **ANSWERS["two"]) == ["buffered wait two"]
    hold.set()  # the second wait is for another id from now on
    assert await end_of(rt, run_id) == (RunStatus.PAUSED, {"id": 2}, 0)
    assert await said(rt, **ANSWERS["one"]) == ["resumed wait one"]
    await run_until_idle(stores.clock)
    assert await said(rt, id=2, **ANSWERS["two"]) == ["resumed wait two"]
    assert (await end_of(rt, run_id))[0] is RunStatus.COMPLETED
    assert (await rt.timeline(run_id)).types().count("wait:expired") == 1


@pytest.mark.parametrize("order", [["one", "two"], ["two", "one"]])
async def test_a_function_waits_side_by_side(stores, order):
    """What was buffered from the start is given to the operation whose form it fits."""

    @workflow("twins", waits=["begun", Wait("answer", id="answers")])
    async def twins(step):
        await step.wait_for("begun")
        forms = [Price.model_json_schema(), Name.model_json_schema()]
        return [each.payload for each in await step.gather(*[step.wait_for("answer", form=form) for form in forms])]

    rt = await stores.enter(twins)
    run = await rt.run("twins")
    for wait in order:
        await rt.emit("answer", **ANSWERS[wait])
    await rt.emit("begun")
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run.run_id)).status is RunStatus.COMPLETED
    assert (await rt.wait(run.run_id)).result == [ANSWERS["one"], ANSWERS["two"]]
    assert "wait:refused" not in (await rt.timeline(run.run_id)).types()
