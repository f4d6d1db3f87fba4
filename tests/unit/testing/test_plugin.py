"""The fixtures that come with Poundlock, and what the kit exports."""

from __future__ import annotations

import subprocess
import sys

import pytest

import poundlock
import poundlock.testing
from poundlock.bus import LocalBus
from poundlock.clock import sleep_until
from poundlock.errors import InvalidEvent
from poundlock.model.events import Event
from poundlock.testing import RecordingBus, VirtualClock

COMMON = ["-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function"]


class FakeRuntime:
    """As much of a runtime as the fixture touches: entered, left, and (on request) leaving a task behind."""

    log: list[str] = []  # noqa: RUF012 - shared on purpose, the test reads it

    def __init__(self, *workflows, clock, leak=False):
        self.workflows = workflows
        self.clock = clock
        self.leak = leak

    async def __aenter__(self):
        self.log.append(f"enter {self.workflows[0]}")
        return self

    async def __aexit__(self, *_):
        self.log.append(f"exit {self.workflows[0]}")
        if self.leak:
            import asyncio

            self.task = asyncio.create_task(asyncio.Event().wait(), name="left behind")


@pytest.fixture
def outcome(pytester, monkeypatch):
    """Run a test file in a pytest of its own, with the fake in the runtime's place."""
    FakeRuntime.log = []
    monkeypatch.setattr(poundlock, "WorkflowRuntime", FakeRuntime, raising=False)

    def run(source, *args):
        pytester.makepyfile(source)
        return pytester.runpytest_inprocess(*COMMON, "-o", "asyncio_mode=auto", *args)

    return run


def test_runtimes_are_entered_and_left_in_reverse(outcome):
    """`runtime` gives entered runtimes on one virtual clock, and leaves them, last first, after the test."""
    result = outcome("""
        async def test_it(runtime, vclock):
            first = await runtime("a", "b")
            second = await runtime("c")
            assert first.workflows == ("a", "b")
            assert first.clock is second.clock is vclock
    """)
    result.assert_outcomes(passed=1)
    assert FakeRuntime.log == ["enter a", "enter c", "exit c", "exit a"]


def test_options_go_to_the_runtime(outcome):
    """Options of the function are the runtime's; a clock given by the test wins."""
    result = outcome("""
        async def test_it(runtime):
            assert (await runtime("a", clock="mine")).clock == "mine"
    """)
    result.assert_outcomes(passed=1)


def test_tasks_left_behind_fail_the_test(outcome):
    """A runtime that leaves a task running fails the test, with the task's name."""
    result = outcome("""
        async def test_it(runtime):
            await runtime("a", leak=True)
    """)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*tasks were left behind:*left behind*"])


def test_works_in_strict_mode(outcome):
    """With pytest-asyncio in strict mode, where tests are marked, the fixtures work the same."""
    result = outcome(
        """
        import pytest

        @pytest.mark.asyncio
        async def test_it(runtime, bus, vclock):
            await runtime("a")
        """,
        "-o",
        "asyncio_mode=strict",
    )
    result.assert_outcomes(passed=1)


def test_a_plain_test_may_use_clock_and_bus(outcome):
    """`vclock` and `bus` need no event loop to be made."""
    outcome("""
        def test_it(vclock, bus):
            vclock.advance(days=1)
            assert bus.events == []
    """).assert_outcomes(passed=1)


async def test_vclock_jumps(vclock):
    """`vclock` is a VirtualClock that jumps by itself."""
    assert isinstance(vclock, VirtualClock)
    later = vclock.now() + 86_400
    await sleep_until(vclock, later)
    assert vclock.now() == later


async def test_bus_remembers(bus):
    """`bus` is a local bus that keeps what was published, in order, and what failed, heard or not."""
    assert isinstance(bus, LocalBus)

    async def passes_on(event):
        await bus.publish(Event("copied"))
        raise ValueError("after that")

    bus.subscribe("placed", passes_on)
    assert bus.has_subscribers("anything")
    await bus.publish(Event("unheard"))
    await bus.publish(Event("placed"))
    assert bus.types() == ["unheard", "placed", "copied"]
    ((publication, handler, error),) = bus.failures
    assert (publication.event, handler, str(error)) == (bus.events[1], passes_on, "after that")


async def test_a_recording_bus_tells_its_own_on_error():
    """RecordingBus takes an `on_error` too."""
    told = []
    bus = RecordingBus(on_error=lambda *report: told.append(report))
    bus.subscribe("a", lambda _: 1 / 0)
    await bus.publish(Event("a"))
    assert told == bus.failures
    with pytest.raises(InvalidEvent):
        await bus.publish("no event")
    assert bus.types() == ["a"]


def test_all_names_can_be_imported():
    """Everything `poundlock.testing` lists is there; anything else is an AttributeError."""
    for name in poundlock.testing.__all__:
        assert getattr(poundlock.testing, name) is not None
    assert set(poundlock.testing.__all__) <= set(dir(poundlock.testing))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = poundlock.testing.no_such_name


def test_the_plugin_is_light():
    """Being loaded into everybody's pytest, the plugin imports nothing of the package but itself."""
    code = "import sys, poundlock.testing.plugin; print(*sorted(m for m in sys.modules if m.startswith('poundlock')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["poundlock", "poundlock.testing", "poundlock.testing.plugin"]
