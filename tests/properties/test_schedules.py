"""Cron against an interpreter that looks at a clock on the wall each minute."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from poundlock.model.cron import Cron
from poundlock.model.schedules import GRACE, Interval, ScheduleRow, due

MINUTE = dt.timedelta(minutes=1)
RANGES = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 6)}


@st.composite
def fields(draw, name):
    """A field as text, and the values it stands for."""
    low, high = RANGES[name]
    values = st.integers(low, high)
    kind = draw(st.sampled_from(["*", "one", "list", "range", "step"]))
    if kind == "one":
        one = draw(values)
        return str(one), {one}
    if kind == "list":
        several = draw(st.sets(values, min_size=2, max_size=4))
        return ",".join(map(str, sorted(several))), several
    if kind == "range":
        first, last = sorted((draw(values), draw(values)))
        return f"{first}-{last}", set(range(first, last + 1))
    if kind == "step":
        step = draw(st.integers(2, 20))
        return f"*/{step}", set(range(low, high + 1, step))
    return "*", set(range(low, high + 1))


@st.composite
def expressions(draw):
    minute, hour = draw(fields("minute")), draw(fields("hour"))
    day = draw(st.sampled_from([("*", None)]) | fields("day"))
    month = draw(st.just(("*", None)) | st.just(("*/1", None)))
    weekday = draw(st.sampled_from([("*", None)]) | fields("weekday"))
    text = " ".join(part[0] for part in (minute, hour, day, month, weekday))

    def matches(local):
        on_day = day[1] is None or local.day in day[1]
        on_weekday = weekday[1] is None or local.isoweekday() % 7 in weekday[1]
        stars = day[0].startswith("*") or weekday[0].startswith("*")
        dated = (on_day and on_weekday) if stars else (on_day or on_weekday)
        return dated and local.hour in hour[1] and local.minute in minute[1]

    return text, matches


PLACES = st.sampled_from(
    [
        ("Europe/Berlin", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-10-25T01:00"),
        ("America/New_York", "2026-03-08T07:00"),
        ("America/New_York", "2026-11-01T06:00"),
        ("Australia/Lord_Howe", "2026-04-04T15:00"),
        ("Australia/Lord_Howe", "2026-10-03T15:30"),
        ("Pacific/Apia", "2011-12-30T10:00"),
        ("America/St_Johns", "2006-10-29T02:31"),
        ("Africa/Casablanca", "2026-02-15T02:00"),
        ("Asia/Kolkata", "2026-06-01T00:00"),
        ("UTC", "2026-12-31T23:00"),
    ]
)


def on_the_wall(matches, zone, first, last):
    """The minutes at which somebody who looks at a clock each minute finds that the time has come."""
    found, shown = [], None
    now = first - dt.timedelta(days=2)
    top = None  # the latest local time that the clock has shown
    while now <= last:
        shown = now.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
        if top is None:
            top = shown - MINUTE
        come = False
        while top < shown:  # one by one, also those the clock has passed over
            top += MINUTE
            come = come or matches(top)
        if come and now > first:
            found.append(now.timestamp())
        now += MINUTE
    return found


@settings(max_examples=60)
@given(expression=expressions(), place=PLACES, back=st.integers(1, 600), ahead=st.integers(1, 600))
def test_cron_is_what_the_clock_on_the_wall_shows(expression, place, back, ahead):
    """Around a change of the clocks, an expression fires exactly where looking each minute finds its local times."""
    text, matches = expression
    zone, change = place
    change = dt.datetime.fromisoformat(change + "+00:00")
    first, last = change - back * MINUTE, change + ahead * MINUTE
    expected = on_the_wall(matches, zone, first, last)
    cron, found = Cron(text, zone), []
    time = cron.after(first.timestamp())
    while time is not None and time <= last.timestamp():
        found.append(time)
        time = cron.after(time)
    assert found == expected
    assert cron.count(first.timestamp(), last.timestamp()) == len(expected)
    if expected:
        assert cron.latest(last.timestamp()) == expected[-1]
    for before, moment in zip([None, *expected], expected, strict=False):
        if before is not None:
            assert cron.latest(moment - 1) == before


@given(
    missed=st.sampled_from(["skip", "once", "all"]),
    every=st.integers(60, 5000),
    gaps=st.lists(st.integers(0, 20_000), min_size=1, max_size=20),
)
def test_each_time_is_decided_once_and_in_order(missed, every, gaps):
    """However the clock moves, each time fires or is counted as passed over, never twice and never too early."""
    schedule, now = Interval(every), 1_780_000_000.0
    row = start = ScheduleRow("rule", now)
    fired, skipped = [], 0
    for gap in gaps:
        now += gap
        found = 0
        while (come := due(schedule, missed, row, now)) is not None:
            assert row.upto < come.row.upto <= now
            row = come.row
            skipped += come.skipped
            if come.time is not None:
                fired.append(come.time)
                found += 1
                assert missed != "skip" or now - come.time <= GRACE
        assert missed == "all" or found <= 1
    assert fired == sorted(set(fired))
    assert len(fired) + skipped == schedule.count(start.upto, now)
    assert missed != "all" or not skipped
