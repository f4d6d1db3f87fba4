"""Rows of bars over time. Values, and their scale.

Waiting takes days where work takes milliseconds, so a chart to scale would show only the waiting. Therefore waiting
gets at most `IDLE_SHARE` of the width; the durations beside the bars are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

from poundlock.records import dataclass, field

IDLE_SHARE: Final = 0.6
WORK, PAUSE, DELAY, QUEUE = "work", "pause", "delay", "queue"
MEANINGS: Final = {WORK: "working", PAUSE: "paused", DELAY: "delayed", QUEUE: "queued"}
NOT_TO_SCALE: Final = "(waiting is not drawn to scale)"


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


def scale(chart: Chart, columns: float) -> tuple[Callable[[float], float], bool]:
    """Return a function from the start or end of a bar to a column, and whether waiting is shortened to its share."""
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
