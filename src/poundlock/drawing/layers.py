"""The first half of arranging a graph: which row each box stands in, and in which order within it.

Boxes stand in even rows, labels of edges in the odd rows between them. Where an edge crosses a row it gets a *station*
there, a place of its own that no box can take. So no edge runs through a box, and no label covers anything.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from poundlock.records import dataclass, field

Ends = tuple[int, int]
"""Source and target of an edge, as places in the list of boxes."""
SWEEPS, FEWEST, EFFORT = 12, 4, 30_000
"""How often all rows are sorted: at most, at least, and the places times sweeps that large graphs get."""


@dataclass(slots=True)
class Chain:
    """An edge as it goes from row to row, downwards.

    Attributes:
        edge: its place in the list of edges.
        stops: the upper box, the stations, the lower box.
        upwards: whether the arrow goes from the lower box to the upper one.
    """

    edge: int
    stops: list[int]
    upwards: bool


@dataclass(slots=True)
class Rows:
    """Where everything stands.

    Attributes:
        rows: the places in each row, from left to right. Numbers below that of the boxes are boxes, others stations.
        chains: the edges; those from a box to itself are not among them.
        labels: station to the edge whose label stands there.
    """

    rows: list[list[int]] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)
    labels: dict[int, int] = field(default_factory=dict)


def arrange(boxes: int, edges: Sequence[Ends], labelled: Iterable[int] = (), order: Iterable[Ends] = ()) -> Rows:
    """Put boxes into rows, so that edges lead downwards as far as they can.

    Args:
        boxes: how many there are, in the order in which they are to be read.
        edges: between them.
        labelled: which of the edges have a label.
        order: further pairs of boxes, the first one above the second.
    """
    ranks = _ranks(boxes, [*edges, *order])
    made = Rows([[] for _ in range(2 * max(ranks, default=0) + 1)])
    for box, rank in enumerate(ranks):
        made.rows[2 * rank].append(box)
    labels = set(labelled)
    place = boxes
    for number, (source, target) in enumerate(edges):
        if source == target:
            continue
        upwards = ranks[source] > ranks[target]
        upper, lower = (target, source) if upwards else (source, target)
        between = range(2 * ranks[upper] + 1, 2 * ranks[lower])
        stations = [*range(place, place + len(between))]
        for row, station in zip(between, stations, strict=True):
            made.rows[row].append(station)
        place += len(stations)
        if number in labels:
            made.labels[stations[-1] if upwards else stations[0]] = number  # beside the box where the arrow begins
        made.chains.append(Chain(number, [upper, *stations, lower], upwards))
    _order(made)
    return made


# ------------------------------------------------------------------------------------------------------------ ranks
def _ranks(boxes: int, edges: Sequence[Ends]) -> list[int]:
    """Return the row of each box: below all that lead to it, apart from loops."""
    leads: dict[int, list[int]] = defaultdict(list)
    for source, target in edges:
        leads[source].append(target)
    down: set[Ends] = set()
    for source, target in edges:
        # A loop is turned around at the edge that leads back in the order of reading: what remains has no loop.
        back = target < source and _reaches(leads, target, source)
        if source != target:
            down.add((target, source) if back else (source, target))
    below: dict[int, list[int]] = defaultdict(list)
    above = [0] * boxes
    for source, target in sorted(down):
        below[source].append(target)
        above[target] += 1
    ranks, waiting = [0] * boxes, list(above)
    ready = deque(box for box in range(boxes) if not waiting[box])
    order = []
    while ready:
        box = ready.popleft()
        order.append(box)
        for lower in below[box]:
            ranks[lower] = max(ranks[lower], ranks[box] + 1)
            waiting[lower] -= 1
            if not waiting[lower]:
                ready.append(lower)
    for box in reversed(order):
        if not above[box] and below[box]:  # what begins something stands right above it
            ranks[box] = min(ranks[lower] for lower in below[box]) - 1
    return ranks


def _reaches(leads: dict[int, list[int]], start: int, goal: int) -> bool:
    seen, queue = {start}, [start]
    while queue:
        for target in leads[queue.pop()]:
            if target == goal:
                return True
            if target not in seen:
                seen.add(target)
                queue.append(target)
    return False


# ------------------------------------------------------------------------------------------------------------ order
def _order(made: Rows) -> None:
    """Sort each row so that few edges cross: by the middle of the neighbours, downwards and upwards in turn."""
    above: dict[int, list[int]] = defaultdict(list)
    below: dict[int, list[int]] = defaultdict(list)
    for chain in made.chains:
        for upper, lower in zip(chain.stops, chain.stops[1:], strict=False):
            below[upper].append(lower)
            above[lower].append(upper)
    best = [list(row) for row in made.rows]
    fewest = _crossings(best, below)
    places = sum(map(len, made.rows))
    for sweep in range(max(FEWEST, min(SWEEPS, EFFORT // max(1, places)))):
        if not fewest:
            break
        downwards = sweep % 2 == 0
        neighbours = above if downwards else below
        numbers = range(1, len(made.rows)) if downwards else range(len(made.rows) - 2, -1, -1)
        for number in numbers:
            beside = {place: at for at, place in enumerate(made.rows[number - 1 if downwards else number + 1])}
            own = {place: at for at, place in enumerate(made.rows[number])}
            made.rows[number].sort(key=lambda each: (_middle(neighbours[each], beside, own[each]), own[each]))
        crossings = _crossings(made.rows, below)
        if crossings < fewest:
            best, fewest = [list(row) for row in made.rows], crossings
    made.rows = best


def _middle(neighbours: list[int], beside: dict[int, int], own: int) -> float:
    found = [beside[each] for each in neighbours if each in beside]
    return sum(found) / len(found) if found else own


def _crossings(rows: Sequence[Sequence[int]], below: dict[int, list[int]]) -> int:
    total = 0
    for upper, lower in itertools.pairwise(rows):
        at = {place: number for number, place in enumerate(lower)}
        ends = [end for place in upper for end in sorted(at[each] for each in below[place])]
        total += _inversions(ends)
    return total


def _inversions(values: list[int]) -> int:
    """Count the pairs that stand the wrong way round, by merging."""
    if len(values) < 2:
        return 0
    half = len(values) // 2
    left, right = values[:half], values[half:]
    total = _inversions(left) + _inversions(right)
    left.sort()
    right.sort()
    place = 0
    for value in right:
        while place < len(left) and left[place] <= value:
            place += 1
        total += len(left) - place
    return total
