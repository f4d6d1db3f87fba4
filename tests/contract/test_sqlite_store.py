"""The SQLite store keeps every promise of the port."""

from __future__ import annotations

import pytest

from poundlock.stores.sqlite import SqliteStore
from poundlock.testing.store_contract import StoreContract


class SqliteFactory:
    def __init__(self, path):
        self.path = path
        self.crashed = []

    def __call__(self):
        return SqliteStore(self.path)

    async def crash(self, store):
        """Only the lock dies with its owner: the log is not tidied, and nothing is given back."""
        store._lock.release()
        self.crashed.append(store)


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def store_factory(self, tmp_path):
        factory = SqliteFactory(tmp_path / "store.db")
        yield factory
        for store in factory.crashed:
            await store.close()
