"""Files of earlier schemas: they open, nothing in them is lost, and they are then like new ones.

`schema-N.sql` is what a runtime of schema N wrote while `furnish` ran on it, as `sqlite3 file .dump` prints it, without
being closed in an orderly way: one run is in the middle of a step. Such a file is never changed again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Migrations

from poundlock import Delay, Jump, Serialized, StateRef, Transient, Trigger, Workflow, WorkflowRuntime
from poundlock.codecs import dump, load
from poundlock.errors import StoreUnavailable
from poundlock.model.conditions import Condition
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import LOOSE, LogRow, RunHead, RunQuery
from poundlock.model.timeline import fold
from poundlock.stores.sqlite import SqliteStore, schema
from poundlock.testing.store_contract import Scribe, event_of, log_of, outgoing_of, wait_of

HERE = Path(__file__).parent
APPLICATION_ID, OLDEST = schema.APPLICATION_ID, 1
REARRANGED = 3
"""The schema that put the rows of runs and logs into other tables."""


def workflows(inside: asyncio.Event, door: asyncio.Event) -> list[Workflow]:
    """What was running when the file was left: queues, waits, delays, a loop, and a step that waits for the door."""
    orders = Workflow("orders", mode=Serialized(), triggers={"placed": Trigger("placed")})

    @orders.step
    def reserve(id):
        return {"reserved": id}

    orders.wait("approval", on="approved", correlate={"id": StateRef("id")})

    @orders.step
    def ship(id):
        return {"shipped": id}

    watch = Workflow("watch", mode=Transient(), triggers={"watched": Trigger("watched")})

    @watch.step
    def look(n=0):
        return {"n": n + 1}

    @watch.route(after="look")
    def later(state):
        return Delay("1h") if state["n"] % 3 == 0 else Jump("look")

    @watch.step
    def again(n):
        return {"rounds": n}

    @watch.route(after="again")
    def back(state):
        return Jump("look") if state["n"] < 6 else None

    busy = Workflow("busy", triggers={"begun": Trigger("begun")})

    @busy.step
    def first():
        return {"first": True}

    @busy.step
    async def second():
        inside.set()
        await door.wait()
        return {"second": True}

    quick = Workflow("quick")

    @quick.step
    def only():
        return {"only": True}

    return [orders, watch, busy, quick]


async def furnish(path: Path, clock) -> None:
    """Write a file's content, and its dump beside it, in the middle of it all. The clock must not jump."""
    inside = asyncio.Event()
    rt = WorkflowRuntime(*workflows(inside, asyncio.Event()), store=SqliteStore(path, clock=clock), clock=clock)
    await rt.__aenter__()
    for number in range(3):
        receipt = await rt.emit("placed", id=number)
        if number == 0:
            await receipt.results()
    await rt.emit("watched")
    await rt.run("quick", run_id="ended")
    await rt.emit("begun")
    await inside.wait()
    await rows_of_every_kind(Scribe(rt.store))
    dump = path.with_suffix(".sql")
    with closing(sqlite3.connect(path)) as connection:
        connection.isolation_level = None
        lines = list(connection.iterdump())
        pragmas = [
            f"PRAGMA {name} = {connection.execute(f'PRAGMA {name}').fetchone()[0]};"
            for name in ("application_id", "user_version")
        ]
    dump.write_text("\n".join([*pragmas, *lines, ""]), encoding="utf-8")


async def rows_of_every_kind(scribe: Scribe) -> None:
    """Write what the workflows above do not, for runs of workflows that nobody registers (from schema 2 on)."""
    store = scribe.store
    waits = (
        wait_of(
            "a", "kinds.a", "kinds.*", parked=False, where=(Condition("n", ">", 3),), patch={"x": [1, {"y": None}]}
        ),
        wait_of("b", correlate=(("id", 1795680397.0817647), ("who", "Zoë 'quoted' \"twice\"")), expires_at=2e9 + 1 / 3),
    )
    event = event_of("kinds-1", payload={"deep": [{"a": None}], "n": 0.1}, key="k", headers={"traceparent": "00-ab"})
    await scribe.create(
        "kinds-1", workflow="kinds", key="K", event=event, visits='"first"', log=log_of(1, {"a": 1}, {"b": 2})
    )
    await scribe.move("kinds-1", log=log_of(3, {"c": 1 / 3}), snapshot='{"a":1,"b":2,"c":0.5}')
    await scribe.move("kinds-1", log=log_of(4, None), attempt=3, outgoing=outgoing_of("kinds-o"))
    await scribe.move("kinds-1", status=RunStatus.PAUSED, owner=None, waits=waits, wake_at=2e9 + 1 / 3)
    await scribe.deliver(f"{LOOSE}kinds-e", ("kinds-1", "a", 1))
    await scribe.create("kinds-2", workflow="kinds", load_key="", slot=True, priority=7, waits=waits[:1])
    await scribe.create("kinds-3", workflow="kinds", event=event_of("kinds-3", payload=[1]))
    await scribe.move("kinds-3", status=RunStatus.FAILED, owner=None, outcome='{"error":{"type":"ValueError"}}')
    await scribe.create("kinds-4", workflow="kinds", event=event_of("kinds-3"))
    await scribe.park("kinds-4", wait_of("c"), outcome='{"error":{"type":"StateInvalid"}}')
    await scribe.create("kinds-5", workflow="kinds", status=RunStatus.DELAYED, wake_at=2e9, created_at=5.5)
    await scribe.create("kinds-6", workflow="kinds")  # from schema 4 on
    await scribe.move("kinds-6", outgoing=outgoing_of("kinds-o1", "kinds-o2"))
    await scribe.mark((await scribe.outbox())[0], True, 2, '{"message":"no"}', 5.5)
    assert store.store_id


def columns(path: Path) -> dict[str, list[tuple]]:
    """What tables, columns and indexes a file has, whatever the order they came in."""
    with closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type != 'index'")]
        found = {name: sorted(connection.execute(f"PRAGMA table_xinfo({name})").fetchall()) for name in names}
        found |= {f"indexes of {name}": sorted(connection.execute(f"PRAGMA index_list({name})")) for name in names}
        for pragma in ("application_id", "user_version"):
            found[pragma] = connection.execute(f"PRAGMA {pragma}").fetchall()
        return found


@pytest.fixture(params=range(OLDEST, schema.SCHEMA_VERSION))
def old(request, tmp_path):
    """A file of an earlier schema."""
    return file_of(request.param, tmp_path)


@pytest.fixture(params=range(OLDEST, REARRANGED))
def old_tables(request, tmp_path):
    """A file of a schema whose rows stood in other tables."""
    return file_of(request.param, tmp_path)


@pytest.fixture(params=range(REARRANGED, schema.SCHEMA_VERSION))
def same_tables(request, tmp_path):
    """A file of a schema whose tables are still there as they were."""
    return file_of(request.param, tmp_path)


def file_of(version, folder):
    path = folder / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((HERE / f"schema-{version}.sql").read_text(encoding="utf-8"))
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    return path


async def test_every_earlier_schema_has_its_file():
    """For each schema that was ever released there is a file here."""
    assert sorted(path.name for path in HERE.glob("schema-*.sql")) == [
        f"schema-{version}.sql" for version in range(OLDEST, schema.SCHEMA_VERSION)
    ]


async def test_a_migrated_file_is_like_a_new_one(old, tmp_path):
    """Tables, columns, indexes and views of a migrated file are those of a new one, also when it is opened again."""
    new = tmp_path / "new.db"
    for path in (new, old, old):
        store = SqliteStore(path)
        await store.open("w1")
        await store.close()
    assert columns(old) == columns(new)


async def test_nothing_in_an_old_file_is_lost(old, vclock):
    """Runs that were queued, paused, delayed or in the middle of a step go on, and the order of the queue stays."""
    inside, door = asyncio.Event(), asyncio.Event()
    door.set()
    async with WorkflowRuntime(*workflows(inside, door), store=SqliteStore(old, clock=vclock), clock=vclock) as rt:
        everything = [record.identity for record in (await rt.store.find(RunQuery())).items]
        records = [identity for identity in everything if identity.workflow_id != "kinds"]
        orders = [identity.run_id for identity in reversed(records) if identity.workflow_id == "orders"]
        shipped = []
        for number, run_id in enumerate(orders):
            await rt.emit("approved", id=number)
            result = await rt.wait(run_id)
            shipped.append(result.state["shipped"])
        results = [await rt.wait(identity.run_id) for identity in records]
        assert Counter(str(result.status) for result in results) == {"completed": 6}
        assert shipped == [0, 1, 2]
        states = {result.workflow_id: result.state for result in results}
        assert (states["watch"]["n"], states["busy"]["second"], states["quick"]["only"]) == (6, True, True)
        assert await rt.store.read_loads([("orders", ""), ("busy", "")]) != []


async def test_all_rows_of_an_old_file_are_read_as_they_were(old_tables):
    """Runs, logs, snapshots, waits, messages and events are the same through the port as in the old tables."""
    with closing(sqlite3.connect(old_tables)) as connection:
        connection.row_factory = sqlite3.Row
        tables = ("runs", "run_log", "snapshots", "waits", "wait_keys", "inbox", "events", "remembered", "receipts")
        rows = {table: [dict(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in tables}
        texts = {row["ref"]: row for row in rows["events"]}
    store = SqliteStore(old_tables)
    await store.open("w1")
    for row in rows["runs"]:
        checkpoint = await store.checkpoint(row["run_id"])
        identity, head, waits = checkpoint.record
        given_back = row["status"] == "running"  # its owner is gone
        assert identity._replace(lineage=dump(list(identity.lineage))) == tuple(row[n] for n in identity._fields)
        assert head == RunHead(
            "ready" if given_back else row["status"],
            row["version"] + given_back,
            row["owner"],
            row["epoch"] + given_back,
            *(row[name] for name in ("stage", "attempt", "wake_at", "outcome")),
            bool(row["slot"]),
            *(row[name] for name in ("inbox_seq", "log_seq", "updated_at")),
            row.get("visits"),
        )
        mine = {table: [each for each in rows[table] if each["run_id"] == row["run_id"]] for table in tables[1:6]}
        logs = [(log.first_seq, log.size, log.text) for log in await store.history(row["run_id"])]
        assert logs == sorted((each["first_seq"], each["size"], each["text"]) for each in mine["run_log"])
        since, text = next(((each["log_seq"], each["text"]) for each in mine["snapshots"]), (0, "{}"))
        assert checkpoint.state == fold([LogRow(*each) for each in logs if each[0] > since], load(text))
        assert [
            (wait.wait_id, wait.epoch, wait.parked, list(wait.events), wait.resume_at, wait.on_timeout, wait.expires_at)
            for wait in waits
        ] == [
            (*(w[n] for n in ("wait_id", "epoch")), bool(w["parked"]), load(w["events"]), *list(w.values())[8:11])
            for w in sorted(mine["waits"], key=lambda each: each["place"])
        ]
        assert [
            ([[at.field, at.op, at.value] for at in wait.where], [list(p) for p in wait.correlate], wait.patch)
            for wait in waits
        ] == [tuple(load(w[n]) for n in ("conditions", "correlate", "patch")) for w in mine["waits"]]
        assert {key for wait in waits for key in wait.keys} == {each["key"] for each in mine["wait_keys"]}
        assert [(m.seq, m.kind, m.time, m.event.event.id) for m in checkpoint.inbox] == [
            (each["seq"], each["kind"], each["time"], texts[each["event_ref"]]["id"]) for each in mine["inbox"]
        ]
        event = texts[row["event_ref"]]
        assert (checkpoint.event.id, checkpoint.event.payload) == (event["id"], load(event["data"]))
        assert (checkpoint.event.time, checkpoint.event.key) == (event["time"], event["subject"])
    figures = await store.stats()
    statuses = Counter("ready" if row["status"] == "running" else row["status"] for row in rows["runs"])
    assert {name: figures.get(name) for name in statuses} == statuses
    for table in ("waits", "events", "remembered", "receipts"):
        assert figures[table] == len(rows[table])
    await store.close()


def test_rows_that_stay_in_their_tables_stay_as_they_were(same_tables):
    """A later migration adds tables and columns, and changes nothing in the columns that were there."""

    def tables(connection):
        own = ("_sqlite_migrations", "sqlite_sequence")
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: ", ".join(column for _, column, *_ in connection.execute(f"PRAGMA table_info({name})"))
            for name in names
            if name not in own
        }

    def rows(connection, known):
        return {name: connection.execute(f"SELECT {columns} FROM {name}").fetchall() for name, columns in known.items()}

    with closing(sqlite3.connect(same_tables, isolation_level=None)) as connection:
        known = tables(connection)
        before = rows(connection, known)
        schema.migrate(connection)
        after = rows(connection, {**tables(connection), **known})
    assert len(before["runs"]) > 5
    assert {name: after[name] for name in before} == before
    assert {name: found for name, found in after.items() if name not in before and found} == {}


async def test_an_old_file_is_not_read_before_it_is_migrated(old):
    """Who only looks may not migrate, and is told what does; the file stays as it was."""
    before = columns(old)
    store = SqliteStore(old, readonly=True)
    with pytest.raises(StoreUnavailable, match="start a runtime on it once") as refused:
        await store.open("looking")
    assert refused.value.fields["version"] < schema.SCHEMA_VERSION
    assert columns(old) == before


async def test_a_migration_that_fails_changes_nothing(old, monkeypatch):
    """All steps of a migration are written, or none; the next attempt begins where this one began."""
    before = columns(old)
    apply = Migrations.apply

    def fails_at_the_end(*args, **options):
        apply(*args, **options)
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(Migrations, "apply", fails_at_the_end)
        with pytest.raises(StoreUnavailable):
            await SqliteStore(old).open("w1")
    assert columns(old) == before
    store = SqliteStore(old)
    await store.open("w1")
    await store.close()
    assert columns(old)["user_version"] == [(schema.SCHEMA_VERSION,)]


def test_a_migration_needs_little_memory(tmp_path):
    """A file is migrated where it does not fit into memory: only keys are sorted, not texts."""
    path = tmp_path / "large.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript((HERE / f"schema-{REARRANGED - 1}.sql").read_text(encoding="utf-8"))
        rest = ", ".join(name for _, name, *_ in connection.execute("PRAGMA table_info(runs)") if name != "run_id")
        again = f"INSERT INTO runs (run_id, {rest}) SELECT ?, {rest} FROM runs WHERE run_id = 'kinds-1'"
        connection.executemany(again, [(f"long-{number}",) for number in range(50)])
        text = dump([[0.0, "state", "state:patch", "main", None, {"text": "x" * 4000}]])
        rows = [(f"long-{number % 50}", number, 1, text) for number in range(1, 5001)]
        connection.executemany("INSERT INTO run_log (run_id, first_seq, size, text) VALUES (?, ?, ?, ?)", rows)
    code = (
        "import asyncio, sqlite3, sys; from poundlock.stores.sqlite import SqliteStore; "
        "assert sqlite3.connect(':memory:').execute('PRAGMA hard_heap_limit = 8000000').fetchone() == (8000000,); "
        "asyncio.run(SqliteStore(sys.argv[1]).open('w1'))"
    )
    # In its own process: a limit of SQLite's is for all connections, and for ever.
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT log.version, first_seq FROM log JOIN runs USING (run) WHERE run_id = 'long-7' ORDER BY log.version"
        )
        assert found.fetchall() == list(enumerate(range(7, 5001, 50), 1))


def test_the_first_schema_stays_as_it_was():
    """The script of the first migration makes what files of schema 1 hold: later columns come with later migrations."""
    question = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE '%sqlite%' ORDER BY name"
    found = []
    for script in (Path(schema.__file__).with_name("schema.sql"), HERE / "schema-1.sql"):
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript(script.read_text(encoding="utf-8"))
            found.append([row for row in connection.execute(question) if "migration" not in row[1]])
    assert found[0] == found[1]
