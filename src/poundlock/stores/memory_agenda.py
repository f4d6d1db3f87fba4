"""When the memory store's runs without an owner go on: by urgency those that can now, by time those that wait.

House rules: there is one agenda per workflow, so runs of workflows that nobody here knows cost a claim nothing. Entries
are not removed when their run moves; they are recognised as outdated when they come up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from poundlock.stores.keeping import Heap

Entry = tuple[int, float, str]
"""Urgency, the smallest first: the negative priority, when it is due, the id."""

READY: Final = float("-inf")
"""When a ready run is due: it always is."""


class Agenda:
    """The runs of one workflow that are ready, or paused or delayed until a time.

    Args:
        current: whether this is still when a run goes on: `READY`, or its time.
    """

    __slots__ = ("_current", "_later", "_now")

    def __init__(self, current: Callable[[str, float], bool]) -> None:
        self._current = current
        self._now = Heap()
        self._later = Heap()

    def ready(self, priority: int, run_id: str) -> None:
        """Add a run that can go on at once."""
        self._now.push((-priority, READY, run_id), self._valid)

    def wait(self, priority: int, when: float, run_id: str) -> None:
        """Add a run that is paused or delayed until a time."""
        self._later.push((when, -priority, run_id), self._still_waits)

    def first(self, now: float) -> Entry | None:
        """Return the most urgent run that is ready or due, or None."""
        later, urgent = self._later, self._now
        while later and later[0][0] <= now:
            when, urgency, run_id = heapq.heappop(later)
            urgent.push((urgency, when, run_id), self._valid)
        while urgent:
            entry: Entry = urgent[0]
            if self._valid(entry):
                if entry[1] <= now:
                    return entry
                self.wait(-entry[0], entry[1], entry[2])  # the clock was set back
            heapq.heappop(urgent)
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
        due = [when for _, when, run_id in self._now if waits(run_id, when)]  # claimed soon: there are few
        if later:
            due.append(later[0][0])
        return min(due, default=None)

    def __len__(self) -> int:
        return len(self._now) + len(self._later)

    def _valid(self, entry: Entry) -> bool:
        return self._current(entry[2], entry[1])

    def _still_waits(self, entry: tuple[float, int, str]) -> bool:
        return self._current(entry[2], entry[0])
