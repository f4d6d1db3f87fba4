"""What tests of the runtime and of pipelines share."""

from __future__ import annotations

import asyncio

import pytest

from poundlock.stores import MemoryStore


@pytest.fixture(params=["memory", "sqlite"])
def any_store(request, tmp_path):
    """A place for runs that outlives a runtime: pass it as `store=`, also to a second one after the first."""
    return MemoryStore() if request.param == "memory" else f"sqlite:///{tmp_path / 'runs.db'}"


class Gate:
    """Something steps wait at until the test lets them on; it notes who came by and how many are inside."""

    def __init__(self):
        self._open = asyncio.Event()
        self.came = []
        self.inside = 0
        self.most = 0

    def open(self):
        self._open.set()

    async def __call__(self, who=None):
        self.came.append(who)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self._open.wait()
        finally:
            self.inside -= 1


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def make_gate():
    return Gate
