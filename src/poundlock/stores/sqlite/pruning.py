"""Delete expired data in small steps ("bites").

House rules:

1. A bite reads a bounded number of rows, in the order of their primary key, and continues where the last one ended: it
   needs no index, and no commit waits for more than one bite.
2. A pass over all tables starts an hour after the start of the last one. So expired data is deleted soon, and a store
   in which nothing expires costs almost nothing.
3. Bites are part of transactions that are written anyway; only while nothing is written they have their own.
4. The position of a pass is kept in memory, and saved in the file when it is closed, so that short-lived processes also
   complete a pass. If a bite is rolled back (`taken_back`), what it saw may never have been: it is forgotten.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from typing import Final

from poundlock.codecs import dump, load
from poundlock.errors import PoundlockError
from poundlock.model.runs import LOOSE
from poundlock.stores.keeping import GRACE, RECEIPTS_KEPT
from poundlock.stores.sqlite import sql

PASS_EVERY: Final = 3600.0
"""Seconds between the beginnings of two passes."""

_CANDIDATES: Final = 5000  # events that one walk through the inboxes checks: a balance of memory and walks
_META: Final = "pruning"

_REMEMBERED: Final = """
SELECT source, event_id, scope, expires_at <= :now FROM remembered
WHERE (source, event_id, scope) > (:a, :b, :c) ORDER BY source, event_id, scope LIMIT :limit
"""
_FORGET: Final = "DELETE FROM remembered WHERE source = ? AND event_id = ? AND scope = ?"

# While an event's key is stored, its receipt can be read.
_RECEIPTS: Final = """
SELECT source, event_id, time <= :now - iif(lines LIKE '[{"verdict":"unmatched"%', :unwanted, :kept) AND NOT EXISTS (
    SELECT 1 FROM remembered
    WHERE remembered.source = receipts.source AND remembered.event_id = receipts.event_id AND expires_at > :now
) FROM receipts
WHERE (source, event_id) > (:a, :b) ORDER BY source, event_id LIMIT :limit
"""
_DROP_RECEIPT: Final = "DELETE FROM receipts WHERE source = ? AND event_id = ?"

_SHAPES: Final = "SELECT shape, uses <= 0 FROM wait_shapes WHERE shape > :a ORDER BY shape LIMIT :limit"
_DROP_SHAPE: Final = "DELETE FROM wait_shapes WHERE shape = ? AND uses <= 0"

_EVENTS: Final = "SELECT ref FROM events WHERE ref > ? AND ref < ? ORDER BY ref LIMIT ?"
_INBOX: Final = """
SELECT run, seq, event_ref FROM inbox WHERE (run, seq) > (?, ?) ORDER BY run, seq LIMIT ?
"""
# A run may have been created since with the reference of one that was deleted.
_DROP_EVENT: Final = """
DELETE FROM events WHERE ref = ? AND NOT EXISTS (SELECT 1 FROM runs WHERE event_ref = ref)
"""

# Table, its query, its delete statement, the width of its key. Receipts come after the keys they depend on.
_WALKS: Final = (
    ("remembered", _REMEMBERED, _FORGET, 3),
    ("receipts", _RECEIPTS, _DROP_RECEIPT, 2),
    ("wait_shapes", _SHAPES, _DROP_SHAPE, 1),
)

_UNCOUNTED: Final = frozenset({"wait_shapes"})
"""Tables whose rows are not counted, see the table `counts`."""

_NEVER: Final = -1e15
"""When a pass began that never did: long before any time. It is saved, so it is a number that JSON has."""

_Place = tuple[float, str, list[str]]
"""When the last pass started, and its current table and key; no table if it is done."""

_Execute = Callable[..., sqlite3.Cursor]
_Bite = tuple[_Execute, float, int]
"""A function that executes a statement, the time, and how many rows to read."""


class Pruner:
    """The current pass; used in the writer's thread only.

    Args:
        connection: to a file with the current schema.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._saved = _read(connection)
        self._began, self._table, self._position = self._saved
        self._pass: Generator[None, _Bite, None] | None = None
        self.kept = self.unwanted = RECEIPTS_KEPT
        """Seconds that receipts are kept; `unwanted`: of events that nobody wanted."""
        self._deleted: Counter[str] = Counter()
        """Rows that the current bite deleted, per table that is counted."""
        if self._table:
            self._begin()

    def wants(self, now: float) -> bool:
        """Whether there is work: a pass is in progress, or the next one is due."""
        # A clock that was set back must not delay the next pass until it has caught up.
        return self._pass is not None or not 0 <= now - self._began < PASS_EVERY

    def due_in(self, now: float) -> float:
        """Return after how many seconds there is work."""
        return 0.0 if self.wants(now) else self._began + PASS_EVERY - now

    @property
    def done(self) -> bool:
        """Whether no pass is in progress."""
        return self._pass is None

    def begin_anew(self) -> None:
        """Have the next bite begin a pass, whenever the last one was."""
        self._pass = None
        self._table, self._position = "", []
        self._began = _NEVER

    def bite(self, execute: _Execute, now: float, rows: int) -> Mapping[str, int]:
        """Read about this many rows, inside a transaction, and delete the expired ones; returns how many, by table."""
        if self._pass is None:
            self._began = now
            self._begin()
        assert self._pass is not None  # noqa: S101 - just begun
        self._deleted.clear()
        try:
            self._pass.send((execute, now, rows))
        except StopIteration:
            self._pass = None
            self._table = ""
            self._position = []
        for table, deleted in self._deleted.items():
            if table not in _UNCOUNTED:
                execute(sql.count(1), (table, -deleted))
        return self._deleted

    def taken_back(self) -> None:
        """Look again at what the last bite saw, after a rollback of its transaction.

        The walk through the events begins anew: a message that the transaction had consumed is there again, and the
        walk may have passed its place.
        """
        if self._pass is not None:
            self._begin()

    def save(self, connection: sqlite3.Connection) -> None:
        """Save the position of the pass in the file."""
        place = (self._began, self._table, self._position)
        if place != self._saved:
            connection.execute(sql.WRITE_META, (_META, dump(list(place))))

    def _begin(self) -> None:
        """Begin a pass, or go on with the one that stands at this table and key."""
        self._pass = self._walk()
        next(self._pass)

    def _walk(self) -> Generator[None, _Bite, None]:
        """Walk through the tables; each yield ends a bite."""
        first, start = self._table, self._position
        execute, now, rows = yield
        while (left := _delete_left_logs(execute, rows)) == rows:
            execute, now, rows = yield
        rows -= left
        for table, select, delete, width in _WALKS:
            if first not in ("", table):
                continue  # seen before the file was closed
            key = start if first and len(start) == width else [""] * width
            first = ""
            while True:
                self._table, self._position = table, key
                after = dict(zip("abc", key, strict=False))
                limits = {"now": now - GRACE, "kept": self.kept, "limit": rows}
                limits["unwanted"] = self.unwanted
                found = execute(select, {**limits, **after}).fetchall()
                for row in found:
                    if row[-1]:
                        execute(delete, row[:-1])
                        self._deleted[table] += 1
                if len(found) < rows:
                    rows -= len(found)
                    break
                key = list(found[-1][:-1])
                execute, now, rows = yield
        self._table, self._position = "events", []
        yield from self._walk_events((execute, now, max(rows, 1)))

    def _walk_events(self, bite: _Bite) -> Generator[None, _Bite, None]:
        """Delete the events that were only in inboxes, or have no run any more, and are in no inbox.

        All references to an event were written with it, in one commit: an event that is in no inbox once is never
        needed again. A look-up per event would need an index of the inboxes, so one walk checks many events.
        """
        last, left = LOOSE, " "
        beyond = chr(ord(LOOSE) + 1)
        execute, _, rows = bite
        while last or left:
            unused: set[str] = set()
            while (last or left) and len(unused) < _CANDIDATES:
                if left:
                    found = [ref for (ref,) in execute(sql.LEFT_EVENTS, (left, rows))]
                    left = found[-1] if len(found) == rows else ""
                else:
                    found = [ref for (ref,) in execute(_EVENTS, (last, beyond, rows))]
                    last = found[-1] if len(found) == rows else ""
                unused.update(found)
                execute, _, rows = yield
            place: tuple[int, int] | None = (0, 0)
            while place is not None and unused:
                messages = execute(_INBOX, (*place, rows)).fetchall()
                unused.difference_update(ref for _, _, ref in messages)
                place = messages[-1][:2] if len(messages) == rows else None
                execute, _, rows = yield
            while unused:
                for ref in [unused.pop() for _ in range(min(rows, len(unused)))]:
                    self._deleted["events"] += execute(_DROP_EVENT, (ref,)).rowcount
                    execute(sql.EVENT_IS_GONE, (ref,))
                execute, _, rows = yield


def _delete_left_logs(execute: _Execute, rows: int) -> int:
    """Delete up to so many rows of the logs of deleted runs; returns how many."""
    left = rows
    while left:
        found = execute(sql.LEFT_LOG).fetchone()
        if found is None:
            break
        deleted = execute(sql.DELETE_LOG, (found[0], left)).rowcount
        if deleted < left:
            execute(sql.LOG_IS_GONE, found)
        left -= deleted
    return rows - left


def _read(connection: sqlite3.Connection) -> _Place:
    """Return the start and position of the last pass; without a valid record a new pass is due."""
    row = connection.execute(sql.READ_META, (_META,)).fetchone()
    try:
        began, table, position = load(row[0]) if row is not None else (_NEVER, "", [])
        return float(began), str(table), [str(part) for part in position]
    except (PoundlockError, TypeError, ValueError):
        return _NEVER, "", []
