"""From an event to the lines of its receipt."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from poundlock import (
    Condition,
    Event,
    Exclusive,
    IdempotencyConflict,
    InvalidEvent,
    NotStorable,
    Serialized,
    SingletonLoop,
    Trigger,
    Verdict,
    Workflow,
    WorkflowRuntime,
)
from poundlock.pipeline.binding import TriggerFunctions
from poundlock.runtime.dispatch import Route, answer_of


def workflow(id="orders", *triggers, mode=None, state=None, **options):
    """A workflow of one step that keeps the state as it is."""
    wf = Workflow(id, mode=mode, state=state)
    for trigger in triggers or ("order.placed",):
        wf.on(trigger, **options)

    @wf.step
    async def keep():
        return None

    return wf


def triggered(id, **triggers):
    wf = Workflow(id, triggers=triggers)

    @wf.step
    async def keep():
        return None

    return wf


# -- which triggers are asked
@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("order.placed", {"order.placed"}),
        ("order.*", {"order.placed", "order.gone"}),
        ("order.**", {"order", "order.placed", "order.gone", "order.line.added"}),
        ("*", {"order", "order.placed", "order.gone", "order.line.added", "other"}),
    ],
)
async def test_exact_types_and_patterns_choose_the_events(runtime, pattern, fits):
    """A trigger hears of the types its exact name or dotted pattern fits, and of no others."""
    rt = await runtime(workflow("one", pattern))
    types = ["order", "order.placed", "order.gone", "order.line.added", "other"]
    verdicts = {type: (await rt.emit(type)).verdicts for type in types}
    assert {type for type, [verdict] in verdicts.items() if verdict is Verdict.STARTED} == fits
    assert {type for type, [verdict] in verdicts.items() if verdict is Verdict.UNMATCHED} == set(types) - fits


async def test_a_receipt_has_a_line_per_trigger_of_a_fitting_type(runtime):
    """Each trigger whose type fits has its line, over all workflows; the others have none."""
    both = triggered("both", exact=Trigger("a.b"), pattern=Trigger("a.*"), other=Trigger("c"))
    rt = await runtime(both, workflow("second", "a.b"))
    receipt = await rt.emit("a.b")
    lines = [(line.verdict, line.workflow_id, line.trigger_id) for line in receipt.lines]
    assert sorted(lines) == [
        (Verdict.STARTED, "both", "exact"),
        (Verdict.STARTED, "both", "pattern"),
        (Verdict.STARTED, "second", "a.b"),
    ]
    assert len(set(receipt.run_ids)) == 3


async def test_an_event_nobody_wants_has_one_line(runtime):
    """An event that nothing fits is answered with a single `unmatched` line that names nobody."""
    rt = await runtime(workflow())
    [line] = (await rt.emit("weather.changed", {"deg": 3})).lines
    assert (line.verdict, line.workflow_id, line.trigger_id, line.run_id) == (Verdict.UNMATCHED, None, None, None)


# -- when, key, map
@pytest.mark.parametrize(
    "when", [[Condition("total", ">", 10), Condition("by", "exists")], lambda event: event.payload.get("total", 0) > 10]
)
async def test_when_filters(runtime, when):
    """`when`, as conditions or as a function, makes the line `filtered` where it refuses."""
    rt = await runtime(workflow(when=when))
    assert (await rt.emit("order.placed", total=5, by="x")).verdicts == [Verdict.FILTERED]
    assert (await rt.emit("order.placed", total=11, by="x")).verdicts == [Verdict.STARTED]


def bad(event):
    raise ZeroDivisionError("by nobody")


@pytest.mark.parametrize("place", ["when", "key", "map"])
async def test_a_raising_function_rejects_its_line_only(runtime, place):
    """Where `when`, `key` or `map` raises, that line is rejected with what it raised, and the others go on."""
    rt = await runtime(workflow("bad", **{place: bad}), workflow("good"))
    lines = {line.workflow_id: line for line in (await rt.emit("order.placed")).lines}
    assert lines["bad"].verdict is Verdict.REJECTED
    assert lines["bad"].reason == "ZeroDivisionError: by nobody"
    assert lines["good"].verdict is Verdict.STARTED


async def test_a_reason_that_cannot_be_encoded_is_shown_escaped(stores):
    """Whatever a user's function says when it raises, the receipt can be stored, and says it."""

    def shout(event):
        raise ValueError("half a character: \ud800")

    rt = await stores.enter(workflow(when=shout))
    [line] = (await rt.emit("order.placed")).lines
    assert (line.verdict, line.reason) == (Verdict.REJECTED, "ValueError: half a character: \\ud800")


@pytest.mark.parametrize(
    ("garbage", "code"), [(7, "INVALID_EVENT"), ([1], "INVALID_EVENT"), ({"x": object()}, "NOT_STORABLE")]
)
async def test_a_map_that_gives_no_state_rejects_its_line(runtime, garbage, code):
    """A `map` that returns no mapping of data makes the line rejected, with the error's code."""
    rt = await runtime(workflow(map=lambda event: garbage))
    [line] = (await rt.emit("order.placed")).lines
    assert (line.verdict, line.reason.split(":")[0]) == (Verdict.REJECTED, code)


class Order(BaseModel):
    id: int
    note: str = "none"


async def test_map_gives_the_initial_state(runtime):
    """What `map` returns, a mapping or a model, is what the run's state begins with."""
    rt = await runtime(
        workflow("dict", map=lambda event: {"n": event.payload["id"]}), workflow("model", map=lambda event: Order(id=4))
    )
    results = await (await rt.emit("order.placed", id=3)).results()
    assert {result.workflow_id: dict(result.state) for result in results} == {
        "dict": {"n": 3},
        "model": {"id": 4, "note": "none"},
    }


async def test_a_map_cannot_change_the_event(runtime):
    """What user functions do to the payload they are given is seen by nobody else."""

    def spoil(event):
        event.payload["lines"].append("spoilt")
        return {}

    rt = await runtime(workflow("a", map=spoil), workflow("b"))
    payload = {"lines": ["fine"]}
    receipt = await rt.emit("order.placed", payload)
    results = {result.workflow_id: result for result in await receipt.results()}
    assert results["b"].state["lines"] == ["fine"]
    assert payload == {"lines": ["fine"]}


async def test_changing_what_was_emitted_or_answered_changes_no_run(runtime, gate):
    """Neither the payload that was passed to `emit` nor the one in the receipt is what a run works on."""
    wf = Workflow("orders")

    @wf.on("order.placed")
    @wf.step
    async def see(lines, event: Event):
        await gate()
        return {"seen": event.payload["lines"]}

    rt = await runtime(wf)
    payload = {"lines": [1]}
    receipt = await rt.emit("order.placed", payload)
    payload["lines"].append(2)
    receipt.event.payload["lines"].append(3)
    gate.open()
    [result] = await receipt.results()
    assert result.state == {"lines": [1], "seen": [1]}


async def test_equal_numbers_are_one_key(runtime, gate):
    """2 and 2.0 are the same key, as they are to a condition; 2.5 and the text "two" are others."""
    wf = Workflow("w", mode=Serialized(key="n"), triggers={"go": Trigger("go")})

    @wf.step
    async def work():
        await gate()

    rt = await runtime(wf)
    verdicts = [(await rt.emit("go", n=n)).verdicts for n in (2, 2.0, 2.5, "two")]
    assert verdicts == [[Verdict.STARTED], [Verdict.QUEUED], [Verdict.STARTED], [Verdict.STARTED]]
    gate.open()
    assert {info.key for info in (await rt.find_runs()).items} == {"2", "2.5", "two"}


async def test_a_missing_key_rejects_the_line(runtime):
    """Without a value at the key's path the line is rejected and says which path."""
    rt = await runtime(workflow(key="customer.id"), workflow("other"))
    lines = {line.workflow_id: line for line in (await rt.emit("order.placed", customer={})).lines}
    assert lines["orders"].verdict is Verdict.REJECTED
    assert "'customer.id'" in lines["orders"].reason
    assert lines["other"].verdict is Verdict.STARTED


async def test_a_state_that_does_not_fit_rejects_the_line(runtime):
    """Where the initial state fails the model, the line is rejected; `run` raises the same error."""
    from poundlock import StateInvalid

    rt = await runtime(workflow(state=Order))
    [line] = (await rt.emit("order.placed", id="many")).lines
    assert (line.verdict, line.reason.split(":")[0]) == (Verdict.REJECTED, "STATE_INVALID")
    with pytest.raises(StateInvalid) as caught:
        await rt.run("orders", id="many")
    assert caught.value.path == "id"


@pytest.mark.parametrize("key", ["id", lambda event: event.payload["id"]])
async def test_a_run_is_labelled_with_its_key(runtime, key):
    """A run's key is its partition's, else the event's."""
    rt = await runtime(workflow("keyed", key=key), workflow("plain"))
    receipt = await rt.emit(Event("order.placed", {"id": 7}, key="subject"))
    infos = {line.workflow_id: await rt.get_run(line.run_id) for line in receipt.lines}
    assert infos["keyed"].key == "7"
    assert infos["plain"].key == "subject"


# -- payloads
async def test_keywords_are_merged_into_the_payload(runtime):
    """Payload and keywords make one payload, keywords winning; all keywords are payload, whatever their names."""
    rt = await runtime(workflow())
    receipt = await rt.emit("order.placed", {"a": 1, "b": 1}, b=2, id="x", source="y")
    assert receipt.event.payload == {"a": 1, "b": 2, "id": "x", "source": "y"}
    assert receipt.event.source == ""
    assert (await rt.emit("order.placed")).event.payload == {}


async def test_a_payload_that_is_no_mapping_needs_a_map(runtime):
    """A list as payload is fine for a trigger with a map, and rejected by one without."""
    rt = await runtime(workflow("plain"), workflow("mapped", map=lambda event: {"all": event.payload}))
    receipt = await rt.emit("order.placed", [1, 2])
    lines = {line.workflow_id: line for line in receipt.lines}
    assert lines["plain"].verdict is Verdict.REJECTED
    assert lines["plain"].reason.startswith("INVALID_EVENT")
    [result] = await receipt.results()
    assert result.state == {"all": [1, 2]}
    with pytest.raises(InvalidEvent):
        await rt.emit("order.placed", [1, 2], more=3)
    with pytest.raises(InvalidEvent):
        await rt.emit(Event("order.placed", {}), {"more": 3})


async def test_what_cannot_be_stored_is_refused_with_its_path(runtime, any_store):
    """A value the codec does not know raises NotStorable naming its path, and nothing at all is written."""
    rt = await runtime(workflow(), store=any_store)
    await rt.recover()
    before = await rt.store.stats()
    with pytest.raises(NotStorable) as caught:
        await rt.emit("order.placed", order={"lines": [1, object()]})
    assert caught.value.path == "payload.order.lines.1"
    with pytest.raises(NotStorable):
        await rt.emit(Event("order.placed", {}, headers={"n": float("nan")}))
    assert await rt.store.stats() == before
    assert (await rt.find_runs()).items == []


async def test_the_time_is_stamped_at_acceptance(runtime, vclock):
    """An event without a time gets the clock's at acceptance; one that brings its own keeps it."""
    rt = await runtime(workflow())
    event = Event("order.placed")
    vclock.advance(50)
    assert (await rt.emit(event)).event.time == vclock.now()
    assert (await rt.emit(Event("order.placed", time=12.0))).event.time == 12.0


# -- deduplication
async def test_the_same_event_is_handled_once_per_trigger(runtime, any_store):
    """A second emit of one event is a duplicate at each trigger that took it, and names the run of the first."""
    rt = await runtime(workflow("a"), workflow("b"), store=any_store)
    event = Event("order.placed", {"n": 1}, source="shop")
    first = await rt.emit(event)
    second = await rt.emit(event)
    assert second.verdicts == [Verdict.DUPLICATE, Verdict.DUPLICATE]
    assert second.run_ids == first.run_ids
    assert len((await rt.find_runs()).items) == 2


async def test_another_source_is_another_event(runtime):
    """Ids are unique within a source only."""
    rt = await runtime(workflow())
    assert (await rt.emit(Event("order.placed", id="1", source="a"))).verdicts == [Verdict.STARTED]
    assert (await rt.emit(Event("order.placed", id="1", source="b"))).verdicts == [Verdict.STARTED]


async def test_the_window_of_deduplication_ends(runtime, vclock, any_store):
    """An id is remembered for the trigger's window (24 h by default), and not at all with dedupe=None."""
    rt = await runtime(workflow("short", dedupe="1h"), workflow("day"), workflow("none", dedupe=None), store=any_store)

    async def again():
        receipt = await rt.emit(Event("order.placed", id="1"))
        return {line.workflow_id: str(line.verdict) for line in receipt.lines}

    assert await again() == {"short": "started", "day": "started", "none": "started"}
    vclock.advance(3599)
    assert await again() == {"short": "duplicate", "day": "duplicate", "none": "started"}
    vclock.advance(2)
    assert await again() == {"short": "started", "day": "duplicate", "none": "started"}
    vclock.advance(86_400)
    assert await again() == {"short": "started", "day": "started", "none": "started"}


async def test_headers_time_and_key_do_not_make_a_conflict(runtime):
    """Only type and data are compared with the first event of an id."""
    rt = await runtime(workflow())
    await rt.emit(Event("order.placed", {"n": 1}, id="1", time=1.0, headers={"a": 1}))
    receipt = await rt.emit(Event("order.placed", {"n": 1}, id="1", time=2.0, headers={"a": 2}, key="k"))
    assert receipt.verdicts == [Verdict.DUPLICATE]


async def test_one_id_with_other_content_is_a_conflict(runtime, any_store):
    """The same id with other data or another type raises IdempotencyConflict, and nothing is decided anywhere."""
    rt = await runtime(workflow("a", "order.*"), workflow("fresh", "order.changed"), store=any_store)
    await (await rt.emit(Event("order.placed", {"n": 1}, id="1"))).results()
    before = {**await rt.store.stats(), "syncs": 0}
    with pytest.raises(IdempotencyConflict) as caught:
        await rt.emit(Event("order.placed", {"n": 2}, id="1"))
    assert caught.value.path == "id"
    with pytest.raises(IdempotencyConflict):
        await rt.emit(Event("order.changed", {"n": 1}, id="1"))
    assert {**await rt.store.stats(), "syncs": 0} == before
    assert len((await rt.find_runs()).items) == 1


async def test_what_was_refused_may_come_again(runtime, gate, any_store):
    """Filtered, rejected and dropped are not remembered: the same event succeeds later."""
    allowed = []
    wf = Workflow("busy", mode=Exclusive())
    wf.on("go", when=lambda event: bool(allowed))

    @wf.step
    async def work(n):
        if n == 0:
            await gate()

    rt = await runtime(wf, store=any_store)
    retried = Event("go", {"n": 1}, id="retried")
    assert (await rt.emit(retried)).verdicts == [Verdict.FILTERED]
    allowed.append(True)
    first = await rt.emit("go", n=0)
    assert (await rt.emit(retried)).verdicts == [Verdict.REJECTED]
    gate.open()
    await first.results()
    again = await rt.emit(retried)
    assert again.verdicts == [Verdict.STARTED]
    assert (await rt.emit(retried)).verdicts == [Verdict.DUPLICATE]
    await again.results()


@pytest.mark.parametrize("on_busy", ["reject", "queue_single"])
async def test_a_repeated_event_is_a_duplicate_also_while_busy(runtime, gate, any_store, on_busy):
    """An event that was taken stays a duplicate, whatever the mode would say to a new one, and a conflict is seen."""
    wf = Workflow("busy", mode=Exclusive(on_busy))
    wf.on("go")

    @wf.step
    async def work():
        await gate()

    rt = await runtime(wf, store=any_store)
    event = Event("go", {"n": 1}, id="1")
    [started] = (await rt.emit(event)).lines
    [again] = (await rt.emit(event)).lines
    assert (again.verdict, again.run_id) == (Verdict.DUPLICATE, started.run_id)
    with pytest.raises(IdempotencyConflict):
        await rt.emit(Event("go", {"n": 2}, id="1"))
    gate.open()
    assert (await rt.wait(started.run_id)).ok


async def test_one_event_emitted_many_times_at_once_starts_one_run(runtime, any_store):
    """Of any number of simultaneous emits of one event, one starts a run and the others are duplicates."""
    rt = await runtime(workflow(), store=any_store)
    event = Event("order.placed", {"n": 1})
    receipts = await asyncio.gather(*(rt.emit(event) for _ in range(20)))
    verdicts = [receipt.verdicts[0] for receipt in receipts]
    assert verdicts.count(Verdict.STARTED) == 1
    assert verdicts.count(Verdict.DUPLICATE) == 19


# -- explain
def told(receipt):
    return [(line.verdict, line.workflow_id, line.trigger_id, line.reason) for line in receipt.lines]


async def test_explain_says_what_emit_would_and_does_nothing(runtime, gate, any_store):
    """`explain` gives the lines of `emit`, whatever the verdicts, and writes nothing."""
    busy = Workflow("busy", mode=Exclusive())
    busy.on("go")

    @busy.step
    async def work():
        await gate()

    rt = await runtime(
        busy,
        workflow("filters", "go", when=[Condition("n", ">", 5)]),
        workflow("rejects", "go", key=bad),
        workflow("starts", "go"),
        store=any_store,
    )
    settled = None
    for event in (Event("go", {"n": 1}, id="1"), Event("go", {"n": 9}, id="2"), Event("other")):
        for again in (False, True):
            await rt.clock.run_until_idle()
            before = await rt.store.stats()
            foretold = await rt.explain(event)
            known = await rt.store.receipt(event.source, event.id)
            assert known == (settled.lines if again else None)
            assert {**await rt.store.stats(), "commits": 0, "syncs": 0} == {**before, "commits": 0, "syncs": 0}
            settled = await rt.emit(event)
            assert told(foretold) == told(settled)
    with pytest.raises(IdempotencyConflict):
        await rt.explain(Event("go", {"n": 2}, id="1"))
    gate.open()


async def test_explain_names_only_runs_that_there_are(runtime, gate):
    """`explain` gives no id to a run that would only be made; each id it does give can be looked up."""
    busy = Workflow("busy", mode=SingletonLoop("signal"))

    @busy.on("go")
    @busy.step
    async def work():
        await gate()

    rt = await runtime(busy, workflow("starts", "go"))
    first = await rt.explain("go")
    assert [(line.verdict, line.run_id) for line in first.lines] == [(Verdict.STARTED, None)] * 2
    await rt.emit("go")
    signalled, started = (await rt.explain("go")).lines
    assert (signalled.verdict, (await rt.get_run(signalled.run_id)).workflow_id) == (Verdict.SIGNALLED, "busy")
    assert (started.verdict, started.run_id) == (Verdict.STARTED, None)
    gate.open()


async def test_explain_foretells_what_waits_would_do(runtime):
    """`explain` tells a wait that would resume from one that would only buffer."""
    wf = Workflow("orders")
    wf.on("order.placed")

    @wf.step
    async def first():
        return {}

    wf.wait("approved", on="order.approved")
    rt = await runtime(wf)
    await (await rt.emit("order.placed")).results()
    event = Event("order.approved")
    assert (await rt.explain(event)).verdicts == [Verdict.RESUMED]
    assert (await rt.emit(event)).verdicts == [Verdict.RESUMED]


# -- receipts
async def test_receipts_are_durable(runtime, any_store):
    """What `emit` answered can be read from the store, also by a later runtime."""
    event = Event("order.placed", source="shop")
    rt = await runtime(workflow(), store=any_store)
    receipt = await rt.emit(event)
    assert await rt.store.receipt("shop", event.id) == receipt.lines
    await receipt.results()
    await rt.stop()
    rt = await runtime(workflow(), store=any_store)
    assert await rt.store.receipt("shop", event.id) == receipt.lines


async def test_on_dispatch_hears_of_each_line_of_its_workflow(runtime):
    """`on_dispatch` gets every line of its workflow once, whatever the verdict, and those of no other."""
    rt = await runtime(workflow("other"))
    heard = []
    await rt.register(workflow(when=[Condition("n", ">", 0)]), on_dispatch=heard.append)
    lines = [line for n in (0, 1) for line in (await rt.emit("order.placed", n=n)).lines]
    assert heard == [line for line in lines if line.workflow_id == "orders"]
    assert [line.verdict for line in heard] == [Verdict.FILTERED, Verdict.STARTED]


async def test_a_raising_on_dispatch_stops_nobody(runtime, caplog):
    """An `on_dispatch` that raises is logged; the emit and its run go on."""
    rt = await runtime()
    await rt.register(workflow(), on_dispatch=bad)
    [result] = await (await rt.emit("order.placed")).results()
    assert result.ok
    assert "on_dispatch of workflow 'orders' raised" in caplog.text


async def test_results_come_in_the_order_of_the_lines(runtime, make_gate):
    """`results()` gives the results in line order, whichever run ends first."""
    slow = make_gate()
    a, b = Workflow("a"), workflow("b", "go")
    a.on("go")

    @a.step
    async def waits():
        await slow()

    rt = await runtime(a, b)
    receipt = await rt.emit("go")
    waiting = asyncio.create_task(receipt.results())
    await rt.wait(receipt.lines[1].run_id)
    slow.open()
    assert [result.workflow_id for result in await waiting] == ["a", "b"]


async def test_results_time_out_without_touching_the_runs(runtime, gate, any_store):
    """`results(timeout)` raises the built-in TimeoutError, and the run goes on undisturbed."""
    wf = Workflow("slow")
    wf.on("go")

    @wf.step
    async def waits():
        await gate()

    rt = await runtime(wf, store=any_store)
    receipt = await rt.emit("go")
    with pytest.raises(TimeoutError, match="not all of 1 run paused or ended within 5"):
        await receipt.results(timeout=5)
    [run_id] = receipt.run_ids
    with pytest.raises(TimeoutError, match=f"run '{run_id}' has not ended within 2s: it is running in stage 'waits'"):
        await rt.wait(run_id, timeout="2s")
    gate.open()
    assert [result.status for result in await receipt.results()] == ["completed"]


# -- where the event is kept
@pytest.mark.parametrize("workflows", [1, 2])
async def test_a_run_keeps_the_event_that_it_alone_begins_with(tmp_path, workflows):
    """An event that starts one run is kept with it; one that starts several is stored once, for all of them."""
    path = tmp_path / "runs.db"
    several = [workflow(f"w{number}") for number in range(workflows)]
    event = Event("order.placed", {"items": [1]}, id="e1", source="/shop", key="k", headers={"tenant": "t"})
    async with WorkflowRuntime(*several, store=f"sqlite:///{path}") as rt:
        receipt = await rt.emit(event)
        await receipt.results()
        assert (await rt.store.stats())["events"] == 1
    with contextlib.closing(sqlite3.connect(path)) as file:
        [(beside,)] = file.execute("SELECT count(*) FROM events").fetchall()
    assert beside == (0 if workflows == 1 else 1)
    async with WorkflowRuntime(store=f"sqlite:///{path}") as rt:
        for run_id in receipt.run_ids:
            kept = (await rt.store.checkpoint(run_id)).event
            assert (kept, kept.payload, kept.headers) == (receipt.event, {"items": [1]}, {"tenant": "t"})


async def test_a_queued_run_keeps_its_event_too(runtime, any_store):
    """A run that has to wait for its slot begins with the event that queued it, also after it was read again."""
    wf = Workflow("w", mode=Serialized(), triggers={"go": Trigger("go")})

    @wf.step
    async def seen(event):
        return {"seen": [event.id, event.payload["number"]]}

    rt = await runtime(wf, store=any_store)
    receipts = [await rt.emit(Event("go", {"number": number}, id=f"e{number}")) for number in range(3)]
    assert [receipt.verdicts[0] for receipt in receipts] == ["started", "queued", "queued"]
    states = [(await receipt.results())[0].state for receipt in receipts]
    assert [state["seen"] for state in states] == [[f"e{number}", number] for number in range(3)]


# -- a trigger with nothing to ask
@pytest.mark.parametrize("payload", [None, {}, {"id": 1}, [1], "text", 0])
def test_a_trigger_without_conditions_answers_as_if_it_was_asked(payload):
    """Where there is nothing to ask, the answer is what asking would give: no key, and the payload as it is."""
    entry = SimpleNamespace(
        id="w", mode=Serialized(), functions=SimpleNamespace(triggers={"t": TriggerFunctions()}, mode_key=None)
    )
    route = Route(entry, "t", Trigger("go"), "p", None, TriggerFunctions())
    event = Event("go", payload)
    assert route.plain
    assert answer_of(route, event) == (route.partition(event), route.initial_state(event), "")
    assert route.wants(event)


@pytest.mark.parametrize(
    ("trigger", "mode"),
    [
        (Trigger("go", when=[Condition("id", "exists")]), Serialized()),
        (Trigger("go", when=lambda event: True), Serialized()),
        (Trigger("go", key="id"), Serialized()),
        (Trigger("go", map=lambda event: {}), Serialized()),
        (Trigger("go"), Serialized(key="id")),
    ],
    ids=["conditions", "when", "key", "map", "key of the mode"],
)
def test_a_trigger_with_something_to_ask_is_asked(trigger, mode):
    """A condition, a key or a function makes a trigger one that is asked."""
    entry = SimpleNamespace(id="w", mode=mode, functions=None)
    assert not Route(entry, "t", trigger, "p", None, TriggerFunctions()).plain
