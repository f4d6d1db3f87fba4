"""The timeline: one log of what happened and of every state delta.

A commit writes one log row: a JSON array of entries `[time, source, type, path, payload, patch]`. The sequence number
of an entry is the row's `first_seq` plus its index, so it is not written. The state is the fold of all patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from poundlock.codecs import load
from poundlock.model.comparing import Comparison, compared
from poundlock.model.lifecycle import RunStatus
from poundlock.model.patches import merge
from poundlock.model.replaying import Player, StateDiff, States, diff_between, seq_of
from poundlock.model.runs import LogRow, RunRecord, StepProgress
from poundlock.model.timeline_entry import TimelineEntry

END_TYPES: Final = {
    RunStatus.COMPLETED: "pipeline:success",
    RunStatus.FAILED: "pipeline:failure",
    RunStatus.ABORTED: "pipeline:abort",
}
"""The type of the entry that a run's end writes last, by the status it ends in."""

_ENDS: Final = frozenset(END_TYPES.values())


def is_end(entry: TimelineEntry) -> bool:
    """Whether this entry says that the run has ended. A run that was tried again afterwards has more than one."""
    return entry.type in _ENDS


def end_entry(record: RunRecord, seq: int) -> TimelineEntry:
    """Return what stands for the end of a run whose log does not say it, because its timeline was not kept.

    Args:
        record: of the run, which has ended.
        seq: of the last stored entry.
    """
    head = record.head
    said = {} if head.outcome is None else load(head.outcome)
    error = said.get("error")
    payload = None if error is None else {name: error.get(name) for name in ("type", "message", "code")}
    kind = END_TYPES[head.status]
    return TimelineEntry(seq, head.updated_at, "pipeline", kind, record.identity.pipeline_id, payload, None, live=True)


def read_entries(rows: Iterable[LogRow]) -> list[TimelineEntry]:
    """Return the entries of log rows, in order."""
    return [
        TimelineEntry(row.first_seq + place, *fields) for row in rows for place, fields in enumerate(load(row.text))
    ]


def last_progress(rows: Iterable[LogRow]) -> tuple[StepProgress, ...]:
    """Return the last progress that each step has stored in these log rows, the latest at the end."""
    found: dict[str, StepProgress] = {}
    for entry in read_entries(rows):
        if entry.type == "step:progress":
            _, stage, step, *_ = (*entry.path.split("/"), "", "")
            found.pop(entry.path, None)
            found[entry.path] = StepProgress(stage, step, **entry.payload, time=entry.time)
    return tuple(found.values())


def size_of(rows: Iterable[LogRow]) -> int:
    """Return the length of log rows' texts, in characters."""
    return sum([len(row.text) for row in rows])


def fold(rows: Iterable[LogRow], state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the state after the patches of log rows, starting from `state`."""
    return fold_entries([load(row.text) for row in rows], state)


def fold_entries(logs: Iterable[list[Any]], state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the same as `fold`, from the entries of each row."""
    folded = dict(state or {})
    for entries in logs:
        for entry in entries:
            if entry[5] is not None:
                folded = merge(folded, entry[5])
    return folded


class Timeline:
    """All that happened in one run, in order.

    Attributes:
        run_id: whose it is.
        entries: `TimelineEntry` objects: `seq`, `time`, `source`, `type`, `path`, `payload` and `patch`.
    """

    def __init__(self, run_id: str, entries: Sequence[TimelineEntry]) -> None:
        self.run_id = run_id
        self.entries = tuple(entries)

    def types(self) -> list[str]:
        """Return the entries' types in order."""
        return [entry.type for entry in self.entries]

    def path(self) -> list[str]:
        """Return the ids of the stages in the order in which they were entered."""
        return [entry.path.split("/")[1] for entry in self.entries if entry.type == "stage:start"]

    def state_at(self, place: int | str | None = None) -> dict[str, Any]:
        """Return the state as it was right after an entry, as plain data: a copy that may be changed.

        Args:
            place: the `seq` of an entry, from 1; 0 gives the empty state before the first. Or the id of a stage: the
                state that it began with when it was entered last. Default: the last entry, so the state as it was when
                the timeline was read.

        Raises:
            IndexError: the timeline has no such entry.
            LookupError: the run has not entered such a stage, or its timeline was not kept (`timeline=False`).
        """
        return self._states.at(len(self.entries) if place is None else self.seq_of(place))

    def seq_of(self, place: int | str) -> int:
        """Return the `seq` of a place: of a stage the entry with which it began last. Raises as `state_at`."""
        return seq_of(self.entries, place)

    def diff(self, a: int | str, b: int | str) -> StateDiff:
        """Return what changed in the state between two places: as a patch, and by path. Raises as `state_at`.

        `print(timeline.diff("review", "ship"))` prints a line per value. `b` may be before `a`.
        """
        return diff_between(self._states, a, b)

    def compare(self, other: Timeline) -> Comparison:
        """Return how another run of the same workflow differs from this one: in its way, and in its state."""
        return compared(self.run_id, self._states, other.run_id, other._states)

    def player(self) -> Player:
        """Return a place in this timeline that can be moved, forward and backward, with the state there.

        Of a run that was kept with `timeline=False` it steps through the changes of its state.
        """
        return Player(self._states)

    @cached_property
    def _states(self) -> States:
        return States(self.entries)

    def to_svg(self, *, title: str = "", now: float | None = None) -> str:
        """Return the run's stages, steps and pauses as bars over time, as an SVG document.

        Waiting is not drawn to scale where it would hide the work; the durations beside the bars are the real ones.

        Args:
            title: above the chart; default: "run" and the run's id.
            now: where the bars of an unfinished run end, in seconds since 1970; default: at the last entry.
        """
        from poundlock.drawing.chart_svg import chart_svg  # only programs that draw load it
        from poundlock.model.run_chart import read_chart

        last = self.entries[-1].time if self.entries else 0.0
        return chart_svg(read_chart(self.entries, last if now is None else now), title or f"run {self.run_id}")

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Timeline({self.run_id!r}, {len(self.entries)} entries)"
