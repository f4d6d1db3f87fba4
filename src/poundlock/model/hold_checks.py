"""Checks of a trigger's holds: each yields what is wrong, with the path of the value. None raises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from poundlock.model.checks import Fault, duration_faults, whole_faults
from poundlock.model.definitions import Batch, Debounce, Throttle, Trigger
from poundlock.model.durations import seconds
from poundlock.model.quoting import shown

_KINDS: Final = ("debounce", "throttle", "batch", "delay")
LARGEST_BATCH: Final = 10_000
"""A batch is decided in one commit, and its events are one state."""


def hold_faults(path: str, trigger: Trigger) -> Iterator[Fault]:
    """Yield what is wrong with the holds of a trigger."""
    given: dict[str, Any] = {kind: getattr(trigger, kind) for kind in _KINDS if getattr(trigger, kind) is not None}
    for kind in list(given)[1:]:
        yield f"{path}.{kind}", f"there is {next(iter(given))}= already, and a trigger has one hold: leave out one"
    if given and trigger.event is None and trigger.cron is None and trigger.every is None:
        yield (
            f"{path}.{next(iter(given))}",
            "holds events, and this trigger is for none: name the event type, or a time",
        )
    for kind, value in given.items():
        match value:
            case Debounce() if kind == "debounce":
                yield from _time_faults(f"{path}.debounce.quiet", value.quiet)
                yield from _longest_faults(f"{path}.debounce.longest", value)
            case Throttle() if kind == "throttle":
                yield from whole_faults(f"{path}.throttle.n", value.n, 1)
                yield from _time_faults(f"{path}.throttle.per", value.per)
            case Batch() if kind == "batch":
                yield from whole_faults(f"{path}.batch.n", value.n, 1, LARGEST_BATCH)
                yield from _time_faults(f"{path}.batch.within", value.within)
            case _ if kind == "batch":
                yield f"{path}.batch", f"{shown(value)} is not a Batch: Batch(n, within=)"
            case _:
                yield from _time_faults(f"{path}.{kind}", value)


def _longest_faults(path: str, given: Debounce) -> Iterator[Fault]:
    if given.longest is None:
        return
    found = list(_time_faults(path, given.longest))
    yield from found
    if not found and not list(duration_faults(path, given.quiet)) and seconds(given.longest) < seconds(given.quiet):
        yield path, f"{shown(given.longest)} is shorter than the quiet time, so that would never count"


def _time_faults(path: str, value: Any) -> Iterator[Fault]:
    found = [(path, "a time is missing: give a duration, such as '2s'")] if value is None else []
    found += duration_faults(path, value)
    yield from found
    if not found and not seconds(value):
        yield path, "holds for no time at all: give a duration above zero, or leave it out"
