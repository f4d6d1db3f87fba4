"""What is measured, row by row."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import limits
from bench.bulk import bursts, loops, restarts
from bench.measure import Figure, at_once, in_turn, once
from bench.row import Row
from bench.workload import PAYLOAD, pausing, payload, three_steps
from poundlock import Event, Receipt, Transient, Trigger, Workflow, WorkflowRuntime
from poundlock.runtime.dispatch import DispatchIndex

ROUNDS = 5
BATCHES, BATCH = 4, 100
"""Events are emitted in batches small enough that none has to queue for a slot."""


async def w1() -> list[Row]:
    """In memory, three steps."""
    rows = []
    runs = 2000
    targets = {(False, 1): "25 us (must 40)", (True, 1): "60 us", (False, 100): "30 us (must 45)", (True, 100): "70 us"}
    for (timeline, count), target in targets.items():
        async with WorkflowRuntime(three_steps(), timeline=timeline) as rt:
            figures = await in_turn(
                ROUNDS,
                runs,
                limit=lambda: limits.in_memory(runs),
                ours=lambda: at_once(count, runs, lambda number: rt.run("three", payload(number))),
            )
        name = f"W1 in memory, {count} at once, timeline {'on' if timeline else 'off'}"
        rows.append(_micros(name, figures, target))
    return rows


async def w2() -> list[Row]:
    """Durable, three steps, a commit per stage."""
    rows = []
    for count, runs, target in ((1, 300, "1,180/s (must 800)"), (100, 4000, "12,500/s (must 8,500)")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            async with WorkflowRuntime(three_steps(), store=f"sqlite:///{path / 'runs.db'}") as rt:
                before = (await rt.store.stats())["syncs"]
                figures = await in_turn(
                    ROUNDS,
                    runs,
                    limit=lambda: limits.durable(path / "limit.db", runs, count),
                    ours=lambda: at_once(count, runs, lambda number: rt.run("three", payload(number))),
                )
                syncs = ((await rt.store.stats())["syncs"] - before) / runs / (ROUNDS + 1)
        rows.append(_rate(f"W2 SQLite FULL, {count} at once", "runs/s", figures, target, f"{syncs:.2f} syncs per run"))
    return rows


async def w3() -> list[Row]:
    """Park durably, then resume with a patch."""
    rows = []
    for count, rounds, target in ((1, 300, "1,000/s (must 650)"), (100, 3000, "7,500/s (must 4,500)")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            async with WorkflowRuntime(pausing(), store=f"sqlite:///{path / 'runs.db'}") as rt:

                async def round_trip(number: int) -> None:
                    parked = await rt.run("pausing", payload(number))
                    await rt.resume(parked.run_id, {"by": "bench"})

                before = (await rt.store.stats())["syncs"]
                figures = await in_turn(
                    ROUNDS,
                    rounds,
                    limit=lambda: limits.durable_pauses(path / "limit.db", rounds, count),
                    ours=lambda: at_once(count, rounds, round_trip),
                )
                syncs = ((await rt.store.stats())["syncs"] - before) / rounds / (ROUNDS + 1)
        notes = f"{syncs:.2f} syncs per round trip, the end of the run included"
        rows.append(_rate(f"W3 park and resume, {count} at once", "round trips/s", figures, target, notes))
    return rows


async def w4() -> list[Row]:
    """From an event to its routes, and to a started run, among 1 and 10,000 workflows."""
    rows = []
    for count in (1, 10_000):
        table = {f"type.{number}": number for number in range(count)}
        async with WorkflowRuntime() as rt:
            doors = Doors()
            for number in range(count):
                await rt.register(_listener(f"wf-{number}", f"type.{number}", doors))
            index: DispatchIndex = rt._core.index
            name = f"type.{count // 2}"

            async def look_up() -> None:
                for _ in range(100_000):
                    table[name]

            async def match() -> None:
                for _ in range(100_000):
                    index.match(name)

            figures = await in_turn(ROUNDS, 100_000, limit=look_up, ours=match)
            rows.append(
                _rate(f"W4 matching only, {count:,} workflows", "events/s", figures, "0.75 M/s (must 0.5 M/s)", "")
            )
            ours = Figure("ours")
            for number in range(ROUNDS * BATCHES + 1):
                doors.close()
                receipts: list[Receipt] = []

                async def emit(receipts: list[Receipt] = receipts) -> None:
                    receipts.extend([await rt.emit(Event(name, dict(PAYLOAD))) for _ in range(BATCH)])
                    await doors.all_inside(BATCH)

                # The first batch does not count, nor does the way from the step to the end of the run.
                await once(ours if number else Figure("warm-up"), emit, BATCH)
                doors.open()
                for receipt in receipts:
                    await receipt.results()
            rows.append(
                Row(
                    f"W4 event to started run, {count:,} workflows",
                    "-",
                    f"{ours.per_second:,.0f} events/s",
                    "-",
                    "40,000/s",
                    f"{ours.cpu_micros:.0f} us of processor time each, from `emit` until the step has begun",
                )
            )
    return rows


class Doors:
    """Where steps wait, so that their runs have begun and do not end yet."""

    def __init__(self) -> None:
        self._waiting = 0
        self._door = asyncio.Event()
        self._full = asyncio.Event()
        self._places = 0

    def close(self) -> None:
        """Hold those who come from now on."""
        self._waiting = 0
        self._door.clear()
        self._full.clear()

    def open(self) -> None:
        """Let everybody through."""
        self._door.set()

    async def all_inside(self, count: int) -> None:
        """Wait until so many wait at the door."""
        self._places = count
        if self._waiting < count:
            await self._full.wait()

    async def pass_through(self) -> None:
        """Wait for the door to open."""
        self._waiting += 1
        if self._waiting == self._places:
            self._full.set()
        await self._door.wait()


def _listener(id: str, event: str, doors: Doors) -> Workflow:
    wf = Workflow(id, triggers={event: Trigger(event)}, mode=Transient(concurrency=BATCH))

    @wf.step
    async def take(id: int) -> dict[str, int]:
        await doors.pass_through()
        return {"seen": id}

    return wf


def _micros(name: str, figures: dict[str, Figure], target: str) -> Row:
    limit, ours = figures["limit"], figures["ours"]
    return Row(
        name,
        f"{limit.micros:.1f} us/run",
        f"{ours.micros:.1f} us/run",
        f"{ours.micros / limit.micros:.0f} x",
        target,
        f"{ours.cpu_micros:.1f} us of processor time",
    )


def _rate(name: str, unit: str, figures: dict[str, Figure], target: str, notes: str) -> Row:
    limit, ours = figures["limit"], figures["ours"]
    processor = f"{ours.cpu_micros:.1f} us of processor time each"
    return Row(
        name,
        f"{limit.per_second:,.0f} {unit}",
        f"{ours.per_second:,.0f} {unit}",
        f"{ours.per_second / limit.per_second:.0%}",
        target,
        f"{notes}, {processor}" if notes else processor,
    )


TABLES: dict[str, Callable[[], Awaitable[list[Row]]]] = {
    "w1": w1,
    "w2": w2,
    "w3": w3,
    "w4": w4,
    "w5": bursts,
    "w6": restarts,
    "w7": loops,
}
