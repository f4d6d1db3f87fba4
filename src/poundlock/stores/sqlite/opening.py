"""Open a store's file: inspect first, change afterwards, and remove new files if opening fails."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from poundlock.codecs import dump, load
from poundlock.errors import PoundlockError, StoreUnavailable
from poundlock.records import dataclass
from poundlock.stores.sqlite import reads, schema, sql
from poundlock.stores.sqlite.connect import (
    Synchronous,
    configure_writer,
    connect_reader,
    connect_writer,
    create_private,
)
from poundlock.stores.sqlite.failures import translate
from poundlock.stores.sqlite.heads import Heads
from poundlock.stores.sqlite.index import Index
from poundlock.stores.sqlite.lock import OwnerLock
from poundlock.stores.sqlite.rows import read_load

_OPENED = "opened"
_OLDEST = (3, 37)  # the first with STRICT tables


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that was opened for writing.

    Attributes:
        path: the real path of the file.
        lock: keeps other runtimes out until it is released.
        connection: the connection that writes.
        store_id: the id of the data.
        index: what is active in it.
        heads: of its runs: none yet, but with the numbers of the next ones.
        before: (time, bytes) of the previous opening; None if this is the first.
    """

    path: str
    lock: OwnerLock
    connection: sqlite3.Connection
    store_id: str
    index: Index
    heads: Heads
    before: tuple[float, int] | None

    def abandon(self) -> None:
        """Close a file whose opener was cancelled."""
        self.connection.close()
        self.lock.release()


def open_owned(path: str, synchronous: Synchronous, now: float) -> Opened:
    """Open the file as its only owner, release the runs of former owners, and record its current size.

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
            index, heads, before = _recover(connection, (now, size_of(path)))
            return Opened(path, lock, connection, store_id, index, heads, before)
        except BaseException:
            # A connection with an unfinished query keeps its lock after it was closed.
            with suppress(sqlite3.Error):
                connection.rollback()
            connection.close()
            raise
    except BaseException as error:
        for name in (path, f"{path}-wal", f"{path}-shm") if made else ():
            with suppress(OSError):
                os.unlink(name)  # noqa: PTH108 - paths here are texts, as SQLite takes them
        lock.release(leave_no_trace=True)
        if isinstance(error, PoundlockError):
            raise
        raise _port_error(error, path) from error


def compact(path: str) -> None:
    """Write the file anew, without its free space and without remains of deleted rows; nobody may have it open.

    Needs as much free space on the disk as the file has. A crash leaves the file as it was.

    Raises:
        StoreUnavailable, StoreFull: a runtime has it open, or there is no space; it is as it was.
    """
    path = _real(path)
    lock = OwnerLock(path)
    lock.acquire()
    try:
        with closing(connect_writer(path)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise translate(error, path) from error
    finally:
        lock.release()


def open_readonly(path: str) -> tuple[str, str, tuple[float, int] | None]:
    """Check that the file can be read; return its real path, its store id, and (time, bytes) of its last opening.

    Nothing is changed.

    Raises:
        StoreUnavailable, StoreCorrupt, StoreTooNew, UnknownCodec: it cannot be read.
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
            meta = schema.read_meta(looking, path)
            return path, meta["store_id"], None if _OPENED not in meta else tuple(load(meta[_OPENED]))
    except sqlite3.Error as error:
        raise translate(error, path) from error


@contextmanager
def looking_at(path: str) -> Iterator[sqlite3.Connection]:
    """Yield a read-only connection, so that the file is unchanged.

    A connection that can write would move the log into the file when it is closed, even in another program's database.
    """
    try:
        with closing(connect_reader(path)) as connection:
            yield connection
    finally:
        tidy(path)


def tidy(path: str) -> None:
    """Remove the empty side files that a read-only connection leaves.

    SQLite removes them when a connection that can write is closed and no other has the file open. A log that is not
    empty is not touched.
    """
    with suppress(OSError, sqlite3.Error):
        if os.stat(f"{path}-wal").st_size == 0:  # noqa: PTH116 - as above
            with closing(connect_writer(path)) as connection:
                connection.execute("PRAGMA user_version").fetchone()


def _port_error(error: BaseException, path: str) -> BaseException:
    """Return the port's error for an error during opening."""
    if isinstance(error, sqlite3.Error):
        return translate(error, path)
    if isinstance(error, OSError):
        return StoreUnavailable(
            f"the store '{path}' cannot be created ({error.strerror}): give a path in a writable directory",
            store=path,
        )
    return error


def _real(path: str) -> str:
    """Return the real path of the file, so that all its names use the same lock.

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
        raise StoreUnavailable("':memory:' is not a file: use the memory store, which is store=None", store=path)
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


def _recover(
    connection: sqlite3.Connection, opening: tuple[float, int]
) -> tuple[Index, Heads, tuple[float, int] | None]:
    """Release the runs of dead owners; return the index and the heads. The cost depends only on what is active.

    Records the time and size of this opening, and returns those of the previous one.

    The owner of every running run is dead, even one of the same name, because the lock was free.
    """
    cursor = connection.cursor()
    cursor.execute("BEGIN IMMEDIATE")
    given_back = cursor.execute(sql.GIVE_BACK).rowcount
    if given_back:
        cursor.execute(sql.count(2), ("running", -given_back, "ready", given_back))
    rows = cursor.execute(sql.LOADS).fetchall()
    index = Index(
        (((row[0], row[1]), read_load(row[2:])) for row in rows),
        reads.shapes(cursor).items(),
        dict(cursor.execute(sql.COUNTS).fetchall()),
    )
    heads = Heads(*(cursor.execute(last).fetchone()[0] or 0 for last in (sql.LAST_RUN, sql.LAST_PLACE)))
    noted = cursor.execute(sql.READ_META, (_OPENED,)).fetchone()
    cursor.execute(sql.WRITE_META, (_OPENED, dump(list(opening))))
    cursor.execute("COMMIT")
    return index, heads, None if noted is None else tuple(load(noted[0]))
