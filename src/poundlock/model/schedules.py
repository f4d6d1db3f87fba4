"""Time triggers: when they fire, and what becomes of times that were missed.

House rules: a schedule is a pure function of time, the same in every process; the clock is read by its caller. A time
that is due is decided once: the row of its trigger says up to where that has been done.
"""

from __future__ import annotations

from math import floor
from typing import Final, Literal, Protocol

from poundlock.model.durations import Duration, seconds
from poundlock.records import NamedTuple

TIME_EVENT: Final = "poundlock.cron"
"""Type of the event that a time trigger starts its runs with."""
CRON_ID: Final = "cron"
EVERY_ID: Final = "every"
"""Ids of time triggers that are given none."""
Missed = Literal["skip", "once", "all"]
MISSED: Final = ("skip", "once", "all")
GRACE: Final = 60.0
"""Seconds after its time in which a fire is in time. A system clock notices within a minute that it was set."""
COUNTED: Final = 1000
"""Passed times that are counted one by one, at most: a schedule by the minute has half a million in a year."""
ASTRAY: Final = 86_400.0
"""Seconds that a row may be ahead of the clock: a clock that is set back further was wrong before."""


class ScheduleRow(NamedTuple):
    """What a store keeps of a time trigger.

    Attributes:
        rule: its schedule as text; with another one the trigger begins anew.
        upto: each of its times until then is decided, in seconds since 1970.
    """

    rule: str
    upto: float


class ScheduleMove(NamedTuple):
    """A change of the row of a time trigger. Must hold: the row is `expect`, None for no row (`ScheduleMoved`)."""

    workflow_id: str
    trigger_id: str
    expect: ScheduleRow | None
    row: ScheduleRow


class Schedule(Protocol):
    """The times of a trigger."""

    rule: str
    """The schedule as text: two schedules with the same text have the same times."""

    def after(self, time: float) -> float | None:
        """Return the first time after this one; None if there is none."""

    def latest(self, time: float) -> float | None:
        """Return the last time up to this one, itself included; None if there is none."""

    def count(self, after: float, until: float) -> int:
        """Return how many times there are after one and up to another; it may stop at `COUNTED`."""


class Interval:
    """Every so many seconds, counted from 1970-01-01 00:00 UTC: so a restart moves nothing, and processes agree."""

    def __init__(self, every: Duration) -> None:
        self.every = seconds(every)
        self.rule = f"every {self.every!r}"

    def after(self, time: float) -> float | None:
        """Return the first multiple after a time."""
        number = floor(time / self.every) + 1
        while number * self.every <= time:  # the division was rounded
            number += 1
        return number * self.every

    def latest(self, time: float) -> float | None:
        """Return the last multiple up to a time."""
        number = floor(time / self.every)
        while number * self.every > time:
            number -= 1
        while (number + 1) * self.every <= time:  # the quotient was rounded
            number += 1
        return number * self.every

    def count(self, after: float, until: float) -> int:
        """Return how many multiples there are."""
        return max(0, floor(until / self.every) - floor(after / self.every))


def time_id(cron: object, every: object) -> str | None:
    """Return the id of a trigger that has no event and is given none; None if it has no time either."""
    return CRON_ID if cron is not None else EVERY_ID if every is not None else None


class Due(NamedTuple):
    """What to do about the times of a trigger that have come.

    Attributes:
        time: fire for this one; None: for none.
        row: what its row then says.
        skipped: how many times are passed over.
    """

    time: float | None
    row: ScheduleRow
    skipped: int


def due(schedule: Schedule, missed: Missed, row: ScheduleRow, now: float) -> Due | None:
    """Return what to do next about the times that have come; None if there are none.

    One after another with "all". Else the last one fires for all of them; with "skip" only if it is not late.
    """
    if missed == "all":
        first = schedule.after(row.upto)
        return None if first is None or first > now else Due(first, ScheduleRow(row.rule, first), 0)
    last = schedule.latest(now)
    if last is None or last <= row.upto:
        return None
    found = schedule.count(row.upto, last)
    fires = missed == "once" or now - last <= GRACE
    return Due(last if fires else None, ScheduleRow(row.rule, last), found - 1 if fires else found)


def begun(rule: str, row: ScheduleRow | None, now: float) -> ScheduleRow:
    """Return the row of a trigger that is looked at now: the one that there is, or one that begins now.

    It begins now if it is new, if its schedule is another one, and if the clock went far ahead for a while: else the
    trigger would be silent until the clock is there again.
    """
    return row if row is not None and row.rule == rule and row.upto <= now + ASTRAY else ScheduleRow(rule, now)
