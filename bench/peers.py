"""W1 beside sayiir, whose engine is written in Rust: `python -m bench peers`, where sayiir is installed.

Its workflows have no shared state, so each step passes on the whole. It keeps a checkpoint per step in its memory, as
our memory store does; the engine without a backend, which keeps nothing, is measured as well. Its calls block: what is
at once runs in threads there. Not a dependency of anything: `pip install sayiir` first.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

from bench.measure import Figure, Timed, Work, at_once, in_turn, ratios, timed
from bench.row import Row
from bench.workload import payload, three_steps
from poundlock import WorkflowRuntime

ROUNDS = 15
RUNS = 500
AT_ONCE = (1, 100)


async def peers() -> list[Row]:
    """In memory, one at a time and at once, ours and theirs in turn; nothing where sayiir is not installed."""
    if find_spec("sayiir") is None:
        return [Row("W1 beside sayiir", "not measured: sayiir is not installed")]
    return [line for count in AT_ONCE for line in await beside(count)]


async def beside(count: int) -> list[Row]:
    """Measure so many at once."""
    with ThreadPoolExecutor(count) as pool:
        async with WorkflowRuntime(three_steps(), timeline=False) as rt:

            def ours(total: int) -> Any:
                return at_once(count, total, lambda number: rt.run("three", payload(number)))

            kinds = {"ours": timed(ours)}
            for name, one in (("kept", kept()), ("not kept", not_kept())):
                kinds[name] = timed(blocking(one, count, pool))
            works: dict[str, tuple[Timed, int]] = {name: (work, RUNS) for name, work in kinds.items()}
            found = await in_turn(ROUNDS, works)
    mine = found.pop("ours")
    return [line(f"W1 in memory, {count} at once, beside sayiir, {name}", mine, its) for name, its in found.items()]


def line(name: str, ours: Figure, theirs: Figure) -> Row:
    """Return a line; what stands for a floor is their rate."""
    return Row(
        name,
        f"{ours.per_second:,.0f} runs/s",
        f"{theirs.per_second:,.0f} runs/s",
        f"{statistics.median(ratios(theirs.wall, ours.wall)):.2f}",
        f"{statistics.median(ratios(theirs.cpu, ours.cpu)):.2f}",
        notes=f"{ours.micros:.0f} us each, sayiir with sync steps {theirs.micros:.0f} us",
    )


def blocking(one: Callable[[int], object], count: int, pool: ThreadPoolExecutor) -> Work:
    """Return the work of calls that block: one after another here, or at once in threads."""

    async def work(total: int) -> None:
        if count == 1:
            for number in range(total):
                one(number)
            return
        loop = asyncio.get_running_loop()
        await at_once(count, total, lambda number: loop.run_in_executor(pool, one, number))

    return work


def kept() -> Callable[[int], object]:
    """Return how to make one run whose checkpoints sayiir keeps in memory."""
    from sayiir import InMemoryBackend, run_durable_workflow

    flow, backend, ids = their_steps(), InMemoryBackend(), itertools.count()

    def one(number: int) -> object:
        status = run_durable_workflow(flow, f"run-{next(ids)}", payload(number), backend)
        if not status.is_completed():
            raise AssertionError(f"what was measured did not work: {status}")
        return status

    return one


def not_kept() -> Callable[[int], object]:
    """Return how to make one run of which sayiir keeps nothing."""
    from sayiir import run_workflow

    flow = their_steps()
    return lambda number: run_workflow(flow, payload(number))


def their_steps() -> Any:
    """Return the three steps of the workload as a workflow of sayiir."""
    from sayiir import Flow, task

    @task
    def reserve(order: dict[str, Any]) -> dict[str, Any]:
        return {**order, "reserved": order["id"]}

    @task
    def price(order: dict[str, Any]) -> dict[str, Any]:
        return {**order, "total": order["amount"] * 2}

    @task
    def ship(order: dict[str, Any]) -> dict[str, Any]:
        return {**order, "shipped": f"parcel-{order['id']}"}

    return Flow("three").then(reserve).then(price).then(ship).build()
