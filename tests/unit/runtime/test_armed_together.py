"""A wait with several conditions on the state is judged by one state, also while a stage changes all of them."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from support_stepping import SteppedStore, begin

from poundlock import Condition, Event, Pause, Pipeline, RunStatus, Stage, StateRef, Step, Trigger, Wait, Workflow


def changing(go_on):
    async def change():
        await go_on.wait()
        return {"x": 2, "y": 2}

    async def used(ctx):
        return {"used": ctx.resume.event.payload}

    where = [Condition("x", "==", StateRef("x")), Condition("y", "==", StateRef("y"))]
    stages = [
        Stage("before", [Step("change", change)]),
        Stage("gate", router=Pause(Wait("go", id="gate", where=where))),
        Stage("used", [Step("used", used)]),
    ]
    return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)])


async def one_event(stores, x, y, stop, first):
    """Emit an event while the stage is committed, one of them stopped at an access; returns whether it came to that."""
    clock = stores.clock
    clock.autojump = False
    go_on = asyncio.Event()
    store = SteppedStore(stores.store().inner, clock, None)
    rt = await stores.enter(changing(go_on), store=store)
    [run_id] = (await begin("run", rt.emit("begin", x=1, y=1))).run_ids
    await clock.run_until_idle()
    store.stop = (first, *stop)
    emit = Event("go", {"x": x, "y": y}, id=f"{run_id}-e")
    emitting = begin("event", rt.emit(emit)) if first == "event" else None
    if first == "event":
        await clock.run_until_idle()
    go_on.set()
    await clock.run_until_idle()
    emitting = emitting or begin("event", rt.emit(emit))
    await clock.run_until_idle()
    access = store.stopped_at
    store.let_on()
    await clock.run_until_idle()
    said = f"({x}, {y}), {first} stopped {stop[1]} access {stop[0]}, {access}"
    [line] = (await emitting).lines
    info = await rt.get_run(run_id)
    kept = [message.event.event.payload for message in await store.inbox(run_id, 0)]
    if x != y:
        assert (str(line.verdict), info.status, kept) == ("filtered", RunStatus.PAUSED, []), said
    elif x == 1:  # judged by the state before, it is kept, and answers no question about the state behind
        assert info.status is RunStatus.PAUSED, said
        assert kept == ([emit.payload] if str(line.verdict) == "buffered" else []), said
    else:
        taken = str(line.verdict) in ("buffered", "resumed")
        assert (info.status is RunStatus.COMPLETED) == taken, (said, line)
    await rt.abort(run_id) if info.status is RunStatus.PAUSED else None
    await rt.stop(drain=0)
    return access


@pytest.mark.parametrize("first", ["event", "run"])
@pytest.mark.parametrize(("x", "y"), [*itertools.product([1, 2], repeat=2)])
async def test_several_values_change_together(stores, x, y, first):
    """An event that fits one value as it was and another as it is fits no state there ever was: it is filtered."""
    for number in itertools.count(1):
        access = await one_event(stores, x, y, (number, "after"), first)
        if access is None:
            break
        if access in SteppedStore.WRITES:
            await one_event(stores, x, y, (number, "before"), first)
