"""Cron expressions in a time zone: the times of an expression are local times, and each of them comes once.

The calendar is cronsim's, on local times without a zone; what a local time means is decided here, for every expression
in the same way. (With a zone, cronsim follows Debian's cron: expressions with `*` then also fire in the hour that is
repeated, and others do not.)
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from itertools import islice
from math import floor
from typing import Any, Final

from poundlock.errors import suggest
from poundlock.model.definitions import Trigger
from poundlock.model.quoting import shown
from poundlock.model.schedules import COUNTED, Interval, Schedule

_1970: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECOND: Final = dt.timedelta(seconds=1)
_UTC: Final = "UTC"


class Cron:
    """The times of a cron expression in a zone.

    Args:
        expression: five fields, or six with seconds first; see `cron_fault`.
        zone: name of the zone; see `zone_fault`.
    """

    def __init__(self, expression: str, zone: str) -> None:
        self.expression = " ".join(expression.split())
        self.rule = f"cron {self.expression} {zone}"
        self._zone = _zone(zone)

    def after(self, time: float) -> float | None:
        """Return the first time after this one."""
        return next(self._times(floor(time)), None)

    def latest(self, time: float) -> float | None:
        """Return the last time up to this one."""
        until = floor(time)
        local = self._local(until)
        if local is None:
            return None
        first, repeated = _plain(local), dt.timedelta(0)
        if local.fold:  # clocks were set back: they have shown this before, and up to an hour more
            repeated = dt.timedelta(seconds=until - self._moment(first))
        for found in _matches(self.expression, first + repeated + _SECOND, back=True):
            if (moment := self._moment(found)) <= until:
                return float(moment)
        return None

    def count(self, after: float, until: float) -> int:
        """Return how many times there are after one and up to another, at most `COUNTED`."""
        count = 0
        for moment in islice(self._times(floor(after)), COUNTED):
            if moment > until:
                break
            count += 1
        return count

    def _times(self, after: int) -> Iterator[float]:
        """Yield the times after one."""
        local = self._local(after)
        if local is None:
            return
        for found in _matches(self.expression, _plain(local)):
            moment = self._moment(found)
            if moment > after:  # else it came already: clocks were set back, or have passed over it
                yield float(moment)
                after = moment

    def _local(self, time: int) -> dt.datetime | None:
        """Return a time as clocks of the zone show it; None if no datetime can hold it."""
        try:
            return (_1970 + dt.timedelta(seconds=time)).astimezone(self._zone)
        except OverflowError:
            return None

    def _moment(self, local: dt.datetime) -> int:
        """Return when clocks first show a local time; if they are set forward over it, the moment when they are."""
        early = _since_1970(local.replace(tzinfo=self._zone))
        if self._shown(early) == local:
            return early
        # Clocks are set forward, between the two readings of a local time that does not exist.
        before, behind = _since_1970(local.replace(tzinfo=self._zone, fold=1)), early
        while behind - before > 1:
            middle = (before + behind) // 2
            if self._shown(middle) < local:
                before = middle
            else:
                behind = middle
        return behind

    def _shown(self, time: int) -> dt.datetime:
        return _plain((_1970 + dt.timedelta(seconds=time)).astimezone(self._zone))


def schedule_of(trigger: Trigger) -> Schedule | None:
    """Return the schedule of a trigger that was checked; None if it has none."""
    if trigger.cron is not None:
        return Cron(trigger.cron, zone_name(trigger.tz))
    return None if trigger.every is None else Interval(trigger.every)


def cron_fault(expression: object) -> str:
    """Return what is wrong with a cron expression; "" if nothing is."""
    if not isinstance(expression, str):
        return f"{shown(expression)} is not a cron expression: write five fields, such as '0 6 * * *'"
    try:
        first = next(_matches(expression, dt.datetime(2000, 1, 1)), None)  # noqa: DTZ001 - a local time
    except Exception as error:  # noqa: BLE001 - cronsim may raise anything for a text that is none
        said = str(error) or "it cannot be read"
        return f"{shown(expression)} is not a cron expression: {said}; write five fields, such as '0 6 * * *'"
    return "" if first is not None else f"{shown(expression)} never fires: no date is like that"


def zone_fault(tz: object) -> str:
    """Return what is wrong with the name of a time zone; "" if nothing is."""
    name = zone_name(tz)
    try:
        _zone(name)
    except Exception:  # noqa: BLE001 - zoneinfo raises many things for a text that is no name
        from zoneinfo import available_timezones

        near = suggest(name, sorted(available_timezones())) if isinstance(name, str) else "give its name"
        return f"{shown(tz)} is not a time zone: {near}"
    return ""


def zone_name(tz: Any) -> Any:
    """Return the name of a zone: what was given, or the name of a `ZoneInfo`, or UTC for none."""
    return _UTC if tz is None else getattr(tz, "key", tz)


def _zone(name: str) -> dt.tzinfo:
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def _matches(expression: str, start: dt.datetime, *, back: bool = False) -> Iterator[dt.datetime]:
    """Return the local times of an expression after one, or before it; it ends where there are none for 50 years."""
    from cronsim import CronSim

    found = CronSim(expression, start, reverse=back)
    while True:
        try:
            local = next(found)
        except (StopIteration, OverflowError):  # no date is left
            return
        yield local


def _plain(local: dt.datetime) -> dt.datetime:
    """Return a local time without its zone."""
    return local.replace(tzinfo=None, fold=0)


def _since_1970(time: dt.datetime) -> int:
    return (time - _1970) // _SECOND
