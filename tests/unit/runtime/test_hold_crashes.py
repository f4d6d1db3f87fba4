"""Holds across crashes: at whichever commit the process dies, each event is held or decided, and is decided once."""

from __future__ import annotations

import asyncio

import pytest
from support import happens, until_crash

from poundlock import Batch, Event, Exclusive, Throttle, Transient, Trigger, Workflow
from poundlock.testing import run_until_idle

IDS = ("a", "b", "c")
HOLDS = {
    "debounce": {"debounce": 2},
    "throttle": {"throttle": Throttle(1, 2)},
    "batch": {"batch": Batch(2, 2)},
    "delay": {"delay": 2},
}


def listener(seen, mode=None, **trigger):
    wf = Workflow("w", mode=mode or Transient(), triggers={"t": Trigger("e", **trigger)})

    @wf.step
    def note(state, ctx):
        seen.setdefault(ctx.run_id, state.get("events", [dict(state)]))

    return wf


async def emit(rt, place, gap=0.5):
    """Emit the events, each a moment after the other, and let all holds end; a copy of each may come after a crash."""
    for name in IDS:
        await rt.emit(Event("e", {"n": f"{place}{name}"}, id=f"{place}{name}"))
        await rt.clock.run_for(gap)
    await rt.clock.run_for(10)
    await run_until_idle(rt.clock)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("kind", HOLDS)
@pytest.mark.parametrize("mode", [None, Exclusive()], ids=["transient", "exclusive"])
async def test_a_crash_at_any_commit(stores, kind, where, mode):
    """The next runtime decides what was held; an emitter that tries again gets each event decided exactly once."""
    number = 0
    while True:
        number += 1
        seen = {}
        place = f"{number}-"
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(listener(seen, mode, **HOLDS[kind]), store=store)
        over = await until_crash(store, emit(rt, place))
        await stores.crash(rt)
        rt = await stores.enter(listener(seen, mode, **HOLDS[kind]))
        await emit(rt, place)  # duplicates, where they were taken
        runs = {info.run_id: info for info in (await rt.find_runs(limit=500)).items}
        stats = await rt.store.stats()
        assert (stats.get("held", 0), stats.get("holds", 0)) == (0, 0), number
        letters = [payload["n"] for letter in await rt.dead_letters(500) for payload in payloads_of(letter)]
        decided = {}
        for name in IDS:
            lines = await rt.store.receipt("", f"{place}{name}")
            decided[f"{place}{name}"] = lines
        started = [each["n"] for run_id in runs for each in await payloads(rt, run_id) if each["n"].startswith(place)]
        assert len(started) == len(set(started)), number
        mine = [name for name in letters if name.startswith(place)]
        assert not set(mine) & set(started), number
        if kind in ("batch", "delay"):
            assert sorted([*started, *mine]) == [f"{place}{name}" for name in IDS], number
        else:
            assert f"{place}c" in [*started, *mine], number
        assert all(run.status == "completed" for run in runs.values()), number
        await rt.stop()
        if over:
            assert number > 4
            return


async def payloads(rt, run_id):
    state = (await rt.wait(run_id)).state
    return state.get("events", [dict(state)])


def payloads_of(letter):
    return letter.event.payload.get("events", [letter.event.payload])


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_crash_at_any_commit_of_a_replay(stores, where):
    """A replay that a crash cuts off leaves a dead letter, one that is due, or a run: never two of them, never none."""
    number = 0
    while True:
        number += 1
        seen, gate = {}, asyncio.Event()

        def busy(gate=gate, seen=seen):
            wf = Workflow("w", mode=Exclusive())
            wf.on("go")
            wf.on("e", delay=2, id="t")

            @wf.step
            async def note(state):
                seen[state.get("n", "go")] = seen.get(state.get("n", "go"), 0) + 1
                await gate.wait()

            return wf

        rt = await stores.enter(busy())
        await rt.emit("go")
        receipt = await rt.emit("e", n=f"{number}")
        await rt.clock.run_for(3)
        [letter] = await rt.dead_letters()
        gate.set()
        await run_until_idle(rt.clock)
        await rt.stop()

        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(busy(), store=store)

        async def replay(rt=rt, letter=letter):
            await rt.replay(letter.id)
            await run_until_idle(rt.clock)

        working = asyncio.create_task(replay())
        await happens(asyncio.wait([working]), stores.clock)
        over = not store.dead
        working.cancel()
        await asyncio.wait([working])
        await stores.crash(rt)
        rt = await stores.enter(busy())
        await run_until_idle(rt.clock)
        for again in await rt.dead_letters():
            await rt.replay(again.id)
        await run_until_idle(rt.clock)
        [line] = await rt.store.receipt("", receipt.event.id)
        assert str(line.verdict) == "started", number
        assert (await rt.wait(line.run_id)).state == {"n": f"{number}"}
        runs = [info for info in (await rt.find_runs(limit=500)).items if info.run_id == line.run_id]
        assert (len(runs), rt.store.undelivered) == (1, (0, 0)), number
        await rt.stop()
        if over:
            assert number > 1
            return
