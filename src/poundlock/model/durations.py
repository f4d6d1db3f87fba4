"""Durations: numbers of seconds, timedeltas, or text like "2h30m"."""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

from poundlock.model.quoting import shown

Duration = float | int | dt.timedelta | str

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_TOO_LONG: Final = float("inf")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


def seconds(value: Duration) -> float:
    """Return a duration in seconds.

    Args:
        value: seconds as a number, a timedelta, or text of numbers with units ms, s, m, h, d, w ("2h30m").

    Raises:
        ValueError: the text has no such form, or the duration is negative or not finite.
    """
    if isinstance(value, dt.timedelta):
        result = value.total_seconds()
    elif isinstance(value, str):
        text = value.strip().replace(" ", "")
        if not text or _PART.sub("", text):
            raise ValueError(
                f"{shown(value)} is not a duration: write seconds as a number, or units like '2h30m' or '500ms'"
            )
        result = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        result = float(value) if abs(value) < 1e300 else _TOO_LONG  # larger ints are no floats
    else:
        raise ValueError(f"{shown(value)} is not a duration: give seconds, a timedelta, or text like '2h30m'")
    if not 0 <= result < _TOO_LONG:
        raise ValueError(f"{shown(value)} is not a duration: it must be finite and not negative")
    return result


def optional_seconds(value: Duration | None) -> float | None:
    """Return `seconds(value)`, or None for None."""
    return None if value is None else seconds(value)


def moment(value: object) -> float:
    """Return a moment in seconds since 1970.

    Args:
        value: such seconds, or a datetime with a zone.

    Raises:
        ValueError: it is neither; a datetime without a zone means another moment on another machine.
    """
    if isinstance(value, dt.datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{shown(value)} has no zone: give one, such as datetime.now(timezone.utc)")
        return value.timestamp()
    # Larger ints are no floats.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    raise ValueError(f"{shown(value)} is not a moment: give seconds since 1970, or a datetime with a zone")
