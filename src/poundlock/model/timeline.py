"""The timeline: one log of what happened and of every state delta.

A commit writes one log row: a JSON array of entries `[time, source, type, path, payload, patch]`. The sequence number
of an entry is the row's `first_seq` plus its index, so it is not written. The state is the fold of all patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from poundlock.codecs import detach, load
from poundlock.model.lifecycle import RunStatus
from poundlock.model.patches import merge
from poundlock.model.runs import LogRow, RunRecord, StepProgress
from poundlock.records import dataclass

BUFFERED: Final = "wait:buffered"
"""Type of the entry that an event has come, when it is taken in."""


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One entry of a timeline.

    Attributes:
        seq: number in the run's timeline, from 1, without gaps.
        time: seconds since 1970 by the runtime's clock.
        source: pipeline, state, container, logger, dispatch or services.
        type: e.g. "stage:start", "state:patch", "wait:matched".
        path: "pipeline/stage/step", as far as it applies.
        payload: details, JSON-like; None if there are none.
        patch: the state delta of this entry; None if the state did not change.
        live: whether it is not stored, but only told to those who follow the run now; its `seq` is then that of the
            last stored entry before it.
    """

    seq: int
    time: float
    source: str
    type: str
    path: str
    payload: Any
    patch: Mapping[str, Any] | None
    live: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as plain data; `live` is only there if it is true."""
        shape: dict[str, Any] = {
            "seq": self.seq,
            "time": self.time,
            "source": self.source,
            "type": self.type,
            "path": self.path,
            "payload": self.payload,
            "patch": self.patch,
        }
        if self.live:
            shape["live"] = True
        return shape


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

    def state_at(self, seq: int | None = None) -> dict[str, Any]:
        """Return the state as it was right after an entry, as plain data: a copy that may be changed.

        Args:
            seq: which entry, from 1; 0 gives the empty state before the first. Default: the last one,
                so the state as it was when the timeline was read.

        Raises:
            IndexError: the timeline has no such entry.
        """
        if seq is None:
            seq = len(self.entries)
        if not 0 <= seq <= len(self.entries):
            raise IndexError(f"seq {seq} is outside this timeline: it has entries 1 to {len(self.entries)}")
        state: dict[str, Any] = {}
        for entry in self.entries[:seq]:
            if entry.patch is not None:
                state = merge(state, entry.patch)
        return detach(state)  # type: ignore[no-any-return]  # a dict in, a dict out

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
