"""The outbox: what runs have emitted is delivered in order, exactly once, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import logging

import pytest

from poundlock import Event, Exclusive, InvalidDefinition, Jump, Serialized, SingletonLoop, Transient, Trigger, Workflow
from poundlock.bus import LocalBus
from poundlock.errors import DeadLetterNotFound, RuntimeStopped, StoreUnavailable
from poundlock.model.outbox import OutboxQuery
from poundlock.runtime.commands import FlushOutbox, ReplayDeadLetters
from poundlock.runtime.outbox import ATTEMPTS, HELD
from poundlock.testing import RecordingBus, run_until_idle


def listener(name="listener", pattern="out.**"):
    got = []
    wf = Workflow(name, triggers={"out": Trigger(pattern)}, mode=Transient(capacity=10_000))

    @wf.step
    async def note(event: Event):
        got.append(event)

    return wf, got


def sender(*events, name="sender"):
    """A workflow that emits these types, or Events, in one step."""
    wf = Workflow(name)

    @wf.on(f"{name}.go")
    @wf.step
    async def step(ctx):
        for event in events:
            ctx.emit(event)

    return wf


async def settled(rt):
    await run_until_idle(rt.clock)
    return [row.event.type for row in await rt.store.outbox(OutboxQuery())]


def leaves(changes):
    """Whether a commit admits an event of the outbox."""
    return bool(changes.outbox)


class Broken(LocalBus):
    """A bus that refuses what is published until it is mended."""

    def __init__(self):
        super().__init__()
        self.mended = False
        self.tried = []

    def has_subscribers(self, event_type, ignoring=()):
        return True

    async def publish(self, event):
        publication = event if hasattr(event, "event") else None
        self.tried.append(publication.event.type)
        if not self.mended:
            raise ConnectionError("the broker is away")
        await super().publish(event)


# ---------------------------------------------------------------------------------------------------- left behind
async def test_what_a_crash_left_is_delivered_at_the_next_start(stores):
    """A row that was committed just before the process died is delivered by the next runtime, once."""
    wf, got = listener()
    store = stores.store()
    store.hold = leaves
    rt = await stores.enter(sender("out.a", "out.b"), wf, store=store)
    await rt.run("sender")
    await store.until_held()
    await stores.crash(rt)
    assert got == []
    rt = await stores.enter(sender("out.a", "out.b"), wf)
    assert await settled(rt) == []
    assert [event.type for event in got] == ["out.a", "out.b"]


async def test_a_stop_leaves_what_is_not_delivered(stores):
    """A runtime that stops does not wait for its outbox: the next one delivers the rest."""
    wf, got = listener()
    store = stores.store()
    store.hold = leaves
    rt = await stores.enter(sender("out.a", "out.b"), wf, store=store)
    await rt.run("sender")
    [held] = await store.until_held()
    stopping = asyncio.create_task(rt.stop())
    held.release()
    await stopping
    rt = await stores.enter(wf)
    assert await settled(rt) == []
    # The run of the first event goes on beside the delivery of the second one: either may reach its step first.
    assert sorted(event.type for event in got) == ["out.a", "out.b"]
    newest_first = (await rt.find_runs(wf.id)).items
    started = [(await rt.store.checkpoint(run.run_id)).event.type for run in reversed(newest_first)]
    assert started == ["out.a", "out.b"]


async def test_the_sender_need_not_be_registered(stores):
    """Events are delivered although the workflow of their run is gone, as are those of a run that has ended."""
    wf, got = listener()
    store = stores.store()
    store.hold = leaves
    rt = await stores.enter(sender("out.a"), wf, store=store)
    await rt.run("sender")
    [held] = await store.until_held()
    await rt.deregister("sender")
    held.release()
    assert await settled(rt) == []
    assert len(got) == 1


async def test_what_was_left_waits_for_its_workflow(stores):
    """A workflow that is registered after the start gets what an earlier runtime left for it."""
    wf, got = listener()
    store = stores.store()
    store.hold = leaves
    rt = await stores.enter(sender("out.a", "out.b"), wf, store=store)
    await rt.run("sender")
    await store.until_held()
    await stores.crash(rt)
    stores.clock.autojump = False
    rt = await stores.enter()
    await rt.register(sender("other.a", name="other"))
    assert (await settled(rt), rt.statistics()["outbox"]) == (["out.a", "out.b"], 2)
    await rt.register(wf)
    assert await settled(rt) == []
    assert [event.type for event in got] == ["out.a", "out.b"]


async def test_what_was_left_waits_for_a_minute(stores):
    """What nobody wants in the first minute is unmatched, as it would have been at once without a crash."""
    store = stores.store()
    store.hold = leaves
    rt = await stores.enter(sender("out.a"), store=store)
    await rt.run("sender")
    await store.until_held()
    await stores.crash(rt)
    stores.clock.autojump = False
    rt = await stores.enter()
    assert await settled(rt) == ["out.a"]
    stores.clock.advance(HELD)
    assert await settled(rt) == []
    assert rt.statistics()["event:unmatched"] == 1


async def test_what_was_left_reaches_a_waiting_run(stores):
    """An event that a paused run waits for is wanted, although no trigger names it."""
    waiting = Workflow("waiting", triggers={"begin": Trigger("begin")})
    waiting.wait("answer", on="out.answer")
    store = stores.store()
    rt = await stores.enter(sender("out.answer"), waiting, store=store)
    [paused] = await (await rt.emit("begin")).results()
    store.hold = leaves
    await rt.run("sender")
    await store.until_held()
    await stores.crash(rt)
    rt = await stores.enter(waiting)
    assert (await rt.wait(paused.run_id)).ok


async def test_many_runs_that_were_left_are_all_served(stores):
    """However many runs have left events, each one's are delivered in order."""
    wf, got = listener()
    store = stores.store()
    store.failing = lambda _number, changes: StoreUnavailable("away") if changes.outbox else None
    stores.clock.autojump = False
    rt = await stores.enter(sender("out.a", "out.b"), wf, store=store)
    for _ in range(150):
        await rt.run("sender")
    await stores.crash(rt)
    stores.clock.autojump = True
    rt = await stores.enter(wf)
    assert await settled(rt) == []
    assert [event.type for event in got].count("out.a") == [event.type for event in got].count("out.b") == 150
    by_run = {}
    for event in got:
        by_run.setdefault(event.id.split("/")[0], []).append(event.type)
    assert set(map(tuple, by_run.values())) == {("out.a", "out.b")}


# ------------------------------------------------------------------------------------------------------- in turn
async def test_a_run_keeps_its_order(stores):
    """A run's events arrive in the order in which its stages emitted them, also if they are many."""
    wf = Workflow("sender")

    @wf.on("go")
    @wf.step
    async def first(ctx):
        for n in range(70):
            ctx.emit("out.n", n=n)

    @wf.step
    async def second(ctx):
        for n in range(70, 140):
            ctx.emit("out.n", n=n)

    got = []
    other = Workflow("listener", triggers={"out": Trigger("out.n")}, mode=Serialized())

    @other.step
    async def note(n):
        got.append(n)

    rt = await stores.enter(wf, other)
    await rt.run("sender")
    assert await settled(rt) == []
    assert got == list(range(140))


async def test_a_run_that_cannot_deliver_holds_up_no_other(stores):
    """While one run's event is in the middle of its delivery, those of other runs pass."""
    slow, late = listener("slow", "slow.a")
    wf, got = listener()
    store = stores.store()
    rt = await stores.enter(sender("slow.a", "out.last"), sender("out.quick", name="quick"), slow, wf, store=store)
    store.hold = lambda changes: any(create.identity.workflow_id == "slow" for create in changes.creates)
    await rt.run("sender")
    [held] = await store.until_held()
    await rt.run("quick")
    await run_until_idle(rt.clock)
    assert ([event.type for event in got], late) == (["out.quick"], [])
    held.release()
    assert await settled(rt) == []
    assert ([event.type for event in got], len(late)) == (["out.quick", "out.last"], 1)


async def test_many_events_of_one_run_let_others_pass(runtime):
    """A run with hundreds of events does not keep the outbox to itself."""
    wf, got = listener()
    rt = await runtime(sender(*[f"out.many.{n}" for n in range(500)]), sender("out.one", name="one"), wf)
    await asyncio.gather(rt.run("sender"), rt.run("one"))
    await run_until_idle(rt.clock)
    assert len(got) == 501
    assert [event.type for event in got].index("out.one") < 100


async def test_a_run_that_emits_its_own_trigger_lets_others_go_on(runtime):
    """An endless chain of runs, each emitting the event that starts the next, blocks neither the loop nor others."""
    chain = Workflow("chain", triggers={"go": Trigger("chain.go")})
    stop = []

    @chain.step
    async def link(ctx):
        if not stop:
            ctx.emit("chain.go")

    five, got = asyncio.Event(), []
    wf = Workflow("listener", triggers={"out": Trigger("out.a")})

    @wf.step
    async def note():
        got.append(1)
        if len(got) == 5:
            five.set()

    rt = await runtime(chain, sender("out.a"), wf)
    await rt.emit("chain.go")
    for _ in range(5):
        result = await rt.run("sender")
        assert result.ok
    await five.wait()
    stop.append(True)
    await run_until_idle(rt.clock)
    assert rt.statistics()["event:started"] > 6
    assert rt.statistics()["outbox"] == 0


async def test_an_endless_chain_publishes_on(runtime):
    """A chain of runs is no loop of publishing handlers: the bus gets each event, however long it is."""
    chain = Workflow("chain", triggers={"go": Trigger("chain.go")})

    @chain.step
    async def link(ctx, n):
        if n < 200:
            ctx.emit("chain.go", n=n + 1)

    bus = RecordingBus()
    rt = await runtime(chain, bus=bus)
    await rt.emit("chain.go", n=1)
    await run_until_idle(rt.clock)
    assert [event.payload["n"] for event in bus.events if event.type == "chain.go"] == list(range(1, 201))


# ------------------------------------------------------------------------------------------------------- failures
async def test_an_event_that_can_never_be_admitted_is_a_dead_letter_at_once(stores, caplog):
    """An id that was used with other content conflicts for ever: the event is kept with the reason, the next go on."""
    wf, got = listener()
    rt = await stores.enter(sender(Event("out.a", {"n": 2}, id="x", source="/shop"), "out.b"), wf)
    await rt.emit(Event("out.a", {"n": 1}, id="x", source="/shop"))
    with caplog.at_level(logging.ERROR, "poundlock.runtime"):
        result = await rt.run("sender")
        assert await settled(rt) == []
    assert "is dead letter" in caplog.text
    assert [(event.type, event.payload) for event in got] == [("out.a", {"n": 1}), ("out.b", {})]
    [letter] = await rt.dead_letters()
    assert (letter.event.id, letter.event.payload, letter.run_id) == ("x", {"n": 2}, result.run_id)
    assert (letter.code, letter.attempts, letter.time) == ("IDEMPOTENCY_CONFLICT", 1, rt.clock.now())
    assert letter.error.startswith("IdempotencyConflict: ")
    assert (rt.statistics()["outbox"], rt.statistics()["dead_letters"]) == (0, 1)
    assert letter.to_dict()["event"]["payload"] == {"n": 2}


async def test_a_delivery_that_fails_is_repeated(stores, caplog):
    """An event that the bus does not take is tried again, later each time; runs are started once meanwhile."""
    wf, got = listener()
    bus = Broken()
    rt = await stores.enter(sender("out.a", "out.b"), wf, bus=bus)
    rt.clock.autojump = False
    with caplog.at_level(logging.WARNING, "poundlock.runtime"):
        await rt.run("sender")
        for _ in range(3):
            assert await settled(rt) == ["out.a", "out.b"]
            rt.clock.advance(8)
        await run_until_idle(rt.clock)
        bus.mended = True
        rt.clock.advance(16)
        assert await settled(rt) == []
    assert [event.type for event in got] == ["out.a", "out.b"]
    assert bus.tried == ["out.a"] * 5 + ["out.b"]
    assert "is tried again in 4 s" in caplog.text
    assert rt.statistics()["dead_letters"] == 0


async def test_after_many_attempts_it_is_a_dead_letter_and_can_be_replayed(stores):
    """What fails again and again is given up, and the run's next events go on; a replay delivers it with its id."""
    wf, got = listener()
    bus = Broken()
    rt = await stores.enter(sender("out.a"), wf, bus=bus)
    await rt.run("sender")
    await run_until_idle(rt.clock)
    while not await rt.dead_letters():
        await rt.clock.run_for(600)
    [letter] = await rt.dead_letters()
    assert (letter.attempts, letter.error, letter.code) == (ATTEMPTS, "ConnectionError: the broker is away", None)
    assert bus.tried == ["out.a"] * ATTEMPTS
    bus.mended = True
    await rt.replay(letter.id)
    assert await settled(rt) == []
    assert (await rt.dead_letters(), len(bus.tried), len(got)) == ([], ATTEMPTS + 1, 1)
    with pytest.raises(DeadLetterNotFound):
        await rt.replay(letter.id)


async def test_a_replay_may_end_as_a_dead_letter_again(stores):
    """A dead letter whose fault is still there comes back, under the same id."""
    rt = await stores.enter(sender(Event("out.a", {"n": 2}, id="x", source="/shop")), listener()[0])
    await rt.emit(Event("out.a", {"n": 1}, id="x", source="/shop"))
    await rt.run("sender")
    await settled(rt)
    [before] = await rt.dead_letters()
    await rt.replay(before.id)
    await settled(rt)
    [after] = await rt.dead_letters()
    assert after.id == before.id


async def test_a_flush_does_not_wait_for_the_next_attempt(stores):
    """Once the broker is back, what waits for its next attempt is delivered at once, in order; then nothing is left."""
    wf, got = listener()
    bus = Broken()
    rt = await stores.enter(sender("out.a", "out.b"), sender("out.c", name="other"), wf, bus=bus)
    await rt.run("sender")
    await rt.run("other")
    await rt.clock.run_for(60)
    before = rt.clock.now()
    assert await rt.dispatch(FlushOutbox()) == 3
    assert await rt.dead_letters() == []
    bus.mended = True
    assert await rt.dispatch(FlushOutbox()) == 0
    assert rt.clock.now() == before
    assert [event for event in bus.tried[-3:] if event != "out.c"] == ["out.a", "out.b"]
    await run_until_idle(rt.clock)
    assert sorted(event.type for event in got) == ["out.a", "out.b", "out.c"]
    assert await rt.dispatch(FlushOutbox()) == 0


async def test_flushes_at_the_same_time_deliver_once(stores):
    """Several callers that flush, and the runtime itself, deliver each event once; all return."""
    wf, got = listener()
    bus = Broken()
    rt = await stores.enter(sender("out.a", "out.b"), wf, bus=bus)
    await rt.run("sender")
    await run_until_idle(rt.clock)
    bus.mended = True
    bus.tried.clear()
    assert await asyncio.gather(*(rt.dispatch(FlushOutbox()) for _ in range(5))) == [0] * 5
    assert bus.tried == ["out.a", "out.b"]
    await run_until_idle(rt.clock)
    assert len(got) == 2


async def test_a_flush_ends_with_the_runtime(stores):
    """A caller that waits for a flush is told that the runtime stops; the next one delivers."""
    wf, got = listener()
    store = stores.store()
    store.hold = leaves
    rt = await stores.enter(sender("out.a"), wf, store=store)
    await rt.run("sender")
    [held] = await store.until_held()
    flushing = asyncio.create_task(rt.dispatch(FlushOutbox()))
    await run_until_idle(rt.clock)
    stopping = asyncio.create_task(rt.stop())
    with pytest.raises(RuntimeStopped):
        await flushing
    held.release()
    await stopping
    rt = await stores.enter(wf)
    assert await settled(rt) == []
    assert len(got) == 1


async def test_dead_letters_are_replayed_together(stores):
    """All, or those that are named: each is delivered again, and an unknown one is refused."""
    bus = Broken()
    rt = await stores.enter(sender("out.a", "out.b", "out.c"), bus=bus)
    await rt.run("sender")
    while len(await rt.dead_letters()) < 3:
        await rt.clock.run_for(600)
    first, second, third = await rt.dead_letters()
    bus.mended = True
    bus.tried.clear()
    assert await rt.dispatch(ReplayDeadLetters([second.id, second.id])) == 1
    assert await settled(rt) == []
    with pytest.raises(DeadLetterNotFound):
        await rt.dispatch(ReplayDeadLetters([second.id]))
    with pytest.raises(InvalidDefinition, match="give a list of ids"):
        await rt.dispatch(ReplayDeadLetters(first.id))
    assert await rt.dead_letters() == [first, third]
    assert await rt.replay_dead_letters() == 2
    assert await settled(rt) == []
    assert (await rt.dead_letters(), bus.tried) == ([], ["out.b", "out.a", "out.c"])
    assert await rt.replay_dead_letters() == 0


async def test_what_dies_again_is_replayed_once(stores):
    """A replay of all ends, although each becomes a dead letter again at once."""
    events = [Event("out.a", {"n": n}, id="x", source="/shop") for n in range(3)]
    rt = await stores.enter(sender(*events), listener()[0])
    await rt.emit(Event("out.a", id="x", source="/shop"))
    await rt.run("sender")
    await settled(rt)
    assert await rt.replay_dead_letters() == 3
    await settled(rt)
    assert len(await rt.dead_letters()) == 3


async def test_dead_letters_come_in_pages_and_outlive_a_crash(stores):
    """They are listed in order, a page at a time, by the next runtime too."""
    events = [Event("out.a", {"n": n}, id="x", source="/shop") for n in range(3)]
    rt = await stores.enter(sender(*events), listener()[0])
    await rt.emit(Event("out.a", id="x", source="/shop"))
    await rt.run("sender")
    await settled(rt)
    await stores.crash(rt)
    rt = await stores.enter()
    first = await rt.dead_letters(limit=2)
    [last] = await rt.dead_letters(after=first[-1].id)
    assert [letter.event.payload["n"] for letter in (*first, last)] == [0, 1, 2]


@pytest.mark.parametrize("id", ["7", "x", "", "-1", "٣", 1])
async def test_an_unknown_dead_letter_says_so(stores, id):
    """A replay of what is none is refused, with what to do."""
    rt = await stores.enter()
    with pytest.raises(DeadLetterNotFound, match="dead_letters"):
        await rt.replay(id)


async def test_what_a_mode_refuses_is_a_dead_letter(stores, gate, caplog):
    """Nobody reads a receipt here: what a mode rejects is kept with the reason, and a replay offers it again."""
    wf = Workflow("listener", triggers={"out": Trigger("out.a")}, mode=Exclusive())
    other, got = listener("other")
    first = []

    @wf.step
    async def busy(event: Event):
        first.append(event.id)
        await gate()

    rt = await stores.enter(sender("out.a", "out.a", "out.b"), wf, other)
    with caplog.at_level(logging.ERROR, "poundlock.runtime"):
        await rt.run("sender")
        assert await settled(rt) == []
    assert "it was rejected by workflow 'listener'" in caplog.text
    [letter] = await rt.dead_letters()
    assert letter.error.startswith("rejected: workflow 'listener': ")
    assert (letter.attempts, letter.code, len(got)) == (1, None, 3)
    gate.open()
    await settled(rt)
    await rt.replay(letter.id)
    assert await settled(rt) == []
    assert (await rt.dead_letters(), first[1:], len(got)) == ([], [letter.event.id], 3)


async def test_what_cannot_begin_a_run_is_a_dead_letter(stores):
    """A payload that does not fit where it arrives is kept; observers on the bus have seen it."""
    wf = Workflow("listener", triggers={"out": Trigger("out.a", map=lambda payload: payload["missing"])})
    wf.step(lambda: None, id="step")
    bus = RecordingBus()
    rt = await stores.enter(sender("out.a", "out.b"), wf, bus=bus)
    await rt.run("sender")
    assert await settled(rt) == []
    [letter] = await rt.dead_letters()
    assert "KeyError" in letter.error
    assert bus.types() == ["out.a", "out.b"]


async def test_what_a_singleton_loop_drops_is_not_kept(stores, gate):
    """A loop that drops what comes while it is busy is meant to."""
    wf = Workflow("listener", triggers={"out": Trigger("out.a")}, mode=SingletonLoop())

    @wf.step
    async def busy():
        await gate()

    rt = await stores.enter(sender("out.a", "out.a"), wf)
    await rt.run("sender")
    assert await settled(rt) == []
    assert (rt.statistics()["event:dropped"], await rt.dead_letters()) == (1, [])
    gate.open()


@pytest.mark.parametrize("when", ["reading", "admitting", "noting"])
async def test_a_fault_of_the_store_only_delays(stores, when):
    """While the store is away nothing counts as an attempt, and nothing is lost."""
    store = stores.store()
    wf, got = listener()
    rt = await stores.enter(sender("out.a"), wf, store=store, bus=RecordingBus())
    away = [3]
    inner = store.inner.outbox

    async def outbox(query):
        if when == "reading" and away[0]:
            away[0] -= 1
            raise StoreUnavailable("away")
        return await inner(query)

    def failing(_number, changes):
        wanted = leaves(changes) and bool(changes.creates) == (when == "admitting")
        if when != "reading" and wanted and away[0]:
            away[0] -= 1
            return StoreUnavailable("away")
        return None

    store.outbox, store.failing = outbox, failing
    await rt.run("sender")
    await rt.clock.run_for(60)
    assert await settled(rt) == []
    assert (away, len(got), rt.statistics()["dead_letters"]) == ([0], 1, 0)


async def test_an_answer_that_was_lost_loses_no_event(stores):
    """If the commit that brings events is cut off from its answer, they are delivered all the same."""
    store = stores.store()
    wf, got = listener()
    rt = await stores.enter(sender("out.a"), wf, store=store)
    store.hold_after = lambda changes: any(move.outgoing for move in changes.moves)
    await rt.emit("sender.go")
    [held] = await store.until_held()
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == rt.list_all_runs()[0].run_id]
    store.hold_after = None
    task.cancel()
    await asyncio.wait([task])
    held.release()
    assert await settled(rt) == []
    assert [event.type for event in got] == ["out.a"]


async def test_other_code_cannot_end_the_deliveries(stores):
    """A delivery that is cancelled from outside is begun again."""
    store = stores.store()
    wf, got = listener()
    rt = await stores.enter(sender("out.a"), wf, store=store)
    store.hold = leaves
    await rt.run("sender")
    [held] = await store.until_held()
    store.hold = None
    for task in asyncio.all_tasks():
        if task.get_name() == "poundlock-outbox":
            task.cancel()
    held.release()
    assert await settled(rt) == []
    assert [event.type for event in got] == ["out.a"]


async def test_a_handler_that_hangs_holds_nothing_up_for_ever(stores):
    """A handler on the bus that does not return is a failed delivery after `hook_timeout`: others go on meanwhile."""
    wf, got = listener()
    bus = LocalBus()
    hung = []

    async def hangs(event):
        hung.append(event.type)
        if len(hung) == 1:
            await asyncio.get_running_loop().create_future()

    bus.subscribe("out.a", hangs)
    rt = await stores.enter(sender("out.a", "out.b"), sender("out.c", name="other"), wf, bus=bus, hook_timeout=5)
    rt.clock.autojump = False
    await rt.run("sender")
    await rt.run("other")
    assert await settled(rt) == ["out.a", "out.b"]
    await rt.clock.run_for(5)
    [row, _] = await rt.store.outbox(OutboxQuery())
    assert (row.attempts, "did not take event" in row.error, row.admitted) == (1, True, True)
    await rt.clock.run_for(2)
    assert await settled(rt) == []
    assert [event.type for event in got] == ["out.a", "out.c", "out.b"]
    assert hung == ["out.a", "out.a"]


# ----------------------------------------------------------------------------------------------- where it goes on
async def test_control_events_are_carried_out(stores, gate):
    """A step may abort another run by an event; an event for a run that is not there is a dead letter."""
    busy = Workflow("busy", triggers={"go": Trigger("busy.go")})

    @busy.step
    async def wait():
        await gate()

    wf = Workflow("sender")

    @wf.on("go")
    @wf.step
    async def step(ctx, target):
        ctx.emit("run:abort", run_id=target, reason="enough")
        ctx.emit("run:abort", run_id="unknown")

    rt = await stores.enter(busy, wf)
    run_id = (await rt.emit("busy.go")).lines[0].run_id
    await rt.run("sender", target=run_id)
    assert (await rt.wait(run_id)).status == "aborted"
    assert await settled(rt) == []
    [letter] = await rt.dead_letters()
    assert (letter.event.payload, letter.code) == ({"run_id": "unknown"}, "RUN_NOT_FOUND")


@pytest.mark.parametrize("carried_out", [False, True])
async def test_a_control_event_survives_a_crash(stores, gate, carried_out):
    """An abort that a step emitted is carried out by the next runtime, whether or not the dead one had done it."""
    busy = Workflow("busy", triggers={"go": Trigger("busy.go")})

    @busy.step
    async def work():
        await gate()

    wf = Workflow("sender")

    @wf.step
    async def step(ctx, target):
        ctx.emit("run:abort", run_id=target)

    store = stores.store()
    rt = await stores.enter(busy, wf, store=store)
    run_id = (await rt.emit("busy.go")).lines[0].run_id
    store.hold = leaves if carried_out else lambda changes: bool(changes.posts)
    await rt.run("sender", target=run_id)
    await store.until_held()
    await stores.crash(rt)
    rt = await stores.enter(busy, wf)
    assert (await rt.wait(run_id)).status == "aborted"
    assert await settled(rt) == []


async def test_a_publication_that_a_crash_cut_off_is_repeated(stores):
    """The bus gets an event at least once: after a crash in between again, and the runs that it started once."""
    wf, got = listener()
    store, bus = stores.store(), RecordingBus()
    rt = await stores.enter(sender("out.a"), wf, store=store, bus=bus)
    store.hold = lambda changes: leaves(changes) and not changes.receipt
    await rt.run("sender")
    await store.until_held()
    await stores.crash(rt)
    assert bus.types() == ["out.a"]
    again = RecordingBus()
    rt = await stores.enter(wf, bus=again)
    assert await settled(rt) == []
    assert (again.types(), len(got)) == (["out.a"], 1)
    assert again.events[0].id == bus.events[0].id


async def test_without_dedupe_it_starts_one_run_too(stores):
    """Once does not depend on remembered ids: the row leaves in the commit that admits the event."""
    got = []
    wf = Workflow("listener", triggers={"out": Trigger("out.a", dedupe=None)})

    @wf.step
    async def note():
        got.append(1)

    store = stores.store()
    rt = await stores.enter(sender("out.a"), wf, store=store, bus=RecordingBus())
    store.hold_after = leaves
    await rt.run("sender")
    await store.until_held()
    await stores.crash(rt)
    rt = await stores.enter(wf, bus=RecordingBus())
    assert await settled(rt) == []
    assert len(got) == 1


async def test_what_it_starts_is_not_inside_the_sender(stores, gate):
    """A run that an event started may wait for its sender: it is not part of it."""
    wf = Workflow("listener", triggers={"out": Trigger("out.a")})
    seen = []

    @wf.step
    async def wait(sender):
        seen.append((await rt.wait(sender)).status)

    first = Workflow("sender")

    @first.on("go")
    @first.step
    async def step(ctx):
        ctx.emit("out.a", sender=ctx.run_id)

    @first.step
    async def linger():
        await gate()

    rt = await stores.enter(first, wf)
    await rt.emit("go")
    await settled(rt)
    gate.open()
    await settled(rt)
    assert seen == ["completed"]


async def test_an_idle_runtime_looks_for_nothing(stores):
    """Without outgoing events the outbox is never read, and no timer or task waits for it."""
    store = stores.store()
    wf, _ = listener()
    quiet = Workflow("quiet")

    @quiet.step
    async def step(n=0):
        return {"n": n + 1}

    @quiet.route(after="step")
    def again(n):
        return Jump("step") if n < 5 else None

    async def outbox(_query):
        raise AssertionError("there is nothing to look for")

    store.outbox = outbox
    rt = await stores.enter(quiet, wf, store=store)
    assert (await rt.run("quiet")).ok
    await (await rt.emit("out.a")).results()
    await run_until_idle(rt.clock)
    assert [task for task in asyncio.all_tasks() if task.get_name() == "poundlock-outbox"] == []
    rt._lifetime._outbox.stop()
    assert await rt.stop() is None
