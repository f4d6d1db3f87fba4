"""A run's timeline as lines of text. Pure: a Timeline in, text out; `model/run_chart.py` reads what is drawn."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING

from poundlock.drawing.charts import DELAY, MEANINGS, NOT_TO_SCALE, PAUSE, QUEUE, WORK, Row, scale
from poundlock.drawing.texts import duration
from poundlock.model.run_chart import read_chart

if TYPE_CHECKING:
    from poundlock.model.timeline import Timeline

MARKS = {WORK: "█", PAUSE: "░", DELAY: "▒", QUEUE: "·"}
ASCII_MARKS = {WORK: "#", PAUSE: "-", DELAY: "~", QUEUE: "."}


def gantt(timeline: Timeline, width: int, now: float, *, ascii_only: bool = False) -> list[str]:
    """Return a run's timeline as lines of text.

    Args:
        timeline: the run's timeline.
        width: columns to use.
        now: where the bar of an unfinished run ends, in seconds since 1970.
        ascii_only: for terminals that show only ASCII.
    """
    chart = read_chart(timeline.entries, now)
    if not chart.rows:
        return ["This run has no timeline, only its state."]
    marks = ASCII_MARKS if ascii_only else MARKS
    labels = min(max(len(row.label) + 2 * row.depth for row in chart.rows), max(12, width // 3))
    columns = max(10, width - labels - 12)
    place, shrunk = scale(chart, columns)
    lines = [_line(row, labels, columns, place, marks) for row in chart.rows]
    kinds = [kind for kind in MARKS if any(bar.kind == kind for row in chart.rows for bar in row.bars)]
    axis = f"{'':{labels}}  {'0':<{columns - 9}}{duration(chart.end - chart.start):>9}"
    legend = "   ".join(f"{marks[kind]} {MEANINGS[kind]}" for kind in kinds)
    legend += f"   {NOT_TO_SCALE}" if shrunk else ""
    return [*lines, axis.rstrip(), "", legend, *chart.notes]


def _line(row: Row, labels: int, columns: int, place: Callable[[float], float], marks: dict[str, str]) -> str:
    cells = [" "] * columns
    for bar in row.bars:
        first = min(int(place(bar.start)), columns - 1)
        last = max(first + 1, min(ceil(place(bar.end)), columns))
        cells[first:last] = marks[bar.kind] * (last - first)
        if bar.open and last == columns:
            cells[-1] = ">"
    label = _cut("  " * row.depth + row.label, labels, "..." if marks is ASCII_MARKS else "…")
    return f"{label:{labels}}  {''.join(cells)} {duration(row.total):>9}"


def _cut(text: str, width: int, end: str) -> str:
    return text if len(text) <= width else f"{text[: width - len(end)]}{end}"
