"""Graphs as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from poundlock.drawing.graph import KINDS, WAYS, Edge, Graph, Look, Node, Panel
from poundlock.drawing.places import Box, Layout, Point, Size, Wire, lay_out
from poundlock.drawing.svg import document, text
from poundlock.drawing.texts import cut, number, width_of, xml
from poundlock.records import dataclass

MARGIN: Final = 24.0
WIDEST: Final = 300.0
"""Of a box, in pixels; longer texts are cut, and shown as a whole where the pointer rests."""
NARROWEST: Final = 88.0
PAD: Final = 12.0
TITLE, LINE, SMALL = 13.0, 11.5, 11.0
TITLE_ROW, LINE_ROW = 18.0, 16.0
BADGE_HEIGHT, BADGE_ROW = 17.0, 23.0
LABEL_WIDEST: Final = 200.0
STATUSES: Final = {
    "paused": "wait",
    "delayed": "delay",
    "failed": "failed",
    "aborted": "aborted",
    "completed": "completed",
}
"""The colours in which a run's place is marked; those of "delay" for all other statuses."""


@dataclass(frozen=True, slots=True)
class _Panel:
    """A panel with its layout, and where it stands in the document."""

    panel: Panel
    layout: Layout
    x: float
    y: float


def graph_svg(graph: Graph) -> str:
    """Return a graph as an SVG document: nothing in it is fetched or run, and all texts are escaped."""
    parts: list[str] = []
    y = MARGIN
    width = 0.0
    if graph.title:
        parts.append(
            text(MARGIN, y + 14, cut(graph.title, 700, 17, bold=True), "ink", font_size="17", font_weight="600")
        )
        width, y = width_of(cut(graph.title, 700, 17, bold=True), 17, bold=True), y + 24
    if graph.subtitle:
        parts.append(text(MARGIN, y + 10, cut(graph.subtitle, 700, 12), "muted", font_size="12"))
        width, y = max(width, width_of(cut(graph.subtitle, 700, 12), 12)), y + 20
    y += 8 if y > MARGIN else 0
    placed = [(panel, arranged(panel)) for panel in graph.panels]
    legend = list(_legend_items(graph))
    width = max([width, sum(_legend_widths(legend)[:2]), *(layout.width for _, layout in placed)])
    for panel, layout in placed:
        if panel.title:
            parts.append(text(MARGIN, y + 11, cut(panel.title, 700, 13, bold=True), "muted", font_weight="600"))
            y += 26
        parts += _panel(_Panel(panel, layout, MARGIN + (width - layout.width) / 2, y))
        y += layout.height + 28
    legend_parts, height = _legend(legend, y, width)
    parts += legend_parts
    light, dark = _colours()
    return document(width + 2 * MARGIN, height + MARGIN / 2, graph.title or "pipeline", light, dark, parts)


# ----------------------------------------------------------------------------------------------------------- measure
def arranged(panel: Panel) -> Layout:
    """Return where the boxes and edges of a panel are, in pixels from its left upper corner."""
    places = {node.id: at for at, node in enumerate(panel.nodes)}
    edges = [(places[edge.source], places[edge.target]) for edge in panel.edges]
    labels = {at: _label_size(edge) for at, edge in enumerate(panel.edges) if edge.label}
    weights = [_weight(places, edge) for edge in panel.edges]
    order = [(places[upper], places[lower]) for upper, lower in panel.order]
    return lay_out([_size(node) for node in panel.nodes], edges, labels, weights, order)


def _weight(places: Mapping[str, int], edge: Edge) -> float:
    """Return how straight an edge should be: most of all the way from one stage to the next, in order."""
    in_order = places[edge.target] - places[edge.source] == 1
    return 30.0 if in_order and edge.kind != "failure" else 4.0 if edge.kind in ("next", "event", "later") else 2.0


def _label_size(edge: Edge) -> Size:
    return width_of(cut(edge.label, LABEL_WIDEST, SMALL), SMALL) + 6, 18.0


def _size(node: Node) -> Size:
    look = KINDS[node.kind]
    if look.shape == "tag":
        return max(40.0, width_of(cut(node.title, 220, SMALL), SMALL) + 20), 24.0
    wide = width_of(cut(node.title, WIDEST - 2 * PAD, TITLE, bold=True), TITLE, bold=True)
    wide = max([wide, *(width_of(cut(line, WIDEST - 2 * PAD, LINE), LINE) for line in node.lines)])
    badges = sum(_badge_width(badge) + 4 for badge in _badges(node))
    width = max(min(WIDEST, max(NARROWEST, wide + 2 * PAD)), badges + 16)
    rows = TITLE_ROW + LINE_ROW * len(node.lines) + (BADGE_ROW if badges else 0)
    return width, 14 + rows + (2 if node.lines else 0)


def _badges(node: Node) -> list[str]:
    return [cut(badge, 120, 10.5) for badge in node.notes()]


def _badge_width(badge: str) -> float:
    return width_of(badge, 10.5, bold=True) + 12


# -------------------------------------------------------------------------------------------------------------- draw
def _panel(drawn: _Panel) -> Iterator[str]:
    panel, layout = drawn.panel, drawn.layout
    yield f'<g transform="translate({number(drawn.x)} {number(drawn.y)})" data-pipeline="{xml(panel.id)}">'
    for edge, wire in zip(panel.edges, layout.wires, strict=True):
        yield from _edge(edge, wire)
    for node, box in zip(panel.nodes, layout.boxes, strict=True):
        yield from _box(node, box)
    for at, edge in enumerate(panel.edges):
        if at in layout.labels:
            x, y = layout.labels[at]
            yield _label(edge, x, y)
    yield "</g>"


def _edge(edge: Edge, wire: Wire) -> Iterator[str]:
    points = wire.points
    path = [f"M{_at(points[0])}"]
    end = points[-1]
    before = next((point for point in reversed(points) if point != end), end)
    sideways = before[1] == end[1]  # only an edge from a box to itself ends at its side
    towards = (_sign(end[0] - before[0]), 0.0) if sideways else (0.0, _sign(end[1] - before[1]))
    stopped = (end[0] - 5 * towards[0], end[1] - 5 * towards[1])  # the line ends inside the arrow's head
    for number_, (one, other) in enumerate(itertools.pairwise(points)):
        target = stopped if number_ == len(points) - 2 else other
        if number_ % 2 == 0 or one[0] == other[0]:
            path.append(f"L{_at(target)}")
        else:
            half = (one[1] + other[1]) / 2
            path.append(f"C{_at((one[0], half))} {_at((other[0], half))} {_at(other)}")
    look = WAYS[edge.kind]
    dashed = ' stroke-dasharray="5 4"' if look.dashed else ""
    line = f'<path class="w-{edge.kind}" d="{"".join(path)}" fill="none" stroke-width="1.5"{dashed}/>'
    told = f"{edge.source} → {edge.target}" + (f": {edge.label}" if edge.label else "")
    yield f'<g data-from="{xml(edge.source)}" data-to="{xml(edge.target)}"><title>{xml(told)}</title>{line}'
    side = (-towards[1], towards[0])
    back = (end[0] - 8 * towards[0], end[1] - 8 * towards[1])
    wings = [(back[0] + way * 4 * side[0], back[1] + way * 4 * side[1]) for way in (1, -1)]
    yield f'<path class="h-{edge.kind}" d="M{_at(end)}L{_at(wings[0])}L{_at(wings[1])}Z"/></g>'


def _label(edge: Edge, x: float, y: float) -> str:
    shown = cut(edge.label, LABEL_WIDEST, SMALL)
    wide = width_of(shown, SMALL) + 6
    back = (
        f'<rect class="bg" x="{number(x - wide / 2)}" y="{number(y - 9)}" width="{number(wide)}" height="18" rx="4"/>'
    )
    words = text(x, y + 4, shown, f"l-{edge.kind}", text_anchor="middle", font_size=number(SMALL))
    return f"<g><title>{xml(edge.label)}</title>{back}{words}</g>"


def _box(node: Node, box: Box) -> Iterator[str]:
    look = KINDS[node.kind]
    told = "\n".join((node.title, *node.lines))
    yield f'<g data-node="{xml(node.id)}" data-kind="{node.kind}"><title>{xml(told)}</title>'
    round_ = {"box": 7.0, "round": min(box.height / 2, 17.0), "tag": 12.0}[look.shape]
    if node.mark:
        kind = STATUSES.get(node.mark, "delay")
        yield _rect(box, f"m-{kind}", round_ + 4, 'fill="none" stroke-width="3"', 4.0)
    dashed = ' stroke-dasharray="5 4"' if look.dashed else ""
    weight = "2" if node.passed else "1.2"
    yield _rect(box, f"k-{node.kind}", round_, f'stroke-width="{weight}"{dashed}')
    if look.shape == "tag":
        shown = cut(node.title, 220, SMALL)
        yield text(box.middle, box.y + 16, shown, f"t-{node.kind}", text_anchor="middle", font_size=number(SMALL))
        yield "</g>"
        return
    room = WIDEST - 2 * PAD
    y = box.y + 7 + 14
    shown = cut(node.title, room, TITLE, bold=True)
    yield text(box.middle, y, shown, f"t-{node.kind}", text_anchor="middle", font_weight="600")
    for line in node.lines:
        y += LINE_ROW
        shown = cut(line, room, LINE)
        yield text(box.middle, y + 2, shown, f"t-{node.kind}", text_anchor="middle", font_size=number(LINE))
    yield from _draw_badges(node, box)
    yield "</g>"


def _draw_badges(node: Node, box: Box) -> Iterator[str]:
    badges = _badges(node)
    x = box.middle - (sum(_badge_width(badge) + 4 for badge in badges) - 4) / 2
    for place, badge in enumerate(badges):
        at = Box(x, box.y + box.height - BADGE_ROW, _badge_width(badge), BADGE_HEIGHT)
        kind = STATUSES.get(node.mark, "delay") if node.mark and not place else "delay"
        yield _rect(at, f"b-{kind}", BADGE_HEIGHT / 2, "")
        yield text(at.middle, at.y + 12, badge, "badge", text_anchor="middle", font_size="10.5", font_weight="600")
        x += at.width + 4


def _rect(box: Box, classes: str, radius: float, more: str, grown: float = 0.0) -> str:
    x, y = number(box.x - grown), number(box.y - grown)
    width, height = number(box.width + 2 * grown), number(box.height + 2 * grown)
    return f'<rect class="{classes}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{number(radius)}" {more}/>'


def _at(point: Point) -> str:
    return f"{number(point[0])} {number(point[1])}"


def _sign(value: float) -> float:
    return (value > 0) - (value < 0) + 0.0


# ------------------------------------------------------------------------------------------------- colours and legend
def _colours() -> tuple[dict[str, str], dict[str, str]]:
    light: dict[str, str] = {"badge": "fill:#ffffff"}
    dark: dict[str, str] = {"badge": "fill:#0d1117"}
    for rules, pick in ((light, 0), (dark, 1)):
        for name, look in KINDS.items():
            fill, line, ink = (look.light, look.dark)[pick]
            rules[f"k-{name}"] = f"fill:{fill};stroke:{line}"
            rules[f"t-{name}"] = f"fill:{ink}"
            rules[f"m-{name}"] = f"stroke:{line}"
            rules[f"b-{name}"] = f"fill:{line}"
        for name, look in WAYS.items():
            _, line, ink = (look.light, look.dark)[pick]
            rules[f"w-{name}"] = f"stroke:{line}"
            rules[f"h-{name}"] = f"fill:{line}"
            rules[f"l-{name}"] = f"fill:{ink}"
    return light, dark


def _legend_items(graph: Graph) -> Iterator[tuple[str, str, Look]]:
    kinds = dict.fromkeys(node.kind for panel in graph.panels for node in panel.nodes)
    ways = dict.fromkeys(edge.kind for panel in graph.panels for edge in panel.edges)
    yield from (("k", kind, KINDS[kind]) for kind in KINDS if kind in kinds and KINDS[kind].meaning)
    yield from (("w", way, WAYS[way]) for way in WAYS if way in ways and WAYS[way].meaning)


def _legend_widths(items: Sequence[tuple[str, str, Look]]) -> list[float]:
    return [30 + width_of(look.meaning, SMALL) + 18 for _, _, look in items]


def _legend(items: Sequence[tuple[str, str, Look]], y: float, width: float) -> tuple[list[str], float]:
    """Return the legend, in as many rows as it needs, and where it ends."""
    parts: list[str] = []
    x = MARGIN
    for (what, name, look), wide in zip(items, _legend_widths(items), strict=True):
        if x > MARGIN and x + wide > MARGIN + width:
            x, y = MARGIN, y + 20
        dashed = ' stroke-dasharray="5 4"' if look.dashed else ""
        if what == "k":
            parts.append(_rect(Box(x, y, 22, 12), f"k-{name}", 3, f'stroke-width="1.2"{dashed}'))
        else:
            line = f"M{_at((x, y + 6))}L{_at((x + 22, y + 6))}"
            parts.append(f'<path class="w-{name}" d="{line}" fill="none" stroke-width="1.5"{dashed}/>')
        parts.append(text(x + 30, y + 10, look.meaning, "muted", font_size=number(SMALL)))
        x += wide
    return parts, y + 18 if items else y - 12
