"""What a LocalBus uses of blinker: named signals with receivers, weak observers, muting.

House rules: blinker keeps the lists, delivering is ours, because `send_async` calls receivers one after another and
stops at the first that raises. There is one sender, the bus: blinker keeps a bucket per sender for ever.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from blinker import NamedSignal, Namespace

__all__ = ["EventSignal", "EventSignals"]


class _Ordered(dict[Hashable, None]):
    """As much of an ordered set as blinker asks of its `set_class`; a plain set would call receivers in any order."""

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
        """Return the signal of this name, making it at its first use."""
        found = self.get(name)
        if not isinstance(found, EventSignal):
            found = self[name] = EventSignal(name, doc)
        return found
