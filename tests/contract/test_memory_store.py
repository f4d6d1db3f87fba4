"""The memory store keeps every promise of the port."""

from __future__ import annotations

import pytest

from poundlock.stores import MemoryStore
from poundlock.testing.store_contract import StoreContract


class MemoryFactory:
    def __init__(self):
        self.store = MemoryStore()

    def __call__(self):
        return self.store

    async def crash(self, store):
        """What it holds lives as long as the process, so that there is nothing to leave."""


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store_factory(self):
        return MemoryFactory()
