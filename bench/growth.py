"""How cost grows: the same work at once, ten and a hundred times the size, and the exponent between them.

`python -m bench.growth [--write] [NAME ...]`. An exponent of 0 means that size costs nothing, 1 that twice as much
costs twice as much, 2 that it costs four times as much. Figures are processor time, the median of several repetitions:
counts of bytecodes would repeat better, but a scan inside SQLite or `sorted` executes none.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from bench.bulk import KINDS, orders, round_cost, store_of
from bench.measure import at_once
from bench.page import show
from bench.workload import payload, three_steps
from poundlock import Event, Jump, Steps, Terminate, Trigger, Workflow, WorkflowRuntime, workflow
from poundlock.pipeline.functions.workflow import FunctionWorkflow

REPEATS = 11

Cost = Callable[[str, int], Coroutine[None, None, float]]
"""Seconds of processor time of the work in one kind of store, at one size."""


class Grown(NamedTuple):
    """Something that grows."""

    name: str
    unit: str
    smallest: int
    expected: int
    """The exponent that is right: 0 for what should not matter, 1 for what is done or read itself."""
    kinds: tuple[str, ...]
    cost: Cost


async def repeated(work: Callable[[int], Awaitable[object]], times: int = 10) -> float:
    """Return the median seconds of processor time of `work(number)`, each number used once, in repetitions of `times`.

    Several times each, because the first one after a collection finds the processor's caches filled with other things.
    """
    seconds = []
    gc.collect()
    for repetition in range(REPEATS + 1):
        start = time.process_time()
        for number in range(repetition * times, (repetition + 1) * times):
            await work(number)
        seconds.append((time.process_time() - start) / times)
    return statistics.median(seconds[1:])


@asynccontextmanager
async def opened(kind: str, *workflows: Workflow, pause_window: float = 60) -> AsyncIterator[WorkflowRuntime]:
    """Open a runtime on a new store."""
    with tempfile.TemporaryDirectory() as folder:
        async with WorkflowRuntime(*workflows, store=store_of(kind, folder), pause_window=pause_window) as rt:
            yield rt


# -------------------------------------------------------------------------------------------------------- what grows
async def parked(kind: str, size: int) -> float:
    """An event resumes one of so many parked runs, which then ends."""
    runs: dict[int, str] = {}
    async with opened(kind, orders()) as rt:

        async def park(number: int) -> None:
            runs[number] = (await rt.run("orders", {"id": number})).run_id

        async def approve(number: int) -> None:
            await rt.emit("approved", id=number, by="bench")
            await rt.wait(runs[number])

        await at_once(100, size, park)
        return await repeated(approve)


def finished(look: Callable[[WorkflowRuntime], Awaitable[object]]) -> Cost:
    """Return the cost of a look at so many runs that have ended."""

    async def cost(kind: str, size: int) -> float:
        async with opened(kind, three_steps()) as rt:
            await at_once(100, size, lambda number: rt.run("three", payload(number)))
            return await repeated(lambda _number: look(rt))

    return cost


async def workflows(kind: str, size: int) -> float:
    """An event starts a run of one of so many workflows."""
    async with opened(kind) as rt:
        for number in range(size):
            await rt.register(one_step(f"wf-{number}", f"type.{number}"))

        async def emit(number: int) -> None:
            receipt = await rt.emit(f"type.{size // 2}", id=number)
            await receipt.results()

        return await repeated(emit)


async def stages(kind: str, size: int) -> float:
    """A run of so many stages."""
    async with opened(kind, long(size)) as rt:
        return await repeated(lambda number: rt.run("long", {"id": number}), times=1)


async def entries(kind: str, size: int) -> float:
    """All entries of a timeline are read and folded, of a run of so many stages."""
    async with opened(kind, long(size)) as rt:
        run = await rt.run("long", {"id": 1})

        async def read(_number: int) -> dict[str, Any]:
            timeline = await rt.timeline(run.run_id)
            return timeline.state_at(len(timeline))

        return await repeated(read, times=1)


async def elements(kind: str, size: int) -> float:
    """A run of one step that is called for so many elements."""
    wf = Workflow("map")

    @wf.step(each="items", into="prices")
    async def price(item: int) -> float:
        return item * 2.5

    async with opened(kind, wf) as rt:
        return await repeated(lambda _number: rt.run("map", {"items": list(range(size))}), times=1)


async def children(kind: str, size: int) -> float:
    """A run that starts and joins so many children of one step."""
    wf = Workflow("parent")
    each = wf.pipeline("each")

    @each.step
    async def price(item: int) -> Terminate:
        return Terminate(item * 2.5)

    wf.map(each, over="items", into="prices")
    async with opened(kind, wf) as rt:
        return await repeated(lambda _number: rt.run("parent", {"items": list(range(size))}), times=1)


async def visits(kind: str, size: int) -> float:
    """A run that goes through one stage so many times."""
    wf = Workflow("loop")

    @wf.step
    async def count(last: int, done: int = 0) -> Jump | dict[str, int]:
        return Jump("count", patch={"done": done + 1}) if done + 1 < last else {"done": last}

    async with opened(kind, wf) as rt:
        return await repeated(lambda _number: rt.run("loop", {"last": size}), times=1)


def recording(size: int) -> FunctionWorkflow:
    """Return a durable function of so many recorded operations, which then waits for an event."""

    async def add(number: int) -> int:
        return number + 1

    @workflow("function")
    async def function(step: Steps, event: Event) -> int:
        number = 0
        for _ in range(size):
            number = await step.run(add, number)
        await step.wait_for("go", correlate={"id": event.payload["id"]})
        return number

    return function


async def operations(kind: str, size: int) -> float:
    """A durable function that puts so many operations on record."""
    async with opened(kind, recording(size)) as rt:
        return await repeated(lambda number: rt.run("function", {"id": number}), times=1)


async def replayed(kind: str, size: int) -> float:
    """A durable function goes on behind so many operations that are on record; nothing of it is in memory."""
    runs: dict[int, str] = {}
    async with opened(kind, recording(size), pause_window=0) as rt:
        for number in range(REPEATS + 1):
            runs[number] = (await rt.run("function", {"id": number})).run_id

        async def go_on(number: int) -> None:
            await rt.emit("go", id=number)
            await rt.wait(runs[number])

        return await repeated(go_on, times=1)


async def rounds(kind: str, size: int) -> float:
    """A round of a loop of delays, after so many."""
    return await round_cost(kind, size, last=20)


def one_step(id: str, event: str) -> Workflow:
    """One trivial step, started by an event."""
    wf = Workflow(id, triggers={event: Trigger(event)})

    @wf.step
    async def take(id: int) -> dict[str, int]:
        return {"seen": id}

    return wf


def long(count: int) -> Workflow:
    """So many trivial steps in as many stages."""
    wf = Workflow("long")

    async def take(id: int) -> dict[str, int]:
        return {"seen": id}

    for number in range(count):
        wf.step(take, id=f"step-{number}")
    return wf


BOTH, MEMORY = KINDS, KINDS[:1]
GROWN: dict[str, Grown] = {
    "parked": Grown("event to one of the parked runs", "runs", 200, 0, BOTH, parked),
    "find": Grown("first page of finished runs", "runs", 100, 0, BOTH, finished(lambda rt: rt.find_runs("three"))),
    "find-none": Grown(
        "paused runs among finished ones", "runs", 100, 0, BOTH, finished(lambda rt: rt.find_runs(status="paused"))
    ),
    "stats": Grown("`stats`, finished runs", "runs", 100, 0, BOTH, finished(lambda rt: rt.store.stats())),
    "workflows": Grown("event to one of the workflows", "workflows", 100, 0, MEMORY, workflows),
    "stages": Grown("a run", "stages", 5, 1, BOTH, stages),
    "elements": Grown("a run of a step with `each`", "elements", 100, 1, BOTH, elements),
    "children": Grown("a run with children", "children", 10, 1, BOTH, children),
    "visits": Grown("a run that loops", "visits of a stage", 10, 1, BOTH, visits),
    "operations": Grown("a durable function", "operations", 10, 1, BOTH, operations),
    "replayed": Grown("going on behind a record", "operations", 10, 1, BOTH, replayed),
    "entries": Grown("reading the timeline of a run", "stages", 5, 1, BOTH, entries),
    "rounds": Grown("a round of a loop of delays", "rounds before it", 40, 0, BOTH, rounds),
}


def growth(names: list[str]) -> str:
    """Return a Markdown table: milliseconds at three sizes, and exponents."""
    lines = [
        "Milliseconds of processor time at 1, 10 and 100 times the size; exponent 0: no growth, 1: in proportion.",
        "",
        "| what | size | 1x | 10x | 100x | exponent, all | 10x to 100x | should be |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names or GROWN:
        grown = GROWN[name]
        for kind in grown.kinds:
            print(f"growing {name}, {kind} ...", file=sys.stderr)
            costs = [asyncio.run(grown.cost(kind, grown.smallest * times)) for times in (1, 10, 100)]
            shown = " | ".join(f"{cost * 1000:.3g}" for cost in costs)
            whole, last = (math.log10(costs[2] / first) / decades for first, decades in ((costs[0], 2), (costs[1], 1)))
            size = f"{grown.smallest} {grown.unit}"
            lines.append(f"| {grown.name}, {kind} | {size} | {shown} | {whole:.2f} | {last:.2f} | {grown.expected} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(prog="python -m bench.growth", description="how cost grows with size")
    arguments.add_argument("names", nargs="*", metavar="NAME", help=", ".join(GROWN))
    arguments.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    asked = arguments.parse_args()
    if unknown := [name for name in asked.names if name not in GROWN]:
        arguments.error(f"unknown: {', '.join(unknown)}. Next: choose from {', '.join(GROWN)}")
    show("growth", growth(asked.names), write=asked.write)


if __name__ == "__main__":
    main()
