"""The events that a run buffers: how many, for how long, and what is said of those that are dropped."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from support import until_crash

from poundlock import Event, RunStatus, StateRef, Transient, Use, Wait, Workflow
from poundlock.testing import run_until_idle

WINDOWS = pytest.mark.parametrize("window", [{}, {"pause_window": 0}], ids=["warm", "cold"])


async def said(rt, *args, **fields):
    """Return verdict and reason of each line."""
    return [f"{line.verdict} {line.reason}" for line in (await rt.emit(*args, **fields)).lines]


def working(hold, **wait):
    """A run that works until `hold` is set, and then waits for "go"."""
    wf = Workflow("wf")
    wf.on("begin")

    @wf.step
    async def work():
        await hold.wait()

    wf.wait("gate", on="go", **wait)
    wf.step(id="end")(lambda: None)
    return wf


def two_gates(**wait):
    """A run that waits for "first", and meanwhile buffers "go" for its second wait."""
    wf = Workflow("wf")
    wf.on("begin")
    wf.wait("one", on="first")
    wf.wait("gate", on="go", **wait)
    wf.step(id="end")(lambda: None)
    return wf


async def begin(rt, clock):
    [run_id] = (await rt.emit("begin")).run_ids
    await run_until_idle(clock)
    return run_id


async def entries(rt, run_id, kind):
    return [entry.payload for entry in (await rt.timeline(run_id)).entries if entry.type == kind]


OVERFLOWS = {
    "drop_newest": ("dropped wait gate: its buffer is full (2)", 1),
    "reject": ("rejected wait gate: its buffer is full (2)", 1),
    "drop_oldest": ("buffered wait gate, the oldest of 2 was dropped", 2),
}


@WINDOWS
@pytest.mark.parametrize("overflow", OVERFLOWS)
async def test_more_than_the_limit_while_paused_elsewhere(stores, window, overflow):
    """What is too much is told to its sender; the run goes on with what was kept, and its timeline says the rest."""
    line, first = OVERFLOWS[overflow]
    rt = await stores.enter(two_gates(limit=2, overflow=overflow, mode=2, collect="got"), **window)
    run_id = await begin(rt, stores.clock)
    assert await said(rt, "go", n=1) == ["buffered wait gate: 1 of 2"]
    assert await said(rt, "go", n=2) == ["buffered wait gate: 2 of 2"]
    [told] = await said(rt, "go", n=3)
    assert told in (line, line.replace("gate, the", "gate: 2 of 2, the"))
    assert len(await rt.store.inbox(run_id, 0)) == 2
    await rt.emit("first")
    result = await rt.wait(run_id)
    assert [each["n"] for each in result.state["got"]] == [first, first + 1]
    dropped = await entries(rt, run_id, "wait:dropped")
    if overflow == "drop_oldest":
        assert dropped == [{"wait": "gate", "events": 1, "reason": "while the run was not running"}]
    else:
        assert dropped == []


@WINDOWS
@pytest.mark.parametrize("overflow", OVERFLOWS)
async def test_more_than_the_limit_while_running(stores, window, overflow):
    """A run that works drops for itself, at its next boundary, so that it never uses what was said to be dropped."""
    line, first = OVERFLOWS[overflow]
    hold = asyncio.Event()
    rt = await stores.enter(working(hold, limit=2, overflow=overflow), **window)
    run_id = await begin(rt, stores.clock)
    assert [await said(rt, Event("go", {"n": n}, id=f"e{n}")) for n in (1, 2, 3)] == [
        ["buffered wait gate"],
        ["buffered wait gate"],
        [line],
    ]
    hold.set()
    result = await rt.wait(run_id)
    assert result.state["n"] == first
    dropped = await entries(rt, run_id, "wait:dropped")
    if overflow == "drop_oldest":
        assert [each["event"]["id"] for each in dropped] == ["e1"]
        assert dropped[0]["reason"] == "more than 2"
    assert [each["event"]["id"] for each in await entries(rt, run_id, "wait:expired")] == [f"e{first + 1}"]


@WINDOWS
@pytest.mark.parametrize("order", ["abca", "abcb", "abcabcabcabc"])
@pytest.mark.parametrize("where", ["running", "paused elsewhere"])
async def test_different_values_where_the_oldest_is_dropped(stores, window, order, where):
    """A value may come again once its first event was dropped: the receipts and the run itself say the same."""
    hold = asyncio.Event()
    options = {"mode": 2, "distinct": "who", "collect": "got", "limit": 2}
    wf = working(hold, **options) if where == "running" else two_gates(**options)
    rt = await stores.enter(wf, **window)
    run_id = await begin(rt, stores.clock)
    counted = []
    for who in order:
        [line] = await said(rt, "go", who=who)
        if who in counted:
            assert line == f"rejected wait gate: who '{who}' has answered"
            continue
        late = ", the oldest of 2 was dropped" if len(counted) == 2 else ""
        counted = [*counted[-1:], who]
        assert line == f"buffered wait gate: {len(counted)} of 2{late}"
    hold.set()
    if where == "paused elsewhere":
        await rt.emit("first")
    result = await rt.wait(run_id)
    assert [each["who"] for each in result.state["got"]] == counted


@WINDOWS
async def test_a_value_that_comes_again_when_its_first_is_too_old(stores, window):
    """What was too old when the value came again does not stand in its way, also in the eyes of the run."""
    hold = asyncio.Event()
    rt = await stores.enter(working(hold, mode=2, distinct="who", collect="got", ttl="1m"), **window)
    run_id = await begin(rt, stores.clock)
    await rt.emit("go", who="a", n=1)
    await stores.clock.run_for(seconds=60)
    assert await said(rt, "go", who="a", n=2) == ["buffered wait gate: 1 of 2"]
    assert await said(rt, "go", who="b", n=3) == ["buffered wait gate: 2 of 2"]
    hold.set()
    result = await rt.wait(run_id)
    assert [each["n"] for each in result.state["got"]] == [2, 3]


@pytest.mark.parametrize("overflow", ["drop_newest", "reject"])
async def test_a_refused_event_can_be_sent_again(stores, overflow):
    """What found no room is not remembered: once there is room, the same event is taken."""
    rt = await stores.enter(two_gates(limit=1, overflow=overflow))
    await begin(rt, stores.clock)
    await rt.emit("go", n=1)
    event = Event("go", {"n": 2})
    for _ in range(2):
        [line] = await said(rt, event)
        assert line.endswith("its buffer is full (1)")
    await rt.emit("first")
    await run_until_idle(stores.clock)
    await begin(rt, stores.clock)  # another run, with room
    assert await said(rt, event) == ["buffered wait gate"]


@WINDOWS
async def test_too_old_while_paused_elsewhere(stores, window):
    """An event that waits longer than its time counts no more: it makes room, and the timeline says that it expired."""
    rt = await stores.enter(two_gates(limit=1, ttl="1m", overflow="reject"), **window)
    run_id = await begin(rt, stores.clock)
    await rt.emit("go", n=1)
    await stores.clock.run_for(seconds=59)
    assert await said(rt, "go", n=2) == ["rejected wait gate: its buffer is full (1)"]
    await stores.clock.run_for(seconds=1)
    assert await said(rt, "go", n=3) == ["buffered wait gate"]
    assert len(await rt.store.inbox(run_id, 0)) == 1
    await rt.emit("first")
    assert (await rt.wait(run_id)).state["n"] == 3
    [expired] = await entries(rt, run_id, "wait:expired")
    assert expired == {"wait": "gate", "events": 1, "reason": "while the run was not running"}


@WINDOWS
async def test_too_old_when_the_run_gets_there(stores, window):
    """A run pauses rather than go on with an event whose time is over."""
    rt = await stores.enter(two_gates(ttl="1m"), **window)
    run_id = await begin(rt, stores.clock)
    await rt.emit(Event("go", {"n": 1}, id="old"))
    await stores.clock.run_for(minutes=2)
    await rt.emit("first")
    await rt.wait(run_id, until="rest")
    info = await rt.get_run(run_id)
    assert (info.status, info.waits[0].id) == (RunStatus.PAUSED, "gate")
    [expired] = await entries(rt, run_id, "wait:expired")
    assert (expired["event"]["id"], expired["reason"]) == ("old", "too old")
    assert await said(rt, "go", n=2) == ["resumed wait gate"]
    assert (await rt.wait(run_id)).state["n"] == 2


@WINDOWS
async def test_a_vote_that_is_too_old(stores, window):
    """Its time lowers the tally: the member may vote again, and it takes as many votes as before."""
    wf = Workflow("wf")
    wf.on("begin")
    wf.wait("votes", on="vote", mode=2, distinct="member", collect="votes", ttl="1h")
    rt = await stores.enter(wf, **window)
    run_id = await begin(rt, stores.clock)
    await rt.emit("vote", member="a")
    await stores.clock.run_for(hours=1)
    assert await said(rt, "vote", member="b") == ["buffered wait votes: 1 of 2"]
    assert await said(rt, "vote", member="b") == ["rejected wait votes: member 'b' has answered"]
    assert await said(rt, "vote", member="a") == ["resumed wait votes: 2 of 2"]
    assert [vote["member"] for vote in (await rt.wait(run_id)).state["votes"]] == ["b", "a"]


IN_TIME = {
    "any": ({}, ["go"]),
    "n": ({"mode": 2, "collect": "got"}, ["go", "go"]),
    "all": ({"mode": "all", "on": ["go", "come"], "collect": "got"}, ["go", "come"]),
}


def asking(busy, load=None, **wait):
    """A run that is paused at its wait without its slot; one that is `busy` works, and keeps the slot."""
    wf = Workflow("wf", mode=load)
    wf.on("begin")

    @wf.step
    async def work(ctx):
        if ctx.state.get("busy"):
            await busy.wait()

    wf.wait("gate", **{"on": "go", "ttl": "1m", **wait})
    wf.step(id="end")(lambda: None)
    return wf


@WINDOWS
@pytest.mark.parametrize("restart", [False, True], ids=["kept", "restarted"])
@pytest.mark.parametrize("mode", IN_TIME)
async def test_a_slot_that_comes_later_than_the_time_of_an_event(stores, window, mode, restart):
    """What was in time when it completed the answer stays it, however long the run has to wait until it goes on."""
    wait, kinds = IN_TIME[mode]
    busy = asyncio.Event()

    def made():
        return asking(busy, Transient(1, holds_slot_while_paused=False), **wait)

    rt = await stores.enter(made(), **window)
    run_id = await begin(rt, stores.clock)
    await rt.emit("begin", busy=True)
    await run_until_idle(stores.clock)
    for n, kind in enumerate(kinds):
        await stores.clock.run_for(seconds=30 * n)
        [line] = [line for line in (await rt.emit(kind, n=n)).lines if line.run_id == run_id]
    assert (line.verdict, line.reason) == ("resumed", "waits for a slot")
    await stores.clock.run_for(hours=2)
    if restart:
        await stores.crash(rt)
        rt = await stores.enter(made(), **window)
    assert (await rt.get_run(run_id)).status is RunStatus.READY
    busy.set()
    await run_until_idle(stores.clock)
    info = await rt.get_run(run_id, state=True)
    assert info.status is RunStatus.COMPLETED
    came = [{"n": n} for n in range(len(kinds))]
    assert [{"n": info.state["n"]}] == came if mode == "any" else list(info.state["got"]) == came
    assert await entries(rt, run_id, "wait:expired") == []


@pytest.mark.parametrize("mode", IN_TIME)
async def test_a_workflow_that_comes_later_than_the_time_of_an_event(stores, mode):
    """The same where the event came to a process that only has the store: the workflow is registered hours later."""
    wait, kinds = IN_TIME[mode]
    rt = await stores.enter(asking(None, **wait))
    run_id = await begin(rt, stores.clock)
    await stores.crash(rt)
    rt = await stores.enter()
    for kind in kinds:
        [line] = (await rt.emit(kind, n=1)).lines
    assert line.verdict == "resumed"
    await stores.clock.run_for(hours=2)
    await stores.crash(rt)
    rt = await stores.enter(asking(None, **wait))
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status is RunStatus.COMPLETED
    assert await entries(rt, run_id, "wait:expired") == []


@WINDOWS
async def test_what_came_while_an_operator_had_paused_the_run_grows_old(stores, window):
    """Nobody was told that it resumes the run: it is too old when the run looks at it."""
    rt = await stores.enter(asking(None), **window)
    run_id = await begin(rt, stores.clock)
    await rt.pause(run_id)
    assert (await said(rt, "go", n=1))[0].startswith("buffered")
    await stores.clock.run_for(hours=1)
    await rt.unpause(run_id)
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status is RunStatus.PAUSED
    assert await said(rt, "go", n=2) == ["resumed wait gate"]
    assert (await rt.wait(run_id)).state["n"] == 2


@pytest.mark.parametrize("where", ["running", "paused elsewhere"])
async def test_ten_thousand_events(stores, where):
    """A burst costs each event the same, however many came before it: the row and the inbox stay small."""
    hold = asyncio.Event()
    many = 10_000 if stores.kind == "memory" else 2_000
    rt = await stores.enter(working(hold) if where == "running" else two_gates())
    run_id = await begin(rt, stores.clock)
    for start in range(0, many, 500):
        await asyncio.gather(*(rt.emit("go", n=n) for n in range(start, start + 500)))
    record = await rt.store.load(run_id)
    inbox = await rt.store.inbox(run_id, 0)
    if where == "running":
        [row] = record.waits
        assert (len(row.tally.parts), len(inbox)) == (100, many)
        hold.set()
        result = await rt.wait(run_id)
        assert result.state["n"] == many - 100
        assert len(await entries(rt, run_id, "wait:dropped")) == many - 100
    else:
        row = next(row for row in record.waits if row.wait_id == "gate")
        assert (len(row.tally.parts), len(inbox), row.tally.dropped) == (100, 100, many - 100)
        await rt.emit("first")
        assert (await rt.wait(run_id)).state["n"] == many - 100


async def registering(rt_stores, hold, **options):
    wf = Workflow("wf")
    wf.on("begin")

    @wf.step
    async def announce(pauses: Annotated[object, Use("__pause_service__")]):
        await pauses.register(Wait("note", correlate={"id": StateRef("id")}, id="notes", **options))
        return {"known": True}

    @wf.step
    async def work():
        await hold.wait()

    @wf.step
    async def look(pauses: Annotated[object, Use("__pause_service__")]):
        [info] = [info for info in await pauses.list() if info.id == "notes"]
        await pauses.cancel("notes")
        return {"have": info.need}

    rt = await rt_stores.enter(wf)
    [run_id] = (await rt.emit("begin", id=1)).run_ids
    await run_until_idle(rt_stores.clock)
    return rt, run_id


async def test_a_registered_wait_has_a_buffer_of_its_own(stores):
    """Limit and overflow hold for what a step registers; cancelled, it buffers nothing more."""
    hold = asyncio.Event()
    rt, run_id = await registering(stores, hold, limit=1, overflow="reject")
    assert await said(rt, "note", id=1, n=1) == ["buffered wait notes"]
    assert await said(rt, "note", id=1, n=2) == ["rejected wait notes: its buffer is full (1)"]
    assert await said(rt, "note", id=2, n=1) == ["unmatched "]
    hold.set()
    await rt.wait(run_id)
    assert await said(rt, "note", id=1, n=3) == ["unmatched "]


@pytest.mark.parametrize("where", ["before", "after"])
@WINDOWS
async def test_a_crash_at_any_commit_of_a_full_buffer(stores, where, window):
    """Whichever commit the process dies at: nothing is kept beyond the limit, and nothing kept is lost."""
    number = 0
    while True:
        number += 1
        store = stores.store()
        store.crash = (number, where)
        wf = two_gates(limit=2, mode=2, collect="got")
        rt = await stores.enter(wf, store=store, **window)

        async def work(rt=rt, number=number):
            await rt.emit(Event("begin", {"number": number}, id=f"begin-{number}"))
            await run_until_idle(stores.clock)
            for n in range(4):
                await rt.emit(Event("go", {"n": n}, id=f"go-{number}-{n}"))
            await rt.emit(Event("first", {}, id=f"first-{number}"))
            await run_until_idle(stores.clock)

        over = await until_crash(store, work())
        await stores.crash(rt)
        rt = await stores.enter(two_gates(limit=2, mode=2, collect="got"), **window)
        await run_until_idle(stores.clock)
        [run] = (await rt.find_runs(limit=1)).items or [None]
        if run is not None and not run.status.terminal:
            await work(rt)
        if run is not None:
            [run] = (await rt.find_runs(limit=1)).items
            result = await rt.wait(run.run_id)
            assert [each["n"] for each in result.state["got"]] == [2, 3], number
        await rt.stop()
        if over:
            assert number > 5
            return


@pytest.mark.parametrize("act", ["register", "cancel"])
@pytest.mark.parametrize("first", ["event", "boundary"])
async def test_an_event_against_a_registration(stores, act, first):
    """The commit of the stage arms or disarms the wait: an event before it and one after it get the right answer."""
    inside, hold, more = asyncio.Event(), asyncio.Event(), asyncio.Event()
    wf = Workflow("wf")
    wf.on("begin")
    if act == "cancel":

        @wf.step
        async def earlier(pauses: Annotated[object, Use("__pause_service__")]):
            await pauses.register(Wait("note", id="notes"))

    @wf.step
    async def change(pauses: Annotated[object, Use("__pause_service__")]):
        if act == "register":
            await pauses.register(Wait("note", id="notes"))
        else:
            await pauses.cancel("notes")
        inside.set()
        await hold.wait()

    @wf.step
    async def rest():
        await more.wait()

    rt = await stores.enter(wf)
    await rt.emit("begin")
    await inside.wait()
    await run_until_idle(stores.clock)
    rt.store.hold = lambda changes: bool(changes.moves)
    hold.set()
    [boundary] = await rt.store.until_held(1)
    if first == "event":
        lines = await said(rt, "note")
        boundary.release()
    else:
        boundary.release()
        await run_until_idle(stores.clock)
        lines = await said(rt, "note")
    rt.store.hold = None
    armed = (act == "register") is (first == "boundary")
    assert lines == (["buffered wait notes"] if armed else ["unmatched "])
    more.set()
    await run_until_idle(stores.clock)


async def test_a_crash_in_the_middle_of_a_drain(stores):
    """Three of seven buffered events are used when the process dies: the other four are used once, in their order."""
    used, die = [], asyncio.Event()
    hold = asyncio.Event()

    def draining(until):
        wf = Workflow("wf")
        wf.on("begin")

        @wf.step
        async def prepare():
            await hold.wait()

        wf.wait("next", on="go")

        @wf.step
        async def use(n: int):
            if n == until:
                die.set()
                await asyncio.Event().wait()
            used.append(n)

        wf.route(after="use")(lambda n: "next" if n < 7 else None)
        return wf

    rt = await stores.enter(draining(4))
    run_id = await begin(rt, stores.clock)
    for n in range(1, 8):
        await rt.emit("go", n=n)
    hold.set()
    await die.wait()
    await run_until_idle(stores.clock)
    await stores.crash(rt)
    rt = await stores.enter(draining(None))
    assert (await rt.wait(run_id)).status is RunStatus.COMPLETED
    assert used == [1, 2, 3, 4, 5, 6, 7]


async def test_a_crash_before_the_owner_has_dropped_anything(stores):
    """Its next owner drops what was too much: it goes on with the same event as the first one would have."""
    working_once, hold = asyncio.Event(), asyncio.Event()
    rt = await stores.enter(working(working_once, limit=2))
    run_id = await begin(rt, stores.clock)
    for n in range(5):
        await rt.emit("go", n=n)
    await stores.crash(rt)
    hold.set()
    rt = await stores.enter(working(hold, limit=2))
    assert (await rt.wait(run_id)).state["n"] == 3
    assert len(await entries(rt, run_id, "wait:dropped")) == 3


async def test_a_part_does_not_close_the_question(stores):
    """With `early=False` a vote counts while the reminder is written: one vote of two is no answer yet."""
    inside, hold = asyncio.Event(), asyncio.Event()
    wf = Workflow("wf")
    wf.on("begin")
    wf.wait("votes", on="vote", mode=2, early=False, collect="votes", timeout="1h", on_timeout="remind")
    wf.step(id="end", then=None)(lambda: None)

    @wf.aside(then="votes")
    async def remind():
        inside.set()
        await hold.wait()

    rt = await stores.enter(wf)
    run_id = await begin(rt, stores.clock)
    assert await said(rt, "vote", n=1) == ["buffered wait votes: 1 of 2"]
    await stores.clock.run_for(hours=1)
    await inside.wait()
    assert await said(rt, "vote", n=2) == ["buffered wait votes: 2 of 2"]
    hold.set()
    assert [vote["n"] for vote in (await rt.wait(run_id)).state["votes"]] == [1, 2]


async def test_a_long_value_that_has_to_be_different(stores):
    """The tally keeps a value of any size apart from others, in little room."""
    wf = Workflow("wf")
    wf.on("begin")
    wf.wait("votes", on="vote", mode=3, distinct="who")
    rt = await stores.enter(wf)
    run_id = await begin(rt, stores.clock)
    for who in ({"name": "a" * 5000}, {"name": "b" * 5000}):
        assert (await said(rt, "vote", who=who))[0].startswith("buffered")
        assert (await said(rt, "vote", who=who))[0].startswith("rejected wait votes: who {")
    [row] = (await rt.store.load(run_id)).waits
    assert all(len(part.key) < 100 for part in row.tally.parts)
