"""The test doubles themselves: a wait of a test ends by what it waits for, or as soon as that cannot come any more."""

from __future__ import annotations

import ast
import asyncio
import gc
import threading
import traceback

import pytest
from support import LAST_RESORT, unmeasured

from poundlock import Pipeline, Stage, Step, Trigger, Workflow


def workflow():
    async def step(): ...

    return Workflow(
        "w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", [Stage("one", [Step("one", step)])])]
    )


async def test_waiting_for_a_held_commit_ends_when_nothing_can_come(stores):
    """Where everything is idle and no commit is held, the test fails at once, and says how many are."""
    rt = await stores.enter(workflow())
    await (await rt.emit("begin")).results()
    before = stores.clock.now()
    with pytest.raises(AssertionError, match="everything is idle, and 0 of 1 commits are held"):
        await rt.store.until_held()
    assert stores.clock.now() == before


@pytest.mark.parametrize("store_kind", ["sqlite"], indirect=True)
async def test_waiting_for_a_held_commit_waits_for_a_slow_disk(stores):
    """However long the store's thread takes over a commit before it, the wait goes on until the commit is held."""
    rt = await stores.enter(workflow())
    loop, turning, writing, written = asyncio.get_running_loop(), [0], asyncio.Event(), threading.Event()
    worker = rt.store.inner._writing

    class Slow:
        def perform(self, jobs):
            loop.call_soon_threadsafe(writing.set)
            written.wait(LAST_RESORT)
            return performer.perform(jobs)

    performer, worker._performer = worker._performer, Slow()
    rt.store.hold = lambda changes: bool(changes.moves)
    emitting = asyncio.create_task(rt.emit("begin"))
    await writing.wait()

    def turn():
        turning[0] += 1
        if turning[0] < 200_000:
            loop.call_soon(turn)
        else:
            written.set()

    turn()
    [held] = await rt.store.until_held()
    assert turning == [200_000]
    worker._performer = performer
    held.release()
    assert [result.status for result in await (await emitting).results()] == ["completed"]


async def test_a_commit_that_was_let_on_is_no_longer_held(stores):
    """Right after a release the commit is not found among the held ones, and another wait gets the next one."""
    rt = await stores.enter(workflow())
    rt.store.hold = lambda changes: bool(changes.moves or changes.creates)
    emitting = asyncio.create_task(rt.emit("begin"))
    [first] = await rt.store.until_held()
    first.release()
    assert rt.store.held == []
    [second] = await rt.store.until_held()
    assert second is not first
    rt.store.hold = None
    second.release()
    assert [result.status for result in await (await emitting).results()] == ["completed"]


async def test_the_error_of_a_commit_that_nobody_waits_for_is_nobodys(stores, caplog):
    """Failing a held commit whose sender was cancelled leaves no exception behind that nobody retrieves."""
    rt = await stores.enter(workflow())
    rt.store.hold = lambda changes: bool(changes.creates)
    committing = asyncio.create_task(rt.emit("begin"))
    [held] = await rt.store.until_held()
    committing.cancel()
    await asyncio.gather(committing, return_exceptions=True)
    held.fail(ValueError("too late"))
    await stores.clock.run_until_idle()
    assert caplog.records == []


def test_children_that_get_killed_are_not_measured():
    """What makes coverage begin in a child is not in the environment of one that cannot write down what it covered."""
    environment = {"PATH": "/bin", "COVERAGE_PROCESS_CONFIG": "{}", "COVERAGE_PROCESS_START": "setup.cfg"}
    assert unmeasured(environment) == {"PATH": "/bin"}


def test_a_traceback_may_be_written_while_something_is_parsed():
    """What the garbage collector has written in the middle of a parse does not end that parse, on any Python."""

    def fails(sides):
        return sides[0] + 2 * (1 / sides[1])

    written = []

    def write(phase, _info):
        try:
            fails([1, 0])
        except ZeroDivisionError:
            written.append(phase + traceback.format_exc())

    source = f"x = [{'f(a + b * c, d[e].g), ' * 50}]"
    often = gc.get_threshold()
    gc.callbacks.append(write)
    gc.set_threshold(1)
    try:
        ast.parse(source)
    finally:
        gc.set_threshold(*often)
        gc.callbacks.remove(write)
    assert written
