"""Seven comparisons that never raise."""

from __future__ import annotations

import datetime as dt
import enum
import itertools
import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundlock.codecs import pack
from poundlock.errors import InvalidDefinition
from poundlock.model.conditions import OPERATORS, Condition, StateRef, all_match, resolve
from poundlock.model.paths import MISSING


class Word(enum.StrEnum):
    A = "a"


VALUES = [
    MISSING, None, True, False, 0, 1, -1, 2**53, 2**53 + 1, 0.0, 1.0, 0.5, float(2**53), math.nan, math.inf,
    "", "a", "b", "1", "true", Word.A, [], [1], [1.0], [True], [2], [1, "a"], ["a", 1], [None], {}, {"a": 1},
    {"a": 1.0}, {"a": True}, {"a": None}, {"a": 1, "b": 2}, (1,), b"a", b"b", dt.date(2026, 1, 1), dt.date(2026, 1, 2),
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    dt.datetime(2026, 1, 1), Decimal(1), Decimal("1.0"), Decimal(2), Decimal("sNaN"),  # noqa: DTZ001 - naive too
    Decimal("NaN"), Decimal("Infinity"), Decimal("-Infinity"), Decimal("0.5"), Decimal("0.1"), 0.1, Decimal(2**53 + 1),
]  # fmt: skip


class Unlike(Exception):
    """Two values that cannot be compared."""


def plain(value):
    """Return (kind, form): data is equal if and only if kind and form are."""
    match value:
        case None:
            return "null", 0
        case bool():
            return "bool", int(value)
        case int():
            return "number", Fraction(value)
        case float():
            return "number", "nan" if math.isnan(value) else value if math.isinf(value) else Fraction(value)
        case Decimal():
            return "number", "nan" if value.is_nan() else float(value) if value.is_infinite() else Fraction(value)
        case str():
            return "text", "".join(value)
        case list() | tuple():
            return "list", tuple(plain(item) for item in value)
        case dict():
            return "map", frozenset((key, plain(item)) for key, item in value.items())
        case dt.datetime():
            return "datetime" if value.tzinfo else "naive", value.astimezone(dt.UTC) if value.tzinfo else value
    return type(value).__name__, value


def reference(found, op, value):
    """Say what a condition means, the slow and obvious way."""
    if op == "exists":
        return (found is MISSING) is (value is False)
    if found is MISSING or value is MISSING:
        return False
    (kind, left), (other, right) = plain(found), plain(value)
    if "null" in (kind, other):
        return op in ("==", "!=") and (kind == other) is (op == "==")
    if {kind, other} == {"datetime", "naive"}:
        return op == "!="  # of one Python type, never equal and without an order
    if kind != other or "nan" in (left, right):
        return False
    if op in ("==", "!="):
        return (left == right) is (op == "==")
    try:
        order = compare(kind, left, right)
    except Unlike:
        return False
    return {">": order > 0, ">=": order >= 0, "<": order < 0, "<=": order <= 0}[op]


def compare(kind, left, right):
    if kind == "map":
        raise Unlike
    if kind == "list":
        for (first, x), (second, y) in zip(left, right, strict=False):
            # Python orders numbers and booleans among each other inside of lists
            if {first, second} <= {"number", "bool"}:
                if x != y:
                    return 1 if x > y else -1
            elif first != second:
                raise Unlike
            elif (order := 0 if x == y else compare(first, x, y)) != 0:
                return order
        return (len(left) > len(right)) - (len(left) < len(right))
    if kind == "null":
        raise Unlike
    return (left > right) - (left < right)


@pytest.mark.parametrize("op", OPERATORS)
def test_every_pair_of_kinds(op):
    """All operators on all pairs of values of all kinds agree with the reference, and none raises."""
    wrong = []
    for found, value in itertools.product(VALUES, VALUES):
        if value is MISSING:
            continue
        payload = {} if found is MISSING else {"field": found}
        if Condition("field", op, value).matches(payload) is not reference(found, op, value):
            wrong.append((found, op, value))
    assert wrong == []


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)


@given(json, st.sampled_from(OPERATORS), json, st.sampled_from(["a", "a.b", "b.0", "a.0.b"]))
def test_no_payload_makes_a_condition_raise(payload, op, value, field):
    """Whatever arrives, a condition answers True or False."""
    assert Condition(field, op, value).matches(payload) in (True, False)


@given(
    json.filter(lambda value: "nan" not in repr(value) and "inf" not in repr(value)), st.sampled_from(OPERATORS), json
)
def test_conditions_mean_the_same_once_stored(found, op, value):
    """A condition answers alike before and after its value and the payload went through a store."""
    if "nan" in repr(value) or "inf" in repr(value):
        return
    before = Condition("f", op, value).matches({"f": found})
    assert Condition("f", op, pack(value)[0]).matches(pack({"f": found})[0]) is before


@pytest.mark.parametrize("value", [(1, 2), Word.A, [(1,)], {"a": (Word.A,)}])
def test_what_is_stored_alike_matches_alike(value):
    """Tuples are lists and text enums are text to a condition, as they are to the store."""
    stored = pack(value)[0]
    assert Condition("f", "==", value).matches({"f": stored})
    assert Condition("f", "==", stored).matches({"f": value})
    assert not Condition("f", "!=", value).matches({"f": stored})


@pytest.mark.parametrize(
    ("payload", "value", "expected"),
    [
        ({"a": 1}, None, True),
        ({"a": None}, True, True),
        ({}, None, False),
        ({}, True, False),
        ({}, False, True),
        ({"a": 1}, False, False),
        (None, False, True),
        ([], None, False),
    ],
)
def test_exists(payload, value, expected):
    """`exists` asks for presence, with False for absence; null is present."""
    assert Condition("a", "exists", value).matches(payload) is expected


def test_not_equal_none_asks_for_any_value():
    """`!= None` means that there is a value; a missing field has none."""
    condition = Condition("a", "!=", None)
    assert condition.matches({"a": 0})
    assert not condition.matches({"a": None})
    assert not condition.matches({})


@pytest.mark.parametrize("op", ["=", "", "in", "EXISTS", None, 5])
def test_unknown_operators_are_refused(op):
    """A condition with another operator cannot be made; the error lists the seven."""
    with pytest.raises(InvalidDefinition, match="==") as caught:
        Condition("a", op, 1)
    assert caught.value.path == "op"


@pytest.mark.parametrize("field", ["", None, 5])
def test_conditions_need_a_field(field):
    """A condition without a field cannot be made."""
    with pytest.raises(InvalidDefinition) as caught:
        Condition(field, "==", 1)
    assert caught.value.path == "field"


def test_conditions_are_joined_by_and():
    """All have to match; none at all match everything."""
    conditions = [Condition("a", "==", 1), Condition("b.c", ">", 1)]
    assert all_match(conditions, {"a": 1, "b": {"c": 2}})
    assert not all_match(conditions, {"a": 1, "b": {"c": 1}})
    assert all_match([], None)


def test_state_references_are_resolved_together():
    """Every StateRef takes the state's value, None included; while one has none nothing is armed."""
    conditions = (
        Condition("a", "==", StateRef("order.id")),
        Condition("b", ">", 1),
        Condition("c", "==", StateRef("x")),
    )
    assert resolve(conditions, {"order": {"id": 7}, "x": None}) == (
        Condition("a", "==", 7),
        Condition("b", ">", 1),
        Condition("c", "==", None),
    )
    assert resolve(conditions, {"order": {"id": 7}}) is None
    assert resolve((), {}) == ()


class Stubborn:
    """A value of a registered type that does not like to be compared."""

    def __eq__(self, other):
        raise RuntimeError("not comparable")

    __hash__ = None
    __lt__ = __gt__ = __eq__


@pytest.mark.parametrize("op", OPERATORS)
def test_values_that_cannot_be_compared_do_not_match(op):
    """Whatever a value's own comparison raises: an event for one run must not fail for all who look at it."""
    assert Condition("a", op, Stubborn()).matches({"a": Stubborn()}) is (op == "exists")
