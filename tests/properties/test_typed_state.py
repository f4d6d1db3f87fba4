"""Typed state: whatever is written reads back equal, or is refused with its path; nothing is cut."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, computed_field

from poundlock.codecs import load, pack_patch
from poundlock.errors import NotStorable, StateInvalid
from poundlock.model.patches import merge
from poundlock.pipeline.states import begun, returned, settle, written
from poundlock.state.differing import difference
from poundlock.state.typed import dump, validate


class Colour(enum.Enum):
    RED = "red"
    TWO = 2


class Word(enum.StrEnum):
    YES = "yes"


@dataclasses.dataclass
class Point:
    x: int
    y: int = dataclasses.field(init=False, default=0)


class Part(BaseModel):
    name: str = Field("", alias="partName")
    more: dict[str, Any] = {}


class Wide(Part):
    width: int = 1


class State(BaseModel):
    model_config = ConfigDict(extra="forbid")

    n: int = Field(0, alias="theN")
    part: Part = Field(default_factory=Part, validation_alias="readPart", serialization_alias="writePart")
    parts: list[Part] = []
    by_key: dict[int, Part] = {}
    colour: Colour = Colour.RED
    word: Word | None = None
    tags: set[int] = set()
    path: PurePosixPath = PurePosixPath("/")
    price: Decimal = Decimal(0)
    at: dt.datetime | None = None
    data: dict[str, Any] = {}
    point: Point = Point(0)

    @computed_field
    @property
    def twice(self) -> int:
        return 2 * self.n


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats()
    | st.text(max_size=3)
    | st.decimals()
    | st.datetimes()
    | st.sampled_from([Colour.RED, Word.YES, PurePosixPath("/x"), {1}, b"x", (1, 2)]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab$", max_size=5), inner, max_size=2),
    max_leaves=4,
)
data = st.dictionaries(st.sampled_from(["a", "b", "$type"]), anything, max_size=2)
part = st.builds(lambda name, more: Part(partName=name, more=more), st.text(max_size=3), data)
wide = st.builds(lambda width: Wide(partName="w", width=width), st.integers(0, 3))


def late(x, y):
    point = Point(x)
    point.y = y
    return point


FIELDS = {
    "n": st.integers(),
    "part": part | wide,
    "parts": st.lists(part | wide, max_size=2),
    "by_key": st.dictionaries(st.integers(-2, 2), part, max_size=2),
    "colour": st.sampled_from(Colour),
    "word": st.none() | st.sampled_from(Word),
    "tags": st.sets(st.integers(0, 3)),
    "path": st.sampled_from([PurePosixPath("/a"), PurePosixPath("b")]),
    "price": st.decimals(),
    "at": st.none() | st.datetimes(timezones=st.none() | st.just(dt.UTC)),
    "data": data,
    "point": st.builds(late, st.integers(0, 2), st.integers(0, 1)),
}
changes = st.fixed_dictionaries({}, optional=FIELDS)


def stored(change):
    """Write and read a patch as a store does."""
    assert pack_patch(load(change.text)) == (change.patch, change.text)
    return change.patch


@settings(deadline=None)
@given(changes, changes, st.sampled_from(["model", "name", "alias"]))
def test_what_is_written_reads_back_equal_or_is_refused(first, second, how):
    """Two changes after one another, by models or by patches: the state is what was meant, and valid by itself."""
    state = begun(State, {}, "{}").patch
    meant = validate(State, state)
    for change in (first, second):
        meant = meant.model_copy()
        for name, value in change.items():
            setattr(meant, name, value)
        try:
            by_model = how == "model"
            patch = returned(State, meant, state) if by_model else written(State, _keyed(change, how), state)
            state = settle(State, merge(state, stored(patch)))
        except (NotStorable, StateInvalid) as error:
            refused = error.path
        else:
            refused = None
        if refused is not None:
            assert refused.split(".")[0] in {key for name in change for key in _names(name)}
            return
        back = validate(State, state)
        if how == "model":
            assert difference(meant, back) is None
        for name, value in change.items():
            found = getattr(back, name)
            if how != "model" and name == "data":
                continue  # patches merge in it, at every depth
            if how != "model" and name == "by_key":
                found = {key: found[key] for key in value}
            assert difference(value, found) is None, name
        meant = back


@settings(deadline=None)
@given(changes)
@example({"data": {"a": PurePosixPath("/x")}})
def test_a_whole_model_is_dumped_or_refused(change):
    """`dump` gives what reads back equal, or names the field that does not."""
    model = State()
    for name, value in change.items():
        setattr(model, name, value)
    refused = None
    try:
        written_state = dump(State, model)
    except (NotStorable, StateInvalid) as error:
        refused = error.path
    if refused is not None:
        assert refused.split(".")[0] in {key for name in change for key in _names(name)}
        return
    assert difference(validate(State, load(pack_patch(written_state)[1])), model) is None


def _names(name):
    return (name, _alias(name))


def _alias(name):
    field = State.model_fields[name]
    return field.validation_alias or field.alias or name


def _keyed(change, how):
    return {name if how == "name" else _alias(name): value for name, value in change.items()}
