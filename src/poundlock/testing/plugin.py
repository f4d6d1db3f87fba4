"""The pytest plugin: fixtures for tests of workflows.

House rules: every pytest run of every user loads this file, so it imports only pytest until a fixture is used. It works
with pytest-asyncio in either mode.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from poundlock.testing.clock import VirtualClock
    from poundlock.testing.recording import RecordingBus

try:
    from pytest_asyncio import fixture as async_fixture
except ImportError:  # another plugin, such as anyio's, runs async fixtures
    async_fixture = pytest.fixture  # type: ignore[assignment]  # used the same way here

# The contracts use assert; this makes a failing one show its values.
pytest.register_assert_rewrite("poundlock.testing.bus_contract", "poundlock.testing.store_contract")


@pytest.fixture
def vclock() -> Iterator[VirtualClock]:
    """A VirtualClock that jumps by itself; it is closed after the test."""
    from poundlock.testing.clock import VirtualClock

    clock = VirtualClock()
    yield clock
    clock.close()


@pytest.fixture
def bus() -> RecordingBus:
    """A local bus that records what was published (`.events`, `.types()`) and what failed (`.failures`)."""
    from poundlock.testing.recording import RecordingBus

    return RecordingBus()


@async_fixture
async def runtime(vclock: VirtualClock) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Create started runtimes on the memory store and `vclock`: call it with workflows and await.

    Options are those of WorkflowRuntime. After the test all runtimes are closed, last first, and the test fails if a
    task is left behind.
    """
    before = asyncio.all_tasks()
    async with AsyncExitStack() as entered:

        async def enter(*workflows: Any, **options: Any) -> Any:
            from poundlock import WorkflowRuntime

            options.setdefault("clock", vclock)
            return await entered.enter_async_context(WorkflowRuntime(*workflows, **options))

        yield enter
    await vclock.run_until_idle()
    leaked = [task for task in asyncio.all_tasks() - before if not task.done() and task is not asyncio.current_task()]
    for task in leaked:
        task.cancel()
    if leaked:
        pytest.fail("tasks were left behind: " + ", ".join(sorted(map(repr, leaked))), pytrace=False)
