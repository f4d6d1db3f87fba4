"""`on_unmatched`: the runtime is told of each event that nobody wanted, once that is durable."""

from __future__ import annotations

import asyncio
import logging

import pytest

from poundlock import Condition, Event, InvalidDefinition, StateRef, Workflow, WorkflowRuntime
from poundlock.bus import LocalBus
from poundlock.model.outbox import OutboxQuery
from poundlock.runtime.outbox import HELD
from poundlock.testing import run_until_idle


def sender(*events):
    """A workflow that emits these types, or Events, in one step."""
    wf = Workflow("sender")

    @wf.on("sender.go")
    @wf.step
    async def step(ctx):
        for event in events:
            ctx.emit(event)

    return wf


def wanting(event="order.placed", when=()):
    wf = Workflow("wanting")

    @wf.on(event, when=when)
    @wf.step
    async def work():
        return None

    return wf


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_it_is_called_with_the_event_before_emit_returns(stores, kind):
    """The hook gets what was emitted, as it was accepted, when its receipt is in the store already."""
    told = []

    def plain(event):
        told.append(event)

    async def later(event):
        told.append((event, await rt.store.receipt(event.source, event.id)))

    rt = await stores.enter(wanting(), on_unmatched=plain if kind == "sync" else later)
    receipt = await rt.emit("order.lost", id=7)
    [got] = told
    event, lines = (got, receipt.lines) if kind == "sync" else got
    assert (event.type, event.payload, event.time) == ("order.lost", {"id": 7}, stores.clock.now())
    assert [line.verdict for line in lines] == ["unmatched"]


async def test_it_is_not_called_for_what_somebody_wanted(stores):
    """An event that a trigger has refused, or a wait has buffered, was somebody's; so are control events."""
    told = []
    waiting = Workflow("waiting")
    waiting.wait("more", on="more", correlate={"id": StateRef("id")})
    rt = await stores.enter(wanting(when=[Condition("n", ">", 1)]), waiting, on_unmatched=told.append)
    run = await rt.run("waiting", id=1)
    await rt.emit("order.placed", n=1)
    await rt.emit("order.placed", n=2)
    await rt.emit("more", id=1)
    await rt.explain("nothing.like.it")
    run = await rt.run("waiting", id=1)
    await rt.emit("run:abort", run_id=run.run_id)
    assert told == []
    await rt.emit("more", id=2)  # no run waits for this one
    assert [event.payload for event in told] == [{"id": 2}]


async def test_it_is_called_each_time(stores):
    """What nobody wants is not remembered: emitted again it is told of again."""
    told = []
    rt = await stores.enter(on_unmatched=told.append)
    event = Event("a")
    await rt.emit(event)
    await rt.emit(event)
    assert [each.id for each in told] == [event.id] * 2


async def test_what_it_does_to_the_event_changes_nothing(stores):
    """It has a copy: the receipt and later observers see what was emitted."""
    rt = await stores.enter(on_unmatched=lambda event: event.payload.clear())
    receipt = await rt.emit("a", n=1)
    assert receipt.accepted.payload == {"n": 1}


@pytest.mark.parametrize("error", [RuntimeError("no"), asyncio.CancelledError(), SystemExit(3)])
async def test_what_it_raises_is_in_the_log(stores, error, caplog):
    """A hook that fails fails nothing else: the emitter has its receipt."""

    async def fail(_event):
        raise error

    rt = await stores.enter(on_unmatched=fail)
    event = Event("a")
    with caplog.at_level(logging.ERROR):
        receipt = await rt.emit(event)
    assert [line.verdict for line in receipt.lines] == ["unmatched"]
    assert f"on_unmatched raised for event '{event.id}'" in caplog.text


async def test_it_has_as_long_as_other_hooks(stores, caplog):
    """One that hangs is cancelled after `hook_timeout`, and the emitter goes on."""

    async def hang(_event):
        await asyncio.get_running_loop().create_future()

    rt = await stores.enter(on_unmatched=hang, hook_timeout="5s")
    since = stores.clock.monotonic()
    with caplog.at_level(logging.ERROR):
        await rt.emit("a")
    assert stores.clock.monotonic() - since == 5
    assert "HookTimeout" in caplog.text


async def test_what_it_emits_in_vain_does_not_call_it_again(stores):
    """A hook that emits an event of its own does not go in circles when nobody wants that either."""
    told = []

    async def report(event):
        told.append(event.type)
        receipt = await rt.emit("unmatched.event", type=event.type)
        told.append(receipt.lines[0].verdict)

    rt = await stores.enter(on_unmatched=report)
    await rt.emit("a")
    assert told == ["a", "unmatched"]
    await rt.emit("b")
    assert told[2:] == ["b", "unmatched"]


async def test_it_may_stop_the_runtime(stores):
    """It is inside the runtime, so that stopping from there does not wait for itself."""

    async def stop(_event):
        await rt.stop()

    rt = await stores.enter(on_unmatched=stop)
    await rt.emit("a")
    await run_until_idle(stores.clock)
    with pytest.raises(Exception, match="not running"):
        await rt.emit("a")


async def test_it_is_called_although_the_emitter_has_gone(stores):
    """An emitter that is cancelled while its commit is under way changes nothing about the event."""
    told = []
    store = stores.store()
    rt = await stores.enter(store=store, on_unmatched=told.append)
    store.hold_after = lambda changes: changes.receipt is not None
    emitting = asyncio.create_task(rt.emit("a"))
    [held] = await store.until_held()
    emitting.cancel()
    await asyncio.wait([emitting])
    held.release()
    await run_until_idle(stores.clock)
    assert [event.type for event in told] == ["a"]


async def test_what_was_decided_elsewhere_is_not_unmatched_here(vclock):
    """On one bus, an event that a workflow of another runtime took was wanted."""
    bus, told, other_told = LocalBus(), [], []
    listening = Workflow("listening")
    listening.wait("never", on="order.**", correlate={"id": StateRef("id")})
    async with (
        WorkflowRuntime(wanting(), bus=bus, clock=vclock, on_unmatched=told.append) as one,
        WorkflowRuntime(listening, bus=bus, clock=vclock, on_unmatched=other_told.append),
    ):
        await one.emit("order.placed", n=1)
        assert told == []


# ------------------------------------------------------------------------------------------------------- the outbox
async def test_events_of_steps(stores):
    """What a step emits and nobody wants is told of too, and leaves the outbox."""
    told = []
    rt = await stores.enter(sender("out.a", "out.b"), on_unmatched=told.append)
    await rt.run("sender")
    await run_until_idle(stores.clock)
    assert [event.type for event in told] == ["out.a", "out.b"]
    assert await rt.store.outbox(OutboxQuery()) == []


@pytest.mark.parametrize("where", ["before", "after"])
async def test_events_of_steps_are_told_of_across_a_crash(stores, where):
    """Whichever commit the process dies at, the hook is called for each event of a committed stage, perhaps twice."""
    number = 0
    while True:
        number += 1
        told = []
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(sender(Event("out.a", id=f"a-{number}")), store=store, on_unmatched=told.append)
        running = asyncio.create_task(rt.run("sender", n=number))
        crashed = asyncio.create_task(store.crashed.wait())
        await asyncio.wait([running, crashed], return_when=asyncio.FIRST_COMPLETED)
        await run_until_idle(stores.clock)
        over = not store.dead
        running.cancel()
        crashed.cancel()
        await stores.crash(rt)
        rt = await stores.enter(sender(Event("out.a", id=f"a-{number}")), on_unmatched=told.append)
        await stores.clock.run_for(HELD + 1)
        committed = bool((await rt.find_runs("sender")).items)
        mine = [event.id for event in told if event.id == f"a-{number}"]
        assert bool(mine) is committed, number
        assert len(mine) <= 2, number
        assert await rt.store.outbox(OutboxQuery()) == []
        await rt.stop()
        if over:
            assert number > 2
            return


async def test_a_crash_between_the_decision_and_the_hook(stores):
    """The row of the outbox stays until the hook has returned: after a crash before that it is called again."""
    told, reached = [], asyncio.Event()

    async def hang(event):
        told.append(event.id)
        reached.set()
        await asyncio.get_running_loop().create_future()

    rt = await stores.enter(sender(Event("out.a", id="a")), on_unmatched=hang)
    await rt.run("sender")
    await reached.wait()
    await stores.crash(rt)
    rt = await stores.enter(sender(Event("out.a", id="a")), on_unmatched=lambda event: told.append(event.id))
    await stores.clock.run_for(HELD + 1)
    assert told == ["a", "a"]
    assert await rt.store.outbox(OutboxQuery()) == []
    assert rt.statistics().get("event:unmatched", 0) == 0


# ------------------------------------------------------------------------------------------------------ what is given
@pytest.mark.parametrize(
    "hook", [3, lambda: None, lambda a, b: None, lambda *, event: None], ids=["number", "none", "two", "by name"]
)
def test_what_cannot_be_called_with_an_event(hook):
    """A hook that could not be called is refused where it is given."""
    with pytest.raises(InvalidDefinition) as refused:
        WorkflowRuntime(on_unmatched=hook)
    assert refused.value.path == "on_unmatched"


def test_a_generator_is_no_hook():
    """Nothing of it would run."""

    def hook(event):
        yield event

    with pytest.raises(InvalidDefinition, match="generator"):
        WorkflowRuntime(on_unmatched=hook)


@pytest.mark.parametrize(
    "hook",
    [print, lambda event: None, lambda event, more=1: None, lambda *events: None, [].append],
    ids=["builtin", "one", "default", "any", "method"],
)
def test_what_can_be_called_with_an_event(hook):
    """Whatever takes one argument is a hook."""
    WorkflowRuntime(on_unmatched=hook)
