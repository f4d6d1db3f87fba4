"""Durable functions of any shape, whatever comes when: each call is made once, and the result is the function's own."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from poundlock import Event, Pending, StepError, WorkflowRuntime, workflow
from poundlock.stores import MemoryStore
from poundlock.testing import VirtualClock, run_until_idle

LEAVES = st.sampled_from(["run", "fail", "nap", "sleep", "wait", "late", "poll"])
SHAPES = st.recursive(
    LEAVES,
    lambda inner: st.tuples(st.sampled_from(["all", "then"]), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=6,
)
MOVES = st.lists(st.sampled_from(["event", "time", "stop", "idle"]), max_size=8)


def function_of(shape, calls):
    """Return a workflow of this shape: leaves are operations, "all" gathers its parts, "then" does them in order."""

    async def called(name):
        calls.append(name)
        return name

    async def fails(name):
        calls.append(name)
        raise ValueError(name)

    async def polled(name):
        calls.append(name)
        return Pending() if calls.count(name) < 3 else name

    async def leaf(step, kind, name):
        try:
            match kind:
                case "run":
                    return await step.run(called, name, key=name)
                case "fail":
                    return await step.run(fails, name, key=name)
                case "nap" | "sleep":
                    await step.sleep(0.5 if kind == "nap" else 600, key=name)
                    return name
                case "poll":
                    return await step.poll(polled, name, every=60, key=name)
            event = await step.wait_for("said", correlate={"to": name}, timeout=5 if kind == "late" else None, key=name)
        except StepError as error:
            return f"failed {error.message}"
        return f"{name} said" if event is not None else f"{name} late"

    async def part(step, shape, name):
        if isinstance(shape, str):
            return await leaf(step, shape, name)
        kind, parts = shape
        if kind == "all":
            return await step.gather(*[part(step, each, f"{name}.{place}") for place, each in enumerate(parts)])
        return [await part(step, each, f"{name}.{place}") for place, each in enumerate(parts)]

    @workflow("shaped")
    async def shaped(step):
        return await part(step, shape, "r")

    return shaped


def leaves_of(shape, name="r"):
    if isinstance(shape, str):
        yield name, shape
    else:
        for place, each in enumerate(shape[1]):
            yield from leaves_of(each, f"{name}.{place}")


def expected(shape, name="r"):
    if isinstance(shape, str):
        return {"wait": f"{name} said", "late": f"{name} late", "fail": f"failed {name}"}.get(shape, name)
    return [expected(each, f"{name}.{place}") for place, each in enumerate(shape[1])]


@settings(max_examples=60)
@given(shape=SHAPES, moves=MOVES)
def test_any_shape_comes_to_its_result(shape, moves):
    """Whatever the order of events, time and restarts: the result is that of the shape, each call is made once."""
    asyncio.run(_run(shape, moves))


async def _run(shape, moves):
    calls = []
    leaves = dict(leaves_of(shape))
    waits = [Event("said", {"to": name}, id=name) for name, kind in leaves.items() if kind == "wait"]
    clock = VirtualClock(autojump=False)
    store = MemoryStore()

    async def begun():
        return await WorkflowRuntime(function_of(shape, calls), store=store, clock=clock).start()

    async with clock:
        runtime = await begun()
        await runtime.invoke("shaped", run_id="R", until="accepted")
        for move in (*moves, *(["event", "time"] * 20)):
            await run_until_idle(clock)
            info = await runtime.get_run("R")
            if info.status == "completed":
                break
            if move == "event":
                open_waits = {wait.id for wait in info.waits if wait.events}
                for event in [each for each in waits if each.id in open_waits][:1]:
                    await runtime.emit(event)
            elif move == "time":
                await clock.run_for(seconds=601)
            elif move == "stop":
                clock.autojump = True
                await runtime.stop()
                clock.autojump = False
                runtime = await begun()
        run = await runtime.wait("R", timeout=1e6)
        assert (run.status, run.result) == ("completed", expected(shape))
        times = {"run": 1, "fail": 1, "poll": 3}
        assert {name: calls.count(name) for name in leaves} == {
            name: times.get(kind, 0) for name, kind in leaves.items()
        }
        await runtime.stop()
