"""Changes of one load that are on their way together: what is refused leaves nothing behind in those after it."""

from __future__ import annotations

import asyncio

from poundlock import Jump, StateRef, Terminate, Transient, Trigger, Workflow


def named(gates):
    """Runs that pause for their answer if they are told to, without their slot, and end when their gate opens."""
    wf = Workflow("w", mode=Transient(2, capacity=0), triggers={"begin": Trigger("begin"), "pause": Trigger("pause")})

    @wf.step(stage="first")
    async def first(name, pause=False):
        if not pause:
            await gates[name].wait()
        return {}

    @wf.route(after="first")
    def on(state):
        return Jump("answer") if state.get("pause") else Terminate()

    wf.wait("answer", on="answer", correlate={"name": StateRef("name")})

    @wf.step(stage="last")
    async def last(name):
        await gates[name].wait()
        return {}

    return wf


async def test_a_decision_after_a_refused_one_and_a_release(stores):
    """A release behind a refused decision does not let the next decision through, which was made on the refused one."""
    gates = {name: asyncio.Event() for name in "apbqc"}
    rt = await stores.enter(named(gates))
    await rt.emit("pause", name="p", pause=True)
    await stores.clock.run_until_idle()
    for name in "ab":
        await rt.emit("begin", name=name)
    await stores.clock.run_until_idle()
    assert await load_of(rt) == 2

    rt.store.hold = lambda _: True
    calls = [asyncio.create_task(rt.emit("answer", name="p"))]  # p takes its slot again: they are three
    await rt.store.until_held(1)
    calls.append(asyncio.create_task(rt.emit("begin", name="q")))  # dropped, if they were two
    await rt.store.until_held(2)
    gates["a"].set()  # a gives its slot back
    await rt.store.until_held(3)
    calls.append(asyncio.create_task(rt.emit("begin", name="c")))  # started, if only b were left
    held = await rt.store.until_held(4)
    rt.store.hold = None
    for each in held:
        each.release()
        await stores.clock.run_until_idle()
    await asyncio.gather(*calls)
    active = [info.run_id for info in (await rt.find_runs(status="running")).items]
    assert await load_of(rt) == len(active) == 2
    for gate in gates.values():
        gate.set()
    await stores.clock.run_until_idle()
    assert await load_of(rt) == 0


async def load_of(rt):
    """How many runs the store counts as active."""
    [(load, _)] = await rt.store.read_loads([("w", "")])
    return load.active
