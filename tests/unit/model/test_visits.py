"""Counts of visits: what a head's text means."""

from __future__ import annotations

import pytest

from poundlock.model.visits import read_visits

STAGES = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "stage", "counts"),
    [
        (None, "a", {}),
        (None, "c", {"a": 1, "b": 1}),
        (None, None, {"a": 1, "b": 1, "c": 1}),
        ('"b"', "b", {}),
        ('"b"', "c", {"b": 1}),
        ('"b"', None, {"b": 1, "c": 1}),
        ('{"a":3,"c":1}', "b", {"a": 3, "c": 1}),
        ("null", None, {}),
    ],
)
def test_counts_follow_from_text_and_place(text, stage, counts):
    """A run that went straight on entered each stage on its way once; one that jumped says what it counted."""
    assert read_visits(text, STAGES, stage) == counts


@pytest.mark.parametrize(("text", "stage"), [(None, "gone"), ('"gone"', "b"), ('"c"', "a"), ('"c"', "b")])
def test_a_workflow_that_changed_counts_anew(text, stage):
    """Where the way to a stage does not follow any more, nothing is counted."""
    assert read_visits(text, STAGES, stage) == {}
