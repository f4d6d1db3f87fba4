"""The only source of randomness.

House rules: nothing else in the package imports `random`, `secrets`, `uuid` or calls `os.urandom`; a linter checks it.
"""

from __future__ import annotations

import os
import random

# Fixed by RFC 9562: version 7 in bits 48-51, variant 0b10 in bits 64-65.
_VERSION = 7
_VARIANT = 0b10 << 62
_MOST = 0xFFF  # the largest counter in the 12 bits after the version


class Ids:
    """A generator of ids. With a seed its sequence is repeatable, so that a simulation can be replayed.

    Args:
        seed: a number makes the sequence repeatable; None seeds it from the operating system.
    """

    __slots__ = ("_counter", "_last_ms", "_random", "_stamp")

    def __init__(self, seed: int | None = None) -> None:
        # SystemRandom costs a system call per id; a generator seeded from it once gives unique ids, not secrets.
        start = int.from_bytes(os.urandom(32)) if seed is None else seed
        self._random = random.Random(start)  # noqa: S311 - ids are unique, not secret
        self._enter(0)

    def uuid7(self, now: float) -> str:
        """Return a UUIDv7 (RFC 9562) for the time `now` (seconds since 1970), increasing within this generator.

        The 12 bits after the version are a counter within the millisecond (RFC 9562, 6.2, method 1), so ids sort in
        the order of their creation.
        """
        ms = int(now * 1000)
        if ms > self._last_ms:
            self._enter(ms)
        elif self._counter < _MOST:
            self._counter += 1
        else:
            self._enter(self._last_ms + 1)
        tail = f"{self._random.getrandbits(62) | _VARIANT:x}"
        return f"{self._stamp}{self._counter:03x}-{tail[:4]}-{tail[4:]}"

    def _enter(self, ms: int) -> None:
        """Begin a new millisecond. Its ids share their first digits: 48 bits of time, and the version."""
        self._last_ms = ms
        self._counter = 0
        self._stamp = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-{_VERSION}"

    def unique(self) -> str:
        """Return 128 random bits as 32 hex digits: an id that does not sort by time."""
        return f"{self._random.getrandbits(128):032x}"

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


default_ids = Ids()


def _after_fork() -> None:
    """Give a forked child its own sequence; otherwise parent and child would create the same ids."""
    default_ids.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
