"""Dotted event patterns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundlock.model.patterns import is_pattern, type_matches

segments = st.sampled_from(["a", "b", "ab", "x"])
types = st.lists(segments, min_size=1, max_size=5).map(".".join)
patterns = st.lists(segments | st.sampled_from(["*", "**"]), min_size=1, max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("order.placed", ["order.placed"], ["order", "order.placed.x", "orderxplaced", "Order.placed"]),
        ("order.*", ["order.placed", "order.x"], ["order", "order.", "order.a.b", "orders.a", "x.order.a"]),
        ("order.**", ["order", "order.a", "order.a.b.c"], ["orders", "x.order"]),
        ("*", ["order", "order.a", "a.b.c"], []),
        ("**", ["order", "order.a", "a.b.c"], []),
        ("*.placed", ["order.placed"], ["placed", "a.order.placed", ".placed"]),
        ("**.placed", ["placed", "order.placed", "a.order.placed"], ["replaced", "order.replaced", "placed.x"]),
        ("a.**.z", ["a.z", "a.b.z", "a.b.c.z"], ["a", "z", "a.bz", "az"]),
        ("a.*.z", ["a.b.z"], ["a.z", "a.b.c.z"]),
        ("order.pl*", ["order.pl", "order.placed"], ["order.p", "order.pl.x"]),
        ("*ed.by", ["placed.by", "ed.by"], ["placed.to"]),
        ("**.a.**", ["a", "x.a", "a.x", "x.a.y"], ["b", "xa", "ax"]),
        ("**.**", ["a", "a.b", "a.b.c"], []),
        ("*.*", ["a.b"], ["a", "a.b.c"]),
        ("order.+", ["order.+"], ["order.a", "order."]),
        ("order.(a|b)*", ["order.(a|b)x"], ["order.a"]),
        ("a.**.*", ["a.b", "a.b.c"], ["a"]),
    ],
)
def test_patterns(pattern, fits, does_not):
    """`*` is one segment or a part of one, `**` any number of them, also none; everything else is taken literally."""
    assert [name for name in fits if not type_matches(pattern, name)] == []
    assert [name for name in does_not if type_matches(pattern, name)] == []


def naive(pattern, name):
    """Match lists of segments by trying everything."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(naive(pattern[1:], name[skip:]) for skip in range(len(name) + 1))
    return bool(name) and pattern[0] in ("*", name[0]) and naive(pattern[1:], name[1:])


@given(patterns, types)
def test_patterns_agree_with_trying_everything(pattern, name):
    """Compiled patterns accept what a matcher does that tries every way, for whole segments."""
    expected = True if pattern == "*" else naive(pattern.split("."), name.split("."))
    assert type_matches(pattern, name) is expected


@given(types)
def test_a_type_matches_itself_only(name):
    """Without a star only the very same type matches."""
    assert type_matches(name, name)
    assert not type_matches(name, name + ".more")
    assert not is_pattern(name)


def test_is_pattern():
    """A star makes a pattern."""
    assert is_pattern("order.*")
    assert is_pattern("*")
    assert not is_pattern("order.placed")
