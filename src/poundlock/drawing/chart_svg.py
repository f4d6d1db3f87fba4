"""Charts of bars over time as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from poundlock.drawing.charts import DELAY, MEANINGS, NOT_TO_SCALE, PAUSE, QUEUE, WORK, Bar, Chart, Row, scale
from poundlock.drawing.svg import document, text
from poundlock.drawing.texts import cut, duration, number, width_of, xml

MARGIN: Final = 24.0
ROW: Final = 24.0
BAR: Final = 14.0
COLUMNS: Final = 560.0
"""Width of the whole time, in pixels."""
LABELS: Final = 260.0
"""At most this wide are the names of rows."""
THINNEST: Final = 2.0
NOTE: Final = 12.0
_LIGHT: Final = {WORK: "#1a7f37", PAUSE: "#d4a72c", DELAY: "#54aeff", QUEUE: "#afb8c1"}
_DARK: Final = {WORK: "#3fb950", PAUSE: "#bb8009", DELAY: "#1f6feb", QUEUE: "#6e7681"}


def chart_svg(chart: Chart, title: str) -> str:
    """Return a chart as an SVG document; all texts are escaped."""
    heading = cut(title, LABELS + COLUMNS, 15, bold=True)
    parts = [text(MARGIN, MARGIN + 12, heading, "ink", font_size="15", font_weight="600")]
    y = MARGIN + 32
    labels = max((_label_width(row) for row in chart.rows), default=0.0)
    left = MARGIN + labels + 14
    width = left + COLUMNS + 90
    place, shrunk = scale(chart, COLUMNS) if chart.rows else (float, False)
    for row in chart.rows:
        parts += _row(row, y, left, place, chart)
        y += ROW
    if chart.rows:
        parts += _axis(chart, left, y)
        y += 30
        parts += _legend(chart, y, shrunk=shrunk)
        y += 26
    else:
        parts.append(text(MARGIN, y + 10, "no timeline was kept", "muted", font_size="12"))
        y += 26
    for note in chart.notes:
        parts.append(f"<g><title>{xml(note)}</title>")
        parts.append(text(MARGIN, y + 6, cut(note, width - 2 * MARGIN, NOTE), "ink", font_size=number(NOTE)) + "</g>")
        y += 20
    light, dark = ({f"b-{kind}": f"fill:{colour}" for kind, colour in each.items()} for each in (_LIGHT, _DARK))
    return document(width, y + MARGIN / 2, title, light, dark, parts)


def _label_width(row: Row) -> float:
    return min(LABELS, width_of(row.label, 13) + 16 * row.depth)


def _row(row: Row, y: float, left: float, place: Callable[[float], float], chart: Chart) -> Iterator[str]:
    indent = 16 * row.depth
    yield f'<g data-row="{xml(row.label)}"><title>{xml(row.label)}</title>'
    yield text(MARGIN + indent, y + 15, cut(row.label, LABELS - indent, 13), "ink" if not row.depth else "muted")
    yield _line(left, y + ROW - 1, left + COLUMNS, y + ROW - 1)
    for bar in row.bars:
        yield _bar(bar, y + (ROW - BAR) / 2 - 1, left, place, chart)
    yield text(left + COLUMNS + 10, y + 15, duration(row.total), "muted", font_size="12")
    yield "</g>"


def _bar(bar: Bar, y: float, left: float, place: Callable[[float], float], chart: Chart) -> str:
    start = min(place(bar.start), COLUMNS - THINNEST)
    wide = max(THINNEST, place(bar.end) - start)
    shape = f'x="{number(left + start)}" y="{number(y)}" width="{number(wide)}" height="{number(BAR)}" rx="2"'
    still = "still " if bar.open else ""
    after = f"{duration(bar.start - chart.start)} after the start, {still}{MEANINGS[bar.kind]}"
    told = f"{after} for {duration(bar.end - bar.start)}" if still else f"{after}: {duration(bar.end - bar.start)}"
    faint = ' fill-opacity="0.6"' if bar.open else ""  # its end is not known yet
    return f'<rect class="b-{bar.kind}" {shape}{faint}><title>{xml(told)}</title></rect>'


def _axis(chart: Chart, left: float, y: float) -> Iterator[str]:
    yield text(left, y + 15, "0", "muted", font_size="11")
    whole = duration(chart.end - chart.start)
    yield text(left + COLUMNS, y + 15, whole, "muted", font_size="11", text_anchor="end")


def _legend(chart: Chart, y: float, *, shrunk: bool) -> Iterator[str]:
    x = MARGIN
    for kind, meaning in MEANINGS.items():
        if any(bar.kind == kind for row in chart.rows for bar in row.bars):
            yield f'<rect class="b-{kind}" x="{number(x)}" y="{number(y)}" width="14" height="12" rx="2"/>'
            yield text(x + 20, y + 10, meaning, "muted", font_size="11")
            x += 20 + width_of(meaning, 11) + 18
    if shrunk:
        yield text(x, y + 10, NOT_TO_SCALE, "muted", font_size="11")


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
    return f'<line class="rule" {ends} stroke-width="1"/>'
