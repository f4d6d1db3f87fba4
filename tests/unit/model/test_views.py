"""Read-only views of state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundlock.codecs import pack
from poundlock.model.views import StateView

states = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        st.none() | st.integers(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
        max_leaves=6,
    ),
)


@given(states)
def test_a_view_equals_what_it_stands_for(state):
    """A view compares equal to the plain dict, both ways and to other views, and copies to it."""
    view = StateView(state)
    assert view == state
    assert state == view
    assert view == StateView(dict(state))
    assert view.copy() == state
    assert {**view} == state
    assert (len(view), list(view)) == (len(state), list(state))
    assert pack(view)[0] == state
    assert repr(view) == f"StateView({state!r})"


def test_nothing_can_be_changed_through_a_view():
    """Mappings inside are views, lists are copies, and there is no way to set anything."""
    state = {"a": {"b": [1, {"c": 2}]}, "l": [1]}
    view = StateView(state)
    view["l"].append(2)
    view["a"]["b"].append(3)
    view["a"]["b"][1]["c"] = 5
    view.copy()["a"]["b"].append(4)
    assert state == {"a": {"b": [1, {"c": 2}]}, "l": [1]}
    with pytest.raises(TypeError):
        view["a"] = 1
    with pytest.raises(TypeError):
        view["a"]["b"] = 1
    with pytest.raises(TypeError):
        del view["a"]


def test_views_behave_like_mappings():
    """`in`, `get`, iteration and missing keys work as with a dict; like a dict a view cannot be hashed."""
    view = StateView({"a": None})
    assert "a" in view
    assert "b" not in view
    assert view.get("b", 5) == 5
    with pytest.raises(KeyError):
        view["b"]
    with pytest.raises(TypeError):
        hash(view)
    assert view != {"a": 1}
    assert view != 5
