"""What steps are given by their parameters."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from poundlock import Event, InvalidDefinition, Pipeline, Service, Stage, Step, StepContext, Use, Workflow


class Order(BaseModel):
    id: int
    note: str = "none"
    lines: list[int] = Field(default_factory=list)


class Placed(BaseModel):
    id: int


class Database:
    def __init__(self, name="db"):
        self.name = name


def flow(action, executor=None, **options):
    return Workflow(
        "wf", pipelines=[Pipeline("main", [Stage("one", [Step("s", action, executor=executor)])])], **options
    )


async def given(runtime, action, payload, **options):
    rt = await runtime(flow(action, **options))
    result = await rt.run("wf", payload)
    assert result.ok, f"{result.error}\n{result.error.traceback}"
    return result


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_everything_a_step_may_ask_for(runtime, kind):
    """Context, event, event model, state, state fields and services come by name or by annotation."""
    seen = {}

    def sync(
        ctx,
        anything: StepContext,
        event,
        happened: Event,
        state,
        id: int,
        note: str,
        db: Annotated[Database, Use("main_db")],
        by_type: Database,
        unknown: str = "default",
        *,
        lines: list[int],
    ):
        seen.update(locals())

    async def on_loop(
        ctx,
        anything: StepContext,
        event,
        happened: Event,
        state,
        id: int,
        note: str,
        db: Annotated[Database, Use("main_db")],
        by_type: Database,
        unknown: str = "default",
        *,
        lines: list[int],
    ):
        seen.update(locals())

    await given(
        runtime, sync if kind == "thread" else on_loop, {"id": 5}, state=Order, services=[Service("main_db", Database)]
    )
    assert isinstance(seen["ctx"], StepContext)
    assert isinstance(seen["anything"], StepContext)
    assert seen["event"].payload == seen["happened"].payload == {"id": 5}
    assert seen["state"] == Order(id=5)
    assert (seen["id"], seen["note"], seen["lines"], seen["unknown"]) == (5, "none", [], "default")
    assert seen["db"] is seen["by_type"]
    assert isinstance(seen["db"], Database)


async def test_a_model_on_event_is_its_payload(runtime):
    """A pydantic model on a parameter named `event` is the payload, validated."""
    seen = []

    async def step(event: Placed, order: Order):
        seen.append((event, order))

    await given(runtime, step, {"id": "7", "order": {"id": 1}})
    assert seen == [(Placed(id=7), Order(id=1))]


async def test_the_state_model_wins_over_a_service_of_its_type(runtime):
    """A parameter of the state model's type is the state, also where a service provides that type."""
    seen = []

    def make() -> Order:
        return Order(id=99)

    async def step(current: Order, made: Annotated[Order, Use("made")]):
        seen.append((current.id, made.id))

    await given(runtime, step, {"id": 1}, state=Order, services=[Service("made", make)])
    assert seen == [(1, 99)]


async def test_string_annotations_with_local_types(runtime):
    """Annotations that cannot be resolved, such as local types, fall back to names; the others still count."""

    class Local(BaseModel):
        x: int = 0

    seen = {}

    async def step(ctx: Local, event: Local, state: Local, n: Local, m: int, db: Database):
        seen.update(locals())

    await given(runtime, step, {"n": "1", "m": "2"}, services=[Service("database", Database)])
    assert isinstance(seen["ctx"], StepContext)
    assert isinstance(seen["event"], Event)
    assert (seen["n"], seen["m"], seen["state"]["n"]) == ("1", 2, "1")
    assert isinstance(seen["db"], Database)


@pytest.mark.parametrize(
    ("annotation", "value", "got"),
    [(int, "5", 5), (str, "x", "x"), (float, 2, 2.0), (list[int], ["1"], [1]), (Any, {"a": 1}, {"a": 1})],
    ids=str,
)
async def test_fields_are_validated_to_the_annotation(runtime, annotation, value, got):
    """A state field is validated to its parameter's annotation."""
    seen = []

    async def step(field):
        seen.append(field)

    step.__annotations__ = {"field": annotation}
    await given(runtime, step, {"field": value})
    assert seen == [got]


async def test_a_nested_model_may_be_asked_for_as_data(runtime):
    """A field of a model is given as the annotation says: as the model, a base of it, or plain data."""

    class Base(BaseModel):
        id: int

    class Nested(Base):
        note: str = "none"

    class Outer(BaseModel):
        inner: Nested
        count: int = 0

    seen = []

    async def as_data(inner: dict):
        seen.append(inner)

    async def as_base(inner):
        seen.append(inner)

    as_base.__annotations__ = {"inner": Base}
    for action in (as_data, as_base):
        await given(runtime, action, {"inner": {"id": 1}}, state=Outer)
    assert seen == [{"id": 1}, Nested(id=1)]
    assert type(seen[1]) is Nested


@pytest.mark.parametrize(
    ("payload", "says"),
    [({}, "the state has no field 'amount'"), ({"amount": "many"}, "'amount' does not fit its annotation")],
)
async def test_a_missing_or_unfit_field_fails_the_step_by_name(runtime, payload, says):
    """A field that is missing without a default, or does not fit, fails the step and is named."""

    async def step(amount: int):
        return None

    rt = await runtime(flow(step))
    result = await rt.run("wf", payload)
    assert (result.status, result.error.code, result.error.step) == ("failed", "STATE_INVALID", "s")
    assert says in result.error.message


async def test_a_none_in_state_is_a_value(runtime):
    """A field that is None is given as None, not as missing."""
    seen = []

    async def step(field=5, other=6):
        seen.append((field, other))

    await given(runtime, step, {"field": None})
    assert seen == [(None, 6)]


async def test_two_services_of_one_type_need_a_name(runtime):
    """A parameter whose type two services provide is refused at registering, naming both."""

    async def step(db: Database):
        return None

    rt = await runtime()
    with pytest.raises(InvalidDefinition) as caught:
        await rt.register(flow(step, services=[Service("a", Database), Service("b", Database)]))
    assert "a, b" in str(caught.value)
    assert not rt.has_workflow("wf")


async def test_a_service_may_say_its_type(runtime):
    """`type=` or the factory's return annotation tells what a service provides; `type=` wins."""
    seen = []

    class Other(Database):
        pass

    def make() -> Database:
        return Other("made")

    async def step(db: Annotated[Any, "plain"] = None, *, found: Database):
        seen.append((db, found.name))

    await given(runtime, step, {}, services=[Service("x", make), Service("y", lambda: Other("typed"), type=Other)])
    assert seen == [(None, "made")]


async def test_an_unknown_service_fails_the_step_with_near_matches(runtime):
    """A service nobody provides fails the step; the message names the near match."""

    async def step(ctx):
        await ctx.use(lambda deps: deps.require("databse"))

    rt = await runtime(flow(step, services=[Service("database", Database)]))
    result = await rt.run("wf")
    assert (result.status, result.error.code) == ("failed", "ARTIFACT_NOT_FOUND")
    assert "database" in result.error.message
