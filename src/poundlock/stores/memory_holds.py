"""What triggers hold, in the memory store: the holds by key and by time, and the events in them."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable

from poundlock.model.holds import HeldRow, Hold, HoldChange, HoldKey
from poundlock.stores.answers import hold_moved
from poundlock.stores.keeping import Heap


class MemoryHolds:
    """Holds by key. By workflow there is a heap of when they end; outdated entries are dropped as they come up."""

    def __init__(self) -> None:
        self._last = 0
        self._holds: dict[HoldKey, Hold] = {}
        self._events: dict[HoldKey, list[HeldRow]] = {}
        self._ends: dict[str, Heap] = {}
        self._held = 0

    def __len__(self) -> int:
        return len(self._holds)

    def counts(self) -> dict[str, int]:
        """Return what there is, if there is something, for `stats`."""
        return {name: count for name, count in (("holds", len(self._holds)), ("held", self._held)) if count}

    def check(self, changes: Iterable[HoldChange]) -> None:
        """Check the condition of each change.

        Raises:
            HoldMoved: it does not hold.
        """
        for key, expect, *_ in changes:
            found = self._holds.get(key)
            if (None if found is None else found.token) != expect:
                raise hold_moved(key.workflow_id)

    def change(self, changes: Iterable[HoldChange]) -> None:
        """Apply changes whose conditions hold."""
        for key, _, hold, clear, add in changes:
            rows = self._events.pop(key, [])
            self._held -= len(rows)
            if hold is None:
                rows = []
            elif clear:
                rows = [row for row in rows if row.seq > clear]
            if add is not None:
                self._last += 1
                rows.append(HeldRow(self._last, add.event, add.load_key, add.initial))
            self._held += len(rows)
            if rows:
                self._events[key] = rows
            if hold is None:
                self._holds.pop(key, None)
                continue
            self._holds[key] = hold
            ends = self._ends.get(key.workflow_id)
            if ends is None:
                ends = self._ends[key.workflow_id] = Heap()
            ends.push((hold.due_at, key), self._current)

    def _current(self, entry: tuple[float, HoldKey]) -> bool:
        hold = self._holds.get(entry[1])
        return hold is not None and hold.due_at == entry[0]

    def get(self, key: HoldKey) -> Hold | None:
        """Return a hold."""
        return self._holds.get(key)

    def held(self, key: HoldKey, limit: int) -> list[HeldRow]:
        """Return events of a hold."""
        return self._events.get(key, [])[:limit]

    def due(self, workflows: Collection[str], limit: int) -> list[tuple[float, HoldKey]]:
        """Return when holds end, the earliest ones of each workflow."""
        found: list[tuple[float, HoldKey]] = []
        for workflow_id in workflows:
            ends = self._ends.get(workflow_id)
            if ends is None:
                continue
            first: list[tuple[float, HoldKey]] = []
            while ends and len(first) < limit:
                entry = heapq.heappop(ends)
                if self._current(entry) and (not first or first[-1] != entry):  # the same one may be there twice
                    first.append(entry)
            for entry in first:
                heapq.heappush(ends, entry)
            if not ends:
                del self._ends[workflow_id]
            found += first
        return found
