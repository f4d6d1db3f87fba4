"""Patches are the only way state changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundlock.codecs import detach
from poundlock.model.patches import DELETE, changed_paths, clash, merge
from poundlock.model.paths import MISSING, get_path, touches

keys = st.sampled_from("abc")
leaves = st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)
states = st.dictionaries(keys, st.recursive(leaves, lambda inner: st.dictionaries(keys, inner), max_leaves=8))
patches = st.dictionaries(
    keys, st.recursive(leaves | st.just(DELETE), lambda inner: st.dictionaries(keys, inner), max_leaves=8)
)


@pytest.mark.parametrize(
    ("state", "patch", "expected"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": None}, {"a": None}),
        ({"a": 1}, {"a": DELETE}, {}),
        ({}, {"a": DELETE}, {}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": DELETE, "d": 3}}, {"a": {"c": 2, "d": 3}}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {"b": 1}}),
        ({"a": 1}, {"a": {}}, {"a": {}}),
        ({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({}, {"a": {"b": {"c": DELETE}}}, {"a": {"b": {}}}),
        ({"a.b": 1}, {"a": {"b": 2}}, {"a.b": 1, "a": {"b": 2}}),
    ],
)
def test_merge(state, patch, expected):
    """Mappings merge, everything else replaces, None is a value, DELETE removes."""
    assert merge(state, patch) == expected


@given(states, patches)
def test_merge_changes_neither_side(state, patch):
    """What is merged stays as it was, so an old state remains valid."""
    before = repr((state, patch))
    merge(state, patch)
    assert repr((state, patch)) == before


@given(states, patches)
def test_merging_twice_changes_nothing_more(state, patch):
    """A patch that was applied already does nothing."""
    once = merge(state, patch)
    assert merge(once, patch) == once


@given(states, patches)
def test_only_the_paths_of_a_patch_change(state, patch):
    """A path that no changed path touches reads the same before and after."""
    after = merge(state, patch)
    changed = list(changed_paths(patch))
    for path in {".".join(parts) for parts in all_paths(state)} | {".".join(parts) for parts in all_paths(after)}:
        if not any(touches(one, path) for one in changed):
            assert get_path(after, path) == get_path(state, path)


@given(states, patches)
def test_changed_paths_hold_what_the_patch_says(state, patch):
    """Each changed path reads the patch's value afterwards, or nothing where it says DELETE."""
    after = merge(state, patch)
    for path in changed_paths(patch):
        wanted = get_path(patch, path)
        if wanted is DELETE:
            assert get_path(after, path) is MISSING
        elif wanted == {}:
            assert isinstance(get_path(after, path), dict)
        else:
            assert get_path(after, path) == wanted


@given(states, patches, patches)
def test_patches_that_do_not_clash_commute(state, first, second):
    """Steps of one stage may finish in any order: without a clash the merged state is the same."""
    if clash(first, second) is None:
        assert merge(merge(state, first), second) == merge(merge(state, second), first)


@given(patches, patches)
def test_clash_is_mutual_and_names_a_path_of_both(first, second):
    """If one clashes with the other so does the other with the one, at a path that both write."""
    path = clash(first, second)
    assert (path is None) is (clash(second, first) is None)
    if path is not None:
        for patch in (first, second):
            assert any(touches(one, path) for one in changed_paths(patch))


def test_clash_names_the_innermost_path():
    """Writing `a` clashes with writing `a.b`; writing beside each other does not clash."""
    assert clash({"a": {"b": 1, "c": {"d": 1}}}, {"a": {"c": {"d": 2}}}) == "a.c.d"
    assert clash({"a": 1}, {"a": {"b": 1}}) == "a"
    assert clash({"a": {"b": 1}}, {"a": {"c": 1}}) is None
    assert clash({"a": DELETE}, {"a": {"b": 1}}) == "a"


def test_merge_shares_what_did_not_change():
    """Large parts that a patch does not touch are not copied."""
    big = detach({"rows": list(range(10))})
    assert merge({"big": big, "n": 1}, {"n": 2})["big"] is big


def all_paths(state, prefix=()):
    for key, value in state.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from all_paths(value, (*prefix, key))
