"""Times as text."""

from __future__ import annotations

import pytest

from poundlock.model.moments import utc_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00+00:00"),
        (253_402_300_799.0, "9999-12-31T23:59:59+00:00"),
        (253_402_300_800.0, "after the year 9999"),
        (1e300, "after the year 9999"),
        (float("inf"), "after the year 9999"),
        (-62_135_596_800.0, "0001-01-01T00:00:00+00:00"),
        (-62_135_596_801.0, "before the year 1"),
        (float("-inf"), "before the year 1"),
    ],
)
def test_every_time_has_a_text(seconds, text):
    """A time as text never raises, also where a datetime cannot hold it."""
    assert utc_text(seconds) == text
