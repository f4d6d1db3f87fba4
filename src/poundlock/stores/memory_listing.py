"""Which runs of the memory store a query is about, newest first, without looking at all of them.

House rules: creating, moving and ending a run only notes its id; what is noted is sorted by the next read. So a process
that never lists runs pays next to nothing, and a page costs what it shows and what has changed since the page before.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import RunIdentity, RunQuery

Key = tuple[float, str]
"""The order of lists: when a run was created, and its id."""

_SMALL: Final = 64
_MISSING: Final = object()


class Row(Protocol):
    """What is read of a run. `number` grows with each run that is created."""

    identity: RunIdentity
    status: RunStatus
    number: int


class Listing:
    """Runs in the order of their creation, as far as it was asked for.

    Attributes:
        fresh: ids that were added since the last read. To add a run that is not in the listing, put it here.
    """

    __slots__ = ("_order", "_settled", "fresh")

    def __init__(self) -> None:
        self.fresh: dict[str, None] = {}
        self._settled = 0
        """How many runs were in it at the last read and have not left."""
        self._order: list[Key] = []
        """As of the last read, the oldest first; runs that have left since are still in it."""

    @property
    def size(self) -> int:
        """How many runs are in it."""
        return self._settled + len(self.fresh)

    def remove(self, run_id: str) -> None:
        """Remove a run that is in it."""
        if self.fresh.pop(run_id, _MISSING) is _MISSING:
            self._settled -= 1

    def newest(self, before: Key | None, created: Callable[[str], float | None]) -> Iterator[Key]:
        """Yield the runs that are in it now, newest first. Nothing may be added or removed meanwhile.

        Args:
            before: only runs before this place; None: all.
            created: returns when a run was created, None if it is not in here any more.
        """
        order = self._sorted(created)
        last = None
        for place in range(len(order) if before is None else bisect_left(order, before), 0, -1):
            key = order[place - 1]
            if key != last and created(key[1]) == key[0]:  # a run that has left and come back is in it twice
                yield key
            last = key

    def _sorted(self, created: Callable[[str], float | None]) -> list[Key]:
        order = self._order
        if self.fresh:
            fresh = sorted([(when, run_id) for run_id in self.fresh if (when := created(run_id)) is not None])
            self._settled += len(self.fresh)
            self.fresh = {}
            if len(fresh) * _SMALL < len(order):
                for key in fresh:
                    insort(order, key)
            else:
                order += fresh
                order.sort()
        if len(order) > 2 * self._settled + _SMALL:
            order[:] = [key for key in dict.fromkeys(order) if created(key[1]) == key[0]]
        return order


class Listings:
    """All runs of a store: by status, workflow and key.

    Args:
        rows: the store's runs by id, in the order in which they were added.
    """

    __slots__ = ("_all", "_keys", "_rows", "_seen", "_workflows", "by_status")

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self._rows = rows
        self.by_status = {status._value_: Listing() for status in RunStatus}
        """By the status's text: a look-up by enum member calls Enum.__hash__, which is Python code."""
        self._forget()

    def _forget(self) -> None:
        self._all = Listing()
        self._workflows: dict[str, Listing] = {}
        self._keys: dict[str, Listing] = {}
        self._seen = 0
        """Number of the newest run in these three."""

    def of_status(self, status: RunStatus, before: Key | None = None) -> Iterator[Key]:
        """Yield the runs of a status, newest first."""
        rows = self._rows

        def created(run_id: str) -> float | None:
            row = rows.get(run_id)
            return None if row is None or row.status is not status else row.identity.created_at

        return self.by_status[status._value_].newest(before, created)

    def newest(self, query: RunQuery, before: Key | None) -> Iterator[Key]:
        """Yield the runs that may fit a query, newest first: from the smallest of the lists that hold all of them."""
        statuses = [RunStatus(status) for status in dict.fromkeys(query.status)]
        if query.until is not None:
            before = (query.until, "") if before is None else min(before, (query.until, ""))
        found: Iterator[Key]
        of_status = sum(self.by_status[status._value_].size for status in statuses)
        listing = None if statuses and query.workflow is None and query.key is None else self._smallest(query)
        if listing is not None and (not statuses or listing.size < of_status):
            found = listing.newest(before, self._created)
        else:
            found = heapq.merge(*(self.of_status(status, before) for status in statuses), reverse=True)
        for key in found:
            if query.since is not None and key[0] < query.since:
                return
            yield key

    def _smallest(self, query: RunQuery) -> Listing:
        self._take_in()
        asked = [self._all]
        if query.workflow is not None:
            asked.append(self._workflows.get(query.workflow) or Listing())
        if query.key is not None:
            asked.append(self._keys.get(query.key) or Listing())
        return min(asked, key=lambda listing: listing.size)

    def _created(self, run_id: str) -> float | None:
        row = self._rows.get(run_id)
        return None if row is None else row.identity.created_at

    def _take_in(self) -> None:
        """Add the runs that were created since the last read; those that were deleted meanwhile are skipped."""
        rows = self._rows
        if self._all.size > 2 * len(rows) + _SMALL:
            self._forget()  # deleted runs are most of it
        seen = newest = self._seen
        for run_id, row in reversed(rows.items()):  # type: ignore[call-overload]  # of a dict
            number = row.number
            if number <= seen:
                break
            newest = max(newest, number)
            identity = row.identity
            self._all.fresh[run_id] = None
            self._of(self._workflows, identity.workflow_id).fresh[run_id] = None
            if identity.key is not None:
                self._of(self._keys, identity.key).fresh[run_id] = None
        self._seen = newest

    @staticmethod
    def _of(listings: dict[str, Listing], name: str) -> Listing:
        listing = listings.get(name)
        if listing is None:
            listing = listings[name] = Listing()
        return listing
