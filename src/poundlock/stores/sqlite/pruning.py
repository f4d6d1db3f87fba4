"""Clearing away what is kept for a time only, a bite at a time.

House rules:

1. A bite looks at a bounded number of rows, in the order of their primary key, and goes on where the last one ended:
   no index is kept for this, and no commit waits for more than a bite.
2. A pass over all tables begins an hour after the last one began. So what has expired is soon gone, and a store in
   which nothing expires is hardly ever looked at.
3. Bites ride in transactions that are written anyway; only where nothing is written for a while they have their own.
4. Where a pass stands is kept in memory, and in the file when that is closed: processes that never run for long get
   through as well. Should a bite be rolled back, what it missed is found by the next pass.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from typing import Final

from poundlock.codecs import dump, load
from poundlock.errors import PoundlockError
from poundlock.model.runs import LOOSE
from poundlock.stores.keeping import GRACE, RECEIPTS_KEPT
from poundlock.stores.sqlite import sql

PASS_EVERY: Final = 3600.0
"""Seconds between the beginnings of two passes."""

_CANDIDATES: Final = 5000  # events looked for in the inboxes at once: memory for them, and a walk through those
_META: Final = "pruning"

_REMEMBERED: Final = """
SELECT source, event_id, scope, expires_at <= :now FROM remembered
WHERE (source, event_id, scope) > (:a, :b, :c) ORDER BY source, event_id, scope LIMIT :limit
"""
_FORGET: Final = "DELETE FROM remembered WHERE source = ? AND event_id = ? AND scope = ?"

# While an event's id is remembered, what became of it can be asked.
_RECEIPTS: Final = """
SELECT source, event_id, time <= :now - :kept AND NOT EXISTS (
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
SELECT run_id, seq, event_ref FROM inbox WHERE (run_id, seq) > (?, ?) ORDER BY run_id, seq LIMIT ?
"""
_DROP_EVENT: Final = "DELETE FROM events WHERE ref = ?"

# Table, what is asked of it, how a row of it is deleted, how wide its key is. Receipts come after what they rest on.
_WALKS: Final = (
    ("remembered", _REMEMBERED, _FORGET, 3),
    ("receipts", _RECEIPTS, _DROP_RECEIPT, 2),
    ("wait_shapes", _SHAPES, _DROP_SHAPE, 1),
)

_Place = tuple[float, str, list[str]]
"""When the last pass began, and the table and key it stands at; no table if it is done."""

_Execute = Callable[..., sqlite3.Cursor]
_Bite = tuple[_Execute, float, int]
"""How to execute a statement, the time, and how many rows to look at."""


class Pruner:
    """Where the pass stands; used in the writer's thread only.

    Args:
        connection: of a file with the current schema.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._saved = _read(connection)
        self._began, self._table, self._position = self._saved
        self._pass: Generator[None, _Bite, None] | None = None
        if self._table:
            self._begin()

    def wants(self, now: float) -> bool:
        """Whether there is something to look at: a pass is under way, or it is time for one."""
        # A clock that was put back must not put the next pass off until it is there again.
        return self._pass is not None or not 0 <= now - self._began < PASS_EVERY

    def due_in(self, now: float) -> float:
        """Return after how many seconds there is something to look at."""
        return 0.0 if self.wants(now) else self._began + PASS_EVERY - now

    def bite(self, execute: _Execute, now: float, rows: int) -> None:
        """Look at about so many rows, inside a transaction, and delete those whose time is over."""
        if self._pass is None:
            self._began = now
            self._begin()
        assert self._pass is not None  # noqa: S101 - just begun
        try:
            self._pass.send((execute, now, rows))
        except StopIteration:
            self._pass = None
            self._table = ""
            self._position = []

    def save(self, connection: sqlite3.Connection) -> None:
        """Note in the file where the pass stands."""
        place = (self._began, self._table, self._position)
        if place != self._saved:
            connection.execute(sql.WRITE_META, (_META, dump(list(place))))

    def _begin(self) -> None:
        self._pass = self._walk()
        next(self._pass)

    def _walk(self) -> Generator[None, _Bite, None]:
        """Go through the tables; takes a bite for each yield."""
        first, start = self._table, self._position
        execute, now, rows = yield
        for table, select, delete, width in _WALKS:
            if first not in ("", table):
                continue  # seen before the file was closed
            key = start if first and len(start) == width else [""] * width
            first = ""
            while True:
                self._table, self._position = table, key
                after = dict(zip("abc", key, strict=False))
                limits = {"now": now - GRACE, "kept": RECEIPTS_KEPT, "limit": rows}
                found = execute(select, {**limits, **after}).fetchall()
                for row in found:
                    if row[-1]:
                        execute(delete, row[:-1])
                if len(found) < rows:
                    rows -= len(found)
                    break
                key = list(found[-1][:-1])
                execute, now, rows = yield
        self._table, self._position = "events", []
        yield from self._walk_events((execute, now, max(rows, 1)))

    def _walk_events(self, bite: _Bite) -> Generator[None, _Bite, None]:
        """Delete the events that were only ever in inboxes, and are in none any more.

        All that refers to such an event came with it, in one commit: one that is found in no inbox once is needed no
        more. Looking each up would take an index of the inboxes by event, so they are gone through once for many.
        """
        last = LOOSE
        beyond = chr(ord(LOOSE) + 1)
        execute, _, rows = bite
        while last:
            unused: set[str] = set()
            while last and len(unused) < _CANDIDATES:
                found = [ref for (ref,) in execute(_EVENTS, (last, beyond, rows))]
                unused.update(found)
                last = found[-1] if len(found) == rows else ""
                execute, _, rows = yield
            place: tuple[str, int] | None = ("", 0)
            while place is not None and unused:
                messages = execute(_INBOX, (*place, rows)).fetchall()
                unused.difference_update(ref for _, _, ref in messages)
                place = messages[-1][:2] if len(messages) == rows else None
                execute, _, rows = yield
            while unused:
                for ref in [unused.pop() for _ in range(min(rows, len(unused)))]:
                    execute(_DROP_EVENT, (ref,))
                execute, _, rows = yield


def _read(connection: sqlite3.Connection) -> _Place:
    """Return when the last pass began and where it stands; a note that says nothing begins anew."""
    row = connection.execute(sql.READ_META, (_META,)).fetchone()
    try:
        began, table, position = load(row[0]) if row is not None else (float("-inf"), "", [])
        return float(began), str(table), [str(part) for part in position]
    except (PoundlockError, TypeError, ValueError):
        return float("-inf"), "", []
