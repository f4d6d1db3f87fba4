"""Open a store to read it: read-only if the store supports it, so that it works while a runtime owns the file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from poundlock.cli.options import UsageFault, needed

if TYPE_CHECKING:
    from poundlock.model.runs import RunRecord
    from poundlock.ports import Store


@asynccontextmanager
async def reading(url: str | Path | None) -> AsyncIterator[Store]:
    """Open a store for reading.

    Args:
        url: what names the store: a URL, or the path of an SQLite file.

    Raises:
        UsageFault: no store was given, or one in memory.
        StoreUnavailable, StoreCorrupt, StoreTooNew: it cannot be read.
    """
    from poundlock.stores import open as open_store
    from poundlock.stores.memory import MemoryStore
    from poundlock.stores.sqlite import SqliteStore

    store: Store = open_store(url if isinstance(url, Path) else needed(url))
    if isinstance(store, MemoryStore):
        raise UsageFault(f"'{url}' ends with its process, so there is nothing to read: give a durable store")
    if isinstance(store, SqliteStore):
        store = SqliteStore(store.path, readonly=True)
    await store.open("poundlock-cli")
    try:
        yield store
    finally:
        await store.close()


async def look_up(store: Store, run_id: str) -> RunRecord | None:
    """Read a run before a runtime opens its store: a missing file is not created, and a refusal needs no lock.

    Returns:
        The run; None if it was not read, because a store that an app brings may not allow to be opened twice.

    Raises:
        RunNotFound: there is no such run.
        UsageFault, StoreUnavailable, StoreCorrupt, StoreTooNew: as `reading`.
    """
    from poundlock.stores.answers import not_found
    from poundlock.stores.memory import MemoryStore
    from poundlock.stores.sqlite import SqliteStore

    if not isinstance(store, SqliteStore | MemoryStore):
        return None
    async with reading(Path(store.path) if isinstance(store, SqliteStore) else "memory:") as looked_at:
        record = await looked_at.load(run_id)
    if record is None:
        raise not_found(run_id)
    return record
