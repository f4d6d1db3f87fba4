"""Time travel: whatever way leads to an entry, the state there is the fold of the patches up to it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundlock.codecs import dump
from poundlock.marks import DELETE, Overwrite
from poundlock.model.patches import merge
from poundlock.model.replaying import Player, States
from poundlock.model.runs import LogRow
from poundlock.model.timeline import Timeline, read_entries
from poundlock.model.timeline_entry import TimelineEntry

values = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 2, 0.0, 1.0]) | st.lists(st.integers(0, 1), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "c.d"]), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
marked = st.recursive(
    values | st.just(DELETE) | values.map(Overwrite),
    lambda inner: st.dictionaries(st.sampled_from("ab"), inner, max_size=3),
    max_leaves=8,
)
patches = st.none() | st.dictionaries(st.sampled_from(["a", "b", "c.d"]), marked, max_size=3)


def timeline_of(patches, *, stages=()):
    entries = [[float(n), "state", "state:patch", "main", None, patch] for n, patch in enumerate(patches)]
    for place, stage in stages:
        entries[place - 1][2:4] = "stage:start", f"main/{stage}"
    return Timeline("r1", read_entries([LogRow(1, len(entries), dump(entries))]))


def naive(timeline, seq):
    state = {}
    for entry in timeline.entries[:seq]:
        if entry.patch is not None:
            state = merge(state, entry.patch)
    return state


def same(one, other):
    """Whether two states are the same as data, also True and 1, which Python takes for equal."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(st.lists(patches, max_size=60), st.data())
def test_any_way_leads_to_the_same_state(patches, data):
    """Seeking, stepping forward and stepping backward, in any order, and `state_at`, all give the fold."""
    timeline = timeline_of(patches)
    player = timeline.player()
    moves = st.one_of(st.integers(0, len(patches)), st.just("forward"), st.just("backward"))
    for move in data.draw(st.lists(moves, max_size=30)):
        before = player.seq
        if move == "forward":
            entry = player.step_forward()
            assert player.seq == min(before + 1, len(patches))
            assert (entry is None) == (before == len(patches))
        elif move == "backward":
            player.step_backward()
            assert player.seq == max(before - 1, 0)
        else:
            player.seek(move)
            assert player.seq == move
        assert same(player.state, naive(timeline, player.seq))
        assert player.entry == (timeline.entries[player.seq - 1] if player.seq else None)
    for seq in range(len(patches) + 1):
        assert same(timeline.state_at(seq), naive(timeline, seq))


@given(st.lists(patches, max_size=20), st.data())
def test_a_diff_leads_from_one_state_to_the_other(patches, data):
    """Its patch makes the second state of the first, forward and backward, and its changes say the same by path."""
    timeline = timeline_of(patches)
    a, b = data.draw(st.integers(0, len(patches))), data.draw(st.integers(0, len(patches)))
    diff = timeline.diff(a, b)
    assert (diff.a, diff.b) == (a, b)
    before, after = naive(timeline, a), naive(timeline, b)
    assert same(merge(before, diff.patch), after)
    assert bool(diff) == bool(diff.patch) == (not same(before, after))
    json.dumps(diff.to_dict())
    back = {change.path: (change.after, change.before) for change in timeline.diff(b, a).changes}
    assert {change.path: (change.before, change.after) for change in diff.changes} == back
    assert timeline.player().diff(a, b) == diff


def test_what_a_diff_says():
    """A line per value, in words of the state; values that are replaced as a whole are one line."""
    timeline = timeline_of(
        [
            {"order": {"id": "A", "note": "x"}, "n": 1, "gone": True, "list": [1]},
            {"order": {"paid": True, "note": DELETE}, "n": 2, "gone": DELETE, "list": [1, 2], "a.b": None},
        ]
    )
    diff = timeline.diff(1, 2)
    assert str(diff).splitlines() == [
        '- order.note: "x"',
        "+ order.paid: true",
        "~ n: 1 -> 2",
        "- gone: true",
        "~ list: [1] -> [1,2]",
        '+ ["a.b"]: null',
    ]
    assert diff.patch == {
        "order": {"paid": True, "note": DELETE},
        "n": 2,
        "gone": DELETE,
        "list": [1, 2],
        "a.b": None,
    }
    assert diff.to_dict()["patch"]["gone"] == "DELETE"
    assert diff.to_dict()["changes"][2] == {"path": "n", "kind": "changed", "before": 1, "after": 2}
    assert not timeline.diff(1, 1)
    assert str(timeline.diff(2, 2)) == ""


def test_places_by_stage():
    """A stage stands for the entry with which it began last; the state there is what it began with."""
    timeline = timeline_of(
        [{"n": 0}, None, {"n": 1}, None, {"n": 2}, None, {"n": 3}], stages=[(2, "ask"), (4, "check"), (6, "ask")]
    )
    assert timeline.seq_of("ask") == 6
    assert timeline.state_at("ask") == {"n": 2}
    assert timeline.state_at("check") == {"n": 1}
    assert str(timeline.diff("check", "ask")) == "~ n: 1 -> 2"
    player = timeline.player()
    assert player.seek("ask").seq == player.seq == 6
    assert player.seek(0) is None
    assert player.step_backward() is None
    player.seek(7)
    assert player.step_forward() is None
    assert repr(player) == "<player at 7 of 7>"


def test_places_that_do_not_exist():
    """The error says what there is, and the player stays where it was."""
    timeline = timeline_of([{"n": 0}, None], stages=[(2, "ask")])
    player = timeline.player()
    player.seek(1)
    with pytest.raises(LookupError, match="did you mean 'ask'"):
        player.seek("asc")
    with pytest.raises(IndexError, match="entries 1 to 2"):
        player.seek(3)
    with pytest.raises(IndexError, match="entries 1 to 2"):
        timeline.diff(0, -1)
    for place in (True, 1.0):
        with pytest.raises(TypeError, match="a seq or the id of a stage"):
            player.seek(place)
    assert (player.seq, player.state) == (1, {"n": 0})
    with pytest.raises(LookupError, match="timeline=False"):
        timeline_of([{"n": 0}]).state_at("ask")
    with pytest.raises(LookupError):
        timeline_of([]).state_at("ask")


def test_states_are_copies():
    """Nothing that is done to a state that was given out changes the timeline, its player or its diffs."""
    timeline = timeline_of([{"a": {"b": [1]}}, {"a": {"c": Overwrite({"d": 1})}}, {"a": {"c": {"e": 2}}}])
    player = timeline.player()
    player.seek(3)
    player.state["a"]["b"].append(2)
    player.state["a"]["c"].clear()
    timeline.diff(0, 3).patch["a"]["b"].append(3)
    assert player.state == timeline.state_at() == {"a": {"b": [1], "c": {"d": 1, "e": 2}}}
    player.step_backward()
    assert player.state == {"a": {"b": [1], "c": {"d": 1}}}


class Counting(list):
    """Entries that count how many of them were read."""

    read = 0

    def __getitem__(self, place):
        found = super().__getitem__(place)
        self.read += len(found) if isinstance(place, slice) else 1
        return found


def long_timeline(length):
    return Counting(
        TimelineEntry(n + 1, float(n), "state", "state:patch", "main", None, {f"k{n % 500}": n}) for n in range(length)
    )


def test_a_seek_is_as_long_as_the_state_and_not_as_the_timeline():
    """Once the snapshots are made, seeking reads a bounded number of entries, wherever it goes, and so do steps."""
    entries = long_timeline(20_000)
    states = States(entries)
    states.at(20_000)
    for seq in (1, 77, 9_999, 19_999, 20_000):
        entries.read = 0
        assert states.at(seq)[f"k{(seq - 1) % 500}"] == seq - 1
        assert entries.read <= 1100
    player = Player(states)
    player.seek(20_000)
    entries.read = 0
    for _ in range(5_000):
        player.step_backward()
    assert player.seq == 15_000
    assert entries.read <= 4 * 5_000 + 2200


def test_snapshots_are_no_larger_than_the_log():
    """All snapshots together hold at most twice the values of all patches: also where the state grows for ever."""

    def snapshots(count):
        entries = [
            TimelineEntry(n + 1, 0.0, "state", "state:patch", "main", None, {"d": {f"k{n}": n}}) for n in range(count)
        ]
        states = States(entries)
        states.at(count)
        return states.size

    assert 0 < snapshots(1_000) <= 2 * 3 * 1_000
    assert snapshots(20_000) <= 2 * 3 * 20_000  # a patch has three values: two mappings and a number
