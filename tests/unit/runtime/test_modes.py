"""The four execution modes, end to end."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import (
    Event,
    Exclusive,
    Fail,
    RunStatus,
    Serialized,
    SingletonLoop,
    StateRef,
    StepContext,
    Terminate,
    Transient,
    Trigger,
    Verdict,
    Workflow,
)

WIDE = {"capacity": None}


class OutOfTheOrdinary(BaseException):
    """What `except Exception` does not catch."""


class Office:
    """Steps that note per key how many are inside, and in which order they came."""

    def __init__(self):
        self.order = []
        self.inside = {}
        self.most = {}

    async def visit(self, n, key="", turns=3):
        self.order.append(n)
        self.inside[key] = self.inside.get(key, 0) + 1
        self.most[key] = max(self.most.get(key, 0), self.inside[key])
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251 - lets others in, if anybody may come in
        self.inside[key] -= 1


def office_workflow(office, mode, **options):
    wf = Workflow("office", mode=mode)
    wf.on("go", **options)

    @wf.step
    async def visit(n, who=""):
        await office.visit(n, who)

    return wf


def busy_workflow(gate, mode, **options):
    """Runs whose `n` is 0 wait at the gate; the others end at once."""
    wf = Workflow("busy", mode=mode)
    wf.on("go", **options)

    @wf.step
    async def work(n=0):
        await gate(n)
        return {"done": n}

    return wf


async def idle_loads(rt, id, *keys):
    loads = await rt.store.read_loads([(id, key) for key in keys or ("",)])
    return all(token is None and load.idle for load, token in loads)


# -- a hundred at once
@pytest.mark.parametrize(
    ("mode", "limit"),
    [
        (Transient(3, **WIDE), 3),
        (Serialized(), 1),
        (Transient(1, **WIDE), 1),
    ],
    ids=["transient", "serialized", "transient-1"],
)
async def test_a_hundred_at_once_never_exceed_the_limit(runtime, any_store, mode, limit):
    """Of a hundred simultaneous events, at most the allowed number is active; each runs once, in order."""
    office = Office()
    rt = await runtime(office_workflow(office, mode), store=any_store)
    receipts = await asyncio.gather(*(rt.emit("go", n=n) for n in range(100)))
    results = [result for receipt in receipts for result in await receipt.results()]
    assert all(result.ok for result in results)
    assert office.most[""] == limit
    assert sorted(office.order) == list(range(100))
    if limit == 1:
        accepted = [info.run_id for info in reversed((await rt.find_runs(limit=500)).items)]
        by_run = {receipt.run_ids[0]: n for n, receipt in enumerate(receipts)}
        assert office.order == [by_run[run_id] for run_id in accepted]
    assert await idle_loads(rt, "office")


async def test_a_hundred_at_once_with_keys(runtime, any_store):
    """With a key the rule holds per key value, and other keys do not wait."""
    office = Office()
    rt = await runtime(office_workflow(office, Serialized(key="who")), store=any_store)
    receipts = await asyncio.gather(*(rt.emit("go", n=n, who=f"k{n % 7}") for n in range(100)))
    for receipt in receipts:
        await receipt.results()
    assert set(office.most.values()) == {1}
    for k in range(7):
        assert [n for n in office.order if n % 7 == k] == list(range(k, 100, 7))
    assert await idle_loads(rt, "office", *(f"k{k}" for k in range(7)))


@pytest.mark.parametrize("on_busy", ["reject", "queue_single"])
async def test_a_hundred_at_once_exclusive(runtime, gate, any_store, on_busy):
    """Of a hundred simultaneous events, exclusive lets one in; the others are rejected, or the latest of them waits."""
    rt = await runtime(busy_workflow(gate, Exclusive(on_busy)), store=any_store)
    receipts = await asyncio.gather(*(rt.emit("go", n=n) for n in range(100)))
    verdicts = [receipt.verdicts[0] for receipt in receipts]
    other = Verdict.REJECTED if on_busy == "reject" else Verdict.QUEUED
    assert verdicts.count(Verdict.STARTED) == 1
    assert verdicts.count(other) == 99
    gate.open()
    statuses = [result.status for receipt in receipts for result in await receipt.results()]
    assert statuses.count("completed") == (1 if on_busy == "reject" else 2)
    assert statuses.count("aborted") == (0 if on_busy == "reject" else 98)
    assert gate.most == 1
    assert await idle_loads(rt, "busy")


@pytest.mark.parametrize("on_busy", ["drop", "signal", "replace"])
async def test_a_hundred_at_once_singleton(runtime, gate, any_store, on_busy):
    """Of a hundred simultaneous events, a singleton has one active run; the others are dropped, told or replace it."""
    rt = await runtime(busy_workflow(gate, SingletonLoop(on_busy)), store=any_store)
    receipts = await asyncio.gather(*(rt.emit("go", n=n) for n in range(100)))
    verdicts = [receipt.verdicts[0] for receipt in receipts]
    other = {"drop": Verdict.DROPPED, "signal": Verdict.SIGNALLED, "replace": Verdict.REPLACED}[on_busy]
    assert verdicts.count(Verdict.STARTED) == 1
    assert verdicts.count(other) == 99
    gate.open()
    results = [result for receipt in receipts for result in await receipt.results()]
    assert gate.most == 1
    assert len(results) == (100 if on_busy == "replace" else 1)
    assert all(result.status.terminal for result in results)
    assert await idle_loads(rt, "busy")


# -- transient
async def test_transient_queues_then_drops(runtime, gate, any_store):
    """Up to `concurrency` start, then `capacity` wait in order, then events are dropped with the reason."""
    rt = await runtime(busy_workflow(gate, Transient(2, 3)), store=any_store)
    receipts = [await rt.emit("go", n=n) for n in range(7)]
    assert [str(receipt.verdicts[0]) for receipt in receipts] == ["started"] * 2 + ["queued"] * 3 + ["dropped"] * 2
    dropped = receipts[-1].lines[0]
    assert dropped.run_id is None
    assert dropped.reason == "2 running and 3 queued: capacity of 3 reached"
    gate.open()
    results = [result for receipt in receipts for result in await receipt.results()]
    assert [result.state["done"] for result in results] == list(range(5))
    assert gate.came == list(range(5))


async def test_priority_orders_the_queue(runtime, gate, any_store):
    """A queue is left by priority, and by acceptance among equals."""
    wf = Workflow(
        "busy",
        mode=Transient(1),
        triggers={"low": Trigger("low"), "high": Trigger("high", priority=5), "mid": Trigger("mid", priority=1)},
    )

    @wf.step
    async def work(n):
        await gate(n)

    rt = await runtime(wf, store=any_store)
    kinds = ["low", "low", "mid", "high", "low", "high", "mid"]
    receipts = [await rt.emit(kind, n=n) for n, kind in enumerate(kinds)]
    gate.open()
    for receipt in receipts:
        await receipt.results()
    assert gate.came == [0, 3, 5, 2, 6, 1, 4]


# -- slots come back
@pytest.mark.parametrize("how", ["completed", "failed", "router", "terminate", "aborted", "base"])
async def test_every_end_frees_the_slot(runtime, gate, any_store, how):
    """Whether a run completes, fails or is aborted, the next one starts, and idle loads leave no row."""
    wf = Workflow("one", mode=Serialized())
    wf.on("go")

    @wf.step
    async def work(n):
        if n == 0:
            await gate()
            if how == "failed":
                raise RuntimeError("on purpose")
            if how == "base":
                raise OutOfTheOrdinary
        return {"n": n}

    @wf.route(after="work")
    def decide(state):
        if state["n"] == 0 and how == "router":
            return Fail("on purpose")
        return Terminate("early") if how == "terminate" else None

    rt = await runtime(wf, store=any_store)
    first, second = [await rt.emit("go", n=n) for n in range(2)]
    await rt.clock.run_until_idle()
    if how == "aborted":
        await rt.abort(first.run_ids[0], "enough")
    gate.open()
    [result], [following] = await first.results(), await second.results()
    expected = {"router": "failed", "terminate": "completed", "base": "failed"}.get(how, how)
    assert result.status == expected
    assert following.status == "completed"
    assert await idle_loads(rt, "one")


async def test_aborting_a_queued_run_gives_its_place_back(runtime, gate, any_store):
    """An aborted queued run leaves the queue, so that another event fits, and never runs."""
    rt = await runtime(busy_workflow(gate, Transient(1, 1)), store=any_store)
    first, queued = await rt.emit("go", n=0), await rt.emit("go", n=1)
    assert (await rt.emit("go", n=2)).verdicts == [Verdict.DROPPED]
    await rt.abort(queued.run_ids[0], "not needed")
    assert (await rt.get_run(queued.run_ids[0])).status is RunStatus.ABORTED
    third = await rt.emit("go", n=3)
    assert third.verdicts == [Verdict.QUEUED]
    gate.open()
    assert [r.status for r in await queued.results()] == ["aborted"]
    assert [r.status for r in await third.results()] == ["completed"]
    await first.results()
    assert gate.came == [0, 3]
    assert await idle_loads(rt, "busy")


# -- exclusive and singleton, in words
async def test_exclusive_names_the_active_run(runtime, gate):
    """A rejected line names the run that is in the way."""
    rt = await runtime(busy_workflow(gate, Exclusive()))
    first = await rt.emit("go")
    [line] = (await rt.emit("go")).lines
    assert line.reason == f"run {first.run_ids[0]} is active"
    gate.open()


async def test_queue_single_keeps_the_latest(runtime, gate, any_store):
    """One event waits; a newer one takes its place, says so, and the older ends aborted with the newer's id."""
    heard = []
    rt = await runtime(store=any_store)
    await rt.register(busy_workflow(gate, Exclusive("queue_single")), on_complete=heard.append)
    receipts = [await rt.emit("go", n=n) for n in range(4)]
    ids = [receipt.run_ids[0] for receipt in receipts]
    assert [line.reason for receipt in receipts for line in receipt.lines] == [
        "",
        "",
        f"supersedes {ids[1]}",
        f"supersedes {ids[2]}",
    ]
    gate.open()
    results = [result for receipt in receipts for result in await receipt.results()]
    assert [result.status for result in results] == ["completed", "aborted", "aborted", "completed"]
    assert ids[2] in results[1].error.message
    assert sorted(result.run_id for result in heard) == sorted(ids)


def two_triggers(gate, mode, **second):
    """A workflow with two triggers for one event."""
    wf = Workflow("both", mode=mode, triggers={"first": Trigger("go"), "second": Trigger("go", **second)})

    @wf.step
    async def work(n=0):
        await gate(0)
        return {"done": n}

    return wf


@pytest.mark.parametrize("mode", [Exclusive("queue_single"), SingletonLoop("replace")], ids=["queue_single", "replace"])
async def test_two_triggers_of_one_event_share_the_place_in_the_queue(runtime, gate, any_store, mode):
    """The second trigger's run takes the place of the first's, whose line is then `dropped` and says so.

    A queued run of an earlier event is superseded by the one that remains. Both triggers have decided for good.
    """
    rt = await runtime(two_triggers(gate, mode), store=any_store)
    await rt.emit("go", n=1)
    earlier = [line for line in (await rt.emit("go", n=2)).lines if line.run_id is not None]
    event = Event("go", {"n": 3})
    receipt = await rt.emit(event)
    first, second = receipt.lines
    assert (first.verdict, first.run_id) == (Verdict.DROPPED, None)
    assert first.reason == f"superseded by {second.run_id}"
    if second.verdict is Verdict.QUEUED:
        assert second.reason == f"supersedes {earlier[-1].run_id}"
    superseded = await rt.wait(earlier[-1].run_id)
    assert superseded.status is RunStatus.ABORTED
    assert second.run_id in superseded.error.message
    assert [line.verdict for line in (await rt.emit(event)).lines] == [Verdict.DUPLICATE, Verdict.DUPLICATE]
    gate.open()
    assert (await rt.wait(second.run_id)).state["done"] == 3
    assert await idle_loads(rt, "both")


async def test_a_trigger_may_signal_the_run_that_another_one_starts(runtime, gate, any_store):
    """Of two triggers for one event the first starts the run, and the second's patch reaches it as a signal."""
    wf = two_triggers(gate, SingletonLoop("signal"), map=lambda event: {"signalled": event.payload["n"]})
    rt = await runtime(wf, store=any_store)
    receipt = await rt.emit("go", n=1)
    started, signalled = receipt.lines
    assert [started.verdict, signalled.verdict] == [Verdict.STARTED, Verdict.SIGNALLED]
    assert signalled.run_id == started.run_id
    gate.open()
    assert (await rt.wait(started.run_id)).state == {"n": 1, "signalled": 1, "done": 1}


async def test_singleton_drop(runtime, gate):
    """A busy singleton drops and says which run is active."""
    rt = await runtime(busy_workflow(gate, SingletonLoop("drop")))
    first = await rt.emit("go")
    [line] = (await rt.emit("go")).lines
    assert (line.verdict, line.reason) == (Verdict.DROPPED, f"run {first.run_ids[0]} is active")
    gate.open()


async def test_singleton_signal_reaches_the_looping_step(runtime, any_store):
    """With `signal`, an event's patch is merged into the active run; its step sees it at once with `latest()`."""
    wf = Workflow("watcher", mode=SingletonLoop("signal", key="repo"))
    wf.on("status")
    seen, looking = [], asyncio.Event()

    @wf.step
    async def watch(ctx: StepContext):
        while ctx.latest()["n"] < 5:
            seen.append(ctx.latest()["n"])
            looking.set()
            await asyncio.sleep(0)  # noqa: TID251 - lets others in
        return {"stopped": True}

    rt = await runtime(wf, store=any_store)
    first = await rt.emit("status", n=1, repo="a")
    await looking.wait()
    second = await rt.emit("status", n=3, repo="a")
    assert second.lines[0].verdict is Verdict.SIGNALLED
    assert second.run_ids == first.run_ids
    last = await rt.emit("status", n=5, repo="a")
    [result] = await first.results()
    assert result.state == {"n": 5, "repo": "a", "stopped": True}
    assert seen[0] == 1
    assert await last.results() == []


async def test_singleton_signal_needs_only_a_patch(runtime, gate):
    """What is merged into an active run need not be a whole state by itself."""
    from pydantic import BaseModel

    class Watched(BaseModel):
        repo: str
        n: int
        note: str = ""

    wf = Workflow("watcher", mode=SingletonLoop("signal", key="repo"), state=Watched)
    wf.on("status")

    @wf.step
    async def watch():
        await gate()

    rt = await runtime(wf)
    first = await rt.emit("status", repo="a", n=1)
    [line] = (await rt.emit("status", repo="a", note="hello")).lines
    assert line.verdict is Verdict.SIGNALLED
    gate.open()
    [result] = await first.results()
    assert result.state == Watched(repo="a", n=1, note="hello")
    [alone] = (await rt.emit("status", repo="b", note="hello")).lines
    assert alone.verdict is Verdict.REJECTED


async def test_singleton_replace_waits_for_the_clean_up(runtime, any_store):
    """With `replace`, the active run is aborted, and the new one starts only after its clean-up."""
    wf = Workflow("watcher", mode=SingletonLoop("replace"))
    wf.on("go")
    told = []

    @wf.step
    async def watch(n, ctx: StepContext):
        told.append(f"start {n}")
        try:
            while n < 3:
                await asyncio.get_running_loop().create_future()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)  # noqa: TID251 - a clean-up that takes its time
            told.append(f"end {n}")

    rt = await runtime(wf, store=any_store)
    receipts = []
    for n in range(1, 4):
        receipts.append(await rt.emit("go", n=n))
        await rt.clock.run_until_idle()
    results = [result for receipt in receipts for result in await receipt.results()]
    assert [str(r.verdicts[0]) for r in receipts] == ["started", "replaced", "replaced"]
    assert receipts[1].lines[0].reason == f"replaces {receipts[0].run_ids[0]}"
    assert [result.status for result in results] == ["aborted", "aborted", "completed"]
    assert told == ["start 1", "end 1", "start 2", "end 2", "start 3", "end 3"]


# -- modes and registering
async def test_a_mode_given_to_register_wins(runtime, gate):
    """`register(mode=)` overrides the workflow's own mode; without either it is Transient."""
    rt = await runtime()
    await rt.register(busy_workflow(gate, Exclusive()), Serialized())
    assert [(await rt.emit("go")).verdicts[0] for _ in range(2)] == [Verdict.STARTED, Verdict.QUEUED]
    gate.open()


async def test_the_modes_key_wins_over_the_triggers(runtime, gate):
    """The mode's key makes the partition; the trigger's does where the mode has none."""
    both = busy_workflow(gate, Exclusive(key="a"), key="b")
    only = Workflow("only", mode=Exclusive())
    only.on("go", key="b")

    @only.step
    async def work():
        await gate()

    rt = await runtime(both, only)

    async def verdicts(**payload):
        return {line.workflow_id: str(line.verdict) for line in (await rt.emit("go", payload)).lines}

    assert await verdicts(a=1, b=1) == {"busy": "started", "only": "started"}
    assert await verdicts(a=1, b=2) == {"busy": "rejected", "only": "started"}
    assert await verdicts(a=2, b=1) == {"busy": "started", "only": "rejected"}
    gate.open()


async def test_invoked_runs_count_in_no_load(runtime, gate):
    """`run` and `invoke` neither take a slot nor are kept out by one."""
    rt = await runtime(busy_workflow(gate, Exclusive()))
    first = await rt.emit("go")
    invoked = asyncio.create_task(rt.run("busy", n=5))
    await rt.clock.run_until_idle()
    assert gate.inside == 2
    gate.open()
    assert (await invoked).state["done"] == 5
    await first.results()
    assert await idle_loads(rt, "busy")


# -- pausing and slots
def pausing_workflow(mode, gate=None, before=None):
    wf = Workflow("pauses", mode=mode)
    wf.on("go")

    @wf.step
    async def ask(n):
        if before is not None:
            await before(n)
        return {"asked": True}

    wf.wait("answer", on="answer", correlate={"n": StateRef("n")})

    @wf.step
    async def after(n):
        if gate is not None:
            await gate(n)
        return {"answered": True}

    return wf


async def test_a_paused_run_may_hold_its_slot(runtime, any_store):
    """With holds_slot_while_paused a parked run keeps others waiting until it ends."""
    rt = await runtime(pausing_workflow(Serialized(holds_slot_while_paused=True)), store=any_store)
    first, second = await rt.emit("go", n=1), await rt.emit("go", n=2)
    assert [r.status for r in await first.results()] == ["paused"]
    assert (await rt.get_run(second.run_ids[0])).status is RunStatus.QUEUED
    await rt.emit("answer", n=1)
    assert (await rt.wait(first.run_ids[0])).status == "completed"
    assert [r.status for r in await second.results()] == ["paused"]
    await rt.abort(second.run_ids[0])
    assert await idle_loads(rt, "pauses")


async def test_results_of_a_queued_run_come_at_its_pause(runtime, gate, any_store):
    """Who waits for the result of a queued run is answered when that run, started later, pauses."""
    wf = pausing_workflow(Serialized(holds_slot_while_paused=False), before=gate)
    rt = await runtime(wf, store=any_store)
    receipts = [await rt.emit("go", n=n) for n in range(3)]
    waiting = [asyncio.create_task(receipt.results(60)) for receipt in receipts]
    await rt.clock.run_until_idle()
    gate.open()
    assert [[r.status for r in await task] for task in waiting] == [["paused"]] * 3


async def test_a_resumed_run_waits_for_a_slot_and_holds_back_new_ones(runtime, gate, any_store):
    """A run that gave its slot back takes one when it is resumed, or waits for one, before all new runs."""
    rt = await runtime(pausing_workflow(Transient(1, holds_slot_while_paused=False), gate), store=any_store)
    receipts = [await rt.emit("go", n=n) for n in range(2)]
    for receipt in receipts:
        assert [r.status for r in await receipt.results(60)] == ["paused"]
    assert await idle_loads(rt, "pauses")
    reasons = []
    for n in range(2):
        [line] = (await rt.emit("answer", n=n)).lines
        assert line.verdict is Verdict.RESUMED
        reasons.append(line.reason)
    assert reasons == ["wait answer", "waits for a slot"]
    await rt.clock.run_until_idle()
    assert gate.inside == 1
    [(load, _)] = await rt.store.read_loads([("pauses", "")])
    assert (load.active, load.returning) == (1, 1)
    third = await rt.emit("go", n=3)
    assert third.verdicts == [Verdict.QUEUED]
    gate.open()
    assert [r.status for r in await third.results(60)] == ["paused"]
    for receipt in receipts:
        assert (await rt.wait(receipt.run_ids[0])).ok
    await rt.abort(third.run_ids[0])
    assert await idle_loads(rt, "pauses")


# -- durability
async def test_the_queue_survives_a_reopened_store(runtime, gate, make_gate, any_store):
    """Queued runs stand in the store, and go on in order in a later runtime."""
    rt = await runtime(busy_workflow(gate, Serialized()), store=any_store)
    receipts = [await rt.emit("go", n=n) for n in range(4)]
    await rt.clock.run_until_idle()
    await rt.stop(0)
    second = make_gate()
    second.open()
    rt = await runtime(busy_workflow(second, Serialized()), store=any_store)
    results = [await rt.wait(receipt.run_ids[0], "1h") for receipt in receipts]
    assert [result.state["done"] for result in results] == [0, 1, 2, 3]
    assert second.came == [0, 1, 2, 3]
    assert await idle_loads(rt, "busy")


async def test_events_of_one_commit_share_it(runtime, any_store):
    """All workflows one event touches decide in one commit: if one cannot be decided, none is."""
    wfs = []
    for id in ("a", "b", "c"):
        wf = Workflow(id, mode=Exclusive())
        wf.on("go")

        @wf.step
        async def work():
            return None

        wfs.append(wf)
    rt = await runtime(*wfs, store=any_store)
    before = (await rt.store.stats())["commits"]
    receipt = await rt.emit(Event("go"))
    assert receipt.verdicts == [Verdict.STARTED] * 3
    await receipt.results()
    # one for the event, one for the end of each run
    assert (await rt.store.stats())["commits"] - before == 4


async def test_a_low_priority_does_not_starve(runtime, gate, any_store):
    """A point of priority is worth a minute: a run that has waited longer starts before newer ones that are higher."""
    wf = Workflow("busy", mode=Transient(1), triggers={"low": Trigger("low"), "high": Trigger("high", priority=10)})

    @wf.step
    async def work(n):
        await gate(n)

    rt = await runtime(wf, store=any_store)
    receipts = [await rt.emit("low", n=0), await rt.emit("low", n=1)]
    rt.clock.advance(599)
    receipts.append(await rt.emit("high", n=2))
    rt.clock.advance(2)
    receipts.append(await rt.emit("high", n=3))
    gate.open()
    for receipt in receipts:
        await receipt.results()
    assert gate.came == [0, 2, 1, 3]


async def test_only_transient_has_priorities(runtime, gate, any_store):
    """`Serialized` is first in, first out, whatever the priority of a trigger."""
    wf = Workflow("busy", mode=Serialized(), triggers={"low": Trigger("low"), "high": Trigger("high", priority=10)})

    @wf.step
    async def work(n):
        await gate(n)

    rt = await runtime(wf, store=any_store)
    receipts = [await rt.emit(kind, n=n) for n, kind in enumerate(["low", "low", "high", "low"])]
    gate.open()
    for receipt in receipts:
        await receipt.results()
    assert gate.came == [0, 1, 2, 3]


async def test_idle_keys_cost_nothing(runtime, any_store):
    """Once the runs of a key have ended, nothing of the key is left: no row, and nothing in memory."""
    office = Office()
    rt = await runtime(office_workflow(office, Serialized(key="who")), store=any_store)
    store = rt.store

    def kept():
        if hasattr(store, "_queues"):
            return [len(each) for each in (store._loads, store._queues, store._returning)]
        return [len(each) for each in (store._index.loads, store._index.returning, store._writer._index.loads)]

    for batch in range(5):
        receipts = [await rt.emit("go", n=n, who=f"k{batch}.{n // 2}") for n in range(100)]
        assert kept()[0] > 0
        for receipt in receipts:
            await receipt.results()
    assert kept() == [0, 0, 0]
    assert rt._core.loads._lines == {}
    assert rt._core.queued == {}
    if not hasattr(store, "_queues"):
        import sqlite3
        from contextlib import closing

        await store.written_behind()
        with closing(sqlite3.connect(store.path)) as connection, connection:
            assert connection.execute("SELECT count(*) FROM loads").fetchone() == (0,)
