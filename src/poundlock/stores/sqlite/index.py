"""What a process keeps in memory of its store: only what follows from committed rows, and only as much as is active.

House rules: `Index` is read and changed on the event loop alone; the writer's thread hands it `Effects`, which are
applied when the batch they belong to is acknowledged. Waits themselves are not mirrored: ten thousand parked runs
leave a handful of shapes here.
"""

from __future__ import annotations

from collections.abc import Iterable

from poundlock.model.changes import Token
from poundlock.model.modes.decisions import Load

Pair = tuple[str, str]


class Effects:
    """What the changes of one transaction mean for the index.

    Attributes:
        loads: the loads that changed; None for one that is idle now.
        shapes: by how much the uses of each shape of wait keys grew.
    """

    __slots__ = ("loads", "shapes")

    def __init__(self) -> None:
        self.loads: dict[Pair, tuple[Load, Token] | None] = {}
        self.shapes: dict[str, int] = {}

    def count(self, shape: str, uses: int) -> None:
        """Note that `uses` more keys of this shape are in use."""
        self.shapes[shape] = self.shapes.get(shape, 0) + uses

    def merge(self, later: Effects) -> None:
        """Add what came after."""
        self.loads.update(later.loads)
        for shape, uses in later.shapes.items():
            self.count(shape, uses)


class Index:
    """Loads that are not idle, and the shapes of wait keys in use.

    Args:
        loads: as stored when the store was opened.
        shapes: likewise, with the number of their uses.
    """

    def __init__(self, loads: Iterable[tuple[Pair, tuple[Load, Token]]], shapes: Iterable[tuple[str, int]]) -> None:
        self.loads = dict(loads)
        self.shapes = dict(shapes)

    def apply(self, effects: Effects) -> None:
        """Take in what a transaction changed."""
        for pair, stored in effects.loads.items():
            if stored is None:
                self.loads.pop(pair, None)
            else:
                self.loads[pair] = stored
        for shape, uses in effects.shapes.items():
            now = self.shapes.get(shape, 0) + uses
            if now:
                self.shapes[shape] = now
            else:
                self.shapes.pop(shape, None)
