"""Work in bulk: what many runs do at the same moment, and whether twice as many take twice as long."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.row import Row
from poundlock import (
    Condition,
    Delay,
    Jump,
    StateRef,
    Terminate,
    Transient,
    Trigger,
    Workflow,
    WorkflowRuntime,
)
from poundlock.clock import SystemClock
from poundlock.stores import MemoryStore
from poundlock.stores.sqlite import SqliteStore
from poundlock.testing import VirtualClock

SIZES = (1000, 2000, 4000)
KINDS = ("memory", "SQLite FULL")
HOUR = 3600.0

Burst = Callable[[WorkflowRuntime, list[str]], Awaitable[object]]


class Later(SystemClock):
    """The machine's clock, two hours ahead: what waits for an hour has run out."""

    @staticmethod
    def now() -> float:  # type: ignore[override]  # a plain function there, to save a call
        return time.time() + 2 * HOUR

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        return super().call_at(when - 2 * HOUR, callback)


async def bursts() -> list[Row]:
    """Many runs are approved at the same moment, by events and by hand."""
    names = {
        "W5 approvals at once": _approve,
        "W5 answers by hand at once": _answer,
        "W5 approvals among as many new events": _approve_and_order,
    }
    return [
        await _burst(name, kind, count, burst) for kind in KINDS for name, burst in names.items() for count in SIZES
    ]


async def restarts() -> list[Row]:
    """Many waits ran out while no process was there."""
    return [await _restart(kind, count) for kind in KINDS for count in SIZES]


async def loops() -> list[Row]:
    """One run that waits for a time in each round: what the last rounds cost, after few and after many."""
    return [await _loop(kind, rounds) for kind in KINDS for rounds in (300, 1200, 4800)]


def orders() -> Workflow:
    """One step, a wait for an hour at most, one step."""
    wf = Workflow("orders", mode=Transient(1000, capacity=None), triggers={"placed": Trigger("placed")})

    @wf.step
    async def reserve(id: int) -> dict[str, Any]:
        return {"reserved": id}

    wf.wait(
        "approved",
        on="approved",
        correlate={"id": StateRef("id")},
        where=[Condition("by", "exists")],
        timeout=HOUR,
        on_timeout="resume",
    )

    @wf.step
    async def ship(id: int) -> dict[str, Any]:
        return {"shipped": f"parcel-{id}"}

    return wf


async def _burst(name: str, kind: str, count: int, burst: Burst) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        async with WorkflowRuntime(orders(), store=store_of(kind, folder)) as rt:
            run_ids = await parked(rt, 0, count)
            before = (await rt.store.stats())["syncs"]
            start, cpu = time.perf_counter(), time.process_time()
            await burst(rt, run_ids)
            return await _row(name, kind, count, rt, before, time.perf_counter() - start, time.process_time() - cpu)


async def _restart(kind: str, count: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        store = store_of(kind, folder)
        async with WorkflowRuntime(orders(), store=store) as rt:
            run_ids = await parked(rt, 0, count)
        start, cpu = time.perf_counter(), time.process_time()
        async with WorkflowRuntime(orders(), store=store, clock=Later()) as rt:
            await ends(rt, run_ids)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            return await _row("W6 due at a restart", kind, count, rt, 0, wall, cpu)


async def round_cost(kind: str, rounds: int, last: int) -> float:
    """Return the seconds of processor time of a round of a loop of delays: the last ones of so many."""
    marks: dict[int, float] = {}
    wf = Workflow("watch")

    @wf.step
    def look(n: int) -> dict[str, int]:
        if n in (rounds - last, rounds):
            marks[n] = time.process_time()
        return {"n": n + 1}

    @wf.route(after="look")
    def later(state: Any) -> Any:
        return Delay(60) if state["n"] <= rounds else Terminate()

    @wf.step
    def again() -> None:
        """Nothing to do: a delay goes on at the next stage."""

    @wf.route(after="again")
    def back() -> Any:
        return Jump("look")

    with tempfile.TemporaryDirectory() as folder:
        async with VirtualClock() as clock, WorkflowRuntime(wf, store=store_of(kind, folder), clock=clock) as rt:
            result = await rt.run("watch", {"n": 0})
            while not result.status.terminal:
                result = await rt.wait(result.run_id)
    return (marks[rounds] - marks[rounds - last]) / last


async def _loop(kind: str, rounds: int) -> Row:
    cpu = await round_cost(kind, rounds, last=100) * 1e6
    name = f"W7 loop of delays, {kind}, round {rounds:,}"
    return Row(
        name, f"{cpu:.0f} us/round", notes="processor time, the last hundred rounds; should be the same in every round"
    )


async def _row(name: str, kind: str, count: int, rt: WorkflowRuntime, before: int, wall: float, cpu: float) -> Row:
    syncs = (await rt.store.stats())["syncs"] - before
    notes = f"{wall / count * 1e6:.0f} us each, {cpu / count * 1e6:.0f} us of processor time"
    if kind != "memory":
        notes += f", {syncs} syncs in all"
    return Row(f"{name}, {kind}, {count:,}", f"{wall:.2f} s", notes=notes)


def store_of(kind: str, folder: str) -> MemoryStore | SqliteStore:
    """Return a new store of one of the `KINDS`."""
    return MemoryStore() if kind == "memory" else SqliteStore(Path(folder) / "runs.db")


async def parked(rt: WorkflowRuntime, first: int, count: int) -> list[str]:
    """Park so many runs of `orders` with ids from `first` on, all at the same moment; returns the runs' ids."""
    receipts = await asyncio.gather(*(rt.emit("placed", id=first + number) for number in range(count)))
    return [result.run_id for receipt in receipts for result in await receipt.results()]


async def ends(rt: WorkflowRuntime, run_ids: list[str]) -> None:
    """Wait for the runs; each of them must have completed."""
    statuses = {str(result.status) for result in await asyncio.gather(*map(rt.wait, run_ids))}
    if statuses != {"completed"}:
        raise AssertionError(f"what was measured did not work: {statuses}")


async def _approve(rt: WorkflowRuntime, run_ids: list[str]) -> None:
    await asyncio.gather(*(rt.emit("approved", id=number, by="bench") for number in range(len(run_ids))))
    await ends(rt, run_ids)


async def _approve_and_order(rt: WorkflowRuntime, run_ids: list[str]) -> None:
    count = len(run_ids)
    emits = []
    for number in range(count):
        emits += [rt.emit("approved", id=number, by="bench"), rt.emit("placed", id=count + number)]
    await asyncio.gather(*emits)
    await ends(rt, run_ids)


async def _answer(rt: WorkflowRuntime, run_ids: list[str]) -> None:
    await asyncio.gather(*(rt.resume(run_id, {"by": "bench"}) for run_id in run_ids))
