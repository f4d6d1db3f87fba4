"""Transient: many runs at the same time, then a bounded queue, then drop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from poundlock.model.modes.decisions import Decision, Drop, Load, Queue, Start, check_mode
from poundlock.records import dataclass

_START = Start()
_QUEUE = Queue()


@dataclass(frozen=True, slots=True)
class Transient:
    """Up to `concurrency` runs at the same time; then a queue of up to `capacity`; then the event is dropped.

    The queue is ordered by the `priority` of triggers, where a point is worth a minute of waiting; else it is FIFO.

    Args:
        concurrency: runs that may hold a slot.
        capacity: events that may wait; None means no limit.
        key: payload path or function of the event; the rule then applies per key.
        holds_slot_while_paused: whether a paused or delayed run keeps its slot.
    """

    name: ClassVar[str] = "transient"
    by_priority: ClassVar[bool] = True

    concurrency: int = 10
    capacity: int | None = 100
    key: str | Callable[..., Any] | None = None
    holds_slot_while_paused: bool = False

    def __post_init__(self) -> None:
        check_mode(self)

    def accept(self, load: Load) -> Decision:
        """Decide about one event."""
        if load.active < self.concurrency and not load.queued and not load.returning:
            return _START
        if self.capacity is None or load.queued < self.capacity:
            return _QUEUE
        return Drop(f"{load.active} running and {load.queued} queued: capacity of {self.capacity} reached")

    @property
    def slots(self) -> int:
        """How many runs may be active at the same time."""
        return self.concurrency
