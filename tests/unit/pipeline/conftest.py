"""What tests of this room share."""

from __future__ import annotations

import pytest
from support import give_up_hanging


@pytest.fixture(autouse=True)
async def no_test_hangs():
    """Give up a test that hangs."""
    timer = give_up_hanging()
    yield
    timer.cancel()
