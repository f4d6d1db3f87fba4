"""What is stored and shown nowhere, and what is never stored: canaries are looked for wherever something comes out."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from poundlock import (
    Event,
    InvalidDefinition,
    Pause,
    Pipeline,
    Sensitive,
    Stage,
    StateInvalid,
    StateRef,
    Terminate,
    Trigger,
    Use,
    Wait,
    Workflow,
    WorkflowRuntime,
    workflow,
)
from poundlock.model.hiding import hidden_entries
from poundlock.model.outbox import HeldBy, OutboxRow
from poundlock.model.timeline_entry import TimelineEntry
from poundlock.runtime.dead_letters import letters_of
from poundlock.sensitive import HIDDEN, masks_at
from poundlock.testing import run_until_idle

SECRET = "sens-canary-7315"
DEEP = "sens-canary-8426"
NUMBER = 73158426
REDACTED = "redact-canary-1"
TOKEN = "env-canary-9537"
GLOBAL = "env-canary-0648"
NEVER_SHOWN = (SECRET, DEEP, str(NUMBER), TOKEN, GLOBAL, REDACTED)
NEVER_WRITTEN = (TOKEN, GLOBAL, REDACTED)


class Card(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)
    number: Sensitive[str] = Field("none", alias="cardNumber")
    holder: str = "Ada"


class Order(BaseModel):
    secret: Sensitive[str]


class State(BaseModel):
    card: Sensitive[str] | None = None
    pin: Sensitive[int] = 0
    cards: list[Card] = []
    by_name: dict[str, Card] = {}
    notes: str = ""
    way: str = ""


def guarded(calls, **options):
    """A workflow that lets its secrets out wherever its code can, in the way that the payload says."""
    wf = Workflow("guarded", state=State, env={"TOKEN": TOKEN}, **options)

    @wf.on("go")
    @wf.step
    async def leak(state: State, ctx):
        texts = f"{state.card} {state.pin} {state.cards[0].number} {TOKEN} {GLOBAL}"
        ctx.logger.warning("logged %s", texts)
        ctx.annotate("noted", {"texts": texts, state.card: 1})
        ctx.progress(1, 2, f"doing {texts}")
        ctx.record_call(model="m", input_tokens=5, output_tokens=1, prompt=texts, answer={"is": texts})
        calls.append(state.card)
        if state.way == "raises":
            raise ValueError(f"cannot do {texts}")
        if state.way == "model":
            return {"pin": f"no number, but {state.card}"}
        if state.way == "exits":
            raise SystemExit(texts)
        return {"notes": "done"}

    @wf.route(after="leak")
    def onward(state: State):
        if state.way == "router":
            raise RuntimeError(f"lost {state.card} {TOKEN}")
        if state.way == "terminates":
            return Terminate({"card": state.card, "pin": state.pin})
        return None

    wf.wait("answer", on="answered")

    @wf.step
    def end(state: State):
        return {"notes": "ended"}

    return wf


PAYLOAD = {
    "card": SECRET,
    "pin": NUMBER,
    "cards": [{"cardNumber": DEEP, "holder": "Ada"}],
    "by_name": {"a": {"number": DEEP}},
    "password": REDACTED,
    "items": [{"pin": REDACTED, "n": 1}],
}
WAYS = ["", "raises", "model", "exits", "router", "terminates"]


def bytes_of(stores):
    """Everything that is in the file and beside it; for memory, everything the store has."""
    if stores.kind == "sqlite":
        return b"".join(path.read_bytes() for path in stores.path.parent.iterdir() if path.name.startswith("runs.db"))
    kept = stores._memory
    rows = [vars_of(row) for row in kept._rows.values()]
    return repr((rows, kept._events, kept._receipts.entries, vars(kept._outbox))).encode()


def vars_of(row):
    return [(name, getattr(row, name)) for name in row.__slots__]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("timeline", [True, False])
async def test_no_canary_gets_out(stores, vclock, caplog, capsys, way, timeline):
    """Values of env and redacted fields are not written; sensitive ones are shown nowhere, on any way of a run."""
    caplog.set_level(logging.DEBUG, "poundlock")
    calls = []
    options = {"env": {"GLOBAL": GLOBAL}, "redact": ["items.*.pin"], "timeline": timeline}
    sunk = []
    options["sinks"] = [lambda _run_id, entries: sunk.extend(map(repr, entries))]
    rt = await stores.enter(guarded(calls, redact=["password"]), **options)
    receipt = await rt.emit(Event("go", PAYLOAD | {"way": way}, id="e1"))
    [result] = await receipt.results()
    shown = [repr(result), json.dumps(result.to_dict()), str(result.error), repr(receipt.lines)]
    shown.append(repr((await rt.explain("go", PAYLOAD)).lines))
    assert calls == [SECRET]
    if way not in ("raises", "model", "exits", "router"):
        assert (result.state.card, result.state.pin, result.state.cards[0].number) == (SECRET, NUMBER, DEEP)
    with pytest.raises(StateInvalid) as refused:
        await rt.run("guarded", PAYLOAD | {"pin": f"{SECRET}"})
    shown += [str(refused.value), repr(refused.value), json.dumps(refused.value.to_dict())]
    rejected = await rt.emit("go", PAYLOAD | {"pin": SECRET})
    assert rejected.lines[0].verdict == "rejected"
    shown.append(repr(rejected.lines))
    if result.status == "paused":
        await rt.emit("answered", {"card": DEEP, "pin": "none"})
        shown.append(repr((await rt.emit("answered", {"card": [DEEP]})).lines))
        await rt.emit("answered", {"card": DEEP, "password": REDACTED})
        result = await rt.wait(result.run_id)
        assert result.state.card == DEEP
    await run_until_idle(vclock)
    info = await rt.get_run(result.run_id, state=True)
    shown += [repr(info), json.dumps(info.to_dict()), repr(await rt.find_runs())]
    told = await rt.timeline(result.run_id)
    shown += [repr(entry) + json.dumps(entry.to_dict()) for entry in told.entries]
    shown += [repr(told), json.dumps(told.state_at()), told.to_svg()]
    shown += [repr(entry) async for entry in rt.follow(result.run_id)]
    shown += [repr(await rt.dead_letters()), repr(rt.statistics()), repr(rt.list_all_runs())]
    definition = rt._core.entries["guarded"].definition
    shown += [definition.to_mermaid(run=info, timeline=told), definition.to_svg(run=info, timeline=told)]
    await rt.stop()
    assert sunk
    shown += sunk
    out = capsys.readouterr()
    shown += [caplog.text, out.out, out.err]
    for canary in NEVER_SHOWN:
        assert not [text for text in shown if canary in text], canary
    written = bytes_of(stores)
    for canary in NEVER_WRITTEN:
        assert canary.encode() not in written, canary
    assert SECRET.encode() in written  # else the search would find nothing


@pytest.mark.parametrize("stage", ["event", "after", "unhandled"])
async def test_a_restarted_run_has_its_values(stores, stage):
    """A sensitive value is stored: a run that goes on in another runtime has it, and still shows it nowhere."""
    rt = await stores.enter(guarded([]))
    result = await rt.run("guarded", PAYLOAD)
    await stores.crash(rt)
    rt = await stores.enter(guarded([]))
    await rt.emit("answered", {})
    again = await rt.wait(result.run_id)
    assert (again.status, again.state.card, again.state.by_name["a"].number) == ("completed", SECRET, DEEP)
    assert SECRET not in repr(again)
    assert DEEP not in json.dumps(again.to_dict())


async def test_a_run_that_was_begun_before_its_field_was_marked(stores, vclock):
    """What knows the workflow hides the field in old runs as well."""

    class Before(BaseModel):
        card: str = ""

    def version(model):
        wf = Workflow("w", state=model)
        wf.wait("gate", on="never")
        return wf

    class After(BaseModel):
        card: Sensitive[str] = ""

    rt = await stores.enter(version(Before))
    result = await rt.run("w", card=SECRET)
    assert SECRET in repr(await rt.timeline(result.run_id)) or any(
        SECRET in repr(entry) for entry in (await rt.timeline(result.run_id)).entries
    )
    await rt.stop()
    rt = await stores.enter(version(After))
    assert not [entry for entry in (await rt.timeline(result.run_id)).entries if SECRET in repr(entry)]
    assert SECRET not in repr(await rt.get_run(result.run_id, state=True))


async def test_a_state_that_does_not_fit_is_hidden_as_well(stores):
    """Where no instance of the model can be made, the plain mapping hides what the model marks."""

    class Strict(BaseModel):
        card: Sensitive[str]
        n: int

    class Loose(BaseModel):
        card: Sensitive[str]
        n: str

    def version(model):
        wf = Workflow("w", state=model)
        wf.wait("gate", on="never")
        return wf

    rt = await stores.enter(version(Loose))
    result = await rt.run("w", card=SECRET, n="many")
    await rt.stop()
    rt = await stores.enter(version(Strict))
    info = await rt.get_run(result.run_id, state=True)
    assert info.state["card"] == SECRET
    assert SECRET not in repr(info)
    assert SECRET not in json.dumps(info.to_dict())


async def test_a_parameter_may_be_marked(stores):
    """Without a model of the state: the field of that name is sensitive, and so is what a payload's model marks."""
    wf = Workflow("w")

    @wf.on("go")
    @wf.step
    def pay(card: Sensitive[str], event: Order):
        return {"paid": f"{card} {event.secret}"}

    rt = await stores.enter(wf)
    result = await rt.run("w", card=SECRET, secret=DEEP)
    assert result.state["paid"] == f"{SECRET} {DEEP}"
    shown = [repr(result), json.dumps(result.to_dict())]
    shown += [repr(entry) for entry in (await rt.timeline(result.run_id)).entries]
    assert not [text for text in shown if SECRET in text or DEEP in text]


async def test_dead_letters_and_the_outbox_are_redacted(stores, vclock):
    """What a step emits is redacted before it is written, too; what it copies from its state is not shown in lists."""

    class Mine(BaseModel):
        card: Sensitive[str]

    wf = Workflow("sender", state=Mine)

    @wf.step
    def send(ctx, state: Mine):
        ctx.emit("strict.in", {"password": REDACTED, "copy": state.card, "n": 1})

    strict = Workflow("strict", triggers={"in": Trigger("strict.in", map=lambda event: 1 / 0)}, redact=["password"])

    @strict.step
    def never():
        return {}

    rt = await stores.enter(wf, strict)
    await rt.run("sender", card=SECRET)
    await vclock.run_for(3600)
    [letter] = await rt.dead_letters()
    assert letter.event.payload == {"password": HIDDEN, "copy": SECRET, "n": 1}
    assert SECRET not in repr(letter)
    assert SECRET not in json.dumps(letter.to_dict())
    assert REDACTED.encode() not in bytes_of(stores)


async def test_a_wait_of_a_router_redacts_for_its_run(stores):
    """Also where nothing declares that the workflow wants the event: its redact= holds for what is delivered to it."""
    wf = Workflow("w", redact=["password"])

    @wf.step
    def ask():
        return {}

    @wf.route(after="ask")
    def wait():
        return Pause(Wait("told", id="dynamic"), resume_at="end")

    @wf.step
    def end():
        return {}

    rt = await stores.enter(wf)
    result = await rt.run("w")
    await rt.emit("told", password=REDACTED, n=1)
    done = await rt.wait(result.run_id)
    assert done.state == {"password": HIDDEN, "n": 1}
    assert REDACTED.encode() not in bytes_of(stores)


async def test_an_event_is_redacted_for_all_that_want_it(stores):
    """It is stored once: what one workflow redacts, another one does not get either; other types are left alone."""
    one = Workflow("one", triggers={"go": Trigger("go")}, redact=["a.b", "l.*"])
    two = Workflow("two", triggers={"go": Trigger("go"), "else": Trigger("else")})
    for wf in (one, two):
        Workflow.step(wf, dict, id="only")
    rt = await stores.enter(one, two)
    results = await (await rt.emit("go", a={"b": 1, "c": 2}, l=[1, 2])).results()
    assert [result.state for result in results] == [{"a": {"b": HIDDEN, "c": 2}, "l": [HIDDEN, HIDDEN]}] * 2
    [other] = await (await rt.emit("else", a={"b": 1})).results()
    assert other.state == {"a": {"b": 1}}


async def test_what_is_redacted_makes_no_conflict(stores):
    """The fingerprint of an event is made of what is stored: the same id with another redacted value is a duplicate."""
    wf = Workflow("w", redact=["password"], triggers={"go": Trigger("go")})
    Workflow.step(wf, dict, id="only")
    rt = await stores.enter(wf)
    await rt.emit(Event("go", {"password": "one"}, id="e"))
    assert (await rt.emit(Event("go", {"password": "two"}, id="e"))).lines[0].verdict == "duplicate"


CORRELATED = Stage("w", router=Pause(Wait("x", correlate={"card.number": 1})))
COUNTED = Stage("w", router=Pause(Wait("x", mode=2, distinct="card.number")))


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"triggers": {"go": Trigger("go", key="card.number")}}, "triggers.go.key"),
        ({"triggers": {"go": Trigger("go", key="card")}}, "triggers.go.key"),
        ({"pipelines": [Pipeline("main", [CORRELATED])]}, "waits.w.correlate"),
        ({"pipelines": [Pipeline("main", [COUNTED])]}, "waits.w.distinct"),
    ],
)
async def test_nothing_may_need_what_is_redacted(vclock, options, path):
    """Keying or correlating on a redacted path is a fault of the definition, wherever it is redacted."""
    for where in ("workflow", "runtime"):
        wf = Workflow("w", **options, redact=["card.number"] if where == "workflow" else ())
        if "pipelines" not in options:
            Workflow.step(wf, dict, id="only")
        async with WorkflowRuntime(clock=vclock, redact=["card.number"] if where == "runtime" else ()) as rt:
            with pytest.raises(InvalidDefinition, match="is redacted") as refused:
                await rt.register(wf)
            assert refused.value.path == path
            assert not rt.has_workflow("w")


async def test_sensitive_values_are_no_keys(vclock):
    """A key is shown in lists, and so is what a wait correlates with: a sensitive value there is a fault."""
    keyed = Workflow("keyed", state=State, triggers={"go": Trigger("go", key="card")})
    Workflow.step(keyed, dict, id="only")
    waits = Workflow("waits", state=State)
    waits.wait("gate", on="x", correlate={"card": StateRef("card")})
    counted = Workflow("counted", state=State)
    counted.wait("gate", on="x", mode=2, distinct="card")
    async with WorkflowRuntime(clock=vclock) as rt:
        for wf in (keyed, waits, counted):
            with pytest.raises(InvalidDefinition, match="is sensitive"):
                await rt.register(wf)


@pytest.mark.parametrize("paths", [["a..b"], [""], [3], ["a", ".b"]])
def test_paths_are_checked(paths):
    """A path that is none is named, at a workflow and at a runtime."""
    wf = Workflow("w", redact=paths)
    Workflow.step(wf, dict, id="only")
    with pytest.raises(InvalidDefinition, match="redact"):
        _ = wf.definition
    with pytest.raises(InvalidDefinition, match="redact"):
        WorkflowRuntime(redact=paths)


async def test_durable_functions_record_and_hide(stores):
    """Results of operations are on record, because a restart needs them; what is shown of them has no such value."""

    class Mine(BaseModel):
        card: Sensitive[str]

    @workflow("fn", state=Mine)
    async def fn(step, state):
        async def look():
            return {"saw": state.card}

        return await step.run(look)

    rt = await stores.enter(fn)
    result = await rt.run("fn", card=SECRET)
    assert result.result == {"saw": SECRET}
    shown = [repr(result), json.dumps(result.to_dict())]
    shown += [repr(entry) for entry in (await rt.timeline(result.run_id)).entries]
    assert not [text for text in shown if SECRET in text]


async def test_what_is_read_of_the_process_environment_is_hidden(stores, monkeypatch):
    """A value of os.environ that was read through `__env__` is hidden in errors; other values are only words."""
    monkeypatch.setenv("POUNDLOCK_CANARY", TOKEN)
    wf = Workflow("w")

    @wf.step
    async def fails(env: Annotated[Any, Use("__env__")]):
        raise ValueError(f"bad {env.get('POUNDLOCK_CANARY')}")

    rt = await stores.enter(wf)
    result = await rt.run("w")
    assert result.error.message == f"bad {HIDDEN}"
    assert TOKEN.encode() not in bytes_of(stores)


def test_the_payload_of_a_refused_event_is_hidden():
    """An entry that quotes an event's payload hides what the state marks, also a number or a short text."""
    refused = {"event": "answered", "payload": {"card": "ab", "pin": 7, "notes": f"with {SECRET}", "by": SECRET}}
    entry = TimelineEntry(3, datetime.now(UTC), "pipeline", "wait:refused", "gate", refused, None)
    [shown], secrets = hidden_entries([entry], masks_at([("card",), ("pin",), ("by",)]))
    assert shown.payload == {
        "event": "answered",
        "payload": {"card": HIDDEN, "pin": HIDDEN, "notes": f"with {HIDDEN}", "by": HIDDEN},
    }
    assert SECRET in secrets


@pytest.mark.parametrize("known", [None, ()])
@pytest.mark.parametrize("held", [True, False])
async def test_a_letter_of_which_nothing_is_known_shows_no_value(held, known):
    """Its run is gone, or its workflow is not known here: any value may be sensitive. A known one marks nothing."""

    class Letters:
        async def outbox(self, _query):
            by = HeldBy("w", "t", load_key="", batch=False) if held else None
            return [OutboxRow(1, "gone", Event("go", {"card": SECRET}), dead_at=1.0, held_by=by)]

        async def checkpoint(self, _run_id):
            return None

    [letter] = await letters_of(Letters(), 9, None, lambda _workflow, _name: known)
    assert letter.event.payload == {"card": SECRET}
    open_here = held and known == ()
    for text in (repr(letter), json.dumps(letter.to_dict())):
        assert (SECRET in text) is open_here
