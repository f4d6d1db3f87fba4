"""The memory store looks at what it is asked for, not at all that it has: counted in looks at runs, not in time."""

from __future__ import annotations

import pytest

from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.runs import RunQuery
from poundlock.ports import AtHand
from poundlock.stores import MemoryStore
from poundlock.stores.memory_listing import Listings
from poundlock.testing.store_contract import NOW, Scribe, event_of, wait_of

MANY = 3000
PAGE = 20
STATUSES = {"paused": RunStatus.PAUSED, "ready": RunStatus.READY, "running": RunStatus.RUNNING}


class CountedRows(dict):
    """Runs by id; counts how often one is looked at."""

    looks = 0

    def get(self, *key):
        self.looks += 1
        return super().get(*key)

    def items(self):
        return CountedItems(self)


class CountedItems:
    """The items of counted rows, newest first."""

    def __init__(self, rows):
        self.rows = rows

    def __reversed__(self):
        for item in reversed(dict.items(self.rows)):
            self.rows.looks += 1
            yield item


@pytest.fixture
async def store():
    """A store with many runs in every status, of two workflows, and one run of its own kind."""
    store = MemoryStore()
    store._rows = CountedRows()
    store._listings = Listings(store._rows)
    store._by_status = store._listings.by_status
    await store.open("w1")
    scribe = Scribe(store)
    await scribe.create("first", workflow="rare", key="K", created_at=NOW)
    for number in range(MANY):
        status = list(STATUSES.values())[number % 3]
        workflow = "orders" if number < MANY / 2 else "other"
        await scribe.create(f"r{number:05}", status=status, workflow=workflow, created_at=NOW + number)
    return store


@pytest.mark.parametrize(
    "query",
    [
        RunQuery(limit=PAGE),
        RunQuery(workflow="orders", limit=PAGE),
        RunQuery(workflow="rare", limit=PAGE),
        RunQuery(workflow="unknown", limit=PAGE),
        RunQuery(key="K", limit=PAGE),
        RunQuery(status=(RunStatus.PAUSED,), limit=PAGE),
        RunQuery(status=(RunStatus.FAILED,), limit=PAGE),
        RunQuery(status=(RunStatus.PAUSED, RunStatus.READY), limit=PAGE),
        RunQuery(status=(RunStatus.RUNNING,), workflow="rare", limit=PAGE),
        RunQuery(until=NOW + MANY / 2, limit=PAGE),
        RunQuery(since=NOW + MANY - 5, limit=PAGE),
    ],
    ids=str,
)
async def test_a_page_looks_at_what_it_shows(store, query):
    """A page costs what it shows and what was created since the last one, however many runs there are."""
    await store.find(query)  # sorts what was noted so far
    scribe = Scribe(store)
    for number in range(5):
        await scribe.create(f"new{number}", created_at=NOW + MANY + number)
    store._rows.looks = 0
    page = await store.find(query)
    assert len(page.items) <= PAGE
    assert store._rows.looks < 6 * PAGE


async def test_later_pages_cost_the_same(store):
    """The last page of a list costs what the first one does."""
    cursor, looks = None, []
    while cursor is not None or not looks:
        store._rows.looks = 0
        cursor = (await store.find(RunQuery(limit=100, cursor=cursor))).next_cursor
        looks.append(store._rows.looks)
    assert max(looks[1:]) < 300


async def test_lists_forget_runs_that_were_deleted(store):
    """What lists keep of runs that were deleted since is a part of what there is, not all that ever was."""
    keeping = MemoryStore(keep=10)
    scribe = Scribe(keeping)
    for number in range(1000):
        await scribe.create(f"r{number}", key=f"k{number}", created_at=NOW + number)
        await scribe.end(f"r{number}")
        await keeping.find(RunQuery(key=f"k{number}"))
        await keeping.find(RunQuery(status=(RunStatus.COMPLETED,)))
    listings = keeping._listings
    assert len(listings._keys) < 200
    assert sum(len(listing._order) for listing in listings.by_status.values()) < 200


class CountingStore(MemoryStore):
    """Counts how often a claim looks whether a run can go on."""

    looks = 0

    def _is_claimable(self, run_id, when, place):
        self.looks += 1
        return super()._is_claimable(run_id, when, place)


async def test_a_claim_does_not_look_at_runs_of_unknown_workflows():
    """Ready and due runs of unknown workflows cost nothing when runs are claimed, or the next time is asked for."""
    store = CountingStore()
    scribe = Scribe(store)
    for number in range(1000):
        await scribe.create(f"r{number}", workflow=f"unknown{number % 7}", status=RunStatus.READY)
        await scribe.create(f"d{number}", workflow="unknown", status=RunStatus.DELAYED, wake_at=NOW)
    await scribe.create("mine", status=RunStatus.READY)
    await scribe.create("later", status=RunStatus.DELAYED, wake_at=NOW + 5)
    store.looks = 0
    [claim] = await store.claim("w1", {"orders": 9}, NOW, 50)
    assert claim.checkpoint.record.identity.run_id == "mine"
    assert await store.claim("w1", {"orders": 9}, NOW, 50) == []
    assert await store.next_due({"orders"}) == NOW + 5
    assert store.looks < 20


async def test_many_due_runs_are_taken_in_portions():
    """When many runs are due at once, each is looked at a few times in all, not once per portion."""
    store = CountingStore()
    scribe = Scribe(store)
    for number in range(1000):
        await scribe.park(f"r{number}", wait_of("w"), wake_at=NOW)
    store.looks = 0
    claimed = [claim for _ in range(100) for claim in await store.claim("w1", {"orders": 9}, NOW, 10)]
    assert len(claimed) == 1000
    assert store.looks < 6000


# -------------------------------------------------------------------------------------------- for every event
async def test_what_is_read_for_an_event_is_at_hand():
    """Loads and waits need not be awaited; who awaits them gets the same."""
    scribe = Scribe(MemoryStore())
    event = event_of("e", "order.approved").event
    assert scribe.store.match_waits(event) == []
    await scribe.park("paused", wait_of())
    loads, found = scribe.store.read_loads([("orders", ""), ("orders", "k")]), scribe.store.match_waits(event)
    assert (type(loads), type(found)) == (AtHand, AtHand)
    assert loads == [(Load(), None)] * 2
    assert [record.identity.run_id for record in found] == ["paused"]
    assert (await loads, await found) == (loads, found)
