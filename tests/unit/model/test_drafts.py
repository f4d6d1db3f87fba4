"""Frozen values that were made quickly."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, replace

import pytest

from poundlock.model.drafts import maker_of


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 0


make = maker_of(Point)


def test_what_is_made_quickly_is_the_real_thing():
    """It has the type, is equal, hashes, prints, copies and pickles like one that was made the ordinary way."""
    quick, ordinary = make(1, 2), Point(1, 2)
    assert type(quick) is Point
    assert (quick, hash(quick), repr(quick)) == (ordinary, hash(ordinary), repr(ordinary))
    assert copy.copy(quick) == copy.deepcopy(quick) == pickle.loads(pickle.dumps(quick)) == ordinary
    assert replace(quick, y=3) == Point(1, 3)


def test_what_is_made_quickly_is_frozen():
    """No field can be set or deleted."""
    quick = make(1, 2)
    with pytest.raises(FrozenInstanceError):
        quick.x = 5
    with pytest.raises(FrozenInstanceError):
        del quick.y
    assert quick == Point(1, 2)


def test_all_fields_have_to_be_given():
    """Defaults are not filled in, so none may be left out."""
    with pytest.raises(TypeError):
        make(1)
