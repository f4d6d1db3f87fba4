"""`redact=`: paths of payloads that no run needs, and what in a definition does need them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from poundlock.model.checks import Fault
from poundlock.model.conditions import Condition, StateRef
from poundlock.model.definitions import Trigger, Wait
from poundlock.model.quoting import shown
from poundlock.sensitive import NO_MASKS, Masks, hides, masks_at


def redact_faults(paths: Any) -> Iterator[Fault]:
    """Yield what is wrong with the paths themselves."""
    for place, path in enumerate(paths):
        if not isinstance(path, str) or not path or any(not part for part in path.split(".")):
            yield (
                f"redact.{place}",
                f"{shown(path)} is not a path of a payload: write 'card.number', or 'items.*.pin' for each element",
            )


def masks_of_paths(paths: Iterable[Any]) -> Masks:
    """Return the masks of these paths; those that are wrong are left out."""
    valid = [path.split(".") for path in paths if isinstance(path, str) and path]
    return masks_at(valid) if valid else NO_MASKS


def needed_faults(
    triggers: Mapping[str, Trigger], mode_key: Any, waits: Iterable[tuple[str, Wait]], masks: Masks
) -> Iterator[Fault]:
    """Yield what compares, correlates, counts or keys on a redacted path: it would see "***" there, or never match.

    Args:
        triggers: of the workflow, by id.
        mode_key: key of its mode.
        waits: its declared waits, with their paths in the definition.
        masks: what is redacted.
    """
    if not masks:
        return
    said = "is redacted, so every event has the same value there: use another path, or leave it out of redact="
    for name, trigger in triggers.items():
        if isinstance(trigger.key, str) and hides(masks, trigger.key):
            yield f"triggers.{name}.key", f"'{trigger.key}' {said}"
        for condition in () if callable(trigger.when) else trigger.when:
            if hides(masks, condition.field):
                yield f"triggers.{name}.when", f"'{condition.field}' {said}"
    if isinstance(mode_key, str) and hides(masks, mode_key):
        yield "mode.key", f"'{mode_key}' {said}"
    for path, wait in waits:
        for field in wait.correlate or {}:
            if hides(masks, field):
                yield f"{path}.correlate", f"'{field}' {said}"
        if isinstance(wait.distinct, str) and hides(masks, wait.distinct):
            yield f"{path}.distinct", f"'{wait.distinct}' {said}"
        for condition in wait.where:
            if isinstance(condition, Condition) and hides(masks, condition.field):
                yield f"{path}.where", f"'{condition.field}' {said}"


def shown_faults(
    triggers: Mapping[str, Trigger], mode_key: Any, waits: Iterable[tuple[str, Wait]], masks: Masks
) -> Iterator[Fault]:
    """Yield what would show a sensitive value: keys are part of lists, and what a wait compares with is part of it."""
    if not masks:
        return
    said = "is sensitive, and would be shown in lists of runs: use another value, such as a digest of it"
    keys = [(f"triggers.{name}.key", trigger.key) for name, trigger in triggers.items()]
    for path, key in [*keys, ("mode.key", mode_key)]:
        if isinstance(key, str) and hides(masks, key):
            yield path, f"'{key}' {said}"
    for path, wait in waits:
        if isinstance(wait.distinct, str) and hides(masks, wait.distinct):
            yield f"{path}.distinct", f"'{wait.distinct}' {said}"
        values = [(f"{path}.correlate", value) for value in (wait.correlate or {}).values()]
        values += [(f"{path}.where", each.value) for each in wait.where if isinstance(each, Condition)]
        for at, value in values:
            if isinstance(value, StateRef) and isinstance(value.path, str) and hides(masks, value.path):
                yield at, f"'{value.path}' {said}"
