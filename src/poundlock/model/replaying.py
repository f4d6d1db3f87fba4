"""Time travel: the state of a run at any entry of its timeline, and what changed between two of them.

House rules: the states are private and changed in place, with a note of what each change replaced; so a step forward or
backward costs as much as its patch, however large the state is. Copies go out.
A snapshot is kept where the patches since the last one are as large as it: so all of them together are no larger than
the log, and the way from one to any entry is no longer than the state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from poundlock.codecs import detach, dump
from poundlock.errors import suggest
from poundlock.marks import DELETE, Overwrite
from poundlock.model.timeline_entry import TimelineEntry
from poundlock.records import dataclass
from poundlock.showing import plain

SMALLEST_SNAPSHOT: Final = 64
"""Values that patches have written before a snapshot is worth its space."""
_NOTHING: Final = object()
"""In place of a value that was not there."""

_Undo = list[tuple[dict[str, Any], str, Any]]


class States:
    """The states of a run, by the sequence of the entry after which they were."""

    def __init__(self, entries: Sequence[TimelineEntry]) -> None:
        self.entries = entries
        self._places = [0]
        """Of the snapshots; they are made when a state behind them is asked for."""
        self._snapshots: list[dict[str, Any]] = [{}]
        self._front: dict[str, Any] = {}
        """The state behind the last entry that was looked at for snapshots."""
        self._seen = 0
        self._due = SMALLEST_SNAPSHOT
        self._written = 0

    def before(self, seq: int) -> tuple[int, dict[str, Any]]:
        """Return the place of the last snapshot up to an entry, and a copy of it."""
        self._look(seq)
        place = bisect_right(self._places, seq) - 1
        return self._places[place], detach(self._snapshots[place])

    def at(self, seq: int) -> dict[str, Any]:
        """Return the state after an entry: a copy."""
        place, state = self.before(seq)
        for entry in self.entries[place:seq]:
            if entry.patch is not None:
                _apply(state, entry.patch)
        return detach(state)  # type: ignore[no-any-return]  # a dict in, a dict out

    def _look(self, seq: int) -> None:
        for entry in self.entries[self._seen : seq]:
            self._seen += 1
            if entry.patch is None:
                continue
            _apply(self._front, entry.patch)
            self._written += _size(entry.patch)
            if self._written >= self._due:
                self._places.append(self._seen)
                self._snapshots.append(detach(self._front))
                self._written, self._due = 0, max(SMALLEST_SNAPSHOT, _size(self._front))

    @property
    def size(self) -> int:
        """How many values the snapshots have."""
        return sum(map(_size, self._snapshots))


class Player:
    """A place in a timeline that can be moved, and the state of the run there.

    Made by `Timeline.player()`; it begins before the first entry.

    Attributes:
        seq: of the entry at which it is; 0 before the first one.
    """

    def __init__(self, states: States) -> None:
        self._states = states
        self._state: dict[str, Any] = {}
        self._undo: list[_Undo] = []
        """What to put back for each entry since a place that was sought; the last one of these is at hand."""
        self.seq = 0

    @property
    def entry(self) -> TimelineEntry | None:
        """The entry at which it is: what happened there. None before the first one."""
        return self._states.entries[self.seq - 1] if self.seq else None

    @property
    def state(self) -> dict[str, Any]:
        """The state right after that entry, as plain data: a copy that may be changed."""
        return detach(self._state)  # type: ignore[no-any-return]  # a dict in, a dict out

    def seek(self, place: int | str) -> TimelineEntry | None:
        """Move to an entry, and return it.

        Args:
            place: a `seq`, 0 for before the first entry; or the id of a stage: where it was entered last.

        Raises:
            IndexError: there is no such entry.
            LookupError: the stage was not entered; the message names near matches.
        """
        seq = seq_of(self._states.entries, place)
        start, self._state = self._states.before(seq)
        self._undo = []
        self.seq = start
        while self.seq < seq:
            self.step_forward()
        return self.entry

    def step_forward(self) -> TimelineEntry | None:
        """Move to the next entry, and return it; None, and no move, at the end."""
        if self.seq == len(self._states.entries):
            return None
        patch = self._states.entries[self.seq].patch
        undo: _Undo = []
        if patch is not None:
            _apply(self._state, patch, undo)
        self._undo.append(undo)
        self.seq += 1
        return self.entry

    def step_backward(self) -> TimelineEntry | None:
        """Move to the entry before, and return it; None before the first one."""
        if not self.seq:
            return None
        if not self._undo:  # at a snapshot: the entries before it are played again, once
            before = self.seq - 1
            start, self._state = self._states.before(before)
            self.seq = start
            while self.seq < before:
                self.step_forward()
            return self.entry
        for within, key, value in reversed(self._undo.pop()):
            if value is _NOTHING:
                del within[key]
            else:
                within[key] = value
        self.seq -= 1
        return self.entry

    def diff(self, a: int | str, b: int | str) -> StateDiff:
        """Return what changed in the state from one place to another, as `Timeline.diff`; the player stays."""
        return diff_between(self._states, a, b)

    def __repr__(self) -> str:
        return f"<player at {self.seq} of {len(self._states.entries)}>"


@dataclass(frozen=True, slots=True)
class StateChange:
    """One value that is different in two states.

    Attributes:
        path: where, for example `order.lines`; keys that are no names are quoted: `prices["a.b"]`.
        kind: "added", "changed" or "removed".
        before, after: the values; None where there is none.
    """

    path: str
    kind: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.kind == "added":
            return f"+ {self.path}: {dump(self.after)}"
        if self.kind == "removed":
            return f"- {self.path}: {dump(self.before)}"
        return f"~ {self.path}: {dump(self.before)} -> {dump(self.after)}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as data that `json.dumps` takes."""
        return {"path": self.path, "kind": self.kind, "before": plain(self.before), "after": plain(self.after)}


@dataclass(frozen=True, slots=True)
class StateDiff:
    """What changed in a run's state between two entries of its timeline. As text it is a line per change.

    Attributes:
        a, b: the two sequences; `b` may be the smaller one.
        patch: what leads from the state after `a` to that after `b`: mappings merge, `DELETE` removes a key.
        changes: the same, by path.
    """

    a: int
    b: int
    patch: dict[str, Any]
    changes: tuple[StateChange, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes))

    def __bool__(self) -> bool:
        return bool(self.changes)

    def to_dict(self) -> dict[str, Any]:
        """Return it as data that `json.dumps` takes; a removed key is the text "DELETE" in the patch."""
        return {
            "a": self.a,
            "b": self.b,
            "patch": plain(self.patch),
            "changes": [change.to_dict() for change in self.changes],
        }


def seq_of(entries: Sequence[TimelineEntry], place: int | str) -> int:
    """Return the sequence of a place.

    Raises:
        IndexError: there is no such entry. LookupError: the stage was not entered. TypeError: it is no place.
    """
    if isinstance(place, str):
        return _start_of(entries, place)
    if not isinstance(place, int) or isinstance(place, bool):
        raise TypeError(f"a place in a timeline is a seq or the id of a stage, not {type(place).__name__}")
    if not 0 <= place <= len(entries):
        raise IndexError(f"seq {place} is outside this timeline: it has entries 1 to {len(entries)}")
    return place


def _start_of(entries: Sequence[TimelineEntry], stage: str) -> int:
    known: dict[str, int] = {}
    for entry in entries:
        if entry.type in ("stage:start", "stage:resume"):  # a retry enters its stage again
            known[entry.path.split("/")[1]] = entry.seq
    if stage in known:
        return known[stage]
    if not known and entries:
        raise LookupError(
            f"stage '{stage}' cannot be found: this timeline has no starts of stages, for example because it was kept "
            f"with timeline=False; give a seq, up to {len(entries)}"
        )
    raise LookupError(f"the run has not entered a stage '{stage}': {suggest(stage, list(known))}")


def diff_between(states: States, a: int | str, b: int | str) -> StateDiff:
    """Return what changed between two places."""
    first, second = seq_of(states.entries, a), seq_of(states.entries, b)
    return diff_of(states.at(first), states.at(second), first, second)


def diff_of(before: Mapping[str, Any], after: Mapping[str, Any], a: int, b: int) -> StateDiff:
    """Return what leads from one state to another; `a` and `b` are the sequences that it names."""
    return StateDiff(a, b, _patch(before, after), tuple(_changes(before, after, "")))


def _patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = {key: DELETE for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key, _NOTHING)
        if type(old) is dict and type(value) is dict:
            below = _patch(old, value)
            if below:
                patch[key] = below
        elif not _same(old, value):
            patch[key] = detach(value)
    return patch


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], above: str) -> Iterator[StateChange]:
    for key in dict.fromkeys((*before, *after)):
        path = _path(above, key)
        old, new = before.get(key, _NOTHING), after.get(key, _NOTHING)
        if type(old) is dict and type(new) is dict:
            yield from _changes(old, new, path)
        elif new is _NOTHING:
            yield StateChange(path, "removed", old, None)
        elif old is _NOTHING:
            yield StateChange(path, "added", None, new)
        elif not _same(old, new):
            yield StateChange(path, "changed", old, new)


def _path(above: str, key: str) -> str:
    if not key.isidentifier():
        return f"{above}[{dump(key)}]"
    return f"{above}.{key}" if above else key


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same as data: True is not 1, and 1 is not 1.0, also inside of lists."""
    if type(one) is not type(other):
        return False
    if type(one) is list:
        return len(one) == len(other) and all(map(_same, one, other))
    if type(one) is dict:
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return bool(one == other)


def _apply(state: dict[str, Any], patch: Mapping[str, Any], undo: _Undo | None = None) -> None:
    """Merge a patch into a state in place; `undo` gets what was replaced, in order. Equal to `patches.merge`."""
    for key, value in patch.items():
        old = state.get(key, _NOTHING)
        if type(value) is dict and type(old) is dict:
            _apply(old, value, undo)
            continue
        if undo is not None and not (value is DELETE and old is _NOTHING):
            undo.append((state, key, old))
        if type(value) is dict:
            below: dict[str, Any] = {}
            _apply(below, value)
            state[key] = below
        elif value is DELETE:
            state.pop(key, None)
        elif type(value) is Overwrite:
            state[key] = detach(value.value)
        else:
            state[key] = value  # nothing here changes it: only mappings are merged into


def _size(value: Any) -> int:
    """Return how many values there are in it."""
    kind = type(value)
    if kind is dict or kind is list:
        return 1 + sum(map(_size, value.values() if kind is dict else value))
    return 1 + _size(value.value) if kind is Overwrite else 1
