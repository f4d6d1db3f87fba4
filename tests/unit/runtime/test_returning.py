"""Runs that go on after they gave their slot back: they wait for a slot, before all new runs."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import pytest
from support import until_crash

from poundlock import (
    Delay,
    Exclusive,
    NotPaused,
    Pause,
    RunStatus,
    Serialized,
    Service,
    SingletonLoop,
    StateRef,
    StepContext,
    Terminate,
    Transient,
    Use,
    Verdict,
    Wait,
    Workflow,
)
from poundlock.errors import WouldDeadlock
from poundlock.testing import run_until_idle

LEAVES = {"holds_slot_while_paused": False}


def asking(mode, gate=None, *, timeout="1h", within=None):
    """Runs ask, pause without their slot, and then pass the gate."""
    wf = Workflow("asking", mode=mode, timeout=within)
    wf.on("go")

    @wf.step
    async def ask(n):
        return {"asked": True}

    wf.wait("answer", on="answer", correlate={"n": StateRef("n")}, timeout=timeout, on_timeout="resume")

    @wf.step
    async def after(n, ctx: StepContext):
        if gate is not None:
            await gate(n)
        return {"why": ctx.resume.reason}

    return wf


async def ask_some(rt, count):
    """Start runs one after another, each until its pause; return their ids."""
    receipts = [await rt.emit("go", n=n) for n in range(count)]
    await run_until_idle(rt.clock)
    return [receipt.run_ids[0] for receipt in receipts]


async def load_of(rt, workflow="asking", key=""):
    [(load, _)] = await rt.store.read_loads([(workflow, key)])
    return load


async def statuses(rt, ids):
    return [str((await rt.get_run(run_id)).status) for run_id in ids]


async def test_resumed_runs_wait_in_the_order_of_their_resumption(stores, gate):
    """Runs that are resumed by events and by hand wait in one line, before new runs, and go on one after another."""
    rt = await stores.enter(asking(Transient(1, **LEAVES), gate))
    ids = await ask_some(rt, 4)
    assert await statuses(rt, ids) == ["paused"] * 4
    lines = [*(await rt.emit("answer", n=3)).lines, *(await rt.emit("answer", n=1)).lines]
    await rt.resume(ids[2], {}, until="accepted")
    lines += (await rt.emit("answer", n=0)).lines
    new = await rt.emit("go", n=9)
    assert [line.verdict for line in lines] == [Verdict.RESUMED] * 3
    assert [line.reason for line in lines] == ["wait answer", "waits for a slot", "waits for a slot"]
    assert new.verdicts == [Verdict.QUEUED]
    await run_until_idle(stores.clock)
    assert await statuses(rt, ids) == ["ready", "ready", "ready", "running"]
    assert (await load_of(rt))[2:] == (1, new.run_ids[0], 3)
    gate.open()
    await run_until_idle(stores.clock)
    assert gate.came == [3, 1, 2, 0]
    assert gate.most == 1
    assert [(await rt.wait(run_id)).state["why"] for run_id in ids] == ["event", "event", "api", "event"]
    assert (await rt.get_run(new.run_ids[0])).status is RunStatus.PAUSED
    assert (await load_of(rt)).idle


async def test_a_run_that_waits_for_a_slot_is_not_paused(stores, gate):
    """It cannot be resumed a second time, `wait` waits for its next rest, and further events are buffered."""
    rt = await stores.enter(asking(Transient(1, **LEAVES), gate))
    ids = await ask_some(rt, 2)
    await rt.emit("answer", n=0)
    waiting = asyncio.create_task(rt.resume(ids[1], {}))
    await run_until_idle(stores.clock)
    with pytest.raises(NotPaused):
        await rt.resume(ids[1], {})
    [line] = (await rt.emit("answer", n=1)).lines
    assert line.verdict is Verdict.BUFFERED
    assert not waiting.done()
    gate.open()
    assert (await waiting).status is RunStatus.COMPLETED


@pytest.mark.parametrize("window", [0, 60])
async def test_many_waits_that_run_out_together(stores, window):
    """Of many hundreds of runs that are due at one moment, only as many go on at once as there are slots."""
    inside, most, ended = 0, 0, 0
    wf = Workflow("many", mode=Transient(10, capacity=None))
    wf.on("go")

    @wf.step
    async def ask():
        return Pause(Wait("never", timeout="1h", on_timeout="resume"))

    @wf.step
    async def after():
        nonlocal inside, most, ended
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)  # noqa: TID251 - lets others in, if they may come in
        inside -= 1
        ended += 1

    count = 1_500
    rt = await stores.enter(wf, pause_window=window)
    await asyncio.gather(*(rt.emit("go") for _ in range(count)))
    await run_until_idle(stores.clock)
    assert (await rt.store.stats())["paused"] == count
    stores.clock.advance(3_600)
    await run_until_idle(stores.clock)
    assert ended == count
    assert most == 10
    assert (await load_of(rt, "many")).idle


async def test_a_time_out_stays_the_reason(stores, gate):
    """A run whose wait is over and that waits for a slot goes on because of that, even if its event comes meanwhile."""
    rt = await stores.enter(asking(Transient(1, **LEAVES), gate))
    ids = await ask_some(rt, 2)
    await rt.emit("answer", n=0)
    stores.clock.advance(3_600)
    await run_until_idle(stores.clock)
    assert await statuses(rt, ids) == ["running", "ready"]
    assert (await rt.get_run(ids[1])).wake_at is None
    assert (await rt.emit("answer", n=1)).verdicts == [Verdict.BUFFERED]
    gate.open()
    assert [(await rt.wait(run_id)).state["why"] for run_id in ids] == ["event", "timeout"]


def napping(gate, mode):
    wf = Workflow("asking", mode=mode)
    wf.on("go")

    @wf.step
    async def sleeps(n):
        return None

    @wf.route(after="sleeps")
    def nap(state):
        return Delay(60, then="after") if state["n"] else None

    @wf.step
    async def after(n, ctx: StepContext):
        await gate(n)
        return {"why": None if ctx.resume is None else ctx.resume.reason}

    return wf


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_delay_stays_the_reason(stores, gate, make_gate, crashes):
    """A delayed run that has to wait for a slot goes on because of its delay, also after a crash."""
    rt = await stores.enter(napping(gate, Transient(1)))
    delayed = await rt.emit("go", n=1)
    await run_until_idle(stores.clock)
    await rt.emit("go", n=0)
    stores.clock.advance(60)
    await run_until_idle(stores.clock)
    assert await statuses(rt, delayed.run_ids) == ["ready"]
    if crashes:
        await stores.crash(rt)
        gate = make_gate()
        rt = await stores.enter(napping(gate, Transient(1)))
        await run_until_idle(stores.clock)
        assert await statuses(rt, delayed.run_ids) == ["ready"]
    gate.open()
    assert (await rt.wait(delayed.run_ids[0])).state["why"] == "delay"


@pytest.mark.parametrize("how", ["deregistered", "stopped", "crashed"])
async def test_a_delay_stays_the_reason_of_a_run_that_does_not_begin(stores, gate, how):
    """A delayed run that was claimed and could not begin goes on because of its delay, and has no further attempt."""
    store, gone = stores.store(), []
    rt = await stores.enter(napping(gate, Transient(1)), store=store)

    async def claim(worker, workflows, now, limit):
        claims = await store.inner.claim(worker, workflows, now, limit)
        if claims and how == "deregistered":
            await rt.deregister("asking")
        elif claims and how == "stopped":
            gone.append(asyncio.create_task(rt.stop()))
            await run_until_idle(stores.clock)  # it waits for this claim
        elif claims:
            store.die()
            await asyncio.get_running_loop().create_future()
        return claims

    store.claim = claim
    gate.open()
    [run_id] = (await rt.emit("go", n=1)).run_ids
    await run_until_idle(stores.clock)
    stores.clock.advance(60)
    await run_until_idle(stores.clock)
    assert gate.came == []
    if how == "deregistered":
        del store.claim
        await rt.register(napping(gate, Transient(1)))
    else:
        if how == "crashed":
            await stores.crash(rt)
        await asyncio.gather(*gone)
        rt = await stores.enter(napping(gate, Transient(1)))
    result = await rt.wait(run_id)
    assert (result.state["why"], result.metadata["attempt"]) == ("delay", 2 if how == "crashed" else 1)


async def test_an_aborted_run_leaves_the_line(stores, gate):
    """A run that is aborted while it waits for a slot ends at once, and those behind it move up."""
    rt = await stores.enter(asking(Transient(1, **LEAVES), gate))
    ids = await ask_some(rt, 3)
    for n in range(3):
        await rt.emit("answer", n=n)
    await run_until_idle(stores.clock)
    await rt.abort(ids[1], "not needed")
    assert await statuses(rt, ids) == ["running", "aborted", "ready"]
    assert (await load_of(rt)).returning == 1
    gate.open()
    assert [(await rt.wait(run_id)).status for run_id in ids] == ["completed", "aborted", "completed"]
    assert (await load_of(rt)).idle


@pytest.mark.parametrize("lined_up", [1, 2, 3, 5])
async def test_a_claim_that_lines_many_up_leaves_none(stores, gate, make_gate, monkeypatch, lined_up):
    """However many due runs a claim lines up, those behind them are claimed too: one of them may hold the slot."""

    def urgent(gate):
        wf = asking(mode, gate)
        wf.on("urgent", priority=500)
        return wf

    for module in ("memory", "sqlite.claims"):
        monkeypatch.setattr(f"poundlock.stores.{module}.LINED_UP_AT_ONCE", 2)
    monkeypatch.setattr(sys.modules["poundlock.runtime.commands.claim"], "_BATCH", 2)
    mode = Transient(1, **LEAVES)
    rt = await stores.enter(urgent(gate))
    ids = [(await rt.emit("urgent", n=n)).run_ids[0] for n in range(lined_up)]
    ids += (await rt.emit("go", n=9)).run_ids
    await run_until_idle(stores.clock)
    await rt.emit("answer", n=9)
    await run_until_idle(stores.clock)
    assert gate.came == [9]
    await stores.crash(rt)
    stores.clock.advance(7_200)
    gate = make_gate()
    gate.open()
    rt = await stores.enter(urgent(gate))
    await run_until_idle(stores.clock)
    assert await statuses(rt, ids) == ["completed"] * (lined_up + 1)
    assert (await load_of(rt)).idle


@pytest.mark.parametrize("ends", ["abort", "pause"])
async def test_a_run_leaves_the_line_while_slots_are_free(stores, gate, make_gate, ends):
    """Where no run is started, as while the workflow is paused, queued runs start afterwards all the same."""
    rt = await stores.enter(asking(Transient(1, **LEAVES), gate))
    [waits, holds] = await ask_some(rt, 2)
    await rt.emit("answer", n=1)
    await rt.emit("answer", n=0)
    [queued] = (await rt.emit("go", n=2)).run_ids
    await run_until_idle(stores.clock)
    assert await statuses(rt, [waits, holds, queued]) == ["ready", "running", "queued"]
    await rt.pause_workflow("asking")
    gate.open()
    await run_until_idle(stores.clock)
    await (rt.abort(waits) if ends == "abort" else rt.pause(waits))
    assert (await load_of(rt))[0::2] == (0, 1, 0)
    await rt.unpause_workflow("asking")
    await run_until_idle(stores.clock)
    assert await statuses(rt, [queued]) == ["paused"]


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("due", [False, True])
async def test_a_deadline_ends_a_run_that_waits_for_a_slot(stores, gate, reopened, due):
    """The time of a run counts while it waits for a slot: it fails when that is over, and leaves the line."""
    timeout = "1h" if due else "5h"

    def workflow(gate):
        return asking(Transient(1, **LEAVES), gate, timeout=timeout, within="2h")

    rt = await stores.enter(workflow(gate))
    [waits] = await ask_some(rt, 1)
    stores.clock.advance(1_800)
    await run_until_idle(stores.clock)
    holds = (await rt.emit("go", n=7)).run_ids[0]
    await run_until_idle(stores.clock)
    await rt.emit("answer", n=7)
    await run_until_idle(stores.clock)
    if due:
        stores.clock.advance(1_800)
        await run_until_idle(stores.clock)
    else:
        await rt.emit("answer", n=0)
    assert await statuses(rt, [waits, holds]) == ["ready", "running"]
    if reopened:
        await stores.crash(rt)
        rt = await stores.enter(workflow(gate))
    stores.clock.advance(3_600 if due else 5_400)
    await run_until_idle(stores.clock)
    assert await statuses(rt, [waits, holds]) == ["failed", "running"]
    assert (await rt.wait(waits)).error.type == "RunTimeout"
    assert (await load_of(rt)) == (1, holds, 0, None, 0)
    gate.open()
    assert (await rt.wait(holds)).ok


async def test_the_line_survives_a_crash(stores, gate, make_gate):
    """After a crash the runs in the line go on in its order, behind the runs that held slots."""
    rt = await stores.enter(asking(Transient(2, **LEAVES), gate))
    ids = await ask_some(rt, 5)
    for n in (4, 0, 3, 1, 2):
        await rt.emit("answer", n=n)
    await run_until_idle(stores.clock)
    assert sorted(gate.came) == [0, 4]
    await stores.crash(rt)
    again = make_gate()
    rt = await stores.enter(asking(Transient(2, **LEAVES), again))
    await run_until_idle(stores.clock)
    assert sorted(again.came) == [0, 4]
    assert (await load_of(rt)).returning == 3
    again.open()
    assert [(await rt.wait(run_id)).status for run_id in ids] == ["completed"] * 5
    assert again.came[2:] == [3, 1, 2]
    assert again.most <= 2
    assert (await load_of(rt)).idle


async def test_a_runtime_without_the_workflow_only_lines_it_up(stores, gate):
    """Resumed where its workflow is unknown, a run waits for a slot; the registration of the workflow gives it one."""
    rt = await stores.enter(asking(Serialized(**LEAVES)))
    ids = await ask_some(rt, 2)
    await rt.stop()
    rt = await stores.enter()
    [line] = (await rt.emit("answer", n=1)).lines
    assert (line.verdict, line.reason) == (Verdict.RESUMED, "waits for a slot")
    assert (await rt.resume(ids[0], {}, until="accepted")).status is RunStatus.READY
    assert await load_of(rt) == (0, None, 0, None, 2)
    await rt.register(asking(Serialized(**LEAVES), gate))
    await run_until_idle(stores.clock)
    assert gate.came == [1]
    gate.open()
    assert [(await rt.wait(run_id)).status for run_id in ids] == ["completed"] * 2
    assert gate.came == [1, 0]
    assert (await load_of(rt)).idle


async def test_more_slots_are_used_at_once(stores, gate, make_gate):
    """A mode with more slots than before starts waiting runs when it is registered, resumed ones first."""
    rt = await stores.enter(asking(Transient(1, **LEAVES), gate))
    ids = await ask_some(rt, 3)
    for n in range(3):
        await rt.emit("answer", n=n)
    queued = [await rt.emit("go", n=n) for n in (7, 8)]
    await run_until_idle(stores.clock)
    await rt.stop()
    gate = make_gate()
    rt = await stores.enter(asking(Transient(4, **LEAVES), gate))
    await run_until_idle(stores.clock)
    assert sorted(gate.came) == [0, 1, 2]
    assert await statuses(rt, [run for receipt in queued for run in receipt.run_ids]) == ["paused"] * 2
    gate.open()
    for run_id in ids:
        assert (await rt.wait(run_id)).ok


@pytest.mark.parametrize(
    ("mode", "verdict", "reason"),
    [
        (Serialized(**LEAVES), Verdict.QUEUED, ""),
        (Exclusive("reject", **LEAVES), Verdict.REJECTED, "run {0} is active"),
        (Exclusive("queue_single", **LEAVES), Verdict.QUEUED, ""),
        (SingletonLoop("drop", **LEAVES), Verdict.DROPPED, "run {0} is active"),
        (SingletonLoop("signal", **LEAVES), Verdict.SIGNALLED, ""),
        (SingletonLoop("replace", **LEAVES), Verdict.REPLACED, "replaces {0}"),
    ],
    ids=["serialized", "reject", "queue_single", "drop", "signal", "replace"],
)
async def test_a_mode_is_busy_while_runs_return(stores, gate, mode, verdict, reason):
    """While resumed runs wait, a new event is treated as at a busy mode, and starts after them."""
    rt = await stores.enter(asking(mode, gate))
    ids = []
    for n in range(2):
        ids += (await rt.emit("go", n=n)).run_ids
        await run_until_idle(stores.clock)
    for n in range(2):
        await rt.emit("answer", n=n)
        await run_until_idle(stores.clock)
    assert await statuses(rt, ids) == ["running", "ready"]
    [line] = (await rt.emit("go", n=7)).lines
    assert (line.verdict, line.reason) == (verdict, reason.format(*ids))
    gate.open()
    assert (await rt.wait(ids[1])).status is RunStatus.COMPLETED
    await run_until_idle(stores.clock)
    if verdict in (Verdict.QUEUED, Verdict.REPLACED):
        assert (await rt.get_run(line.run_id)).status is RunStatus.PAUSED
        await rt.abort(line.run_id)
    assert gate.came == [0, 1]
    assert (await load_of(rt)).idle


async def test_waiting_for_a_run_that_needs_the_own_slot_is_refused(stores):
    """A step that holds the only slot cannot wait for a resumed run that needs it."""
    refused = []
    wf = Workflow("asking", mode=Serialized(**LEAVES))
    wf.on("go")

    @wf.step
    async def ask(n):
        return Pause(Wait("answer")) if n == 0 else None

    @wf.step
    async def wait_for_it(n, other=None):
        if other is not None:
            await rt.resume(other, {}, until="accepted")
            try:
                await rt.wait(other)
            except WouldDeadlock as error:
                refused.append(error)

    rt = await stores.enter(wf)
    [first] = (await rt.emit("go", n=0)).run_ids
    await run_until_idle(stores.clock)
    second = await rt.emit("go", n=1, other=first)
    [result] = await second.results()
    assert result.ok
    assert [error.fields["waits_for"] for error in refused] == [[first, second.run_ids[0]]]
    assert (await rt.wait(first)).ok


async def test_an_event_while_the_run_is_still_closing(stores, gate):
    """A run that is resumed and promoted while its pause is still being finished goes on after that, once."""
    closing, may_close, order = asyncio.Event(), asyncio.Event(), []

    async def kept():
        yield "kept"
        order.append("closes")
        closing.set()
        await may_close.wait()
        order.append("closed")

    wf = Workflow("closing", mode=Transient(1, **LEAVES), services=[Service("kept", kept, scope="run")])
    wf.on("go")

    @wf.step
    async def first(n, kept: Annotated[str, Use("kept")]):
        if n:
            await gate(n)
            return Terminate()
        return None

    wf.wait("answer", on="answer", correlate={"n": StateRef("n")})

    @wf.step
    async def second(n, kept: Annotated[str, Use("kept")]):
        order.append(f"second {n}")

    rt = await stores.enter(wf)
    one = await rt.emit("go", n=0)
    await closing.wait()
    two = await rt.emit("go", n=1)
    [line] = (await rt.emit("answer", n=0)).lines
    assert line.reason == "waits for a slot"
    gate.open()
    await run_until_idle(stores.clock)
    assert "second 0" not in order
    may_close.set()
    assert (await rt.wait(one.run_ids[0])).ok
    assert (await rt.wait(two.run_ids[0])).ok
    assert order.count("second 0") == 1
    assert order.index("closed") < order.index("second 0")
    assert (await load_of(rt, "closing")).idle


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("mode", [Transient(2, **LEAVES), Serialized(**LEAVES)], ids=["transient", "serialized"])
async def test_a_crash_at_any_commit(stores, where, mode):
    """Whichever commit the process dies at, all runs end, none twice, and no slot stays taken."""
    number = 0
    while True:
        number += 1
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(asking(mode), store=store)

        async def work(rt=rt, number=number):
            for n in range(4):
                await rt.emit("go", n=f"{number}.{n}")
            await run_until_idle(stores.clock)
            for n in (2, 0):
                await rt.emit("answer", n=f"{number}.{n}")
            stores.clock.advance(3_600)
            await run_until_idle(stores.clock)

        over = await until_crash(store, work())
        await stores.crash(rt)
        rt = await stores.enter(asking(mode))
        await run_until_idle(stores.clock)
        stores.clock.advance(3_600)
        await run_until_idle(stores.clock)
        left = [run.status for run in (await rt.find_runs(limit=500)).items if not run.status.terminal]
        assert left == [], number
        assert (await load_of(rt)).idle, number
        await rt.stop()
        if over:
            assert number > 10
            return
