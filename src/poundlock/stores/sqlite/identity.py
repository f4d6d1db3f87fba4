"""Whether a path still leads to the file that was opened under it.

A file that is deleted, moved or replaced stays readable and writable for whoever has it open; what is written to it is
gone with the last who closes it. While it is open its inode is not given to another file, so comparing is enough. A
file whose content is overwritten in place keeps its identity, and is not noticed here.
"""

from __future__ import annotations

import os

from poundlock.stores.sqlite.failures import FileGone

Identity = tuple[int, int]


class Watched:
    """The database file and its write-ahead log, as they were when they were opened.

    Args:
        path: of the database file.
        log: whether the log is looked at as well; for readers it comes and goes with whoever writes.
    """

    __slots__ = ("_known",)

    def __init__(self, path: str, *, log: bool = True) -> None:
        names = (path, f"{path}-wal") if log else (path,)
        self._known = [(name, known) for name in names if (known := _identity(name)) is not None]

    def check(self) -> None:
        """Look whether both are still there.

        Raises:
            FileGone: one is not, or is another file.
        """
        for name, known in self._known:
            try:
                found = os.stat(name)  # noqa: PTH116 - paths are texts, as SQLite has them
            except FileNotFoundError:
                raise FileGone(f"'{name}' was deleted or moved") from None
            except OSError:
                continue  # whatever is wrong now, SQLite will meet it too
            if (found.st_dev, found.st_ino) != known:
                raise FileGone(f"'{name}' was replaced by another file")


def _identity(name: str) -> Identity | None:
    try:
        found = os.stat(name)  # noqa: PTH116 - as above
    except OSError:
        return None
    return found.st_dev, found.st_ino
