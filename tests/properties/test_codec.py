"""Laws of the codec: what is written is strict JSON and reads back equal; what cannot be is refused, never changed."""

from __future__ import annotations

import contextlib
import json
import math

from hypothesis import given
from hypothesis import strategies as st

from poundlock.codecs import MAX_DEPTH, dump, load, pack
from poundlock.errors import NotStorable, PoundlockError

TEXT = st.text(st.characters(), max_size=6)  # lone surrogates too
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**4290, 10**4310)
    | st.floats()
    | TEXT
    | st.binary(max_size=4)
    | st.just(object()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXT | st.integers(0, 3), inner, max_size=3)
        | st.tuples(inner, inner)
        | st.sets(st.integers(0, 5), max_size=3)
    ),
    max_leaves=8,
)


def strict(text):
    """Parse JSON as a strict reader does: no NaN, no infinity, no key twice."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    def once(pairs):
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys))
        return dict(pairs)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=once, parse_int=str)


@given(ANY)
def test_a_value_is_stored_strictly_or_refused_with_its_place(value):
    """Whatever it is: strict JSON that is valid UTF-8 and reads back as what `pack` gave, or NotStorable."""
    try:
        decoded, text = pack(value)
    except NotStorable:
        return
    text.encode("utf-8")
    strict(text)
    again = load(text)
    assert again == decoded
    assert dump(again) == dump(decoded)


@given(
    st.text(max_size=60)
    | st.binary(max_size=60)
    | st.recursive(
        st.sampled_from(["NaN", "1e400", '"\\ud800"', '{"a":1,"a":2}', '{"$type":"x","value":1}', "null", "1" * 5000]),
        lambda inner: inner.map("[{}]".format) | inner.map('{{"$type":"dict","value":{}}}'.format),
        max_leaves=40,
    )
)
def test_damaged_text_is_an_error_and_nothing_else(text):
    """Reading what nobody wrote gives data, or an error of the codec or of the parser; it runs nothing and ends."""
    with contextlib.suppress(PoundlockError, ValueError, TypeError, ArithmeticError):
        load(text)


@given(st.integers(1, 3 * MAX_DEPTH), st.booleans())
def test_depth_is_bounded(depth, mappings):
    """Up to the limit a value is stored, above it refused: never a RecursionError, and nothing unreadable."""
    value = 1
    for _ in range(depth):
        value = {"a": value} if mappings else [value]
    try:
        text = dump(value)
    except NotStorable:
        assert depth >= MAX_DEPTH
    else:
        assert load(f"[{text}]") == [value]


@given(st.floats())
def test_a_number_is_a_number(value):
    """NaN and infinities are refused, in any place; all others are kept exactly."""
    if math.isfinite(value):
        assert load(dump({"a": [value]})) == {"a": [value]}
    else:
        for wrapped in (value, [value], {"a": {"b": value}}):
            try:
                dump(wrapped)
            except NotStorable:
                continue
            raise AssertionError("stored")
