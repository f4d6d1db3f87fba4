"""What `help()` shows of the public names is ours: texts for users, not what generated methods inherit."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import pydoc

import pytest

import poundlock
from poundlock import Condition, Event, Retry, Serialized, StateRef, Use, Wait
from poundlock.artifacts import ArtifactTemplate
from poundlock.model.runs import RunError, WaitInfo

PUBLIC = {name: value for name in poundlock.__all__ if dataclasses.is_dataclass(value := getattr(poundlock, name))}
ALL = {**PUBLIC, "WaitInfo": WaitInfo, "RunError": RunError, "ArtifactTemplate": ArtifactTemplate}
FOREIGN = [
    "project for",
    "performant",
    "Initialize self",
    "Return self==",
    "Implement",
    "Return hash(self)",
    "Return repr",
]


@pytest.mark.parametrize("name", ALL)
def test_help_of_a_dataclass_has_no_foreign_text(name):
    """Neither remarks of the standard library's authors nor the texts of `object` stand in the help of a dataclass."""
    shown = pydoc.plain(pydoc.render_doc(ALL[name]))
    assert [text for text in FOREIGN if text in shown] == []
    assert "Create an instance. The arguments are its fields." in shown


@pytest.mark.parametrize("name", poundlock.__all__)
def test_each_public_name_has_a_text(name):
    """Whatever can be imported from `poundlock` says what it is."""
    text = getattr(poundlock, name).__doc__
    assert text, name
    assert not text.startswith(f"{name}("), "the signature alone, as dataclass makes it"


VALUES = [
    Event("a", {"b": [1]}, id="1"),
    Wait("a", where=[Condition("n", ">", StateRef("m"))]),
    Retry(5, on=(ValueError,)),
    Serialized(key="who"),
    Use("mail"),
    RunError("A", "b", traceback="c"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_can_be_copied_and_pickled(value):
    """The methods for copies and pickles are ours, and do what those of the standard library do."""
    assert copy.copy(value) == copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value
