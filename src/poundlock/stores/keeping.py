"""How long stores keep temporary data, and the data structures for it in the memory store.

House rules: nothing is pruned all together. Code that adds an entry also deletes a few old ones (`at_most`), so that no
commit has to delete the entries of a busy day, and outdated entries are never more than a part of the whole.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeVar

RECEIPTS_KEPT: Final = 7 * 86_400.0
"""Seconds that receipts are kept; longer if the event's key is stored for longer."""

GRACE: Final = 3600.0
"""Seconds that expired entries are still kept: a clock that was wrong for a moment must not lose data."""

_FOR_EVER: Final = float("inf")
_HOUR: Final = 3600.0

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Heap(list[Any]):
    """A heap for heapq with entries that may become outdated; `push` removes those before they are the majority."""

    __slots__ = ("_limit",)

    _SMALL: Final = 64

    def __init__(self) -> None:
        super().__init__()
        self._limit = self._SMALL

    def push(self, item: Any, current: Callable[[Any], bool]) -> None:
        """Add an item. `current` says whether an item is still valid."""
        heapq.heappush(self, item)
        if len(self) > self._limit:
            self[:] = {each for each in self if current(each)}  # a set: duplicates have no meaning
            heapq.heapify(self)
            self._limit = 2 * len(self) + self._SMALL


class Expiring(Generic[K, V]):
    """A mapping that deletes entries one to two hours after they have expired. Until then they can be read.

    Keys are grouped by the hour in which they expire: a list per hour costs less than one heap of all keys, to which
    each event would add two.
    """

    __slots__ = ("_first", "_hours", "entries", "prunable")

    def __init__(self) -> None:
        self.entries: dict[K, tuple[float, V]] = {}
        """When each entry expires, and its value. Only read, where a call of `get` would cost more than the rest."""
        self._hours: dict[float, list[K]] = {}
        self._first = _FOR_EVER
        """The earliest hour with keys."""
        self.prunable = _FOR_EVER
        """The time from which `prune` has something to delete: nearly every call would come before it."""

    def get(self, key: K) -> V | None:
        """Return the value of a key."""
        entry = self.entries.get(key)
        return None if entry is None else entry[1]

    def expiry(self, key: K) -> float:
        """Return when an entry expires; 0.0 for none."""
        entry = self.entries.get(key)
        return 0.0 if entry is None else entry[0]

    def put(self, key: K, value: V, expires_at: float) -> None:
        """Store a value until a time; infinity means until it is dropped."""
        before = self.entries.get(key)
        self.entries[key] = (expires_at, value)
        if expires_at == _FOR_EVER:
            return
        hour = expires_at // _HOUR
        if before is not None and before[0] // _HOUR == hour:
            return
        keys = self._hours.get(hour)
        if keys is not None:
            keys.append(key)
        else:
            self._hours[hour] = [key]
            self._begin_with(min(self._first, hour))

    def drop(self, key: K) -> None:
        """Delete an entry; a second time this does nothing."""
        self.entries.pop(key, None)

    def prune(self, now: float, at_most: int) -> None:
        """Delete up to `at_most` entries that expired more than `GRACE` ago."""
        now -= GRACE
        while at_most > 0 and (end := (self._first + 1) * _HOUR) <= now:
            keys = self._hours[self._first]
            portion = keys[-at_most:]
            del keys[-at_most:]
            at_most -= len(portion)
            for key in portion:
                if 0.0 < self.expiry(key) < end:  # else it was stored again since
                    del self.entries[key]
            if not keys:
                del self._hours[self._first]
                self._begin_with(min(self._hours, default=_FOR_EVER))

    def _begin_with(self, hour: float) -> None:
        self._first = hour
        self.prunable = (hour + 1) * _HOUR + GRACE

    def __len__(self) -> int:
        return len(self.entries)
