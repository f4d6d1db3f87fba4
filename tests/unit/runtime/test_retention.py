"""Ended runs, dead letters and receipts are kept as long as retention says, and nothing else is ever deleted."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from support import happens, until_crash

from poundlock import (
    Children,
    Event,
    InvalidDefinition,
    Pause,
    Pipeline,
    Retention,
    RunNotFound,
    Stage,
    Step,
    Trigger,
    Wait,
    Workflow,
    WorkflowRuntime,
)
from poundlock.runtime import vacuuming
from poundlock.runtime.commands import Vacuum
from poundlock.stores.sqlite import SqliteStore
from poundlock.testing import run_until_idle

HOUR = 3600.0


@pytest.fixture(autouse=True)
def by_itself(request, monkeypatch):
    """Passes in the background come once an hour where a test asks for this, else never."""
    if "by_itself" not in request.node.name:
        monkeypatch.setattr(vacuuming, "EVERY", 1e9)


def orders(id="orders", **options):
    """Runs that complete or fail, as their payload says."""
    wf = Workflow(id, **options)

    @wf.on(f"{id}.placed")
    @wf.step
    def reserve(end="completes"):
        if end == "fails":
            raise ValueError("no stock")
        return {"reserved": end}

    return wf


def pausing(id="slow", **options):
    wf = Workflow(id, **options)

    @wf.step
    def begin():
        return {"begun": True}

    wf.wait("approval", on=f"{id}.approved")
    return wf


def family(id="family", count=3, **options):
    """A run with children."""
    children = Pipeline("child", [Stage("work", [Step("do", lambda item: {"done": item})])])
    main = Pipeline("main", [Stage("each", children=Children("child", over="items", into="results"))])
    return Workflow(id, pipelines=[main, children], triggers={"go": Trigger(f"{id}.go", pipeline="main")}, **options)


async def ids(rt):
    """The ids of all stored runs."""
    found, cursor = [], None
    while True:
        page = await rt.find_runs(limit=500, cursor=cursor)
        found += [run.run_id for run in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return set(found)


# ------------------------------------------------------------------------------------------------- what is deleted
async def test_ended_runs_go_when_they_are_old_enough(stores, vclock):
    """By age from their end; a run younger than that, and one that has not ended, stays."""
    rt = await stores.enter(orders(retention=Retention(ended_runs="2d")), pausing(retention=Retention(ended_runs=0)))
    old = await rt.run("orders")
    paused = await rt.run("slow")
    vclock.advance(days=1)
    young = await rt.run("orders")
    assert (await rt.vacuum()).runs == 0
    vclock.advance(days=1)
    done = await rt.vacuum()
    assert (done.runs, dict(done.by_workflow), done.done) == (1, {"orders": 1}, True)
    assert await ids(rt) == {young.run_id, paused.run_id}
    for read in (rt.get_run, rt.timeline, rt.wait):
        with pytest.raises(RunNotFound):
            await read(old.run_id)
    assert (await rt.resume(paused.run_id)).status == "completed"


async def test_each_status_has_its_own_time(stores, vclock):
    """Failed runs may be kept longer than completed ones, or for ever."""
    rt = await stores.enter(orders(retention=Retention(ended_runs="1d", failed="10d", aborted=None)))
    for end in ("completes", "fails"):
        await rt.run("orders", end=end)
    vclock.advance(days=2)
    assert (await rt.vacuum()).runs == 1
    [left] = (await rt.find_runs()).items
    assert left.status == "failed"
    vclock.advance(days=9)
    assert (await rt.vacuum()).runs == 1


async def test_a_count_keeps_the_newest(stores, vclock):
    """At most so many ended runs of each workflow are kept, whatever their age; the oldest go first."""
    rt = await stores.enter(orders(), orders("others"), retention=Retention(count=3))
    made = [(await rt.run("orders")).run_id for _ in range(5)]
    others = [(await rt.run("others")).run_id for _ in range(2)]
    assert (await rt.vacuum()).runs == 2
    assert await ids(rt) == {*made[2:], *others}
    assert (await rt.vacuum()).runs == 0


async def test_a_workflow_says_it_before_the_runtime(stores, vclock):
    """The runtime's retention holds for the workflows without one; others' runs are left alone."""
    rt = await stores.enter(orders("gone"))
    await rt.run("gone")
    await rt.stop()
    kept = orders("kept", retention=Retention())
    rt = await stores.enter(kept, orders("plain"), retention=Retention(ended_runs="1d"))
    await rt.run("kept")
    await rt.run("plain")
    vclock.advance(days=30)
    assert dict((await rt.vacuum()).by_workflow) == {"plain": 1}
    assert dict((await rt.vacuum(older_than="20d")).by_workflow) == {"kept": 1, "gone": 1}


async def test_nothing_is_deleted_without_a_retention(stores, vclock):
    """By default ended runs are kept for ever, and nothing is planned."""
    rt = await stores.enter(orders())
    await rt.run("orders")
    before = vclock.pending
    vclock.advance(days=4000)
    assert (await rt.vacuum()).runs == 0
    assert len(await ids(rt)) == 1
    assert vclock.pending <= before


async def test_a_dry_run_only_counts(stores, vclock):
    """It says what the same call would delete, and deletes nothing."""
    rt = await stores.enter(family(retention=Retention(ended_runs="1d")))
    await rt.run("family", items=[1, 2, 3])
    vclock.advance(days=2)
    would = await rt.vacuum(dry_run=True)
    assert (would.runs, would.children) == (4, 3)
    assert len(await ids(rt)) == 4
    assert await rt.dispatch(Vacuum()) == would


async def test_a_limit_bounds_one_call(stores, vclock):
    """A call deletes at most so many runs; repeated calls finish."""
    rt = await stores.enter(orders(retention=Retention(ended_runs="1d")))
    for _ in range(7):
        await rt.run("orders")
    vclock.advance(days=2)
    calls = [await rt.vacuum(limit=3) for _ in range(3)]
    assert [(done.runs, done.done) for done in calls] == [(3, False), (3, False), (1, True)]


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"limit": "all"}, {"older_than": "soon"}, {"older_than": -1}])
async def test_arguments_are_checked(stores, arguments):
    """A wrong argument is refused by its name, and nothing is deleted."""
    rt = await stores.enter(orders(retention=Retention(ended_runs=0)))
    await rt.run("orders")
    with pytest.raises(InvalidDefinition) as refused:
        await rt.vacuum(**arguments)
    assert refused.value.path in arguments
    assert len(await ids(rt)) == 1


# ------------------------------------------------------------------------------------------------- what never goes
async def test_a_run_that_somebody_needs_here_stays(stores, vclock):
    """While its hook runs it stays; afterwards it goes."""
    rt = await stores.enter()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def on_complete(_result):
        entered.set()
        await leave.wait()

    await rt.register(orders(retention=Retention(ended_runs=0)), on_complete=on_complete)
    running = asyncio.create_task(rt.run("orders"))
    await entered.wait()
    assert (await rt.vacuum()).runs == 0
    leave.set()
    assert (await running).ok
    await run_until_idle(vclock)
    assert (await rt.vacuum()).runs == 1


async def test_a_run_that_somebody_follows_stays(stores, vclock):
    """Whoever is reading its entries gets all of them."""
    rt = await stores.enter(orders(retention=Retention(ended_runs=0)))
    result = await rt.run("orders")
    follower = rt.follow(result.run_id)
    await anext(follower)
    assert (await rt.vacuum()).runs == 0
    assert len([entry async for entry in follower]) > 3
    assert (await rt.vacuum()).runs == 1


async def test_a_run_whose_hooks_are_pending_stays(stores, vclock):
    """After a crash in its hook it is kept until the hook was called, also while its workflow is not registered."""
    store = stores.store()
    rt = await stores.enter(store=store)
    called = []
    entered = asyncio.Event()

    async def on_complete(_result):
        entered.set()
        await asyncio.get_running_loop().create_future()

    await rt.register(orders(), on_complete=on_complete)
    running = asyncio.create_task(rt.run("orders"))
    await entered.wait()
    await stores.crash(rt)
    running.cancel()
    rt = await stores.enter()
    vclock.advance(days=1)
    assert (await rt.vacuum(older_than=0)).runs == 0
    await rt.register(orders(), on_complete=lambda result: called.append(result.run_id))
    await run_until_idle(vclock)
    assert len(called) == 1
    assert (await rt.vacuum(older_than=0)).runs == 1


async def test_a_family_goes_together(stores, vclock):
    """Children stay as long as their parent, whatever their own workflow says, and go with it."""
    rt = await stores.enter(family(retention=Retention(ended_runs="5d", count=1)))
    await rt.run("family", items=list(range(120)))
    vclock.advance(days=4)
    assert (await rt.vacuum()).runs == 0
    vclock.advance(days=2)
    done = await rt.vacuum()
    assert (done.runs, done.children) == (121, 120)
    assert await ids(rt) == set()


async def test_children_of_a_paused_parent_stay(stores, vclock):
    """A child that has ended is not deleted while its parent goes on."""
    child = Pipeline("child", [Stage("work", [Step("do", lambda: {"done": 1})])])
    wait = Stage("approval", router=Pause(Wait("approved")))
    main = Pipeline("main", [Stage("fork", children=Children(["child"], into="results")), wait])
    rt = await stores.enter(Workflow("parent", retention=Retention(ended_runs=0), pipelines=[main, child]))
    result = await rt.run("parent")
    assert result.status == "paused"
    vclock.advance(days=1)
    assert (await rt.vacuum()).runs == 0
    assert len(await ids(rt)) == 2
    await rt.resume(result.run_id)
    await run_until_idle(vclock)
    assert (await rt.vacuum()).runs == 2


async def test_a_run_whose_events_are_to_be_delivered_stays(stores, vclock):
    """What a run has emitted leaves first; its dead letters go with it, or by their own time."""
    rt = await stores.enter()
    wf = Workflow("sender", retention=Retention(ended_runs=0))

    @wf.step
    def send(ctx):
        ctx.emit(Event("out.of.here"))

    store = rt.store
    store.hold = lambda changes: bool(changes.outbox)
    await rt.register(wf)
    result = await rt.run("sender")
    await run_until_idle(vclock)
    assert rt.statistics()["outbox"] == 1
    assert (await rt.vacuum()).runs == 0
    store.hold = None
    for held in list(store.held):
        held.release()
    await run_until_idle(vclock)
    assert (await rt.vacuum()).runs == 1
    assert result.ok


async def test_an_idempotency_key_lives_as_long_as_its_run(stores, vclock):
    """While the run is kept its result is returned; after that the key begins a new run."""
    rt = await stores.enter(orders(retention=Retention(ended_runs="1d")))
    first = await rt.invoke("orders", idempotency_key="k")
    assert (await rt.invoke("orders", idempotency_key="k")).run_id == first.run_id
    vclock.advance(days=2)
    await rt.vacuum()
    assert (await rt.invoke("orders", idempotency_key="k")).run_id != first.run_id


async def test_a_run_that_changes_meanwhile_stays(stores, vclock):
    """A commit that comes between the look at a run and its deletion keeps it, and its children; others go."""
    rt = await stores.enter(family(retention=Retention(ended_runs=0)))
    results = [await rt.run("family", items=[1]) for _ in range(2)]
    await run_until_idle(vclock)
    store = rt.store
    store.hold = lambda changes: bool(changes.deletes)
    deleting = asyncio.create_task(rt.vacuum())
    await store.until_held()
    revived = await store.inner.load(results[0].run_id)
    _touch(store.inner, revived)
    store.hold = None
    for held in list(store.held):
        held.release()
    done = await deleting
    assert (done.runs, done.children) == (2, 1)
    left = await ids(rt)
    assert results[0].run_id in left
    assert len(left) == 2


def _touch(inner, record):
    """Change a run's version as a command that begins it again would."""
    run_id = record.identity.run_id
    if isinstance(inner, SqliteStore):
        with closing(sqlite3.connect(inner.path)) as connection:
            connection.execute("UPDATE runs SET version = version + 1 WHERE run_id = ?", (run_id,))
            connection.commit()
    else:
        inner._rows[run_id].version += 1


# ------------------------------------------------------------------------------------------------- by itself
async def test_it_happens_by_itself(stores, vclock):
    """Once an hour, beside the work, without anybody asking."""
    rt = await stores.enter(orders(retention=Retention(ended_runs="1d")))
    await rt.run("orders")
    vclock.advance(days=1)
    for _ in range(30):
        if not await ids(rt):
            break
        await vclock.run_for(HOUR / 10)
    assert await ids(rt) == set()
    young = await rt.run("orders")
    await vclock.run_for(3 * HOUR)
    assert await ids(rt) == {young.run_id}


async def test_it_happens_by_itself_to_receipts_too(stores, vclock):
    """A runtime that has little to do deletes receipts when their time is over, and not only beside other commits."""
    retention = Retention(receipts="2d", unwanted_events="1h")
    wf = orders()
    wf.on("order", dedupe="1d")
    rt = await stores.enter(wf, retention=retention)
    wanted, unwanted = await rt.emit("order"), await rt.emit("nobody")
    await wanted.results()

    async def kept(receipt):
        return await rt.store.receipt("", receipt.event.id) is not None

    assert (await kept(wanted), await kept(unwanted)) == (True, True)
    await vclock.run_for(4 * HOUR)
    assert (await kept(wanted), await kept(unwanted)) == (True, False)
    await vclock.run_for(50 * HOUR)
    assert not await kept(wanted)


async def test_dead_letters_have_a_time_of_their_own(stores, vclock):
    """They are deleted so long after they were given up, whatever becomes of their run."""
    rt = await stores.enter(retention=Retention(dead_letters="3d"))
    wf = Workflow("sender")

    @wf.step
    def send(ctx):
        ctx.emit(Event("strict.in", {"n": "x"}))

    strict = Workflow("strict", triggers={"in": Trigger("strict.in", map=lambda event: 1 / 0)})

    @strict.step
    def never():
        return {}

    await rt.register(wf)
    await rt.register(strict)
    await rt.run("sender")
    await vclock.run_for(3600)
    assert len(await rt.dead_letters()) == 1
    vclock.advance(days=1)
    assert (await rt.vacuum()).dead_letters == 0
    vclock.advance(days=3)
    await rt.vacuum()
    assert await rt.dead_letters() == []
    assert len(await ids(rt)) == 1


# ------------------------------------------------------------------------------------------------- crashes
@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_crash_at_any_commit_of_a_vacuum(stores, vclock, where):
    """Whichever commit the process dies at: no child goes before its parent, and the next call finishes."""
    wf = lambda: family(retention=Retention(ended_runs="1d"))  # noqa: E731 - a new one for each runtime
    number = 0
    while True:
        number += 1
        rt = await stores.enter(wf())
        kept = await rt.run("family", items=[])
        old = await rt.run("family", items=list(range(330)))
        await rt.stop()
        vclock.advance(days=2)
        store = stores.store()
        rt = await stores.enter(wf(), store=store)
        young = await rt.run("family", items=[1])
        store.crash = (store.commits + number, where)
        over = await until_crash(store, rt.vacuum())
        await stores.crash(rt)
        rt = await stores.enter(wf())
        before = await _all(rt)
        children = [run for run in before if run.parent_id == old.run_id]
        assert len(children) == 330 or old.run_id not in {run.run_id for run in before}
        again = await rt.vacuum()
        assert again.done
        assert young.run_id in await ids(rt)
        assert len(await ids(rt)) == 2
        assert kept.run_id not in await ids(rt)
        vclock.advance(days=2)
        await rt.vacuum()
        assert await ids(rt) == set()
        await rt.stop()
        if over:
            assert number > 4
            return


async def _all(rt):
    found, cursor = [], None
    while True:
        page = await rt.find_runs(limit=500, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


# ------------------------------------------------------------------------------------------------- definitions
def test_a_retention_is_checked():
    """Each wrong value is named; what belongs to events is refused at a workflow."""
    wf = orders(retention=Retention(ended_runs="soon", failed="longer", count=-1, receipts="1d"))
    with pytest.raises(InvalidDefinition) as refused:
        _ = wf.definition
    paths = [path for path, _ in refused.value.fields["faults"]]
    assert paths == ["retention.ended_runs", "retention.failed", "retention.count", "retention.receipts"]
    with pytest.raises(InvalidDefinition, match="is not a Retention"):
        _ = orders(retention="30d").definition
    with pytest.raises(InvalidDefinition, match=r"retention\.receipts"):
        WorkflowRuntime(retention=Retention(receipts=None))
    WorkflowRuntime(retention=Retention(ended_runs="30d", dead_letters=None, receipts="1d"))


# ------------------------------------------------------------------------------------------------- many dead letters
def giving_up(count):
    """A run that emits so many events that nobody can take."""
    sender = Workflow("sender", retention=Retention(ended_runs=0))

    @sender.step
    def send(ctx):
        for number in range(count):
            ctx.emit(Event("strict.in", {"n": number}))

    strict = Workflow("strict", triggers={"in": Trigger("strict.in", map=lambda event: 1 / 0)})

    @strict.step
    def never():
        return {}

    return [sender, strict]


async def _given_up(rt, vclock, count):
    await rt.run("sender")
    await vclock.run_for(3600)
    assert len(await rt.dead_letters(limit=100)) == count


@pytest.mark.parametrize("count", [2, 3, 6, 7])
async def test_all_dead_letters_go_with_their_run(stores, vclock, monkeypatch, count):
    """Also more than one commit deletes: none stays behind without its run, and no commit is larger than others."""
    monkeypatch.setattr(vacuuming, "_ROWS", 3)
    rt = await stores.enter(*giving_up(count))
    await _given_up(rt, vclock, count)
    would = await rt.vacuum(dry_run=True)
    assert (would.runs, would.dead_letters) == (1, count)
    assert len(await rt.dead_letters(limit=100)) == count
    rt.store.written.clear()
    done = await rt.vacuum()
    assert (done.runs, done.dead_letters, done.done) == (1, count, True)
    assert await rt.dead_letters() == []
    assert await ids(rt) == set()
    assert max(len(changes.outbox) for changes in rt.store.written) <= 3


async def test_a_run_whose_letter_is_replayed_meanwhile_stays(stores, vclock, monkeypatch):
    """It has an event to be delivered then: the next pass looks at it again, and what was deleted stays so."""
    monkeypatch.setattr(vacuuming, "_ROWS", 3)
    rt = await stores.enter(*giving_up(7))
    await _given_up(rt, vclock, 7)
    rt.store.hold = lambda changes: bool(changes.outbox)
    deleting = asyncio.create_task(rt.vacuum())
    [held] = await rt.store.until_held()
    rt.store.hold = None
    for letter in (await rt.dead_letters(limit=100))[:3]:
        await rt.replay(letter.id)
    held.release()
    assert (await deleting).runs == 0
    assert len(await ids(rt)) == 1
    await vclock.run_for(3600)
    assert (await rt.vacuum()).runs == 1
    assert await rt.dead_letters() == []


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_crash_while_many_letters_go(stores, vclock, monkeypatch, number, where):
    """Whatever was deleted by then, the next runtime deletes the rest."""
    monkeypatch.setattr(vacuuming, "_ROWS", 3)
    rt = await stores.enter(*giving_up(7))
    await _given_up(rt, vclock, 7)
    rt.store.crash = (rt.store.commits + number, where)
    deleting = asyncio.create_task(rt.vacuum())
    assert await happens(rt.store.crashed.wait(), vclock)
    await stores.crash(rt)
    deleting.cancel()
    rt = await stores.enter(*giving_up(7))
    await rt.vacuum()
    assert await rt.dead_letters() == []
    assert await ids(rt) == set()
