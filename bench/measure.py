"""Measuring: several rounds, medians, limit and ours in turn, so that a drifting machine drifts for both."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Work = Callable[[], Awaitable[object]]


@dataclass
class Figure:
    """Seconds per operation over the rounds, wall clock and this process's processor time."""

    name: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

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


async def once(figure: Figure, work: Work, operations: int) -> None:
    """Time one round of `operations`."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    figure.wall.append((time.perf_counter() - wall) / operations)
    figure.cpu.append((time.process_time() - cpu) / operations)


async def in_turn(rounds: int, operations: int, **works: Work) -> dict[str, Figure]:
    """Time several works in turn, A B A B ..., after one round that does not count."""
    figures = {name: Figure(name) for name in works}
    for work in works.values():
        await work()
    for _ in range(rounds):
        for name, work in works.items():
            await once(figures[name], work, operations)
    return figures


async def at_once(count: int, total: int, one: Callable[[int], Awaitable[object]]) -> None:
    """Run `one(number)` for every number below `total`, `count` of them at a time."""

    async def worker(first: int) -> None:
        for number in range(first, total, count):
            await one(number)

    await asyncio.gather(*(worker(first) for first in range(count)))
