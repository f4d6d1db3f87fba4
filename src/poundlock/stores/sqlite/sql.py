"""The statements of the hot path, each text once.

House rules:

1. Values are always bound, each by a plain `?` in its place: from Python 3.12 on a numbered one (`?1`) counts as named,
   and a warning is given where its values come as a sequence.
2. A statement for many rows exists in a few sizes only, so that SQLite's prepared form of each is found again; `sizes`
   says which to use.
3. Statements for many rows take 0 (a wake time: an empty text) where NULL is meant. sqlite3 asks the types of None for
   adapters each time, which costs as much as binding four texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

LARGEST: Final = 64
"""Rows in the largest statement. Larger ones are not faster, and each size has to be prepared once."""

# A running run is as far as the last row of its log says, if that is newer than its own row; see schema_3.sql.
_LAST: Final = """\
LEFT JOIN log AS last
    ON last.run = runs.run
    AND last.version = (SELECT max(version) FROM log WHERE log.run = runs.run AND log.version > runs.version)
"""
_VERSION: Final = "ifnull(last.version, runs.version)"
_STAGE: Final = "CASE WHEN last.version IS NULL THEN runs.stage ELSE last.stage END"
_ATTEMPT: Final = "ifnull(last.attempt, runs.attempt)"
_LOG_SEQ: Final = "ifnull(last.first_seq + last.size - 1, runs.log_seq)"
_UPDATED: Final = "ifnull(last.updated_at, runs.updated_at)"
_HEAD: Final = (
    f"status, {_VERSION}, owner, epoch, {_STAGE}, {_ATTEMPT}, wake_at, outcome, slot, inbox_seq, {_LOG_SEQ},"
    f" {_UPDATED}, visits, waits"
)
_RECORD: Final = (
    "runs.run_id, workflow_id, trigger_id, pipeline_id, definition_hash, runs.key, load_key, priority, parent_id,"
    f" lineage, created_at, ifnull(event_ref, runs.run_id), {_HEAD}, runs.run, event_ref"
)
RECORDS: Final = f"SELECT {_RECORD} FROM runs {_LAST}"  # noqa: S608 - our own column names
"""Selects records; conditions are added to it."""

_INSERT_EVENTS: Final = (
    "INSERT OR IGNORE INTO events (ref, type, source, id, time, subject, headers, data) VALUES {rows}"
)
_INSERT_RUNS: Final = """\
INSERT INTO runs (run, run_id, workflow_id, trigger_id, pipeline_id, definition_hash, key, load_key, priority,
                  parent_id, lineage, created_at, event_ref, event_type, place, status, version, owner, epoch, stage,
                  attempt, wake_at, outcome, slot, inbox_seq, log_seq, updated_at, visits, waits)
VALUES {rows}
"""
_CHANGE_RUNS: Final = """\
UPDATE runs
SET status = new.status, version = new.version, owner = new.owner, epoch = new.epoch, stage = new.stage,
    attempt = new.attempt, wake_at = new.wake_at, outcome = new.outcome, slot = new.slot, inbox_seq = new.inbox_seq,
    log_seq = new.log_seq, updated_at = new.updated_at, visits = new.visits, waits = new.waits
FROM (
    SELECT column1 AS run, column2 AS status, column3 AS version, column4 AS owner, column5 AS epoch,
           column6 AS stage, column7 AS attempt, column8 AS wake_at, column9 AS outcome, column10 AS slot,
           column11 AS inbox_seq, column12 AS log_seq, column13 AS updated_at, column14 AS visits, column15 AS waits
    FROM (VALUES {rows})
) AS new
WHERE runs.run = new.run
"""
_INSERT_LOGS: Final = """\
INSERT INTO log (run, version, stage, attempt, updated_at, first_seq, size, text) VALUES {rows}
"""
_INSERT_FIRST_LOGS: Final = """\
INSERT INTO log (run, version, stage, attempt, updated_at, first_seq, size, text, event) VALUES {rows}
"""
_PUT_SNAPSHOTS: Final = "INSERT OR REPLACE INTO snapshots (run, version, text) VALUES {rows}"
_DELETE_LOADS: Final = """\
DELETE FROM loads WHERE (workflow_id, load_key) IN (SELECT column1, column2 FROM (VALUES {rows}))
"""
_PUT_LOADS: Final = """\
INSERT OR REPLACE INTO loads (workflow_id, load_key, active, active_id, queued, tail_id, resumed, generation, turn)
VALUES {rows}
"""
_REMEMBER: Final = """\
INSERT OR REPLACE INTO remembered (source, event_id, scope, fingerprint, run_id, expires_at) VALUES {rows}
"""
_PUT_RECEIPTS: Final = "INSERT OR REPLACE INTO receipts (source, event_id, time, lines) VALUES {rows}"
_INSERT_KEYS: Final = "INSERT INTO wait_keys (key, run) VALUES {rows}"
# Bare VALUES would make SQLite read every key.
_DELETE_KEYS: Final = "DELETE FROM wait_keys WHERE (key, run) IN (SELECT column1, column2 FROM (VALUES {rows}))"
_INSERT_MESSAGES: Final = "INSERT INTO inbox (run, seq, kind, time, body, event_ref, event) VALUES {rows}"
_DELETE_MESSAGES: Final = "DELETE FROM inbox WHERE (run, seq) IN (SELECT column1, column2 FROM (VALUES {rows}))"
_EMPTY_INBOXES: Final = "DELETE FROM inbox WHERE run IN (SELECT column1 FROM (VALUES {rows}))"
_INSERT_OUTBOX: Final = "INSERT INTO outbox (run_id, event) VALUES {rows}"
_INSERT_DEAD_LETTERS: Final = "INSERT INTO outbox (run_id, event, error, dead_at) VALUES {rows}"
_OUTBOX_ROWS: Final = """\
SELECT seq, version, dead_at IS NOT NULL FROM outbox WHERE seq IN (SELECT column1 FROM (VALUES {rows}))
"""
_COUNT: Final = """\
INSERT INTO counts (name, count) VALUES {rows} ON CONFLICT (name) DO UPDATE SET count = count + excluded.count
"""
_HEADS: Final = """\
SELECT run, run_id, workflow_id, load_key, status, version, owner, epoch, stage, attempt, wake_at, outcome, slot,
       inbox_seq, log_seq, updated_at, visits, waits
FROM runs WHERE run_id IN (SELECT column1 FROM (VALUES {rows}))
"""
# One row per run: each row costs a switch of threads, see `batch`. The texts of the log come as one, each a JSON array;
# only those after the snapshot: a run that delays in each round of a loop has a long log.
_CHECKPOINTS: Final = f"""\
SELECT {_RECORD},
    CASE WHEN event_ref IS NULL THEN (
        SELECT event FROM log WHERE log.run = runs.run ORDER BY log.version LIMIT 1
    ) END,
    snapshots.text,
    (
        SELECT group_concat(text, ',') FROM (
            SELECT text FROM log
            WHERE log.run = runs.run AND log.version > ifnull(snapshots.version, 0) AND size > 0 ORDER BY log.version
        )
    )
FROM runs {_LAST} LEFT JOIN snapshots ON snapshots.run = runs.run
WHERE runs.run_id IN (SELECT column1 FROM (VALUES {{rows}}))
"""  # noqa: S608 - our own column names
_INBOXES: Final = """\
SELECT inbox.run, seq, kind, inbox.time, body, event_ref, event, type, source, id, events.time, subject, headers, data
FROM (VALUES {rows}) AS wanted CROSS JOIN inbox ON inbox.run = wanted.column1 AND seq > wanted.column2
LEFT JOIN events ON events.ref = inbox.event_ref AND inbox.event IS NULL
"""
_EVENTS: Final = """\
SELECT ref, type, source, id, time, subject, headers, data FROM events
WHERE ref IN (SELECT column1 FROM (VALUES {rows}))
"""
_STATUSES: Final = "SELECT run_id, status FROM runs WHERE run_id IN (SELECT column1 FROM (VALUES {rows}))"
_REMEMBERED: Final = """\
SELECT source, event_id, scope, fingerprint, run_id, expires_at FROM remembered
WHERE (source, event_id) IN (SELECT column1, column2 FROM (VALUES {rows}))
"""
_RECEIPTS: Final = """\
SELECT source, event_id FROM receipts WHERE (source, event_id) IN (SELECT column1, column2 FROM (VALUES {rows}))
"""

_OR_NULL: Final = "nullif(?, 0)"
_NULLABLE_IDENTITY: Final = (3, 6, 7, 9, 10, 12, 14)
_NULLABLE_HEAD: Final = (2, 4, 7, 12, 13)
_WAKE_AT: Final = 6

EVENT_WIDTH: Final = 8
RUN_WIDTH: Final = 29
CHANGE_WIDTH: Final = 15
LOG_WIDTH: Final = 8
FIRST_LOG_WIDTH: Final = 9
KEY_WIDTH: Final = 2
MESSAGE_WIDTH: Final = 7
PAIR_WIDTH: Final = 2
LOAD_WIDTH: Final = 9
REMEMBER_WIDTH: Final = 6
RECEIPT_WIDTH: Final = 4


def sizes(count: int) -> Iterator[int]:
    """Yield the sizes of statements that together cover `count` rows: powers of two, largest first."""
    while count > LARGEST:
        yield LARGEST
        count -= LARGEST
    yield from _parts(count)


@cache
def _parts(count: int) -> tuple[int, ...]:
    return tuple(1 << bit for bit in range(LARGEST.bit_length() - 1, -1, -1) if count >> bit & 1)


def portions(values: list[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Yield the values in portions for which there are statements, each with its size."""
    start = 0
    for size in sizes(len(values)):
        yield size, values[start : start + size]
        start += size


def _row(width: int, nullable: tuple[int, ...] = (), **special: int) -> str:
    places = [_OR_NULL if place in nullable else "?" for place in range(width)]
    for place in special.values():
        places[place] = "nullif(?, '')"
    return f"({', '.join(places)})"


def _head(start: int) -> tuple[int, ...]:
    return tuple(start + place for place in _NULLABLE_HEAD)


_EVENT_ROW: Final = _row(EVENT_WIDTH, (5, 7), time=4)
_RUN_ROW: Final = _row(RUN_WIDTH, (*_NULLABLE_IDENTITY, *_head(15)), wake_at=15 + _WAKE_AT)
_CHANGE_ROW: Final = _row(CHANGE_WIDTH, _head(1), wake_at=1 + _WAKE_AT)
_LOG_ROW: Final = _row(LOG_WIDTH, (2,))
_FIRST_LOG_ROW: Final = _row(FIRST_LOG_WIDTH, (2,))
_MESSAGE_ROW: Final = _row(MESSAGE_WIDTH, (4, 5, 6))
_LOAD_ROW: Final = _row(LOAD_WIDTH, (3, 5))
_REMEMBER_ROW: Final = _row(REMEMBER_WIDTH, (4,))
_RECEIPT_ROW: Final = _row(RECEIPT_WIDTH)
_PAIR: Final = _row(PAIR_WIDTH)
_SNAPSHOT_ROW: Final = _row(3)
_ONE: Final = _row(1)


def _rows(row: str, count: int) -> str:
    return ", ".join([row] * count)


@cache
def insert_events(count: int) -> str:
    """Return the statement that stores `count` events; one that exists already is unchanged."""
    return _INSERT_EVENTS.format(rows=_rows(_EVENT_ROW, count))


@cache
def insert_runs(count: int) -> str:
    """Return the statement that creates `count` runs."""
    return _INSERT_RUNS.format(rows=_rows(_RUN_ROW, count))


@cache
def change_runs(count: int) -> str:
    """Return the statement that writes the heads of `count` different runs."""
    return _CHANGE_RUNS.format(rows=_rows(_CHANGE_ROW, count))


@cache
def insert_logs(count: int) -> str:
    """Return the statement that appends `count` log rows."""
    return _INSERT_LOGS.format(rows=_rows(_LOG_ROW, count))


@cache
def insert_first_logs(count: int) -> str:
    """Return the statement that appends `count` log rows that have an event."""
    return _INSERT_FIRST_LOGS.format(rows=_rows(_FIRST_LOG_ROW, count))


@cache
def put_snapshots(count: int) -> str:
    """Return the statement that writes `count` snapshots."""
    return _PUT_SNAPSHOTS.format(rows=_rows(_SNAPSHOT_ROW, count))


@cache
def delete_loads(count: int) -> str:
    """Return the statement that deletes `count` loads that are idle now."""
    return _DELETE_LOADS.format(rows=_rows(_PAIR, count))


@cache
def put_loads(count: int) -> str:
    """Return the statement that writes `count` loads."""
    return _PUT_LOADS.format(rows=_rows(_LOAD_ROW, count))


@cache
def remember(count: int) -> str:
    """Return the statement that remembers `count` keys."""
    return _REMEMBER.format(rows=_rows(_REMEMBER_ROW, count))


@cache
def put_receipts(count: int) -> str:
    """Return the statement that writes `count` receipts."""
    return _PUT_RECEIPTS.format(rows=_rows(_RECEIPT_ROW, count))


@cache
def delete_keys(count: int) -> str:
    """Return the statement that deletes `count` keys of waits."""
    return _DELETE_KEYS.format(rows=_rows(_PAIR, count))


@cache
def insert_keys(count: int) -> str:
    """Return the statement that writes `count` keys of waits."""
    return _INSERT_KEYS.format(rows=_rows(_PAIR, count))


@cache
def insert_messages(count: int) -> str:
    """Return the statement that writes `count` messages."""
    return _INSERT_MESSAGES.format(rows=_rows(_MESSAGE_ROW, count))


@cache
def delete_messages(count: int) -> str:
    """Return the statement that deletes `count` messages."""
    return _DELETE_MESSAGES.format(rows=_rows(_PAIR, count))


@cache
def insert_outbox(count: int) -> str:
    """Return the statement that puts `count` events into the outbox."""
    return _INSERT_OUTBOX.format(rows=_rows(_PAIR, count))


@cache
def insert_dead_letters(count: int) -> str:
    """Return the statement that puts `count` dead letters into the outbox."""
    return _INSERT_DEAD_LETTERS.format(rows=_rows(_row(4), count))


@cache
def outbox_rows(count: int) -> str:
    """Return the query for the versions of `count` outbox rows, and which of them are dead letters."""
    return _OUTBOX_ROWS.format(rows=_rows(_ONE, count))


@cache
def empty_inboxes(count: int) -> str:
    """Return the statement that deletes all messages of `count` runs."""
    return _EMPTY_INBOXES.format(rows=_rows(_ONE, count))


@cache
def count(count: int) -> str:
    """Return the statement that adds to `count` counters."""
    return _COUNT.format(rows=_rows(_PAIR, count))


@cache
def heads(count: int) -> str:
    """Return the query for the rows of `count` runs; of a running one, see `LAST` too."""
    return _HEADS.format(rows=_rows(_ONE, count))


@cache
def checkpoints(count: int) -> str:
    """Return the query for the records of `count` runs, with their own events, snapshots and logs."""
    return _CHECKPOINTS.format(rows=_rows(_ONE, count))


@cache
def inboxes(count: int) -> str:
    """Return the query for the messages of `count` runs, each after a sequence."""
    return _INBOXES.format(rows=_rows(_PAIR, count))


@cache
def events(count: int) -> str:
    """Return the query for `count` events."""
    return _EVENTS.format(rows=_rows(_ONE, count))


@cache
def statuses(count: int) -> str:
    """Return the query for the status of `count` runs."""
    return _STATUSES.format(rows=_rows(_ONE, count))


@cache
def remembered(count: int) -> str:
    """Return the query for the keys stored for `count` events."""
    return _REMEMBERED.format(rows=_rows(_PAIR, count))


@cache
def receipts(count: int) -> str:
    """Return the query for the events that have a receipt, of `count` events."""
    return _RECEIPTS.format(rows=_rows(_PAIR, count))


# ---------------------------------------------------------------------------------------------------- one by one
UNFIT: Final = f"""\
SELECT {_RECORD} FROM runs INDEXED BY runs_unfit {_LAST}
WHERE workflow_id = ? AND status = 'paused' AND outcome IS NOT NULL ORDER BY runs.run_id
"""  # noqa: S608 - our own column names
PAUSED_IN_SLOT: Final = f"""\
SELECT {_RECORD} FROM runs INDEXED BY runs_paused_in_slot {_LAST}
WHERE workflow_id = ? AND status = 'paused' AND slot = 1 ORDER BY runs.run_id
"""  # noqa: S608 - our own column names
RECORD: Final = f"{RECORDS} WHERE runs.run_id = ?"
RUN: Final = "SELECT run FROM runs WHERE run_id = ?"

GIVE_BACK: Final = f"""\
UPDATE runs
SET status = 'ready', version = now.version + 1, epoch = runs.epoch + 1, stage = now.stage, attempt = now.attempt,
    log_seq = now.log_seq, updated_at = now.updated_at
FROM (
    SELECT runs.run, {_VERSION} AS version, {_STAGE} AS stage, {_ATTEMPT} AS attempt, {_LOG_SEQ} AS log_seq,
           {_UPDATED} AS updated_at
    FROM runs INDEXED BY runs_running {_LAST} WHERE status = 'running'
) AS now
WHERE runs.run = now.run
"""  # noqa: S608 - our own column names
# Each priority has its own range of the index, in order of acceptance. Mostly there is one.
QUEUE_HEAD: Final = """\
SELECT run_id, priority, created_at FROM runs
WHERE status = 'queued' AND workflow_id = ? AND load_key = ?
ORDER BY priority DESC, place LIMIT ?
"""
QUEUE_LOWEST: Final = "SELECT min(priority) FROM runs WHERE status = 'queued' AND workflow_id = ? AND load_key = ?"
QUEUE_BELOW: Final = """\
SELECT max(priority) FROM runs WHERE status = 'queued' AND workflow_id = ? AND load_key = ? AND priority < ?
"""
QUEUE_OF_PRIORITY: Final = """\
SELECT run_id, priority, created_at FROM runs
WHERE status = 'queued' AND workflow_id = ? AND load_key = ? AND priority = ?
ORDER BY place LIMIT ?
"""
RETURNING: Final = """\
SELECT run_id FROM runs INDEXED BY runs_returning
WHERE slot = 2 AND workflow_id = ? AND load_key = ?
ORDER BY place LIMIT ?
"""
LINE_UP: Final = "UPDATE runs SET place = ? WHERE run = ?"
LAST: Final = """\
SELECT version, stage, attempt, updated_at, first_seq + size - 1 FROM log
WHERE run = ? AND version > ? ORDER BY version DESC LIMIT 1
"""
# The number of a deleted run is not used again while rows of its log are left.
LAST_RUN: Final = """\
SELECT max(ifnull((SELECT max(run) FROM runs), 0), ifnull((SELECT max(run) FROM leftover_logs), 0))
"""
LAST_PLACE: Final = """\
SELECT max(
    (SELECT ifnull(max(place), 0) FROM runs WHERE status = 'queued'),
    (SELECT ifnull(max(place), 0) FROM runs INDEXED BY runs_returning WHERE slot = 2)
)
"""

LOAD: Final = """\
SELECT active, active_id, queued, tail_id, resumed, generation, turn FROM loads
WHERE workflow_id = ? AND load_key = ?
"""
LOADS: Final = """\
SELECT workflow_id, load_key, active, active_id, queued, tail_id, resumed, generation, turn FROM loads
"""
RECEIPT: Final = "SELECT lines FROM receipts WHERE source = ? AND event_id = ?"

SHAPES: Final = "SELECT shape, uses FROM wait_shapes WHERE uses > 0"
COUNT_SHAPE: Final = """\
INSERT INTO wait_shapes (shape, uses) VALUES (?, ?) ON CONFLICT (shape) DO UPDATE SET uses = uses + excluded.uses
"""
RUNS_UNDER_KEYS: Final = f"""
{RECORDS}
WHERE runs.run IN (SELECT wait_keys.run FROM wait_keys WHERE wait_keys.key IN (SELECT value FROM json_each(?)))
ORDER BY created_at, runs.run_id
"""  # noqa: S608 - our own column names

INBOX_EVENTS: Final = "SELECT count(event) FROM inbox"

EVENT: Final = "SELECT ref, type, source, id, time, subject, headers, data FROM events WHERE ref = ?"
LOG: Final = """\
SELECT first_seq, size, text FROM log WHERE run = ? AND version > ? AND size > 0 ORDER BY version LIMIT ?
"""
LOG_BYTES: Final = """\
SELECT first_seq, size, CAST(text AS BLOB) FROM log WHERE run = ? AND size > 0 ORDER BY version
"""
PARTS: Final = (
    ("its snapshot", "mapping", "SELECT CAST(text AS BLOB) FROM snapshots JOIN runs USING (run) WHERE run_id = ?"),
    ("its event", "mapping", "SELECT CAST(event AS BLOB) FROM log JOIN runs USING (run) WHERE run_id = ?"),
    (
        "an event of its inbox",
        "mapping",
        "SELECT CAST(event AS BLOB) FROM inbox JOIN runs USING (run) WHERE run_id = ?",
    ),
    (
        "a message of its inbox",
        "mapping",
        "SELECT CAST(body AS BLOB) FROM inbox JOIN runs USING (run) WHERE run_id = ?",
    ),
    ("its waits", "list", "SELECT CAST(waits AS BLOB) FROM runs WHERE run_id = ?"),
    ("its lineage", "list", "SELECT CAST(lineage AS BLOB) FROM runs WHERE run_id = ?"),
)
"""What there is of a run besides its log: what it is, the form of its JSON, and what selects it."""
LOG_NEWEST: Final = "SELECT version, first_seq + size - 1 FROM log WHERE run = ? ORDER BY version DESC LIMIT 1"
LOG_NEXT: Final = """\
SELECT version, first_seq + size - 1 FROM log WHERE run = ? AND version > ? ORDER BY version LIMIT 1
"""
LOG_END: Final = """\
SELECT first_seq, size, text FROM log WHERE run = ? AND size > 0 ORDER BY version DESC LIMIT ?
"""

# The indexes are named because SQLite cannot know that few of the paused runs are due, and would read all of them.
# Due runs come in order of time for each priority; the priorities in use are found by stepping down the index.
READY: Final = """\
SELECT priority, updated_at, run_id FROM runs INDEXED BY runs_ready
WHERE priority = ? AND status = 'ready' AND slot <> 2 AND workflow_id IN (SELECT value FROM json_each(?))
ORDER BY updated_at, run_id LIMIT ?
"""
READY_PRIORITIES: Final = """\
WITH RECURSIVE found (priority) AS (
    SELECT max(priority) FROM runs INDEXED BY runs_ready WHERE status = 'ready' AND slot <> 2
    UNION ALL
    SELECT (
        SELECT max(runs.priority) FROM runs INDEXED BY runs_ready
        WHERE status = 'ready' AND slot <> 2 AND runs.priority < found.priority
    ) FROM found WHERE found.priority IS NOT NULL
)
SELECT priority FROM found WHERE priority IS NOT NULL
"""
DUE_PRIORITIES: Final = """\
WITH RECURSIVE found (priority) AS (
    SELECT max(priority) FROM runs INDEXED BY runs_due WHERE wake_at IS NOT NULL AND status IN ('paused', 'delayed')
    UNION ALL
    SELECT (
        SELECT max(runs.priority) FROM runs INDEXED BY runs_due
        WHERE wake_at IS NOT NULL AND status IN ('paused', 'delayed') AND runs.priority < found.priority
    ) FROM found WHERE found.priority IS NOT NULL
)
SELECT priority FROM found WHERE priority IS NOT NULL
"""
DUE: Final = """\
SELECT priority, wake_at, run_id FROM runs INDEXED BY runs_due
WHERE priority = ? AND wake_at <= ? AND status IN ('paused', 'delayed')
  AND workflow_id IN (SELECT value FROM json_each(?))
ORDER BY wake_at, run_id LIMIT ?
"""
PUT_PENDING_HOOKS: Final = "INSERT OR IGNORE INTO pending_hooks (workflow_id, run_id) VALUES (?, ?)"
PENDING_HOOKS: Final = "SELECT run_id FROM pending_hooks WHERE workflow_id = ? ORDER BY seq"
DROP_PENDING_HOOKS: Final = "DELETE FROM pending_hooks WHERE run_id = ?"
_OUTBOX: Final = """\
SELECT seq, run_id, event, version, admitted, attempts, error, dead_at, held_by FROM outbox WHERE seq > ? AND
"""
TO_DELIVER: Final = f"{_OUTBOX}dead_at IS NULL ORDER BY seq LIMIT ?"
OF_RUN: Final = f"{_OUTBOX}run_id = ? AND dead_at IS NULL ORDER BY seq LIMIT ?"
DEAD: Final = f"{_OUTBOX}dead_at IS NOT NULL ORDER BY seq LIMIT ?"
DEAD_OF_RUN: Final = f"{_OUTBOX}run_id = ? AND dead_at IS NOT NULL ORDER BY seq LIMIT ?"
DELETE_OUTBOX: Final = "DELETE FROM outbox WHERE seq = ?"
MARK_OUTBOX: Final = """\
UPDATE outbox SET version = ?, admitted = ?, attempts = ?, error = ?, dead_at = ? WHERE seq = ?
"""
RUN_AND_EVENT: Final = "SELECT event_ref FROM runs WHERE run = ?"
DELETE_RUN: Final = "DELETE FROM runs WHERE run = ?"
DELETE_SNAPSHOT: Final = "DELETE FROM snapshots WHERE run = ?"
DELETE_INBOX: Final = "DELETE FROM inbox WHERE run = ?"
DELETE_LOG: Final = "DELETE FROM log WHERE rowid IN (SELECT rowid FROM log WHERE run = ? ORDER BY version LIMIT ?)"
DELETE_KEYS_OF_RUN: Final = "DELETE FROM remembered WHERE run_id = ? AND expires_at > 1e300"
EVENT_IN_USE: Final = "SELECT EXISTS (SELECT 1 FROM runs WHERE event_ref = ?)"
LEAVE_LOG: Final = "INSERT OR IGNORE INTO leftover_logs (run) VALUES (?)"
LEAVE_EVENT: Final = "INSERT OR IGNORE INTO leftover_events (ref) VALUES (?)"
LEFT_LOG: Final = "SELECT run FROM leftover_logs WHERE run > 0 ORDER BY run LIMIT 1"
LOG_IS_GONE: Final = "DELETE FROM leftover_logs WHERE run = ?"
LEFT_EVENTS: Final = "SELECT ref FROM leftover_events WHERE ref > ? ORDER BY ref LIMIT ?"
EVENT_IS_GONE: Final = "DELETE FROM leftover_events WHERE ref = ?"
ENDED: Final = """\
SELECT run, run_id, workflow_id, status, updated_at, version, parent_id,
       parent_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM runs AS parents WHERE parents.run_id = runs.parent_id)
FROM runs WHERE run > ? ORDER BY run LIMIT ?
"""
SCHEDULE: Final = "SELECT rule, upto FROM schedules WHERE workflow_id = ? AND trigger_id = ?"
SCHEDULES: Final = "SELECT trigger_id, rule, upto FROM schedules WHERE workflow_id = ?"
PUT_SCHEDULE: Final = "INSERT OR REPLACE INTO schedules (workflow_id, trigger_id, rule, upto) VALUES (?, ?, ?, ?)"
ADD_LETTER: Final = """\
INSERT INTO outbox (run_id, event, attempts, error, dead_at, held_by) VALUES ('', ?, 1, ?, ?, ?)
"""
HOLD: Final = """\
SELECT kind, since, count, due_at, token, last_source, last_id FROM holds
WHERE workflow_id = ? AND trigger_id = ? AND key = ?
"""
PUT_HOLD: Final = """\
INSERT OR REPLACE INTO holds (workflow_id, trigger_id, key, kind, since, count, due_at, token, last_source, last_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
DELETE_HOLD: Final = "DELETE FROM holds WHERE workflow_id = ? AND trigger_id = ? AND key = ?"
DUE_HOLDS: Final = """\
SELECT due_at, trigger_id, key FROM holds INDEXED BY holds_due WHERE workflow_id = ? ORDER BY due_at LIMIT ?
"""
HELD: Final = """\
SELECT seq, event, load_key, initial FROM held WHERE workflow_id = ? AND trigger_id = ? AND key = ?
ORDER BY seq LIMIT ?
"""
ADD_HELD: Final = """\
INSERT INTO held (workflow_id, trigger_id, key, event, load_key, initial) VALUES (?, ?, ?, ?, ?, ?)
"""
DELETE_HELD: Final = "DELETE FROM held WHERE workflow_id = ? AND trigger_id = ? AND key = ? AND seq <= ?"
PAUSES: Final = "SELECT workflow_id, incoming, reason, by, since FROM pauses ORDER BY workflow_id"
PAUSE: Final = "INSERT OR REPLACE INTO pauses (workflow_id, incoming, reason, by, since) VALUES (?, ?, ?, ?, ?)"
UNPAUSE: Final = "DELETE FROM pauses WHERE workflow_id = ?"
READ_META: Final = "SELECT value FROM meta WHERE name = ?"
WRITE_META: Final = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"
COUNTS: Final = "SELECT name, count FROM counts WHERE count > 0"
