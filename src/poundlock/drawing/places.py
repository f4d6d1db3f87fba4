"""The second half of arranging a graph: coordinates. No two boxes overlap, and each edge ends at its boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from poundlock.drawing.across import THREAD, across, spread
from poundlock.drawing.layers import Ends, Rows, arrange
from poundlock.records import dataclass

ROW_GAP: Final = 16.0
LOOP: Final = 22.0
"""How far an edge from a box to itself stands out."""

Point = tuple[float, float]
Size = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """A box's left upper corner and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """The x of its middle."""
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True)
class Wire:
    """An edge: points from its source to its target, in pairs: straight between the two of a pair, bent to the next."""

    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is. `labels` holds the middle of each label, by the place of its edge."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]
    labels: Mapping[int, Point]


def lay_out(
    sizes: Sequence[Size],
    edges: Sequence[Ends],
    labels: Mapping[int, Size],
    weights: Sequence[float],
    order: Sequence[Ends] = (),
) -> Layout:
    """Return where boxes, edges and labels are.

    Args:
        sizes: width and height of each box.
        edges: source and target of each edge, as places in `sizes`.
        labels: width and height of the edges' labels, by the edge's place.
        weights: of the edges: the heavier, the straighter.
        order: further pairs of boxes, the first one above the second.
    """
    labelled = [number for number in labels if edges[number][0] != edges[number][1]]
    rows = arrange(len(sizes), edges, labelled, order)
    loops = _loops(edges, labels)
    needed = {box: size[0] + 2 * loops.get(box, 0.0) for box, size in enumerate(sizes)}
    for station, edge in rows.labels.items():
        needed[station] = labels[edge][0] + 8
    middles = across(rows, needed, len(sizes), weights)
    left = min((middles[each] - needed.get(each, 0.0) / 2 for each in middles), default=0.0)
    middles = {each: middle - left for each, middle in middles.items()}
    tops, heights = _down(rows, middles, sizes, labels)
    row_of = {each: number for number, row in enumerate(rows.rows) for each in row}
    boxes = tuple(
        Box(middles[box] - width / 2, tops[row_of[box]] + (heights[row_of[box]] - height) / 2, width, height)
        for box, (width, height) in enumerate(sizes)
    )
    wires, spots = _wires(rows, edges, boxes, middles, tops, heights, row_of, labels)
    right = max((middles[each] + needed.get(each, 0.0) / 2 for each in middles), default=0.0)
    bottom = tops[-1] + heights[-1] if tops else 0.0
    return Layout(right, bottom, boxes, wires, spots)


def _loops(edges: Sequence[Ends], labels: Mapping[int, Size]) -> dict[int, float]:
    """Return how much room each box needs beside it for edges to itself."""
    room: dict[int, float] = {}
    for number, (source, target) in enumerate(edges):
        if source == target:
            label = labels.get(number, (0.0, 0.0))[0]
            room[source] = max(room.get(source, 0.0), LOOP + label + 8)
    return room


# ------------------------------------------------------------------------------------------------------------- down
def _down(
    rows: Rows, middles: Mapping[int, float], sizes: Sequence[Size], labels: Mapping[int, Size]
) -> tuple[list[float], list[float]]:
    """Return the top and the height of each row. Where edges go far across, there is more room between two rows."""
    slants: dict[int, float] = defaultdict(float)
    row_of = {each: number for number, row in enumerate(rows.rows) for each in row}
    for chain in rows.chains:
        for upper, lower in zip(chain.stops, chain.stops[1:], strict=False):
            at = row_of[upper]
            slants[at] = max(slants[at], abs(middles[upper] - middles[lower]))
    tops, heights, y = [], [], 0.0
    for number, row in enumerate(rows.rows):
        tall = [sizes[each][1] for each in row if each < len(sizes)]
        tall += [labels[rows.labels[each]][1] for each in row if each in rows.labels]
        height = max(tall, default=0.0)
        tops.append(y)
        heights.append(height)
        y += height + min(ROW_GAP + slants[number] * 0.09, 3 * ROW_GAP)
    return tops, heights


# ------------------------------------------------------------------------------------------------------------ wires
def _wires(
    rows: Rows,
    edges: Sequence[Ends],
    boxes: Sequence[Box],
    middles: Mapping[int, float],
    tops: Sequence[float],
    heights: Sequence[float],
    row_of: Mapping[int, int],
    labels: Mapping[int, Size],
) -> tuple[tuple[Wire, ...], dict[int, Point]]:
    ports = _ports(rows, boxes, middles)
    made: dict[int, Wire] = {}
    for chain in rows.chains:
        upper, *stations, lower = chain.stops
        start, end = ports[chain.edge, True], ports[chain.edge, False]
        above, under = row_of[upper], row_of[lower]
        points = [(start, boxes[upper].y + boxes[upper].height), (start, tops[above] + heights[above])]
        for station in stations:
            top = tops[row_of[station]]
            points += [(middles[station], top), (middles[station], top + heights[row_of[station]])]
        points += [(end, tops[under]), (end, boxes[lower].y)]
        made[chain.edge] = Wire(tuple(reversed(points) if chain.upwards else points))
    spots = {
        edge: (middles[station], tops[row_of[station]] + heights[row_of[station]] / 2)
        for station, edge in rows.labels.items()
    }
    for number, (source, target) in enumerate(edges):
        if source == target:
            box = boxes[source]
            right, out = box.x + box.width, box.x + box.width + LOOP
            low, high = box.y + box.height * 0.7, box.y + box.height * 0.3
            made[number] = Wire(((right, low), (out, low), (out, high), (right, high)))
            if number in labels:
                spots[number] = (out + 4 + labels[number][0] / 2, box.y + box.height / 2)
    return tuple(made[number] for number in range(len(edges))), spots


def _ports(rows: Rows, boxes: Sequence[Box], middles: Mapping[int, float]) -> dict[tuple[int, bool], float]:
    """Return the x where each edge leaves its upper box (True) and enters its lower one, near where it comes from."""
    sides: dict[tuple[int, bool], list[tuple[float, int]]] = defaultdict(list)
    for chain in rows.chains:
        sides[chain.stops[0], True].append((middles[chain.stops[1]], chain.edge))
        sides[chain.stops[-1], False].append((middles[chain.stops[-2]], chain.edge))
    ports = {}
    for (place, leaves), found in sides.items():
        box = boxes[place]
        inset = min(12.0, box.width / 4)
        first, last = box.x + inset, box.x + box.width - inset
        found.sort()
        step = min(THREAD, (last - first) / max(1, len(found) - 1))
        wanted = [min(max(x, first), last) for x, _ in found]
        found_at = spread(wanted, [1.0] * len(found), [step] * (len(found) - 1))
        shift = max(0.0, first - found_at[0]) - max(0.0, found_at[-1] - last)
        for (_, edge), x in zip(found, found_at, strict=True):
            ports[edge, leaves] = min(max(x + shift, first), last)
    return ports
