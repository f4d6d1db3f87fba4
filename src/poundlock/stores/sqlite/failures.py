"""Translate SQLite's errors into errors of the port.

House rule: every message ends with what to do next. `poisons` finds the failures after which the content of the file is
unknown: the connection must not be used again.
"""

from __future__ import annotations

import sqlite3

from poundlock.errors import PoundlockError, StoreCorrupt, StoreFull, StoreUnavailable

_FULL = {
    sqlite3.SQLITE_FULL,  # no space left on the device
    sqlite3.SQLITE_IOERR_WRITE,  # a limit on file sizes, or a quota
    sqlite3.SQLITE_IOERR_SHMSIZE,  # no space for the index of the write-ahead log
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_STORE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
}


class FileGone(sqlite3.OperationalError):
    """The path no longer leads to the opened file. Not an error of SQLite, but handled like one."""


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) or 0


def of_the_store(error: BaseException) -> bool:
    """Whether the store failed, and not one statement with its values."""
    return isinstance(error, FileGone) or (isinstance(error, sqlite3.Error) and _code(error) & 0xFF in _STORE)


def poisons(error: BaseException) -> bool:
    """Whether after this error the connection may have data that is not on the disk.

    A failed sync may have dropped the pages it failed on, and a later sync then succeeds without them.
    """
    if isinstance(error, FileGone):
        return True
    code = _code(error)
    return code not in _FULL and code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def translate(error: sqlite3.Error, path: str) -> PoundlockError:
    """Return the port's error for an error of SQLite; a new object each time, because each waiter raises its own."""
    if isinstance(error, FileGone):
        return StoreUnavailable(
            f"{error} while the store was open: further writes would be lost, so no commit is acknowledged any more; "
            f"stop this runtime, put the file back (with its -wal) or restore a backup, and start again",
            store=path,
        )
    code, name = _code(error), getattr(error, "sqlite_errorname", None) or type(error).__name__
    if code in _FULL:
        return StoreFull(
            f"there is no space left for '{path}' ({name}): nothing was written; free some space and try again",
            store=path,
        )
    if code & 0xFF in _DAMAGED:
        return damaged(path, str(error))
    if poisons(error):
        return StoreUnavailable(
            f"the disk under '{path}' failed ({name}): what was being written may or may not be there; "
            f"check the disk, then open the store again",
            store=path,
        )
    if code & 0xFF in _LOCKED:
        return StoreUnavailable(
            f"another program is writing to '{path}' and does not finish: nothing was written; close it and try again",
            store=path,
        )
    return StoreUnavailable(
        f"'{path}' cannot be used ({name}: {error}): check that it is a writable file on a local disk, then open the "
        f"store again",
        store=path,
    )


def contained(error: BaseException) -> Exception:
    """Return the error to raise for one that user code raised in a thread, as when a type of the user's is decoded.

    A future refuses StopIteration, and in a task what is no Exception ends the process or looks like a cancellation.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(
        f"the code that encodes or decodes a registered type raised {error!r:.200}: let it raise a ValueError instead"
    )
    wrapped.__cause__ = error
    return wrapped


def damaged(path: str, why: str) -> StoreCorrupt:
    """Return the error for a file that is damaged or not a store."""
    return StoreCorrupt(
        f"'{path}' is damaged or is not a Poundlock store ({why}): restore it from a backup, or give another path",
        store=path,
    )
