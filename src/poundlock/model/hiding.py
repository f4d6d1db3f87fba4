"""Timelines, states and results as they are shown: without the values that are shown nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from poundlock.model.timeline_entry import KEPT, TimelineEntry
from poundlock.sensitive import Masks, concealed, masked, masks_at, texts_at

NOTED: Final = "state:sensitive"
"""Type of the entry that says, for readers that do not know the workflow, where hidden values are in the state."""


def notes(entry: TimelineEntry) -> bool:
    """Whether an entry says where hidden values are."""
    return entry.type == NOTED


def noted_masks(entries: Iterable[TimelineEntry]) -> Masks:
    """Return where a run's own timeline says that values are hidden."""
    paths: list[Sequence[str]] = []
    for entry in entries:
        if entry.type == NOTED and isinstance(entry.payload, dict):
            paths += entry.payload.get("paths", ())
    return masks_at(paths) if paths else ()


def hidden_entries(
    entries: Sequence[TimelineEntry], masks: Masks, known: Iterable[str] = ()
) -> tuple[list[TimelineEntry], set[str]]:
    """Return entries as they are shown, and the texts that were hidden in them.

    Args:
        entries: of one run, in order.
        masks: where hidden values are in its state.
        known: further texts to hide.
    """
    if not masks:
        return list(entries), set()
    secrets = set(known)
    for entry in entries:
        if entry.patch is not None:
            secrets |= texts_at(entry.patch, masks)
        if entry.type == KEPT:
            secrets |= texts_at(_kept(entry.payload), masks)
        elif _quotes(entry.payload):
            secrets |= texts_at(entry.payload["payload"], masks)
    shown = []
    for entry in entries:
        payload = entry.payload
        if entry.type == KEPT:
            payload = next(map(list, masked(_kept(payload), masks).items()), payload)
        elif _quotes(payload):
            payload = {**payload, "payload": masked(payload["payload"], masks)}
        payload = concealed(payload, secrets)
        patch = entry.patch if entry.patch is None else concealed(masked(entry.patch, masks), secrets)
        shown.append(replace(entry, payload=payload, patch=patch))
    return shown, secrets


def _kept(payload: Any) -> dict[str, Any]:
    """Return what a step keeps as a mapping."""
    return {payload[0]: payload[1]} if isinstance(payload, list) and len(payload) == 2 else {}


def _quotes(payload: Any) -> bool:
    """Whether an entry has an event's payload in its own, as that of a refused event does."""
    return isinstance(payload, dict) and isinstance(payload.get("payload"), dict)


def hidden_data(data: Any, masks: Masks, secrets: set[str]) -> Any:
    """Return a state, an event's payload or a result as it is shown."""
    return concealed(masked(data, masks), secrets) if masks else data
