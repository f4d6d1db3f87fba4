"""Connections: how this package opens the file.

House rules: a connection is used by one thread. Only the writer's checkpoints the write-ahead log: SQLite versions
before 3.51.3 may lose a commit when one connection restarts the log while another checkpoints it.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final, Literal

from poundlock.stores.sqlite.reads import lowercase

Synchronous = Literal["FULL", "NORMAL", "OFF"]

BUSY_SECONDS: Final = 5.0
"""How long to wait for another program, such as a SQLite browser, that holds the file's write lock."""

_CHECKPOINT_PAGES: Final = 4000  # 16 MB: a page that changes often is copied once, not once per thousand pages
LOG_LIMIT: Final = 64 << 20
"""Maximum bytes of the write-ahead log; a log that has grown because of reads is truncated to this."""


def create_private(path: str) -> bool:
    """Create the file, readable only by its owner, if it does not exist; SQLite gives its side files the same mode.

    Only SQLite may open an existing database; this call creates a new file or opens none.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def _connect(path: str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{Path(path).absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,  # we begin and end transactions ourselves
        check_same_thread=False,  # opened and closed by the thread that uses it, except after a crash of that thread
        cached_statements=256,
    )


def connect_writer(path: str) -> sqlite3.Connection:
    """Return the only connection that writes; opening it changes nothing."""
    return _connect(path, "rw")


def configure_writer(connection: sqlite3.Connection, synchronous: Synchronous) -> None:
    """Set the pragmas that make the file durable and fast."""
    execute = connection.execute
    execute("PRAGMA journal_mode = WAL")
    execute(f"PRAGMA synchronous = {synchronous}")
    execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    execute(f"PRAGMA journal_size_limit = {LOG_LIMIT}")
    execute("PRAGMA temp_store = MEMORY")
    execute("PRAGMA secure_delete = OFF")  # some builds overwrite deleted rows with zeros, which doubles the writing


def wait_for_others(connection: sqlite3.Connection, seconds: float) -> None:
    """Set how long a connection waits for others that hold a lock."""
    connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


def connect_reader(path: str) -> sqlite3.Connection:
    """Return a read-only connection."""
    connection = _connect(path, "ro")
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA cache_size = -1024")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.create_function("lowercase", 1, lowercase, deterministic=True)
    except BaseException:
        connection.close()  # only here SQLite notices that the file is not a database
        raise
    return connection
