"""Durable functions beside the other parts of the runtime: signals, modes, waits of services, hooks, deployments."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest

from poundlock import Serialized, StateRef, Terminate, Use, Wait, Workflow, workflow
from poundlock.testing import run_until_idle


async def test_a_signal_reaches_the_state(stores, calls, make_gate):
    """A signal while a function works is part of the state of the run, and arms waits that refer to it."""
    gate = make_gate()

    @workflow("signalled", on="go", waits=[Wait("said", correlate={"id": StateRef("id")})])
    async def signalled(step):
        await step.run(gate, key="gate")
        await step.run(calls.work)
        await step.wait_for("end")
        return (await step.wait_for("said")).payload["word"]

    runtime = await stores.enter(signalled)
    run_id = (await runtime.emit("go")).run_ids[0]
    await run_until_idle(stores.clock)
    await runtime.signal(run_id, {"id": 5})
    gate.open()
    run = await runtime.wait(run_id, until="rest")
    assert run.state == {"id": 5}
    assert [line.verdict for line in (await runtime.emit("said", id=5, word="hm")).lines] == ["buffered"]
    await runtime.emit("end")
    assert (await runtime.wait(run_id)).result == "hm"


async def test_modes_hold_for_functions(stores, calls):
    """A serialized function keeps its slot while it waits, and the next one begins when it has ended."""

    @workflow("serial", on="go", mode=Serialized())
    async def serial(step, n: int):
        await step.run(calls.work, n)
        await step.wait_for("end", correlate={"n": n})

    runtime = await stores.enter(serial)
    receipts = [await runtime.emit("go", n=n) for n in (1, 2)]
    assert [receipt.lines[0].verdict for receipt in receipts] == ["started", "queued"]
    await runtime.wait(receipts[0].run_ids[0], until="rest")
    assert calls == [1]
    await runtime.emit("end", n=1)
    await runtime.wait(receipts[1].run_ids[0], until="rest")
    assert calls == [1, 2]


async def test_a_wait_that_a_service_announces_is_armed(stores):
    """A wait that was registered with the pause service keeps events while the function waits for others."""

    @workflow("announces")
    async def announces(step, pauses: Annotated[object, Use("__pause_service__")]):
        if not step.replaying:
            await pauses.register(Wait("later", id="later"))
        await step.wait_for("now")
        return (await step.wait_for("later", key="then")).payload["n"]

    runtime = await stores.enter(announces)
    run = await runtime.run("announces")
    assert [line.verdict for line in (await runtime.emit("later", n=3)).lines] == ["buffered"]
    await runtime.emit("now")
    assert (await runtime.wait(run.run_id)).result == 3


async def test_hooks_are_called(stores, calls):
    """`on_resume` is called each time a function goes on behind a wait, `on_complete` once."""

    @workflow("hooked")
    async def hooked(step):
        await step.wait_for("a")
        await step.wait_for("b")

    runtime = await stores.enter()
    await runtime.register(
        hooked, on_resume=lambda _ctx: calls.append("resume"), on_complete=lambda run: calls.append(str(run.status))
    )
    run = await runtime.run("hooked")
    await runtime.resume(run.run_id)
    await runtime.resume(run.run_id)
    assert calls == ["resume", "resume", "completed"]


async def test_a_function_that_begins_again_for_ever_is_an_endless_loop(stores):
    """Generations without a pause or sleep in between count as visits, and too many fail the run."""

    @workflow("endless", visit_limit=20)
    async def endless(step):
        return step.continue_as_new()

    runtime = await stores.enter(endless)
    run = await runtime.run("endless")
    assert (run.status, run.error.code) == ("failed", "VISIT_LIMIT")


async def test_an_answer_from_a_process_without_the_workflow(stores):
    """An answer by hand is committed where the workflow is unknown, and answers the named wait where it is known."""

    @workflow("both")
    async def both(step):
        return [each.payload for each in await step.gather(step.wait_for("a"), step.wait_for("b", timeout="1d"))]

    stores.clock.autojump = False
    first = await stores.enter(both)
    run = await first.run("both")
    await first.stop()
    second = await stores.enter(other())
    result = await second.resume(run.run_id, {"n": 2}, wait="b")
    assert result.status == "ready"
    await second.stop()
    third = await stores.enter(both)
    run = await third.wait(run.run_id, until="rest")
    assert [wait.id for wait in run.waits] == ["a"]
    assert (await third.resume(run.run_id, {"n": 1})).result == [{"n": 1}, {"n": 2}]


def other():
    @workflow("other")
    async def function(step):
        pass

    return function


async def test_operations_may_be_moved_added_and_left_out(stores, calls):
    """A new version takes from the record what it still asks for, and does what is new."""

    def of(version):
        async def one():
            return await calls.work("one")

        async def two():
            return await calls.work("two")

        async def new():
            return await calls.work("new")

        @workflow("changes")
        async def changes(step):
            found = [await step.run(one), await step.run(two)] if version == 1 else []
            await step.wait_for("go on")
            if version == 2:
                found = [await step.run(two), await step.run(new)]
            return found

        return changes

    first = await stores.enter(of(1))
    run = await first.run("changes")
    await stores.crash(first)
    second = await stores.enter(of(2))
    await second.emit("go on")
    assert (await second.wait(run.run_id)).result == [1, 1]
    assert calls == ["one", "two", "new"]


async def test_a_renamed_function_goes_on(stores):
    """Only the id of the workflow names its runs: the function may have another name in the next version."""

    @workflow("same")
    async def before(step):
        return (await step.wait_for("said")).payload["n"]

    @workflow("same")
    async def after(step):
        return (await step.wait_for("said")).payload["n"] + 1

    first = await stores.enter(before)
    run = await first.run("same")
    await stores.crash(first)
    second = await stores.enter(after)
    await second.emit("said", n=1)
    assert (await second.wait(run.run_id)).result == 2


async def test_a_deregistered_workflow_lets_the_step_end(stores, calls, make_gate):
    """Deregistering waits for a function that works; one that waits stays in the store and goes on later."""
    gate = make_gate()

    @workflow("leaving", on="go")
    async def leaving(step):
        await step.run(gate, key="gate")
        await step.wait_for("said")
        return await step.run(calls.work)

    runtime = await stores.enter(leaving)
    run_id = (await runtime.emit("go")).run_ids[0]
    await run_until_idle(stores.clock)
    gone = asyncio.create_task(runtime.deregister("leaving"))
    await run_until_idle(stores.clock)
    gate.open()
    await gone
    assert (await runtime.get_run(run_id)).status == "paused"
    await runtime.register(leaving)
    await runtime.emit("said")
    assert (await runtime.wait(run_id)).result == 1


async def test_a_function_awaits_other_things_between_operations(stores, calls):
    """What is awaited besides operations works as in any coroutine; it is done again in each pass."""

    @workflow("foreign")
    async def foreign(step):
        event = asyncio.Event()
        asyncio.get_running_loop().call_soon(event.set)
        await event.wait()
        calls.append("pass")
        await step.wait_for("said")
        return len(calls)

    runtime = await stores.enter(foreign)
    run = await runtime.run("foreign")
    await runtime.emit("said")
    assert (await runtime.wait(run.run_id)).result == 2


async def test_the_deadline_of_a_run_ends_its_function(stores, calls, make_gate):
    """`timeout=` of the workflow ends a function that waits, that sleeps, and that is in a step."""
    gate = make_gate()

    def of(id, operation):
        @workflow(id, timeout="10m")
        async def function(step):
            try:
                await operation(step)
            except BaseException:  # noqa: BLE001 - it must not help
                await step.run(calls.work)

        return function

    runtime = await stores.enter(
        of("waits", lambda step: step.wait_for("x")),
        of("sleeps", lambda step: step.sleep("1h")),
        of("works", lambda step: step.run(gate, key="gate")),
    )
    for id in ("waits", "sleeps", "works"):
        started = await runtime.invoke(id, run_id=id, until="accepted")
        run = await runtime.wait(started.run_id)
        assert (run.status, run.error.type) == ("failed", "RunTimeout")
    assert calls == []


async def test_a_child_may_be_a_durable_function(stores):
    """A stage may call a workflow that is a durable function; the parent is paused while it waits."""
    parent = Workflow("parent")

    @workflow("child")
    async def child(step, n: int):
        return n + (await step.wait_for("said")).payload["n"]

    parent.call("child", into="got")

    @parent.step
    async def end(got):
        return Terminate(got)

    runtime = await stores.enter(parent, child)
    run = await runtime.run("parent", n=1)
    assert run.status == "paused"
    await runtime.emit("said", n=2)
    assert (await runtime.wait(run.run_id)).result == 3


async def test_another_definition_pauses_or_fails_a_function(stores):
    """`on_change=` holds for functions as for all workflows, by their structure and state."""

    def of(**options):
        @workflow("pinned", on_change="pinned", **options)
        async def pinned(step):
            return (await step.wait_for("said")).payload["n"]

        return pinned

    first = await stores.enter(of())
    run = await first.run("pinned")
    await stores.crash(first)
    second = await stores.enter(of())
    await second.emit("said", n=1)
    assert (await second.wait(run.run_id)).result == 1


@pytest.mark.parametrize("durability", ["stage", "step", "async", "exit", "none"])
async def test_functions_at_every_durability(stores, calls, durability):
    """Whatever the durability, a function that was paused goes on from its record; at "exit" a crash repeats more."""

    @workflow("durable", durability=durability)
    async def durable(step):
        first = await step.run(calls.work, "first")
        await step.wait_for("said")
        found = await step.gather(step.run(calls.work, "a", key="a"), step.run(calls.work, "b", key="b"))
        await step.sleep("1h")
        return [first, *found]

    first = await stores.enter(durable)
    run = await first.run("durable")
    assert run.status == "paused"
    await stores.crash(first)
    second = await stores.enter(durable)
    await second.emit("said")
    assert (await second.wait(run.run_id)).result == [1, 1, 1]
    assert sorted(calls) == ["a", "b", "first"]
