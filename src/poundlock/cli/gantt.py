"""A run's timeline as lines of text: a bar per stage and step, pauses included. Pure: a Timeline in, text out.

Waiting takes days where work takes milliseconds, so a chart to scale would show only the waiting. Therefore waiting
gets at most `IDLE_SHARE` of the width; the durations beside the bars are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Any

from poundlock.records import dataclass, field

if TYPE_CHECKING:
    from poundlock.model.timeline import Timeline, TimelineEntry

IDLE_SHARE = 0.6
WORK, PAUSE, DELAY, QUEUE = "work", "pause", "delay", "queue"
MARKS = {WORK: "█", PAUSE: "░", DELAY: "▒", QUEUE: "·"}
ASCII_MARKS = {WORK: "#", PAUSE: "-", DELAY: "~", QUEUE: "."}
MEANINGS = {WORK: "working", PAUSE: "paused", DELAY: "delayed", QUEUE: "queued"}
_QUEUED = "(queued)"
"""The row for the time in the queue; not the path of a stage, because that begins with a pipeline."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A period of one kind; `open` if it has not ended yet."""

    kind: str
    start: float
    end: float
    open: bool = False


@dataclass(slots=True)
class Row:
    """One line of the chart: a stage, a step in it (`depth` 1), or the time before the first stage."""

    label: str
    depth: int = 0
    bars: list[Bar] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Seconds of all its bars."""
        return sum(bar.end - bar.start for bar in self.bars)


@dataclass(slots=True)
class Chart:
    """What is drawn: rows, and notes below them."""

    rows: list[Row]
    notes: list[str]
    start: float
    end: float


def gantt(timeline: Timeline, width: int, now: float, *, ascii_only: bool = False) -> list[str]:
    """Return a run's timeline as lines of text.

    Args:
        timeline: the run's timeline.
        width: columns to use.
        now: where the bar of an unfinished run ends, in seconds since 1970.
        ascii_only: for terminals that show only ASCII.
    """
    chart = read_chart(timeline, now)
    if not chart.rows:
        return ["This run has no timeline, only its state."]
    marks = ASCII_MARKS if ascii_only else MARKS
    labels = min(max(len(row.label) + 2 * row.depth for row in chart.rows), max(12, width // 3))
    columns = max(10, width - labels - 12)
    place, shrunk = _scale(chart, columns)
    lines = [_line(row, labels, columns, place, marks) for row in chart.rows]
    kinds = [kind for kind in MARKS if any(bar.kind == kind for row in chart.rows for bar in row.bars)]
    axis = f"{'':{labels}}  {'0':<{columns - 9}}{duration(chart.end - chart.start):>9}"
    legend = "   ".join(f"{marks[kind]} {MEANINGS[kind]}" for kind in kinds)
    legend += "   (waiting is not drawn to scale)" if shrunk else ""
    return [*lines, axis.rstrip(), "", legend, *chart.notes]


def read_chart(timeline: Timeline, now: float) -> Chart:
    """Return the content of a timeline's chart, independent of its width."""
    reader = _Reader()
    for entry in timeline.entries:
        reader.read(entry)
    entries = timeline.entries
    start = entries[0].time if entries else now
    last = entries[-1].time if entries else now
    return reader.chart(start, last if reader.ended else max(now, last))


class _Reader:
    """Collects entries into rows. A stage is identified by its path, so a stage entered again continues its row."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.notes: list[str] = []
        self.ended = False
        self._open: dict[str, tuple[str, float]] = {}
        self._stage = ""
        self._event = ""

    def read(self, entry: TimelineEntry) -> None:
        """Add one entry."""
        what, _, happened = entry.type.partition(":")
        payload = entry.payload if isinstance(entry.payload, dict) else {}
        # Only this entry means a queue: a run may also begin late because the machine is busy.
        if entry.type == "run:queued":
            self._row(_QUEUED, depth=0)
            self._open[_QUEUED] = (QUEUE, entry.time)
        elif what in ("stage", "step"):
            self._work(entry, what, happened)
        elif entry.type == "pipeline:pause":
            self._open[self._stage] = (PAUSE, entry.time)
            self._event = ""
        elif entry.type == "wait:matched":
            self._event = str(payload.get("event", {}).get("type", ""))
        elif entry.type == "pipeline:delay":
            self._open[self._stage] = (DELAY, entry.time)
        elif entry.type == "pipeline:resume":
            self._resumed(entry, payload)
        elif happened in ("success", "failure", "abort"):
            self._end(entry, happened, payload)

    def chart(self, start: float, end: float) -> Chart:
        """Return the chart up to `end`, where the bars of unfinished work end."""
        waiting = [path for path, (kind, _) in self._open.items() if kind == PAUSE]
        for path in list(self._open):
            self._close(path, end, still=True)
        if waiting and not self.ended:
            self.notes.append(f"{self.rows[waiting[-1]].label}: still waiting")
        return Chart([row for row in self.rows.values() if row.bars], self.notes, start, end)

    def _work(self, entry: TimelineEntry, what: str, happened: str) -> None:
        path = entry.path
        if what == "step" and path.split("/")[-1] == path.split("/")[-2]:
            return  # a step with the name of its stage: one bar is enough
        if happened == "start":
            if what == "stage":
                self._close_idle(entry.time)
            self._row(path, depth=0 if what == "stage" else 1)
            self._open.setdefault(path, (WORK, entry.time))
        elif happened in ("success", "failure"):
            if what == "stage":
                self._stage = path
                for step in [other for other in self._open if other.startswith(f"{path}/")]:
                    self._close(step, entry.time)
            self._close(path, entry.time)

    def _resumed(self, entry: TimelineEntry, payload: dict[str, Any]) -> None:
        waited = self._close(self._stage, entry.time)
        reason = str(payload.get("reason", ""))
        texts = {"event": f"resumed by {self._event or 'an event'}", "api": "resumed by a call", "timeout": "timed out"}
        after = f"after {duration(waited)}" if waited is not None else "immediately"
        wait = payload.get("wait") or (self.rows[self._stage].label if self._stage in self.rows else "wait")
        self.notes.append(f"{wait}: {texts.get(reason, reason)} {after}")
        self._event = ""

    def _end(self, entry: TimelineEntry, happened: str, payload: dict[str, Any]) -> None:
        self.ended = True
        for path in list(self._open):
            self._close(path, entry.time)
        if happened == "failure":
            self.notes.append(f"failed: {payload.get('type')}: {payload.get('message')}")
        elif happened == "abort":
            self.notes.append(f"aborted: {payload.get('reason') or 'no reason was given'}")

    def _row(self, path: str, *, depth: int) -> Row:
        if path not in self.rows:
            self.rows[path] = Row(path.rpartition("/")[2], depth)
        return self.rows[path]

    def _close(self, path: str, time: float, *, still: bool = False) -> float | None:
        """Close the open bar of a path; return its duration."""
        begun = self._open.pop(path, None)
        if begun is None:
            return None
        kind, start = begun
        self._row(path, depth=0).bars.append(Bar(kind, start, max(time, start), still))
        return time - start

    def _close_idle(self, time: float) -> None:
        for path in [path for path, (kind, _) in self._open.items() if kind != WORK]:
            self._close(path, time)


def duration(seconds: float) -> str:
    """Return a duration with two or three figures: "0.8 ms", "12 ms", "1.3 s", "2 min 5 s", "3 d 4 h"."""
    if seconds < 0.9995:
        ms = seconds * 1000
        return f"{ms:.1f} ms" if ms < 9.95 else f"{ms:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    seconds += 0.05  # so that the value that is rounded up above starts the minute here
    units = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    size, unit, below, lesser = next(found for found in units if seconds >= found[0])
    whole, rest = divmod(int(seconds), size)
    return f"{whole} {unit} {rest // below} {lesser}" if rest // below else f"{whole} {unit}"


def _scale(chart: Chart, columns: int) -> tuple[Callable[[float], float], bool]:
    """Return a function from a moment to a column, and whether it shortens waiting to its share of the width."""
    bars = [bar for row in chart.rows for bar in row.bars]
    moments = sorted({chart.start, chart.end, *(bar.start for bar in bars), *(bar.end for bar in bars)})
    working = [
        any(bar.kind == WORK and bar.start <= left and right <= bar.end for bar in bars)
        for left, right in pairwise(moments)
    ]
    lengths = [right - left for left, right in pairwise(moments)]
    work = sum(length for length, busy in zip(lengths, working, strict=True) if busy)
    idle = sum(lengths) - work
    shrink = 1.0
    if work > 0 and idle > 0 and idle / (work + idle) > IDLE_SHARE:
        shrink = work * IDLE_SHARE / (1 - IDLE_SHARE) / idle
    reached = [0.0]
    for length, busy in zip(lengths, working, strict=True):
        reached.append(reached[-1] + (length if busy else length * shrink))
    whole = reached[-1] or 1.0
    columns_at = {moment: at / whole * columns for moment, at in zip(moments, reached, strict=True)}
    return columns_at.__getitem__, shrink < 1.0


def _line(row: Row, labels: int, columns: int, place: Callable[[float], float], marks: dict[str, str]) -> str:
    cells = [" "] * columns
    for bar in row.bars:
        first = min(int(place(bar.start)), columns - 1)
        last = max(first + 1, min(ceil(place(bar.end)), columns))
        cells[first:last] = marks[bar.kind] * (last - first)
        if bar.open and last == columns:
            cells[-1] = ">"
    label = _cut("  " * row.depth + row.label, labels)
    return f"{label:{labels}}  {''.join(cells)} {duration(row.total):>9}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


__all__: Sequence[str] = ("Bar", "Chart", "Row", "duration", "gantt", "read_chart")
