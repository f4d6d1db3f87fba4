"""How many bytes a run keeps: `python -m bench.memory KIND traced|resident` prints them for one kind.

A process of its own makes some runs, then more of them, and the difference by the number is what one keeps. `traced`
is what Python's allocator holds, by tracemalloc; it repeats. `resident` is the process's memory as the system sees it,
with what the libraries hold and what is lost between the blocks; it needs Linux.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from bench.bulk import orders
from bench.measure import at_once
from bench.row import Row
from bench.workload import payload, three_steps
from poundlock import Workflow, WorkflowRuntime

HERE = Path(__file__).resolve().parent.parent
STATUS = Path("/proc/self/status")

Make = Callable[[WorkflowRuntime, int, int], Awaitable[object]]


async def finished(rt: WorkflowRuntime, first: int, count: int) -> None:
    """Make so many runs that have ended."""
    await at_once(100, count, lambda number: rt.run("three", payload(first + number)))


async def parked(rt: WorkflowRuntime, first: int, count: int) -> None:
    """Make so many runs that wait; no events, whose receipts and ids are kept for a time of their own."""
    await at_once(100, count, lambda number: rt.run("orders", {"id": first + number}))


class Kind(NamedTuple):
    """What is made, where, and between which numbers the memory is compared."""

    name: str
    workflow: Callable[[], Workflow]
    make: Make
    durable: bool = False
    pause_window: float = 3600.0
    few: int = 1000
    many: int = 9000
    goal: str = "-"


KINDS = {
    "memory": Kind("parked in the memory store", orders, parked, pause_window=0.0),
    "memory-window": Kind("parked in the memory store and in the pause window", orders, parked),
    "window": Kind("parked in the pause window, SQLite", orders, parked, durable=True, goal="1.5 kB"),
    "evicted": Kind("parked and evicted, SQLite", orders, parked, durable=True, pause_window=0.0),
    "finished": Kind("finished in the memory store, up to 9,000", three_steps, finished),
    "finished-many": Kind(
        "finished in the memory store, from 12,000 to 24,000", three_steps, finished, few=12_000, many=24_000
    ),
}
"""The first numbers are large enough that nothing is built for the first time any more."""


async def memories() -> list[Row]:
    """Bytes per run that is parked or has ended."""
    rows = []
    for key, kind in KINDS.items():
        traced, resident = (child(key, how) for how in ("traced", "resident"))
        system = f", {int(resident):,} bytes of the process's memory" if resident else ""
        notes = f"by tracemalloc{system}; between {kind.few:,} and {kind.many:,} runs"
        rows.append(Row(f"Memory per run {kind.name}", f"{int(traced):,} bytes", goal=kind.goal, notes=notes))
    return rows


def child(key: str, how: str) -> str:
    """Measure one kind in a process of its own; returns bytes, or nothing where they cannot be told."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory", key, how], cwd=HERE, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


async def kept(kind: Kind, held: Callable[[], int]) -> float:
    """Return the bytes that one run keeps."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/runs.db" if kind.durable else None
        async with WorkflowRuntime(kind.workflow(), store=store, pause_window=kind.pause_window) as rt:
            await kind.make(rt, 0, kind.few)
            gc.collect()
            before = held()
            await kind.make(rt, kind.few, kind.many - kind.few)
            gc.collect()
            return (held() - before) / (kind.many - kind.few)


def traced() -> int:
    """Return what Python's allocator holds."""
    return tracemalloc.get_traced_memory()[0]


def resident() -> int:
    """Return this process's memory in bytes."""
    [line] = [line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Print the bytes."""
    key, how = sys.argv[1:]
    if how == "resident" and not STATUS.exists():
        return
    if how == "traced":
        tracemalloc.start()
    print(round(asyncio.run(kept(KINDS[key], traced if how == "traced" else resident))))


if __name__ == "__main__":
    main()
