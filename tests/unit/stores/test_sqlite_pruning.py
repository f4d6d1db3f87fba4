"""How the SQLite store clears away what has expired: in bites, beside the work and while there is none."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from support import BrokenCursor, sqlite_error

from poundlock.errors import StoreFull
from poundlock.model.changes import Changes, Remember
from poundlock.model.receipts import ReceiptRow
from poundlock.model.runs import LOOSE
from poundlock.stores.sqlite import worker, writer
from poundlock.stores.sqlite.pruning import PASS_EVERY
from poundlock.testing import VirtualClock
from poundlock.testing.store_contract import DAY, NOW, Scribe, event_of, move_of, wait_of

LATER = NOW + 40 * DAY


@pytest.fixture
def clock():
    with closing(VirtualClock(NOW)) as clock:
        yield clock


def keys(count, expires_at, source="/shop"):
    """So many keys that expire at a time."""
    return tuple(Remember(source, f"e{number:05}", "orders/placed", "f", None, expires_at) for number in range(count))


@pytest.fixture
def count(path):
    """Counts the rows of a table, as anybody could."""

    def rows(table, where="1"):
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()[0]

    return rows


async def tick(store, now):
    """A commit that adds nothing."""
    await store.commit(Changes(receipt=ReceiptRow("/time", "passes", now, ()), now=now))


# -------------------------------------------------------------------------------------------------- beside the work
async def test_no_commit_clears_much_away(opened, count):
    """However much has expired, a commit takes a bounded part of it along, until all is gone."""
    store = await opened(synchronous="OFF")
    await store.commit(Changes(remember=keys(2000, NOW + DAY), now=NOW))
    before = count("remembered")
    assert before == 2000
    most = 0
    while before:
        await tick(store, LATER)
        now = count("remembered")
        most = max(most, before - now)
        before = now
    assert 0 < most < 100


async def test_many_commits_at_once_take_more_along(opened, count):
    """A batch clears away more than its commits add, so that what expires under load does not pile up."""
    store = await opened(synchronous="OFF")
    await store.commit(Changes(remember=keys(2000, NOW + DAY), now=NOW))
    await tick(store, LATER)
    before = count("remembered")
    added = [key._replace(expires_at=LATER + DAY) for key in keys(200, 0.0, "/young")]
    await asyncio.gather(*(store.commit(Changes(remember=(key,), now=LATER)) for key in added))
    assert count("remembered", f"expires_at < {LATER}") <= before - 300


async def test_what_has_not_expired_is_looked_at_once_an_hour(opened, monkeypatch):
    """After a pass that left nothing due, commits look at nothing for an hour; then the next pass begins."""
    store = await opened(synchronous="OFF")
    bites = []
    pruner = store._writer._pruner
    bite = pruner.bite
    monkeypatch.setattr(pruner, "bite", lambda *args: bites.append(args[1]) or bite(*args))
    for _ in range(20):
        await tick(store, NOW)
    done = len(bites)
    assert 0 < done < 10
    for now in (NOW + 1, NOW + PASS_EVERY - 1):
        await tick(store, now)
    assert len(bites) == done
    await tick(store, NOW + PASS_EVERY)
    assert bites[done:] == [NOW + PASS_EVERY]
    for _ in range(20):
        await tick(store, NOW + PASS_EVERY)
    done = len(bites)
    await tick(store, NOW - 5 * DAY)  # the clock was put back: the next pass does not wait for five days
    assert len(bites) == done + 1


async def test_a_pass_goes_on_where_it_stood_when_the_file_was_closed(opened, count):
    """Processes that never run for long get through a large store together."""
    store = await opened(synchronous="OFF")
    await store.commit(Changes(remember=keys(1000, LATER + DAY, "/first"), now=NOW))
    await store.commit(Changes(remember=keys(10, NOW + DAY, "/last"), now=NOW))
    await store.close()
    openings = 0
    while count("remembered", "source = '/last'"):
        store = await opened(synchronous="OFF")
        openings += 1
        for _ in range(5):
            await tick(store, LATER)
        await store.close()
    assert openings > 1
    assert count("remembered") == 1000


async def test_a_note_that_says_nothing_begins_a_pass_anew(opened, count, path):
    """Where a pass stood is a hint: one that cannot be read costs nothing but looking again."""
    store = await opened(synchronous="OFF")
    await store.commit(Changes(remember=keys(10, NOW + DAY), now=NOW))
    await store.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('pruning', '[1, null]')")
    store = await opened(synchronous="OFF")
    await Scribe(store).time_passes(LATER)
    assert count("remembered") == 0


async def test_shapes_that_nobody_uses_go(opened, count):
    """Types made up for one answer leave no rows behind; a shape in use stays, and one that comes again counts."""
    store = await opened(synchronous="OFF")
    scribe = Scribe(store)
    for number in range(50):
        await scribe.park(f"r{number}", wait_of("w", f"reply.{number}"))
        if number != 7:
            await scribe.end(f"r{number}")
    assert count("wait_shapes") == 50
    await scribe.time_passes(LATER)
    assert count("wait_shapes") == 1
    await scribe.park("again", wait_of("w", "reply.3"))
    found = [await store.match_waits(event_of("e", f"reply.{number}").event) for number in (3, 7, 8)]
    assert [[record.identity.run_id for record in records] for records in found] == [["again"], ["r7"], []]


async def test_events_of_long_inboxes_stay(opened, count, monkeypatch):
    """Events in inboxes that take several bites to go through are all found, and the others go in bites as well."""
    monkeypatch.setattr("poundlock.stores.sqlite.pruning._CANDIDATES", 100)
    store = await opened(synchronous="OFF")
    scribe = Scribe(store)
    await scribe.create("r1", waits=(wait_of(parked=False),))
    for number in range(300):
        first = "r1" if number % 2 else "nobody"
        await scribe.deliver(f"{LOOSE}{number:05}", (first, "approval", 1), ("nobody", "approval", 1))
    await scribe.time_passes(LATER)
    assert count("events") == 150 + 1
    assert all(message.event for message in await store.inbox("r1", 0))


async def test_a_commit_never_fails_because_of_what_is_cleared_away(opened, count):
    """When the disk has no room for clearing away, the commit is written without it."""
    store = await opened(synchronous="OFF")
    await store.commit(Changes(remember=keys(100, NOW + DAY), now=NOW))
    full = BrokenCursor(store._writer._cursor, "DELETE FROM remembered", sqlite_error("SQLITE_FULL"))
    store._writer._cursor = full
    scribe = Scribe(store)
    for number in range(3):
        await store.commit(scribe.creation(f"r{number}"))
        await tick(store, LATER)
    assert count("runs") == 3
    assert count("remembered") == 100


async def test_what_was_seen_in_a_commit_that_was_taken_back_is_forgotten(opened, count, clock):
    """A commit that consumes messages, and does not fit on the disk, costs no event of them: they are still there."""
    store = await opened(synchronous="OFF", clock=clock)
    scribe = Scribe(store)
    for run_id in ("r1", "r2"):
        await scribe.create(run_id, waits=(wait_of(parked=False),))
    await scribe.deliver(f"{LOOSE}e", ("r1", "approval", 1), ("r2", "approval", 1), now=LATER)
    cursor = store._writer._cursor
    store._writer._cursor = BrokenCursor(cursor, "COMMIT", sqlite_error("SQLITE_FULL"))
    moves = tuple([move_of(await scribe.record(run_id), consumed=(1,)) for run_id in ("r1", "r2")])
    with pytest.raises(StoreFull):
        await store.commit(Changes(moves=moves, now=LATER + 1))
    store._writer._cursor = cursor
    clock.set(LATER + 2)
    while store._writer.idle() < 1:
        pass
    for run_id in ("r1", "r2"):
        assert [message.event.event.id for message in await store.inbox(run_id, 0)] == ["e"]
    assert (await store.stats())["events"] == count("events") == 3


async def test_only_what_is_reported_is_counted(opened, count):
    """Rows that `stats` says nothing of leave no count behind when they are cleared away."""
    store = await opened(synchronous="OFF")
    scribe = Scribe(store)
    await scribe.park("r1", wait_of())
    await scribe.end("r1")
    await scribe.time_passes(LATER)
    assert count("wait_shapes") == 0
    assert count("counts", "count < 0 OR name = 'wait_shapes'") == 0


# ------------------------------------------------------------------------------------------ while there is no work
async def test_an_idle_store_clears_away_all_that_has_expired(opened, count, clock):
    """Asked again and again in quiet moments, the writer clears away everything, a bounded part each time."""
    store = await opened(synchronous="OFF", clock=clock)
    await store.commit(Changes(remember=keys(2000, NOW + DAY), now=NOW))
    clock.set(LATER)
    naps, before = [], 2000
    while not naps or naps[-1] < 1:
        naps.append(store._writer.idle())
        assert before - count("remembered") <= 500
        before = count("remembered")
    assert before == 0
    syncs = store._writer.syncs
    assert store._writer.idle() == naps[-1] == PASS_EVERY
    clock.set(LATER + PASS_EVERY)
    while store._writer.idle() < 1:
        pass
    assert store._writer.syncs == syncs  # looking alone is not synced


async def test_the_thread_uses_quiet_moments_by_itself(opened, count, clock, monkeypatch):
    """A process that only waits gets rid of what has expired; nobody has to commit anything for it."""
    store = await opened(synchronous="OFF", clock=clock)
    await store.commit(Changes(remember=keys(2000, NOW + DAY), now=NOW))
    clock.set(LATER)
    done = asyncio.Event()
    loop, idle = asyncio.get_running_loop(), store._writer.idle

    def watched():
        nap = idle()
        if nap >= 1:
            loop.call_soon_threadsafe(done.set)
        return nap

    monkeypatch.setattr(store._writer, "idle", watched)
    monkeypatch.setattr(worker, "CALM", 0.0)
    monkeypatch.setattr(writer, "_BETWEEN_BITES", 0.0)
    await store.written_behind()
    await tick(store, NOW)  # after it the thread finds nothing to do
    await done.wait()
    assert count("remembered") == 0


async def test_trouble_in_a_quiet_moment_is_nobodys_trouble(opened, clock):
    """If another program writes, or the disk is full, the writer leaves it at that for a while; commits go on."""
    store = await opened(synchronous="OFF", clock=clock)
    await store.commit(Changes(remember=keys(10, NOW + DAY), now=NOW))
    clock.set(LATER)
    cursor = store._writer._cursor
    for name in ("SQLITE_BUSY", "SQLITE_FULL"):
        store._writer._cursor = BrokenCursor(cursor, "BEGIN", sqlite_error(name))
        assert store._writer.idle() == 60.0
    store._writer._cursor = cursor
    await tick(store, NOW)
    store._writer._cursor = BrokenCursor(cursor, "COMMIT", sqlite_error("SQLITE_IOERR_FSYNC"))
    assert store._writer.idle() is None  # a failed sync: nobody knows what the file holds
    with pytest.raises(Exception, match="the disk under"):
        await tick(store, NOW)


async def test_closed_before_a_pass_that_was_asked_for(opened):
    """A store that is closed before the first bite of such a pass saves that, and lets go of its file."""
    store = await opened(synchronous="OFF")
    await tick(store, NOW)  # a first pass
    await store.close()
    store = await opened(synchronous="OFF")
    writer = store._writer
    writer._pruner.begin_anew()
    await store.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        writer._connection.total_changes  # noqa: B018 - asked for what it raises
    store = await opened(synchronous="OFF")
    assert store._writer._pruner.wants(NOW)
