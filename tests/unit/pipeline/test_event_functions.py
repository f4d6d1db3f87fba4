"""What `when`, `map`, `key` and `patch` are given: the event or its payload, whatever else they ask for is refused."""

from __future__ import annotations

import contextlib
import functools
import operator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from poundlock import (
    Event,
    InvalidDefinition,
    Pause,
    Pipeline,
    Serialized,
    Service,
    Stage,
    Step,
    Transient,
    Trigger,
    Use,
    Verdict,
    Wait,
    Workflow,
)

PLACES = ["when", "map", "key", "mode's key", "patch"]


class Order(BaseModel):
    total: int
    big: bool = False


@dataclass
class Line:
    total: int


class Typed(TypedDict):
    total: int


async def nothing(): ...


def using(place, function, **options):
    """A workflow that uses a function in one of the places."""
    trigger = {place: function} if place in ("when", "map", "key") else {}
    wait = Wait("go", patch=function) if place == "patch" else Wait("go")
    stages = [Stage("gate", router=Pause(wait)), Stage("end", [Step("end", nothing)])]
    mode = Serialized(key=function) if place == "mode's key" else Transient()
    return Workflow(
        "wf", triggers={"go": Trigger("begin", **trigger)}, pipelines=[Pipeline("main", stages)], mode=mode, **options
    )


async def faults(runtime, place, function, **options):
    rt = await runtime()
    with pytest.raises(InvalidDefinition) as caught:
        await rt.register(using(place, function, **options))
    return caught.value.faults


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["e", "approved", "ctx", "results", "total"])
async def test_any_other_name_is_refused(runtime, place, name):
    """A parameter that is neither event nor payload is a fault that says what to do, not a guess that is true."""
    function = eval(f"lambda {name}: bool({name})")
    [(path, text)] = await faults(runtime, place, function)
    assert path.endswith(f"{place.split()[-1]}.{name}")
    assert "name it event, or annotate it" in text


@pytest.mark.parametrize("place", ["when", "map", "key", "mode's key"])
async def test_only_patch_knows_the_state(runtime, place):
    """Before there is a run there is no state."""
    [(_, text)] = await faults(runtime, place, lambda state: True)
    assert "nothing can give 'state'" in text


@pytest.mark.parametrize("place", PLACES)
async def test_what_is_no_plain_function_is_refused(runtime, place):
    """Async functions and generators give something that is always true; wrappers hide what they want."""

    async def later(event):
        return False

    def generated(event):
        yield False

    async def both(event):
        yield False

    def hides(*args, **kwargs):
        return False

    for function in (later, generated, both, functools.partial(later), contextlib.contextmanager(generated)):
        [(_, text)] = await faults(runtime, place, function)
        assert "must be a plain function" in text
    [(_, text)] = await faults(runtime, place, hides)
    assert "functools.wraps" in text


class Check:
    def __init__(self, event):
        self.event = event


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [Check, bool, str, dict])
async def test_a_class_is_no_function_of_the_event(runtime, place, kind):
    """An object of a class is nearly always true, so a class in a function's place is refused."""
    found = await faults(runtime, place, kind)
    assert any("is a class" in text for _, text in found)


@pytest.mark.parametrize("place", PLACES)
async def test_functions_of_the_event_get_no_services(runtime, place):
    """A service asked for there is a fault, also one that exists."""

    def wants(event, mail: Annotated[Any, Use("mail")]):
        return True

    [(_, text)] = await faults(runtime, place, wants, services=[Service("mail", str)])
    assert "no services" in text


class Checks:
    def method(self, event):
        return event.payload["total"] > 10

    def __call__(self, payload):
        return payload["total"] > 10


def over(limit, event):
    return event.payload["total"] > limit


WHENS = {
    "event": lambda event: event.payload["total"] > 10,
    "unused": lambda _event: True,
    "payload": lambda payload: payload["total"] > 10,
    "both": lambda payload, event: event.payload["total"] > 10 < payload["total"],
    "keyword": lambda *, payload: payload["total"] > 10,
    "positional": eval("lambda anything, /: anything.payload['total'] > 10"),
    "method": Checks().method,
    "object": Checks(),
    "partial": functools.partial(over, 10),
    "partial by name": functools.partial(over, limit=10),
    "defaults": lambda event, limit=10: event.payload["total"] > limit,
    "attribute": operator.attrgetter("payload"),
}


def annotated(hint, name="order"):
    def when(order):
        return (order["total"] if isinstance(order, dict) else order.total) > 10

    when = eval(f"lambda {name}: when({name})", {"when": when}) if name != "order" else when
    when.__annotations__ = {name: hint}
    return when


WHENS |= {
    "model": annotated(Order),
    "model on event": annotated(Order, "event"),
    "model on payload": annotated(Order, "payload"),
    "dataclass": annotated(Line),
    "typed dict": annotated(Typed),
    "annotated event": lambda happened: happened.payload["total"] > 10,
}
WHENS["annotated event"].__annotations__ = {"happened": Event}


@pytest.mark.parametrize("when", WHENS.values(), ids=WHENS)
async def test_what_a_condition_function_may_take(runtime, when):
    """The event by name, annotation or place, its payload as it is or as a model, by functions of any kind."""
    rt = await runtime(using("when", when))
    assert (await rt.emit("begin", total=11)).verdicts == [Verdict.STARTED]
    closed = Verdict.STARTED if when in (WHENS["unused"], WHENS["attribute"]) else Verdict.FILTERED
    assert (await rt.emit("begin", total=9)).verdicts == [closed]


async def test_a_payload_that_does_not_fit_its_model_is_rejected(runtime):
    """Where the payload does not fit the model, the line is rejected and says why."""
    rt = await runtime(using("when", annotated(Order)))
    [line] = (await rt.emit("begin", total="many")).lines
    assert line.verdict is Verdict.REJECTED
    assert "'payload' does not fit its annotation: total" in line.reason


def sneaky(kind):
    async def coroutine():
        return False

    def generator():
        yield False

    make = {"coroutine": coroutine, "generator": generator}[kind]
    return lambda event: make()


@pytest.mark.parametrize("kind", ["coroutine", "generator"])
@pytest.mark.parametrize("place", ["when", "map", "key", "mode's key"])
async def test_an_answer_that_has_to_be_awaited_is_no_answer(runtime, place, kind):
    """A plain function that returns a coroutine or generator lets nothing through: the line is rejected."""
    rt = await runtime(using(place, sneaky(kind)))
    [line] = (await rt.emit("begin", total=1)).lines
    assert (line.verdict, line.run_id) == (Verdict.REJECTED, None)
    assert "must be a plain function" in line.reason


async def test_keys_and_maps_take_the_payload(runtime):
    """A key and a map are given the payload like a condition; they go for events and for calls by hand."""
    wf = Workflow("wf", mode=Serialized(key=lambda payload: payload["customer"]))

    def begin(order: Order):
        return {"total": order.total, "big": order.total > 10}

    wf.on("begin", map=begin)

    @wf.step
    async def keep(): ...

    rt = await runtime(wf)
    [result] = await (await rt.emit("begin", total=11, customer="Ada")).results()
    assert (dict(result.state), (await rt.get_run(result.run_id)).key) == ({"total": 11, "big": True}, "Ada")
    assert (await rt.run("wf", total=1, customer="Bob")).state["big"] is False


@pytest.mark.parametrize("model", [None, Order], ids=["mapping", "model"])
async def test_a_patch_may_look_at_the_state(stores, model):
    """A patch function gets the event, its payload, and the run's state."""

    def patch(state, payload, event: Event):
        total = state.total if model else state["total"]
        return {"total": total + payload["more"] + event.payload["more"]}

    rt = await stores.enter(using("patch", patch, state=model))
    receipt = await rt.emit("begin", total=1)
    await rt.emit("go", more=2)
    result = await rt.wait(receipt.run_ids[0], 60)
    assert (result.state.total if model else result.state["total"]) == 5


async def test_a_patch_with_the_state_model_says_which_it_means(runtime):
    """The state's model under another name could be the state or a payload: that is refused."""

    def patch(order: Order):
        return {"total": order.total}

    [(_, text)] = await faults(runtime, "patch", patch, state=Order)
    assert "Name it state or payload" in text
