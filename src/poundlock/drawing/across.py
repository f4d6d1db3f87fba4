"""The places of a graph from left to right: near what they belong to, lines straight, and nothing upon another."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from poundlock.drawing.layers import Rows

GAP: Final = 28.0
"""Between boxes of a row."""
THREAD: Final = 14.0
"""Between edges that run beside each other, or beside a box."""
ROUNDS, FEWEST, EFFORT = 32, 8, 60_000
"""How often each row is looked at: at most, at least, and the rows' places times rounds that large graphs get."""
STIFF: Final = 8.0
"""How much heavier the middle of a long edge is than its ends."""
_CLOSE: Final = 0.5


def across(rows: Rows, needed: Mapping[int, float], boxes: int, weights: Sequence[float]) -> dict[int, float]:
    """Return the x of the middle of each place, in the order of its row, and far enough apart.

    Args:
        rows: where everything stands.
        needed: the width of boxes and labels.
        boxes: how many of the places are boxes.
        weights: of the edges: the heavier, the straighter.
    """
    apart = [[_apart(one, other, needed, boxes) for one, other in itertools.pairwise(row)] for row in rows.rows]
    middles = _relaxed(rows, apart, boxes, weights)
    gaps = _Gaps(rows, apart, middles)
    lines = _lines(rows, weights)
    for _ in range(3):
        for line in lines:
            _straighten(line, gaps)
    _close_up(rows, gaps)
    return middles


def _apart(one: int, other: int, needed: Mapping[int, float], boxes: int) -> float:
    gap = GAP if one < boxes and other < boxes else THREAD
    return (needed.get(one, 0.0) + needed.get(other, 0.0)) / 2 + gap


def _relaxed(rows: Rows, apart: Sequence[Sequence[float]], boxes: int, weights: Sequence[float]) -> dict[int, float]:
    """Draw each place to its neighbours, row by row, again and again."""
    pulls: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for chain in rows.chains:
        for upper, lower in zip(chain.stops, chain.stops[1:], strict=False):
            stiff = weights[chain.edge] * (1.0 if min(upper, lower) < boxes else STIFF)
            pulls[upper].append((lower, stiff))
            pulls[lower].append((upper, stiff))
    row_of = {each: number for number, row in enumerate(rows.rows) for each in row}
    middles: dict[int, float] = {}
    for row, gaps in zip(rows.rows, apart, strict=True):
        x = -sum(gaps) / 2
        for each, gap in zip(row, [*gaps, 0.0], strict=False):  # a row may be empty
            middles[each] = x
            x += gap
    rounds = max(FEWEST, min(ROUNDS, EFFORT // max(1, len(middles))))
    for number in range(rounds):
        downwards = number % 2 == 0
        for at in range(len(rows.rows)) if downwards else reversed(range(len(rows.rows))):
            row = rows.rows[at]
            wanted, force = [], []
            for each in row:
                # At first from one side only, so that what is far away moves too; in the end from both.
                near = [
                    (middles[other], weight)
                    for other, weight in pulls[each]
                    if 4 * number >= 3 * rounds or (row_of[other] < at) is downwards
                ]
                total = sum(weight for _, weight in near)
                wanted.append(sum(x * weight for x, weight in near) / total if total else middles[each])
                force.append(total or 0.01)
            middles |= zip(row, spread(wanted, force, apart[at]), strict=True)
    return middles


def spread(wanted: Sequence[float], force: Sequence[float], apart: Sequence[float]) -> list[float]:
    """Return places as near to those wanted as can be, in order and far enough apart (least squares, by pooling)."""
    offset, offsets = 0.0, [0.0]
    for gap in apart:
        offset += gap
        offsets.append(offset)
    blocks: list[tuple[float, float, int]] = []
    """Mean, weight and length of neighbours that touch."""
    for x, weight, moved in zip(wanted, force, offsets, strict=False):
        mean, mass, length = x - moved, weight, 1
        while blocks and blocks[-1][0] > mean:
            before, heavy, count = blocks.pop()
            mean = (before * heavy + mean * mass) / (heavy + mass)
            mass, length = heavy + mass, count + length
        blocks.append((mean, mass, length))
    found = [mean for mean, _, length in blocks for _ in range(length)]
    return [x + moved for x, moved in zip(found, offsets, strict=False)]


# ------------------------------------------------------------------------------------------------------- straight lines
class _Gaps:
    """How far each place could move between its neighbours."""

    def __init__(self, rows: Rows, apart: Sequence[Sequence[float]], middles: dict[int, float]) -> None:
        self.middles = middles
        self._left: dict[int, tuple[int, float]] = {}
        self._right: dict[int, tuple[int, float]] = {}
        for row, gaps in zip(rows.rows, apart, strict=True):
            for one, other, gap in zip(row, row[1:], gaps, strict=False):
                self._left[other] = (one, gap)
                self._right[one] = (other, gap)

    def of(self, place: int) -> tuple[float, float]:
        """Return the least and the greatest x that a place can have."""
        least, greatest = float("-inf"), float("inf")
        if place in self._left:
            other, gap = self._left[place]
            least = self.middles[other] + gap
        if place in self._right:
            other, gap = self._right[place]
            greatest = self.middles[other] - gap
        return min(least, self.middles[place]), max(greatest, self.middles[place])

    def left_of(self, place: int) -> tuple[int, float] | None:
        """Return the neighbour on the left, and the distance it needs."""
        return self._left.get(place)


def _lines(rows: Rows, weights: Sequence[float]) -> list[list[int]]:
    """Return what should be one straight line: rows of boxes in order of the heaviest edges, then long edges."""
    heaviest = max(weights, default=0.0)
    after: dict[int, list[int]] = {}
    for chain in rows.chains:
        if weights[chain.edge] == heaviest and not chain.upwards and len(chain.stops) == 3:
            after.setdefault(chain.stops[0], chain.stops[1:])
    entered = {stops[-1] for stops in after.values()}
    lines = []
    for start in sorted(set(after) - entered):
        line, place = [start], start
        while place in after:
            line += after[place]
            place = after[place][-1]
        lines.append(line)
    lines.sort(key=len, reverse=True)
    inner = [chain.stops[1:-1] for chain in rows.chains if len(chain.stops) > 3]
    return [*lines, *sorted(inner, key=len, reverse=True)]


def _straighten(line: Sequence[int], gaps: _Gaps) -> None:
    """Give as many places of a line as can be the same x, one stretch after another."""
    stretch: list[int] = []
    least, greatest = float("-inf"), float("inf")
    for place in line:
        low, high = gaps.of(place)
        if max(low, least) > min(high, greatest):
            _level(stretch, least, greatest, gaps)
            stretch, least, greatest = [], float("-inf"), float("inf")
        stretch.append(place)
        least, greatest = max(low, least), min(high, greatest)
    _level(stretch, least, greatest, gaps)


def _level(stretch: Sequence[int], least: float, greatest: float, gaps: _Gaps) -> None:
    if stretch:
        mean = sum(gaps.middles[each] for each in stretch) / len(stretch)
        for each in stretch:
            gaps.middles[each] = min(max(mean, least), greatest)


def _close_up(rows: Rows, gaps: _Gaps) -> None:
    """Move what is connected to nothing on its left as near to it as it can stand."""
    for part in _parts(rows):
        rooms = []
        for place in part:
            left = gaps.left_of(place)
            if left is not None and left[0] not in part:
                rooms.append(gaps.middles[place] - gaps.middles[left[0]] - left[1])
        if rooms and min(rooms) > _CLOSE:
            room = min(rooms)
            for place in part:
                gaps.middles[place] -= room


def _parts(rows: Rows) -> Iterator[set[int]]:
    """Yield the places that are connected with each other, from left to right."""
    beside: dict[int, list[int]] = defaultdict(list)
    for chain in rows.chains:
        for upper, lower in zip(chain.stops, chain.stops[1:], strict=False):
            beside[upper].append(lower)
            beside[lower].append(upper)
    columns = sorted((number, at, each) for at, row in enumerate(rows.rows) for number, each in enumerate(row))
    seen: set[int] = set()
    for _, _, start in columns:
        if start in seen:
            continue
        part, queue = {start}, [start]
        while queue:
            new = set(beside[queue.pop()]) - part
            part |= new
            queue += new
        seen |= part
        yield part
