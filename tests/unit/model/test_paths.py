"""Dotted paths into data."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from poundlock.model.paths import MISSING, get_path, touches

DATA = {
    "order": {"id": "o1", "lines": [{"sku": "a"}, {"sku": None}], "empty": {}},
    "dotted.key": {"x": 1},
    "0": "zero",
    "": "nothing",
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", DATA),
        ("order.id", "o1"),
        ("order.lines.0.sku", "a"),
        ("order.lines.1.sku", None),
        ("order.lines.2.sku", MISSING),
        ("order.lines.-1", MISSING),
        ("order.lines.first", MISSING),
        ("order.lines.\u0661", MISSING),
        ("order.lines.\u00b2", MISSING),
        ("order.id.more", MISSING),
        ("order.empty", {}),
        ("order.empty.x", MISSING),
        ("nowhere", MISSING),
        ("dotted.key", {"x": 1}),
        ("0", "zero"),
        (".", MISSING),
        ("order.", MISSING),
    ],
)
def test_get_path(path, expected):
    """A path leads through mappings and lists to a value, None included, or to MISSING; it never raises."""
    assert get_path(DATA, path) == expected


@pytest.mark.parametrize("data", [None, 5, "text", [], [1], True, b"x", 1.5])
def test_any_data_may_be_asked(data):
    """Payloads need not be mappings."""
    assert get_path(data, "a.b") is MISSING
    assert get_path(data, "") == data


def test_lists_may_be_entered_at_once_and_mappings_may_be_read_only():
    """A number steps into a list at the top, and any mapping counts as one."""
    assert get_path([{"a": 1}], "0.a") == 1
    assert get_path(MappingProxyType({"a": {"b": 1}}), "a.b") == 1


def test_default():
    """Where there is nothing, the default is given; where there is None, None."""
    assert get_path({"a": None}, "a", "default") is None
    assert get_path({}, "a", "default") == "default"


@pytest.mark.parametrize(
    ("changed", "read", "expected"),
    [
        ("a", "a", True),
        ("a", "a.b", True),
        ("a.b", "a", True),
        ("a.b", "a.c", False),
        ("a", "ab", False),
        ("ab", "a", False),
        ("", "a", True),
        ("a", "", True),
    ],
)
def test_touches(changed, read, expected):
    """A change is seen by readers of the path itself, of what is below it and of what is above it."""
    assert touches(changed, read) is expected


def test_missing_has_a_name():
    """In a failing test one sees what it is."""
    assert repr(MISSING) == "MISSING"
