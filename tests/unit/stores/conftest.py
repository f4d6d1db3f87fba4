"""What tests of the SQLite store share."""

from __future__ import annotations

import pytest

from poundlock.stores.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path):
    """Where a store's file is, or is not yet."""
    return tmp_path / "store.db"


@pytest.fixture
async def opened(path):
    """Open stores, on `path` unless told otherwise; they are closed after the test."""
    stores = []

    async def open_store(where=path, **options):
        store = SqliteStore(where, **options)
        await store.open("w1")
        stores.append(store)
        return store

    yield open_store
    for store in reversed(stores):
        await store.close()
