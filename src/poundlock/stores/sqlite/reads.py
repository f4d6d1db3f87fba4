"""Read queries: plain functions on a cursor that return values of the model.

House rule: the caller has begun a transaction, so that all statements of one read see the same state.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence

from poundlock.codecs import dump, load
from poundlock.model.changes import Token
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.receipts import ReceiptLine
from poundlock.model.runs import Checkpoint, LogRow, Message, RunQuery, RunRecord
from poundlock.model.timeline import fold, size_of
from poundlock.ports import Page
from poundlock.stores.answers import read_cursor, write_cursor
from poundlock.stores.sqlite import sql
from poundlock.stores.sqlite.rows import Row, read_event, read_event_text, read_load, read_message, read_record

_IDLE = Load()


def record(cursor: sqlite3.Cursor, run_id: str) -> RunRecord | None:
    """Return a run's record."""
    row = cursor.execute(sql.RECORD, (run_id,)).fetchone()
    return None if row is None else read_record(row)


def checkpoint(cursor: sqlite3.Cursor, run_id: str) -> Checkpoint | None:
    """Return all that is needed to continue a run."""
    row = cursor.execute(sql.RECORD, (run_id,)).fetchone()
    if row is None:
        return None
    found = read_record(row)
    run, ref = row[26:]
    snapshot = cursor.execute(sql.SNAPSHOT, (run,)).fetchone()
    since, text = (0, "") if snapshot is None else snapshot
    rows = [LogRow(*row) for row in cursor.execute(sql.LOG, (run, since)).fetchall()]
    state = fold(rows, load(text) if text else None)
    if ref is None:
        event = read_event_text(cursor.execute(sql.OWN_EVENT, (run,)).fetchone()[0])
    else:
        event = read_event(cursor.execute(sql.EVENT, (ref,)).fetchone()).event
    messages = tuple(_inbox(cursor, run_id, run, 0)) if found.head.inbox_seq else ()
    return Checkpoint(found, state, event, messages, size_of(rows), len(text))


def _number(cursor: sqlite3.Cursor, run_id: str) -> int:
    """Return the number of a run; 0 if there is no such run."""
    row = cursor.execute(sql.RUN, (run_id,)).fetchone()
    return 0 if row is None else int(row[0])


def _inbox(cursor: sqlite3.Cursor, run_id: str, run: int, after: int) -> list[Message]:
    return [read_message(row) for row in cursor.execute(sql.INBOX, (run_id, run, after)).fetchall()]


def inbox(cursor: sqlite3.Cursor, run_id: str, after: int) -> list[Message]:
    """Return the unconsumed messages of a run."""
    return _inbox(cursor, run_id, _number(cursor, run_id), after)


def history(cursor: sqlite3.Cursor, run_id: str, last: int | None = None) -> list[LogRow]:
    """Return all log rows of a run, or the last ones."""
    run = _number(cursor, run_id)
    if last is not None:
        return [LogRow(*row) for row in cursor.execute(sql.LOG_END, (run, last)).fetchall()][::-1]
    return [LogRow(*row) for row in cursor.execute(sql.LOG, (run, 0)).fetchall()]


def receipt(cursor: sqlite3.Cursor, source: str, event_id: str) -> tuple[ReceiptLine, ...] | None:
    """Return the lines of the last receipt of an event."""
    row = cursor.execute(sql.RECEIPT, (source, event_id)).fetchone()
    return None if row is None else tuple(ReceiptLine.from_dict(line) for line in load(row[0]))


def loads(cursor: sqlite3.Cursor, pairs: Sequence[tuple[str, str]]) -> list[tuple[Load, Token | None]]:
    """Return loads and tokens."""
    rows = [cursor.execute(sql.LOAD, pair).fetchone() for pair in pairs]
    return [(_IDLE, None) if row is None else read_load(row) for row in rows]


def shapes(cursor: sqlite3.Cursor) -> dict[str, int]:
    """Return the shapes of wait keys in use."""
    return dict(cursor.execute(sql.SHAPES).fetchall())


def under_keys(cursor: sqlite3.Cursor, keys: Iterable[str]) -> list[RunRecord]:
    """Return the runs with a wait under any of these keys."""
    rows = cursor.execute(sql.RUNS_UNDER_KEYS, (dump(list(keys)),)).fetchall()
    return [read_record(row) for row in rows]


def unfit(cursor: sqlite3.Cursor, workflow: str) -> list[RunRecord]:
    """Return the paused runs of a workflow that have an error."""
    return [read_record(row) for row in cursor.execute(sql.UNFIT, (workflow,)).fetchall()]


def ready(cursor: sqlite3.Cursor, workflows: Collection[str], limit: int) -> list[tuple[int, float, str]]:
    """Return (priority, 0.0, id) of the most urgent ready runs."""
    return cursor.execute(sql.READY, (dump(list(workflows)), limit)).fetchall()


def due(cursor: sqlite3.Cursor, workflows: Collection[str], now: float, limit: int) -> list[tuple[int, float, str]]:
    """Return (priority, wake time, id) of the most urgent due runs; other paused runs do not change the cost."""
    known = dump(list(workflows))
    found: list[tuple[int, float, str]] = []
    for (priority,) in cursor.execute(sql.DUE_PRIORITIES).fetchall():
        if len(found) < limit:
            found += cursor.execute(sql.DUE, (priority, now, known, limit - len(found))).fetchall()
    return found


def next_due(cursor: sqlite3.Cursor, workflows: Collection[str]) -> float | None:
    """Return the earliest wake time."""
    known = dump(list(workflows))
    firsts = [
        cursor.execute(sql.DUE, (priority, float("inf"), known, 1)).fetchone()
        for (priority,) in cursor.execute(sql.DUE_PRIORITIES).fetchall()
    ]
    return min((row[1] for row in firsts if row is not None), default=None)


def counts(cursor: sqlite3.Cursor) -> dict[str, int]:
    """Return the numbers of runs per status, and of rows in other tables."""
    figures: dict[str, int] = {"waits": 0, "events": 0, "remembered": 0, "receipts": 0}
    figures |= dict(cursor.execute(sql.COUNTS).fetchall())
    figures["events"] += cursor.execute(sql.INBOX_EVENTS).fetchone()[0]
    return figures


# ------------------------------------------------------------------------------------------------- lists for people
def find(cursor: sqlite3.Cursor, query: RunQuery) -> Page[RunRecord]:
    """Return records, newest first.

    Each status has its own range of an index, so a page costs as much in a full store as in an empty one.
    """
    where, values = _filters(query)
    rows: list[Row] = []
    for status in dict.fromkeys(map(str, query.status or RunStatus)):
        rows += cursor.execute(page_of(status, where), {**values, "limit": query.limit + 1}).fetchall()
    rows.sort(key=lambda row: (row[10], row[0]), reverse=True)
    page = [read_record(row) for row in rows[: query.limit]]
    return Page(page, write_cursor(page[-1].identity) if len(rows) > query.limit else None)


def page_of(status: str, where: str) -> str:
    """Return the query for a page of the runs of one status.

    The status stands in it, and the index's own condition, because SQLite does not see that one implies the other.
    """
    resting = "" if status == RunStatus.RUNNING else " AND runs.status <> 'running'"
    return f"""
        {sql.RECORDS} WHERE runs.status = '{status}'{resting}{where}
        ORDER BY runs.created_at DESC, runs.run_id DESC LIMIT :limit
    """


def _filters(query: RunQuery) -> tuple[str, dict[str, str | float]]:
    """Return a query's conditions as SQL, beginning with AND, and the values bound in it."""
    wanted: list[tuple[str, dict[str, str | float]]] = []
    if query.workflow is not None:
        wanted.append(("workflow_id = :workflow", {"workflow": query.workflow}))
    if query.key is not None:
        wanted.append(("runs.key = :key", {"key": query.key}))
    if query.since is not None:
        wanted.append(("created_at >= :since", {"since": query.since}))
    if query.until is not None:
        wanted.append(("created_at < :until", {"until": query.until}))
    if query.cursor is not None:
        created_at, run_id = read_cursor(query.cursor)
        wanted.append(("(runs.created_at, runs.run_id) < (:before, :id)", {"before": created_at, "id": run_id}))
    if query.text is not None:
        # lowercase() is Python's: SQLite's own lower() knows ASCII only
        columns = ["runs.run_id", "runs.key", "outcome", "event_type"]
        search = " OR ".join(f"instr(lowercase({column}), :text)" for column in columns)
        wanted.append((f"({search})", {"text": query.text.lower()}))
    where = "".join(f" AND {condition}" for condition, _ in wanted)
    return where, {name: value for _, values in wanted for name, value in values.items()}


def lowercase(text: str | None) -> str:
    """Return a text in the form that `find` compares."""
    return (text or "").lower()
