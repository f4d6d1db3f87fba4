"""Where reads make way for the writer when the write-ahead log has to begin anew.

SQLite begins its log anew only while nobody reads from it, so reads that never pause make it grow without end. Then
the writer asks for a pause: reads that would begin wait a moment, those under way finish, and no commit waits for them.
"""

from __future__ import annotations

import threading
from typing import Final


class Gate:
    """Passed by every read of this process; asked to close by the writer."""

    PATIENCE: Final = 0.25
    """Seconds a read waits at most: if there is nothing to write, the log does not grow either."""

    def __init__(self) -> None:
        self.wanted = False
        self._inside = 0
        self._guard = threading.Lock()
        self._passed = threading.Event()

    @property
    def empty(self) -> bool:
        """Whether no read is under way."""
        return self._inside == 0

    def close(self) -> None:
        """Ask for a pause."""
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
