"""The rows of a transaction, collected per table and written with a few statements.

House rules: nothing here decides or refuses; what is collected is valid. `flush` may be called at any time, and is
called before anything reads the file. One statement for many rows also means one switch to the event loop's thread
while the writer is in SQLite, and one wait of the writer to get the interpreter lock back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from poundlock.model.changes import Remember
from poundlock.model.runs import RunIdentity
from poundlock.stores.sqlite import sql
from poundlock.stores.sqlite.heads import Head
from poundlock.stores.sqlite.index import Effects
from poundlock.stores.sqlite.rows import identity_row

Created = tuple[Head, RunIdentity, str, bool, int]
"""A new run's head, identity, the type of its event, whether it keeps that, and its place in a queue (0: in none)."""


class Batch:
    """What is to be written.

    Args:
        cursor: on the writer's connection, inside a transaction.
    """

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        self.clear()

    def clear(self) -> None:
        """Drop what is not written yet."""
        self.events: list[Any] = []
        self.created: list[Created] = []
        self.changed: dict[int, Head] = {}
        self.places: list[tuple[int, int]] = []
        """(place, number) of the runs that begin to wait for a slot."""
        self.logs: list[Any] = []
        self.firsts: list[Any] = []
        """Log rows with an event."""
        self.snapshots: dict[int, tuple[int, str]] = {}
        self.keys: dict[tuple[str, int], int] = {}
        """1 for a key of a wait that is new, -1 for one that is gone."""
        self.messages: list[Any] = []
        self.outgoing: list[Any] = []
        self.refused: list[Any] = []
        """Events that waits refused: dead letters."""
        self.consumed: list[Any] = []
        self.emptied: list[Any] = []
        self.remember: dict[tuple[str, ...], Remember] = {}
        self.receipts: dict[tuple[str, str], tuple[float, str]] = {}

    def flush(self, effects: Effects) -> None:
        """Write everything that was collected."""
        many = self.many
        if self.created and self.changed:  # a new row is written as it is now
            for head, *_ in self.created:
                self.changed.pop(head.run, None)
        if self.events:
            effects.tally("events", many(sql.insert_events, sql.EVENT_WIDTH, self.events))
        if self.created:
            self._create(effects)
        if self.changed:
            self._change(effects)
        if self.places:
            self._cursor.executemany(sql.LINE_UP, self.places)
        if self.firsts:
            effects.tally("events", many(sql.insert_first_logs, sql.FIRST_LOG_WIDTH, self.firsts))
        if self.logs:
            many(sql.insert_logs, sql.LOG_WIDTH, self.logs)
        if self.snapshots:
            many(sql.put_snapshots, 3, [value for run, row in self.snapshots.items() for value in (run, *row)])
        if self.keys:
            self._keys()
        if self.messages:
            many(sql.insert_messages, sql.MESSAGE_WIDTH, self.messages)
        if self.outgoing:
            many(sql.insert_outbox, 2, self.outgoing)
        if self.refused:
            many(sql.insert_dead_letters, 4, self.refused)
        if self.consumed:
            many(sql.delete_messages, 2, self.consumed)
        if self.emptied:
            many(sql.empty_inboxes, 1, self.emptied)
        if self.remember:
            many(sql.remember, sql.REMEMBER_WIDTH, [_bound(value) for key in self.remember.values() for value in key])
        if self.receipts:
            rows = [value for pair, row in self.receipts.items() for value in (*pair, *row)]
            many(sql.put_receipts, sql.RECEIPT_WIDTH, rows)
        self.clear()

    def many(self, statement: Callable[[int], str], width: int, values: list[Any]) -> int:
        """Execute a statement for many rows, whose values are in one flat list; return how many rows it wrote."""
        cursor = self._cursor
        written = start = 0
        for size in sql.sizes(len(values) // width):
            end = start + size * width
            cursor.execute(statement(size), values[start:end])
            written += cursor.rowcount
            start = end
        return written

    def _create(self, effects: Effects) -> None:
        rows: list[Any] = []
        counts = effects.counts
        for head, identity, event_type, own, place in self.created:
            rows += identity_row(head.run, identity, event_type, own, place)
            rows += head.row()
            status = head.stored = head.status
            counts[status._value_] = counts.get(status._value_, 0) + 1
        self.many(sql.insert_runs, sql.RUN_WIDTH, rows)

    def _change(self, effects: Effects) -> None:
        rows: list[Any] = []
        counts = effects.counts
        for run, head in self.changed.items():
            rows.append(run)
            rows += head.row()
            before, status = head.stored, head.status
            if before is not status and before is not None:
                counts[before._value_] = counts.get(before._value_, 0) - 1
                counts[status._value_] = counts.get(status._value_, 0) + 1
                head.stored = status
        if self.many(sql.change_runs, sql.CHANGE_WIDTH, rows) != len(self.changed):
            raise AssertionError("a run in memory is not in the file")

    def _keys(self) -> None:
        gone = [value for key, change in self.keys.items() if change < 0 for value in key]
        come = [value for key, change in self.keys.items() if change > 0 for value in key]
        self.many(sql.delete_keys, sql.KEY_WIDTH, gone)
        self.many(sql.insert_keys, sql.KEY_WIDTH, come)


def _bound(value: Any) -> Any:
    """Return a value that is cheap to bind, see `sql`."""
    return 0 if value is None else value
