"""A pause of all reads, so that the writer can restart the write-ahead log.

SQLite restarts its log only while no connection reads from it, so reads without a pause let it grow without limit. Then
the writer requests a pause: new reads wait a moment, running ones finish, and no commit waits for them.
"""

from __future__ import annotations

import threading
from typing import Final


class Gate:
    """Every read of this process passes it; the writer closes it."""

    PATIENCE: Final = 0.25
    """Maximum seconds a read waits: without writes the log does not grow either."""

    def __init__(self) -> None:
        self.wanted = False
        self._inside = 0
        self._guard = threading.Lock()
        self._passed = threading.Event()

    @property
    def empty(self) -> bool:
        """Whether no read is running."""
        return self._inside == 0

    def close(self) -> None:
        """Request a pause."""
        self._passed.clear()
        self.wanted = True

    def open(self) -> None:
        """End the pause."""
        self.wanted = False
        self._passed.set()

    def __enter__(self) -> None:
        if self.wanted:
            self._passed.wait(self.PATIENCE)
        with self._guard:
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._inside -= 1
