"""Runs of which what is stored is damaged: who needs them is told so, and everything else goes on."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
from support import Stores

from poundlock import RunStatus, Serialized, Transient, Workflow
from poundlock.errors import RunDamaged
from poundlock.runtime.checking import misfits
from poundlock.testing import run_until_idle

ABORTED, COMPLETED, PAUSED = RunStatus.ABORTED, RunStatus.COMPLETED, RunStatus.PAUSED
TEXTS = {
    "empty": "",
    "cut": '[[1.0,"pipeline","stage:st',
    "no list": "{}",
    "no entries": "[1,2]",
    "fewer": "[]",
    "no patch": '[[1.0,"state","state:patch","main",null,"text"]]',
    "no text": b"\xff\xfe[]",
}


@pytest.fixture
def stores(tmp_path, vclock):
    """Places of the SQLite store: a memory store has no rows."""
    return Stores("sqlite", tmp_path, vclock)


@pytest.fixture(autouse=True)
async def closed(stores):
    """Close what was opened."""
    yield
    await stores.close()


def damage(stores, run_id, text, which="first_seq > 3", table="log", column="text"):
    """Write a text in place of that in the rows of a run."""
    with contextlib.closing(sqlite3.connect(stores.path)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        of_run = "run = (SELECT run FROM runs WHERE run_id = ?)"
        value = f"CAST(X'{text.hex()}' AS TEXT)" if isinstance(text, bytes) else f"'{text}'"
        changed = connection.execute(f"UPDATE {table} SET {column} = {value} WHERE {of_run} AND {which}", (run_id,))
        assert changed.rowcount
        connection.commit()


def gated(ran, mode=None, **options):
    """A workflow that waits in the middle, and notes what ran then."""
    wf = Workflow("w", mode=mode, **options)
    wf.on("go")

    @wf.step
    def first(n: int):
        return {"first": n}

    wf.wait("near", on="near")
    wf.wait("gate", on="open")

    @wf.step
    def last(n: int):
        ran.append(n)
        return {"last": n}

    return wf


async def paused_runs(stores, wf, count=2):
    """Runs that wait in the middle, in a runtime that is stopped again."""
    rt = await stores.enter(wf)
    run_ids = [(await rt.emit("go", n=n)).run_ids[0] for n in range(count)]
    await run_until_idle(stores.clock)
    await rt.emit("near")  # so that there are several rows
    await run_until_idle(stores.clock)
    await rt.stop()
    return run_ids


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_who_asks_for_it_gets_a_typed_error(stores, text):
    """Timeline, checkpoint and result of a damaged run raise `RunDamaged`: which run, which entry, what to do."""
    bad, good = await paused_runs(stores, gated([]))
    damage(stores, bad, text, "first_seq > 3 AND size > 0")
    rt = await stores.enter()
    for ask in (rt.timeline, lambda run_id: rt.get_run(run_id, state=True), lambda run_id: rt.fork(run_id, "first")):
        with pytest.raises(RunDamaged, match=r"restore the store from a backup, or end the run") as told:
            await ask(bad)
        assert (told.value.code, told.value.run_id) == ("RUN_DAMAGED", bad)
        assert told.value.seq > 3
        assert told.value.fields["seq"] == told.value.seq
    with pytest.raises(RunDamaged):
        [_ async for _ in rt.follow(bad)]
    assert [info.run_id for info in (await rt.find_runs()).items] == [good, bad]
    assert (await rt.get_run(bad)).status is PAUSED
    assert (await rt.timeline(good)).entries


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_recovery_sets_it_aside(stores, text):
    """A damaged run that would go on is paused with that as its error, once; the others are recovered."""
    ran = []
    bad, good = await paused_runs(stores, gated(ran))
    with contextlib.closing(sqlite3.connect(stores.path)) as connection:
        connection.execute("UPDATE runs SET status = 'ready' WHERE run_id IN (?, ?)", (bad, good))
        connection.commit()
    damage(stores, bad, text, "first_seq > 3 AND size > 0")
    rt = await stores.enter(gated(ran))
    await run_until_idle(stores.clock)
    info = await rt.get_run(bad)
    assert (info.status, info.error.type, info.error.code) == (PAUSED, "RunDamaged", "RUN_DAMAGED")
    assert "restore the store from a backup" in info.error.message
    assert rt.statistics()["damaged"] == 1
    await rt.emit("open")
    assert (await rt.wait(good)).status is COMPLETED
    assert ran == [1]
    before = len(rt.store.written)
    await stores.clock.run_for(3600)
    assert len(rt.store.written) == before  # it is not looked at again and again
    await rt.abort(bad, "damaged")
    assert (await rt.get_run(bad)).status is ABORTED


async def test_it_goes_on_when_the_file_is_restored(stores):
    """A run that was set aside is tried again when its workflow is registered next."""
    ran = []
    [bad] = await paused_runs(stores, gated(ran), 1)
    with contextlib.closing(sqlite3.connect(stores.path)) as connection:
        [(text,)] = connection.execute("SELECT text FROM log WHERE first_seq > 3 AND size > 0 LIMIT 1")
        connection.execute("UPDATE runs SET status = 'ready'")
        connection.commit()
    damage(stores, bad, "broken", "first_seq > 3 AND text = '" + text.replace("'", "''") + "'")
    rt = await stores.enter(gated(ran))
    await run_until_idle(stores.clock)
    assert (await rt.get_run(bad)).error.code == "RUN_DAMAGED"
    await rt.stop()
    damage(stores, bad, text.replace("'", "''"), "text = 'broken'")
    rt = await stores.enter(gated(ran))
    await rt.emit("open")
    assert (await rt.wait(bad)).status is COMPLETED
    assert ran == [0]


@pytest.mark.parametrize("holds", [False, True])
async def test_its_slot(stores, holds):
    """A mode that takes the slots of paused runs takes that of a damaged one, and the next run starts."""

    def wf():
        return gated([], Transient(1, holds_slot_while_paused=holds))

    [bad] = await paused_runs(stores, wf(), 1)
    with contextlib.closing(sqlite3.connect(stores.path)) as connection:
        connection.execute("UPDATE runs SET status = 'ready', slot = 1")
        connection.execute(
            "INSERT OR REPLACE INTO loads (workflow_id, load_key, active, active_id, queued, tail_id, resumed,"
            " generation, turn) VALUES ('w', '', 1, NULL, 0, NULL, 0, 1, 1)"
        )
        connection.commit()
    damage(stores, bad, "", "first_seq > 3 AND size > 0")
    rt = await stores.enter(wf())
    await run_until_idle(stores.clock)
    receipt = await rt.emit("go", n=2)
    assert receipt.lines[0].verdict == ("queued" if holds else "started")
    await rt.abort(bad)
    await run_until_idle(stores.clock)
    assert (await rt.get_run(receipt.run_ids[0])).status is PAUSED


async def test_an_event_for_it_reaches_the_others(stores):
    """What a damaged run waits for is refused for it alone: the receipt says why."""
    ran = []

    def wf():
        made = Workflow("w")
        made.on("go")

        @made.step
        def first(n: int):
            return {"first": n}

        made.wait("near", on="near")
        made.wait("gate", on="open", patch=lambda event: {"opened": True})

        @made.step
        def last(n: int):
            ran.append(n)

        return made

    bad, good = await paused_runs(stores, wf())
    damage(stores, bad, "", "first_seq > 3 AND size > 0")
    rt = await stores.enter(wf())
    lines = {line.run_id: line for line in (await rt.emit("open")).lines}
    assert lines[bad].verdict == "rejected"
    assert "RUN_DAMAGED" in lines[bad].reason
    assert lines[good].verdict == "resumed"
    assert (await rt.wait(good)).status is COMPLETED
    assert ran == [1]


async def test_pending_hooks_of_others_are_called(stores):
    """A damaged run that has ended keeps its hooks pending; those of the others are called."""
    told = []

    def wf():
        made = Workflow("w", mode=Serialized())
        made.on("go")
        made.step(lambda n: {"done": n}, id="only")
        return made

    rt = await stores.enter()
    await rt.register(wf(), on_complete=lambda result: told.append(result.run_id))
    run_ids = [(await (await rt.emit("go", n=n)).results())[0].run_id for n in range(2)]
    await rt.stop()
    told.clear()
    with contextlib.closing(sqlite3.connect(stores.path)) as connection:
        connection.execute("DELETE FROM pending_hooks")
        connection.executemany(
            "INSERT INTO pending_hooks (workflow_id, run_id) VALUES ('w', ?)", [(i,) for i in run_ids]
        )
        connection.commit()
    damage(stores, run_ids[0], "", "size > 0")
    rt = await stores.enter()
    await rt.register(wf(), on_complete=lambda result: told.append(result.run_id))
    await run_until_idle(stores.clock)
    assert told == [run_ids[1]]


@pytest.mark.parametrize("column", ["waits", "outcome", "lineage"])
async def test_the_list_goes_on_whatever_is_damaged(stores, column):
    """A run whose row is damaged is listed with that as its error; the others are as they are."""
    bad, good = await paused_runs(stores, gated([]))
    damage(stores, bad, "{broken", "1", "runs", column)
    rt = await stores.enter()
    found = {info.run_id: info for info in (await rt.find_runs()).items}
    assert found[good].error is None
    assert found[bad].error.code == "RUN_DAMAGED"
    assert good in (await rt.emit("open")).run_ids


async def test_a_check_against_new_definitions_names_it(stores):
    """`poundlock check --store` says that a run is damaged, and looks at the others."""
    bad, good = await paused_runs(stores, gated([]))
    damage(stores, bad, "", "first_seq > 3 AND size > 0")
    rt = await stores.enter()
    from pydantic import BaseModel

    class Model(BaseModel):
        n: int
        first: int = 0
        last: int = 0

    definitions = {"w": gated([], state=Model).definition}
    found = [await misfits(rt.store, await rt.store.load(run_id), definitions) for run_id in (bad, good)]
    assert [[each.code for each in some] for some in found] == [["RUN_DAMAGED"], []]


PARTS = [("snapshots", "text"), ("log", "event"), ("runs", "waits"), ("runs", "lineage"), ("inbox", "body")]


@pytest.mark.parametrize(("table", "column"), PARTS)
async def test_each_part_of_a_run(stores, table, column):
    """Whatever is damaged of a run, it is `RunDamaged`, which says what; `seq` is that of the log only."""
    [bad] = await paused_runs(stores, gated([]), 1)
    number = f"(SELECT run FROM runs WHERE run_id = '{bad}')"
    with contextlib.closing(sqlite3.connect(stores.path)) as connection:
        if table == "snapshots":
            connection.execute(f"INSERT OR REPLACE INTO snapshots VALUES ({number}, 1, '')")
        if table == "log":
            connection.execute("UPDATE runs SET event_ref = NULL")
        if table == "inbox":
            connection.execute(f"INSERT INTO inbox VALUES ({number}, 9, 'signal', 1.0, '', NULL, NULL)")
            connection.execute("UPDATE runs SET inbox_seq = 9")
        connection.commit()
    damage(stores, bad, "{broken", "1", table, column)
    rt = await stores.enter()
    with pytest.raises(RunDamaged) as told:
        await rt.store.checkpoint(bad)
    assert told.value.seq is None
    part = {"text": "snapshot", "body": "message"}.get(column, column)
    assert part in told.value.message
