"""A million parked runs: what finding the one an event is for costs, and taking up the one whose time has come.

`python -m bench.million [--write] [SIZE ...]`. The runs are copies of one that the runtime has parked, written by the
store's own commits: a million runs by the runtime would take an hour of processor time and measure something else.
Figures are processor time, the median of several repetitions, so that the machine's other work counts less.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from bench.bulk import HOUR, KINDS, ends, orders, store_of
from bench.page import show
from poundlock import WorkflowRuntime
from poundlock.model.changes import Changes, RunCreate, RunMove
from poundlock.model.runs import Checkpoint, LogRow, StoredEvent
from poundlock.model.waits import wait_keys
from poundlock.ports import Store

SIZES = (10_000, 100_000, 1_000_000)
TOGETHER = 2000
REPEATS = 50


def copies(of: Checkpoint, log: LogRow, count: int) -> Iterator[RunCreate]:
    """Yield so many runs like a parked one; the n-th waits for the id n, and its time is over in n seconds."""
    identity, head, [wait] = of.record
    event = of.event
    for number in range(1, count + 1):
        run_id = f"copy-{number:07}"
        correlate = (("id", number),)
        due = head.updated_at + HOUR + number
        row = wait._replace(correlate=correlate, keys=wait_keys(wait.events, correlate), expires_at=due)
        start = RunMove(
            run_id=run_id,
            version=0,
            epoch=head.epoch,
            inbox=None,
            status=head.status,
            owner=None,
            new_epoch=head.epoch,
            stage=head.stage,
            attempt=head.attempt,
            wake_at=due,
            outcome=None,
            slot=False,
            updated_at=head.updated_at,
            log=log,
            waits=(row,),
            visits=head.visits,
        )
        yield RunCreate(
            identity._replace(run_id=run_id, event_ref=run_id, load_key=None), start, StoredEvent(run_id, event)
        )


async def fill(store: Store, rt: WorkflowRuntime, count: int) -> None:
    """Park one run by the runtime, and write so many copies of it."""
    [result] = await (await rt.emit("placed", id=0)).results()
    checkpoint = await store.checkpoint(result.run_id)
    if checkpoint is None:
        raise AssertionError("the run that was parked is not there")
    rows = await store.history(result.run_id)
    entries = ",".join(row.text[1:-1] for row in rows if row.size)
    log = LogRow(1, sum(row.size for row in rows), f"[{entries}]")
    portion: list[RunCreate] = []
    for create in copies(checkpoint, log, count):
        portion.append(create)
        if len(portion) == TOGETHER:
            await store.commit(Changes(creates=tuple(portion), now=checkpoint.record.head.updated_at))
            portion = []
    if portion:
        await store.commit(Changes(creates=tuple(portion), now=checkpoint.record.head.updated_at))


async def measured(work: Callable[[int], Awaitable[Any]], places: AsyncIterator[int] | Iterator[int]) -> float:
    """Return the median of microseconds of processor time that one of these takes."""
    seconds = []
    for place in places:  # type: ignore[union-attr]  # only plain iterators are given
        start = time.process_time()
        await work(place)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds) * 1e6


async def row(kind: str, size: int) -> str:
    """Return a line of the table."""
    print(f"{size:,} parked, {kind} ...", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        store = store_of(kind, folder)
        async with WorkflowRuntime(orders(), store=store, pause_window=0) as rt:
            start = time.perf_counter()
            await fill(store, rt, size)
            filled = time.perf_counter() - start
            gc.collect()
            gc.freeze()  # else the collector goes through a million runs again and again, and is what is measured

            async def approve(number: int) -> None:
                await rt.emit("approved", id=number, by="bench")
                await ends(rt, [f"copy-{number:07}"])

            async def nobody(number: int) -> None:
                await rt.emit("approved", id=-number, by="bench")

            places = range(1, size + 1, max(1, size // REPEATS))
            found = await measured(approve, iter(places))
            missed = await measured(nobody, iter(range(1, REPEATS)))
            due = [number for number in range(1, size + 1) if number not in places][:REPEATS]
            base = time.time() + 2 * HOUR  # the first ones are due, in the order of their numbers

            async def take(_: int) -> None:
                [claim] = await store.claim("bench", ["orders"], base, 1)
                if claim.checkpoint.record.head.status != "running":
                    raise AssertionError("it was not taken up")

            claimed = await measured(take, iter(due))
            next_due = await measured(lambda _: store.next_due(["orders"]), iter(range(REPEATS)))
    gc.unfreeze()
    figures = " | ".join(f"{each:,.0f}" for each in (found, missed, claimed, next_due))
    return f"| {kind} | {size:,} | {figures} | {filled:.0f} s |"


async def table(sizes: list[int]) -> str:
    """Return a Markdown table."""
    lines = [
        "Microseconds of processor time, median. *Event to one*: it is found, resumed, and ends. *To none*: a look-up.",
        "*Take up*: one run whose time is over is claimed. *Next*: when the next one is due.",
        "",
        "| store | parked | event to one | event to none | take up | next | to fill the store |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [await row(kind, size) for kind in KINDS for size in sizes]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(prog="python -m bench.million", description="a million parked runs")
    arguments.add_argument("sizes", nargs="*", type=int, metavar="SIZE", help="parked runs; default: up to a million")
    arguments.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    asked = arguments.parse_args()
    show("million", asyncio.run(table(asked.sizes or list(SIZES))), write=asked.write)


if __name__ == "__main__":
    main()
