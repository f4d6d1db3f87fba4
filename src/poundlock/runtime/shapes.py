"""The JSON shapes that the command line and the web print; stable: fields are added, neither renamed nor removed.

Times are seconds since 1970 UTC; an absent value is null. docs/how-to/command-line.md lists them.
The shapes of runs, waits and errors are in `model/runs.py`.
"""

from __future__ import annotations

from typing import Any

from poundlock.model.events import Event
from poundlock.model.timeline import Timeline
from poundlock.runtime.receipts import Receipt


def event_shape(event: Event) -> dict[str, Any]:
    """Return an event without its payload."""
    return {"id": event.id, "type": event.type, "source": event.source, "time": event.time, "key": event.key}


def receipt_shape(number: int, receipt: Receipt) -> dict[str, Any]:
    """Return the receipt of a line of a feed."""
    return {"line": number, **receipt.to_dict()}


def timeline_shape(timeline: Timeline) -> dict[str, Any]:
    """Return a timeline."""
    return {"run_id": timeline.run_id, "entries": [entry.to_dict() for entry in timeline.entries]}
