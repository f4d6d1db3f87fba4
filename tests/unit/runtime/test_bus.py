"""A runtime on a bus: what it hears, what it tells, and what it does not decide twice."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import (
    Event,
    Pause,
    Pipeline,
    Stage,
    StepContext,
    Verdict,
    Wait,
    Workflow,
)
from poundlock.bus import LocalBus
from poundlock.testing import run_until_idle


def counting(id="wf", on="go"):
    wf = Workflow(id)
    wf.on(on)
    ran = []

    @wf.step
    async def work(ctx: StepContext):
        ran.append(ctx.run_id)

    return wf, ran


async def ended(rt):
    await rt.clock.run_until_idle()
    return [run.status for run in (await rt.find_runs()).items]


async def test_events_published_by_others_start_runs(runtime, bus, any_store):
    """What somebody publishes on the bus is decided like an emitted event, with a durable receipt."""
    wf, ran = counting(on="order.*")
    rt = await runtime(wf, bus=bus, store=any_store)
    event = Event("order.placed", {"n": 1})
    await bus.publish(event)
    assert await ended(rt) == ["completed"]
    assert [line.verdict for line in await rt.store.receipt("", event.id)] == [Verdict.STARTED]
    await bus.publish(event)
    assert len(ran) == 1
    assert bus.failures == []


async def test_an_emitted_event_is_published_once_and_decided_once(runtime, bus):
    """What a runtime emits is heard by other subscribers after it is durable, and is not decided again."""
    wf, ran = counting()
    rt = await runtime(wf, bus=bus)
    heard = []

    async def observer(event):
        heard.append((event.type, event.payload, await rt.store.receipt("", event.id) is not None))
        event.payload["n"] = "changed"

    bus.subscribe("go", observer)
    receipt = await rt.emit("go", n=1)
    assert receipt.verdicts == [Verdict.STARTED]
    assert heard == [("go", {"n": "changed"}, True)]
    [result] = await receipt.results()
    assert result.state == {"n": 1}
    assert len(ran) == 1
    assert await ended(rt) == ["completed"]


async def test_two_runtimes_on_one_bus_both_decide(runtime, bus):
    """Each runtime with a store of its own decides an event once, whoever emitted it."""
    (one, ran_one), (two, ran_two) = counting("one"), counting("two")
    first, second = await runtime(one, bus=bus), await runtime(two, bus=bus)
    receipt = await first.emit("go")
    assert [line.workflow_id for line in receipt.lines] == ["one"]
    await second.clock.run_until_idle()
    await second.emit("go")
    assert (await ended(first), await ended(second)) == (["completed"] * 2, ["completed"] * 2)
    assert (len(ran_one), len(ran_two)) == (2, 2)


async def test_a_failing_observer_stops_nobody(runtime, bus):
    """An observer that raises is the bus's business: emit and run go on."""
    wf, _ = counting()
    rt = await runtime(wf, bus=bus)

    def bad(event):
        raise RuntimeError("observer")

    bus.subscribe("**", bad)
    [result] = await (await rt.emit("go")).results()
    assert result.ok
    assert len(bus.failures) == 1


@pytest.mark.parametrize("how", ["published", "emitted", "emitted elsewhere"])
async def test_control_events_do_what_the_calls_do(runtime, bus, gate, how):
    """`run:signal` and `run:abort` events signal and abort, published by others, emitted here or in another runtime."""
    wf = Workflow("wf")
    wf.on("go")

    @wf.step
    async def work(ctx: StepContext):
        while not ctx.latest().get("told"):  # noqa: ASYNC110 - nothing tells of it but looking
            await asyncio.sleep(0)  # noqa: TID251 - lets the signal come
        await gate()

    rt = await runtime(wf, bus=bus)
    other = await runtime(bus=bus)
    send = {
        "published": lambda kind, payload: bus.publish(Event(kind, payload)),
        "emitted": rt.emit,
        "emitted elsewhere": other.emit,
    }[how]
    receipt = await rt.emit("go")
    [run_id] = receipt.run_ids
    await send("run:signal", {"run_id": run_id, "patch": {"told": True}})
    await rt.clock.run_until_idle()
    assert gate.inside == 1
    await send("run:abort", {"run_id": run_id, "reason": "from the bus"})
    result = await rt.wait(run_id)
    assert result.status == "aborted"
    assert result.error.message.endswith("from the bus")
    assert bus.failures == []


async def test_control_events_that_are_refused(runtime):
    """A control event without a run, for an unknown or for an ended one is rejected, and the receipt says why."""
    wf, _ = counting()
    rt = await runtime(wf, bus=LocalBus())
    result = await rt.run("wf")
    for kind, payload, said in (
        ("run:abort", {}, "INVALID_EVENT"),
        ("run:abort", {"run_id": 7}, "INVALID_EVENT"),
        ("run:abort", {"run_id": result.run_id, "reason": 7}, "INVALID_EVENT"),
        ("run:abort", {"run_id": "nobody"}, "RUN_NOT_FOUND"),
        ("run:signal", {"run_id": result.run_id, "patch": {"a": 1}}, "RUN_FINISHED"),
    ):
        [line] = (await rt.emit(kind, payload)).lines
        assert line.verdict == "rejected", payload
        assert line.reason.startswith(f"{said}: ")


async def test_control_events_say_what_they_did(runtime, gate):
    """The receipt of a control event names the run that it reached."""
    wf = Workflow("wf")
    wf.on("go")

    @wf.step
    async def work():
        await gate()

    rt = await runtime(wf)
    [run_id] = (await rt.emit("go")).run_ids
    [line] = (await rt.emit("run:signal", run_id=run_id, patch={"a": 1})).lines
    assert (line.verdict, line.run_id, line.reason) == ("signalled", run_id, "run:signal")
    [line] = (await rt.emit("run:abort", run_id=run_id, reason="enough")).lines
    assert (line.verdict, line.run_id) == ("signalled", run_id)
    assert (await rt.wait(run_id)).status == "aborted"


async def test_control_events_can_be_switched_off(runtime, bus, gate):
    """With `control_events=False` nobody who emits or publishes such an event ends a run: it is an ordinary event."""
    wf = Workflow("wf")
    wf.on("go")

    @wf.step
    async def work():
        await gate()

    rt = await runtime(wf, bus=bus, control_events=False)
    [run_id] = (await rt.emit("go")).run_ids
    [line] = (await rt.emit("run:abort", run_id=run_id)).lines
    assert line.verdict == "unmatched"
    await bus.publish(Event("run:abort", {"run_id": run_id}))
    await rt.clock.run_until_idle()
    gate.open()
    assert (await rt.wait(run_id)).status == "completed"


async def test_subscriptions_go_with_their_workflows(runtime):
    """Deregistering releases a type only when no other workflow wants it; stopping releases all."""
    bus = LocalBus()
    rt = await runtime(counting("one")[0], counting("two")[0], counting("three", "other.*")[0], bus=bus)
    assert (bus.has_subscribers("go"), bus.has_subscribers("other.x")) == (True, True)
    await rt.deregister("one")
    await rt.deregister("three")
    assert (bus.has_subscribers("go"), bus.has_subscribers("other.x")) == (True, False)
    await rt.deregister("two")
    assert not bus.has_subscribers("go")
    await rt.stop()
    assert bus.statistics().subscriptions == 0


async def test_a_type_that_one_run_waits_for_is_listened_to_until_it_has_come(runtime):
    """What only a router names is heard while its run waits, until it waits for something else or ends."""
    wf = Workflow(
        "asks",
        pipelines=[
            Pipeline(
                "main",
                [
                    Stage("first", router=lambda state: Pause(Wait(f"first.{state['n']}"))),
                    Stage("second", router=lambda state: Pause(Wait("second"))),
                ],
            )
        ],
    )
    bus = LocalBus()
    rt = await runtime(wf, bus=bus)
    before = bus.statistics().subscriptions
    runs = [await rt.run("asks", n=n) for n in range(3)]
    assert [bus.has_subscribers(f"first.{n}") for n in range(4)] == [True, True, True, False]
    await bus.publish(Event("first.0"))
    await run_until_idle(rt)
    await rt.resume(runs[1].run_id)
    assert [bus.has_subscribers(type) for type in ("first.0", "first.1", "first.2", "second")] == [
        False,
        False,
        True,
        True,
    ]
    await bus.publish(Event("second"))
    await run_until_idle(rt)
    assert (await rt.wait(runs[0].run_id)).ok
    assert not bus.has_subscribers("second")
    await rt.abort(runs[2].run_id)
    assert bus.statistics().subscriptions == before
