"""Times as text. A run may wait for a time that no datetime can hold."""

from __future__ import annotations

import datetime as dt
from typing import Final

YEAR_1: Final = -62_135_596_800.0
YEAR_10000: Final = 253_402_300_800.0
"""Between these two a time has an RFC 3339 text and is a datetime; timeouts and delays may be far outside."""


def utc_text(seconds: float, sep: str = "T", timespec: str = "auto") -> str:
    """Return a time as ISO 8601 text in UTC; never raises, even if no datetime can hold it.

    Args:
        seconds: seconds since 1970-01-01 UTC.
        sep: the separator between date and time.
        timespec: the precision, as in `datetime.isoformat`.
    """
    if not seconds < YEAR_10000:
        return "after the year 9999"
    if seconds < YEAR_1:
        return "before the year 1"
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(sep, timespec)
