"""The memory store stays as large as what it is asked to keep, and as what is going on."""

from __future__ import annotations

import pytest

from poundlock.errors import KeysTaken
from poundlock.model.changes import WITH_ITS_RUN, Changes, LoadChange, Release, Remember, Token
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.runs import RunQuery
from poundlock.stores import MemoryStore
from poundlock.testing.store_contract import NOW, Scribe, event_of, wait_of


@pytest.fixture
async def scribe():
    store = MemoryStore(keep=3)
    await store.open("w1")
    return Scribe(store)


async def ids(scribe):
    """The runs that can be found, oldest first."""
    return sorted(record.identity.run_id for record in (await scribe.store.find(RunQuery(limit=500))).items)


async def test_the_last_ended_runs_are_kept(scribe):
    """Of ended runs the last three stay, with all that is known of them; the others are as if they had never been."""
    for number in range(10):
        await scribe.create(f"r{number}")
        await scribe.end(f"r{number}")
    await scribe.create("next")
    assert await ids(scribe) == ["next", "r7", "r8", "r9"]
    assert await scribe.store.checkpoint("r7") is not None
    assert await scribe.store.load("r6") is None
    assert await scribe.store.checkpoint("r6") is None
    assert await scribe.store.history("r6") == []
    assert (await scribe.store.stats())["events"] == 4


async def test_runs_that_have_not_ended_stay(scribe):
    """However many runs end meanwhile, a run that is going on, waits or stands in a queue is not touched."""
    await scribe.create("running")
    await scribe.park("paused", wait_of())
    await scribe.create("queued", status=RunStatus.QUEUED, load_key="")
    for number in range(10):
        await scribe.create(f"r{number}", status=RunStatus.FAILED, outcome='{"error":{}}')  # it never began
    assert {"running", "paused", "queued"} < set(await ids(scribe))
    assert len(await ids(scribe)) == 6


async def test_whoever_ends_a_run_can_read_it(scribe):
    """What a commit has just ended is there until another run ends, even if nothing is kept."""
    scribe = Scribe(MemoryStore(keep=0))
    await scribe.create("r1")
    await scribe.end("r1")
    assert (await scribe.record("r1")).head.status is RunStatus.COMPLETED
    await scribe.create("r2")
    await scribe.end("r2")
    assert await ids(scribe) == ["r2"]


async def test_an_event_stays_while_a_run_refers_to_it(scribe):
    """An event that several runs began with goes with the last of them."""
    event = event_of("shared")
    for number in range(5):
        await scribe.create(f"r{number}", event=event)
    for number in range(4):
        await scribe.end(f"r{number}")
    await scribe.create("next")
    assert await ids(scribe) == ["next", "r1", "r2", "r3", "r4"]
    assert (await scribe.store.checkpoint("r4")).event == event.event
    assert (await scribe.store.stats())["events"] == 2


async def test_an_idempotency_key_goes_with_its_run(scribe):
    """A key that lives as long as its run is free again when the run is forgotten."""
    key = Remember("/invoke/orders", "k", "/", "f", "r1", WITH_ITS_RUN)
    await scribe.store.commit(scribe.creation("r1", remember=(key,)))
    await scribe.end("r1")
    with pytest.raises(KeysTaken):
        await scribe.store.commit(Changes(remember=(key._replace(expires_at=NOW),), now=NOW))
    for number in range(4):
        await scribe.create(f"other{number}")
        await scribe.end(f"other{number}")
    await scribe.create("next")
    await scribe.store.commit(scribe.creation("r1", remember=(key,)))
    assert (await scribe.store.stats())["remembered"] == 1


async def test_superseded_runs_leave_the_queue(scribe):
    """A queue in which each run supersedes the one before stays as short as it is, and gives the last one a slot."""
    store, token = scribe.store, None
    for number in range(1000):
        following = Token(1, number)
        change = LoadChange("orders", "", token, Load(active=1, active_id="busy", queued=1), following)
        await store.commit(scribe.creation(f"r{number}", status=RunStatus.QUEUED, load_key="", loads=(change,)))
        if number:
            await scribe.move(f"r{number - 1}", status=RunStatus.ABORTED)
        token = following
    assert len(store._queues["orders", ""]) < 200
    release = Release("orders", "", "busy", queued=False, slots=1, owner="w1")
    assert (await store.commit(Changes(releases=(release,), now=NOW))).promoted == ("r999",)


async def test_waits_that_were_answered_leave_nothing(scribe):
    """Runs that were answered long before their time leave neither their times nor the shapes of their waits."""
    store = scribe.store
    for number in range(1000):
        run_id = f"r{number}"
        await scribe.park(run_id, wait_of("w", f"reply.{number}"), wake_at=NOW + 1000 + number)
        await scribe.end(run_id)
    assert sum(map(len, store._agendas.values())) < 200
    assert (len(store._shapes), len(store._waiting)) == (0, 0)
    assert await store.next_due(["orders"]) is None
    assert await store.claim("w1", {"orders": 9}, NOW + 10_000, 10) == []
