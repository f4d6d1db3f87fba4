"""What tests of durable functions share."""

from __future__ import annotations

import pytest
from support import give_up_hanging


@pytest.fixture(autouse=True)
async def no_test_hangs():
    """Give up a test that hangs."""
    timer = give_up_hanging()
    yield
    timer.cancel()


class Calls(list):
    """Functions that note each of their calls."""

    async def work(self, name="work"):
        """Note a call, and return its number among those of this name."""
        self.append(name)
        return self.count(name)


@pytest.fixture
def calls():
    return Calls()
