"""Whether a path still leads to the file that was opened under it.

A process that has a file open can still read and write it after it was deleted, moved or replaced; the data is lost
when the last process closes it. While it is open no other file gets its inode, so a comparison is enough. A file whose
content is overwritten in place keeps its identity, and is not detected here.
"""

from __future__ import annotations

import os

from poundlock.stores.sqlite.failures import FileGone

Identity = tuple[int, int]


class Watched:
    """The database file and its write-ahead log, as they were when they were opened.

    Args:
        path: path of the database file.
        log: whether to watch the log as well; for readers the log comes and goes with the writer.
    """

    __slots__ = ("_known",)

    def __init__(self, path: str, *, log: bool = True) -> None:
        names = (path, f"{path}-wal") if log else (path,)
        self._known = [(name, known) for name in names if (known := _identity(name)) is not None]

    def check(self) -> None:
        """Check that both still exist.

        Raises:
            FileGone: one does not, or is another file.
        """
        for name, known in self._known:
            try:
                found = os.stat(name)  # noqa: PTH116 - paths are texts, as SQLite has them
            except FileNotFoundError:
                raise FileGone(f"'{name}' was deleted or moved") from None
            except OSError:
                continue  # SQLite will report this error itself
            if (found.st_dev, found.st_ino) != known:
                raise FileGone(f"'{name}' was replaced by another file")


def _identity(name: str) -> Identity | None:
    try:
        found = os.stat(name)  # noqa: PTH116 - as above
    except OSError:
        return None
    return found.st_dev, found.st_ino
