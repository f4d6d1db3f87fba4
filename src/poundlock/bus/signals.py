"""The parts of blinker that a LocalBus uses: named signals with receivers, weak observers, muting.

House rules: blinker keeps the lists of receivers, but the bus delivers, because `send_async` calls receivers one after
another and stops at the first that raises. The bus is the only sender, because blinker never removes a sender's bucket.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from blinker import NamedSignal, Namespace

__all__ = ["EventSignal", "EventSignals"]


class _Ordered(dict[Hashable, None]):
    """An ordered set with the methods that blinker's `set_class` needs; a plain set has no order of calls."""

    def add(self, item: Hashable) -> None:
        self[item] = None

    def discard(self, item: Hashable) -> None:
        self.pop(item, None)


class EventSignal(NamedSignal):
    """The receivers of one event type or pattern, in the order of their connection."""

    set_class: Any = _Ordered


class EventSignals(Namespace):
    """Event types and patterns, each with its signal."""

    def signal(self, name: str, doc: str | None = None) -> EventSignal:
        """Return the signal of this name, created on first use."""
        found = self.get(name)
        if not isinstance(found, EventSignal):
            found = self[name] = EventSignal(name, doc)
        return found
