"""A crash before and after every single commit: each event that steps emitted starts its run exactly once."""

from __future__ import annotations

import asyncio

import pytest
from support import Stores

from poundlock import Event, Retry, StateRef, Trigger, Workflow
from poundlock.model.outbox import OutboxQuery
from poundlock.model.runs import RunQuery
from poundlock.testing import RecordingBus, run_until_idle


def workflows(ran, durability):
    """An order that emits in each of its stages, from elements, after a pause and from an undo, and who listens."""
    order = Workflow("order", triggers={"placed": Trigger("order.placed")}, durability=durability)

    async def release(ctx):
        ctx.emit("told.released", order=ctx.event.payload["order"])

    @order.step(undo=release, retry=Retry(attempts=2, backoff=0))
    async def reserve(ctx, order):
        ctx.emit("told.reserved", order=order)
        if ctx.attempt == 1:
            raise ConnectionError
        ctx.emit("approve", order=order)

    order.wait("approval", on="approve", correlate={"order": StateRef("order")})

    @order.step(each="lines")
    async def pack(ctx, item, order):
        ctx.emit("told.packed", order=order, line=item)

    @order.step
    async def ship(ctx, order):
        ctx.emit("told.shipped", order=order)
        if order == "B":
            raise ValueError("no")

    told = Workflow("told", triggers={"told": Trigger("told.*")})

    @told.step
    async def note(event: Event):
        ran.append(event.id)

    return [order, told]


EXPECTED = {
    "A": ["told.packed", "told.packed", "told.reserved", "told.shipped"],
    "B": ["told.packed", "told.packed", "told.released", "told.reserved"],
}


async def work(rt):
    """Place two orders, as a client that repeats what it got no answer for, and wait for their ends."""
    for name in EXPECTED:
        await rt.emit(Event("order.placed", {"order": name, "lines": [1, 2]}, id=name, source="/shop"))
    await run_until_idle(rt.clock)


async def outcome(rt):
    """Return the types of the events that started runs, by order; and what is still in the outbox."""
    found = {}
    ids = []
    records = (await rt.store.find(RunQuery(workflow="told", limit=100))).items
    for record in records:
        checkpoint = await rt.store.checkpoint(record.identity.run_id)
        assert record.head.status == "completed"
        ids.append(checkpoint.event.id)
        found.setdefault(checkpoint.event.payload["order"], []).append(checkpoint.event.type)
    assert len(set(ids)) == len(ids)
    orders = (await rt.store.find(RunQuery(workflow="order", limit=100))).items
    assert sorted(str(record.head.status) for record in orders) == ["completed", "failed"]
    left = [await rt.store.outbox(OutboxQuery(dead=dead)) for dead in (False, True)]
    return {name: sorted(types) for name, types in found.items()}, left


async def run_through(place, durability, bus, crash=None):
    """Run the workload, crashing at most once; returns what it came to and the number of commits."""
    store = place.store()
    store.crash = crash
    made = workflows([], durability)
    options = {"bus": RecordingBus()} if bus else {}
    entering = asyncio.create_task(place.enter(*made, store=store, **options))
    crashed = asyncio.create_task(store.crashed.wait())
    await asyncio.wait([entering, crashed], return_when=asyncio.FIRST_COMPLETED)
    rt = await entering
    working = asyncio.create_task(work(rt))
    await asyncio.wait([working, crashed], return_when=asyncio.FIRST_COMPLETED)
    if store.dead:
        working.cancel()
        await asyncio.wait([working])
        await place.crash(rt)
        rt = await place.enter(*made, **({"bus": RecordingBus()} if bus else {}))
        await work(rt)
    else:
        crashed.cancel()
        await working
    found = await outcome(rt)
    await rt.stop()
    return found, store.commits


@pytest.mark.parametrize(
    ("durability", "bus"),
    [("stage", False), ("stage", True), ("step", False), ("async", False), ("exit", False)],
    ids=["stage", "observed", "step", "async", "exit"],
)
@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_crash_at_every_commit_loses_and_doubles_nothing(store_kind, tmp_path, vclock, where, durability, bus):
    """Whichever commit the process dies at, every event starts one run, and nothing stays in the outbox."""

    async def once(name, crash):
        (tmp_path / name).mkdir()
        place = Stores(store_kind, tmp_path / name, vclock)
        try:
            return await run_through(place, durability, bus, crash)
        finally:
            await place.close()

    expected, commits = await once("undisturbed", None)
    assert expected == (EXPECTED, [[], []])
    assert commits > 20
    for number in range(1, commits + 1):
        found, _ = await once(str(number), (number, where))
        assert found == expected, f"commit {number}"
