"""Read-only views of state."""

from __future__ import annotations

import copy
import json
import operator
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

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


@given(states)
def test_a_view_is_json(state):
    """`json.dumps` takes a view, with and without indentation, and writes what the plain dict would give."""
    for indent in (None, 1):
        assert json.dumps(StateView(state), indent=indent) == json.dumps(state, indent=indent)
    assert json.dumps({"state": StateView(state)}) == json.dumps({"state": state})


@given(states)
def test_all_ways_to_read_a_view_agree(state):
    """Items, values, `get`, copies, pickles and unions show the same data."""
    view = StateView(state)
    assert dict(view.items()) == state
    assert list(view.values()) == list(state.values())
    assert {key: view.get(key) for key in view} == state
    assert copy.copy(view) == copy.deepcopy(view) == pickle.loads(pickle.dumps(view)) == state
    assert (view | {"z": 1}, {"z": 1} | view) == (state | {"z": 1}, {"z": 1} | state)


def change(value):
    if isinstance(value, list):
        value.append("changed")
    elif isinstance(value, dict) and not isinstance(value, StateView):
        value["changed"] = True


REACH = {
    "mapping": lambda view: view["d"],
    "list": lambda view: view["l"],
    "get": lambda view: view.get("l"),
    "dict()": lambda view: dict(view)["l"],
    "unpacked": lambda view: {**view}["l"],
    "union": lambda view: (view | {})["l"],
    "values": lambda view: next(iter(view.values())),
    "items": lambda view: dict(view.items())["l"],
    "pydantic list": lambda view: TypeAdapter(dict[str, Any]).validate_python(view)["l"],
    "pydantic dict": lambda view: TypeAdapter(dict[str, Any]).validate_python(view)["d"],
    "deepcopy": lambda view: copy.deepcopy(view)["l"],
}


@pytest.mark.parametrize("reach", REACH.values(), ids=REACH)
def test_what_a_view_gives_away_is_not_the_state(reach):
    """Whatever is reached through a view, by Python or by C, may be changed without changing the state."""
    state = {"l": [1], "d": {"x": [1]}}
    change(reach(StateView(state)))
    assert state == {"l": [1], "d": {"x": [1]}}


ACT = {
    "update": lambda view: view.update(a=2),
    "pop": lambda view: view.pop("a"),
    "popitem": lambda view: view.popitem(),
    "clear": lambda view: view.clear(),
    "setdefault": lambda view: view.setdefault("b", 1),
    "|=": lambda view: operator.ior(view, {"b": 1}),
    "[]=": lambda view: operator.setitem(view, "b", 1),
    "del": lambda view: operator.delitem(view, "a"),
}


@pytest.mark.parametrize("act", ACT.values(), ids=ACT)
def test_a_view_refuses_to_be_changed(act):
    """Everything that changes a dict raises TypeError and says what to do."""
    view = StateView({"a": 1})
    with pytest.raises(TypeError, match="return a patch"):
        act(view)
    assert view == {"a": 1}
