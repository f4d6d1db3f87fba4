"""State with a model: written and read by one rule. What is written reads back equal, or is refused with its path."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, PrivateAttr, computed_field, model_validator
from typing_extensions import TypedDict

from poundlock import (
    DELETE,
    Event,
    NotStorable,
    Overwrite,
    Pause,
    Pipeline,
    SingletonLoop,
    Stage,
    StateInvalid,
    Step,
    Wait,
    Workflow,
)
from poundlock.model.timeline import read_entries


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Word(enum.StrEnum):
    YES = "yes"


class Place(BaseModel):
    post_code: str = Field("", alias="postCode")


class Base(BaseModel):
    a: int = 0


class Wide(Base):
    b: int = 1


class Box(BaseModel):
    place: Place
    held: Base


@dataclasses.dataclass
class Point:
    x: int
    y: int = dataclasses.field(init=False, default=0)


class Extra(TypedDict, total=False):
    note: str


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    order_id: int = Field(alias="orderId")
    ship: Place = Field(default_factory=Place, alias="shipTo")
    stops: list[Place] = []
    by_key: dict[int, Place] = {}
    colour: Colour = Colour.BLUE
    word: Word | None = None
    tags: set[str] = set()
    path: Path = Path("/")
    price: Decimal = Decimal(0)
    at: dt.datetime | None = None
    calls: dict[str, Any] = {}
    held: Base = Base()
    point: Point = Point(0)
    extra: Extra = {}

    @computed_field
    @property
    def label(self) -> str:
        return f"#{self.order_id}"


NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
CHANGES = {
    "order_id": 9,
    "ship": Place(postCode="N1"),
    "stops": [Place(postCode="N1"), Place(postCode="N2")],
    "by_key": {1: Place(postCode="N1")},
    "colour": Colour.RED,
    "word": Word.YES,
    "tags": {"a", "b"},
    "path": Path("/tmp/x"),
    "price": Decimal("1.50"),
    "at": NOW,
    "calls": {"c1": {"at": NOW, "price": Decimal("0.1")}},
    "held": Base(a=3),
    "point": Point(4),
    "extra": {"note": "n"},
}


def stage(id, *actions, router=None):
    return Stage(id, [Step(f"s{index}", action) for index, action in enumerate(actions)], router=router)


def workflow(*stages, state=Order, id="wf", **options):
    return Workflow(id, pipelines=[Pipeline("main", list(stages))], state=state, **options)


async def both_ways(stores, wf, **payload):
    """Run a workflow, and return its state as its caller and another process read it."""
    rt = await stores.enter(wf)
    run = await rt.run(wf.id, payload)
    assert run.error is None, run.error
    timeline = await rt.timeline(run.run_id)
    checkpoint = await rt.store.checkpoint(run.run_id)
    assert timeline.state_at(len(timeline)) == checkpoint.state
    assert [e.patch for e in read_entries(await rt.store.history(run.run_id))] == [e.patch for e in timeline.entries]
    from poundlock.state.typed import validate

    assert validate(wf.state, checkpoint.state) == run.state
    return run.state


@pytest.mark.parametrize("how", ["model", "name", "alias"])
@pytest.mark.parametrize("field", CHANGES)
async def test_what_a_step_writes_reads_back_equal(stores, field, how):
    """Each kind of value in typed state, by a changed model, by field name or by alias: equal, live and stored."""
    alias = Order.model_fields[field].alias or field

    async def work(state: Order):
        if how == "model":
            setattr(state, field, CHANGES[field])
            return state
        return {alias if how == "alias" else field: CHANGES[field]}

    state = await both_ways(stores, workflow(stage("one", work)), orderId=1)
    assert getattr(state, field) == CHANGES[field]
    assert type(getattr(state, field)) is type(CHANGES[field])


async def test_a_run_begins_with_a_model(stores):
    """A payload or a `map` that is an instance of the state's model begins a run as it is."""
    first = Order(orderId=7, colour=Colour.RED, tags={"a"}, by_key={2: Place(postCode="Q")})

    async def work(order_id):
        return None

    wf = workflow(stage("one", work))
    wf.on("go", map=lambda event: first.model_copy(update={"order_id": event.payload["n"]}))
    rt = await stores.enter(wf)
    [run] = await (await rt.emit("go", n=7)).results()
    assert run.state == first
    plain = workflow(stage("one", work), id="plain")
    await rt.register(plain)
    assert (await rt.run("plain", Order(orderId=3))).state == Order(orderId=3)


async def test_people_may_write_what_fields_hold(stores):
    """`resume` and `signal` take members of enums, sets and models where the state's fields do, in memory or not."""
    gate = workflow(Stage("gate", router=Pause(Wait("go"))), id="gate")
    for window in (60.0, 0.0):
        rt = await stores.enter(gate, pause_window=window)
        paused = await rt.run("gate", orderId=1)
        await rt.signal(paused.run_id, {"colour": Colour.RED, "by_key": {1: Place(postCode="N")}})
        run = await rt.resume(paused.run_id, {"tags": {"a"}, "path": Path("/x")})
        state = run.state
        assert (state.colour, state.by_key, state.tags, state.path) == (
            Colour.RED,
            {1: Place(postCode="N")},
            {"a"},
            Path("/x"),
        )
        await rt.stop()


async def test_what_a_former_model_had_may_be_removed(stores):
    """A key that the model lacks by now, and the state still has, can be removed by hand: that makes it fit."""

    class Former(BaseModel):
        n: int = 0
        old: int = 0

    class Now(BaseModel):
        model_config = ConfigDict(extra="forbid")
        n: int = 0

    rt = await stores.enter(workflow(Stage("gate", router=Pause(Wait("go"))), state=Former))
    paused = await rt.run("wf", n=1, old=2)
    await rt.deregister("wf")
    await rt.register(workflow(Stage("gate", router=Pause(Wait("go"))), state=Now))
    with pytest.raises(StateInvalid, match="old"):
        await rt.resume(paused.run_id)
    with pytest.raises(StateInvalid, match="no field 'odl'"):
        await rt.resume(paused.run_id, {"odl": DELETE})
    assert (await rt.resume(paused.run_id, {"old": DELETE})).state == Now(n=1)


class Elsewhere(BaseModel):
    a: int = Field(0, validation_alias="readA", serialization_alias="writeA")
    b: int = Field(0, validation_alias=AliasChoices("b1", AliasPath("deep", "b")))


@pytest.mark.parametrize("payload", [{"readA": 1, "deep": {"b": 2}}, {"a": 1, "b1": 2}, {"a": 1, "b": 2}])
async def test_aliases_that_differ(stores, payload):
    """Where reading and writing have different aliases, or a value stands deep in the data, patches still count."""

    async def begins(state: Elsewhere):
        assert (state.a, state.b) == (1, 2)
        return {"b": 5}

    async def changes(state: Elsewhere):
        state.a += 1
        return state

    state = await both_ways(stores, workflow(stage("one", begins), stage("two", changes), state=Elsewhere), **payload)
    assert (state.a, state.b) == (2, 5)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda state: setattr(state, "held", Wide(b=9)), "held"),
        (lambda state: state.calls.update(one=Colour.RED), "calls.one"),
        (lambda state: state.calls.update(one={1}), "calls.one"),
        (lambda state: state.calls.update(one=float("nan")), "calls.one"),
        (lambda state: setattr(state.point, "y", 5), "point.y"),
        (lambda state: state.calls.update({1: "x"}), "calls"),
    ],
    ids=["subclass", "enum", "set", "nan", "init=False", "int key"],
)
async def test_what_would_be_cut_is_refused_with_its_path(stores, change, path):
    """A value that its field cannot hold whole fails the step with the path; the state is as it was."""

    async def work(state: Order):
        change(state)
        return state

    rt = await stores.enter(workflow(stage("one", work)))
    run = await rt.run("wf", orderId=1)
    assert (run.status, run.error.code) == ("failed", "NOT_STORABLE"), run.error
    assert f"'{path}" in run.error.message
    assert run.state == Order(orderId=1)


async def test_private_attributes_are_nobodys_loss(stores):
    """What is private is not state: a model that has some is stored all the same."""

    class Cached(BaseModel):
        n: int = 0
        _cache: object = PrivateAttr(default_factory=object)

    async def work(state: Cached):
        state.n = 1
        return state

    rt = await stores.enter(workflow(stage("one", work), state=Cached))
    assert (await rt.run("wf")).state.n == 1


async def test_computed_fields_may_be_in_a_patch_if_they_say_the_same(stores):
    """`{**state.model_dump(), ...}` holds computed fields; one that says something else is refused."""

    async def good(state: Order):
        return {**state.model_dump(), "order_id": 2}

    async def bad():
        return {"label": "mine"}

    rt = await stores.enter(workflow(stage("one", good)), workflow(stage("one", bad), id="bad"))
    run = await rt.run("wf", orderId=1)
    assert run.error is None, run.error
    assert run.state.label == "#2"
    assert "'label' is computed" in (await rt.run("bad", orderId=1)).error.message


# ------------------------------------------------------------------------------------------------------ unknown keys
class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")

    n: int = 0


@pytest.mark.parametrize("patch", [{"oder_id": 1}, {"shipTo": {"postcode": "N"}}, {"stops": [{"postcode": "N"}]}])
async def test_a_key_that_the_model_lacks_is_refused(stores, patch):
    """From a step, a hook, `signal` and `resume`: StateInvalid with the path and near matches, nothing is changed."""

    async def work():
        return patch

    gate = workflow(Stage("gate", router=Pause(Wait("go"))), id="gate")
    rt = await stores.enter(workflow(stage("one", work)), gate)
    run = await rt.run("wf", orderId=1)
    assert (run.error.code, run.status) == ("STATE_INVALID", "failed")
    assert "did you mean" in run.error.message
    paused = await rt.run("gate", orderId=1)
    for call in (rt.resume(paused.run_id, patch), rt.signal(paused.run_id, patch)):
        with pytest.raises(StateInvalid, match="did you mean"):
            await call
    assert (await rt.get_run(paused.run_id)).status == "paused"
    assert (await rt.resume(paused.run_id, {"order_id": 4})).state.order_id == 4


async def test_models_with_extras_and_events_take_unknown_keys(stores):
    """A model that allows extras keeps them; events may carry more than a model has, as its own setting says."""

    class Tight(Loose):
        model_config = ConfigDict(extra="forbid")

    class Plain(BaseModel):
        n: int = 0

    async def work(state):
        return {"more": 1} if isinstance(state, Loose) and not isinstance(state, Tight) else None

    rt = await stores.enter(
        workflow(stage("one", work), state=Loose, id="loose"),
        workflow(stage("one", work), state=Plain, id="plain"),
        workflow(stage("one", work), state=Tight, id="tight"),
    )
    assert (await rt.run("loose", n=1, x=2)).state.model_extra == {"x": 2, "more": 1}
    assert (await rt.run("plain", n=1, x=2)).state == Plain(n=1)
    with pytest.raises(StateInvalid, match="x: "):
        await rt.run("tight", n=1, x=2)


async def test_a_modes_signal_follows_the_models_setting(stores):
    """The payload that a mode sends to its active run may have more keys than the model, and aliases."""
    open_gate = Wait("end")

    class Watched(BaseModel):
        seen: int = Field(0, alias="seenAt")

    wf = workflow(Stage("gate", router=Pause(open_gate)), state=Watched, mode=SingletonLoop("signal"))
    wf.on("tick")
    rt = await stores.enter(wf)
    receipt = await rt.emit("tick", seenAt=1, other=1)
    await receipt.results()
    assert (await rt.emit("tick", seenAt=2, other=2)).verdicts == ["signalled"]
    run = await rt.resume(receipt.run_ids[0])
    assert run.state.seen == 2


class Range(BaseModel):
    low: int = 0
    high: int = 10
    by: str = ""

    @model_validator(mode="after")
    def in_order(self):
        """A rule about two fields."""
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


WRONG = {"type": ({"low": "x"}, "low"), "unknown key": ({"lo": 1}, "lo"), "rule": ({"low": 11}, "")}


@pytest.mark.parametrize("window", [60, 0], ids=["warm", "cold"])
@pytest.mark.parametrize("wrong", WRONG)
async def test_people_get_an_error_for_values_that_do_not_fit(stores, wrong, window):
    """A signal and an answer by hand raise the error with its path and change nothing; a control event is rejected."""
    patch, path = WRONG[wrong]
    wf = workflow(Stage("gate", router=Pause(Wait("end"))), state=Range)
    wf.on("begin")
    rt = await stores.enter(wf, pause_window=window, control_events=True)
    [run] = await (await rt.emit("begin")).results()
    before, inbox = await rt.store.load(run.run_id), await rt.store.inbox(run.run_id, 0)
    for call in (rt.signal, rt.resume):
        with pytest.raises(StateInvalid) as caught:
            await call(run.run_id, patch)
        assert caught.value.path == path
    [line] = (await rt.emit("run:signal", run_id=run.run_id, patch=patch)).lines
    assert (line.verdict, line.reason.split(":")[0]) == ("rejected", "STATE_INVALID")
    assert (await rt.store.load(run.run_id), await rt.store.inbox(run.run_id, 0)) == (before, inbox)
    await rt.signal(run.run_id, {"high": 20})
    await rt.signal(run.run_id, {"low": 15})  # it fits once the first one is taken in
    result = await rt.resume(run.run_id)
    assert (result.state.low, result.state.high) == (15, 20)
    assert "state:refused" not in (await rt.timeline(run.run_id)).types()


async def test_a_signal_that_nobody_could_check(stores):
    """Where the workflow is unknown any patch is taken; the run leaves out what does not fit, and goes on."""

    def made():
        wf = workflow(Stage("gate", router=Pause(Wait("end"))), state=Range)
        wf.on("begin")
        return wf

    rt = await stores.enter(made())
    [run] = await (await rt.emit("begin")).results()
    await stores.crash(rt)
    rt = await stores.enter()
    await rt.signal(run.run_id, {"low": "x"})
    await stores.crash(rt)
    rt = await stores.enter(made())
    assert (await rt.resume(run.run_id)).state.low == 0
    assert (await rt.timeline(run.run_id)).types().count("state:refused") == 1


async def test_a_signal_to_a_state_that_does_not_fit(stores):
    """What a new model objects to already is no fault of a signal to other keys, and a signal may mend it."""

    class Next(Range):
        region: str

    def made(state):
        wf = workflow(Stage("gate", router=Pause(Wait("end"))), state=state)
        wf.on("begin")
        return wf

    rt = await stores.enter(made(Range))
    [run] = await (await rt.emit("begin")).results()
    await stores.crash(rt)
    rt = await stores.enter(made(Next))
    await rt.signal(run.run_id, {"by": "Ada"})
    with pytest.raises(StateInvalid) as caught:
        await rt.signal(run.run_id, {"region": 7})
    assert caught.value.path == "region"
    await rt.signal(run.run_id, {"region": "eu"})


async def test_a_modes_signal_that_does_not_fit_is_rejected(stores):
    """Its sender is told, while the run is in this process; the run is as before."""
    wf = workflow(Stage("gate", router=Pause(Wait("end"))), state=Range, mode=SingletonLoop("signal"))
    wf.on("tick")
    rt = await stores.enter(wf)
    receipt = await rt.emit("tick")
    await receipt.results()
    [line] = (await rt.emit("tick", low=11)).lines
    assert (line.verdict, "low is above high" in line.reason) == ("rejected", True)
    assert (await rt.emit("tick", low=3)).verdicts == ["signalled"]
    assert (await rt.resume(receipt.run_ids[0])).state.low == 3


# -------------------------------------------------------------------------------------------------- Overwrite, DELETE
@pytest.mark.parametrize("typed", [True, False])
async def test_overwrite_replaces_and_delete_removes(stores, typed):
    """Overwrite empties or replaces a mapping at any depth; merging is the rule elsewhere; the timeline replays it."""

    class State(BaseModel):
        calls: dict[str, dict[str, int]] = {}

    async def first():
        return {"calls": {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1}}}

    async def second():
        return {"calls": {"a": Overwrite({"y": 2}), "b": {"y": 2}, "c": DELETE}}

    async def third():
        return {"calls": Overwrite({})}

    wf = workflow(stage("one", first), stage("two", second), stage("three", third), state=State if typed else None)
    rt = await stores.enter(wf)
    run = await rt.run("wf")
    timeline = await rt.timeline(run.run_id)
    states = [timeline.state_at(entry.seq) for entry in timeline.entries if entry.type == "state:patch"]
    assert states[1]["calls"] == {"a": {"y": 2}, "b": {"x": 1, "y": 2}}
    assert states[2]["calls"] == {}
    assert (run.state.calls if typed else run.state["calls"]) == {}


async def test_a_returned_model_overwrites_what_it_changed(stores):
    """Emptying a mapping of the model works, and fields that it did not change are left to others."""

    class Inner(BaseModel):
        calls: dict[str, int] = {}
        n: int = 0

    class State(BaseModel):
        inner: Inner = Inner()
        left: int = 0
        right: int = 0

    async def empties(state: State):
        state.inner.calls = {}
        state.left = 1
        return state

    async def beside(state: State):
        state.inner.n = 5
        state.right = 2
        return state

    state = await both_ways(stores, workflow(stage("one", empties, beside), state=State), inner={"calls": {"a": 1}})
    assert state == State(inner=Inner(n=5), left=1, right=2)


@pytest.mark.parametrize("mark", [DELETE, Overwrite({})], ids=["DELETE", "Overwrite"])
async def test_marks_where_they_mean_nothing_are_refused(stores, mark):
    """In a list, inside an Overwrite and in an event's payload: NotStorable with the path, not stored as data."""

    async def listed():
        return {"a": [{"b": mark}]}

    async def nested():
        return {"a": Overwrite({"b": mark})}

    rt = await stores.enter(*(workflow(stage("one", fn), state=None, id=fn.__name__) for fn in (listed, nested)))
    assert "'a.0.b'" in (await rt.run("listed")).error.message
    assert "'a.b'" in (await rt.run("nested")).error.message
    with pytest.raises(NotStorable, match=r"payload\.a"):
        await rt.emit(Event("any", {"a": mark}))
    with pytest.raises(NotStorable, match=r"payload\.a"):
        await rt.run("listed", a=mark)


async def test_who_overwrites_a_mapping_clashes_with_who_writes_in_it(stores):
    """Two steps of one stage: an Overwrite and a key below it are a conflict, and so is what a third one writes."""

    async def over():
        return {"a": Overwrite({})}

    async def removes():
        return {"b": DELETE}

    async def below():
        return {"a": {"x": 1}, "b": {"x": 1}}

    rt = await stores.enter(workflow(stage("one", over, removes, below), state=None))
    timeline = await rt.timeline((await rt.run("wf", a={"y": 1})).run_id)
    assert "state:conflict" in timeline.types()


# ------------------------------------------------------------------------------------------ defaults made by factories
class Item(BaseModel):
    id: UUID = Field(default_factory=uuid4, alias="itemId")


class Basket(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    items: list[Item] = Field(default_factory=list)
    by_name: dict[str, Item] = {}
    n: int = 0


async def test_a_default_that_changes_is_written_once(stores):
    """A default by a factory is what it was when the run began, or when a patch made its place, at every reading."""
    seen = []

    async def looks(state: Basket):
        seen.append(state)
        return {"items": [{}], "by_name": {"x": {}}, "n": 1}

    async def again(state: Basket):
        seen.append(state)

    rt = await stores.enter(workflow(stage("one", looks), stage("two", again), state=Basket))
    run = await rt.run("wf")
    assert run.error is None, run.error
    assert seen[0].id == seen[1].id == run.state.id
    assert seen[1].items == run.state.items
    assert seen[1].by_name == run.state.by_name
    timeline = await rt.timeline(run.run_id)
    assert timeline.state_at(len(timeline)) == (await rt.store.checkpoint(run.run_id)).state
    assert "state:defaults" in timeline.types()


# ------------------------------------------------------------------------------------------------------------- routers
async def test_a_router_sees_all_of_a_returned_model(stores):
    """The results that a router is given hold the whole model, whatever of it has changed."""
    seen = []

    async def work(state: Base):
        state.a = 0
        return state

    def router(results):
        seen.append(results)

    await (await stores.enter(workflow(stage("one", work, router=router), state=Base))).run("wf", a=0)
    assert seen == [{"s0": {"a": 0}}]


async def test_a_model_without_state_model_is_written_by_alias(stores):
    """In untyped state a model is plain data, whole, under the keys it is read by; a reader gets an equal one."""
    seen = []

    async def work():
        return {"box": Box(place=Place(postCode="N1"), held=Wide(a=1, b=2))}

    async def reads(box: Box):
        seen.append(box)

    rt = await stores.enter(workflow(stage("one", work), stage("two", reads), state=None))
    run = await rt.run("wf")
    assert run.error is None, run.error
    assert run.state["box"] == {"place": {"postCode": "N1"}, "held": {"a": 1, "b": 2}}
    assert seen == [Box(place=Place(postCode="N1"), held=Base(a=1))]


async def test_a_strict_model_reads_what_it_wrote(stores):
    """A model that takes no text for a time gets the time back."""

    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)

        at: dt.datetime | None = None
        n: Annotated[int, Field(ge=0)] = 0

    async def work(state: Strict):
        state.at = NOW
        return state

    async def patches():
        return {"at": NOW + dt.timedelta(1), "n": 1}

    state = await both_ways(stores, workflow(stage("one", work), stage("two", patches), state=Strict))
    assert state == Strict(at=NOW + dt.timedelta(1), n=1)


async def test_the_path_is_of_what_cannot_be_written(stores):
    """Beside a field that pydantic cannot write, others that only pydantic can are not blamed."""

    async def work(state: Order):
        state.colour = Colour.RED
        state.calls["x"] = object()
        return state

    rt = await stores.enter(workflow(stage("one", work)))
    run = await rt.run("wf", orderId=1)
    assert run.error.code == "NOT_STORABLE"
    assert run.error.message.startswith("'calls.x' ")


class Uncopied(BaseModel):
    n: int = Field(0, alias="theN")
    twice: list[int] = []

    def __deepcopy__(self, memo=None):
        raise TypeError("no")


async def test_each_who_waits_gets_an_instance_of_the_model(stores):
    """A model that cannot be copied is read anew for the second one who waits, by the same rule."""
    gate = workflow(Stage("gate", router=Pause(Wait("go"))), state=Uncopied, id="gate")
    rt = await stores.enter(gate)
    paused = await rt.run("gate", theN=3)
    waiting = [asyncio.create_task(rt.wait(paused.run_id)) for _ in range(2)]
    await stores.clock.run_until_idle()
    await rt.resume(paused.run_id, {"twice": [1]})
    first, second = [(await task).state for task in waiting]
    assert (first.n, second.n, first.twice, second.twice) == (3, 3, [1], [1])
    assert type(second) is Uncopied
    assert first.twice is not second.twice
