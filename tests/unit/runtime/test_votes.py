"""Waits for several events: how many have come, which count, what is merged, and what an answer by hand means."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from pydantic import BaseModel, Field
from support import until_crash

from poundlock import (
    AnswerInvalid,
    Event,
    InvalidDefinition,
    Pause,
    RunFinished,
    RunStatus,
    StateRef,
    Transient,
    Wait,
    Workflow,
    flow,
)
from poundlock.testing import run_until_idle

WINDOWS = pytest.mark.parametrize("window", [{}, {"pause_window": 0}], ids=["warm", "cold"])


class Vote(BaseModel):
    member: str
    yes: bool


class Board(BaseModel):
    motion: str
    votes: list[Vote] = []
    passed: bool | None = None


def board(mode=2, *, state=None, **options):
    """A workflow that waits for votes, and counts them."""
    wf = Workflow("board", state=state)
    wf.on("motion")
    said = {"distinct": "member", "form": Vote, "collect": "votes", "correlate": {"motion": StateRef("motion")}}
    wf.wait("votes", on="vote", mode=mode, **{**said, **options})

    @wf.step
    def count(ctx):
        votes = ctx.state.votes if state else ctx.state.get("votes", [])
        yes = [vote.yes if state else vote["yes"] for vote in votes]
        return {"passed": all(yes)}

    return wf


async def begin(rt, motion="M", **fields):
    [run_id] = (await rt.emit("motion", motion=motion, **fields)).run_ids
    assert (await rt.wait(run_id, until="rest")).status is RunStatus.PAUSED
    return run_id


async def said(rt, *args, **fields):
    """Return verdict and reason of each line."""
    return [f"{line.verdict} {line.reason}" for line in (await rt.emit(*args, **fields)).lines]


async def have(rt, run_id):
    """How many have come, as the store and as memory say it, if it is there."""
    stored = (await rt.get_run(run_id)).waits[0]
    known = rt.watch("board", run_id)
    assert known is None or known.waits[0].have == stored.have
    return stored.have, stored.need


@WINDOWS
@pytest.mark.parametrize("state", [None, Board])
async def test_two_members_vote(stores, window, state):
    """The last vote resumes; a second vote of a member and one that does not fit the form are refused."""
    rt = await stores.enter(board(state=state), **window)
    run_id = await begin(rt)
    assert await have(rt, run_id) == (0, 2)
    assert await said(rt, "vote", motion="M", member="a", yes=True) == ["buffered wait votes: 1 of 2"]
    assert await have(rt, run_id) == (1, 2)
    assert await said(rt, "vote", motion="M", member="a", yes=False) == ["rejected wait votes: member 'a' has answered"]
    assert await said(rt, "vote", motion="M", member="b") == ["rejected wait votes: yes: Field required"]
    assert await said(rt, "vote", motion="M", yes=True) == ["rejected wait votes: member: Field required"]
    assert await said(rt, "vote", motion="other", member="b", yes=True) == ["unmatched "]
    assert await have(rt, run_id) == (1, 2)
    dry = (await rt.explain(Event("vote", {"motion": "M", "member": "b", "yes": False}))).lines
    assert [f"{line.verdict} {line.reason}" for line in dry] == ["resumed wait votes: 2 of 2"]
    assert await said(rt, "vote", motion="M", member="b", yes=False) == ["resumed wait votes: 2 of 2"]
    result = await rt.wait(run_id)
    assert result.status is RunStatus.COMPLETED
    if state is None:
        whole = [{"motion": "M", "member": "a", "yes": True}, {"motion": "M", "member": "b", "yes": False}]
        assert (result.state["votes"], result.state["passed"]) == (whole, False)
    else:
        assert ([vote.member for vote in result.state.votes], result.state.passed) == (["a", "b"], False)
    kinds = (await rt.timeline(run_id)).types()
    assert kinds.count("wait:matched") == 2


@WINDOWS
async def test_a_refused_vote_can_be_sent_again(stores, window):
    """What was refused is not remembered: the same event, corrected by nobody, is refused again and not a duplicate."""
    rt = await stores.enter(board(form=None), **window)
    await begin(rt)
    assert await said(rt, "vote", motion="M") == ["rejected wait votes: member is missing"]
    vote = Event("vote", {"motion": "M", "member": "a", "yes": True}, id="one")
    again = Event("vote", {"motion": "M", "member": "a", "yes": True}, id="two")
    assert await said(rt, vote) == ["buffered wait votes: 1 of 2"]
    assert await said(rt, vote) == ["duplicate this event id was handled before"]
    for _ in range(2):
        assert await said(rt, again) == ["rejected wait votes: member 'a' has answered"]


@WINDOWS
async def test_all_of_several_types(stores, window):
    """Mode "all" takes one event of each type; one of a type that is there already counts for nothing yet."""
    wf = Workflow("board")
    wf.on("motion")
    wf.wait("papers", on=["law", "tax.*"], mode="all", correlate={"motion": StateRef("motion")})

    @wf.step
    def end(law: int, tax: int):
        return {"sum": law + tax}

    rt = await stores.enter(wf, **window)
    run_id = await begin(rt)
    assert await said(rt, "tax.paid", motion="M", tax=1) == ["buffered wait papers: 1 of 2"]
    assert await said(rt, "tax.due", motion="M", tax=5) == ["buffered wait papers: 1 of 2"]
    assert await have(rt, run_id) == (1, 2)
    assert await said(rt, "law", motion="M", law=10) == ["resumed wait papers: 2 of 2"]
    result = await rt.wait(run_id)
    assert result.state["sum"] == 11
    types = [entry.type for entry in (await rt.timeline(run_id)).entries]
    assert types.count("wait:expired") == 1  # the second of its type was never used


@WINDOWS
@pytest.mark.parametrize("mode", [3, "all"])
async def test_payloads_are_merged_in_order(stores, window, mode):
    """Without collect each payload is merged, in the order in which the events came, over the boundary of a restart."""
    on = ["a", "b", "c"] if mode == "all" else "*"
    wf = Workflow("board")
    wf.on("motion")
    wf.wait("parts", on=on, mode=mode, patch=lambda event: {"last": event.payload["n"], event.type: True})
    rt = await stores.enter(wf, **window)
    run_id = await begin(rt)
    for n, kind in enumerate("cab"):
        await rt.emit(kind, n=n)
    result = await rt.wait(run_id)
    assert dict(result.state) == {"motion": "M", "last": 2, "a": True, "b": True, "c": True}


async def test_a_restart_between_two_votes(stores):
    """The votes are in the store: another process goes on counting where the first one was."""
    rt = await stores.enter(board())
    run_id = await begin(rt)
    await rt.emit("vote", motion="M", member="a", yes=True)
    await stores.crash(rt)
    rt = await stores.enter(board())
    assert await have(rt, run_id) == (1, 2)
    assert await said(rt, "vote", motion="M", member="a", yes=True) == ["rejected wait votes: member 'a' has answered"]
    assert await said(rt, "vote", motion="M", member="b", yes=True) == ["resumed wait votes: 2 of 2"]
    assert (await rt.wait(run_id)).state["passed"] is True


@WINDOWS
async def test_votes_before_the_pause_count(stores, window):
    """What is buffered before the run is paused there counts; if that is enough, it never pauses."""
    hold = asyncio.Event()
    wf = Workflow("board")
    wf.on("motion")

    @wf.step
    async def prepare():
        await hold.wait()

    wf.wait("votes", on="vote", mode=2, distinct="member", collect="votes", correlate={"motion": StateRef("motion")})
    rt = await stores.enter(wf, **window)
    [run_id] = (await rt.emit("motion", motion="M")).run_ids
    await run_until_idle(stores.clock)
    assert await said(rt, "vote", motion="M", member="a") == ["buffered wait votes: 1 of 2"]
    assert await said(rt, "vote", motion="M", member="a") == ["rejected wait votes: member 'a' has answered"]
    assert await said(rt, "vote", motion="M", member="b") == ["buffered wait votes: 2 of 2"]
    assert await said(rt, "vote", motion="M", member="c") == ["buffered wait votes"]
    hold.set()
    result = await rt.wait(run_id)
    assert [vote["member"] for vote in result.state["votes"]] == ["a", "b"]


@WINDOWS
async def test_an_answer_by_hand_answers_the_whole_wait(stores, window):
    """What came so far is collected, unless the patch says what is to be there; nothing stays for the next question."""
    rt = await stores.enter(board(3), **window)
    run_id = await begin(rt)
    await rt.emit("vote", motion="M", member="a", yes=True)
    result = await rt.resume(run_id)
    assert result.status is RunStatus.COMPLETED
    assert [vote["member"] for vote in result.state["votes"]] == ["a"]
    other = await begin(rt, "N")
    await rt.emit("vote", motion="N", member="a", yes=True)
    with pytest.raises(AnswerInvalid) as error:
        await rt.resume(other, {"votes": [{"member": "x"}]})
    assert (error.value.path, "votes.0.yes: Field required" in str(error.value)) == ("patch.votes.0.yes", True)
    assert await have(rt, other) == (1, 3)
    result = await rt.resume(other, {"votes": [{"member": "x", "yes": False}]})
    assert (result.state["votes"], result.state["passed"]) == ([{"member": "x", "yes": False}], False)
    assert "wait:expired" not in (await rt.timeline(other)).types()


@WINDOWS
async def test_an_answer_by_hand_without_collect(stores, window):
    """The answer stands for the whole: only its patch is merged, and the parts are gone."""
    wf = Workflow("board")
    wf.on("motion")
    wf.wait("votes", on="vote", mode=2)
    rt = await stores.enter(wf, **window)
    run_id = await begin(rt)
    await rt.emit("vote", n=1)
    result = await rt.resume(run_id, {"by": "chair"})
    assert (result.status, dict(result.state)) == (RunStatus.COMPLETED, {"motion": "M", "by": "chair"})


@WINDOWS
async def test_each_part_is_judged_alone(stores, window):
    """A payload that the state's model does not take is refused as it comes, not the whole at the end."""
    rt = await stores.enter(board(state=Board, form=None, distinct=None), **window)
    run_id = await begin(rt)
    [line] = await said(rt, "vote", motion="M", member=3, yes=True)
    assert line.startswith("rejected wait votes: STATE_INVALID")
    assert await have(rt, run_id) == (0, 2)
    assert await said(rt, "vote", motion="M", member="a", yes=True) == ["buffered wait votes: 1 of 2"]
    [line] = await said(rt, "vote", motion="M", member="b", yes="perhaps")
    assert line.startswith("rejected wait votes: STATE_INVALID")
    assert await said(rt, "vote", motion="M", member="b", yes=True) == ["resumed wait votes: 2 of 2"]
    assert (await rt.wait(run_id)).status is RunStatus.COMPLETED


@WINDOWS
async def test_a_rule_for_the_whole_list(stores, window):
    """An earlier part is not blamed for a list that is too short yet; the last one is, if the whole does not fit."""

    class Strict(BaseModel):
        motion: str
        votes: Annotated[list[int], Field(min_length=2)] | None = None

    wf = Workflow("board", state=Strict)
    wf.on("motion")
    wf.wait("votes", on="vote", mode=2, collect="votes")
    rt = await stores.enter(wf, **window)
    run_id = await begin(rt)
    assert await said(rt, Event("vote", 1)) == ["buffered wait votes: 1 of 2"]
    [line] = await said(rt, Event("vote", "x"))
    assert line.startswith("rejected wait votes: STATE_INVALID")
    assert await said(rt, Event("vote", 2)) == ["resumed wait votes: 2 of 2"]
    assert (await rt.wait(run_id)).state.votes == [1, 2]


@WINDOWS
async def test_a_part_whose_patch_function_raises(stores, window):
    """It is refused at the emit; one that was buffered before is refused when it is used, and the run waits on."""
    hold = asyncio.Event()

    def patch(event):
        if event.payload.get("bad"):
            raise ValueError("bad")
        return {f"got_{event.payload['n']}": True}

    wf = Workflow("board")
    wf.on("motion")

    @wf.step
    async def prepare():
        await hold.wait()

    wf.wait("parts", on="part", mode=2, patch=patch)
    rt = await stores.enter(wf, **window)
    [run_id] = (await rt.emit("motion", motion="M")).run_ids
    await run_until_idle(stores.clock)
    await rt.emit("part", n=1)
    assert await said(rt, "part", n=2, bad=True) == ["buffered wait parts: 2 of 2"]  # judged when it is used
    hold.set()
    await rt.wait(run_id, until="rest")
    assert await have(rt, run_id) == (1, 2)
    [line] = await said(rt, "part", n=3, bad=True)
    assert line.startswith("rejected wait parts: ")
    assert await said(rt, "part", n=4) == ["resumed wait parts: 2 of 2"]
    assert dict((await rt.wait(run_id)).state) == {"motion": "M", "got_1": True, "got_4": True}
    assert (await rt.timeline(run_id)).types().count("wait:refused") == 1


@WINDOWS
async def test_a_timeout_keeps_the_votes(stores, window):
    """A timeout does not close the question: the run asks again, and the votes that came still count."""
    wf = Workflow("board")
    wf.on("motion")
    wf.wait("votes", on="vote", mode=2, distinct="member", collect="votes", timeout="1h", on_timeout="remind")

    @wf.step
    def end(votes: list):
        return {"count": len(votes)}

    @wf.aside(then="votes")
    def remind(ctx):
        return {"reminded": ctx.state.get("reminded", 0) + 1}

    rt = await stores.enter(wf, **window)
    run_id = await begin(rt)
    token = (await rt.get_run(run_id)).waits[0].token
    await rt.emit("vote", member="a")
    await stores.clock.run_for(hours=2.5)
    waiting = await rt.get_run(run_id, state=True)
    assert (waiting.state["reminded"], waiting.waits[0].token) == (2, token)
    assert await have(rt, run_id) == (1, 2)
    assert await said(rt, "vote", member="a") == ["rejected wait votes: member 'a' has answered"]
    assert await said(rt, "vote", member="b") == ["resumed wait votes: 2 of 2"]
    assert (await rt.wait(run_id)).state["count"] == 2


def timed(on_timeout, state=None, mode=2, slots=None, busy=None):
    """A run that waits an hour for two events, and says what it has then."""
    wf = Workflow("board", state=state, mode=slots)
    wf.on("motion")

    @wf.step
    async def work(motion):
        if motion == "busy":
            await busy.wait()

    two = {"on": ["a", "b"], "mode": "all"} if mode == "all" else {"on": "vote", "mode": 2}
    wf.wait("votes", **two, collect="votes", timeout="1h", on_timeout=on_timeout)
    wf.step(id="end", then=None)(lambda: None)
    wf.aside(id="late", then=None)(lambda: {"passed": False})
    return wf


@WINDOWS
@pytest.mark.parametrize("on_timeout", ["resume", "late"])
@pytest.mark.parametrize("mode", [2, "all"])
@pytest.mark.parametrize("some", [True, False], ids=["one", "none"])
async def test_what_came_until_the_timeout_is_collected(stores, window, on_timeout, mode, some):
    """A run that goes on because the time is over finds in its state what came until then, if that is nothing too."""
    rt = await stores.enter(timed(on_timeout, mode=mode), **window)
    run_id = await begin(rt)
    if some:
        await rt.emit("a" if mode == "all" else "vote", n=1)
    await stores.clock.run_for(hours=1)
    result = await rt.wait(run_id)
    assert (result.status, list(result.state["votes"])) == (RunStatus.COMPLETED, [{"n": 1}] if some else [])
    timeline = await rt.timeline(run_id)
    assert timeline.state_at(len(timeline)) == result.state


@pytest.mark.parametrize("restart", [True, False])
async def test_what_comes_after_the_timeout_is_not_collected(stores, restart):
    """A run that waits for its slot when its time is over has what was there by then, and nothing later."""
    busy = asyncio.Event()

    def made():
        return timed("resume", slots=Transient(1, holds_slot_while_paused=False), busy=busy)

    rt = await stores.enter(made())
    run_id = await begin(rt)
    await rt.emit("motion", motion="busy")
    await rt.emit("vote", n=1)
    await stores.clock.run_for(hours=2)
    assert (await rt.get_run(run_id)).status is RunStatus.READY
    await rt.emit("vote", n=2)
    if restart:
        await stores.crash(rt)
        rt = await stores.enter(made())
    busy.set()
    await run_until_idle(stores.clock)
    info = await rt.get_run(run_id, state=True)
    assert (info.status, list(info.state["votes"])) == (RunStatus.COMPLETED, [{"n": 1}])


async def test_a_list_that_is_too_short_at_the_timeout(stores):
    """Where the model does not take what came, the run goes on without it, and its timeline says so."""

    class Strict(BaseModel):
        motion: str
        votes: Annotated[list[dict], Field(min_length=2)] | None = None
        passed: bool | None = None

    rt = await stores.enter(timed("late", state=Strict))
    run_id = await begin(rt)
    await rt.emit("vote", n=1)
    await stores.clock.run_for(hours=1)
    result = await rt.wait(run_id)
    assert (result.status, result.state.votes, result.state.passed) == (RunStatus.COMPLETED, None, False)
    assert (await rt.timeline(run_id)).types().count("state:refused") == 1


@WINDOWS
async def test_votes_of_the_next_round(stores, window):
    """What comes while the round is evaluated counts for the next one, under the rules of the wait."""
    wf = Workflow("board")
    wf.on("motion")
    wf.wait("votes", on="vote", mode=2, distinct="member", collect="votes")
    hold, entered = asyncio.Event(), asyncio.Event()

    @wf.step
    async def count(ctx):
        entered.set()
        await hold.wait()
        rounds = ctx.state.get("rounds", 0) + 1
        return {"rounds": rounds}

    wf.route(after="count")(lambda state: "votes" if state["rounds"] < 2 else None)
    rt = await stores.enter(wf, **window)
    run_id = await begin(rt)
    for member in "ab":
        await rt.emit("vote", member=member, n=1)
    await entered.wait()
    await run_until_idle(stores.clock)
    hold.set()
    await rt.wait(run_id, until="rest")
    assert await said(rt, "vote", member="a", n=2) == ["buffered wait votes: 1 of 2"]
    assert await said(rt, "vote", member="b", n=2) == ["resumed wait votes: 2 of 2"]
    assert [vote["n"] for vote in (await rt.wait(run_id)).state["votes"]] == [2, 2]


@WINDOWS
@pytest.mark.parametrize("overflow", ["drop_oldest", "reject"])
async def test_votes_while_the_run_waits_for_its_slot(stores, window, overflow):
    """They count for the next question: none pushes out one of those that answered, or is counted with them."""
    busy = asyncio.Event()
    wf = Workflow("board", mode=Transient(1, holds_slot_while_paused=False))
    wf.on("motion")

    @wf.step
    async def work(ctx):
        if ctx.state["motion"] == "busy":
            await busy.wait()

    options = {"distinct": "member", "collect": "votes", "limit": 2, "overflow": overflow}
    wf.wait("votes", on="vote", mode=2, correlate={"motion": StateRef("motion")}, **options)

    @wf.step
    def count(ctx):
        return {"rounds": [*ctx.state.get("rounds", []), [vote["n"] for vote in ctx.state["votes"]]]}

    wf.route(after="count")(lambda state: "votes" if len(state["rounds"]) < 2 else None)
    rt = await stores.enter(wf, **window)
    run_id = await begin(rt)
    await rt.emit("motion", motion="busy")
    await run_until_idle(stores.clock)
    lines = []
    for n, member in enumerate("ababc"):
        lines += await said(rt, "vote", motion="M", member=member, n=n)
        if n == 1:
            assert await have(rt, run_id) == (2, 2)
    last = {"drop_oldest": "buffered wait votes: 2 of 2, the oldest of 2 was dropped"}
    assert lines == [
        "buffered wait votes: 1 of 2",
        "resumed waits for a slot",
        "buffered wait votes: 1 of 2",
        "buffered wait votes: 2 of 2",
        last.get(overflow, "rejected wait votes: its buffer is full (2)"),
    ]
    busy.set()
    await run_until_idle(stores.clock)
    rounds = (await rt.get_run(run_id, state=True)).state["rounds"]
    assert [*map(list, rounds)] == [[0, 1], [3, 4] if overflow == "drop_oldest" else [2, 3]]


@pytest.mark.parametrize("more", [True, False])
async def test_an_answer_that_loses_a_part(stores, more):
    """A run that cannot use one of the votes asks on: the others count again, and so do those that came meanwhile."""

    def patch(event):
        if event.payload.get("bad"):
            raise ValueError("bad")
        return {f"got_{event.payload['n']}": True}

    def parts():
        wf = Workflow("board")
        wf.on("motion")
        wf.wait("parts", on="part", mode=2, patch=patch)
        return wf

    rt = await stores.enter(parts())
    run_id = await begin(rt)
    await stores.crash(rt)
    rt = await stores.enter()
    assert await said(rt, "part", n=1) == ["buffered wait parts: 1 of 2"]
    assert await said(rt, "part", n=2, bad=True) == ["resumed waits for a slot"]
    if more:
        assert await said(rt, "part", n=3) == ["buffered wait parts: 1 of 2"]
    await stores.crash(rt)
    rt = await stores.enter(parts())
    await run_until_idle(stores.clock)
    if not more:
        assert (await rt.get_run(run_id)).status is RunStatus.PAUSED
        assert await have(rt, run_id) == (1, 2)
        assert await said(rt, "part", n=3) == ["resumed wait parts: 2 of 2"]
    await run_until_idle(stores.clock)
    info = await rt.get_run(run_id, state=True)
    assert (info.status, dict(info.state)) == (RunStatus.COMPLETED, {"motion": "M", "got_1": True, "got_3": True})


@pytest.mark.parametrize("first", ["a", "b"])
async def test_two_last_votes_at_the_same_time(stores, first):
    """Exactly one of two votes is the last one; the other one is buffered, in either order of their commits."""
    rt = await stores.enter(board(distinct=None))
    run_id = await begin(rt)
    await rt.emit("vote", motion="M", member="z", yes=True)
    rt.store.hold = lambda changes: bool(changes.deliveries)
    both = [asyncio.create_task(said(rt, "vote", motion="M", member=member, yes=True)) for member in "ab"]
    held = await rt.store.until_held(2)
    rt.store.hold = None
    mine = [each for each in held if each.changes.events[0].event.payload["member"] == first]
    for each in [*mine, *[other for other in held if other not in mine]]:
        each.release()
        await run_until_idle(stores.clock)
    lines = [line for lines in await asyncio.gather(*both) for line in lines]
    assert sorted(line.split()[0] for line in lines) in (["buffered", "resumed"], ["filtered", "resumed"])
    result = await rt.wait(run_id)
    assert [vote["member"] for vote in result.state["votes"]] == ["z", first]


@pytest.mark.parametrize("first", ["vote", "answer"])
async def test_the_last_vote_against_an_answer_by_hand(stores, first):
    """One of them answers: the other is told, and nothing is counted twice."""
    rt = await stores.enter(board())
    run_id = await begin(rt)
    await rt.emit("vote", motion="M", member="a", yes=True)
    rt.store.hold = lambda changes: bool(changes.deliveries or changes.posts)
    voting = asyncio.create_task(said(rt, "vote", motion="M", member="b", yes=False))
    await rt.store.until_held(1)
    answering = asyncio.create_task(rt.resume(run_id))
    held = await rt.store.until_held(2)
    rt.store.hold = None
    for each in held if first == "vote" else reversed(held):
        each.release()
        await run_until_idle(stores.clock)
    outcomes = await asyncio.gather(voting, answering, return_exceptions=True)
    result = await rt.wait(run_id)
    if first == "vote":
        assert outcomes[0] == ["resumed wait votes: 2 of 2"]
        assert getattr(outcomes[1], "code", None) in ("NOT_PAUSED", "STALE_RESUME", "RUN_FINISHED")
        assert [vote["member"] for vote in result.state["votes"]] == ["a", "b"]
    else:
        assert [vote["member"] for vote in outcomes[1].state["votes"]] == ["a"]
        assert outcomes[0][0].split()[0] in ("buffered", "filtered", "unmatched")


@WINDOWS
@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_crash_at_any_commit_of_a_vote(stores, where, window):
    """Whichever commit the process dies at, each accepted vote counts once, and the run ends the same."""
    number = 0
    while True:
        number += 1
        motion = f"M{number}"
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(board(), store=store, **window)

        async def work(rt=rt, motion=motion):
            await rt.emit(Event("motion", {"motion": motion}, id=f"{motion}-motion"))
            await run_until_idle(stores.clock)
            for member in "aab":
                await rt.emit(Event("vote", {"motion": motion, "member": member, "yes": True}, id=f"{motion}-{member}"))
                await run_until_idle(stores.clock)

        over = await until_crash(store, work())
        await stores.crash(rt)
        rt = await stores.enter(board(), **window)
        await run_until_idle(stores.clock)
        await work(rt)  # the sender repeats what it has no receipt for
        [run_id] = [run.run_id for run in (await rt.find_runs(limit=500)).items][:1]
        result = await rt.wait(run_id)
        assert result.state["motion"] == motion
        assert [vote["member"] for vote in result.state["votes"]] == ["a", "b"], number
        await rt.stop()
        if over:
            assert number > 4
            return


async def test_a_flow_waits_for_several(stores):
    """The same options in a flow."""
    flowing = flow("flowing").on("begin").wait("both", on=["a", "b"], mode="all", collect="got").build()
    rt = await stores.enter(flowing)
    receipt = await rt.emit("begin")
    await run_until_idle(stores.clock)
    assert await said(rt, "a", n=1) == ["buffered wait both: 1 of 2"]
    assert await said(rt, "b", n=2) == ["resumed wait both: 2 of 2"]
    assert (await rt.wait(receipt.run_ids[0])).state["got"] == [{"n": 1}, {"n": 2}]


FAULTS = [
    ({"mode": 0}, "mode: 0 is not 'any', 'all' or a number of events"),
    ({"mode": True}, "mode: True is not"),
    ({"mode": "most"}, "mode: 'most' is not"),
    ({"mode": 3, "limit": 2}, "mode: it takes 3 events, and the buffer has room for 2"),
    ({"mode": "all", "on": ["a", "b"], "limit": 1}, "mode: it takes 2 events"),
    ({"mode": 2, "on": {"a": "end"}}, "mode: several events cannot lead to different stages"),
    ({"mode": "all", "on": {"a": "end"}}, "mode: several events cannot lead to different stages"),
    ({"distinct": "member"}, "distinct: only a number of events"),
    ({"mode": 2, "distinct": ""}, "distinct: '' is not a path"),
    ({"collect": "a.b"}, "collect: 'a.b' is not a key of the state"),
    ({"collect": "votes", "patch": {}}, "collect: it keeps the payloads"),
    ({"limit": 0}, "limit: 0 is not a number of events"),
    ({"limit": 10_001}, "limit: 10001 is not a number of events from 1 to 10,000"),
    ({"ttl": "soon"}, "ttl: "),
    ({"overflow": "grow"}, "overflow: 'grow' is not one of drop_oldest"),
    ({"form": 3}, "form: 3 is neither a pydantic model nor a JSON schema"),
]


@pytest.mark.parametrize(("options", "text"), FAULTS, ids=[str(options) for options, _ in FAULTS])
async def test_faults_of_such_waits(stores, options, text):
    """Each is found at registration, and says what to do."""
    wf = Workflow("board")
    wf.on("motion")
    wf.wait("votes", **{"on": "vote", **options})
    wf.step(id="end")(lambda: None)
    with pytest.raises(InvalidDefinition) as error:
        await stores.enter(wf)
    assert text in str(error.value)


async def test_a_key_that_the_model_lacks(stores):
    """Payloads cannot be collected where the state has no field; the fault names near matches."""
    with pytest.raises(InvalidDefinition, match=r"'vote' is not a field of the state: .*votes"):
        await stores.enter(board(state=Board, collect="vote"))


async def test_a_router_cannot_bring_a_model(stores):
    """A process that has only the run's row could not check it: so it has to be a schema, and the error says so."""
    wf = Workflow("board")
    wf.on("motion")

    @wf.step
    def first():
        return Pause(Wait("vote", form=Vote, id="votes"))

    rt = await stores.enter(wf)
    [result] = await (await rt.emit("motion")).results()
    assert "Model.model_json_schema()" in result.error.message


async def test_votes_where_the_workflow_is_unknown(stores):
    """A process that only has the store counts votes too; what does not fit is refused once the workflow is there."""
    rt = await stores.enter(board(3))
    run_id = await begin(rt)
    await stores.crash(rt)
    rt = await stores.enter()
    assert await said(rt, "vote", motion="M", member="a", yes=True) == ["buffered wait votes: 1 of 3"]
    assert await said(rt, "vote", motion="M", member="a", yes=True) == ["rejected wait votes: member 'a' has answered"]
    assert (await rt.resume(run_id, {"votes": [{"member": "x"}]})).status is RunStatus.READY
    await rt.stop()
    rt = await stores.enter(board(3))
    await run_until_idle(stores.clock)
    assert await have(rt, run_id) == (1, 3)
    assert (await rt.timeline(run_id)).types().count("wait:refused") == 1


async def test_a_deregistered_workflow_keeps_its_votes(stores):
    """Paused runs and what they have buffered stay as they are, and go on when the workflow is there again."""
    rt = await stores.enter(board())
    run_id = await begin(rt)
    await rt.emit("vote", motion="M", member="a", yes=True)
    await rt.deregister("board")
    assert await have(rt, run_id) == (1, 2)
    await rt.register(board())
    assert await said(rt, "vote", motion="M", member="b", yes=True) == ["resumed wait votes: 2 of 2"]
    assert (await rt.wait(run_id)).state["passed"] is True


async def test_an_abort_ends_the_votes(stores):
    """The parts that came are recorded with the end of the run; a vote after it finds nobody."""
    rt = await stores.enter(board())
    run_id = await begin(rt)
    await rt.emit("vote", motion="M", member="a", yes=True)
    await rt.abort(run_id)
    assert (await rt.timeline(run_id)).types().count("wait:expired") == 1
    assert await said(rt, "vote", motion="M", member="b", yes=True) == ["unmatched "]
    counts = await rt.store.stats()
    assert counts.get("waits", 0) == 0


@pytest.mark.parametrize("first", ["abort", "vote"])
async def test_an_abort_against_the_last_vote(stores, first):
    """The abort is never defeated, in either order of the commits."""
    rt = await stores.enter(board())
    run_id = await begin(rt)
    await rt.emit("vote", motion="M", member="a", yes=True)
    rt.store.hold = lambda changes: bool(changes.deliveries or changes.moves or changes.posts)
    voting = asyncio.create_task(said(rt, "vote", motion="M", member="b", yes=True))
    await rt.store.until_held(1)
    aborting = asyncio.create_task(rt.abort(run_id))
    held = await rt.store.until_held(2)
    rt.store.hold = None
    for each in held if first == "vote" else reversed(held):
        each.release()
        await run_until_idle(stores.clock)
    [line] = await voting
    status = RunStatus.ABORTED
    try:
        await aborting
    except RunFinished:
        status = RunStatus.COMPLETED  # it had ended before
    assert (await rt.get_run(run_id)).status is status
    assert line.split()[0] == ("resumed" if first == "vote" else "filtered")
    assert first == "vote" or status is RunStatus.ABORTED
