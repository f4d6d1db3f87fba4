"""What is written is what is read, or it is refused with its place."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import math
import uuid
from collections import OrderedDict, namedtuple
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from poundlock import codecs
from poundlock.codecs import detach, dump, load, pack, register_type
from poundlock.errors import NotStorable, UnknownCodec
from poundlock.marks import DELETE

text = st.text(st.characters(exclude_categories=["Cs"]))
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.just("$type")
)
registered = (
    st.datetimes(timezones=st.none() | st.just(dt.UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.binary()
    | st.just(DELETE)
)


def nested(parts):
    keys = text | st.sampled_from(["$type", "value"])
    return st.recursive(parts, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20)


@pytest.fixture(autouse=True)
def _same_registry_afterwards(monkeypatch):
    monkeypatch.setattr(codecs, "_encoders", dict(codecs._encoders))
    monkeypatch.setattr(codecs, "_decoders", dict(codecs._decoders))
    monkeypatch.setattr(codecs, "_lookalikes", set())


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


class Ratio(float, enum.Enum):
    HALF = 0.5


@dataclasses.dataclass
class Point:
    x: int
    y: list


class Model(BaseModel):
    name: str
    when: dt.date


# -- round trips
@given(nested(leaves | registered))
def test_storable_values_come_back_equal(value):
    """Data of JSON and of the registered types reads back as it was packed, the same way every time."""
    decoded, written = pack(value)
    assert decoded == value
    assert load(written) == load(written.encode()) == decoded
    assert pack(decoded) == (decoded, written)
    assert dump(value) == written


@given(nested(leaves))
def test_plain_data_is_plain_json(value):
    """Without registered types and the reserved key the text is just JSON, readable by anything."""
    import json

    written = dump(value)
    if '"$type"' not in written:
        assert json.loads(written) == value


@given(nested(leaves | registered))
def test_packed_values_share_nothing(value):
    """The decoded value is a copy: changing the one never changes the other."""
    before = repr(value)
    decoded, _ = pack(value)
    if isinstance(decoded, list):
        decoded.append("changed")
    elif isinstance(decoded, dict):
        decoded["changed"] = True
    assert repr(value) == before


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC),
        dt.datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001 - naive ones have to survive too
        dt.date(2026, 1, 2),
        dt.time(23, 59, 59, 999999),
        dt.timedelta(days=-1, microseconds=1),
        dt.timedelta.max,
        Decimal("1.50"),
        Decimal("-0"),
        Decimal("1E+400"),
        uuid.UUID(int=1),
        b"",
        b"\xff\x00",
        DELETE,
    ],
    ids=repr,
)
def test_registered_types_keep_their_type(value):
    """Dates, times, decimals, UUIDs, bytes and DELETE come back as what they were, alone and inside of others."""
    for wrapped in (value, [value], {"a": {"b": [value]}}):
        decoded, written = pack(wrapped)
        assert repr(decoded) == repr(wrapped)
        assert repr(load(written)) == repr(wrapped)


def test_a_moment_in_a_zone_stays_the_same_moment():
    """A datetime with a named zone comes back as the same instant with the offset it had, in summer and in winter."""
    for month in (1, 7):
        moment = dt.datetime(2026, month, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
        decoded, _ = pack(moment)
        assert decoded == moment
        assert decoded.utcoffset() == moment.utcoffset()


@pytest.mark.parametrize(
    "value",
    [
        {"$type": "uuid", "value": "x"},
        {"$type": "no such type"},
        {"$type": None},
        {"$type": {"$type": ["$type"]}},
        {"a": [{"$type": 1, "b": {"$type": 2}}]},
        {"value": "$type"},
        "$type",
        ["$type", {"x": '"$type"'}],
        {"$type": dt.date(2026, 1, 1), "b": b"x"},
    ],
    ids=repr,
)
def test_a_users_own_type_key_is_data(value):
    """The key that marks types may stand in anybody's data, at any depth, with any value."""
    decoded, written = pack(value)
    assert decoded == value
    assert load(written) == value


def test_tuples_come_back_as_lists():
    """JSON knows one sequence; named tuples are no exception."""
    pair = namedtuple("pair", "x y")  # noqa: PYI024 - the untyped kind is the one people have
    assert pack((1, (2, 3), pair(4, 5)))[0] == [1, [2, 3], [4, 5]]


def test_subclasses_of_plain_types_become_plain():
    """Subclasses of text and numbers are their plain value for everybody, right after packing and after a crash."""
    kinds = {name: type(name, (base,), {}) for name, base in [("T", str), ("I", int), ("F", float)]}
    values = [kinds["T"]("a"), kinds["I"](1), kinds["F"](1.5), Level.HIGH, Word.YES, Ratio.HALF]
    decoded, _ = pack(values)
    assert decoded == ["a", 1, 1.5, 3, "yes", 0.5]
    assert [type(value) for value in decoded] == [str, int, float, int, str, float]
    # next to a registered type the slow path is taken: the same
    slow, _ = pack([*values, b""])
    assert [type(value) for value in slow] == [str, int, float, int, str, float, bytes]


def test_mappings_models_and_dataclasses_become_dicts():
    """Unregistered structures are stored as their fields, with registered types inside of them kept."""
    assert pack(OrderedDict(b=1, a=2))[0] == {"b": 1, "a": 2}
    assert pack(MappingProxyType({"a": (1,)}))[0] == {"a": [1]}
    assert pack(Point(1, [Point(2, [])]))[0] == {"x": 1, "y": [{"x": 2, "y": []}]}
    assert pack(Model(name="n", when=dt.date(2026, 1, 1)))[0] == {"name": "n", "when": dt.date(2026, 1, 1)}


# -- refusals
DEEP: list = []
for _ in range(64):
    DEEP = [DEEP]
CIRCLE: dict = {}
CIRCLE["self"] = CIRCLE


REFUSED = {
    "nan": (math.nan, ""),
    "inf": (math.inf, ""),
    "inner-infinity": ([1, {"a": -math.inf}], "1.a"),
    "int-key": ({1: "a"}, "1"),
    "none-key": ({"a": {None: 1}}, "a.None"),
    "bool-key": ({"a": {True: 1}}, "a.True"),
    "surrogate": ({"a": "\ud800"}, "a"),
    "surrogate-key": ({"\udfff": 1}, ""),
    "set": ({"a": [0, {1, 2}]}, "a.1"),
    "frozenset": (frozenset(), ""),
    "object": ({"a": object()}, "a"),
    "bytearray": (bytearray(b"x"), ""),
    "complex": (1j, ""),
    "fraction": (Fraction(1, 2), ""),
    "generator": ((number for number in [1]), ""),
    "range": (range(3), ""),
    "function": (len, ""),
    "class": (Point, ""),
    "exception": (ValueError("x"), ""),
    "enum": ({"a": Colour.RED}, "a"),
    "secret": ({"a": {"b": SecretStr("x")}}, "a.b"),
    "huge-int": ({"a": 10**4300}, "a"),
    "huge-int-tagged": ({"a": [-(10**5000), dt.date(2026, 1, 1)]}, "a.0"),
}


@pytest.mark.parametrize(("value", "path"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_stored_is_refused_with_its_place(value, path):
    """A value that JSON or the registry has no form for is NotStorable, and `path` leads to it."""
    with pytest.raises(NotStorable) as caught:
        pack(value)
    assert caught.value.path == path
    with pytest.raises(NotStorable) as caught:
        pack(value, "state.field")
    assert caught.value.path == (f"state.field.{path}" if path else "state.field")


@pytest.mark.parametrize(
    "value", [DEEP, {"a": DEEP}, {"a": [DEEP, b""]}, CIRCLE], ids=["list", "dict", "tagged", "circle"]
)
def test_nesting_has_a_limit(value):
    """What nests deeper than 64 levels, circles included, is refused rather than written and then never read."""
    with pytest.raises(NotStorable, match="64 levels"):
        pack([value])


@pytest.mark.parametrize(
    "step",
    [lambda inner: [inner], lambda inner: {"$type": inner}, lambda inner: {"a": [inner]}],
    ids=["list", "escaped", "both"],
)
def test_whatever_is_accepted_can_be_read_inside_an_envelope(step):
    """Data at the very limit can still be read where it is nested in log rows and envelopes later."""
    value, accepted = 1, 0
    for _ in range(100):
        value = step(value)
        try:
            decoded, written = pack(value)
        except NotStorable:
            break
        accepted += 1
        envelope = "[[[" + written + "]]]"
        assert load(envelope) == [[[decoded]]]
    assert 20 <= accepted <= 64


def test_depth_counts_wherever_the_brackets_are():
    """Wide data may have any number of containers; only their nesting counts, exactly."""
    wide = {str(number): [{}, []] for number in range(500)}
    assert pack(wide)[0] == wide
    inner: list = []
    for _ in range(60):
        inner = [inner]
    assert pack([wide, inner])[0] == [wide, inner]
    with pytest.raises(NotStorable):
        pack([wide, [[[[[inner]]]]]])


def test_unknown_types_in_the_store_are_named():
    """Reading a type that this process does not know is UnknownCodec and says which."""
    for written in ('{"$type":"acme.thing","value":1}', '[{"a":{"$type":["x"],"value":1}}]'):
        with pytest.raises(UnknownCodec):
            load(written)
    with pytest.raises(UnknownCodec, match=r"acme\.thing"):
        load('{"$type":"acme.thing","value":1}')


def test_numbers_keep_their_kind():
    """Ints stay ints and floats floats, up to the largest."""
    values = [0, -0.0, 1, 1.0, 2**63, 2**64, 10**4000, 1e308, 5e-324, 0.1]
    assert [repr(value) for value in pack(values)[0]] == [repr(value) for value in values]


# -- the registry
def test_enums_dataclasses_and_models_register_without_help():
    """Enums, dataclasses and pydantic models need only a name, and come back as what they were."""
    register_type(Colour, name="colour")
    register_type(Point, name="point")
    register_type(Model, name="model")
    value = {"c": Colour.RED, "p": Point(1, [Colour.RED]), "m": Model(name="n", when=dt.date(2026, 1, 1))}
    decoded, written = pack(value)
    assert decoded == value
    assert load(written) == value
    assert decoded["p"] is not value["p"]


def test_registered_enums_of_text_and_numbers_keep_their_type():
    """An enum whose members are also text or numbers keeps its type once it is registered."""
    register_type(Word, name="word")
    register_type(Level, name="level")
    decoded, _ = pack([Word.YES, Level.HIGH])
    assert [type(value) for value in decoded] == [Word, Level]


def test_types_register_with_functions_of_their_own():
    """Anything else registers with a way there and a way back."""
    with pytest.raises(ValueError, match="give encode"):
        register_type(Fraction, name="fraction")
    register_type(
        Fraction,
        name="fraction",
        encode=lambda value: [value.numerator, value.denominator],
        decode=lambda pair: Fraction(*pair),
    )
    assert pack({"half": Fraction(1, 2)})[0] == {"half": Fraction(1, 2)}


def test_stored_names_are_not_taken_twice():
    """A name in the store means one type; registering that type again is fine."""
    with pytest.raises(ValueError, match="belongs to another type"):
        register_type(Colour, name="date")
    register_type(Colour, name="colour")
    register_type(Colour, name="colour")


# -- copies
@given(nested(leaves))
def test_detach_copies_all_the_way_down(value):
    """A detached copy is equal, and no container in it is shared with the original."""
    copy = detach(value)
    assert copy == value
    shared = {id(part) for part in containers(value)} & {id(part) for part in containers(copy)}
    assert not shared


def test_detach_turns_mappings_into_dicts():
    """A read-only mapping is detached into a dict."""
    assert type(detach(MappingProxyType({"a": [1]}))) is dict


def containers(value):
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@pytest.mark.parametrize(
    ("value", "path", "said"),
    [
        ({"a": Colour.RED}, "a", ["Colour.RED", "Write its .value ('red')", "a StrEnum or IntEnum"]),
        ({"a": [Right.READ]}, "a.0", ["Right.READ", "Write its .value (1)", "an IntFlag"]),
    ],
    ids=["enum", "flag"],
)
def test_an_enum_is_told_each_way_out(value, path, said):
    """The refusal of a member names it, and what to do: its value, another base, a state model, or registering it."""
    with pytest.raises(NotStorable) as caught:
        pack(value)
    assert caught.value.path == path
    name = said[0].partition(".")[0]
    for text in (*said, "Workflow(state=...)", f"register_type({name}, name='{name}')"):
        assert text in caught.value.message


@pytest.mark.parametrize(
    ("key", "said"),
    [(1, "Write text, or declare the field in a state model: dict[int, ...]"), (Colour.RED, "Write its .value")],
)
def test_a_key_that_is_no_text_is_told_what_to_do(key, said):
    """The refusal of a key says how to write it, and that a state model takes it."""
    with pytest.raises(NotStorable, match="keys must be strings") as caught:
        pack({"a": {key: 1}})
    assert said in caught.value.message


class Corner(enum.Enum):
    LEFT = (0, 1)
    RIGHT = (1, 0)


def test_an_enum_of_tuples_registers_without_help():
    """Stored values are lists where the members' are tuples: they are found all the same."""
    register_type(Corner, name="test/corner")
    text = dump({"at": [Corner.LEFT, Corner.RIGHT]})
    assert load(text) == {"at": [Corner.LEFT, Corner.RIGHT]}
