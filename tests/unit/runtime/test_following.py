"""Following a run: what was, then what comes, until it ends; without gaps, and without a price for the run."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from support import happens

from poundlock import (
    Exclusive,
    InvalidEvent,
    PoundlockError,
    RunNotFound,
    Serialized,
    StepContext,
    StoreUnavailable,
    Terminate,
    Workflow,
    WorkflowRuntime,
    workflow,
)
from poundlock.errors import RuntimeStopped, WouldDeadlock, WrongLoop
from poundlock.model.changes import Changes, Committed, RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import LogRow
from poundlock.runtime.watching import MOST_REPORTS, MOST_ROWS, Watching
from poundlock.stores import MemoryStore
from poundlock.testing import run_until_idle


async def yielding():
    await asyncio.sleep(0)  # noqa: TID251 - it yields, for others


def gated(gate, id="w", **options):
    """Return a workflow of three stages that waits in the middle one.

    No step runs in a thread, so runs come to the gate, and end, in the order in which they began.
    """
    wf = Workflow(id, **options)
    wf.on("begin")

    @wf.step
    async def first():
        return {"a": 1}

    @wf.step
    async def middle():
        await gate()
        return {"b": 2}

    @wf.step
    async def last():
        return {"c": 3}

    return wf


def waiting(**options):
    wf = Workflow("w", **options)
    wf.on("begin")
    wf.wait("answer", on="answered", timeout=options.pop("timeout", None))

    @wf.step
    def last():
        return {"c": 3}

    return wf


async def begin(rt, **fields):
    [line] = (await rt.emit("begin", **fields)).lines
    return line.run_id


class Reader:
    """A task that follows a run, and what it got."""

    def __init__(self, rt, run_id, after=0):
        self.got = []
        self.error = None
        self.follower = rt.follow(run_id, after)
        self.task = asyncio.create_task(self._read())

    async def _read(self):
        try:
            async for entry in self.follower:
                self.got.append(entry)
        except PoundlockError as error:
            self.error = error

    @property
    def stored(self):
        return [entry for entry in self.got if not entry.live]

    @property
    def seqs(self):
        return [entry.seq for entry in self.stored]

    @property
    def types(self):
        return [entry.type for entry in self.got]


def untouched(rt):
    """Whether nobody follows, and nothing of it is left."""
    core = rt._core
    waiters = core.waiters
    return not core.watching.feeds and core.commit == core.store.commit and not waiters._end and not waiters._rest


async def test_a_run_that_has_ended(stores):
    """All that was comes, in order, and then it ends."""
    rt = await stores.enter(gated(yielding))
    run = await rt.run("w")
    entries = [entry async for entry in rt.follow(run.run_id)]
    assert entries == list((await rt.timeline(run.run_id)).entries)
    assert entries[-1].type == "pipeline:success"
    assert untouched(rt)


async def test_from_any_entry_on(stores):
    """With `after` only what is behind that entry comes, also behind the last one."""
    rt = await stores.enter(gated(yielding))
    run = await rt.run("w")
    whole = list((await rt.timeline(run.run_id)).entries)
    for after in range(len(whole) + 2):
        assert [entry async for entry in rt.follow(run.run_id, after=after)] == whole[after:]
    assert untouched(rt)


async def test_behind_the_end_of_a_run_that_is_under_way(stores, gate):
    """A follower of entries that the run never comes to ends with it, also if the run ends as the follower begins."""
    rt = await stores.enter(gated(gate))
    run_id = await begin(rt)
    await run_until_idle(stores)
    status = rt.store.status

    async def slowly(*args):
        found = await status(*args)
        del rt.store.status
        gate.open()
        await rt.wait(run_id)  # it ends after its status was read, and before the follower waits
        return found

    rt.store.status = slowly
    reader = Reader(rt, run_id, after=1000)
    assert await happens(asyncio.wait([reader.task]), stores.clock)
    assert (reader.got, reader.error) == ([], None)
    assert untouched(rt)


@pytest.mark.parametrize("durability", ["stage", "async", "exit", "none"])
async def test_entries_come_as_they_become_durable(stores, gate, durability):
    """Those of a boundary are there once it is committed, and each comes once; whatever the durability."""
    rt = await stores.enter(gated(gate, durability=durability))
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    assert reader.seqs == [entry.seq for entry in (await rt.timeline(run_id)).entries]
    assert not reader.task.done()
    gate.open()
    await reader.task
    assert reader.got == list((await rt.timeline(run_id)).entries)
    assert untouched(rt)


async def test_nothing_comes_before_it_is_durable(stores, gate):
    """While a commit is held, what it writes does not come; afterwards it does."""
    rt = await stores.enter(gated(gate))
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    for side in ("hold", "hold_after"):
        if side == "hold":
            rt.store.hold = lambda _changes: True
            gate.open()
        [held] = await rt.store.until_held()
        await run_until_idle(stores)
        stored = [entry.seq for entry in (await rt.timeline(run_id)).entries]
        assert reader.seqs == (stored if side == "hold" else stored[: len(reader.seqs)])
        rt.store.hold = None
        rt.store.hold_after = (lambda _changes: True) if side == "hold" else None
        held.release()
    await reader.task
    assert reader.got == list((await rt.timeline(run_id)).entries)


async def test_progress_comes_at_once(stores, gate):
    """What a step reports comes before its stage is committed, marked live; the last of it is stored too."""
    wf = Workflow("w")
    wf.on("begin")

    @wf.step
    async def load(ctx: StepContext):
        ctx.progress(1, 2, "half")
        ctx.heartbeat()
        await gate()
        ctx.progress(2, 2)

    rt = await stores.enter(wf)
    run_id = await begin(rt)
    await yielding()
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    early = [entry for entry in reader.got if entry.live]
    gate.open()
    await reader.task
    live = [entry for entry in reader.got if entry.live]
    assert [(entry.type, entry.payload) for entry in early] in (
        [
            ("step:progress", {"done": 1, "of": 2, "message": "half"}),
            ("step:heartbeat", None),
        ],
        [],  # it came before the follower
    )
    assert (live[-1].payload, live[-1].path) == ({"done": 2, "of": 2, "message": ""}, "main/load/load")
    assert live[-1].to_dict()["live"] is True
    assert reader.seqs == list(range(1, len(reader.seqs) + 1))
    [kept] = [entry for entry in reader.stored if entry.type == "step:progress"]
    assert kept.payload == live[-1].payload
    assert reader.got.index(live[-1]) < reader.got.index(kept)
    assert live[-1].seq == reader.got[reader.got.index(live[-1]) - 1].seq  # `after` goes on behind any entry


async def test_progress_from_threads_keeps_its_place(stores):
    """Reports of `def` steps come in their order, each behind what was stored before it."""
    wf = Workflow("w")
    wf.on("begin")
    wf.wait("go", on="go")
    told = threading.Event()

    @wf.step
    def one(ctx: StepContext):
        for n in range(3):
            ctx.progress(n)

    @wf.step
    def two(ctx: StepContext):
        for n in range(3):
            ctx.progress(n)
        told.set()

    rt = await stores.enter(wf)
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    await rt.emit("go")
    await reader.task
    assert told.is_set()
    live = [(entry.path.split("/")[1], entry.payload["done"]) for entry in reader.got if entry.live]
    assert live == [("one", 0), ("one", 1), ("one", 2), ("two", 0), ("two", 1), ("two", 2)]
    kinds = [(entry.type, entry.path.split("/")[1:2]) for entry in reader.got]
    assert kinds.index(("step:progress", ["two"])) > kinds.index(("stage:success", ["one"]))
    assert reader.got[-1].type == "pipeline:success"


async def test_a_paused_run(stores):
    """A follower waits through a pause of days, and goes on with the run."""
    rt = await stores.enter(waiting(timeout="9d"))
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    await stores.clock.run_for(days=3)
    assert reader.types[-1] == "pipeline:pause"
    assert not reader.task.done()
    await rt.emit("answered", by="Ada")
    await reader.task
    assert reader.got == list((await rt.timeline(run_id)).entries)


async def test_a_paused_run_that_only_a_row_is_left_of(stores):
    """A run that no process has in memory is followed by its row: the time-out wakes the follower."""
    rt = await stores.enter(waiting(timeout="9d"))
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    await rt.stop()
    rt = await stores.enter(waiting(timeout="9d"))
    reader = Reader(rt, run_id)
    await stores.clock.run_for(days=10)
    await reader.task
    assert reader.got == list((await rt.timeline(run_id)).entries)
    assert reader.types[-1] == "pipeline:failure"


async def test_a_queued_run_that_is_aborted(stores, gate):
    """Of a run that never began, the end comes."""
    rt = await stores.enter(gated(gate, mode=Serialized()))
    await begin(rt)
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    assert reader.types[-1] == "run:queued"
    await rt.abort(run_id, "not needed")
    await reader.task
    assert reader.types[-1] == "pipeline:abort"
    assert reader.got == list((await rt.timeline(run_id)).entries)
    gate.open()


async def test_a_queued_run_that_begins(stores, gate):
    """It is followed from the queue to its end."""
    rt = await stores.enter(gated(gate, mode=Serialized()))
    await begin(rt)
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    gate.open()
    await reader.task
    assert reader.got == list((await rt.timeline(run_id)).entries)
    assert reader.types[-1] == "pipeline:success"


async def test_a_superseded_run(stores, gate):
    """The end of a run that another one replaced in the queue comes too; it is part of an event's decision."""
    rt = await stores.enter(gated(gate, mode=Exclusive("queue_single")))
    await begin(rt)
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    await begin(rt)
    await reader.task
    assert reader.types[-1] == "pipeline:abort"
    gate.open()


async def test_an_invoked_run_before_its_first_commit(stores, gate):
    """A run that is not stored yet can be followed: what its steps report, and all that its first commit writes."""
    wf = Workflow("w")
    wf.on("begin")

    @wf.step
    async def load(ctx: StepContext):
        await gate()
        ctx.progress(1)
        await ctx.sleep(1)

    rt = await stores.enter(wf)
    task = asyncio.create_task(rt.run("w"))
    await run_until_idle(stores)
    [info] = rt.list_all_runs()
    reader = Reader(rt, info.run_id)
    await run_until_idle(stores)
    assert reader.got == []
    gate.open()
    await reader.task
    assert reader.got[0].live
    assert reader.got[0].seq == 0
    assert reader.stored == list((await rt.timeline(info.run_id)).entries)
    assert (await task).ok


async def test_a_failing_run(stores):
    """It ends with the failure."""
    wf = Workflow("w")

    @wf.on("begin")
    @wf.step
    def broken():
        raise ValueError("no")

    rt = await stores.enter(wf)
    run_id = await begin(rt)
    entries = [entry async for entry in rt.follow(run_id)]
    assert entries == list((await rt.timeline(run_id)).entries)
    assert entries[-1].type == "pipeline:failure"


@pytest.mark.parametrize("way", ["success", "failure", "abort"])
async def test_without_a_timeline(stores, gate, way):
    """With `timeline=False` what is reported comes, and the end; nothing of the deltas that are stored."""
    wf = Workflow("w")
    wf.on("begin")

    @wf.step
    def first():
        return {"a": 1}

    @wf.step
    async def second(ctx: StepContext):
        ctx.progress(1)
        await gate()
        ctx.progress(2)
        if way == "failure":
            raise ValueError("no")

    rt = await stores.enter(wf, timeline=False)
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    if way == "abort":
        await rt.abort(run_id, "enough")
    gate.open()
    await reader.task
    kinds = reader.types
    assert set(kinds[:-1]) <= {"step:progress"}
    assert kinds[-1] == f"pipeline:{way}"
    assert all(entry.live for entry in reader.got)
    again = [entry async for entry in rt.follow(run_id)]
    assert [entry.type for entry in again] == [f"pipeline:{way}"]
    assert again[0].payload == {
        "success": None,
        "failure": {"type": "ValueError", "message": "no", "code": None},
        "abort": {"type": "RunAborted", "message": "aborted: enough", "code": "RUN_ABORTED"},
    }[way] or (way == "abort" and "enough" in again[0].payload["message"])
    assert untouched(rt)


async def test_the_end_of_a_run_whose_timeline_was_not_kept(stores, gate):
    """A run that ended without a timeline, followed with one: its deltas come, and an end that stands for it."""
    rt = await stores.enter(gated(yielding), timeline=False)
    run = await rt.run("w")
    await rt.stop()
    rt = await stores.enter(gated(gate))
    entries = [entry async for entry in rt.follow(run.run_id)]
    assert [(entry.type, entry.live) for entry in entries][-1] == ("pipeline:success", True)
    assert not any(entry.live for entry in entries[:-1])


async def test_an_unknown_run(stores, gate):
    """It is an error at the first entry that is asked for; a wrong `after` at once."""
    rt = await stores.enter(gated(gate))
    follower = rt.follow("nobody")
    with pytest.raises(RunNotFound):
        await anext(follower)
    with pytest.raises(StopAsyncIteration):
        await anext(follower)
    for after in (-1, 1.5, True, "1"):
        with pytest.raises(InvalidEvent, match="after"):
            rt.follow("nobody", after)
    assert untouched(rt)


async def test_a_run_that_is_deleted_meanwhile(vclock, gate):
    """A follower that was away while its run ended and was deleted gets an error that says so."""
    async with WorkflowRuntime(gated(gate), store=MemoryStore(keep=1), clock=vclock) as rt:
        run_id = await begin(rt)
        follower = rt.follow(run_id)
        await anext(follower)
        async with asyncio.timeout(None):
            waiting = asyncio.create_task(_all(follower))
            await run_until_idle(vclock)
            waiting.cancel()
            await asyncio.wait([waiting])
        gate.open()
        await rt.wait(run_id)
        for _ in range(3):
            await rt.wait(await begin(rt))
        with pytest.raises(RunNotFound, match="was deleted while it was followed"):
            await anext(follower)
        assert untouched(rt)


async def _all(follower):
    return [entry async for entry in follower]


async def test_deleted_as_it_ends(vclock, gate):
    """A follower that waits gets the end, even if the run is deleted in the same moment."""
    async with WorkflowRuntime(gated(gate), store=MemoryStore(keep=0), clock=vclock) as rt:
        run_id = await begin(rt)
        readers = [Reader(rt, run_id) for _ in range(3)]
        for _ in range(5):
            await begin(rt)
        await run_until_idle(vclock)
        gate.open()
        for reader in readers:
            await reader.task
            assert reader.types[-1] == "pipeline:success"
            assert reader.seqs == list(range(1, len(reader.seqs) + 1))
        await run_until_idle(vclock)  # it is deleted at the end of another one
        with pytest.raises(RunNotFound):
            await rt.get_run(run_id)


def looping(rounds):
    wf = Workflow("loop")
    wf.on("begin")

    @wf.step(then="go")
    def go(n: int = 0):
        return Terminate("done", patch={"n": n + 1}) if n + 1 == rounds else {"n": n + 1}

    return wf


async def test_a_slow_follower_misses_nothing_and_holds_nothing_up(stores):
    """A run goes on while a follower takes no entry; what is kept for it is bounded; then it gets all of them."""
    rt = await stores.enter(looping(300))
    task = asyncio.create_task(rt.run("loop", {}))
    await yielding()
    run_id = rt.list_all_runs()[0].run_id
    slow = rt.follow(run_id)
    first = await anext(slow)
    assert (await task).result == "done"
    [feed] = rt._core.watching.feeds.values()
    assert len(feed._rows) <= MOST_ROWS
    rest = await _all(slow)
    assert [first, *rest] == list((await rt.timeline(run_id)).entries)


async def test_a_long_log_holds_nobody_up(stores):
    """Who reads a long log lets others run in between, also where nothing has to be waited for."""
    rt = await stores.enter(looping(1000))
    run = await rt.run("loop", {})
    turns = []

    async def others():
        while True:
            await yielding()
            turns.append(len(got))

    got, task = [], asyncio.create_task(others())
    async for entry in rt.follow(run.run_id):
        got.append(entry)  # noqa: PERF401 - each turn is counted
    task.cancel()
    assert len(set(turns)) >= 1000 // 64


async def test_reports_that_a_slow_follower_misses(stores, gate):
    """Only the last reports are kept; a follower that missed some gets to know how many, in their place."""
    wf = Workflow("w")
    wf.on("begin")

    @wf.step
    async def load(ctx: StepContext):
        await gate()
        for n in range(1000):
            ctx.progress(n)

    rt = await stores.enter(wf)
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    gate.open()
    await reader.task
    live = [entry for entry in reader.got if entry.live]
    assert (live[0].type, live[0].payload) == ("follow:dropped", {"entries": 1000 - MOST_REPORTS})
    assert [entry.payload["done"] for entry in live[1:]] == list(range(1000 - MOST_REPORTS, 1000))
    assert reader.stored == list((await rt.timeline(run_id)).entries)


async def test_many_followers_share_what_comes(stores, gate):
    """Two hundred followers of one run all get everything, and do not read the store for each commit."""
    rt = await stores.enter(gated(gate))
    run_id = await begin(rt)
    readers = [Reader(rt, run_id) for _ in range(200)]
    await run_until_idle(stores)
    reads = []
    history = rt.store.history

    async def counted(*args):
        reads.append(args)
        return await history(*args)

    rt.store.history = counted
    gate.open()
    for reader in readers:
        await reader.task
    assert reads == []
    whole = list((await rt.timeline(run_id)).entries)
    assert all(reader.got == whole for reader in readers)
    readers[0].got[-1].payload, readers[0].got[0].payload  # entries are each follower's own
    owned = [next(entry for entry in reader.got if entry.patch) for reader in readers[:2]]
    assert owned[0].patch is not owned[1].patch
    assert untouched(rt)


async def test_a_cancelled_follower_leaves_nothing(stores, gate):
    """The task is gone and so is all that was kept for it; the run does not notice."""
    rt = await stores.enter(gated(gate))
    run_id = await begin(rt)
    readers = [Reader(rt, run_id) for _ in range(2)]
    await run_until_idle(stores)
    for reader in readers:
        assert not untouched(rt)
        reader.task.cancel()
        await asyncio.wait([reader.task])
    assert untouched(rt)
    gate.open()
    assert (await rt.wait(run_id)).ok


async def test_a_cancelled_wait_loses_nothing(stores, gate):
    """After a timeout around one `anext`, the next one goes on behind the last entry."""
    rt = await stores.enter(gated(gate))
    run_id = await begin(rt)
    await run_until_idle(stores)
    follower = rt.follow(run_id)
    got = [await anext(follower) for _ in (await rt.timeline(run_id)).entries]
    waiting = asyncio.create_task(anext(follower))
    await run_until_idle(stores)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert untouched(rt)
    gate.open()
    await rt.wait(run_id)
    got += await _all(follower)
    assert got == list((await rt.timeline(run_id)).entries)


async def test_a_dropped_follower_leaves_nothing(stores, gate):
    """One that is left by `break`, and not closed, is gone with its last reference."""
    rt = await stores.enter(gated(gate))
    run_id = await begin(rt)
    async for _ in rt.follow(run_id):
        break
    gc.collect()
    await run_until_idle(stores)
    assert untouched(rt)
    rt.follow(run_id)  # one that was never used has nothing to leave
    gate.open()


async def test_closing_a_follower(stores, gate):
    """`aclose` ends it, also for a task that waits for an entry; a second call does nothing."""
    rt = await stores.enter(gated(gate))
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    with pytest.raises(RuntimeError, match="another task"):
        await anext(reader.follower)
    await reader.follower.aclose()
    await reader.follower.aclose()
    await reader.task
    assert reader.error is None
    assert untouched(rt)
    gate.open()


async def test_another_event_loop(stores, gate):
    """A runtime is followed on its own loop only; the error says so and changes nothing."""
    rt = await stores.enter(gated(gate))
    run_id = await begin(rt)
    follower = rt.follow(run_id)
    first = await anext(follower)

    async def elsewhere():
        with pytest.raises(WrongLoop):
            rt.follow(run_id)
        with pytest.raises(WrongLoop):
            await anext(follower)

    await asyncio.to_thread(asyncio.run, elsewhere())
    gate.open()
    assert [first, *await _all(follower)] == list((await rt.timeline(run_id)).entries)


async def test_two_runtimes_on_two_loops(vclock, tmp_path):
    """Each follows its own runs, at the same time."""

    async def elsewhere():
        async with WorkflowRuntime(looping(20)) as rt:
            run_id = (await rt.emit("begin")).run_ids[0]
            return [entry.seq async for entry in rt.follow(run_id)]

    async with WorkflowRuntime(looping(20)) as rt:
        other = asyncio.to_thread(asyncio.run, elsewhere())
        run_id = (await rt.emit("begin")).run_ids[0]
        mine = [entry.seq async for entry in rt.follow(run_id)]
        assert mine == await other == list(range(1, len(mine) + 1))


async def test_the_runtime_stops(stores, gate):
    """Followers end with an error that says how to go on; with the next runtime they do, without a gap."""
    rt = await stores.enter(gated(gate))
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    away = rt.follow(run_id)
    got = [await anext(away)]
    await run_until_idle(stores)
    await rt.stop(drain=0)
    await reader.task
    assert isinstance(reader.error, RuntimeStopped)
    with pytest.raises(RuntimeStopped, match="from the last entry on"):
        await _all(away)
    assert got == reader.got[:1]
    gate.open()
    rt = await stores.enter(gated(gate))
    rest = await _all(rt.follow(run_id, after=reader.got[-1].seq))
    assert reader.got + rest == list((await rt.timeline(run_id)).entries)


async def test_a_run_that_ends_while_the_runtime_stops(stores, gate):
    """The end that a run reaches in the drain comes."""
    wf = Workflow("w")

    @wf.on("begin")
    @wf.step
    async def only():
        await gate()

    rt = await stores.enter(wf)
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    stopping = asyncio.create_task(rt.stop(drain=60))
    await run_until_idle(stores)
    gate.open()
    await stopping
    await reader.task
    assert (reader.error, reader.types[-1]) == (None, "pipeline:success")


async def test_before_the_start(vclock):
    """A runtime that was not started has nobody to follow."""
    rt = WorkflowRuntime(looping(2), clock=vclock)
    with pytest.raises(RuntimeStopped):
        await anext(rt.follow("r"))


async def test_a_step_that_follows_its_own_run(stores):
    """It gets what was, and is then refused to wait for what cannot come."""
    seen = []
    wf = Workflow("w")

    @wf.on("begin")
    @wf.step
    async def own(ctx: StepContext):
        try:
            async for entry in rt.follow(ctx.run_id):
                seen.append(entry.type)  # noqa: PERF401 - it ends with an error
        except WouldDeadlock:
            seen.append("refused")

    rt = await stores.enter(wf)
    run_id = await begin(rt)
    assert (await rt.wait(run_id)).ok
    assert seen[-1:] == ["refused"]
    assert seen[0] == "run:created"
    assert untouched(rt)


async def test_a_step_that_follows_another_run(stores, gate):
    """That is fine, if the other one does not wait for it."""
    wf = Workflow("outer")

    @wf.on("outer.begin")
    @wf.step
    async def watch(other: str):
        return {"seen": [entry.type async for entry in rt.follow(other)][-1]}

    rt = await stores.enter(wf, gated(gate))
    run_id = await begin(rt)
    outer = asyncio.create_task(rt.run("outer", other=run_id))
    await run_until_idle(stores)
    gate.open()
    assert (await outer).state["seen"] == "pipeline:success"


async def test_a_run_that_was_tried_again(stores, gate):
    """An end that lies behind does not end a follower of the run as it goes on; the next end does."""
    rt = await stores.enter(waiting())
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    record = await rt.store.load(run_id)
    old = '[[0.0,"pipeline","pipeline:failure","main",null,null],[0.0,"pipeline","run:retry","main",null,null]]'

    move = RunMove.of(
        record, RunStatus.RUNNING, now=0.0, owner=rt._core.worker, log=LogRow(record.head.log_seq + 1, 2, old)
    )
    await rt.store.commit(move._replace(status=RunStatus.PAUSED, owner=None, waits=record.waits))
    await rt.stop()
    rt = await stores.enter(waiting())
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    assert reader.types[-2:] == ["pipeline:failure", "run:retry"]
    await rt.emit("answered")
    await reader.task
    assert reader.types.count("pipeline:success") == 1
    assert reader.got == list((await rt.timeline(run_id)).entries)


async def test_a_failed_run_that_is_retried(stores):
    """A follower ends at the first end that it sees; one that comes after the retry gets the whole, to the last end."""
    wf, broken = Workflow("w"), [True]

    @wf.on("begin")
    @wf.step
    def load():
        if broken:
            raise ValueError("no header")

    rt = await stores.enter(wf)
    run_id = await begin(rt)
    first = await _all(rt.follow(run_id))
    assert first[-1].type == "pipeline:failure"
    broken.clear()
    early = Reader(rt, run_id)
    await early.task  # it had ended
    assert early.got == first
    await rt.retry(run_id)
    late = await _all(rt.follow(run_id))
    assert (late[-1].type, late[: len(first)]) == ("pipeline:success", first)
    assert late == list((await rt.timeline(run_id)).entries)
    assert await _all(rt.follow(run_id, after=first[-1].seq)) == late[len(first) :]
    assert untouched(rt)


async def test_a_durable_function(stores, gate):
    """Its operations come as they are recorded."""

    async def work():
        await gate()
        return 1

    @workflow("fn", on="begin")
    async def fn(step, event):
        await step.run(lambda: 0, key="zero")
        return await step.run(work, key="one")

    rt = await stores.enter(fn)
    run_id = await begin(rt)
    reader = Reader(rt, run_id)
    await run_until_idle(stores)
    assert not reader.task.done()
    gate.open()
    await reader.task
    assert reader.stored == list((await rt.timeline(run_id)).entries)
    assert reader.types[-1] == "pipeline:success"


async def test_a_store_that_cannot_be_read(stores, gate):
    """The follower gets the error; the run goes on, and another follower gets everything."""
    rt = await stores.enter(gated(gate))
    run_id = await begin(rt)

    async def broken(*_args):
        raise StoreUnavailable("gone")

    rt.store.history = broken
    with pytest.raises(StoreUnavailable):
        await anext(rt.follow(run_id))
    del rt.store.history
    gate.open()
    assert await _all(rt.follow(run_id)) == list((await rt.timeline(run_id)).entries)
    assert untouched(rt)


async def test_a_crash_at_every_commit(stores, gate):
    """What a follower got is what the store has; behind it the next one goes on, without a gap or a double."""
    gate.open()
    for number in range(1, 20):
        for side in ("before", "after"):
            rt = await stores.enter(gated(gate))
            run_id = await begin(rt)
            reader = Reader(rt, run_id)
            rt.store.crash = (rt.store.commits + number, side)
            crashed = await happens(rt.store.crashed.wait(), stores.clock)
            await run_until_idle(stores)
            await stores.crash(rt)
            reader.task.cancel()
            await asyncio.wait([reader.task])
            rt = await stores.enter(gated(gate))
            got = [*reader.got, *await _all(rt.follow(run_id, after=reader.got[-1].seq if reader.got else 0))]
            assert got == list((await rt.timeline(run_id)).entries)
            assert got[-1].type == "pipeline:success"
            await rt.stop()
            if not crashed:
                return
    raise AssertionError("the commits do not end")


class Futures:
    """A store whose commits are futures, as those of one with a thread."""

    def __init__(self):
        self.commits = []
        self.behind = []

    def commit(self, work):
        answer = asyncio.get_running_loop().create_future()
        self.commits.append(answer)
        return answer

    async def written_behind(self):
        answer = asyncio.get_running_loop().create_future()
        self.behind.append(answer)
        await answer


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_a_commit_whose_answer_is_lost(vclock, how):
    """Its followers look at the store once it is decided whether it was written."""
    store, tasks, commits = Futures(), set(), []

    def spawn(work):
        tasks.add(asyncio.create_task(work))

    watching = Watching(store, spawn, commits.append)
    feed = watching.join("r1")
    move = RunMove(
        "r1", 1, 1, None, RunStatus.RUNNING, "w", 1, "s", 1, None, None, False, 0.0, None, None, (), None, None
    )
    answer = commits[-1](Changes(moves=(move,), now=0.0))
    if how == "cancelled":
        answer.cancel()
    else:
        answer.set_exception(StoreUnavailable("unknown"))
    await run_until_idle(vclock)
    assert feed.news == 0
    store.behind[0].set_result(None)
    await asyncio.wait(tasks)
    assert feed.news == 1
    assert feed.rows_since(0, 0) is None
    commits[-1](move).set_result(Committed(()))
    await run_until_idle(vclock)
    assert feed.news == 2
    assert watching.leave(feed)
    assert commits[-1] == store.commit


def test_the_runtime_commits_in_one_place():
    """Nothing in the runtime calls the store's own `commit`: those who watch would not hear of it."""
    from pathlib import Path

    import poundlock.runtime

    folder = Path(poundlock.runtime.__file__).parent
    for file in folder.rglob("*.py"):
        if file.name not in ("core.py", "watching.py", "vacuuming.py"):  # the last one deletes, also without a runtime
            assert "store.commit" not in file.read_text(encoding="utf-8"), f"{file.name}: call `core.commit`"
