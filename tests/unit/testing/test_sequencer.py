"""The sequencer keeps the order a test asks for."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from poundlock.testing import Sequencer, run_until_idle
from poundlock.testing.sequencer import BrokenSequence


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
async def test_steps_run_in_their_order_whoever_comes_first(order):
    """However the tasks are started, the steps run by number."""
    turn, log = Sequencer(), []

    async def worker(step):
        async with turn(step):
            log.append(step)

    async with asyncio.TaskGroup() as group:
        for step in order:
            group.create_task(worker(step))
    assert log == [0, 1, 2, 3]


async def test_a_step_waits_until_the_one_before_has_been_left():
    """A step is not entered while the one before is still inside."""
    turn, log, stay = Sequencer(), [], asyncio.Event()

    async def first():
        async with turn(0):
            await stay.wait()
            log.append("left 0")

    async def second():
        async with turn(1):
            log.append("entered 1")

    async with asyncio.TaskGroup() as group:
        group.create_task(second())
        group.create_task(first())
        await run_until_idle()
        assert log == []
        stay.set()
    assert log == ["left 0", "entered 1"]


async def test_a_step_is_used_once():
    """Using a number twice is a mistake in the test, and said so."""
    turn = Sequencer()
    async with turn(0):
        pass
    with pytest.raises(BrokenSequence, match="step 0 was entered twice"):
        async with turn(0):
            pass


async def test_a_failing_step_breaks_the_sequence():
    """When a step fails, those that wait for it fail too instead of hanging, and so does whoever comes later."""
    turn = Sequencer()

    async def waits():
        async with turn(1):
            pass

    waiting = asyncio.create_task(waits())
    await run_until_idle()
    with pytest.raises(ZeroDivisionError):
        async with turn(0):
            _ = 1 / 0
    for late in (waiting, waits()):
        with pytest.raises(BrokenSequence, match="step 0 ended with ZeroDivisionError"):
            await late


async def test_a_cancelled_wait_breaks_the_sequence():
    """A step cancelled before its turn leaves a hole that nobody can fill: the others are told."""
    turn = Sequencer()

    async def step(number):
        async with turn(number):
            pass

    one, two = asyncio.create_task(step(1)), asyncio.create_task(step(2))
    await run_until_idle()
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    with pytest.raises(BrokenSequence, match="step 1 was cancelled"):
        await two
