"""Where `Sensitive` is in a type, and how such values are hidden in data and texts."""

from __future__ import annotations

import dataclasses
from typing import Annotated, NamedTuple, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel
from typing_extensions import TypedDict

from poundlock import DELETE, Overwrite, Sensitive
from poundlock.model.redaction import masks_of_paths
from poundlock.sensitive import HIDDEN, conceal, concealed, hides, masked, masks_at, masks_of, paths_of, texts_at

SECRET = "canary-7315"


class Card(BaseModel):
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)
    number: Sensitive[str] = Field(SECRET, alias="cardNumber", serialization_alias="no")
    holder: str = "Ada"


class Node(BaseModel):
    pin: Sensitive[str] = SECRET
    children: list[Node] = []


class Pins(RootModel[dict[str, Sensitive[str]]]):
    pass


class Typed(TypedDict):
    pin: Sensitive[str]
    open: str


class Named(NamedTuple):
    pin: Sensitive[str]
    open: str


@dataclasses.dataclass
class Plain:
    pin: Sensitive[str]
    open: str


class Whole(BaseModel):
    direct: Sensitive[str] = SECRET
    optional: Sensitive[str] | None = SECRET
    older: Optional[Sensitive[str]] = SECRET  # noqa: UP045 - both ways of writing it
    described: Annotated[Sensitive[str], Field(description="a pin")] = SECRET
    listed: list[Sensitive[str]] = [SECRET]
    pair: tuple[str, Sensitive[str]] = ("open", SECRET)
    mapped: dict[str, Sensitive[str]] = {"a": SECRET}
    card: Card = Card()
    cards: list[Card] = [Card()]
    by_name: dict[str, list[Card]] = {"a": [Card()]}
    either: Card | int = Card()
    node: Node = Node(children=[Node()])
    pins: Pins = Pins({"a": SECRET})
    typed: Typed = {"pin": SECRET, "open": "open"}
    plain: Plain = Plain(SECRET, "open")
    chosen: Sensitive[str] = Field(SECRET, validation_alias=AliasChoices("one", AliasPath("deep", "two")))
    object: Sensitive[dict[str, int | str]] = {"x": SECRET}
    open: str = "open"


def test_a_model_hides_each_marked_field_wherever_it_is():
    """At any depth, under names and aliases, in unions, containers and classes of any kind; the rest stays."""
    for by_alias in (False, True):
        data = Whole().model_dump(mode="json", by_alias=by_alias)
        shown = masked(data, masks_of(Whole))
        assert SECRET not in repr(shown)
        assert SECRET in repr(data)
        assert shown["open"] == "open"
        assert shown["card"]["holder"] == "Ada"
        assert (shown["listed"], shown["mapped"], shown["object"]) == ([HIDDEN], {"a": HIDDEN}, HIDDEN)
        assert texts_at(data, masks_of(Whole)) == {SECRET, "open"}  # all of a pair is hidden


def test_the_repr_of_a_model_leaves_it_out():
    """Once a model is known, its own `repr` shows no marked field, nor those of what is in it."""
    assert masks_of(Whole)
    assert SECRET not in repr(Whole())
    assert "holder" in repr(Whole())


def test_classes_that_are_no_models():
    """Dataclasses, typed dicts and named tuples are looked into as well."""
    for kind, data in ((Plain, {"pin": SECRET, "open": "a"}), (Typed, {"pin": SECRET, "open": "a"})):
        assert masked(data, masks_of(kind)) == {"pin": HIDDEN, "open": "a"}
    assert masked([SECRET, "a"], masks_of(Named)) == [HIDDEN, "a"]
    assert masks_of(int) == masks_of(list[str]) == masks_of("text") == masks_of(None) == ()


def test_paths_say_the_same():
    """What is written down for readers that do not know the model hides the same data."""
    again = masks_at(paths_of(masks_of(Whole)))
    data = Whole().model_dump(mode="json", by_alias=True)
    assert masked(data, again) == masked(data, masks_of(Whole))


def test_patches_are_hidden_and_keep_their_meaning():
    """DELETE and None say nothing of the value; Overwrite hides what it writes."""
    masks = masks_at([["a"], ["b", "c"]])
    patch = {"a": DELETE, "b": Overwrite({"c": SECRET, "d": 1})}
    assert masked(patch, masks) == {"a": DELETE, "b": Overwrite({"c": HIDDEN, "d": 1})}
    assert masked({"a": None}, masks) == {"a": None}


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("card", True),
        ("card.number", True),
        ("card.number.first", True),
        ("card.holder", False),
        ("l.3.pin", True),
        ("l.3.n", False),
    ],
)
def test_a_path_is_hidden_with_what_is_above_and_below(path, hidden):
    """Also one that contains something hidden, or is part of it."""
    assert hides(masks_of_paths(["card.number", "l.*.pin"]), path) is hidden


def test_a_text_is_hidden_in_all_its_forms():
    """As it is, quoted, escaped; the longest first; short ones are part of any text and stay."""
    secret = 'it\'s\n"secret"'
    for text in (secret, repr(secret), f"{secret!r} {secret}"):
        assert "secret" not in conceal(text, {secret})
    assert conceal("abcdef abc", {"abcd", "abcdef"}) == f"{HIDDEN} abc"
    assert texts_at({"a": "abc", "b": 12, "c": True}, masks_at([["a"], ["b"], ["c"]])) == set()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.lists(st.lists(st.sampled_from(["a", "b", "*", ""]), max_size=3), max_size=4))
def test_hiding_never_raises_and_never_changes_the_data(data, paths):
    """Whatever the data and the paths; what is hidden is not in the result."""
    before = repr(data)
    masks = masks_at(paths)
    shown = concealed(masked(data, masks), texts_at(data, masks))
    assert repr(data) == before
    for text in texts_at(data, masks):
        if text not in HIDDEN:
            assert text not in repr(shown) or text in repr(paths)
