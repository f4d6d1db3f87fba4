"""Checks of what a trigger says of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from poundlock.model.checks import Fault
from poundlock.model.definitions import Trigger
from poundlock.model.durations import seconds
from poundlock.model.quoting import shown
from poundlock.model.schedules import MISSED

LEAST: Final = 1.0
"""Seconds of the shortest interval: each fire is a commit."""
MOST: Final = 3650 * 86_400.0
"""Seconds of the longest interval, ten years."""


def schedule_faults(path: str, trigger: Trigger) -> Iterator[Fault]:
    """Yield the faults of a trigger's schedule."""
    missed: object = trigger.missed
    if trigger.cron is None and trigger.every is None:
        if trigger.tz is not None:
            yield f"{path}.tz", "only a trigger with cron= has a time zone: leave it out, or give cron="
        if not isinstance(missed, str) or missed != "once":
            yield f"{path}.missed", "only a trigger with cron= or every= can miss a time: leave it out, or give one"
        return
    if not isinstance(missed, str) or missed not in MISSED:
        yield f"{path}.missed", f"{shown(missed)} is not a rule: use {', '.join(MISSED)}"
    if trigger.every is not None:
        yield from _interval(path, trigger)
    if trigger.cron is not None:
        from poundlock.model.cron import cron_fault, zone_fault  # only cron triggers need its libraries

        for name, fault in (("cron", cron_fault(trigger.cron)), ("tz", zone_fault(trigger.tz))):
            if fault:
                yield f"{path}.{name}", fault


def _interval(path: str, trigger: Trigger) -> Iterator[Fault]:
    if trigger.cron is not None:
        yield f"{path}.every", "a trigger has cron= or every=, not both: make it two triggers"
    elif trigger.tz is not None:
        yield f"{path}.tz", "an interval is the same in each time zone: leave it out, or use cron="
    assert trigger.every is not None  # noqa: S101 - its caller looked
    try:
        every = seconds(trigger.every)
    except ValueError as error:
        yield f"{path}.every", str(error)
        return
    if not LEAST <= every <= MOST:
        yield f"{path}.every", f"{shown(trigger.every)} must be between one second and ten years"
