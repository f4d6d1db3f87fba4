"""What is measured by the clock, row by row."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Coroutine

from bench.bulk import bursts, loops, restarts
from bench.measure import Figure, in_turn, ratios, timed
from bench.memory import memories
from bench.peers import peers
from bench.recovery import recoveries
from bench.row import Row
from bench.starting import starts
from bench.subjects import SUBJECTS, Doors, Subject, figures, listener
from poundlock import WorkflowRuntime
from poundlock.runtime.dispatch import DispatchIndex

ROUNDS = 5

GOALS = {
    "w1-1": ".068",
    "w1-100": ".080",
    "w1-timeline": ".040",
    "w2-1": ".80",
    "w2-100": ".44",
    "w3-1": ".65",
    "w3-100": ".41",
}
"""What the ratio to the floor should be."""


async def w1() -> list[Row]:
    """In memory, three steps."""
    return [await measured(name) for name in ("w1-1", "w1-timeline", "w1-100", "w1-100-timeline")]


async def w2() -> list[Row]:
    """Durable, three steps, a commit per stage."""
    return [await measured(name) for name in ("w2-1", "w2-100")]


async def w3() -> list[Row]:
    """Park durably, then resume with a patch, or by an event."""
    return [await measured(name) for name in ("w3-1", "w3-100", "w3-event-100")]


async def w4() -> list[Row]:
    """From an event to its routes, and to a started run, among 1 and 10,000 workflows."""
    return [await matching(1), await measured("w4"), await matching(10_000), await measured("w4-10000")]


async def measured(name: str) -> Row:
    """Measure one subject beside its floor and its limit."""
    subject = SUBJECTS[name]
    return row(subject, await figures(subject, "ours", "floor", "limit"), GOALS.get(name, "-"))


def row(subject: Subject, found: dict[str, Figure], goal: str) -> Row:
    """Return the line of one subject."""
    ours, floor, limit = found["ours"], found.get("floor"), found.get("limit")
    notes = f"{ours.micros:.1f} us each, {ours.cpu_micros:.1f} us of processor time"
    syncs = statistics.median(ours.syncs)
    if syncs:
        notes += f", {syncs:.2f} syncs each"
    return Row(
        subject.name,
        rate(ours, subject.unit),
        rate(floor, subject.unit) if floor else "-",
        of(floor.wall, ours.wall) if floor else "-",
        of(floor.cpu, ours.cpu) if floor else "-",
        goal,
        rate(limit, subject.unit) if limit else "-",
        of(limit.wall, ours.wall) if limit else "-",
        notes,
    )


def of(by_hand: list[float], ours: list[float]) -> str:
    """Return how close to what is done by hand, for people."""
    return f"{statistics.median(ratios(by_hand, ours)):.3f}"


def rate(figure: Figure, unit: str) -> str:
    """Return operations per second for people."""
    return f"{figure.per_second:,.0f} {unit}/s"


async def matching(count: int) -> Row:
    """Only the look-up of an event's routes, beside that of a key in a dict."""
    table = {f"type.{number}": number for number in range(count)}
    name = f"type.{count // 2}"
    async with WorkflowRuntime() as rt:
        doors = Doors()
        for number in range(count):
            await rt.register(listener(f"wf-{number}", f"type.{number}", doors))
        index: DispatchIndex = rt._core.index

        async def look_up(times: int) -> None:
            for _ in range(times):
                table[name]

        async def match(times: int) -> None:
            for _ in range(times):
                index.match(name)

        found = await in_turn(ROUNDS, {"floor": (timed(look_up), 100_000), "ours": (timed(match), 100_000)})
    floor, ours = found["floor"], found["ours"]
    shown = f"{count:,} workflow{'s' if count > 1 else ''}"
    columns = (rate(ours, "events"), rate(floor, "look-ups"), of(floor.wall, ours.wall), of(floor.cpu, ours.cpu))
    return Row(f"W4 matching only, {shown}", *columns)


TABLES: dict[str, Callable[[], Coroutine[None, None, list[Row]]]] = {
    "w1": w1,
    "w2": w2,
    "w3": w3,
    "w4": w4,
    "w5": bursts,
    "w6": restarts,
    "w7": loops,
    "w8": recoveries,
    "start": starts,
    "memory": memories,
    "peers": peers,
}
