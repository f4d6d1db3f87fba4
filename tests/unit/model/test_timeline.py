"""The timeline: numbered without gaps, and state is the fold of its patches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundlock.codecs import dump
from poundlock.marks import DELETE
from poundlock.model.patches import merge
from poundlock.model.runs import LogRow
from poundlock.model.timeline import Timeline, fold, read_entries

patches = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        st.none() | st.integers(0, 3) | st.just(DELETE) | st.lists(st.integers(), max_size=2),
        lambda inner: st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
        max_leaves=5,
    ),
    max_size=3,
)
entries = st.tuples(
    st.floats(0, 4e9),
    st.sampled_from(["pipeline", "state", "logger"]),
    st.sampled_from(["stage:start", "state:patch", "log"]),
    st.sampled_from(["p", "p/s1", "p/s2/step"]),
    st.none() | st.dictionaries(st.sampled_from("xy"), st.integers(), max_size=1),
    st.none() | patches,
)
logs = st.lists(st.lists(entries, min_size=1, max_size=4), max_size=5)


def rows(log):
    numbered, first = [], 1
    for batch in log:
        numbered.append(LogRow(first, len(batch), dump([list(entry) for entry in batch])))
        first += len(batch)
    return numbered


def run(log):
    return Timeline("r1", read_entries(rows(log)))


@given(logs)
def test_entries_are_numbered_without_gaps(log):
    """Sequence numbers go 1, 2, 3 ... across commits, and each entry is what was written."""
    timeline = run(log)
    flat = [entry for batch in log for entry in batch]
    assert [entry.seq for entry in timeline.entries] == list(range(1, len(flat) + 1))
    assert [tuple(entry.to_dict().values())[1:] for entry in timeline.entries] == flat
    assert len(timeline) == len(flat)
    assert timeline.types() == [entry[2] for entry in flat]


@given(logs)
def test_state_is_the_fold_of_all_patches(log):
    """At every number the state is what the patches up to there make of nothing."""
    timeline, state = run(log), {}
    assert timeline.state_at(0) == {}
    for entry in timeline.entries:
        if entry.patch is not None:
            state = merge(state, entry.patch)
        assert timeline.state_at(entry.seq) == state
    assert fold(rows(log)) == state


@given(logs, logs)
def test_folding_on_from_a_snapshot_is_folding_it_all(before, after):
    """A snapshot and the rows after it give the same state as all rows from the beginning."""
    assert fold(rows(after), fold(rows(before))) == fold([*rows(before), *rows(after)])


def test_folding_leaves_the_snapshot_alone():
    """The state it starts from is not changed."""
    snapshot = {"a": {"b": 1}}
    assert fold(rows([[(0.0, "state", "state:patch", "", None, {"a": {"b": 2}})]]), snapshot) == {"a": {"b": 2}}
    assert snapshot == {"a": {"b": 1}}


def test_states_are_copies():
    """Nobody can change a timeline through a state it gave."""
    timeline = run([[(0.0, "state", "state:patch", "", None, {"a": [1]})]])
    timeline.state_at(1)["a"].append(2)
    assert timeline.state_at(1) == {"a": [1]}


def test_the_state_after_the_last_entry():
    """Without a number `state_at` gives the state as it is; that of a run without entries is empty."""
    patches = [(0.0, "state", "state:patch", "", None, {"a": 1}), (0.0, "state", "state:patch", "", None, {"b": 2})]
    assert run([patches]).state_at() == run([patches]).state_at(2) == {"a": 1, "b": 2}
    assert run([]).state_at() == {}


@pytest.mark.parametrize("seq", [-1, 2, 10])
def test_numbers_outside_are_errors(seq):
    """Asking for a moment that never was is an IndexError that says which there are."""
    with pytest.raises(IndexError, match="1 to 1"):
        run([[(0.0, "pipeline", "stage:start", "p/s1", None, None)]]).state_at(seq)


def test_path_lists_the_stages_in_order():
    """`path()` tells the stages entered, with repetitions, and nothing else."""
    timeline = run(
        [
            [(0.0, "pipeline", "run:start", "p", None, None), (0.0, "pipeline", "stage:start", "p/s1", None, None)],
            [(1.0, "pipeline", "stage:start", "p/s2", None, None), (1.0, "logger", "log", "p/s2/step", None, None)],
            [(2.0, "pipeline", "stage:start", "p/s1", None, None)],
        ]
    )
    assert timeline.path() == ["s1", "s2", "s1"]
    assert repr(timeline) == "Timeline('r1', 5 entries)"
