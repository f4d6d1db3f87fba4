"""Exclusive: one at a time; a second event is rejected, or the latest one may wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from poundlock.model.modes.decisions import Decision, Load, Queue, Reject, Start, check_mode
from poundlock.records import dataclass


@dataclass(frozen=True, slots=True)
class Exclusive:
    """At most one active run.

    Args:
        on_busy: "reject" the event, or "queue_single": one event may wait; a newer one replaces it, and the replaced
            one ends aborted.
        key: payload path or function of the event; the rule then applies per key.
        holds_slot_while_paused: whether a paused or delayed run keeps its slot.
    """

    name: ClassVar[str] = "exclusive"
    by_priority: ClassVar[bool] = False
    slots: ClassVar[int] = 1
    CHOICES: ClassVar[tuple[str, ...]] = ("reject", "queue_single")

    on_busy: Literal["reject", "queue_single"] = "reject"
    key: str | Callable[..., Any] | None = None
    holds_slot_while_paused: bool = True

    def __post_init__(self) -> None:
        check_mode(self)

    def accept(self, load: Load) -> Decision:
        """Decide about one event."""
        if load.idle:
            return Start()
        if self.on_busy == "reject":
            return Reject(load.busy)
        return Queue(supersedes=load.tail_id if load.queued else None)
