"""What tests of this room share."""

from __future__ import annotations

import asyncio

import pytest


@pytest.fixture(autouse=True)
async def no_test_hangs():
    """Cancel whatever still runs after 60 real seconds: a promise that is not kept must fail, not hang."""
    timer = asyncio.get_running_loop().call_later(60, lambda: [task.cancel() for task in asyncio.all_tasks()])
    yield
    timer.cancel()
