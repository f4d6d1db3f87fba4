"""Convert values of the model to rows of the tables, and back.

House rules: positional tuples in the order of the statements in `sql.py`; no code here uses a connection. Bound values
are exactly str, int, float or None: sqlite3 is slow for subclasses, including enum members and bools.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from poundlock.codecs import dump, load
from poundlock.model.changes import RunCreate, RunMove, Token
from poundlock.model.conditions import Condition
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.runs import LogRow, Message, RunHead, RunIdentity, RunRecord, StoredEvent, WaitRow

Row = tuple[Any, ...]

_STATUS = {str(status.value): status for status in RunStatus}


def event_row(stored: StoredEvent) -> Row:
    """Return the row of an event."""
    event = stored.event
    return (
        stored.ref,
        event.type,
        event.source,
        event.id,
        event.time,
        event.key,
        dump(event.headers, "headers") if event.headers else "{}",
        None if event.payload is None else dump(event.payload, "payload"),
    )


def read_event(row: Row) -> StoredEvent:
    """Return the event of a row."""
    ref, kind, source, event_id, time, subject, headers, data = row
    payload = None if data is None else load(data)
    known = {} if headers == "{}" else load(headers)
    return StoredEvent(
        ref, Event.trusted(kind, payload, id=event_id, time=time, source=source, key=subject, headers=known)
    )


def run_row(create: RunCreate, place: int | None) -> Row:
    """Return the row of a new run."""
    identity, head = create.identity, create.head
    return (
        identity.run_id,
        identity.workflow_id,
        identity.trigger_id,
        identity.pipeline_id,
        identity.definition_hash,
        identity.key,
        identity.load_key,
        identity.priority,
        identity.parent_id,
        dump(identity.lineage) if identity.lineage else "[]",
        identity.created_at,
        identity.event_ref,
        head.status.value,
        head.version,
        head.owner,
        head.epoch,
        head.stage,
        head.attempt,
        head.wake_at,
        head.outcome,
        1 if head.slot else 0,
        head.inbox_seq,
        head.log_seq,
        head.updated_at,
        head.visits,
        place,
    )


def boundary_row(move: RunMove) -> Row:
    """Return what a stage boundary writes into a run's row, and the conditions under which it may."""
    log, slot = move.log, 1 if move.slot else 0
    return (
        move.owner,
        move.stage,
        move.attempt,
        slot,
        move.updated_at,
        None if log is None else log.first_seq + log.size - 1,
        move.run_id,
        move.version,
        move.epoch,
        move.inbox,
        slot,
    )


def move_row(move: RunMove) -> Row:
    """Return what any move writes into a run's row, and its conditions."""
    log, slot = move.log, 1 if move.slot else 0
    return (
        move.status.value,
        move.owner,
        move.new_epoch,
        move.stage,
        move.attempt,
        move.wake_at,
        move.outcome,
        slot,
        move.updated_at,
        None if log is None else log.first_seq + log.size - 1,
        move.visits,
        move.run_id,
        move.version,
        move.epoch,
        move.inbox,
        slot,
    )


def log_row(run_id: str, log: LogRow) -> Row:
    """Return the row of a commit's log."""
    return (run_id, log.first_seq, log.size, log.text)


def status_of(text: str) -> RunStatus:
    """Return the status a column holds."""
    return _STATUS[text]


def read_record(row: Row, waits: tuple[WaitRow, ...]) -> RunRecord:
    """Return the record of a run's row."""
    lineage = () if row[9] == "[]" else tuple(load(row[9]))
    head = row[12:]
    status, version, owner, epoch, stage, attempt, wake_at, outcome, slot, inbox_seq, log_seq, updated_at, visits = head
    return RunRecord(
        RunIdentity._make((*row[:9], lineage, *row[10:12])),
        RunHead(
            _STATUS[status],
            version,
            owner,
            epoch,
            stage,
            attempt,
            wake_at,
            outcome,
            bool(slot),
            inbox_seq,
            log_seq,
            updated_at,
            visits,
        ),
        waits,
    )


def _texts(texts: tuple[str, ...]) -> str:
    """Return texts that were checked before as a JSON array, without decoding it again to compare."""
    return to_json(texts).decode()


def wait_row(run_id: str, place: int, wait: WaitRow) -> Row:
    """Return the row of an armed wait."""
    return (
        run_id,
        place,
        wait.wait_id,
        wait.epoch,
        1 if wait.parked else 0,
        _texts(wait.events),
        dump([[condition.field, condition.op, condition.value] for condition in wait.where]) if wait.where else "[]",
        dump([list(pair) for pair in wait.correlate]) if wait.correlate else "[]",  # lists: the codec's fast way
        wait.resume_at,
        wait.on_timeout,
        wait.expires_at,
        "null" if wait.patch is None else dump(wait.patch),
        _texts(wait.keys),
    )


def read_wait(row: Row) -> WaitRow:
    """Return the wait of a row."""
    wait_id, epoch, parked, events, conditions, correlate, resume_at, on_timeout, expires_at, patch, keys = row
    return WaitRow(
        wait_id=wait_id,
        epoch=epoch,
        parked=bool(parked),
        events=tuple(load(events)),
        where=tuple(Condition(*parts) for parts in load(conditions)),
        correlate=tuple((path, value) for path, value in load(correlate)),
        resume_at=resume_at,
        on_timeout=on_timeout,
        expires_at=expires_at,
        patch=load(patch),
        keys=tuple(load(keys)),
    )


def read_message(row: Row) -> Message:
    """Return the message of a row, its event included."""
    run_id, seq, kind, time, body = row[:5]
    event = None if row[5] is None else read_event(row[5:])
    return Message(run_id, seq, kind, time, None if body is None else load(body), event)


def load_row(load: Load, token: Token) -> Row:
    """Return what a load's row holds besides its key."""
    return (load.active, load.active_id, load.queued, load.tail_id, token.generation, token.turn)


def read_load(row: Row) -> tuple[Load, Token]:
    """Return the load and the token of a row without its key."""
    return Load(*row[:4]), Token(*row[4:])
