"""W8: 1,000 runs in flight, their process killed, and the time from opening the file again until all have completed.

`python -m bench.recovery fly FILE` starts the runs, says so when each has its first step behind it and is in the
second, and waits to be killed. `park FILE NUMBER` leaves parked runs in a file. `finish FILE` and `by-hand FILE` take
the runs to their end and print the seconds, importing not counted.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import floors, limits
from bench.bulk import ends, orders
from bench.measure import at_once, ratios
from bench.row import Row
from bench.workload import payload
from poundlock import Event, Workflow, WorkflowRuntime

HERE = Path(__file__).resolve().parent.parent
FLYING = 1000
PARKED = 100_000
ROUNDS = 5


async def recoveries() -> list[Row]:
    """In flight alone, and beside many parked runs; ours and the floor in turn."""
    return [recovery(0), recovery(PARKED)]


def recovery(beside: int) -> Row:
    """Kill and restart, several times."""
    ours, floor = [], []
    with tempfile.TemporaryDirectory() as name:
        parked = Path(name) / "parked.db"
        if beside:
            child("park", parked, beside)
        for number in range(ROUNDS + 1):
            folder = Path(name) / str(number)
            folder.mkdir()
            if beside:
                shutil.copyfile(parked, folder / "runs.db")
            killed(folder / "runs.db")
            by_hand(folder / "floor.db", beside)
            seconds = (float(child("by-hand", folder / "floor.db")), float(child("finish", folder / "runs.db")))
            if number:  # one for warming up
                floor.append(seconds[0])
                ours.append(seconds[1])
            shutil.rmtree(folder)
    shown = f", {beside:,} parked beside them" if beside else ""
    return Row(
        f"W8 {FLYING:,} runs in flight, killed{shown}",
        f"{statistics.median(ours):.2f} s",
        f"{statistics.median(floor):.2f} s",
        f"{statistics.median(ratios(floor, ours)):.3f}",
        goal=".33",
        notes="from opening the file until the last run has completed",
    )


def killed(file: Path) -> None:
    """Leave a file behind in which every run is in its second step."""
    with subprocess.Popen(command("fly", file), cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None or process.stdout.readline() != "in flight\n":
            raise AssertionError("the runs never came to their second step")
        process.kill()
    if process.returncode != -signal.SIGKILL:
        raise AssertionError(f"it was not killed: {process.returncode}")


def by_hand(file: Path, beside: int) -> None:
    """Leave a file behind that is the floor's: a row per run, and what is parked in a table of its own."""
    connection = limits.connect(file, floors.TABLE)
    connection.execute("CREATE TABLE parked (run TEXT PRIMARY KEY, state TEXT) WITHOUT ROWID")
    connection.execute("BEGIN IMMEDIATE")
    rows = ((f"run-{number}", 0, json.dumps(payload(number) | {"reserved": number})) for number in range(FLYING))
    connection.executemany(floors.INSERT, rows)
    waiting = ((f"parked-{number}", json.dumps({"id": number, "reserved": number})) for number in range(beside))
    connection.executemany("INSERT INTO parked VALUES (?, ?)", waiting)
    connection.execute("COMMIT")
    connection.close()


def command(*arguments: object) -> list[str]:
    """Return the command line of a child."""
    return [sys.executable, "-m", "bench.recovery", *map(str, arguments)]


def child(*arguments: object) -> str:
    """Run a child to its end; returns what it printed."""
    done = subprocess.run(command(*arguments), cwd=HERE, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


# ------------------------------------------------------------------------------------------------------ in the children
def three_steps(second: asyncio.Event, inside: asyncio.Event) -> Workflow:
    """Three steps; the second of them waits to be let through, and `inside` is set when all runs are in it."""
    wf = Workflow("three")
    waiting = 0

    @wf.step
    async def reserve(id: int) -> dict[str, Any]:
        return {"reserved": id}

    @wf.step
    async def price(amount: float) -> dict[str, Any]:
        nonlocal waiting
        waiting += 1
        if waiting == FLYING:
            inside.set()
        await second.wait()
        return {"total": amount * 2}

    @wf.step
    async def ship(id: int) -> dict[str, Any]:
        return {"shipped": f"parcel-{id}"}

    return wf


async def fly(file: Path) -> None:
    """Have all runs in their second step, say so and stay."""
    inside = asyncio.Event()
    runtime = WorkflowRuntime(three_steps(asyncio.Event(), inside), store=f"sqlite:///{file}")
    async with runtime as rt, asyncio.TaskGroup() as group:
        for number in range(FLYING):
            event = Event("flight", payload(number))
            group.create_task(rt.invoke("three", event=event, run_id=f"flight-{number}"))
        await inside.wait()
        print("in flight", flush=True)
        await asyncio.Event().wait()  # to be killed


async def park(file: Path, count: int) -> None:
    """Leave so many parked runs, made by the runtime itself."""
    async with WorkflowRuntime(orders(), store=f"sqlite:///{file}", timeline=False, pause_window=0) as rt:
        await at_once(1000, count, lambda number: rt.run("orders", {"id": number}))


async def finish(file: Path) -> float:
    """Open the file and wait for the end of every run in flight; returns seconds."""
    through = asyncio.Event()
    through.set()
    run_ids = [f"flight-{number}" for number in range(FLYING)]
    start = time.perf_counter()
    async with WorkflowRuntime(three_steps(through, asyncio.Event()), orders(), store=f"sqlite:///{file}") as rt:
        await ends(rt, run_ids)
        return time.perf_counter() - start


async def finish_by_hand(file: Path) -> float:
    """Open the file, read the rows and do what is left of each run, in groups; returns seconds."""
    start = time.perf_counter()
    connection = sqlite3.connect(file)
    found = connection.execute("SELECT run, step, state FROM log").fetchall()
    connection.close()
    writer = limits.Writer(file, floors.TABLE, floors.INSERT)

    async def rest(run: str, done: int, text: str) -> None:
        state = json.loads(text)
        for index, step in enumerate(limits.STEPS[done + 1 :], done + 1):
            state |= await step(state)
            await writer.put((run, index, json.dumps(state)))

    await asyncio.gather(*(rest(*row) for row in found))
    seconds = time.perf_counter() - start
    writer.close()
    if len(found) != FLYING:
        raise AssertionError(f"what was measured did not work: {len(found)} runs")
    return seconds


def main() -> None:
    """Do what the arguments say."""
    match sys.argv[1:]:
        case ["fly", file]:
            asyncio.run(fly(Path(file)))
        case ["park", file, count]:
            asyncio.run(park(Path(file), int(count)))
        case ["finish", file]:
            print(asyncio.run(finish(Path(file))))
        case ["by-hand", file]:
            print(asyncio.run(finish_by_hand(Path(file))))
        case other:
            raise SystemExit(f"{__doc__}\nnot: {other}")


if __name__ == "__main__":
    main()
