"""Redacts events before anything of them is written: what no run needs is not in the store, nor on the bus.

House rule: an event is stored once, for all that want it. So what one of them redacts is redacted for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from poundlock.codecs import dump
from poundlock.model.events import Event, new_event
from poundlock.model.patterns import type_matches
from poundlock.model.redaction import masks_of_paths
from poundlock.runtime.entries import Registered
from poundlock.sensitive import Masks, masked


class Redaction:
    """The paths of a runtime and of its workflows.

    Args:
        paths: of the runtime: redacted in every event.

    Attributes:
        active: whether there are any.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = tuple(paths)
        self._of_all = masks_of_paths(self.paths)
        self._of_workflow: dict[str, tuple[Masks, tuple[str, ...]]] = {}
        """By workflow: what it redacts, and the types and patterns of events that it wants."""
        self.active = bool(self._of_all)

    def add(self, entry: Registered, wanted: Iterable[str]) -> None:
        """Add a workflow that is being registered."""
        masks = masks_of_paths(entry.definition.redact)
        if masks:
            self._of_workflow[entry.id] = (masks, tuple(wanted))
            self.active = True

    def remove(self, workflow_id: str) -> None:
        """Remove a workflow that is deregistered."""
        self._of_workflow.pop(workflow_id, None)
        self.active = bool(self._of_all or self._of_workflow)

    def of_type(self, event: Event, text: str) -> tuple[Event, str]:
        """Return an event, and the JSON text of its payload, without what those redact that want its type."""
        masks = self._of_all
        for of_one, wanted in self._of_workflow.values():
            if any(type_matches(pattern, event.type) for pattern in wanted):
                masks = (*masks, *of_one)
        return _redacted(event, text, masks)

    def of_run(self, workflow_ids: Iterable[str], event: Event, text: str) -> tuple[Event, str]:
        """Return the same for runs of these workflows, whatever they declare."""
        masks = self._of_all
        for workflow_id in workflow_ids:
            if workflow_id in self._of_workflow:
                masks = (*masks, *self._of_workflow[workflow_id][0])
        return _redacted(event, text, masks)


def _redacted(event: Event, text: str, masks: Masks) -> tuple[Event, str]:
    payload: Any = masked(event.payload, masks)
    if payload == event.payload:
        return event, text
    changed = new_event(event.type, payload, event.id, event.time, event.source, event.key, event.headers)
    return changed, dump(payload)
