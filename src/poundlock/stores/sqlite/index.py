"""The part of a store that a process keeps in memory: derived from committed rows, and only for active runs.

House rules: `Index` is read and changed only on the event loop; the writer's thread passes it `Effects`, which are
applied when their batch is acknowledged. Waits themselves are not copied: ten thousand paused runs need only a few
shapes here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from poundlock.model.changes import Token
from poundlock.model.modes.decisions import Load

Pair = tuple[str, str]
OUTBOX: Final = "outbox"
DEAD: Final = "dead_letters"
"""Names under which the rows of the outbox are counted."""
HOLDS: Final = "holds"
HELD: Final = "held"
"""Names under which holds, and the events in them, are counted."""


class Effects:
    """The changes of the index by one transaction.

    Attributes:
        loads: the loads that changed; None for one that is idle now.
        shapes: the change in the number of uses of each shape of wait keys.
        counts: the change in the number of runs of each status, and of rows of some tables.
    """

    __slots__ = ("counts", "loads", "shapes")

    def __init__(self) -> None:
        self.loads: dict[Pair, tuple[Load, Token] | None] = {}
        self.shapes: dict[str, int] = {}
        self.counts: dict[str, int] = {}

    def tally(self, name: str, more: int) -> None:
        """Count `more` runs of a status, or rows of a table."""
        self.counts[name] = self.counts.get(name, 0) + more

    def count(self, shape: str, uses: int) -> None:
        """Count `uses` more keys of this shape."""
        self.shapes[shape] = self.shapes.get(shape, 0) + uses

    def merge(self, later: Effects) -> None:
        """Add later effects."""
        self.loads.update(later.loads)
        for shape, uses in later.shapes.items():
            self.count(shape, uses)
        for name, more in later.counts.items():
            self.tally(name, more)


class Index:
    """Loads that are not idle, and the shapes of wait keys in use.

    Args:
        loads: as stored when the store was opened.
        shapes: also, with the number of their uses.
        counts: also, of rows; only those of the outbox and of holds are kept.

    Attributes:
        undelivered: how many events are in the outbox, and how many are dead letters.
        holding: how many holds there are.
        returning: the keys of the loads in which resumed runs wait for a slot.
    """

    def __init__(
        self,
        loads: Iterable[tuple[Pair, tuple[Load, Token]]],
        shapes: Iterable[tuple[str, int]],
        counts: Mapping[str, int] | None = None,
    ) -> None:
        self.loads = dict(loads)
        self.returning = dict.fromkeys(pair for pair, (load, _) in self.loads.items() if load.returning)
        self.shapes = dict(shapes)
        counts = counts or {}
        self.undelivered = counts.get(OUTBOX, 0), counts.get(DEAD, 0)
        self.holding = counts.get(HOLDS, 0)

    def apply(self, effects: Effects) -> None:
        """Apply the effects of a transaction."""
        counts = effects.counts
        if OUTBOX in counts or DEAD in counts:
            due, dead = self.undelivered
            self.undelivered = due + counts.get(OUTBOX, 0), dead + counts.get(DEAD, 0)
        if HOLDS in counts:
            self.holding += counts[HOLDS]
        returning = self.returning
        for pair, stored in effects.loads.items():
            if stored is None:
                self.loads.pop(pair, None)
            else:
                self.loads[pair] = stored
                if stored[0].returning:
                    returning[pair] = None
                    continue
            if returning:
                returning.pop(pair, None)
        for shape, uses in effects.shapes.items():
            now = self.shapes.get(shape, 0) + uses
            if now:
                self.shapes[shape] = now
            else:
                self.shapes.pop(shape, None)
