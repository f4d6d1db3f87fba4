"""When the memory store's runs without an owner go on: by rank those that can now, by time those that wait.

House rules: there is one agenda per workflow, so runs of workflows that nobody here knows cost a claim nothing. Entries
are not removed when their run moves; they are recognised as outdated when they come up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from poundlock.model.priorities import rank
from poundlock.stores.keeping import Heap

Entry = tuple[float, str, float, int]
"""Rank, the smallest first; the id; when it is due; its priority."""

READY: Final = float("-inf")
"""When a ready run is due: it always is."""


class Agenda:
    """The runs of one workflow that are ready, or paused or delayed until a time.

    Args:
        current: whether this is still when a run goes on, `READY` or its time, and this still its rank.
    """

    __slots__ = ("_current", "_later", "_now")

    def __init__(self, current: Callable[[str, float, float], bool]) -> None:
        self._current = current
        self._now = Heap()
        self._later = Heap()

    def ready(self, priority: int, since: float, run_id: str) -> None:
        """Add a run that can go on at once, since that time."""
        self._now.push((rank(priority, since), run_id, READY, priority), self._valid)

    def wait(self, priority: int, when: float, run_id: str) -> None:
        """Add a run that is paused or delayed until a time."""
        self._later.push((when, priority, run_id), self._still_waits)

    def first(self, now: float) -> Entry | None:
        """Return the run that comes first of those that are ready or due, or None."""
        later, current = self._later, self._now
        while later and later[0][0] <= now:
            when, priority, run_id = heapq.heappop(later)
            current.push((rank(priority, when), run_id, when, priority), self._valid)
        while current:
            entry: Entry = current[0]
            if self._valid(entry):
                if entry[2] <= now:
                    return entry
                self.wait(entry[3], entry[2], entry[1])  # the clock was set back
            heapq.heappop(current)
        return None

    def skip(self) -> None:
        """Take out the run that `first` has returned."""
        heapq.heappop(self._now)

    def put_back(self, entry: Entry) -> None:
        """Add a run again that was skipped and not claimed."""
        self._now.push(entry, self._valid)

    def next_time(self, waits: Callable[[str, float], bool]) -> float | None:
        """Return the earliest time until which a run waits; it may be over. None if none waits.

        Args:
            waits: whether this is still the time until which a run is paused or delayed.
        """
        later = self._later
        while later and not self._still_waits(later[0]):
            heapq.heappop(later)
        due = [when for _, run_id, when, _ in self._now if waits(run_id, when)]  # claimed soon: there are few
        if later:
            due.append(later[0][0])
        return min(due, default=None)

    def __len__(self) -> int:
        return len(self._now) + len(self._later)

    def _valid(self, entry: Entry) -> bool:
        return self._current(entry[1], entry[2], entry[0])

    def _still_waits(self, entry: tuple[float, int, str]) -> bool:
        when, priority, run_id = entry
        return self._current(run_id, when, rank(priority, when))


class Queue:
    """The queued runs of one (workflow, key): by priority, each in order of acceptance.

    Args:
        current: whether an item (number, time, id) is still queued.
    """

    __slots__ = ("_by_priority", "_current")

    def __init__(self, current: Callable[[tuple[int, float, str]], bool]) -> None:
        self._current = current
        self._by_priority: dict[int, Heap] = {}

    def add(self, priority: int, accepted_at: float, number: int, run_id: str) -> None:
        """Add a run; `number` is the order of acceptance."""
        heap = self._by_priority.get(priority)
        if heap is None:
            heap = self._by_priority[priority] = Heap()
        heap.push((number, accepted_at, run_id), self._current)

    def pop(self) -> str | None:
        """Take out the run that comes first, by `rank`; None if there is none."""
        while self._by_priority:
            first = min(self._by_priority, key=self._rank_of)
            heap = self._by_priority[first]
            item = heapq.heappop(heap)
            if not heap:
                del self._by_priority[first]
            if self._current(item):
                return item[2]  # type: ignore[no-any-return]  # the id
        return None

    def _rank_of(self, priority: int) -> tuple[float, int]:
        """Return the rank of the run that has waited longest, of this priority."""
        return rank(priority, self._by_priority[priority][0][1]), -priority

    def __len__(self) -> int:
        return sum(map(len, self._by_priority.values()))
