"""The outbox of the memory store: what is to be delivered, by run, and the dead letters."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import islice

from poundlock.model.outbox import Letter, OutboxMove, OutboxQuery, OutboxRow, Outgoing, Refused
from poundlock.stores.answers import outbox_moved


class MemoryOutbox:
    """Rows by number. Those of a run are kept in order, so that the first of many are found at once."""

    def __init__(self) -> None:
        self._last = 0
        self._due: dict[int, OutboxRow] = {}
        self._dead: dict[int, OutboxRow] = {}
        self._of_run: dict[str, dict[int, None]] = {}
        """The numbers of what is to be delivered, by run, in order."""

    @property
    def undelivered(self) -> tuple[int, int]:
        """How many events are still to be delivered, and how many dead letters there are."""
        return len(self._due), len(self._dead)

    def counts(self) -> dict[str, int]:
        """Return what there is, if there is something, for `stats`."""
        return {name: count for name, count in zip(("outbox", "dead_letters"), self.undelivered, strict=True) if count}

    def add(self, run_id: str, outgoing: Iterable[Outgoing | Refused], now: float) -> None:
        """Add events of a run; those that it refused are dead letters."""
        for each in outgoing:
            self._last += 1
            if type(each) is Refused:
                self._put(OutboxRow(self._last, run_id, each.event, error=each.error, dead_at=now))
            else:
                self._put(OutboxRow(self._last, run_id, each.event))

    def add_dead(self, letter: Letter) -> None:
        """Add a dead letter."""
        event, _, held_by, error, dead_at = letter
        self._last += 1
        self._put(OutboxRow(self._last, "", event, 1, False, 1, error, dead_at, held_by))

    def check(self, moves: Iterable[OutboxMove]) -> None:
        """Check the condition of each move.

        Raises:
            OutboxMoved: it does not hold.
        """
        for seq, version, _ in moves:
            row = self._due.get(seq) or self._dead.get(seq)
            if row is None or row.version != version:
                raise outbox_moved(seq)

    def move(self, moves: Iterable[OutboxMove]) -> None:
        """Change rows, or delete them."""
        for seq, _, mark in moves:
            row = self._due.get(seq) or self._dead[seq]
            if mark is not None:
                self._put(OutboxRow(seq, row.run_id, row.event, row.version + 1, *mark, row.held_by))
            if mark is None or mark.dead_at is not None:
                self._drop_due(row)
            if mark is None or mark.dead_at is None:
                self._dead.pop(seq, None)

    def _put(self, row: OutboxRow) -> None:
        if row.dead_at is not None:
            self._dead[row.seq] = row
            return
        self._due[row.seq] = row
        numbers = self._of_run.setdefault(row.run_id, {})
        out_of_order = bool(numbers) and row.seq < next(reversed(numbers)) and row.seq not in numbers
        numbers[row.seq] = None
        if out_of_order:  # it was a dead letter
            self._of_run[row.run_id] = dict.fromkeys(sorted(numbers))

    def _drop_due(self, row: OutboxRow) -> None:
        if self._due.pop(row.seq, None) is not None:
            numbers = self._of_run[row.run_id]
            del numbers[row.seq]
            if not numbers:
                del self._of_run[row.run_id]

    def read(self, query: OutboxQuery) -> list[OutboxRow]:
        """Return rows by number."""
        run_id, dead, after, limit = query
        if run_id is not None and not dead:
            numbers: Iterable[int] = (seq for seq in self._of_run.get(run_id, ()) if seq > after)
            return [self._due[seq] for seq in islice(numbers, limit)]
        rows = self._dead if dead else self._due
        wanted = (seq for seq, row in rows.items() if seq > after and run_id in (None, row.run_id))
        return [rows[seq] for seq in heapq.nsmallest(limit, wanted)]
