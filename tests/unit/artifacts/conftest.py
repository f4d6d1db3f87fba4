"""What the tests of the container share."""

from __future__ import annotations

import pytest

from poundlock.testing import VirtualClock, run_until_idle


@pytest.fixture
async def clock():
    """A clock that stands still until a test lets time pass."""
    async with VirtualClock(1_000.0, autojump=False) as clock:
        yield clock


@pytest.fixture
def settle():
    """Lets every task run until nothing can go on by itself."""
    return run_until_idle


@pytest.fixture
def log():
    """A list for whatever happens, in order."""
    return []
