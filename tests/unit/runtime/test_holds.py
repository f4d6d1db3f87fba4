"""Triggers that hold events: what is held is durable, is decided once, and nothing of it is lost."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from poundlock import (
    Batch,
    Condition,
    Debounce,
    Event,
    Exclusive,
    Serialized,
    SingletonLoop,
    Throttle,
    Transient,
    Trigger,
    Workflow,
    flow,
    workflow,
)
from poundlock.errors import IdempotencyConflict, InvalidDefinition, NotRegistered, StoreUnavailable
from poundlock.model.hold_checks import LARGEST_BATCH
from poundlock.testing import run_until_idle


def listener(seen, id="w", mode=None, state=None, event="e", **trigger):
    """A workflow that notes the state of each run."""
    wf = Workflow(id, mode=mode or Transient(capacity=10_000), state=state, triggers={"t": Trigger(event, **trigger)})

    @wf.step
    def note(state):
        seen.append(dict(state) if not isinstance(state, BaseModel) else state.model_dump())

    return wf


async def lines_of(rt, receipt):
    return await rt.store.receipt(receipt.event.source, receipt.event.id)


async def line_of(rt, receipt):
    [line] = await lines_of(rt, receipt)
    return line


async def verdicts(rt, receipts):
    return [str((await line_of(rt, receipt)).verdict) for receipt in receipts]


async def passes(rt, seconds):
    await rt.clock.run_for(seconds)
    await run_until_idle(rt.clock)


# -------------------------------------------------------------------------------------------------- debounce
async def test_a_debounce_decides_the_last_after_a_quiet_time(stores):
    """Each event starts the quiet time again; the last one starts a run, the others are dropped, in their receipts."""
    seen = []
    rt = await stores.enter(listener(seen, debounce="2s"))
    receipts = []
    for n in range(3):
        receipts.append(await rt.emit("e", n=n))
        await passes(rt, 1)
    assert [line.verdict for receipt in receipts for line in receipt] == ["delayed"] * 3
    assert receipts[2].lines[0].reason.startswith("debounce: until 20")
    assert (seen, receipts[2].run_ids, await receipts[2].results()) == ([], [], [])
    await passes(rt, 1.5)
    assert seen == [{"n": 2}]
    assert await verdicts(rt, receipts) == ["dropped", "dropped", "started"]
    assert (await line_of(rt, receipts[0])).reason == f"superseded by {receipts[1].event.id}"
    run_id = (await line_of(rt, receipts[2])).run_id
    assert (await rt.wait(run_id)).state == {"n": 2}
    assert (await rt.dead_letters(), rt.store.holding) == ([], 0)


async def test_a_debounce_has_a_longest_wait(stores):
    """However many events follow, the latest one is decided once the first has waited for the longest time."""
    seen = []
    rt = await stores.enter(listener(seen, debounce=Debounce("2s", longest="5s")))
    for n in range(9):
        await rt.emit("e", n=n)
        await passes(rt, 1)
    assert seen == [{"n": 4}]
    await passes(rt, 5)
    assert seen == [{"n": 4}, {"n": 8}]


async def test_a_debounce_holds_per_key(stores):
    """Events of different keys do not know each other."""
    seen = []
    rt = await stores.enter(listener(seen, debounce=2, key="k"))
    for k in ("a", "b", "a", "c"):
        await rt.emit("e", k=k)
    assert rt.store.holding == 3
    await passes(rt, 3)
    assert sorted(each["k"] for each in seen) == ["a", "b", "c"]


async def test_the_triggers_key_holds_and_the_modes_key_decides(stores):
    """With a key of the mode, a trigger without its own holds for all; the run counts in the mode's partition."""
    seen = []
    rt = await stores.enter(listener(seen, mode=Serialized(key="m"), debounce=2))
    await rt.emit("e", m="a")
    await rt.emit("e", m="b")
    assert rt.store.holding == 1
    await passes(rt, 3)
    [info] = (await rt.find_runs()).items
    assert (seen, info.key) == ([{"m": "b"}], "b")


# -------------------------------------------------------------------------------------------------- throttle
async def test_a_throttle_lets_some_through_and_holds_the_latest(stores):
    """The first n of a window start, the latest of the others when it ends; that begins the next window."""
    seen = []
    rt = await stores.enter(listener(seen, throttle=Throttle(2, "10s")))
    receipts = [await rt.emit("e", n=n) for n in range(5)]
    assert [str(receipt.verdicts[0]) for receipt in receipts] == ["started", "started", "delayed", "delayed", "delayed"]
    assert receipts[4].lines[0].reason.startswith("throttle: until ")
    await run_until_idle(rt.clock)
    assert [each["n"] for each in seen] == [0, 1]
    await passes(rt, 10.5)
    assert [each["n"] for each in seen] == [0, 1, 4]
    assert await verdicts(rt, receipts) == ["started", "started", "dropped", "dropped", "started"]
    assert (await rt.emit("e", n=5)).verdicts == ["started"]  # one of two in the new window
    assert (await rt.emit("e", n=6)).verdicts == ["delayed"]
    await passes(rt, 30)
    assert ([each["n"] for each in seen], rt.store.holding) == ([0, 1, 4, 5, 6], 0)


async def test_a_throttle_by_a_duration_is_one_each(stores):
    """A duration means one per that time; what the mode refuses does not count."""
    seen = []
    rt = await stores.enter(listener(seen, throttle="10s"))
    assert [(await rt.emit("e", n=n)).verdicts[0] for n in range(2)] == ["started", "delayed"]
    busy = Workflow("busy", mode=Exclusive(), triggers={"t": Trigger("b", throttle="10s"), "go": Trigger("go")})
    gate = asyncio.Event()

    @busy.step
    async def wait():
        await gate.wait()

    await rt.register(busy)
    await rt.emit("go")
    assert (await rt.emit("b")).verdicts == ["rejected"]
    gate.set()
    await run_until_idle(rt.clock)
    assert (await rt.emit("b")).verdicts == ["started"]


# -------------------------------------------------------------------------------------------------- batch
async def test_a_batch_is_one_run(stores):
    """The event that completes a batch starts its run, which has all payloads; all receipts name that run."""
    seen = []
    rt = await stores.enter(listener(seen, batch=Batch(3, within="5s")))
    receipts = [await rt.emit("e", n=n) for n in range(3)]
    assert [str(receipt.verdicts[0]) for receipt in receipts] == ["delayed", "delayed", "started"]
    assert receipts[1].lines[0].reason.startswith("batch: 2 of 3, until ")
    [result] = await receipts[2].results()
    assert seen == [{"events": [{"n": 0}, {"n": 1}, {"n": 2}]}]
    assert [(await line_of(rt, receipt)).run_id for receipt in receipts] == [result.run_id] * 3
    assert await verdicts(rt, receipts) == ["started"] * 3
    checkpoint = await rt.store.checkpoint(result.run_id)
    assert (checkpoint.event.id, checkpoint.event.payload) == (receipts[2].event.id, seen[0])


@pytest.mark.parametrize("mapped", [False, True])
async def test_an_event_that_nests_too_deep_for_a_batch(stores, mapped):
    """It is rejected when it comes, although it is valid by itself: what is held with it is decided as ever."""
    seen, deep = [], {"n": 0}
    for _ in range(62):
        deep = {"n": deep}
    options = {"map": lambda payload: {"n": payload["n"]}} if mapped else {}
    rt = await stores.enter(listener(seen, batch=Batch(2, within="5s"), **options))
    first, refused, last = [await rt.emit("e", payload) for payload in ({"n": 1}, deep, {"n": 2})]
    assert [str(receipt.lines[0].verdict) for receipt in (first, refused, last)] == ["delayed", "rejected", "started"]
    await run_until_idle(rt.clock)
    assert seen == [{"events": [{"n": 1}, {"n": 2}]}]


async def test_what_was_held_before_its_trigger_had_batches(stores):
    """An event that nests too deep for a batch is a dead letter, and the others that are held with it are decided."""
    stores.clock.autojump = False
    seen, deep = [], {"n": 0}
    for _ in range(62):
        deep = {"n": deep}
    rt = await stores.enter(listener(seen, delay="1h"))
    await rt.emit("e", {"n": 1})
    await rt.emit("e", deep)
    await rt.deregister("w")
    await rt.register(listener(seen, batch=Batch(5, within="1h")))
    await passes(rt, 7200)
    assert seen == [{"events": [{"n": 1}]}]
    [letter] = await rt.dead_letters()
    assert letter.event.payload == deep
    assert not rt.store.holding


async def test_a_batch_ends_in_time(stores):
    """The time counts from the first event; then the run starts with what there is."""
    seen = []
    rt = await stores.enter(listener(seen, batch=Batch(3, within="5s"), key="k"))
    receipts = [await rt.emit("e", k="a", n=0)]
    await passes(rt, 4)
    receipts.append(await rt.emit("e", k="a", n=1))
    await rt.emit("e", k="b", n=2)
    await passes(rt, 1.5)
    assert seen == [{"events": [{"k": "a", "n": 0}, {"k": "a", "n": 1}]}]
    assert await verdicts(rt, receipts) == ["started", "started"]
    await passes(rt, 5)
    assert seen[1] == {"events": [{"k": "b", "n": 2}]}


async def test_a_batch_of_one_holds_nothing(stores):
    """Each event of such a batch starts a run, in the same shape."""
    seen = []
    rt = await stores.enter(listener(seen, batch=Batch(1, within=5)))
    assert (await rt.emit("e", n=1)).verdicts == ["started"]
    await run_until_idle(rt.clock)
    assert (seen, rt.store.holding) == ([{"events": [{"n": 1}]}], 0)


async def test_map_is_called_for_each_event_of_a_batch(stores):
    """What `map` returns stands in the batch; where it raises, that event alone is rejected."""
    seen = []
    wf = listener(seen, batch=Batch(2, within=5), map=lambda payload: payload["n"] * 10)
    rt = await stores.enter(wf)
    await rt.emit("e", n=1)
    bad = await rt.emit("e", m=1)
    assert (str(bad.verdicts[0]), bad.lines[0].reason) == ("rejected", "KeyError: 'n'")
    await rt.emit("e", n=2)
    await run_until_idle(rt.clock)
    assert seen == [{"events": [10, 20]}]


async def test_a_batch_has_a_state_model(stores):
    """A model of the state has the list `events`; a batch that does not fit is a dead letter as a whole."""

    class Readings(BaseModel):
        events: list[dict[str, int]]

    seen = []
    rt = await stores.enter(listener(seen, state=Readings, batch=Batch(2, within=5)))
    for n in (1, 2):
        await rt.emit("e", n=n)
    await run_until_idle(rt.clock)
    assert seen == [{"events": [{"n": 1}, {"n": 2}]}]
    first = await rt.emit("e", n="x")
    last = await rt.emit("e", n=3)
    assert last.verdicts == ["rejected"]
    assert await verdicts(rt, [first, last]) == ["rejected", "rejected"]
    [letter] = await rt.dead_letters()
    assert letter.event.payload == {"events": [{"n": "x"}, {"n": 3}]}
    assert (letter.run_id, letter.held_by, letter.to_dict()["held_by"]) == ("", "w/t", "w/t")
    assert (await rt.emit(last.event)).verdicts == ["duplicate"]  # it is in the letter


# -------------------------------------------------------------------------------------------------- delay
async def test_a_delay_holds_each_event(stores):
    """Each event is decided after its own delay, in order."""
    seen = []
    rt = await stores.enter(listener(seen, delay="1h"))
    receipts = [await rt.emit("e", n=0), await rt.emit("e", n=1)]
    assert receipts[0].lines[0].reason.startswith("delay: until ")
    await passes(rt, 1800)
    receipts.append(await rt.emit("e", n=2))
    await passes(rt, 1801)
    assert sorted(each["n"] for each in seen) == [0, 1]
    assert await verdicts(rt, receipts) == ["started", "started", "delayed"]
    await passes(rt, 1801)
    assert sorted(each["n"] for each in seen) == [0, 1, 2]


async def test_a_delay_of_a_month_is_remembered(stores):
    """An event is not forgotten before it is decided: a copy is a duplicate, also long after the usual window."""
    seen = []
    rt = await stores.enter(listener(seen, delay="30d"))
    receipt = await rt.emit("e", n=0)
    await passes(rt, 20 * 86_400)
    assert (await rt.emit(receipt.event)).verdicts == ["duplicate"]
    await passes(rt, 11 * 86_400)
    assert (seen, await verdicts(rt, [receipt])) == ([{"n": 0}], ["started"])


# -------------------------------------------------------------------------------------------------- what goes on
@pytest.mark.parametrize("hold", [{"debounce": 2}, {"delay": 2}, {"throttle": 2}, {"batch": Batch(9, 2)}])
async def test_when_filters_before_anything_is_held(stores, hold):
    """An event that the trigger does not want is filtered, and neither held nor superseding."""
    seen = []
    rt = await stores.enter(listener(seen, when=[Condition("n", ">", 1)], **hold))
    assert (await rt.emit("e", n=1)).verdicts == ["filtered"]
    assert rt.store.holding == 0


async def test_a_held_event_that_cannot_start_a_run_is_rejected_at_once(stores):
    """Its emitter hears of a state that does not fit, of a `map` that raises and of a missing key, when it emits."""

    class Named(BaseModel):
        name: str

    seen = []
    rt = await stores.enter(
        listener(seen, state=Named, delay=2),
        listener(seen, "keyed", event="k", debounce=2, key="id"),
        listener(seen, "mapped", event="m", delay=2, map=lambda payload: 1 / 0),
    )
    lines = [(await rt.emit(*what)).lines[0] for what in (("e", {"name": 1}), ("k", {}), ("m", {}))]
    assert [str(line.verdict) for line in lines] == ["rejected"] * 3
    assert [line.reason.split(":")[0] for line in lines] == ["STATE_INVALID", "INVALID_EVENT", "ZeroDivisionError"]
    assert rt.store.holding == 0


async def test_map_state_and_priority_go_on_working(stores):
    """What comes out of a hold begins with what `map` returned when it came in, and is queued by its priority."""

    class Named(BaseModel):
        name: str
        times: int = 1

    seen, calls, gate = [], [], asyncio.Event()

    def named(payload):
        calls.append(payload)
        return Named(name=payload["n"].upper())

    wf = Workflow("w", mode=Serialized(), state=Named)
    wf.on("now", map=lambda payload: {"name": "now"})
    wf.on("later", map=named, delay=2, priority=5)
    wf.on("low", map=lambda payload: {"name": "low"}, delay=1)

    @wf.step
    async def note(state):
        seen.append(state.name)
        await gate.wait()

    rt = await stores.enter(wf)
    await rt.emit("now")
    await rt.emit("low")
    receipt = await rt.emit("later", n="x")
    await passes(rt, 3)
    assert (await line_of(rt, receipt)).verdict == "queued"
    gate.set()
    await run_until_idle(rt.clock)
    assert (len(seen), len(calls)) == (3, 1)
    assert sorted(seen) == ["X", "low", "now"]


async def test_a_hold_may_end_in_a_signal(stores):
    """What signals a run need not be a state of its own."""

    class Full(BaseModel):
        name: str
        n: int = 0

    got, gate = [], asyncio.Event()
    wf = Workflow("w", mode=SingletonLoop("signal"), state=Full)
    wf.on("go")
    wf.on("more", debounce=2)

    @wf.step
    async def first():
        await gate.wait()

    @wf.step
    def second(state):
        got.append(state.n)

    rt = await stores.enter(wf)
    await rt.emit("go", name="a")
    receipt = await rt.emit("more", n=7)
    assert receipt.verdicts == ["delayed"]
    await passes(rt, 3)
    line = await line_of(rt, receipt)
    assert (str(line.verdict), line.run_id is not None) == ("signalled", True)
    gate.set()
    await run_until_idle(rt.clock)
    assert got == [7]


async def test_on_dispatch_hears_of_each_decision(stores):
    """The hook is called when an event is held, superseded, and decided."""
    heard = []
    rt = await stores.enter()
    await rt.register(listener([], debounce=2), on_dispatch=lambda line: heard.append(str(line.verdict)))
    await rt.emit("e")
    await rt.emit("e")
    assert heard == ["delayed", "delayed", "dropped"]
    await passes(rt, 3)
    assert heard[3:] == ["started"]
    counts = rt.statistics()
    assert (counts["event:delayed"], counts["event:dropped"], counts["event:started"]) == (2, 1, 1)


async def test_an_event_is_held_once(stores):
    """A copy of a held event is a duplicate; the same id with other content is a conflict; so it is after the end."""
    seen = []
    rt = await stores.enter(listener(seen, debounce=2))
    first = await rt.emit(Event("e", {"n": 1}, id="x"))
    second = await rt.emit(Event("e", {"n": 2}, id="y"))
    for _ in range(2):
        for receipt in (first, second):  # the first was superseded, and is remembered too
            assert (await rt.emit(receipt.event)).verdicts == ["duplicate"]
        with pytest.raises(IdempotencyConflict):
            await rt.emit(Event("e", {"n": 3}, id="y"))
        await passes(rt, 3)
    assert seen == [{"n": 2}]


FOR_TWO_SECONDS = {
    "debounce": {"debounce": 2},
    "throttle": {"throttle": Throttle(1, per=2)},
    "delay": {"delay": 2},
    "batch": {"batch": Batch(5, within=2)},
}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("kind", FOR_TWO_SECONDS)
async def test_a_copy_leaves_the_receipt_and_gets_the_run(stores, kind, restart):
    """A copy of a held event changes no receipt, and names the run as soon as the hold has one."""
    seen = []
    rt = await stores.enter(listener(seen, **FOR_TWO_SECONDS[kind]))
    if kind == "throttle":
        await rt.emit("e", n=0)
    receipt = await rt.emit("e", n=1)
    held = await line_of(rt, receipt)
    assert held.verdict == "delayed"
    [copy] = (await rt.emit(receipt.event)).lines
    assert (copy.verdict, copy.run_id) == ("duplicate", None)
    assert await line_of(rt, receipt) == held
    await passes(rt, 3)
    if restart:
        await stores.crash(rt)
        rt = await stores.enter(listener(seen, **FOR_TWO_SECONDS[kind]))
    started = await line_of(rt, receipt)
    assert started.verdict == "started"
    [copy] = (await rt.emit(receipt.event)).lines
    assert (copy.verdict, copy.run_id) == ("duplicate", started.run_id)
    assert await line_of(rt, receipt) == started


async def test_a_copy_of_what_was_refused_after_its_hold(stores):
    """Its receipt goes on to say that it was refused, and why."""
    seen = []
    rt = await stores.enter(listener(seen, debounce=2))
    first, second = await rt.emit("e", n=1), await rt.emit("e", n=2)
    dropped = await line_of(rt, first)
    assert (dropped.verdict, dropped.reason) == ("dropped", f"superseded by {second.event.id}")
    assert (await rt.emit(first.event)).verdicts == ["duplicate"]
    assert await line_of(rt, first) == dropped


async def test_without_a_memory_a_copy_is_held_again(stores):
    """A trigger that remembers no ids may supersede an event with its own copy; its receipt says what is held."""
    seen = []
    rt = await stores.enter(listener(seen, debounce=2, dedupe=None))
    receipt = await rt.emit("e", n=1)
    await rt.emit(receipt.event)
    assert await verdicts(rt, [receipt]) == ["delayed"]
    await passes(rt, 3)
    assert (seen, await verdicts(rt, [receipt])) == ([{"n": 1}], ["started"])


async def test_explain_says_what_would_happen(stores):
    """It changes nothing: not the hold, not its time, not what is remembered."""
    seen = []
    rt = await stores.enter(
        listener(seen, debounce=2, event="d"),
        listener(seen, "b", event="b", batch=Batch(2, 5)),
        listener(seen, "t", event="t", throttle="5s"),
        listener(seen, "l", event="l", delay=3),
    )
    for event, first, second in (
        ("d", "delayed", "delayed"),
        ("b", "delayed", "started"),
        ("t", "started", "delayed"),
        ("l", "delayed", "delayed"),
    ):
        assert (await rt.explain(event)).verdicts == [first]
        await rt.emit(event)
        before = [await rt.store.due_holds(["w", "b", "t", "l"], 9), await rt.store.stats()]
        assert (await rt.explain(event)).verdicts == [second]
        now = [await rt.store.due_holds(["w", "b", "t", "l"], 9), await rt.store.stats()]
        assert now[0] == before[0]
        assert now[1]["held"] == before[1]["held"] if "held" in before[1] else "held" not in now[1]


async def test_invoke_passes_by(stores):
    """`run` and `invoke` start a run at once, whatever the trigger holds."""
    seen = []
    rt = await stores.enter(listener(seen, delay="1h"))
    await rt.invoke("w", "t", Event("e", {"n": 1}))
    assert seen == [{"n": 1}]


async def test_an_event_for_several_triggers_is_decided_by_each(stores):
    """Triggers that hold and those that do not decide in one commit; a batch has its own event beside the others'."""
    seen = []
    wf = Workflow(
        "w",
        triggers={
            "now": Trigger("e"),
            "batch": Trigger("e", batch=Batch(2, 5)),
            "delay": Trigger("e", delay=1),
        },
    )

    @wf.step
    def note(state, event: Event):
        seen.append((dict(state), event.payload))

    rt = await stores.enter(wf)
    assert (await rt.emit("e", n=1)).verdicts == ["started", "delayed", "delayed"]
    assert (await rt.emit("e", n=2)).verdicts == ["started", "started", "delayed"]
    await passes(rt, 2)
    both = {"events": [{"n": 1}, {"n": 2}]}
    expected = [({"n": 1}, {"n": 1})] * 2 + [({"n": 2}, {"n": 2})] * 2 + [(both, both)]
    assert sorted(seen, key=str) == sorted(expected, key=str)
    assert (await rt.store.stats())["events"] == 5


async def test_what_a_step_emits_is_held_like_any_other(stores):
    """An event of the outbox leaves it when it is held; it is decided when the hold ends."""
    seen = []
    sender = Workflow("s")

    @sender.step
    def send(ctx):
        ctx.emit("e", {"n": 1})

    rt = await stores.enter(sender, listener(seen, debounce=2))
    await rt.run("s")
    await run_until_idle(rt.clock)
    assert (rt.store.undelivered, rt.store.holding) == ((0, 0), 1)
    await passes(rt, 3)
    assert seen == [{"n": 1}]


@pytest.mark.parametrize("make", ["on", "flow", "function"])
async def test_all_ways_of_writing_can_hold(stores, make):
    """`wf.on`, `flow.on` and `@workflow` take the same holds as `Trigger`."""
    seen = []

    def note(n: int):
        seen.append(n)

    if make == "on":
        made = Workflow("w")
        made.on("e", debounce="2s")(made.step(note))
    elif make == "flow":
        made = flow("w").on("e", debounce="2s").pipe(note).build()
    else:

        @workflow("w", on="e", debounce="2s")
        async def made(step, event):
            seen.append(event.payload["n"])

    rt = await stores.enter(made)
    for n in (1, 2):
        assert (await rt.emit("e", n=n)).verdicts == ["delayed"]
    await passes(rt, 3)
    assert seen == [2]


# -------------------------------------------------------------------------------------------------- refusals
async def test_what_is_refused_when_its_hold_ends_is_a_dead_letter(stores):
    """The receipt says so; a replay decides the same event again, whatever is remembered; a refusal brings it back."""
    seen, gate = [], asyncio.Event()
    wf = Workflow("w", mode=Exclusive())
    wf.on("go")
    wf.on("e", delay=2)

    @wf.step
    async def note(state):
        seen.append(dict(state))
        await gate.wait()

    rt = await stores.enter(wf)
    await rt.emit("go")
    receipt = await rt.emit("e", n=1)
    await passes(rt, 3)
    line = await line_of(rt, receipt)
    assert str(line.verdict) == "rejected"
    [letter] = await rt.dead_letters()
    assert (letter.event.id, letter.event.payload, letter.held_by) == (receipt.event.id, {"n": 1}, "w/e")
    assert line.reason in letter.error
    assert (await rt.emit(receipt.event)).verdicts == ["duplicate"]
    await rt.replay(letter.id)
    await run_until_idle(rt.clock)
    [again] = await rt.dead_letters()
    assert (again.id, rt.store.undelivered) == (letter.id, (0, 1))
    gate.set()
    await run_until_idle(rt.clock)
    await rt.replay(letter.id)
    await run_until_idle(rt.clock)
    assert (seen, rt.store.undelivered) == ([{}, {"n": 1}], (0, 0))
    assert str((await line_of(rt, receipt)).verdict) == "started"


async def test_a_dropped_one_is_a_dead_letter_too(stores):
    """Also what a SingletonLoop drops while it is busy: its emitter was told that it is held."""
    gate = asyncio.Event()
    wf = Workflow("w", mode=SingletonLoop("drop"))
    wf.on("go")
    wf.on("e", throttle="2s", id="t")

    @wf.step
    async def note():
        await gate.wait()

    rt = await stores.enter(wf)
    await rt.emit("e")
    receipt = await rt.emit("e")
    assert receipt.verdicts == ["delayed"]
    await passes(rt, 3)
    assert await verdicts(rt, [receipt]) == ["dropped"]
    assert len(await rt.dead_letters()) == 1
    assert rt.store.holding == 0  # nothing was let through, so there is no new window
    gate.set()


async def test_a_batch_is_replayed_as_a_batch(stores):
    """A dead letter that was a batch starts one run for all of it, in its partition, without `map` again."""
    seen, gate, calls = [], asyncio.Event(), []

    def mapped(payload):
        calls.append(payload)
        return payload["n"]

    wf = Workflow("w", mode=Exclusive(key="k"))
    wf.on("go")
    wf.on("e", batch=Batch(9, 2), map=mapped, id="t")

    @wf.step
    async def note(state):
        seen.append(dict(state))
        await gate.wait()

    rt = await stores.enter(wf)
    await rt.emit("go", k="a")
    for n in (1, 2):
        await rt.emit("e", k="a", n=n)
    await passes(rt, 3)
    [letter] = await rt.dead_letters()
    gate.set()
    await run_until_idle(rt.clock)
    await rt.replay(letter.id)
    await run_until_idle(rt.clock)
    assert (seen[1:], len(calls)) == ([{"events": [1, 2]}], 2)
    assert [info.key for info in (await rt.find_runs()).items] == ["a", "a"]


# -------------------------------------------------------------------------------------------------- without workflow
async def test_holds_wait_for_their_workflow(stores):
    """What a workflow holds stays while it is not registered, and is decided when it is again, also much later."""
    seen = []
    rt = await stores.enter(listener(seen, debounce=2), listener([], "other", event="o", delay=1))
    receipt = await rt.emit("e", n=1)
    await rt.deregister("w")
    await rt.emit("o")
    await passes(rt, 100)
    assert (seen, rt.store.holding) == ([], 1)
    await rt.register(listener(seen, debounce=2))
    await run_until_idle(rt.clock)
    assert (seen, await verdicts(rt, [receipt])) == ([{"n": 1}], ["started"])


async def test_holds_survive_a_restart(stores):
    """The next runtime ends what was held, at its time; what became due meanwhile at once."""
    seen = []

    def workflows():
        return [listener(seen, delay=5), listener(seen, "b", event="b", batch=Batch(3, 50))]

    rt = await stores.enter(*workflows())
    await rt.emit("e", n=1)
    await rt.emit("b", n=2)
    await rt.stop()
    stores.clock.advance(10)
    rt = await stores.enter(*workflows())
    await run_until_idle(rt.clock)
    assert seen == [{"n": 1}]
    await rt.emit("b", n=3)
    await passes(rt, 41)
    assert seen[1] == {"events": [{"n": 2}, {"n": 3}]}


async def test_the_trigger_may_be_gone(stores):
    """Events of a trigger that the workflow no longer has are dead letters; they can be replayed once it is back."""
    seen = []
    rt = await stores.enter(listener(seen, delay=5), listener(seen, "b", event="b", batch=Batch(3, 5)))
    receipt = await rt.emit("e", n=1)
    for n in (2, 3):
        await rt.emit("b", n=n)
    await rt.stop()
    gone = [Workflow("w"), Workflow("b")]
    for wf in gone:
        wf.step(lambda: None, stage="nothing")
    rt = await stores.enter(*gone)
    await passes(rt, 6)
    assert (await line_of(rt, receipt)).reason.startswith("NOT_REGISTERED: workflow 'w' has no trigger 't' any more")
    single, batch = sorted(await rt.dead_letters(), key=lambda letter: "events" in letter.event.payload)
    assert (single.event.payload, batch.event.payload) == ({"n": 1}, {"events": [{"n": 2}, {"n": 3}]})
    with pytest.raises(NotRegistered, match="register the workflow, then replay it"):
        await rt.replay(single.id)
    assert len(await rt.dead_letters()) == 2
    await rt.stop()
    rt = await stores.enter(listener(seen, delay=5), listener(seen, "b", event="b", batch=Batch(3, 5)))
    for letter in (single, batch):
        await rt.replay(letter.id)
    await run_until_idle(rt.clock)
    assert sorted(seen, key=str) == [{"events": [{"n": 2}, {"n": 3}]}, {"n": 1}]


HOLDS = {
    "none": {},
    "debounce": {"debounce": 5},
    "throttle": {"throttle": 5},
    "batch": {"batch": Batch(3, 5)},
    "delay": {"delay": 5},
}


@pytest.mark.parametrize("after", HOLDS)
@pytest.mark.parametrize("before", [name for name in HOLDS if name != "none"])
async def test_the_hold_may_have_changed(stores, before, after):
    """What is held is decided as the trigger is at the end: as a batch if it collects them, else each by itself."""
    seen = []
    rt = await stores.enter(listener(seen, **HOLDS[before]))
    receipts = [await rt.emit("e", n=n) for n in range(2)]
    await run_until_idle(rt.clock)
    held = [each["n"] for each in ({"n": 0}, {"n": 1}) if each not in seen]
    if before == "debounce":
        held = [1]
    await rt.stop()
    was = list(seen)
    rt = await stores.enter(listener(seen, **HOLDS[after]))
    await passes(rt, 6)
    came = [each for each in seen if each not in was]
    if after == "batch":
        payloads = [each["n"] for run in came for each in run["events"]]
        assert len(came) == (2 if before == "delay" else 1)
    else:
        payloads = [each["n"] for each in came]
    assert sorted(payloads) == held
    assert (await rt.dead_letters(), (await rt.store.stats()).get("held", 0)) == ([], 0)
    assert "delayed" not in await verdicts(rt, receipts)


async def test_a_new_event_ends_a_hold_of_another_kind_first(stores):
    """What the trigger held in another way is decided before the next event is taken, not after its time."""
    seen = []
    rt = await stores.enter(listener(seen, debounce=500))
    await rt.emit("e", n=0)
    await rt.stop()
    rt = await stores.enter(listener(seen, throttle=500))
    await run_until_idle(rt.clock)
    assert seen == []
    assert (await rt.emit("e", n=1)).verdicts == ["delayed"]  # the first began a window
    await run_until_idle(rt.clock)
    assert seen == [{"n": 0}]
    await passes(rt, 501)
    assert seen == [{"n": 0}, {"n": 1}]


async def test_many_events_of_a_batch_may_come_out_one_by_one(stores):
    """A batch that is no batch any more is decided in portions; none is lost or decided twice."""
    seen = []
    rt = await stores.enter(listener(seen, batch=Batch(1000, 5)))
    for n in range(150):
        await rt.emit("e", n=n)
    await rt.stop()
    rt = await stores.enter(listener(seen))
    await passes(rt, 6)
    assert sorted(each["n"] for each in seen) == list(range(150))
    assert rt.store.holding == 0


# -------------------------------------------------------------------------------------------------- faults
@pytest.mark.parametrize(
    ("given", "path", "text"),
    [
        ({"debounce": 1, "delay": 1}, "delay", "a trigger has one hold"),
        ({"batch": Batch(3, 5), "throttle": 1}, "batch", "a trigger has one hold"),
        ({"debounce": "soon"}, "debounce", "is not a duration"),
        ({"debounce": 0}, "debounce", "holds for no time"),
        ({"debounce": Debounce("2s", longest="1s")}, "debounce.longest", "shorter than the quiet time"),
        ({"debounce": Debounce(None)}, "debounce.quiet", "a time is missing"),
        ({"debounce": Throttle(1, 1)}, "debounce", "is not a duration"),
        ({"throttle": Throttle(0, 1)}, "throttle.n", "whole number"),
        ({"throttle": Throttle(1, "x")}, "throttle.per", "is not a duration"),
        ({"batch": 3}, "batch", "is not a Batch"),
        ({"batch": Batch(LARGEST_BATCH + 1, 5)}, "batch.n", "whole number"),
        ({"batch": Batch(3, -1)}, "batch.within", "is not a duration"),
        ({"delay": 0.0}, "delay", "holds for no time"),
        ({"delay": 1, "event": None}, "delay", "name the event type"),
    ],
)
async def test_faults_of_a_hold_are_found_at_registration(stores, given, path, text):
    """A hold that cannot work, or two of them, is a fault with its path; nothing is registered."""
    rt = await stores.enter()
    with pytest.raises(InvalidDefinition) as refused:
        await rt.register(listener([], **given))
    assert f"triggers.t.{path}" in str(refused.value)
    assert text in str(refused.value)


# -------------------------------------------------------------------------------------------------- time
async def test_one_timer_for_all(stores):
    """However many holds there are, one timer waits for the earliest; without any there is none."""
    rt = await stores.enter(listener([], delay=50), listener([], "k", event="k", debounce=40, key="k"))
    before = rt.clock.pending
    for n in range(20):
        await rt.emit("e")
        await rt.emit("k", k=n)
    await run_until_idle(rt.clock)
    assert rt.clock.pending == before + 1
    assert rt.statistics()["holds"] == 40


async def test_a_jump_of_the_clock_ends_what_is_due(stores):
    """After a jump forward what is due is decided; set back, a hold of the next event lasts no longer than usual."""
    seen = []
    rt = await stores.enter(listener(seen, delay="2h"), listener(seen, "d", event="d", throttle="10s"))
    await rt.emit("e", n=1)
    rt.clock.set(rt.clock.now() + 86_400)
    await passes(rt, 61)
    assert seen == [{"n": 1}]
    await rt.emit("d", n=2)
    rt.clock.set(rt.clock.now() - 86_400)
    await rt.emit("d", n=3)
    await passes(rt, 11)
    assert seen[1:] == [{"n": 2}, {"n": 3}]


async def test_many_that_are_due_at_once_do_not_hold_up_others(stores):
    """A portion of each workflow is ended in turn: one event of another comes out long before the last of many."""
    seen = []
    rt = await stores.enter(
        listener(seen, mode=Transient(1000, capacity=None), delay=5), listener(seen, "other", event="o", delay=5)
    )
    for n in range(400):
        await rt.emit("e", n=n)
    await rt.emit("o", other=True)
    await passes(rt, 6)
    assert len(seen) == 401
    assert seen.index({"other": True}) < 200


async def test_a_hold_that_cannot_be_read_does_not_hold_up_others(stores, monkeypatch, caplog):
    """It stays, is named in the log, and is tried again."""
    seen = []
    rt = await stores.enter(listener(seen, delay=5, key="k"))
    for k in ("bad", "good"):
        await rt.emit("e", k=k)
    inner, broken = type(rt.store.inner), []
    held = inner.held_events

    async def unreadable(self, key, limit):
        rows = await held(self, key, limit)
        if rows[0].event.payload == {"k": "bad"} and not broken:
            broken.append(key)
            raise ValueError("what a byte")
        return rows

    monkeypatch.setattr(inner, "held_events", unreadable)
    await passes(rt, 6)
    assert (seen, len(broken)) == ([{"k": "good"}], 1)
    assert "what a byte" in caplog.text
    await passes(rt, 60)
    assert len(seen) == 2


async def test_a_store_that_fails_for_a_time_loses_nothing(stores):
    """The end of a hold is repeated until the store takes it."""
    seen, faults = [], [StoreUnavailable("away", store="x")] * 3
    rt = await stores.enter(listener(seen, delay=5))
    await rt.emit("e", n=1)
    rt.store.failing = lambda _number, changes: faults.pop() if changes.holds and faults else None
    await passes(rt, 30)
    assert (seen, faults) == ([{"n": 1}], [])


async def test_a_hold_whose_commit_was_not_answered_ends_all_the_same(stores):
    """An emit that fails because its answer was lost may have held its event: then that is decided at its time."""
    seen = []
    rt = await stores.enter(listener(seen, delay=5))
    rt.store.hold_after = holds_more
    emitting = asyncio.create_task(rt.emit("e", n=1))
    [held] = await rt.store.until_held()
    held.fail(StoreUnavailable("away", store="x"))
    with pytest.raises(StoreUnavailable):
        await emitting
    rt.store.hold_after = None
    await passes(rt, 6)
    assert seen == [{"n": 1}]


async def test_the_end_of_a_hold_whose_commit_was_not_answered_is_carried_out(stores):
    """A run that was started by an end whose answer was lost is driven, and is not started again."""
    seen = []
    rt = await stores.enter(listener(seen, delay=5))
    receipt = await rt.emit("e", n=1)
    rt.store.hold_after = ends_a_hold
    await rt.clock.run_for(5.5)
    [end] = await rt.store.until_held()
    rt.store.hold_after = None
    end.fail(StoreUnavailable("away", store="x"))
    await passes(rt, 30)
    assert (seen, rt.store.holding) == ([{"n": 1}], 0)
    assert (await rt.wait((await line_of(rt, receipt)).run_id)).status == "completed"


async def test_events_that_are_due_together_come_out_in_order(stores):
    """A queue has the events of a delay in the order in which they came, however many end in the same moment."""
    seen = []
    rt = await stores.enter(listener(seen, mode=Serialized(), delay=5))
    for n in range(100):
        await rt.emit("e", n=n)
    await passes(rt, 6)
    assert [each["n"] for each in seen] == list(range(100))


# -------------------------------------------------------------------------------------------------- races
def ends_a_hold(changes):
    return any(change.hold is None for change in changes.holds)


def holds_more(changes):
    return any(change.add is not None for change in changes.holds)


async def test_an_event_behind_the_end_of_a_hold_begins_a_new_one(stores):
    """An event that comes while the end is being committed is held anew, whichever commit is written first."""
    seen = []
    rt = await stores.enter(listener(seen, debounce=2))
    first = await rt.emit("e", n=1)
    rt.store.hold = ends_a_hold
    await rt.clock.run_for(2.5)
    [end] = await rt.store.until_held()
    emitting = asyncio.create_task(rt.emit("e", n=2))
    await run_until_idle(rt.clock)
    assert seen == []
    rt.store.hold = None
    end.release()
    second = await emitting
    assert second.verdicts == ["delayed"]
    await run_until_idle(rt.clock)
    assert (seen, await verdicts(rt, [first])) == ([{"n": 1}], ["started"])
    await passes(rt, 3)
    assert (seen, await verdicts(rt, [second])) == ([{"n": 1}, {"n": 2}], ["started"])


async def test_an_event_that_is_being_held_is_not_overtaken_by_the_timer(stores):
    """While the commit of an event that restarts the quiet time is under way, the hold does not end."""
    seen = []
    rt = await stores.enter(listener(seen, debounce=2))
    first = await rt.emit("e", n=1)
    await passes(rt, 1)
    rt.store.hold = holds_more
    emitting = asyncio.create_task(rt.emit("e", n=2))
    [held] = await rt.store.until_held()
    await rt.clock.run_for(1.5)
    await run_until_idle(rt.clock)
    assert seen == []
    rt.store.hold = None
    held.release()
    second = await emitting
    await run_until_idle(rt.clock)
    assert (seen, await verdicts(rt, [first, second])) == ([], ["dropped", "delayed"])
    await passes(rt, 2)
    assert (seen, await verdicts(rt, [first, second])) == ([{"n": 2}], ["dropped", "started"])


async def test_an_event_after_the_time_does_not_supersede(stores):
    """Once the quiet time is over, the held event is decided before the next is taken, also if the timer is late."""
    seen = []
    rt = await stores.enter(listener(seen, debounce=2))
    rt._lifetime._holds.stop()  # the timer comes too late
    await rt.emit("e", n=1)
    rt._lifetime._holds.stop()
    rt.clock.advance(3)
    second = await rt.emit("e", n=2)
    await run_until_idle(rt.clock)
    assert (seen, second.verdicts) == ([{"n": 1}], ["delayed"])


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_thousand_at_once_share_commits(stores, key):
    """Events for one key do not refuse each other: all are taken, in one line, and decided once."""
    seen = []
    rt = await stores.enter(listener(seen, batch=Batch(10, 5), key=key))
    receipts = await asyncio.gather(*(rt.emit("e", n=n, k=n % 3) for n in range(300)))
    await passes(rt, 6)
    assert sorted(each["n"] for run in seen for each in run["events"]) == list(range(300))
    assert all(len(run["events"]) == 10 for run in seen)
    assert set(await verdicts(rt, receipts)) <= {"started", "queued"}


async def test_the_same_event_twice_at_once_is_held_once(stores):
    """Of two copies that are emitted together one is held, the other is a duplicate."""
    seen = []
    rt = await stores.enter(listener(seen, batch=Batch(10, 5)))
    event = Event("e", {"n": 1})
    both = await asyncio.gather(rt.emit(event), rt.emit(event))
    assert sorted(str(receipt.verdicts[0]) for receipt in both) == ["delayed", "duplicate"]
    await passes(rt, 6)
    assert seen == [{"events": [{"n": 1}]}]


async def test_an_emitter_that_is_cancelled_leaves_a_hold_that_ends(stores):
    """A cancelled emit may have held its event: then it is decided at its time all the same."""
    seen = []
    rt = await stores.enter(listener(seen, delay=2))
    rt.store.hold_after = holds_more
    emitting = asyncio.create_task(rt.emit("e", n=1))
    [held] = await rt.store.until_held()
    emitting.cancel()
    await asyncio.wait([emitting])
    rt.store.hold_after = None
    held.release()
    await passes(rt, 3)
    assert seen == [{"n": 1}]


async def test_a_stop_lets_the_end_of_a_hold_come_to_its_commit(stores):
    """A runtime that stops while a hold ends leaves it ended or held, and the next one goes on from there."""
    seen = []
    rt = await stores.enter(listener(seen, delay=2))
    receipt = await rt.emit("e", n=1)
    rt.store.hold = ends_a_hold
    await rt.clock.run_for(2.5)
    [end] = await rt.store.until_held()
    stopping = asyncio.create_task(rt.stop())
    await run_until_idle(rt.clock)
    rt.store.hold = None
    end.release()
    await stopping
    rt = await stores.enter(listener(seen, delay=2))
    await passes(rt, 3)
    assert (seen, await verdicts(rt, [receipt])) == ([{"n": 1}], ["started"])


async def test_deregistering_while_a_hold_ends(stores):
    """A workflow that leaves while its hold ends runs what was decided; the rest is held on."""
    seen = []
    rt = await stores.enter(listener(seen, delay=2))
    await rt.emit("e", n=1)
    rt.store.hold = ends_a_hold
    await rt.clock.run_for(2.5)
    [end] = await rt.store.until_held()
    leaving = asyncio.create_task(rt.deregister("w"))
    await run_until_idle(rt.clock)
    rt.store.hold = None
    end.release()
    await leaving
    await run_until_idle(rt.clock)
    await rt.register(listener(seen, delay=2))
    await passes(rt, 3)
    assert seen == [{"n": 1}]
