"""The chart of a run, read from its timeline: a bar per stage and step, pauses included. Pure: entries in, rows out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from poundlock.drawing.charts import DELAY, PAUSE, QUEUE, WORK, Bar, Chart, Row
from poundlock.drawing.texts import duration

_QUEUED: Final = "(queued)"
"""The row for the time in the queue; not the path of a stage, because that begins with a pipeline."""


class Entry(Protocol):
    """What of a timeline's entry is read."""

    @property
    def time(self) -> float: ...
    @property
    def type(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def payload(self) -> Any: ...


def read_chart(entries: Sequence[Entry], now: float) -> Chart:
    """Return the content of a run's chart, independent of its width.

    Args:
        entries: of its timeline.
        now: where the bars of an unfinished run end, in seconds since 1970.
    """
    reader = _Reader()
    for entry in entries:
        reader.read(entry)
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

    def read(self, entry: Entry) -> None:
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
        elif entry.type == "pipeline:timeout":
            self._late(entry, payload)
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

    def _work(self, entry: Entry, what: str, happened: str) -> None:
        path = entry.path
        if happened not in ("start", "success", "failure"):
            return
        if what == "step" and path.split("/")[-1] == path.split("/")[-2]:
            return  # a step with the name of its stage: one bar is enough
        if happened == "start":
            if what == "stage":
                self._close_idle(entry.time)
            self._row(path, depth=0 if what == "stage" else 1)
            self._open.setdefault(path, (WORK, entry.time))
        else:
            if what == "stage":
                self._stage = path
                for step in [other for other in self._open if other.startswith(f"{path}/")]:
                    self._close(step, entry.time)
            self._close(path, entry.time)

    def _resumed(self, entry: Entry, payload: dict[str, Any]) -> None:
        waited = self._close(self._stage, entry.time)
        reason = str(payload.get("reason", ""))
        texts = {"event": f"resumed by {self._event or 'an event'}", "api": "resumed by a call", "timeout": "timed out"}
        after = f"after {duration(waited)}" if waited is not None else "immediately"
        wait = payload.get("wait") or (self.rows[self._stage].label if self._stage in self.rows else "wait")
        self.notes.append(f"{wait}: {texts.get(reason, reason)} {after}")
        self._event = ""

    def _late(self, entry: Entry, payload: dict[str, Any]) -> None:
        """The run's time is over: whatever it was doing has ended."""
        for path in list(self._open):
            self._close(path, entry.time)
        if payload.get("on_timeout") not in ("fail", "abort"):
            self.notes.append(f"its time was over: it went on at {payload.get('on_timeout')}")

    def _end(self, entry: Entry, happened: str, payload: dict[str, Any]) -> None:
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
