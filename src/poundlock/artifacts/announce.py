"""Notify the listeners and observers of a node. Costs nothing without listeners."""

from __future__ import annotations

from typing import Any, Literal

from poundlock.artifacts.events import ArtifactEvent, Change, EventName, call_safely
from poundlock.artifacts.node import Node, Slot


def announce(
    node: Node, event: EventName, key: str, *, duration: float | None = None, error: BaseException | None = None
) -> None:
    """Notify the listeners of an event."""
    if node.listeners is None:
        return
    happened = ArtifactEvent(event, key, node.name, duration, error)
    for listener in tuple(node.listeners.get(event, ())):
        call_safely(listener, happened)


def notify(
    slot: Slot,
    kind: Literal["built", "replaced", "error", "invalidated"],
    instance: Any = None,
    error: BaseException | None = None,
) -> None:
    """Notify the observer of an artifact."""
    observers = slot.node.observers
    observer = observers.get(slot.key) if observers is not None and slot.key is not None else None
    if observer is not None:
        observer.notify(Change(kind, slot.name, instance, error))
