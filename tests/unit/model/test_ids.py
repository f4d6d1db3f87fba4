"""Ids: sortable, unique, repeatable from a seed."""

from __future__ import annotations

import os
import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundlock.ids import Ids, default_ids

NOW = 1_767_225_600.123


def test_run_ids_are_uuids_of_version_7():
    """The text is a UUID with version and variant of RFC 9562, and holds the time in milliseconds."""
    made = uuid.UUID(Ids().uuid7(NOW))
    assert (made.int >> 76) & 0xF == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == int(NOW * 1000)
    assert str(made) == Ids(seed=1).uuid7(NOW)[:15] + str(made)[15:]


@given(st.lists(st.floats(0, 4e9), min_size=2, max_size=50))
def test_ids_sort_in_the_order_they_were_made(times):
    """Whatever the clock does, back and forth, ids of one maker increase, as text and as numbers."""
    ids = Ids()
    made = [ids.uuid7(now) for now in times]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_many_ids_in_one_millisecond():
    """More ids than the counter holds within one millisecond go on in the next, still in order."""
    ids = Ids()
    made = [ids.uuid7(NOW) for _ in range(10_000)]
    assert made == sorted(set(made))
    assert uuid.UUID(made[-1]).int >> 80 == int(NOW * 1000) + 10_000 // 4096


def test_ids_of_different_makers_differ():
    """Two makers at the same moment make different ids: the rest is random."""
    assert Ids().uuid7(NOW) != Ids().uuid7(NOW)


def test_a_seed_repeats_everything():
    """With the same seed all ids, tokens and fractions come again; with another they do not."""

    def draw(seed):
        ids = Ids(seed)
        return [ids.uuid7(NOW), ids.unique(), ids.token(), ids.fraction(), ids.uuid7(NOW)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(None) != draw(None)


def test_other_ids():
    """`unique` is 32 hex digits, `token` fits a signed 64-bit column, `fraction` is in [0, 1)."""
    ids = Ids(seed=1)
    for _ in range(1000):
        assert re.fullmatch("[0-9a-f]{32}", ids.unique())
        assert 0 <= ids.token() < 2**62
        assert 0 <= ids.fraction() < 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_makes_other_ids():
    """After a fork parent and child do not make the same ids."""
    read, write = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover - runs in the child, whose coverage nobody collects
        os.write(write, default_ids.unique().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 32).decode()
    os.close(read)
    os.close(write)
    assert re.fullmatch("[0-9a-f]{32}", theirs)
    assert theirs != default_ids.unique()


@pytest.mark.parametrize("now", [-86_400.0, 0.0, 1_795_000_000.25])
def test_sortable_ids(now):
    """Sortable ids are 32 hex digits that begin with the milliseconds since 1970, and with zeros before that."""
    ids = Ids(seed=1)
    one, other = ids.sortable(now), ids.sortable(now + 1)
    assert len(one) == len(other) == 32
    assert int(one[:12], 16) == max(0, int(now * 1000))
    assert one != other
    if now >= 0:
        assert one < other
