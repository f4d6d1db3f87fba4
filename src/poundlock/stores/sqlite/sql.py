"""The statements of the hot path, each text once.

House rules: values are always bound, each by a plain `?` in its place: from Python 3.12 on a numbered one (`?1`) counts
as named, and a warning is given where its values come as a sequence. A statement for many rows exists in a few sizes
only, so that SQLite's prepared form of each is found again; `sizes` says which to use.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

LARGEST: Final = 64
"""Rows in the largest statement. Larger ones are not faster, and each size has to be prepared once."""

RUN_COLUMNS: Final = (
    "run_id, workflow_id, trigger_id, pipeline_id, definition_hash, key, load_key, priority, parent_id, lineage,"
    " created_at, event_ref, status, version, owner, epoch, stage, attempt, wake_at, outcome, slot, inbox_seq,"
    " log_seq, updated_at, visits"
)

_INSERT_EVENTS: Final = "INSERT OR IGNORE INTO events (ref, type, source, id, time, subject, headers, data) VALUES "
_INSERT_RUNS: Final = f"INSERT INTO runs ({RUN_COLUMNS}, place) VALUES "  # noqa: S608 - our own column names
_INSERT_LOGS: Final = "INSERT INTO run_log (run_id, first_seq, size, text) VALUES "
# A boundary does not change status, wake time and outcome, and so no index: half the work of a move. It does not change
# the visits either, because the run visits its stages in order.
CROSS_BOUNDARY: Final = """
UPDATE runs
SET version = version + 1, owner = ?, stage = ?, attempt = ?, slot = ?, updated_at = ?, log_seq = ifnull(?, log_seq)
WHERE run_id = ? AND version = ? AND epoch = ? AND inbox_seq = ifnull(?, inbox_seq) AND slot >= ?
  AND status = 'running' AND wake_at IS NULL AND outcome IS NULL
"""
_CROSS_BOUNDARIES: Final = """
UPDATE runs
SET version = version + 1, owner = new.owner, stage = new.stage, attempt = new.attempt, slot = new.slot,
    updated_at = new.updated_at, log_seq = ifnull(new.log_seq, runs.log_seq)
FROM (
    SELECT column1 AS owner, column2 AS stage, column3 AS attempt, column4 AS slot, column5 AS updated_at,
           column6 AS log_seq, column7 AS run_id, column8 AS from_version, column9 AS epoch, column10 AS from_inbox,
           column11 AS least_slot
    FROM (VALUES {rows})
) AS new
WHERE runs.run_id = new.run_id AND runs.version = new.from_version AND runs.epoch = new.epoch
  AND runs.inbox_seq = ifnull(new.from_inbox, runs.inbox_seq) AND runs.slot >= new.least_slot
  AND runs.status = 'running' AND runs.wake_at IS NULL AND runs.outcome IS NULL
"""
MOVE_RUN: Final = """
UPDATE runs
SET version = version + 1, status = ?, owner = ?, epoch = ?, stage = ?, attempt = ?, wake_at = ?, outcome = ?,
    slot = ?, updated_at = ?, log_seq = ifnull(?, log_seq), visits = ifnull(?, visits)
WHERE run_id = ? AND version = ? AND epoch = ? AND inbox_seq = ifnull(?, inbox_seq) AND slot >= ?
"""
_MOVE_RUNS: Final = """
UPDATE runs
SET version = version + 1, status = new.status, owner = new.owner, epoch = new.epoch, stage = new.stage,
    attempt = new.attempt, wake_at = new.wake_at, outcome = new.outcome, slot = new.slot,
    updated_at = new.updated_at, log_seq = ifnull(new.log_seq, runs.log_seq), visits = ifnull(new.visits, runs.visits)
FROM (
    SELECT column1 AS status, column2 AS owner, column3 AS epoch, column4 AS stage, column5 AS attempt,
           column6 AS wake_at, column7 AS outcome, column8 AS slot, column9 AS updated_at, column10 AS log_seq,
           column11 AS visits, column12 AS run_id, column13 AS from_version, column14 AS from_epoch,
           column15 AS from_inbox, column16 AS least_slot
    FROM (VALUES {rows})
) AS new
WHERE runs.run_id = new.run_id AND runs.version = new.from_version AND runs.epoch = new.from_epoch
  AND runs.inbox_seq = ifnull(new.from_inbox, runs.inbox_seq) AND runs.slot >= new.least_slot
"""
_WAIT_KEYS: Final = "SELECT run_id, keys FROM waits WHERE run_id IN ({rows})"
_DELETE_WAITS: Final = "DELETE FROM waits WHERE run_id IN ({rows})"
_INSERT_WAITS: Final = """
INSERT INTO waits (run_id, place, wait_id, epoch, parked, events, conditions, correlate, resume_at, on_timeout,
                   expires_at, patch, keys)
VALUES {rows}
"""
_DELETE_LOADS: Final = """
DELETE FROM loads WHERE (workflow_id, load_key) IN (SELECT column1, column2 FROM (VALUES {rows}))
"""
_PUT_LOADS: Final = """
INSERT OR REPLACE INTO loads (workflow_id, load_key, active, active_id, queued, tail_id, generation, turn)
VALUES {rows}
"""
_REMEMBER: Final = """
INSERT OR REPLACE INTO remembered (source, event_id, scope, fingerprint, run_id, expires_at) VALUES {rows}
"""
_PUT_RECEIPTS: Final = "INSERT OR REPLACE INTO receipts (source, event_id, time, lines) VALUES {rows}"
_INSERT_KEYS: Final = "INSERT INTO wait_keys (key, run_id) VALUES {rows}"
# Bare VALUES would make SQLite read every key.
_DELETE_KEYS: Final = "DELETE FROM wait_keys WHERE (key, run_id) IN (SELECT column1, column2 FROM (VALUES {rows}))"

_INBOX_SEQS: Final = "SELECT run_id, inbox_seq FROM runs WHERE run_id IN ({rows})"
_NEXT_MESSAGES: Final = "UPDATE runs SET inbox_seq = inbox_seq + 1 WHERE run_id IN ({rows})"
_INSERT_MESSAGES: Final = "INSERT INTO inbox (run_id, seq, kind, time, body, event_ref) VALUES {rows}"
_EMPTY_INBOXES: Final = "DELETE FROM inbox WHERE run_id IN ({rows})"

EVENT_WIDTH: Final = 8
RUN_WIDTH: Final = 26
LOG_WIDTH: Final = 4
BOUNDARY_WIDTH: Final = 11
MOVE_WIDTH: Final = 16
WAIT_WIDTH: Final = 13
KEY_WIDTH: Final = 2
MESSAGE_WIDTH: Final = 6
PAIR_WIDTH: Final = 2
LOAD_WIDTH: Final = 8
REMEMBER_WIDTH: Final = 6
RECEIPT_WIDTH: Final = 4


def sizes(count: int) -> Iterator[int]:
    """Yield the sizes of statements that together cover `count` rows: powers of two, largest first."""
    while count >= LARGEST:
        yield LARGEST
        count -= LARGEST
    size = LARGEST
    while count:
        size >>= 1
        if count >= size:
            yield size
            count -= size


def _rows(width: int, count: int) -> str:
    row = f"({', '.join('?' * width)})"
    return ", ".join([row] * count)


@cache
def insert_events(count: int) -> str:
    """Return the statement that stores `count` events; one that exists already is unchanged."""
    return _INSERT_EVENTS + _rows(EVENT_WIDTH, count)


@cache
def insert_runs(count: int) -> str:
    """Return the statement that creates `count` runs."""
    return _INSERT_RUNS + _rows(RUN_WIDTH, count)


@cache
def insert_logs(count: int) -> str:
    """Return the statement that appends `count` log rows."""
    return _INSERT_LOGS + _rows(LOG_WIDTH, count)


@cache
def cross_boundaries(count: int) -> str:
    """Return the statement that lets up to `count` different running runs cross a stage boundary.

    It skips those whose conditions do not hold, and those that would take a slot again: that changes a load too.
    Rows of NULLs fill it up.
    """
    return CROSS_BOUNDARY if count == 1 else _CROSS_BOUNDARIES.format(rows=_rows(BOUNDARY_WIDTH, count))


@cache
def move_runs(count: int) -> str:
    """Return the statement that moves up to `count` different runs, in any way; otherwise the same."""
    return MOVE_RUN if count == 1 else _MOVE_RUNS.format(rows=_rows(MOVE_WIDTH, count))


@cache
def delete_loads(count: int) -> str:
    """Return the statement that deletes `count` loads that are idle now."""
    return _DELETE_LOADS.format(rows=_rows(PAIR_WIDTH, count))


@cache
def put_loads(count: int) -> str:
    """Return the statement that writes `count` loads."""
    return _PUT_LOADS.format(rows=_rows(LOAD_WIDTH, count))


@cache
def remember(count: int) -> str:
    """Return the statement that remembers `count` keys."""
    return _REMEMBER.format(rows=_rows(REMEMBER_WIDTH, count))


@cache
def put_receipts(count: int) -> str:
    """Return the statement that writes `count` receipts; of several for one event the last stays."""
    return _PUT_RECEIPTS.format(rows=_rows(RECEIPT_WIDTH, count))


@cache
def wait_keys(count: int) -> str:
    """Return the query for the keys of all waits of `count` runs."""
    return _WAIT_KEYS.format(rows=", ".join("?" * count))


@cache
def delete_waits(count: int) -> str:
    """Return the statement that deletes all waits of `count` runs."""
    return _DELETE_WAITS.format(rows=", ".join("?" * count))


@cache
def insert_waits(count: int) -> str:
    """Return the statement that writes `count` waits."""
    return _INSERT_WAITS.format(rows=_rows(WAIT_WIDTH, count))


@cache
def delete_keys(count: int) -> str:
    """Return the statement that deletes `count` keys of waits."""
    return _DELETE_KEYS.format(rows=_rows(KEY_WIDTH, count))


@cache
def insert_keys(count: int) -> str:
    """Return the statement that writes `count` keys of waits."""
    return _INSERT_KEYS.format(rows=_rows(KEY_WIDTH, count))


@cache
def inbox_seqs(count: int) -> str:
    """Return the query for the last inbox sequences of `count` runs."""
    return _INBOX_SEQS.format(rows=", ".join("?" * count))


@cache
def next_messages(count: int) -> str:
    """Return the statement that counts one more message for each of `count` different runs."""
    return _NEXT_MESSAGES.format(rows=", ".join("?" * count))


@cache
def insert_messages(count: int) -> str:
    """Return the statement that writes `count` messages."""
    return _INSERT_MESSAGES.format(rows=_rows(MESSAGE_WIDTH, count))


@cache
def empty_inboxes(count: int) -> str:
    """Return the statement that deletes all messages of `count` runs."""
    return _EMPTY_INBOXES.format(rows=", ".join("?" * count))


# ---------------------------------------------------------------------------------------------------- one by one
RUN_EXISTS: Final = "SELECT 1 FROM runs WHERE run_id = ?"
RUN_CONDITIONS: Final = "SELECT version, epoch, inbox_seq, slot, workflow_id, load_key FROM runs WHERE run_id = ?"
RUN_STATUS: Final = "SELECT status FROM runs WHERE run_id = ?"
RUN_PHASE: Final = """
SELECT status, slot, workflow_id, load_key, inbox_seq, outcome IS NOT NULL FROM runs WHERE run_id = ?
"""
UNFIT: Final = f"""
SELECT {RUN_COLUMNS} FROM runs INDEXED BY runs_unfit
WHERE workflow_id = ? AND status = 'paused' AND outcome IS NOT NULL ORDER BY run_id
"""  # noqa: S608 - our own column names
RUN: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE run_id = ?"  # noqa: S608 - our own column names

TAKE_RUN: Final = """
UPDATE runs
SET status = ?, owner = ?, version = version + 1, epoch = epoch + 1, wake_at = NULL, outcome = NULL, slot = ?,
    attempt = attempt + ?, updated_at = ?
WHERE run_id = ?
"""
TAKE_SLOT: Final = "UPDATE runs SET slot = 1 WHERE run_id = ?"
NEXT_MESSAGE: Final = "UPDATE runs SET inbox_seq = ? WHERE run_id = ?"
GIVE_BACK: Final = """
UPDATE runs SET status = 'ready', version = version + 1, epoch = epoch + 1
WHERE status = 'running'
"""
QUEUE_HEAD: Final = """
SELECT run_id FROM runs
WHERE status = 'queued' AND workflow_id = ? AND load_key = ?
ORDER BY priority DESC, place LIMIT ?
"""
LAST_PLACE: Final = "SELECT max(place) FROM runs WHERE status = 'queued'"

LOAD: Final = """
SELECT active, active_id, queued, tail_id, generation, turn FROM loads WHERE workflow_id = ? AND load_key = ?
"""
LOADS: Final = "SELECT workflow_id, load_key, active, active_id, queued, tail_id, generation, turn FROM loads"
REMEMBERED: Final = """
SELECT source, event_id, scope, fingerprint, run_id, expires_at FROM remembered
WHERE source = ? AND event_id = ? AND scope = ?
"""
RECEIPT: Final = "SELECT lines FROM receipts WHERE source = ? AND event_id = ?"

WAITS: Final = """
SELECT wait_id, epoch, parked, events, conditions, correlate, resume_at, on_timeout, expires_at, patch, keys
FROM waits WHERE run_id = ? ORDER BY place
"""
WAIT_PHASES: Final = "SELECT wait_id, epoch, parked FROM waits WHERE run_id = ?"
ANY_WAIT: Final = "SELECT EXISTS (SELECT 1 FROM waits)"
SHAPES: Final = "SELECT shape, uses FROM wait_shapes WHERE uses > 0"
COUNT_SHAPE: Final = """
INSERT INTO wait_shapes (shape, uses) VALUES (?, ?) ON CONFLICT (shape) DO UPDATE SET uses = uses + excluded.uses
"""
RUNS_UNDER_KEYS: Final = f"""
SELECT {RUN_COLUMNS} FROM runs
WHERE run_id IN (SELECT run_id FROM wait_keys WHERE wait_keys.key IN (SELECT value FROM json_each(?)))
ORDER BY created_at, run_id
"""  # noqa: S608 - our own column names

DELETE_MESSAGE: Final = "DELETE FROM inbox WHERE run_id = ? AND seq = ?"
DELETE_INBOX: Final = "DELETE FROM inbox WHERE run_id = ?"
INBOX: Final = """
SELECT run_id, seq, kind, inbox.time, body, ref, type, source, id, events.time, subject, headers, data
FROM inbox LEFT JOIN events ON events.ref = inbox.event_ref
WHERE run_id = ? AND seq > ? ORDER BY seq
"""

EVENT: Final = "SELECT ref, type, source, id, time, subject, headers, data FROM events WHERE ref = ?"
SNAPSHOT: Final = "SELECT log_seq, text FROM snapshots WHERE run_id = ?"
PUT_SNAPSHOT: Final = """
INSERT OR REPLACE INTO snapshots (run_id, log_seq, text) SELECT run_id, log_seq, ? FROM runs WHERE run_id = ?
"""
LOG: Final = "SELECT first_seq, size, text FROM run_log WHERE run_id = ? AND first_seq > ? ORDER BY first_seq"
LOG_END: Final = "SELECT first_seq, size, text FROM run_log WHERE run_id = ? ORDER BY first_seq DESC LIMIT ?"

# The indexes are named because SQLite cannot know that few of the paused runs are due, and would read all of them.
# Due runs come in order of time for each priority; the priorities in use are found by stepping down the index.
READY: Final = """
SELECT priority, 0.0, run_id FROM runs INDEXED BY runs_ready
WHERE status = 'ready' AND workflow_id IN (SELECT value FROM json_each(?))
ORDER BY priority DESC, run_id LIMIT ?
"""
DUE_PRIORITIES: Final = """
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
DUE: Final = """
SELECT priority, wake_at, run_id FROM runs INDEXED BY runs_due
WHERE priority = ? AND wake_at <= ? AND status IN ('paused', 'delayed')
  AND workflow_id IN (SELECT value FROM json_each(?))
ORDER BY wake_at, run_id LIMIT ?
"""
READ_META: Final = "SELECT value FROM meta WHERE name = ?"
WRITE_META: Final = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"
COUNTS: Final = "SELECT status, count(*) FROM runs GROUP BY status"
COUNT_ROWS: Final = {
    "waits": "SELECT count(*) FROM waits",
    "events": "SELECT count(*) FROM events",
    "remembered": "SELECT count(*) FROM remembered",
    "receipts": "SELECT count(*) FROM receipts",
}
