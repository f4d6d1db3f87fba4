"""Open a store to read it: read-only if the store supports it, so that it works while a runtime owns the file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from poundlock.cli.options import UsageFault, needed

if TYPE_CHECKING:
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
