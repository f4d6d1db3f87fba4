"""The only source of randomness.

House rules: nothing else in the package imports `random`, `secrets`, `uuid` or calls `os.urandom`; a linter checks it.
"""

from __future__ import annotations

import os
import random

_VARIANT = 0b10 << 62  # fixed by RFC 9562: the first bits of the last eight bytes


class Ids:
    """A generator of ids. With a seed its sequence is repeatable, so that a simulation can be replayed.

    Args:
        seed: a number makes the sequence repeatable; None seeds it from the operating system.
    """

    __slots__ = ("_counter", "_last_ms", "_random", "_time")

    def __init__(self, seed: int | None = None) -> None:
        # SystemRandom costs a system call per id; a generator seeded from it once gives unique ids, not secrets.
        start = int.from_bytes(os.urandom(32)) if seed is None else seed
        self._random = random.Random(start)  # noqa: S311 - ids are unique, not secret
        self._last_ms = 0
        self._counter = 0
        self._time = _time_of(0)
        """The beginning of all UUIDs of the last millisecond: many runs begin in one."""

    def uuid7(self, now: float) -> str:
        """Return a UUIDv7 (RFC 9562) for the time `now` (seconds since 1970), increasing within this generator.

        The 12 bits after the version are a counter within the millisecond (RFC 9562, 6.2, method 1), so ids sort in
        the order of their creation.
        """
        ms = int(now * 1000)
        if ms <= self._last_ms and self._counter < 0xFFF:
            self._counter += 1
        else:
            self._last_ms = max(ms, self._last_ms + 1)
            self._counter = 0
            self._time = _time_of(self._last_ms)
        rest = (self._random.getrandbits(62) | _VARIANT).to_bytes(8).hex()
        return f"{self._time}{self._counter:03x}-{rest[:4]}-{rest[4:]}"

    def unique(self) -> str:
        """Return 128 random bits as 32 hex digits: an id that does not sort by time."""
        return self._random.getrandbits(128).to_bytes(16).hex()

    def sortable(self, now: float) -> str:
        """Return 128 bits as 32 hex digits that sort by time from 1970 on: the milliseconds, and 80 random bits.

        Rows written one after another are then neighbours in a B-tree, instead of each touching its own page.
        """
        return (max(0, int(now * 1000)) << 80 | self._random.getrandbits(80)).to_bytes(16).hex()

    def token(self) -> int:
        """Return a random 62-bit number that is unique for practical purposes."""
        return self._random.getrandbits(62)

    def fraction(self) -> float:
        """Return a number in [0, 1), for jitter."""
        return self._random.random()


def _time_of(ms: int) -> str:
    """Return a UUIDv7 up to its counter: 48 bits of time, and the version."""
    text = ms.to_bytes(6).hex()
    return f"{text[:8]}-{text[8:]}-7"


default_ids = Ids()


def _after_fork() -> None:
    """Give a forked child its own sequence; otherwise parent and child would create the same ids."""
    default_ids.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
