"""What is measured, by name: ours beside its floor. One list for times, instructions and two trees side by side.

Only public names of poundlock are used here, so that an older checkout can be measured too.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from bench import floors, limits
from bench.measure import Figure, Spent, Timed, Work, at_once, in_turn, timed
from bench.workload import PAYLOAD, pausing, payload, three_steps
from poundlock import Event, Transient, Trigger, Workflow, WorkflowRuntime

BATCH = 100
"""Events are emitted in batches small enough that none has to queue for a slot."""

Opened = AbstractAsyncContextManager[Timed]
Opener = Callable[[Path], Opened]


class Subject(NamedTuple):
    """One workload: how to open it in an empty folder, and how much of it is measured."""

    name: str
    unit: str
    ours: Opener
    operations: int
    """Per round: few, so that a slow moment of the machine or of its disk spoils one round and not the median."""
    rounds: int
    floor: Opener | None = None
    limit: Opener | None = None
    floor_times: int = 1
    """How many times more operations the floor does per round, so that its rounds take about as long as ours."""

    @property
    def openers(self) -> dict[str, Opener]:
        """What there is to measure, by the part it plays."""
        found = {"ours": self.ours, "floor": self.floor, "limit": self.limit}
        return {who: opener for who, opener in found.items() if opener is not None}


@asynccontextmanager
async def in_memory(_folder: Path) -> AsyncIterator[Timed]:
    """The floor of W1."""
    yield timed(limits.in_memory)


def by_hand(kind: Callable[[Path, int], floors.Durable | floors.Pauses | limits.Durable], count: int) -> Opener:
    """Return how to open a floor or a limit that works on a file."""

    @asynccontextmanager
    async def opened(folder: Path) -> AsyncIterator[Timed]:
        subject = kind(folder / f"{kind.__module__}.db", count)
        try:
            yield timed(subject.work)
        finally:
            subject.close()

    return opened


def runtime(workflow: Callable[[], Workflow], work: Callable[[WorkflowRuntime], Work], *, timeline: bool) -> Opener:
    """Return how to open a runtime in memory."""

    @asynccontextmanager
    async def opened(_folder: Path) -> AsyncIterator[Timed]:
        async with WorkflowRuntime(workflow(), timeline=timeline) as rt:
            yield timed(work(rt))

    return opened


def durable(workflow: Callable[[], Workflow], work: Callable[[WorkflowRuntime], Work]) -> Opener:
    """Return how to open a runtime on a file."""

    @asynccontextmanager
    async def opened(folder: Path) -> AsyncIterator[Timed]:
        async with WorkflowRuntime(workflow(), store=f"sqlite:///{folder / 'runs.db'}") as rt:
            alone = timed(work(rt))

            async def with_syncs(total: int) -> Spent:
                before = (await rt.store.stats())["syncs"]
                spent = await alone(total)
                return spent._replace(syncs=(await rt.store.stats())["syncs"] - before)

            yield with_syncs

    return opened


async def figures(subject: Subject, *parts: str) -> dict[str, Figure]:
    """Measure these parts of a subject in turn, each in the same empty folder."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        works = {}
        for who, opener in subject.openers.items():
            if who in parts:
                operations = subject.operations * (subject.floor_times if who == "floor" else 1)
                works[who] = (await stack.enter_async_context(opener(folder)), operations)
        return await in_turn(subject.rounds, works)


# ------------------------------------------------------------------------------------------------------- what is done
def runs(count: int) -> Callable[[WorkflowRuntime], Work]:
    """Runs of three steps."""
    return lambda rt: lambda total: at_once(count, total, lambda number: rt.run("three", payload(number)))


def answered(count: int) -> Callable[[WorkflowRuntime], Work]:
    """Round trips: a run parks and is resumed with a patch."""

    def work(rt: WorkflowRuntime) -> Work:
        async def round_trip(number: int) -> None:
            parked = await rt.run("pausing", payload(number))
            await rt.resume(parked.run_id, {"by": "bench"})

        return lambda total: at_once(count, total, round_trip)

    return work


def approved(count: int) -> Callable[[WorkflowRuntime], Work]:
    """Round trips: a run parks, and an event that correlates with it resumes it."""

    def work(rt: WorkflowRuntime) -> Work:
        async def round_trip(number: int) -> None:
            parked = await rt.run("pausing", payload(number))
            await rt.emit("approved", id=number, by="bench")
            await rt.wait(parked.run_id)

        return lambda total: at_once(count, total, round_trip)

    return work


async def emitted(rt: WorkflowRuntime, total: int) -> None:
    """Events one after another, each until the run that it starts has ended."""
    for number in range(total):
        receipt = await rt.emit(Event("placed", payload(number)))
        await receipt.results()


def one_step() -> Workflow:
    """One trivial step, started by an event."""
    wf = Workflow("one", triggers={"placed": Trigger("placed")})

    @wf.step
    async def reserve(id: int) -> dict[str, int]:
        return {"reserved": id}

    return wf


# ------------------------------------------------------------------------------------------- from event to started run
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


def started(workflows: int) -> Opener:
    """Return how to open a runtime with so many workflows, one of which wants the event."""

    @asynccontextmanager
    async def opened(_folder: Path) -> AsyncIterator[Timed]:
        async with WorkflowRuntime() as rt:
            doors = Doors()
            for number in range(workflows):
                await rt.register(listener(f"wf-{number}", f"type.{number}", doors))
            name = f"type.{workflows // 2}"

            async def batch() -> Spent:
                doors.close()
                receipts = []

                async def emit(count: int) -> None:
                    receipts.extend([await rt.emit(Event(name, dict(PAYLOAD))) for _ in range(count)])
                    await doors.all_inside(count)

                # The way from the step to the end of the run does not count.
                spent = await timed(emit)(BATCH)
                doors.open()
                for receipt in receipts:
                    await receipt.results()
                return spent

            async def work(total: int) -> Spent:
                spent = [await batch() for _ in range(total // BATCH)]
                return Spent(sum(one.wall for one in spent), sum(one.cpu for one in spent))

            yield work

    return opened


def listener(id: str, event: str, doors: Doors) -> Workflow:
    """A workflow whose step waits at the doors."""
    wf = Workflow(id, triggers={event: Trigger(event)}, mode=Transient(concurrency=BATCH))

    @wf.step
    async def take(id: int) -> dict[str, int]:
        await doors.pass_through()
        return {"seen": id}

    return wf


def _in_memory(how: str, count: int, *, timeline: bool) -> Subject:
    ours = runtime(three_steps, runs(count), timeline=timeline)
    return Subject(f"W1 in memory, {how}", "runs", ours, 500, 21, in_memory, floor_times=30)


def _stages(how: str, count: int, operations: int, rounds: int) -> Subject:
    ours, floor, limit = (
        durable(three_steps, runs(count)),
        by_hand(floors.Durable, count),
        by_hand(limits.Durable, count),
    )
    return Subject(f"W2 SQLite FULL, {how}", "runs", ours, operations, rounds, floor, limit)


def _pauses(
    how: str, count: int, operations: int, rounds: int, done: Callable[[int], Callable[[WorkflowRuntime], Work]]
) -> Subject:
    ours, floor, limit = durable(pausing, done(count)), by_hand(floors.Pauses, count), by_hand(limits.Pauses, count)
    return Subject(f"W3 park and resume, {how}", "round trips", ours, operations, rounds, floor, limit)


SUBJECTS: dict[str, Subject] = {
    "w1-1": _in_memory("1 at once", 1, timeline=False),
    "w1-100": _in_memory("100 at once", 100, timeline=False),
    "w1-timeline": _in_memory("1 at once, timeline on", 1, timeline=True),
    "w1-100-timeline": _in_memory("100 at once, timeline on", 100, timeline=True),
    "w2-1": _stages("1 at once", 1, 60, 25),
    "w2-100": _stages("100 at once", 100, 1000, 11),
    "w3-1": _pauses("1 at once", 1, 60, 25, answered),
    "w3-100": _pauses("100 at once", 100, 1000, 11, answered),
    "w3-event-100": _pauses("100 at once, by an event", 100, 1000, 11, approved),
    "w4": Subject("W4 event to started run, 1 workflow", "events", started(1), 400, 9),
    "w4-10000": Subject("W4 event to started run, 10,000 workflows", "events", started(10_000), 400, 9),
    "w4-ended": Subject(
        "W4 emit and a run of one step, to its end",
        "events",
        runtime(one_step, lambda rt: lambda total: emitted(rt, total), timeline=False),
        500,
        21,
    ),
}
