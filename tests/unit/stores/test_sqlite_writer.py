"""The SQLite store's writer: group commit, and what happens when a statement or the store itself fails."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest
from support import BrokenCursor, sqlite_error

from poundlock import codecs
from poundlock.clock import SystemClock
from poundlock.errors import LeaseLost, StaleVersion, StoreCorrupt, StoreFull, StoreUnavailable
from poundlock.model.changes import Changes, Committed, LoadChange, Token
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.runs import RunQuery, RunRecord
from poundlock.stores.sqlite import sql
from poundlock.testing.store_contract import Scribe, event_of, log_of, move_of, wait_of


class CountingClock(SystemClock):
    """Knows how much is under way."""

    def __init__(self):
        self.level = 0
        self.highest = 0

    def busy(self, delta):
        self.level += delta
        self.highest = max(self.highest, self.level)
        assert self.level >= 0


async def answers(scribe, changes):
    """Commit all at once and return what each came to."""
    return await asyncio.gather(*map(scribe.commit, changes), return_exceptions=True)


# ------------------------------------------------------------------------------------ heads that the writer keeps
async def test_a_run_goes_on_whether_its_head_was_kept_or_not(opened):
    """Runs that rest leave the writer's memory one after another; each goes on from its version, once."""
    store = await opened()
    scribe = Scribe(store)
    names = [f"r{n}" for n in range(300)]
    wait = (wait_of(correlate=(("id", 7), ("at", 1.5))),)
    await answers(scribe, [scribe.creation(name, status=RunStatus.PAUSED, waits=wait) for name in names])
    kept = set(store._writer._heads.known)
    assert kept == set(names[44:])
    for name in (names[0], names[-1]):
        record = await scribe.record(name)
        move = move_of(record, status=RunStatus.RUNNING, owner="w2", new_epoch=2)
        assert await answers(scribe, [move, move]) == [Committed(), Refused(LeaseLost)]
        await scribe.move(name, status=RunStatus.COMPLETED, owner=None, waits=())
    assert (await store.stats())["waits"] == 298
    assert len(store._writer._heads.known) <= 256


async def test_a_running_run_whose_head_was_forgotten_is_read_from_its_log(opened):
    """After a failure the writer reads heads again: that of a running run is in the last row of its log."""
    store = await opened()
    scribe = Scribe(store)
    await scribe.create(log=log_of(1, {"a": 1}))
    await scribe.move(stage="second", log=log_of(2, {"b": 2}))
    store._writer._heads.forget()
    await scribe.move(stage="third", log=log_of(3, {"c": 3}))
    record = await scribe.record()
    assert (record.head.version, record.head.stage, record.head.log_seq) == (3, "third", 3)


class Refused:
    """Equals any error of a type."""

    def __init__(self, kind):
        self.kind = kind

    def __eq__(self, other):
        return type(other) is self.kind

    __hash__ = None


# ------------------------------------------------------------------------------------------------------ group commit
async def test_commits_at_the_same_time_share_syncs(opened):
    """A hundred commits at once need a handful of syncs, and one after another one each."""
    scribe = Scribe(await opened())
    before = (await scribe.store.stats())["syncs"]
    assert set(await answers(scribe, [scribe.creation(f"r{n}") for n in range(100)])) == {Committed()}
    shared = (await scribe.store.stats())["syncs"]
    assert shared - before <= 10
    for n in range(10):
        await scribe.move(f"r{n}", stage="second")
    assert (await scribe.store.stats())["syncs"] - shared == 10


async def test_what_was_refused_costs_no_sync(opened):
    """A batch in which everything is refused writes nothing and is not counted as a sync."""
    scribe = Scribe(await opened())
    await scribe.create()
    before = await scribe.store.stats()
    record = await scribe.record()
    stale = [
        Changes(moves=(move_of(record, version=9),)),
        Changes(loads=(LoadChange("a", "", Token(1, 1), Load(), Token(1, 2)),)),
    ]
    assert not any(isinstance(answer, Committed) for answer in await answers(scribe, stale))
    assert await scribe.store.stats() == before


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 8, 63, 64, 65, 130])
async def test_batches_of_any_size_are_written_whole(opened, count):
    """Creations, boundaries and ends of any number of runs at once write each run's own values, once."""
    scribe = Scribe(await opened(synchronous="OFF"))
    runs = [f"r{n:03}" for n in range(count)]
    await answers(scribe, [scribe.creation(run, log=log_of(1, {"run": run})) for run in runs])
    records = {record.identity.run_id: record for record in (await scribe.store.find(RunQuery(limit=count))).items}
    moves = [move_of(records[run], stage=f"s-{run}", log=log_of(2, {"at": n})) for n, run in enumerate(runs)]
    assert set(await answers(scribe, [Changes(moves=(move,)) for move in moves])) == {Committed()}
    records = {record.identity.run_id: record for record in (await scribe.store.find(RunQuery(limit=count))).items}
    ends = [move_of(records[run], status=RunStatus.COMPLETED, outcome=f'"{run}"', inbox=0) for run in runs]
    assert set(await answers(scribe, [Changes(moves=(end,)) for end in ends])) == {Committed()}
    for n, run in enumerate(runs):
        head = (await scribe.record(run)).head
        assert (head.stage, head.outcome, head.version, head.log_seq) == (f"s-{run}", f'"{run}"', 3, 2)
        assert await scribe.state(run) == {"run": run, "at": n}


async def test_a_run_may_appear_twice_in_a_batch(opened):
    """Several steps of one run that are queued together are written one after another."""
    scribe = Scribe(await opened())
    creation = scribe.creation()
    [create] = creation.creates
    record = RunRecord(create.identity, create.head, ())
    steps = [Changes(moves=(move_of(record, version=n, stage=f"s{n}"),)) for n in range(1, 6)]
    assert await answers(scribe, [creation, *steps]) == [Committed()] * 6
    assert (await scribe.record()).head.stage == "s5"


# --------------------------------------------------------------------------------------------------- one bad statement
async def test_only_the_change_that_cannot_be_written_fails(opened):
    """A value SQLite cannot hold fails its own change with what SQLite says; all others in the batch are written."""
    scribe = Scribe(await opened())
    changes = [scribe.creation(f"r{n:02}", priority=2**70 if n == 7 else 0) for n in range(20)]
    outcomes = await answers(scribe, changes)
    assert [n for n, outcome in enumerate(outcomes) if outcome != Committed()] == [7]
    assert isinstance(outcomes[7], OverflowError)
    assert await scribe.store.load("r07") is None
    assert (await scribe.store.stats())["running"] == 19


@pytest.mark.parametrize("error", [StopIteration("none"), SystemExit(3), asyncio.CancelledError(), KeyError("x")])
async def test_whatever_an_encoder_raises_is_the_error_of_its_change(opened, monkeypatch, error):
    """A type of the user's may raise anything: the others in the batch are written, and the thread goes on."""

    class Odd:
        """A value of the user's."""

    def encode(_value):
        raise error

    monkeypatch.setitem(codecs._encoders, Odd, ("odd", encode))
    scribe = Scribe(await opened())
    odd = event_of("e1", payload={"x": Odd()})
    changes = [scribe.creation("r0"), scribe.creation("r1", event=odd), scribe.creation("r2")]
    for round_ in (changes, [changes[1]]):
        outcomes = await answers(scribe, round_)
        assert [outcome for outcome in outcomes if isinstance(outcome, Committed)] == [Committed()] * (len(round_) - 1)
        [told] = [outcome for outcome in outcomes if not isinstance(outcome, Committed)]
        assert type(told) is (KeyError if isinstance(error, KeyError) else RuntimeError)
    assert (await scribe.store.stats())["running"] == 2


async def test_a_change_that_fails_half_way_leaves_nothing(opened):
    """What a change wrote before it failed is taken back, in the file and in what the store knows by heart."""
    scribe = Scribe(await opened())
    await scribe.create("r1", load_key="")
    good = scribe.creation("good", waits=(wait_of(),))
    bad = scribe.creation("bad", waits=(wait_of("w", "other", correlate=(("id", 1),)),))
    bad.creates = (*bad.creates, *scribe.creation("worse", created_at=2**70, event=event_of("e9")).creates)
    bad.moves = (move_of(await scribe.record("r1"), slot=True),)
    assert [type(outcome) for outcome in await answers(scribe, [bad, good])] == [OverflowError, Committed]
    assert await scribe.load() == (Load(), None)
    assert list(scribe.store._index.shapes.values()) == [1]
    assert await scribe.store.load("bad") is None
    assert [
        record.identity.run_id for record in await scribe.store.match_waits(event_of("e", "order.approved").event)
    ] == ["good"]


async def test_an_unexpected_error_of_a_batch_is_found_again_alone(opened):
    """If a batch fails for no known reason, each change is tried alone; nobody waits forever."""
    store = await opened()
    scribe = Scribe(store)
    store._writer._cursor = BrokenCursor(store._writer._cursor, "INSERT INTO runs", sqlite3.ProgrammingError("odd"))
    outcomes = await answers(scribe, [scribe.creation(f"r{n}") for n in range(5)])
    assert [type(outcome) for outcome in outcomes] == [sqlite3.ProgrammingError] * 5
    store._writer._cursor = store._writer._cursor.cursor
    await scribe.create()


# --------------------------------------------------------------------------------------------------- the store fails
async def test_a_full_disk_is_told_to_everybody_and_forgotten_when_there_is_space(opened):
    """Everybody in a batch that does not fit gets `StoreFull`, nothing of it is written, and afterwards all goes on."""
    store = await opened()
    scribe = Scribe(store)
    await scribe.create("before")
    pages = store._writer._connection.execute("PRAGMA page_count").fetchone()[0]
    store._writer._connection.execute(f"PRAGMA max_page_count = {pages}")
    big = log_of(1, {"text": "x" * 100_000})
    outcomes = await answers(scribe, [scribe.creation(f"r{n}", log=big) for n in range(10)])
    assert [type(outcome) for outcome in outcomes] == [StoreFull] * 10
    assert len({id(outcome) for outcome in outcomes}) == 10
    assert outcomes[0].message.endswith("nothing was written; free some space and try again")
    assert [record.identity.run_id for record in (await store.find(RunQuery())).items] == ["before"]
    with pytest.raises(StoreFull):
        await store.commit(scribe.creation("alone", log=big))
    store._writer._connection.execute(f"PRAGMA max_page_count = {pages + 10_000}")
    assert set(await answers(scribe, [scribe.creation(f"r{n}", log=big) for n in range(10)])) == {Committed()}
    assert store._writer._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_IOERR_WRITE"])
async def test_a_commit_that_does_not_fit_is_taken_back(opened, name):
    """If only the COMMIT finds the disk full, nothing was acknowledged, nothing is visible, and the next one works."""
    store = await opened()
    scribe = Scribe(store)
    store._writer._cursor = BrokenCursor(store._writer._cursor, "COMMIT", sqlite_error(name))
    outcomes = await answers(scribe, [scribe.creation(f"r{n}") for n in range(3)])
    assert [type(outcome) for outcome in outcomes] == [StoreFull] * 3
    store._writer._cursor = store._writer._cursor.cursor
    assert (await store.find(RunQuery())).items == []
    await scribe.create("r0")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("SQLITE_IOERR_FSYNC", StoreUnavailable),
        ("SQLITE_IOERR_READ", StoreUnavailable),
        ("SQLITE_CORRUPT", StoreCorrupt),
    ],
)
async def test_after_a_failed_sync_nothing_more_is_promised(opened, name, error):
    """After an error that leaves open what the disk holds every commit is refused until the store is opened again."""
    store = await opened()
    scribe = Scribe(store)
    await scribe.create("before")
    store._writer._cursor = BrokenCursor(store._writer._cursor, "COMMIT", sqlite_error(name))
    with pytest.raises(error):
        await scribe.create("during")
    store._writer._cursor = store._writer._cursor.cursor
    with pytest.raises(error):
        await scribe.create("after")
    assert (await scribe.record("before")).head.version == 1
    await store.close()
    scribe = Scribe(await opened())
    await scribe.create("after")
    assert (await scribe.record("before")).head.status == "ready"


async def test_another_programs_write_lock_is_waited_for_and_then_told(opened, path):
    """While another program holds the file's write lock, commits wait; if it does not let go they say so, typed."""
    store = await opened()
    scribe = Scribe(store)
    await scribe.create("before")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store._writer._connection.execute("PRAGMA busy_timeout = 20")
    with pytest.raises(StoreUnavailable, match="another program is writing"):
        await scribe.create()
    other.execute("COMMIT")
    other.close()
    await scribe.create()


async def test_an_operation_that_fails_harms_no_commit(opened):
    """A claim that raises in a batch leaves the commits beside it alone."""
    store = await opened()
    scribe = Scribe(store)

    def fails(_transaction):
        raise ValueError("a bug")

    async with asyncio.TaskGroup() as tasks:
        commits = [tasks.create_task(scribe.create(f"r{n}")) for n in range(5)]
        failing = store._writing.submit(fails)
        with pytest.raises(ValueError, match="a bug"):
            await failing
    assert all(commit.result() == Committed() for commit in commits)


# ----------------------------------------------------------------------------------------------------------- the clock
async def test_the_clock_is_told_while_work_is_under_way(opened):
    """The clock is busy from the first job to the last answer, and level when all is answered, also with errors."""
    clock = CountingClock()
    scribe = Scribe(await opened(clock=clock))
    assert (clock.level, clock.highest) == (0, 1)
    commits = asyncio.gather(
        *(scribe.create(f"r{n % 9}", event=event_of(f"e{n}")) for n in range(10)), return_exceptions=True
    )
    await asyncio.sleep(0)  # noqa: TID251 - lets them submit
    assert clock.level == 1
    await commits
    assert clock.level == 0
    with pytest.raises(StaleVersion):
        await scribe.move("r1", version=9)
    await scribe.store.find(RunQuery())
    assert clock.level == 0
    await scribe.store.close()
    assert (clock.level, clock.highest) == (0, 1)


# ---------------------------------------------------------------------------------------------------------- statements
@pytest.mark.parametrize("count", range(200))
def test_sizes_cover_every_count(count):
    """The sizes of statements add up to the number of rows, and there are few different ones."""
    sizes = list(sql.sizes(count))
    assert sum(sizes) == count
    assert set(sizes) <= {1, 2, 4, 8, 16, 32, 64}
    assert sizes == sorted(sizes, reverse=True)


# -------------------------------------------------------------------------------------------------------- interruptions
async def test_closing_goes_on_when_its_caller_is_cancelled(opened, path):
    """Whoever closes a store may be cancelled; what was submitted is written first, and the file let go."""
    store = await opened()
    scribe = Scribe(store)
    commits = [asyncio.create_task(scribe.create(f"r{n}")) for n in range(20)]
    await asyncio.sleep(0)  # noqa: TID251 - lets them submit
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)  # noqa: TID251 - lets it begin
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert await asyncio.gather(*commits) == [Committed()] * 20
    assert len((await (await opened()).find(RunQuery())).items) == 20


async def test_a_bug_in_a_thread_is_told_to_those_who_wait(opened):
    """If a thread meets an error nobody thought of, everybody in the batch hears of it, and the next batch is done."""

    class Faulty:
        def perform(self, jobs):
            raise ZeroDivisionError

    store = await opened()
    scribe = Scribe(store)
    store._writing._performer, performer = Faulty(), store._writing._performer
    assert [type(outcome) for outcome in await answers(scribe, [Changes(), Changes()])] == [ZeroDivisionError] * 2
    store._writing._performer = performer
    await scribe.create()


async def test_moving_a_run_twice_in_one_unit_is_a_bug(opened):
    """A unit of work that moves one run twice is refused as the bug it is, and leaves nothing."""
    scribe = Scribe(await opened())
    await scribe.create()
    move = move_of(await scribe.record())
    with pytest.raises(AssertionError, match="moves run 'r1' twice"):
        await scribe.store.commit(Changes(moves=(move, move)))
    assert (await scribe.record()).head.version == 1
