"""Serialized: one at a time, in the order of acceptance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from poundlock.model.modes.decisions import Decision, Drop, Load, Queue, Start, check_mode
from poundlock.records import dataclass


@dataclass(frozen=True, slots=True)
class Serialized:
    """One run at a time, strictly first in, first out.

    Args:
        capacity: events that may wait; None means no limit. Further events are dropped.
        key: payload path or function of the event; the rule then applies per key.
        holds_slot_while_paused: whether a paused or delayed run keeps its slot.
    """

    name: ClassVar[str] = "serialized"
    by_priority: ClassVar[bool] = False
    slots: ClassVar[int] = 1

    capacity: int | None = None
    key: str | Callable[..., Any] | None = None
    holds_slot_while_paused: bool = True

    def __post_init__(self) -> None:
        check_mode(self)

    def accept(self, load: Load) -> Decision:
        """Decide about one event."""
        if load.idle:
            return Start()
        if self.capacity is None or load.queued < self.capacity:
            return Queue()
        return Drop(f"{load.queued} queued: capacity of {self.capacity} reached")
