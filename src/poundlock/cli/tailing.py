"""Follow a run by its rows, in a store that another process may write: read, print, wait a moment, read again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from poundlock.clock import Clock
    from poundlock.model.timeline_entry import TimelineEntry
    from poundlock.ports import Store
    from poundlock.sensitive import Masks

EVERY: Final = 0.5
"""Seconds between two looks at a store that has nothing new."""
_PORTION: Final = 256
"""Log rows that are read at once."""


async def tail(store: Store, run_id: str, clock: Clock) -> AsyncIterator[TimelineEntry]:
    """Yield the entries of a run, and then what comes, until the run has ended.

    Raises:
        RunNotFound: there is no such run, or it was deleted meanwhile.
    """
    from poundlock.clock import sleep_for
    from poundlock.model.hiding import hidden_entries, noted_masks
    from poundlock.model.timeline import read_entries
    from poundlock.stores.answers import not_found

    seq = 0
    masks: Masks = ()
    secrets: set[str] = set()
    while True:
        # The status first: a run that had ended by then has written its last entry.
        status = await store.status(run_id)
        rows = await store.history(run_id, None, seq, _PORTION)
        found = read_entries(rows)
        masks = (*masks, *noted_masks(found))
        shown, more = hidden_entries(found, masks, secrets)
        secrets |= more
        for entry in shown:
            if entry.seq > seq:
                seq = entry.seq
                yield entry
        if rows:
            continue
        if status is None:
            raise not_found(run_id)
        if status.terminal:
            return
        await sleep_for(clock, EVERY)
