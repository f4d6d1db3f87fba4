"""Read queries: plain functions on a cursor that return values of the model.

House rule: the caller has begun a transaction, so that all statements of one read see the same state.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Any

from poundlock.codecs import dump, load
from poundlock.errors import RunDamaged, UnknownCodec
from poundlock.model.changes import Token
from poundlock.model.holds import HeldRow, Hold, HoldKey
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.operator_pause import WorkflowPause
from poundlock.model.outbox import HeldBy, OutboxQuery, OutboxRow
from poundlock.model.priorities import rank
from poundlock.model.receipts import ReceiptLine
from poundlock.model.retention import ENDED, EndedRun
from poundlock.model.runs import Checkpoint, LogRow, Message, RunQuery, RunRecord
from poundlock.model.schedules import ScheduleRow
from poundlock.model.timeline import fold_entries
from poundlock.ports import Page
from poundlock.stores.answers import read_cursor, write_cursor
from poundlock.stores.sqlite import sql
from poundlock.stores.sqlite.damage import damage_of, whole_log
from poundlock.stores.sqlite.failures import contained, of_the_store
from poundlock.stores.sqlite.rows import (
    Row,
    read_event,
    read_event_text,
    read_hold,
    read_load,
    read_message,
    read_record,
    status_of,
)

_IDLE = Load()
# Places in the rows of the query `checkpoints`.
_INBOX_SEQ, _RUN, _REF, _OWN = 21, 26, 27, 28
_LINEAGE, _OUTCOME, _WAITS = 9, 19, 25


def record(cursor: sqlite3.Cursor, run_id: str) -> RunRecord | None:
    """Return a run's record."""
    try:
        row = cursor.execute(sql.RECORD, (run_id,)).fetchone()
        return None if row is None else read_record(row)
    except (sqlite3.Error, ValueError, LookupError, TypeError) as error:
        raise _why(cursor, run_id, error) from None


def _why(cursor: sqlite3.Cursor, run_id: str, error: BaseException) -> BaseException:
    """Return why a run could not be read: damage, or what was raised, as by a codec of the user's."""
    if (isinstance(error, sqlite3.Error) and of_the_store(error)) or isinstance(error, UnknownCodec):
        return error
    return damage_of(cursor, run_id) or error


def statuses(cursor: sqlite3.Cursor, run_ids: Sequence[str]) -> dict[str, RunStatus]:
    """Return the statuses of those runs that exist."""
    return {run_id: status_of(status) for run_id, status in _many(cursor, sql.statuses, 1, run_ids)}


def checkpoints(cursor: sqlite3.Cursor, run_ids: Sequence[str]) -> dict[str, Checkpoint | Exception]:
    """Return all that is needed to continue runs, or why that cannot be read, for those that exist."""
    try:
        return _checkpoints(cursor, run_ids)
    except sqlite3.Error as error:  # a text that is no UTF-8, for one
        if len(run_ids) != 1 or of_the_store(error):
            raise
        why = _why(cursor, run_ids[0], error)
        if why is error:
            raise
        return {run_ids[0]: contained(why)}


def _checkpoints(cursor: sqlite3.Cursor, run_ids: Sequence[str]) -> dict[str, Checkpoint | Exception]:
    rows = _many(cursor, sql.checkpoints, 1, run_ids)
    shared = {row[0]: row for row in _many(cursor, sql.events, 1, list({row[_REF] for row in rows if row[_REF]}))}
    spoken_to = [value for row in rows if row[_INBOX_SEQ] for value in (row[_RUN], 0)]
    inboxes = _inboxes(cursor, spoken_to) if spoken_to else {}
    found: dict[str, Checkpoint | Exception] = {}
    for row in rows:
        try:
            found[row[0]] = _checkpoint(row, shared.get(row[_REF]), inboxes.get(row[_RUN]))
        except BaseException as error:  # noqa: BLE001 - one unreadable run must not fail the others
            found[row[0]] = contained(_why(cursor, row[0], error))
    return found


def _checkpoint(row: Row, shared: Row | None, inbox: list[Row] | None) -> Checkpoint:
    """Return the checkpoint of a run.

    Args:
        row: of the query `checkpoints`.
        shared: the row of its event, if that is not its own.
        inbox: the rows of its messages, without the number of the run; None if there are none.
    """
    own, snapshot, texts = row[_OWN:]
    logs = [] if texts is None else load(f"[{texts}]")
    for entries in logs:
        if type(entries) is not list or not entries:
            raise ValueError("a row of the log has not the form of one")
    state = fold_entries(logs, None if snapshot is None else load(snapshot))
    event = read_event_text(own) if shared is None else read_event(shared).event
    messages = _messages(row[0], inbox) if inbox else ()
    log_size = len(texts) + 1 - len(logs) if texts else 0  # without the commas between them
    return Checkpoint(read_record(row), state, event, messages, log_size, 0 if snapshot is None else len(snapshot))


def _many(cursor: sqlite3.Cursor, query: Callable[[int], str], width: int, values: Sequence[Any]) -> list[Row]:
    """Return the rows of a query for many keys, whose values are in one flat list."""
    rows: list[Row] = []
    start = 0
    for size in sql.sizes(len(values) // width):
        end = start + size * width
        rows += cursor.execute(query(size), values[start:end]).fetchall()
        start = end
    return rows


def _number(cursor: sqlite3.Cursor, run_id: str) -> int:
    """Return the number of a run; 0 if there is no such run."""
    row = cursor.execute(sql.RUN, (run_id,)).fetchone()
    return 0 if row is None else int(row[0])


def _inboxes(cursor: sqlite3.Cursor, after: Sequence[int]) -> dict[int, list[Row]]:
    """Return the messages of runs, by the numbers of those. `after`: the number of each and a sequence, in turn."""
    found: dict[int, list[Row]] = {}
    for run, *message in _many(cursor, sql.inboxes, 2, after):
        found.setdefault(run, []).append(tuple(message))
    return found


def _messages(run_id: str, rows: list[Row]) -> tuple[Message, ...]:
    rows.sort(key=itemgetter(0))
    return tuple([read_message(run_id, row) for row in rows])


def inbox(cursor: sqlite3.Cursor, run_id: str, after: int) -> list[Message]:
    """Return the unconsumed messages of a run."""
    run = _number(cursor, run_id)
    return list(_messages(run_id, _inboxes(cursor, (run, after)).get(run, [])))


def history(
    cursor: sqlite3.Cursor, run_id: str, last: int | None = None, after: int = 0, limit: int | None = None
) -> list[LogRow]:
    """Return log rows of a run: all, the last ones, or those with entries after a sequence."""
    run = _number(cursor, run_id)
    if last is not None:
        return whole_log(cursor, run_id, run, sql.LOG_END, (run, last))[::-1]
    version = _version_at(cursor, run, after) if after else 0
    return whole_log(cursor, run_id, run, sql.LOG, (run, version, -1 if limit is None else limit))


def _version_at(cursor: sqlite3.Cursor, run: int, seq: int) -> int:
    """Return the version up to which a run's log has no entry above `seq`.

    Versions and sequences grow together, so it is found by halving: an index by sequence would cost each commit more.
    """
    newest = cursor.execute(sql.LOG_NEWEST, (run,)).fetchone()
    if newest is None:
        return 0
    version, last_seq = newest
    if last_seq <= seq:
        return int(version)
    below, above = 0, int(version)
    while below < above:
        middle = (below + above) // 2
        version, last_seq = cursor.execute(sql.LOG_NEXT, (run, middle)).fetchone()
        if last_seq <= seq:
            below = version
        else:
            above = middle
    return below


def pauses(cursor: sqlite3.Cursor) -> list[WorkflowPause]:
    """Return the paused workflows."""
    return [WorkflowPause(*row) for row in cursor.execute(sql.PAUSES).fetchall()]


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
    return list(_whole(rows))


def _whole(rows: Iterable[Row]) -> Iterator[RunRecord]:
    """Yield the records that can be read; the others are found by those who ask for them by id."""
    for row in rows:
        with suppress(ValueError, LookupError, TypeError):
            yield read_record(row)


def unfit(cursor: sqlite3.Cursor, workflow: str) -> list[RunRecord]:
    """Return the paused runs of a workflow that have an error."""
    return list(_whole(cursor.execute(sql.UNFIT, (workflow,)).fetchall()))


def paused_in_slot(cursor: sqlite3.Cursor, workflow: str) -> list[RunRecord]:
    """Return the paused runs of a workflow that hold a slot."""
    return list(_whole(cursor.execute(sql.PAUSED_IN_SLOT, (workflow,)).fetchall()))


def claimable(cursor: sqlite3.Cursor, workflows: Collection[str], now: float, limit: int) -> list[str]:
    """Return the runs that come first of those that are ready or due; others that are paused do not change the cost.

    Each priority has a range of an index, in the order in which its runs come.
    """
    known = dump(list(workflows))
    found: list[tuple[int, float, str]] = []
    for (priority,) in cursor.execute(sql.READY_PRIORITIES).fetchall():
        found += cursor.execute(sql.READY, (priority, known, limit)).fetchall()
    for (priority,) in cursor.execute(sql.DUE_PRIORITIES).fetchall():
        found += cursor.execute(sql.DUE, (priority, now, known, limit)).fetchall()
    found.sort(key=lambda row: (rank(row[0], row[1]), row[2]))
    return [run_id for _, _, run_id in found]


def next_due(cursor: sqlite3.Cursor, workflows: Collection[str]) -> float | None:
    """Return the earliest wake time."""
    known = dump(list(workflows))
    firsts = [
        cursor.execute(sql.DUE, (priority, float("inf"), known, 1)).fetchone()
        for (priority,) in cursor.execute(sql.DUE_PRIORITIES).fetchall()
    ]
    return min((row[1] for row in firsts if row is not None), default=None)


def pending_hooks(cursor: sqlite3.Cursor, workflow: str) -> list[str]:
    """Return the ended runs of a workflow whose hooks are pending, in the order of their ends."""
    return [run_id for (run_id,) in cursor.execute(sql.PENDING_HOOKS, (workflow,))]


def ended(cursor: sqlite3.Cursor, after: int, limit: int) -> Page[EndedRun]:
    """Return those of the next runs that have ended, in the order of their creation."""
    rows = cursor.execute(sql.ENDED, (after, limit)).fetchall()
    found = [
        EndedRun(run_id, workflow_id, RunStatus(status), ended_at, version, parent_id, bool(orphan))
        for _, run_id, workflow_id, status, ended_at, version, parent_id, orphan in rows
        if status in ENDED
    ]
    return Page(found, str(rows[-1][0]) if len(rows) == limit else None)


def holds(cursor: sqlite3.Cursor, keys: Sequence[HoldKey]) -> list[Hold | None]:
    """Return what triggers hold."""
    return [read_hold(cursor.execute(sql.HOLD, key).fetchone()) for key in keys]


def held(cursor: sqlite3.Cursor, key: HoldKey, limit: int) -> list[HeldRow]:
    """Return events of a hold, in order."""
    return [
        HeldRow(seq, read_event_text(event), load_key, initial)
        for seq, event, load_key, initial in cursor.execute(sql.HELD, (*key, limit)).fetchall()
    ]


def due_holds(cursor: sqlite3.Cursor, workflows: Collection[str], limit: int) -> list[tuple[float, HoldKey]]:
    """Return when holds end, the earliest ones of each workflow."""
    return [
        (due_at, HoldKey(workflow_id, trigger_id, key))
        for workflow_id in workflows
        for due_at, trigger_id, key in cursor.execute(sql.DUE_HOLDS, (workflow_id, limit)).fetchall()
    ]


def outbox(cursor: sqlite3.Cursor, query: OutboxQuery) -> list[OutboxRow]:
    """Return rows of the outbox."""
    run_id, dead, after, limit = query
    if run_id is None:
        rows = cursor.execute(sql.DEAD if dead else sql.TO_DELIVER, (after, limit)).fetchall()
    else:
        rows = cursor.execute(sql.DEAD_OF_RUN if dead else sql.OF_RUN, (after, run_id, limit)).fetchall()
    return [
        OutboxRow(
            seq,
            run_id,
            read_event_text(event),
            version,
            bool(admitted),
            attempts,
            error,
            dead_at,
            None if held_by is None else HeldBy(*load(held_by)),
        )
        for seq, run_id, event, version, admitted, attempts, error, dead_at, held_by in rows
    ]


def schedules(cursor: sqlite3.Cursor, workflow_id: str) -> dict[str, ScheduleRow]:
    """Return the rows of a workflow's time triggers."""
    rows = cursor.execute(sql.SCHEDULES, (workflow_id,)).fetchall()
    return {trigger_id: ScheduleRow(rule, upto) for trigger_id, rule, upto in rows}


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
    page = [_listed(row) for row in rows[: query.limit]]
    return Page(page, write_cursor(page[-1].identity) if len(rows) > query.limit else None)


def _listed(row: Row) -> RunRecord:
    """Return a record for a list; of a damaged one without what cannot be read, which is told as its error."""
    try:
        return read_record(row)
    except (ValueError, LookupError, TypeError) as error:
        said = f"a part of its row cannot be read ({error}): restore the store from a backup"
        outcome = dump({"error": {"type": RunDamaged.__name__, "message": said, "code": RunDamaged.code}})
        whole = [*row]
        whole[_LINEAGE], whole[_OUTCOME], whole[_WAITS] = None, outcome, None
        return read_record(tuple(whole))


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
