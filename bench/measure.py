"""Measuring: several rounds, medians, the subjects in turn, so that a drifting machine drifts for all of them."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple


class Spent(NamedTuple):
    """Seconds that some work took, by the wall clock and by this process's processor time, and how often it synced."""

    wall: float
    cpu: float
    syncs: int = 0


Work = Callable[[int], Awaitable[object]]
"""Does so many operations."""

Timed = Callable[[int], Awaitable[Spent]]
"""Does so many operations, and says what the part that counts took."""


def timed(work: Work) -> Timed:
    """Return the work with all of it counting."""

    async def run(operations: int) -> Spent:
        wall, cpu = time.perf_counter(), time.process_time()
        await work(operations)
        return Spent(time.perf_counter() - wall, time.process_time() - cpu)

    return run


@dataclass
class Figure:
    """What an operation took, round by round: seconds of wall clock and of this process's processor time, syncs."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    syncs: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Operations per second: the median round."""
        return 1 / statistics.median(self.wall)

    @property
    def micros(self) -> float:
        """Microseconds per operation: the median round."""
        return statistics.median(self.wall) * 1e6

    @property
    def cpu_micros(self) -> float:
        """Microseconds of processor time per operation: the median round."""
        return statistics.median(self.cpu) * 1e6


def ratios(floor: list[float], ours: list[float]) -> list[float]:
    """Return the floor's seconds by ours, round by round: 1 is as fast as the floor, .1 ten times slower.

    Round by round, because two neighbours share the state of the machine and of its disk, and two medians need not.
    """
    return [by_hand / mine for by_hand, mine in zip(floor, ours, strict=True)]


async def in_turn(rounds: int, works: dict[str, tuple[Timed, int]]) -> dict[str, Figure]:
    """Time several works in turn, A B A B ..., each with its number of operations, after a round for warming up."""
    figures = {name: Figure() for name in works}
    for number in range(rounds + 1):
        for name, (work, operations) in works.items():
            gc.collect()
            spent = await work(operations)
            if number:
                figures[name].wall.append(spent.wall / operations)
                figures[name].cpu.append(spent.cpu / operations)
                figures[name].syncs.append(spent.syncs / operations)
    return figures


async def at_once(count: int, total: int, one: Callable[[int], Awaitable[object]]) -> None:
    """Run `one(number)` for every number below `total`, `count` of them at a time."""

    async def worker(first: int) -> None:
        for number in range(first, total, count):
            await one(number)

    await asyncio.gather(*(worker(first) for first in range(count)))
