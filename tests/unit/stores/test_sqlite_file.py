"""What a store's file shows to people, and that no question reads more of it than it has to."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest
import sqlite_utils

from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.runs import LogRow, RunQuery
from poundlock.stores.sqlite import sql
from poundlock.stores.sqlite.connect import connect_reader
from poundlock.stores.sqlite.reads import _filters, page_of
from poundlock.testing.store_contract import NOW, Scribe, event_of, log_of, wait_of


@pytest.fixture
async def scribe(opened):
    return Scribe(await opened(synchronous="OFF"))


@pytest.fixture
def ask(path):
    """Ask the file something with nothing but sqlite3, while the store is open."""

    def answer(question, *values):
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(question, values).fetchall()

    return answer


# ------------------------------------------------------------------------------------------------------------- views
async def test_the_timeline_view_has_a_row_per_entry(scribe, ask):
    """`timeline` expands each commit's log into entries with sequence, readable time, source, type, path and data."""
    first = '[0.5,"pipeline","stage:start","main/one",{"n":1},null]'
    text = f'[{first},[86400.0,"state","state:patch","main/one",null,{{"a":1}}]]'
    await scribe.create(log=LogRow(1, 2, text))
    await scribe.move(log=log_of(3, {"b": [1, 2]}))
    rows = ask("SELECT * FROM timeline WHERE run_id = ? ORDER BY seq", "r1")
    assert rows[:2] == [
        ("r1", 1, "1970-01-01 00:00:00.500", "pipeline", "stage:start", "main/one", '{"n":1}', None),
        ("r1", 2, "1970-01-02 00:00:00.000", "state", "state:patch", "main/one", None, '{"a":1}'),
    ]
    assert (rows[2][1], rows[2][7]) == (3, '{"b":[1,2]}')


async def test_the_waiting_view_tells_who_waits_for_what(scribe, ask):
    """`waiting` lists parked runs with the waits they stand at, and neither buffering waits nor running runs."""
    wait = wait_of(correlate=(("order.id", 7),), expires_at=60.0)
    await scribe.park("r1", wait, wait_of("buffers", "order.noted", parked=False))
    await scribe.create("r2", waits=(wait_of(parked=False),))
    names = "run_id, workflow, wait_id, events, correlate, resume_at, expires"
    expected = ("r1", "orders", "approval", '["order.approved"]', '[["order.id",7]]', "ship", "1970-01-01 00:01:00.000")
    assert ask(f"SELECT {names} FROM waiting") == [expected]


async def test_the_overview_shows_runs_for_people(scribe, ask):
    """`runs_overview` has times one can read, and result and error apart."""
    await scribe.create("r1", key="K", created_at=90_061.25)
    await scribe.create("r2")
    await scribe.move("r2", status=RunStatus.FAILED, owner=None, outcome='{"error":{"type":"ValueError"}}')
    await scribe.create("r3", status=RunStatus.DELAYED, wake_at=120.0)
    await scribe.move("r1", status=RunStatus.COMPLETED, owner=None, outcome='{"result":{"ok":true}}')
    rows = ask("SELECT run_id, key, status, created, wakes, result, error FROM runs_overview ORDER BY run_id")
    assert rows == [
        ("r1", "K", "completed", "1970-01-02 01:01:01.250", None, '{"ok":true}', None),
        ("r2", None, "failed", "1970-01-01 00:16:40.000", None, None, '{"type":"ValueError"}'),
        ("r3", None, "delayed", "1970-01-01 00:16:40.000", "1970-01-01 00:02:00.000", None, None),
    ]


async def test_the_overview_knows_how_far_a_running_run_is(scribe, ask):
    """Stage, attempt and time are those of its last boundary, whether that wrote the run's row or only the log."""
    ours = "SELECT stage, attempt, updated FROM runs_overview WHERE run_id = 'r1'"
    await scribe.create("r1", log=log_of(1, {"a": 1}))
    assert ask(ours) == [("first", 1, "1970-01-01 00:16:40.000")]
    await scribe.move("r1", log=log_of(2, {"a": 2}), stage="second", attempt=2, updated_at=60.5)
    assert ask(ours) == [("second", 2, "1970-01-01 00:01:00.500")]
    await scribe.move("r1", log=log_of(3, {"a": 3}), stage=None, attempt=1, updated_at=61.0)
    assert ask(ours) == [(None, 1, "1970-01-01 00:01:01.000")]
    await scribe.move("r1", stage="fourth", updated_at=62.0)
    assert ask(ours) == [("fourth", 1, "1970-01-01 00:01:02.000")]


async def test_a_boundary_of_a_resumed_run_writes_its_log_only(scribe, ask):
    """A run that goes straight on after a pause names its visits at each boundary; unchanged, they are not written."""
    row = "SELECT version, visits FROM runs WHERE run_id = 'r1'"
    await scribe.create("r1", visits='"second"')
    for seq in (1, 2):
        await scribe.move("r1", log=log_of(seq, {"a": seq}), visits='"second"')
    assert ask(row) == [(1, '"second"')]
    await scribe.move("r1", log=log_of(3, {"a": 3}), visits='{"second":2}')
    assert ask(row) == [(4, '{"second":2}')]
    assert (await scribe.record("r1")).head.version == 4


async def test_who_waits_is_found_among_many_ended_runs(scribe, ask):
    """`waiting` looks at the paused runs only."""
    plan = [row[3] for row in ask("EXPLAIN QUERY PLAN SELECT * FROM waiting")]
    assert plan[0].startswith("SEARCH runs USING INDEX runs_by_status (status=?")


async def test_sqlite_utils_opens_the_file(scribe, path):
    """The file is at home in sqlite-utils: tables are strict, and views are found."""
    await scribe.create(log=log_of(1, {"a": 1}))
    with closing(sqlite_utils.Database(path)) as database:
        assert {view.name for view in database.views} == {"runs_overview", "timeline", "waiting"}
        ours = [table for table in database.tables if table.name not in ("_sqlite_migrations", "sqlite_sequence")]
        assert all(table.strict for table in ours)
        assert [row["run_id"] for row in database.query("SELECT run_id FROM runs_overview")] == ["r1"]


async def test_data_are_json_that_sqlite_understands(scribe, ask):
    """Payloads, states and outcomes can be asked for with SQLite's JSON functions."""
    await scribe.create(event=event_of("e1", payload={"order": {"lines": [{"sku": "a"}]}}))
    await scribe.create("r2", event=event_of("r2", payload={"order": {"lines": [{"sku": "b"}]}}))
    assert ask("SELECT json_extract(data, '$.order.lines[0].sku') FROM events") == [("a",)]
    assert ask("SELECT json_extract(event, '$.data.order.lines[0].sku') FROM log WHERE event NOT NULL") == [("b",)]


async def test_what_ended_leaves_no_idle_rows(scribe, ask):
    """When all is done only history is left: no waits, no keys, no messages, no loads."""
    await scribe.create("r1", load_key="", slot=True)
    await scribe.change_load(Load(active=1, active_id="r1"))
    await scribe.park("r1", wait_of("a"), wait_of("b", "x.*", "y"))
    await scribe.deliver("e2", ("r1", "a", 1), ("r1", "b", 1))
    await scribe.end("r1")
    await scribe.change_load(Load())
    assert ask("SELECT waits FROM runs") == [(None,)]
    for table in ("wait_keys", "inbox", "loads"):
        assert ask(f"SELECT count(*) FROM {table}") == [(0,)], table
    assert ask("SELECT sum(uses) FROM wait_shapes") == [(0,)]
    assert scribe.store._index.shapes == {}
    assert scribe.store._index.loads == {}


async def test_memory_does_not_grow_with_parked_runs(scribe):
    """However many runs are parked, the process knows a shape and a count."""
    for n in range(50):
        await scribe.park(f"r{n}", wait_of(correlate=(("id", n),)))
    assert list(scribe.store._index.shapes.values()) == [50]
    assert scribe.store._index.loads == {}


# -------------------------------------------------------------------------------------------------------- query plans
QUESTIONS = {
    name: text for name, text in vars(sql).items() if name[0] != "_" and name.isupper() and isinstance(text, str)
}
MANY = (
    sql.heads,
    sql.statuses,
    sql.checkpoints,
    sql.inboxes,
    sql.events,
    sql.remembered,
    sql.receipts,
    sql.change_runs,
    sql.delete_keys,
    sql.delete_messages,
    sql.empty_inboxes,
    sql.delete_loads,
)
QUESTIONS |= {statement.__name__: statement(8) for statement in MANY}
# These count what there is, for people: a row per status, and the messages that nobody has taken in yet.
COUNTING = {"COUNTS", "INBOX_EVENTS"}
# These read what is active, once, when the store is opened.
OPENING = {"LOADS", "PAUSES", "SHAPES"}


@pytest.mark.parametrize("name", sorted(QUESTIONS.keys() - COUNTING - OPENING - {"RECORDS"}))
async def test_no_question_scans_a_table(scribe, path, name):
    """What runs, events and claims ask or change is found through an index, whatever else the file holds."""
    text = QUESTIONS[name]
    values = [None] * text.count("?")
    with closing(sqlite3.connect(path)) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert [
        step for step in plan if step.startswith("SCAN") and step.split()[1] in tables and "INDEX" not in step
    ] == []


async def test_a_page_of_a_list_is_not_sorted(scribe, path):
    """A page of runs comes from the index in its order, with or without filters."""
    with closing(connect_reader(str(path))) as connection:
        for query in (RunQuery(), RunQuery(workflow="w"), RunQuery(key="k"), RunQuery(since=NOW, text="x")):
            where, values = _filters(query)
            text = f"EXPLAIN QUERY PLAN {page_of('paused', where)}"
            steps = [row[3] for row in connection.execute(text, {**values, "limit": 5})]
            assert steps[0].startswith("SEARCH runs USING INDEX")
            assert not any("TEMP B-TREE" in step for step in steps)


def test_values_are_bound_in_their_place():
    """No statement numbers its values: from Python 3.12 on each execution would warn, and fail where warnings do."""
    texts = {name: value for name, value in vars(sql).items() if isinstance(value, str) and name.isupper()}
    texts |= {
        name: make(3) for name, make in vars(sql).items() if hasattr(make, "cache_clear") and not name.startswith("_")
    }
    assert len(texts) > 30
    assert [name for name, text in texts.items() if re.search(r"\?\d", text)] == []
