"""Opening a store's file: look first, touch then, and leave nothing behind where it cannot be opened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from poundlock.codecs import dump, load
from poundlock.errors import PoundlockError, StoreUnavailable
from poundlock.stores.sqlite import reads, schema, sql
from poundlock.stores.sqlite.connect import (
    Synchronous,
    configure_writer,
    connect_reader,
    connect_writer,
    create_private,
)
from poundlock.stores.sqlite.failures import translate
from poundlock.stores.sqlite.index import Index
from poundlock.stores.sqlite.lock import OwnerLock
from poundlock.stores.sqlite.rows import read_load

_OPENED = "opened"
_OLDEST = (3, 37)  # the first with STRICT tables


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that was opened to be written.

    Attributes:
        path: of the file itself, whatever name it was opened by.
        lock: keeps other runtimes out until it is released.
        connection: the one that writes.
        store_id: what the file calls itself.
        index: what is active in it.
        before: (time, bytes) of the opening before this one; None if this is the first.
    """

    path: str
    lock: OwnerLock
    connection: sqlite3.Connection
    store_id: str
    index: Index
    before: tuple[float, int] | None

    def abandon(self) -> None:
        """Let go of a file nobody waits for any more."""
        self.connection.close()
        self.lock.release()


def open_owned(path: str, synchronous: Synchronous, now: float) -> Opened:
    """Open the file as its one owner, give the runs of its former owners back, and note its size at this time.

    Raises:
        StoreUnavailable, StoreCorrupt, StoreTooNew, UnknownCodec, StoreFull: nothing was changed.
    """
    path = _real(path)
    lock = OwnerLock(path)
    lock.acquire()
    made = False
    try:
        made = create_private(path)
        with looking_at(path) as looking:
            version = schema.inspect(looking, path)
            connection = connect_writer(path)
        try:
            configure_writer(connection, synchronous)
            if version < schema.SCHEMA_VERSION:
                schema.migrate(connection)
            store_id = schema.read_meta(connection, path)["store_id"]
            index, before = _recover(connection, (now, size_of(path)))
            return Opened(path, lock, connection, store_id, index, before)
        except BaseException:
            connection.close()
            raise
    except BaseException as error:
        for name in (path, f"{path}-wal", f"{path}-shm") if made else ():
            with suppress(OSError):
                os.unlink(name)  # noqa: PTH108 - paths here are texts, as SQLite takes them
        lock.release(leave_no_trace=True)
        if isinstance(error, PoundlockError):
            raise
        raise _told(error, path) from error


def open_readonly(path: str) -> tuple[str, str]:
    """Check that the file can be read; return its real path and what it calls itself. Nothing is changed.

    Raises:
        StoreUnavailable, StoreCorrupt, StoreTooNew, UnknownCodec: it cannot.
    """
    path = _real(path)
    if not os.path.exists(path):  # noqa: PTH110 - as above
        raise StoreUnavailable(f"there is no store '{path}': check the path", store=path)
    try:
        with looking_at(path) as looking:
            version = schema.inspect(looking, path)
            if not version:
                raise StoreUnavailable(f"the store '{path}' is empty: run something on it first", store=path)
            if version < schema.SCHEMA_VERSION:
                raise StoreUnavailable(
                    f"the store '{path}' was written by an older Poundlock (schema {version}, this one reads "
                    f"{schema.SCHEMA_VERSION}): start a runtime on it once, which brings it up to date",
                    store=path,
                    version=version,
                )
            return path, schema.read_meta(looking, path)["store_id"]
    except sqlite3.Error as error:
        raise translate(error, path) from error


@contextmanager
def looking_at(path: str) -> Iterator[sqlite3.Connection]:
    """Give a connection that cannot write, so that the file stays as it is.

    One that can would move the log into the file when it is closed, also in somebody else's database.
    """
    try:
        with closing(connect_reader(path)) as connection:
            yield connection
    finally:
        tidy(path)


def tidy(path: str) -> None:
    """Take away the empty side files that a connection leaves behind which cannot write.

    SQLite does that itself when one that can is closed and nobody else has the file open; a log that holds anything is
    left alone.
    """
    with suppress(OSError, sqlite3.Error):
        if os.stat(f"{path}-wal").st_size == 0:  # noqa: PTH116 - as above
            with closing(connect_writer(path)) as connection:
                connection.execute("PRAGMA user_version").fetchone()


def _told(error: BaseException, path: str) -> BaseException:
    """Return the error of the port for what came in the way."""
    if isinstance(error, sqlite3.Error):
        return translate(error, path)
    if isinstance(error, OSError):
        return StoreUnavailable(
            f"the store '{path}' cannot be made ({error.strerror}): give a path in a directory that can be written to",
            store=path,
        )
    return error


def _real(path: str) -> str:
    """Return the path all names of the file lead to, so that they lead to one lock as well.

    Raises:
        StoreUnavailable: there cannot be a store here.
    """
    if sqlite3.sqlite_version_info < _OLDEST:
        needed = ".".join(map(str, _OLDEST))
        raise StoreUnavailable(
            f"this Python comes with SQLite {sqlite3.sqlite_version}, and the store needs {needed}: use a newer Python",
            store=path,
        )
    if path == ":memory:":
        raise StoreUnavailable("':memory:' is no file: use the memory store, which is store=None", store=path)
    if not path or os.path.isdir(path):  # noqa: PTH112 - as above
        raise StoreUnavailable(f"'{path}' is a directory: give the path of a file in it", store=path)
    return os.path.realpath(path)


def size_of(path: str) -> int:
    """Return the bytes of the file and its write-ahead log; 0 if there is none."""
    size = 0
    for name in (path, f"{path}-wal"):
        with suppress(OSError):
            size += os.stat(name).st_size  # noqa: PTH116 - as above
    return size


def _recover(connection: sqlite3.Connection, opening: tuple[float, int]) -> tuple[Index, tuple[float, int] | None]:
    """Give the runs of dead owners back and return what is active: work that grows with the latter only.

    The time and size of this opening are noted; those of the one before are returned.

    Whoever owned a run that is running is dead, also if it had the same name: the lock was free.
    """
    cursor = connection.cursor()
    cursor.execute("BEGIN IMMEDIATE")
    cursor.execute(sql.GIVE_BACK)
    rows = cursor.execute(sql.LOADS).fetchall()
    index = Index((((row[0], row[1]), read_load(row[2:])) for row in rows), reads.shapes(cursor).items())
    noted = cursor.execute(sql.READ_META, (_OPENED,)).fetchone()
    cursor.execute(sql.WRITE_META, (_OPENED, dump(list(opening))))
    cursor.execute("COMMIT")
    return index, None if noted is None else tuple(load(noted[0]))
