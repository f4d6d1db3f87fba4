"""Typed state of unusual kinds: root and strict models, validators that change their input, what is misspelt."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict, Field, Json, RootModel, field_validator, model_validator

from poundlock import (
    InvalidDefinition,
    NotStorable,
    Pause,
    Pipeline,
    RunStatus,
    Stage,
    StateInvalid,
    Step,
    Trigger,
    Wait,
    Workflow,
)
from poundlock.state import StateStore
from poundlock.state.typed import validate

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Line(BaseModel):
    unit_price: int = Field(0, alias="unitPrice")


class Lines(RootModel[list[Line]]):
    pass


class Numbered(RootModel[dict[int, str]]):
    pass


class One(RootModel[Line]):
    pass


class Spot(NamedTuple):
    x: int
    file: Path


class Held(BaseModel, Generic[T]):
    item: T


@dataclasses.dataclass
class Area:
    side: int
    size: int = dataclasses.field(init=False)

    def __post_init__(self):
        self.size = self.side**2


class Base(BaseModel):
    n: int = 0


class Wide(Base):
    more: int = 1


class Noted(BaseModel):
    tags: Annotated[set[int], {"about": ["anything"]}] = set()
    lines: list[Annotated[Line, {"about": "anything"}]] = []


class State(BaseModel):
    lines: Lines = Lines([])
    numbered: Numbered = Numbered({})
    one: One = One(Line())
    spot: Spot | None = None
    either: list[Path] | dict[str, Path] | None = None
    held: Held[int] | None = None
    area: Area | None = None
    colour: Colour = Colour.RED
    files: set[Path] = set()
    data: Json[Any] = None
    limit: float | None = 1.0
    base: Base = Base()
    order_id: int = Field(0, alias="orderId")

    @cached_property
    def total(self) -> int:
        return self.order_id


def workflow(*actions, state=State, **options):
    stages = [Stage(f"stage{index}", [Step("step", action)]) for index, action in enumerate(actions)]
    return Workflow("wf", pipelines=[Pipeline("main", stages)], state=state, **options)


async def outcome(stores, wf, payload=None):
    """Run a workflow; return its result and its state as it is stored, which has to read back as the result's."""
    rt = await stores.enter(wf)
    run = await rt.run("wf", payload)
    checkpoint = await rt.store.checkpoint(run.run_id)
    timeline = await rt.timeline(run.run_id)
    assert timeline.state_at(len(timeline)) == checkpoint.state
    if run.error is None:
        assert validate(wf.state, checkpoint.state) == run.state
    return run, checkpoint.state


VALUES = {
    "lines": ([{"unit_price": 1}, {"unitPrice": 2}], Lines([Line(unitPrice=1), Line(unitPrice=2)])),
    "numbered": ({1: "a"}, Numbered({1: "a"})),
    "one": ({"unit_price": 3}, One(Line(unitPrice=3))),
    "spot": (Spot(1, Path("/x")), Spot(1, Path("/x"))),
    "either": ({"a": Path("/x")}, {"a": Path("/x")}),
    "held": (Held(item=1), Held[int](item=1)),
    "area": (dataclasses.asdict(Area(3)), Area(3)),
    "data": ('{"a": 1}', {"a": 1}),
}


@pytest.mark.parametrize("how", ["patch", "model"])
@pytest.mark.parametrize("field", VALUES)
async def test_what_the_field_holds_may_be_written(stores, field, how):
    """What fits the field reads back equal, in a patch and by a changed model: nothing of it is refused or cut."""
    patch, value = VALUES[field]

    async def work(state: State):
        if how == "patch":
            return {field: patch}
        setattr(state, field, value)
        return state

    run, _ = await outcome(stores, workflow(work))
    assert run.error is None, run.error
    assert getattr(run.state, field) == value
    assert type(getattr(run.state, field)) is type(value)


async def test_root_models_are_stored_under_aliases_and_know_their_keys(stores):
    """A field that is a root model is data of what it holds: by alias, with no key that the inner model lacks."""

    async def by_model(state: State):
        state.lines.root.append(Line(unitPrice=5))
        state.one.root.unit_price = 4
        return state

    async def by_name():
        return {"one": {"unit_price": 7}}

    run, stored = await outcome(stores, workflow(by_model, by_name))
    assert (stored["lines"], stored["one"]) == ([{"unitPrice": 5}], {"unitPrice": 7})
    assert run.state.one.root.unit_price == 7


@pytest.mark.parametrize("patch", [{"lines": [{"unit_prise": 1}]}, {"one": {"unit_prise": 1}}], ids=["list", "model"])
async def test_unknown_keys_inside_a_root_model(stores, patch):
    """A misspelt key inside a root model is told, as everywhere else."""

    async def work():
        return patch

    run, _ = await outcome(stores, workflow(work))
    assert "did you mean 'unit_price'" in run.error.message


async def test_a_root_model_is_no_state(stores):
    """A state has keys: a root model is refused when the workflow is registered, and by a store of its own."""

    async def work():
        return None

    with pytest.raises(InvalidDefinition, match="RootModel"):
        await stores.enter(workflow(work, state=Numbered))
    for store in (lambda: StateStore({}, model=Numbered), lambda: StateStore(Numbered({}))):
        with pytest.raises(StateInvalid, match="a state is a m"):
            store()


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"ordr_id": 9}, "State has no field 'ordr_id': did you mean 'order_id'?"),
        ({"orderId": 9}, "State has no field 'orderId': on an instance it is 'order_id'"),
    ],
    ids=["misspelt", "alias"],
)
async def test_model_copy_with_a_name_that_is_no_field(stores, update, said):
    """`model_copy(update=)` takes any name: what is not a field would be lost without a word, so it is refused."""

    async def work(state: State):
        return state.model_copy(update=update)

    run, stored = await outcome(stores, workflow(work))
    assert run.error.message == said
    assert stored == {}


@pytest.mark.parametrize("how", ["patch", "model"])
async def test_a_misspelt_name_inside_a_field(stores, how):
    """The same for a model that a field holds, by a changed model and in a patch."""

    async def work(state: State):
        base = state.base.model_copy(update={"m": 1})
        if how == "patch":
            return {"base": base}
        state.base = base
        return state

    run, _ = await outcome(stores, workflow(work))
    assert (run.error.type, "base.m" in run.error.message) == ("NotStorable", True)


async def test_what_a_class_caches_on_its_instances_is_no_field(stores):
    """A `cached_property` that was read is not taken for a misspelt field."""

    async def work(state: State):
        assert state.total == 0
        state.order_id = 4
        return state

    run, stored = await outcome(stores, workflow(work))
    assert (run.error, stored) == (None, {"orderId": 4})


class Moved(BaseModel):
    n: int = 0
    log: list[int] = []

    @model_validator(mode="before")
    @classmethod
    def from_former(cls, data: Any):
        if isinstance(data, Mapping):
            if "old" in data:
                data["n"] = data.pop("old")
            data.get("log", []).append(1)
        return data


async def test_validators_may_change_what_they_are_given(stores):
    """A validator that changes its input, as many do to move a key, changes a copy and not the state of the run."""

    async def work(state: Moved):
        assert (state.n, state.log) == (3, [5, 1])

    run, stored = await outcome(stores, workflow(work, state=Moved), {"old": 3, "log": [5]})
    assert (run.error, stored) == (None, {"old": 3, "log": [5]})


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    n: int = 0
    tags: set[int] = set()
    pair: tuple[int, str] | None = None
    colour: Colour | None = None
    file: Path | None = None
    by_number: dict[int, int] = {}
    price: Decimal | None = None


@pytest.mark.parametrize("how", ["patch", "model"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tags", {1, 2}),
        ("pair", (1, "a")),
        ("colour", Colour.RED),
        ("file", Path("/x")),
        ("by_number", {1: 2}),
        ("price", Decimal("1.50")),
    ],
)
async def test_a_strict_model_is_read_as_json_is(stores, field, value, how):
    """Strict mode as pydantic has it for JSON: a list for a set, text for a path."""

    async def work(state: Strict):
        if how == "patch":
            return {field: value}
        setattr(state, field, value)
        return state

    run, _ = await outcome(stores, workflow(work, state=Strict))
    assert run.error is None, run.error
    assert getattr(run.state, field) == value


async def test_a_strict_model_stays_strict(stores):
    """It takes no text for a number, whoever writes it."""

    async def wrong():
        return {"n": "5", "tags": [1]}

    run, stored = await outcome(stores, workflow(wrong, state=Strict))
    assert (run.error.type, "n: Input should be a valid integer" in run.error.message) == ("StateInvalid", True)
    assert stored == {}


async def test_a_run_may_begin_with_what_fields_hold(stores):
    """What `map` returns may be values of the fields; what begins a run as an instance is judged like what ends it."""

    async def work():
        return None

    wf = workflow(work)
    wf.on("go", map=lambda event: {"colour": Colour.RED, "files": {Path("/x")}, "order_id": 3, "else": 1})
    rt = await stores.enter(wf)
    receipt = await rt.emit("go")
    [run] = await receipt.results()
    assert (run.state.colour, run.state.files, run.state.order_id) == (Colour.RED, {Path("/x")}, 3)
    assert (await rt.invoke("wf")).state.order_id == 3
    assert (await rt.store.checkpoint(run.run_id)).state["orderId"] == 3


@pytest.mark.parametrize(
    ("start", "path"),
    [(State(limit=float("inf")), "limit"), (State(base=Wide(more=2)), "base")],
    ids=["an infinite number", "a subclass"],
)
async def test_an_instance_that_would_not_read_back_begins_no_run(stores, start, path):
    """A state that cannot be written as it is is refused with the path, not begun with something else in its place."""

    async def work():
        return None

    rt = await stores.enter(workflow(work))
    with pytest.raises(NotStorable, match=path):
        await rt.run("wf", start)
    assert not (await rt.find_runs()).items


async def test_an_infinite_number_inside_a_model_without_a_state_model(stores):
    """A model in an untyped state never becomes null where it holds an infinite number."""

    async def work():
        return {"kept": State(limit=float("inf"))}

    rt = await stores.enter(workflow(work, state=None))
    run = await rt.run("wf")
    assert (run.error.type, "kept" in run.error.message) == ("NotStorable", True)


class Picky(BaseModel):
    tags: list[int] = []
    by: str = ""

    @field_validator("by")
    @classmethod
    def short(cls, by: str) -> str:
        if len(by) > 10:
            raise ValueError(f"{by} is too long")
        return by


@pytest.mark.parametrize("payload", [{"by": "x" * 100_000}, {"tags": ["x"] * 5000}], ids=["a long text", "many faults"])
async def test_a_reason_is_short_however_long_the_event_is(stores, payload):
    """Reasons are stored with each refusal: they say what is wrong, and how much more there would be to say."""

    async def work():
        return None

    gate = Stage("gate", [Step("step", work)], router=Pause(Wait("ok")))
    end = Stage("end", [Step("step", work)])
    rt = await stores.enter(Workflow("wf", pipelines=[Pipeline("main", [gate, end])], state=Picky))
    run = await rt.run("wf")
    [line] = (await rt.emit("ok", payload)).lines
    assert "more" in line.reason
    assert len(line.reason) < 1500
    assert (await rt.get_run(run.run_id)).status is RunStatus.PAUSED


@pytest.mark.parametrize(
    ("options", "place", "said"),
    [
        ({"patch": {"order_idd": 3}}, "patch", "did you mean 'order_id'"),
        ({"patch": {"files": {Path("/x")}}}, "patch", "A function of the event may return it"),
        ({"correlate": {"x": Colour.RED}}, "correlate.x", "Colour.RED"),
    ],
    ids=["a key", "a value", "correlate"],
)
async def test_a_wait_that_no_event_could_answer(stores, options, place, said):
    """A wait's data is checked when the workflow is registered: keys of its patch, and that all can be stored."""

    async def work():
        return None

    gate = Stage("gate", [Step("step", work)], router=Pause(Wait("ok", **options)))
    wf = Workflow("wf", triggers={"t": Trigger("go")}, pipelines=[Pipeline("m", [gate])], state=State)
    with pytest.raises(InvalidDefinition, match=rf"wait\.{place}: .*{said}"):
        await stores.enter(wf)


@pytest.mark.parametrize("how", ["patch", "model"])
async def test_annotations_with_anything_in_them(stores, how):
    """What else an annotation holds, such as a mapping, which has no hash, changes nothing."""

    async def work(state: Noted):
        if how == "patch":
            return {"tags": {1}, "lines": [{"unit_price": 3}]}
        state.tags, state.lines = {1}, [Line(unitPrice=3)]
        return state

    run, stored = await outcome(stores, workflow(work, state=Noted))
    assert run.error is None, run.error
    assert stored == {"tags": [1], "lines": [{"unitPrice": 3}]}


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    n: int = 0


class Holder(BaseModel):
    one: Open = Open()
    by_key: dict[str, Open] = {}


async def test_extras_of_a_model_that_a_field_holds(stores):
    """What a model takes besides its fields is written with it, also where that is all that changed, and removed."""

    async def adds(state: Holder):
        state.one.more = [1]
        state.by_key["a"] = Open(more=2)
        return state

    async def adds_again(state: Holder):
        assert (state.one.more, state.by_key["a"].more) == ([1], 2)
        state.by_key["a"].also = 3
        return state

    async def removes(state: Holder):
        assert state.by_key["a"].also == 3
        del state.one.more
        return state

    run, stored = await outcome(stores, workflow(adds, adds_again, removes, state=Holder))
    assert run.error is None, run.error
    assert stored == {"one": {"n": 0}, "by_key": {"a": {"n": 0, "more": 2, "also": 3}}}
