"""SingletonLoop: one long-lived run; a second event is dropped, signalled to it, or replaces it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from poundlock.model.modes.decisions import Decision, Drop, Load, Replace, Signal, Start, check_mode
from poundlock.records import dataclass


@dataclass(frozen=True, slots=True)
class SingletonLoop:
    """At most one active run.

    Args:
        on_busy: "drop" the event, "signal" its patch to the active run, or "replace" that run: it is aborted, and the
            new one starts when its clean-up is done. Of several replacements that wait, only the latest starts.
        key: payload path or function of the event; the rule then applies per key.
        holds_slot_while_paused: whether a paused or delayed run keeps its slot.
    """

    name: ClassVar[str] = "singleton"
    by_priority: ClassVar[bool] = False
    slots: ClassVar[int] = 1
    CHOICES: ClassVar[tuple[str, ...]] = ("drop", "signal", "replace")

    on_busy: Literal["drop", "signal", "replace"] = "drop"
    key: str | Callable[..., Any] | None = None
    holds_slot_while_paused: bool = True

    def __post_init__(self) -> None:
        check_mode(self)

    def accept(self, load: Load) -> Decision:
        """Decide about one event."""
        if load.idle:
            return Start()
        if self.on_busy == "drop" or load.active_id is None:
            return Drop(load.busy)
        if self.on_busy == "signal":
            return Signal(load.active_id)
        return Replace(load.active_id, load.tail_id if load.queued else None)
