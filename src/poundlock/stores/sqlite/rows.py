"""Convert values of the model to rows of the tables, and back.

House rules: positional tuples in the order of the statements in `sql.py`; no code here uses a connection. Bound values
are exactly str, int or float: sqlite3 is slow for subclasses, as enum members and bools, and for None, see `sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from poundlock.codecs import dump, encode, load
from poundlock.model.buffers import WaitRules, read_tally
from poundlock.model.changes import Token
from poundlock.model.conditions import Condition
from poundlock.model.events import Event
from poundlock.model.holds import Hold
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.runs import NEEDS_SLOT, Message, RunHead, RunIdentity, RunRecord, StoredEvent, WaitRow

Row = tuple[Any, ...]

_PLAIN: Final = frozenset({str, int, bool, type(None)})
"""What JSON writes as it is read. Not floats: some have no number in JSON, and are to be refused."""
SLOTS: Final = (False, True, NEEDS_SLOT)
"""The values of `RunHead.slot` by those of its column."""
_STATUS = {str(status.value): status for status in RunStatus}


def event_row(stored: StoredEvent) -> Row:
    """Return the row of an event."""
    ref, event, payload = stored
    return (
        ref,
        event.type,
        event.source,
        event.id,
        "" if event.time is None else event.time,
        0 if event.key is None else event.key,
        dump(event.headers, "headers") if event.headers else "{}",
        0 if event.payload is None else payload or dump(event.payload, "payload"),
    )


def read_event(row: Row) -> StoredEvent:
    """Return the event of a row."""
    ref, kind, source, event_id, time, subject, headers, data = row
    payload = None if data is None else load(data)
    known = {} if headers == "{}" else load(headers)
    return StoredEvent(
        ref, Event.trusted(kind, payload, id=event_id, time=time, source=source, key=subject, headers=known)
    )


def event_text(stored: StoredEvent) -> str:
    """Return an event as a JSON object, for a row that nothing else refers to. The names are those of CloudEvents."""
    _, event, payload = stored
    rest = encode(
        {"type": event.type, "source": event.source, "id": event.id, "time": event.time, "subject": event.key}
    )
    headers = dump(event.headers, "headers") if event.headers else "{}"
    data = payload or ("null" if event.payload is None else dump(event.payload, "payload"))
    return f'{rest[:-1]},"headers":{headers},"data":{data}}}'


def read_event_text(text: str) -> Event:
    """Read the result of `event_text`."""
    event = load(text)
    return Event.trusted(
        event["type"],
        event["data"],
        id=event["id"],
        time=event["time"],
        source=event["source"],
        key=event["subject"],
        headers=event["headers"],
    )


def identity_row(run: int, identity: RunIdentity, event_type: str, own: bool, place: int) -> Row:
    """Return the part of a run's row that never changes. `own`: its event is kept with its log."""
    run_id, workflow_id, trigger_id, pipeline_id, definition, key, load_key, priority, parent, lineage, at, ref = (
        identity
    )
    return (
        run,
        run_id,
        workflow_id,
        trigger_id or 0,
        pipeline_id,
        definition,
        0 if key is None else key,
        0 if load_key is None else load_key,
        priority,
        parent or 0,
        dump(lineage) if lineage else 0,
        at,
        0 if own else ref,
        event_type,
        place,
    )


def status_of(text: str) -> RunStatus:
    """Return the status a column holds."""
    return _STATUS[text]


def read_record(row: Row) -> RunRecord:
    """Return the record of a run's row."""
    lineage = () if row[9] is None else tuple(load(row[9]))
    (status, version, owner, epoch, stage, attempt, wake_at, outcome, slot, inbox_seq, log_seq, updated_at, visits) = (
        row[12:25]
    )
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
            SLOTS[slot],
            inbox_seq,
            log_seq,
            updated_at,
            visits,
        ),
        () if row[25] is None else read_waits(row[25]),
    )


def read_rules(data: Sequence[Any] | None) -> WaitRules | None:
    """Return the rules of a wait."""
    return None if data is None else WaitRules(*data)


def waits_text(waits: Sequence[WaitRow]) -> str | None:
    """Return armed waits as a JSON array of objects; None for none."""
    return f"[{','.join([_wait_text(wait) for wait in waits])}]" if waits else None


def _wait_text(wait: WaitRow) -> str:
    (
        wait_id,
        epoch,
        parked,
        events,
        where,
        correlate,
        resume_at,
        on_timeout,
        expires_at,
        patch,
        keys,
        ways,
        early,
        rules,
        asked,
        question,
        tally,
    ) = wait
    conditions = [[condition.field, condition.op, condition.value] for condition in where]
    data = {
        "wait": wait_id,
        "epoch": epoch,
        "parked": parked,
        "events": events,
        "resume_at": resume_at,
        "on_timeout": on_timeout,
        "expires_at": expires_at,
        "keys": keys,
        "where": conditions,
        "correlate": correlate,
        "patch": patch,
    }
    if ways:
        data["leads_to"] = ways
    if not early:
        data["early"], data["asked_at"] = False, asked
    if question:
        data["question"] = question
    if tally is not None:
        data["tally"] = tally.to_data()
    form = None
    if rules is not None:
        data["rules"], form = list(rules), rules.form
    # Everything else was checked before. Other values of users may be of types that only the codec can write.
    plain = (patch is None or type(patch) is str) and form is None
    for _, value in correlate:
        plain = plain and type(value) in _PLAIN
    for _, _, value in conditions:
        plain = plain and type(value) in _PLAIN
    if plain:
        return encode(data)
    # Lists: the codec's fast way.
    lists = {"events": list(events), "keys": list(keys), "correlate": [list(pair) for pair in correlate]}
    return dump({**data, **lists, "leads_to": [list(way) for way in ways]})


def read_waits(text: str) -> tuple[WaitRow, ...]:
    """Read the result of `waits_text`."""
    return tuple(
        [
            WaitRow(
                wait_id=wait["wait"],
                epoch=wait["epoch"],
                parked=wait["parked"],
                events=tuple(wait["events"]),
                where=tuple(Condition(*parts) for parts in wait["where"]),
                correlate=tuple((path, value) for path, value in wait["correlate"]),
                resume_at=wait["resume_at"],
                on_timeout=wait["on_timeout"],
                expires_at=wait["expires_at"],
                patch=wait["patch"],
                keys=tuple(wait["keys"]),
                leads_to=tuple((event, stage) for event, stage in wait.get("leads_to", ())),
                early=wait.get("early", True),
                rules=read_rules(wait.get("rules")),
                asked_at=wait.get("asked_at"),
                question=wait.get("question", 0),
                tally=read_tally(wait.get("tally")),
            )
            for wait in load(text)
        ]
    )


def hold_row(hold: Hold) -> Row:
    """Return what a hold's row has besides its key."""
    source, event_id = hold.last or (None, None)
    return (*hold[:5], source, event_id)


def read_hold(row: Row | None) -> Hold | None:
    """Return the hold of a row without its key; None if there is no row."""
    if row is None:
        return None
    kind, since, size, due_at, token, source, event_id = row
    return Hold(kind, since, size, due_at, token, None if event_id is None else (source, event_id))


def read_message(run_id: str, row: Row) -> Message:
    """Return the message of a row, its event included."""
    seq, kind, time, body, ref, text, *shared = row
    event = None
    if text is not None:
        event = StoredEvent(ref, read_event_text(text))
    elif ref is not None:
        event = read_event((ref, *shared))
    return Message(run_id, seq, kind, time, None if body is None else load(body), event)


def load_row(load: Load, token: Token) -> Row:
    """Return what a load's row holds besides its key."""
    active_id, tail_id = load.active_id or 0, load.tail_id or 0
    return (load.active, active_id, load.queued, tail_id, load.returning, token.generation, token.turn)


def read_load(row: Row) -> tuple[Load, Token]:
    """Return the load and the token of a row without its key."""
    return Load(*row[:5]), Token(*row[5:])
