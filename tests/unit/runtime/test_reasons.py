"""A filtered line says which condition did not hold, and what it saw; briefly, whatever that was."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from poundlock import Condition, Serialized, StateRef, Transient, Verdict, Workflow
from poundlock.runtime.dispatch import unmet
from poundlock.testing import run_until_idle


class Unshowable:
    def __repr__(self):
        raise SystemExit("no")

    def __eq__(self, other):
        return isinstance(other, Unshowable)

    __hash__ = None


def named(id, *conditions, **options):
    wf = Workflow(id, **options)

    @wf.on("order.placed", when=list(conditions))
    @wf.step
    async def work():
        return None

    return wf


@pytest.mark.parametrize(
    ("condition", "payload", "said"),
    [
        (Condition("total", ">", 100), {"total": 40}, "total > 100 does not hold: it is 40"),
        (Condition("total", ">", 100), {"totl": 40}, "total > 100 does not hold: the payload has no 'total'"),
        (Condition("by", "exists"), {}, "by exists does not hold: the payload has no 'by'"),
        (Condition("by", "exists", False), {"by": "x"}, "by exists is False does not hold: it is 'x'"),
        (Condition("a.b", "==", Decimal("1.5")), {"a": {"b": 2}}, "a.b == Decimal('1.5') does not hold: it is 2"),
        (Condition("a", "==", [1]), {"a": {"b": 2}}, "a == a list of 1 does not hold: it is a mapping of 1 keys"),
        (Condition("a", "==", 1), "text", "a == 1 does not hold: the payload has no 'a'"),
    ],
)
async def test_the_reason_names_the_condition(stores, condition, payload, said):
    """Of a trigger: the first condition that does not hold, its operator and value, and what stands there."""
    rt = await stores.enter(named("w", Condition("x", "exists", False), condition))
    [line] = (await rt.emit("order.placed", payload)).lines
    assert (line.verdict, line.reason) == (Verdict.FILTERED, said)


async def test_a_waits_reason_names_wait_and_condition(stores):
    """Of a waiting run: the wait as well."""
    wf = Workflow("w")
    wf.wait("review", on="reviewed", where=[Condition("by", "exists"), Condition("score", ">=", 3)])
    rt = await stores.enter(wf)
    run = await rt.run("w")
    [line] = (await rt.emit("reviewed", by="Ada", score=1)).lines
    assert (line.verdict, line.run_id) == (Verdict.FILTERED, run.run_id)
    assert line.reason == "wait review: score >= 3 does not hold: it is 1"


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, 10**4000, b"x" * 10**6, list(range(10**5)), {str(n): n for n in range(10**5)}, Unshowable()],
    ids=["text", "integer", "bytes", "list", "mapping", "unshowable"],
)
def test_reasons_are_short_whatever_they_show(value):
    """A value of any size or kind is shown in a few characters, and what cannot be shown is said to be so."""
    for said in (
        unmet([Condition("a" * 500, "==", 1)], {"a" * 500: value}),
        unmet([Condition("a", "==", value)], {"a": 1}),
    ):
        assert said
        assert len(said) < 300


async def test_numbers_that_are_equal_are_one_key(stores):
    """2, 2.0 and Decimal("2.00") are equal to a condition, so they are one partition."""
    wf = named("w", mode=Serialized(key="n"))
    rt = await stores.enter(wf)
    keys = set()
    for value in (2, 2.0, Decimal("2.00"), Decimal(2)):
        receipt = await rt.emit("order.placed", n=value)
        keys.add((await rt.get_run(receipt.run_ids[0])).key)
        await receipt.results()
    assert keys == {"2"}


async def test_a_wait_correlated_by_a_decimal_takes_equal_numbers(stores):
    """The index finds what a condition holds for equal, and no more."""
    wf = Workflow("w")
    wf.wait("paid", on="paid", correlate={"sum": Decimal("2.50")})
    rt = await stores.enter(wf)
    run = await rt.run("w")
    assert (await rt.emit("paid", sum=2.25)).verdicts == ["unmatched"]
    assert (await rt.emit("paid", sum=2.5)).verdicts == ["resumed"]
    assert (await rt.wait(run.run_id)).ok


async def test_a_function_is_named(stores):
    """Of a function there is no condition to show: it is named, unless it has no name."""

    def is_large(payload):
        return payload["n"] > 10

    rt = await stores.enter(named("w"), named("x"))
    await rt.deregister("w")
    await rt.deregister("x")
    for id, when in (("w", is_large), ("x", lambda payload: payload["n"] > 10)):
        wf = Workflow(id)
        wf.on("order.placed", when=when)
        wf.step(lambda: None, id="work")
        await rt.register(wf)
    lines = (await rt.emit("order.placed", n=1)).lines
    assert [line.reason for line in lines] == ["`when` did not match: is_large()", "`when` did not match"]


# ------------------------------------------------------------------------------------------------------ near misses
def approval(id="w", **options):
    wf = Workflow(id)
    wf.wait("review", on="reviewed", **({"correlate": {"order.id": StateRef("id")}} | options))
    return wf


async def test_explain_names_the_correlated_path(stores):
    """A run that waits for such an event, but not for this one, is told of by `explain`, and not by `emit`."""
    rt = await stores.enter(approval())
    run = await rt.run("w", id=7)
    receipt = await rt.explain("reviewed", order={"id": 8})
    assert receipt.verdicts == ["unmatched", "filtered"]
    line = receipt.lines[1]
    assert (line.workflow_id, line.trigger_id, line.run_id) == ("w", None, run.run_id)
    assert line.reason == "wait review: order.id == 7 does not hold: it is 8"
    [line] = (await rt.explain("reviewed", id=7)).lines[1:]
    assert line.reason == "wait review: order.id == 7 does not hold: the payload has no 'order.id'"
    assert (await rt.emit("reviewed", order={"id": 8})).verdicts == ["unmatched"]
    assert (await rt.explain("reviewed", order={"id": 7})).verdicts == ["resumed"]
    assert (await rt.explain("something.else", order={"id": 8})).verdicts == ["unmatched"]


async def test_explain_names_the_condition_of_the_wait_that_is_correlated(stores):
    """Of several waits of a run, the one that the event is meant for says why it does not match."""
    wf = Workflow("w")
    wf.wait("other", on=["reviewed", "asked"], correlate={"id": StateRef("other")})
    wf.wait("review", on="review*", correlate={"id": StateRef("id")}, where=[Condition("score", ">=", 3)])
    rt = await stores.enter(wf)
    run = await rt.run("w", id=7, other=9)
    [line] = (await rt.explain("reviewed", id=7, score=1)).lines
    assert (line.run_id, line.reason) == (run.run_id, "wait review: score >= 3 does not hold: it is 1")
    assert (await rt.emit("reviewed", id=7, score=1)).lines == (line,)


async def test_explain_names_a_question_that_was_not_asked_yet(stores):
    """A wait that counts only what comes after its question says so."""
    wf = Workflow("w")
    wf.wait("first", on="first")
    wf.wait("review", on="reviewed", early=False)
    rt = await stores.enter(wf)
    await rt.run("w")
    [line] = (await rt.explain("reviewed")).lines
    assert line.reason == "wait review: not asked yet"


async def test_explain_tells_of_a_few(stores):
    """Of a thousand runs that wait for other values, ten of the newest are told of, behind those that get it."""
    rt = await stores.enter(approval(), approval("hit", correlate=None))
    runs = [(await rt.run("w", id=number)).run_id for number in range(12)]
    hit = await rt.run("hit", id=1)
    receipt = await rt.explain("reviewed", order={"id": 100})
    assert receipt.verdicts == ["resumed", *["filtered"] * 10]
    assert receipt.lines[0].run_id == hit.run_id
    assert {line.run_id for line in receipt.lines[1:]} < set(runs)


async def test_explain_sees_runs_that_are_not_stored_yet(stores):
    """A run that was called, and has not come to its first commit, is told of too."""
    inside, go = asyncio.Event(), asyncio.Event()
    wf = Workflow("w")

    @wf.step
    async def work():
        inside.set()
        await go.wait()

    wf.wait("review", on="reviewed", correlate={"id": StateRef("id")})
    rt = await stores.enter(wf)
    running = asyncio.create_task(rt.run("w", id=7))
    await inside.wait()
    [_, line] = (await rt.explain("reviewed", id=8)).lines
    assert line.reason == "wait review: id == 7 does not hold: it is 8"
    assert (await rt.find_runs("w")).items == []
    go.set()
    await running


# ---------------------------------------------------------------------------------------------- what waits for a slot
def gated(mode):
    wf = Workflow("w", mode=mode)
    wf.on("go")
    wf.wait("gate", on="open", correlate={"n": StateRef("n")})

    @wf.step
    def last():
        return {"over": True}

    return wf


async def test_explain_says_who_holds_the_slots(stores):
    """Of a run that would be queued: how many slots are taken, by which runs, and how many others are in line."""
    rt = await stores.enter(gated(Transient(2, holds_slot_while_paused=True)))
    assert [line.reason for line in (await rt.explain("go", n=0)).lines] == [""]
    first, second = [(await rt.emit("go", n=n)).run_ids[0] for n in (1, 2)]
    await run_until_idle(stores.clock)
    [line] = (await rt.explain("go", n=3)).lines
    assert (line.verdict, line.run_id) == ("queued", None)
    assert line.reason == f"waits for a slot: 2 of 2 taken by run {second} (paused), run {first} (paused)"
    [third] = (await rt.emit("go", n=3)).run_ids
    [line] = (await rt.explain("go", n=4)).lines
    assert line.reason.endswith("; 1 queued in line")
    await rt.emit("open", n=1)
    await rt.wait(first)
    await run_until_idle(stores.clock)
    [line] = (await rt.explain("go", n=4)).lines
    assert f"run {third} (paused)" in line.reason
    assert first not in line.reason


async def test_explain_of_an_event_for_a_queued_run(stores):
    """It is buffered, as `emit` says; the reason adds that its run waits for a slot, per key of the mode."""
    rt = await stores.enter(gated(Serialized(key="key")))
    [active] = (await rt.emit("go", n=1, key="a")).run_ids
    [other] = (await rt.emit("go", n=2, key="b")).run_ids
    [queued] = (await rt.emit("go", n=3, key="a")).run_ids
    await run_until_idle(stores.clock)
    [line] = (await rt.explain("open", n=3)).lines[:1]
    assert (line.verdict, line.run_id) == ("buffered", queued)
    assert line.reason == f"wait gate; waits for a slot: 1 of 1 taken by run {active} (paused); 1 queued in line"
    assert other not in line.reason
    [emitted] = (await rt.emit("open", n=3)).lines[:1]
    assert (emitted.verdict, emitted.reason) == ("buffered", "wait gate")


async def test_explain_of_an_event_for_a_resumed_run_in_line(stores):
    """A run that was resumed and got no slot is told of in the same way."""
    busy = asyncio.Event()
    wf = Workflow("w", mode=Transient(1))
    wf.on("go")

    @wf.step
    async def first(n: int):
        if n == 2:
            await busy.wait()

    wf.wait("gate", on="open", correlate={"n": StateRef("n")})
    wf.wait("second", on="more", correlate={"n": StateRef("n")})
    rt = await stores.enter(wf)
    [resumed] = (await rt.emit("go", n=1)).run_ids
    await run_until_idle(stores.clock)
    [active] = (await rt.emit("go", n=2)).run_ids
    await run_until_idle(stores.clock)
    await rt.emit("open", n=1)
    await run_until_idle(stores.clock)
    assert (await rt.get_run(resumed)).status == "ready"
    [line] = (await rt.explain("more", n=1)).lines[:1]
    assert (line.verdict, line.run_id) == ("buffered", resumed)
    assert line.reason.endswith(f"; waits for a slot: 1 of 1 taken by run {active} (running); 1 resumed in line")
    busy.set()


async def test_many_holders_are_counted(stores):
    """Three of them are named."""
    rt = await stores.enter(gated(Transient(5, holds_slot_while_paused=True)))
    for n in range(5):
        await rt.emit("go", n=n)
    await run_until_idle(stores.clock)
    [line] = (await rt.explain("go", n=9)).lines
    assert line.reason.startswith("waits for a slot: 5 of 5 taken by run ")
    assert line.reason.endswith(", 2 more")
    assert line.reason.count("(paused)") == 3
