"""What all tests share."""

from __future__ import annotations

import os
import sys
import traceback

import pytest
import pytest_asyncio
from hypothesis import settings
from support import Stores

# The first is ours, see pyproject.toml; the second runs pytest inside of tests, to test the first.
pytest_plugins = ["poundlock.testing.plugin", "pytester"]

if sys.version_info < (3, 11, 8):
    # CPython counts the depth of its parser once for all parses. Placing carets below a line makes a traceback parse
    # it, and the garbage collector may have one written at any moment (by a future whose exception nobody retrieved, or
    # a coroutine nobody awaited, as a failing test leaves them): in the middle of a parse of pytest's own that ends
    # the session with "AST constructor recursion depth mismatch". So tracebacks have no carets here.
    traceback._extract_caret_anchors_from_line_segment = lambda _segment: None

# No deadline: what is slow here is mostly the machine. The blob repeats a failure anywhere.
settings.register_profile("dev", deadline=None, print_blob=True)
# The same examples in every run: a change is judged by what it does, not by the luck of the draw.
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(params=["memory", "sqlite"])
def store_kind(request):
    """Each kind of store in turn."""
    return request.param


@pytest_asyncio.fixture
async def stores(store_kind, tmp_path, vclock):
    """A durable place on the virtual clock, that runtimes are entered on, crash on, and are entered on again."""
    place = Stores(store_kind, tmp_path, vclock)
    yield place
    await place.close()
