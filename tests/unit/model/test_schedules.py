"""When time triggers fire: cron expressions where clocks change, intervals, and times that were missed."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest

from poundlock.model.cron import Cron, cron_fault, zone_fault
from poundlock.model.moments import utc_text
from poundlock.model.schedules import ASTRAY, COUNTED, GRACE, Due, Interval, ScheduleRow, begun, due


def at(text):
    return dt.datetime.fromisoformat(text + "+00:00").timestamp()


def fires(schedule, since, until):
    """The times of a schedule in (since, until], as UTC text without seconds."""
    found, time = [], schedule.after(at(since))
    while time is not None and time <= at(until):
        found.append(utc_text(time)[:16])
        time = schedule.after(time)
    return found


BERLIN, NEW_YORK, LORD_HOWE, APIA = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"

CHANGES = {
    "Berlin, each morning, clocks go forward": (
        ("0 6 * * *", BERLIN),
        ("2026-03-28T00:00", "2026-03-30T12:00"),
        ["2026-03-28T05:00", "2026-03-29T04:00", "2026-03-30T04:00"],
    ),
    "Berlin, 02:30 does not exist: at 03:00, when the clocks have been set": (
        ("30 2 * * *", BERLIN),
        ("2026-03-28T00:00", "2026-03-30T12:00"),
        ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"],
    ),
    "Berlin, each quarter of the hour that does not exist: once, together with 03:00": (
        ("*/15 2,3 * * *", BERLIN),
        ("2026-03-29T00:50", "2026-03-29T01:50"),
        ["2026-03-29T01:00", "2026-03-29T01:15", "2026-03-29T01:30", "2026-03-29T01:45"],
    ),
    "Berlin, 02:30 exists twice: the first time": (
        ("30 2 * * *", BERLIN),
        ("2026-10-24T12:00", "2026-10-26T12:00"),
        ["2026-10-25T00:30", "2026-10-26T01:30"],
    ),
    "Berlin, each hour, clocks go back: 02:00 comes once": (
        ("0 * * * *", BERLIN),
        ("2026-10-24T23:00", "2026-10-25T03:00"),
        ["2026-10-25T00:00", "2026-10-25T02:00", "2026-10-25T03:00"],
    ),
    "UTC, each hour: nothing is left out, and nothing comes twice": (
        ("0 * * * *", "UTC"),
        ("2026-10-24T23:00", "2026-10-25T03:00"),
        ["2026-10-25T00:00", "2026-10-25T01:00", "2026-10-25T02:00", "2026-10-25T03:00"],
    ),
    "New York, 02:00 does not exist": (
        ("0 2 * * *", NEW_YORK),
        ("2026-03-07T12:00", "2026-03-09T12:00"),
        ["2026-03-08T07:00", "2026-03-09T06:00"],
    ),
    "New York, 01:15 exists twice": (
        ("15 1 * * *", NEW_YORK),
        ("2026-10-31T12:00", "2026-11-02T12:00"),
        ["2026-11-01T05:15", "2026-11-02T06:15"],
    ),
    "Lord Howe goes forward by half an hour: 02:15 does not exist, 02:30 does": (
        ("15,30,45 2 * * *", LORD_HOWE),
        ("2026-10-03T12:00", "2026-10-03T16:00"),
        ["2026-10-03T15:30", "2026-10-03T15:45"],
    ),
    "Lord Howe goes back by half an hour: 01:45 exists twice, 01:15 does not": (
        ("15,45 1 * * *", LORD_HOWE),
        ("2026-04-04T12:00", "2026-04-04T16:30"),
        ["2026-04-04T14:15", "2026-04-04T14:45"],
    ),
    "Apia has no 30 December 2011: noon of that day is the first moment of the 31st": (
        ("0 12 * * *", APIA),
        ("2011-12-28T12:00", "2012-01-01T12:00"),
        ["2011-12-28T22:00", "2011-12-29T22:00", "2011-12-30T10:00", "2011-12-30T22:00", "2011-12-31T22:00"],
    ),
    "Apia, each midnight: the one that is missing is the one of the day after": (
        ("0 0 * * *", APIA),
        ("2011-12-28T12:00", "2011-12-31T12:00"),
        ["2011-12-29T10:00", "2011-12-30T10:00", "2011-12-31T10:00"],
    ),
    "the last day of February, leap year": (
        ("0 0 L 2 *", "UTC"),
        ("2027-01-01T00:00", "2028-12-31T00:00"),
        ["2027-02-28T00:00", "2028-02-29T00:00"],
    ),
    "29 February": (("0 0 29 2 *", "UTC"), ("2025-01-01T00:00", "2029-01-01T00:00"), ["2028-02-29T00:00"]),
    "on Mondays, and on the first": (
        ("0 0 1 * 1", "UTC"),
        ("2026-05-30T00:00", "2026-06-09T00:00"),
        ["2026-06-01T00:00", "2026-06-08T00:00"],
    ),
    "Sunday has two numbers": (
        ("0 0 * * 7", "UTC"),
        ("2026-06-01T00:00", "2026-06-15T00:00"),
        ["2026-06-07T00:00", "2026-06-14T00:00"],
    ),
}
"""A cron expression and its zone, a span of time, and its times in there."""


@pytest.mark.parametrize("name", CHANGES)
def test_cron_times_where_clocks_change(name):
    """A local time that does not exist fires at the next moment that does; one that exists twice once."""
    (expression, zone), (since, until), expected = CHANGES[name]
    assert fires(Cron(expression, zone), since, until) == expected


@pytest.mark.parametrize("name", CHANGES)
def test_the_latest_time_is_one_of_the_times(name):
    """Looking back from any minute finds the time that looking forward finds there."""
    (expression, zone), (since, until), expected = CHANGES[name]
    cron = Cron(expression, zone)
    moments = [at(text) for text in expected]
    for moment in moments:
        assert (cron.latest(moment), cron.latest(moment + 59.9)) == (moment, moment)
    assert cron.latest(at(until)) == moments[-1]
    assert cron.count(at(since), at(until)) == len(moments)
    assert cron.count(moments[0], moments[-1]) == len(moments) - 1


def test_a_time_is_not_lost_by_a_fraction():
    """Just before its time a cron trigger is still to fire, and just behind it has fired, whatever the rounding."""
    cron = Cron("0 6 * * *", "UTC")
    six = at("2026-06-01T06:00")
    assert (cron.after(six - 1e-6), cron.after(six)) == (six, six + 86_400)
    assert (cron.latest(six - 1e-6), cron.latest(six + 0.5)) == (six - 86_400, six)


def test_seconds_come_first_where_there_are_six_fields():
    """An expression of six fields has seconds."""
    assert Cron("*/20 30 6 * * *", "UTC").after(at("2026-06-01T06:30:20")) == at("2026-06-01T06:30:40")


def test_times_that_no_datetime_can_hold():
    """A clock may show anything: then there is no time before or after, and nothing raises."""
    cron = Cron("0 6 * * *", BERLIN)
    assert [cron.after(1e13), cron.latest(1e13), cron.after(-1e13), cron.latest(-1e13)] == [None] * 4
    assert cron.after(253_402_300_799.0) is None
    assert cron.latest(-62_135_596_799.0) is None


@pytest.mark.parametrize(
    "expression",
    [
        *["", "* * * *", "* * * * * * *", "60 * * * *", "a * * * *", "*/0 * * * *", "1-0 * * * *", "? * * * *"],
        *["@daily", "9" * 5000 + " * * * *", "0 0 * * 1#6", "0 0 * * ²L", None, 6, b"* * * * *"],
    ],
)
def test_what_is_no_cron_expression(expression):
    """Whatever is given, what is wrong with it is said, and how to write one."""
    fault = cron_fault(expression)
    assert "is not a cron expression" in fault
    assert "'0 6 * * *'" in fault


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "0 0 31 4,6 *", "0 0 31 2 */2"])
def test_an_expression_that_never_fires_is_a_fault(expression):
    """There is no 30 February: such a trigger is refused and not kept in silence."""
    assert cron_fault(expression)


@pytest.mark.parametrize(
    "zone", ["Europe/Berlni", "", "../etc/passwd", "/etc/localtime", "Europe", 3, "a" * 5000, "\0"]
)
def test_what_is_no_zone(zone):
    """Whatever is given as a zone, the fault says so; near matches are named."""
    assert "is not a time zone" in zone_fault(zone)
    assert "Europe/Berlin" in zone_fault("Europe/Berlni")


def test_zones_may_be_objects():
    """A ZoneInfo is as good as its name, and none is UTC."""
    assert [zone_fault(ZoneInfo(BERLIN)), zone_fault(BERLIN), zone_fault(None)] == ["", "", ""]
    assert "is not a time zone" in zone_fault(dt.timezone(dt.timedelta(hours=2)))


def test_intervals_are_counted_from_1970():
    """The times of an interval are multiples of it, so a restart or another process does not move them."""
    interval = Interval("15m")
    assert fires(interval, "2026-06-01T05:59", "2026-06-01T06:30") == [
        "2026-06-01T06:00",
        "2026-06-01T06:15",
        "2026-06-01T06:30",
    ]
    assert interval.latest(at("2026-06-01T06:29:59")) == at("2026-06-01T06:15")
    assert interval.count(at("2026-06-01T06:00"), at("2026-06-01T06:30")) == 2
    assert Interval(7).after(-1.0) == 0.0


@pytest.mark.parametrize("every", [1.1, 7.7, 86_400 / 7, 1e6 / 3])
def test_intervals_go_on_whatever_the_rounding(every):
    """Each time is behind the one before it, and is found again when looked for from behind."""
    interval, time = Interval(every), 1_780_000_000.0
    for _ in range(1000):
        following = interval.after(time)
        assert time < following
        assert interval.latest(following) == following
        time = following


# ----------------------------------------------------------------------------------------------------- missed times
ROW = ScheduleRow("rule", at("2026-06-01T06:00"))


@pytest.mark.parametrize(
    ("missed", "now", "fire", "upto", "skipped"),
    [
        ("once", "06:59:59", None, None, 0),
        ("once", "07:00:00", "07:00", "07:00", 0),
        ("once", "07:30:00", "07:00", "07:00", 0),
        ("once", "09:30:00", "09:00", "09:00", 2),
        ("skip", "07:00:00", "07:00", "07:00", 0),
        ("skip", "07:01:00", "07:00", "07:00", 0),
        ("skip", "07:01:01", None, "07:00", 1),
        ("skip", "09:30:00", None, "09:00", 3),
        ("skip", "09:00:30", "09:00", "09:00", 2),
        ("all", "07:00:00", "07:00", "07:00", 0),
        ("all", "09:30:00", "07:00", "07:00", 0),
        ("all", "06:59:59", None, None, 0),
    ],
)
def test_what_becomes_of_missed_times(missed, now, fire, upto, skipped):
    """With "skip" what is late is left out, with "once" the last time fires for all, with "all" each of them."""
    found = due(Interval("1h"), missed, ROW, at(f"2026-06-01T{now}"))
    if upto is None:
        assert found is None
        return
    time = None if fire is None else at(f"2026-06-01T{fire}")
    assert found == Due(time, ScheduleRow("rule", at(f"2026-06-01T{upto}")), skipped)


def test_a_clock_that_was_set_back_has_nothing_due():
    """What is decided is not decided again, however often the clock comes by."""
    for missed in ("skip", "once", "all"):
        assert due(Interval("1h"), missed, ROW, ROW.upto - 5000) is None


def test_a_year_of_minutes_is_not_counted_one_by_one():
    """After a long time the number of passed times is a bound, so that the loop is not held up."""
    found = due(Cron("* * * * *", "UTC"), "once", ROW, ROW.upto + 366 * 86_400)
    assert (found.time, found.skipped) == (ROW.upto + 366 * 86_400, COUNTED - 1)


def test_when_a_trigger_begins_anew():
    """It begins now if it is new, if its schedule has changed, and if its row is far ahead of the clock."""
    now = ROW.upto
    new = ScheduleRow("rule", now)
    assert begun("rule", None, now) == new
    assert begun("other", ROW, now + 50) == ScheduleRow("other", now + 50)
    assert begun("rule", ROW, now + 1e6) is ROW
    assert begun("rule", ROW, now - ASTRAY) is ROW
    assert begun("rule", ROW, now - ASTRAY - 1) == ScheduleRow("rule", now - ASTRAY - 1)
    assert GRACE < ASTRAY


@pytest.mark.parametrize("every", [112.588, 0.1, 0.3, 1.7, 3.333])
def test_a_multiple_is_its_own_latest(every):
    """However the quotient is rounded: the last time up to a time of the schedule is that time itself."""
    interval = Interval(every)
    for number in range(15_898_000, 15_899_000):
        assert interval.latest(number * interval.every) == number * interval.every
