"""Durations as people write them."""

from __future__ import annotations

import datetime as dt
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundlock.model.durations import optional_seconds, seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0.0),
        (5, 5.0),
        (1.5, 1.5),
        (dt.timedelta(days=1, milliseconds=1), 86_400.001),
        ("500ms", 0.5),
        ("1s", 1.0),
        ("2m", 120.0),
        ("2h30m", 9000.0),
        (" 2h 30m ", 9000.0),
        ("1.5h", 5400.0),
        ("1w2d", 777_600.0),
        ("1m1ms", 60.001),
        ("0s", 0.0),
    ],
)
def test_durations(value, expected):
    """Numbers are seconds, timedeltas are themselves, and text is numbers with units."""
    assert seconds(value) == pytest.approx(expected)
    assert type(seconds(value)) is float


@pytest.mark.parametrize(
    "value",
    ["", "  ", "5", "h", "2h30", "1 hour", "-5s", "1e3s", "5S", "inf", -1, -0.1, math.nan, math.inf, 10**400,
     -(10**400), "9" * 400 + "w", True, False, None, [], dt.timedelta(seconds=-1), b"5s"],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_is_no_duration(value):
    """Everything else is a ValueError: negative, infinite, without unit, unknown units, booleans, other types."""
    with pytest.raises(ValueError, match="is not a duration"):
        seconds(value)


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from(["ms", "s", "m", "h", "d", "w"])), min_size=1))
def test_parts_add_up(parts):
    """The parts of a text add up, in any order and however often a unit is named."""
    whole = seconds("".join(f"{number}{unit}" for number, unit in parts))
    assert whole == pytest.approx(sum(seconds(f"{number}{unit}") for number, unit in parts))


def test_none_is_no_limit():
    """Where a duration may be absent, None stays None."""
    assert optional_seconds(None) is None
    assert optional_seconds("1m") == 60.0
