"""What SQLite's errors become, and which of them end a connection."""

from __future__ import annotations

import sqlite3

import pytest

from poundlock.errors import StoreCorrupt, StoreFull, StoreUnavailable
from poundlock.stores.sqlite import opening
from poundlock.stores.sqlite.failures import of_the_store, poisons, translate

# name: what it becomes, whether it is the store that failed, whether the connection is over
MEANING = {
    "SQLITE_FULL": (StoreFull, True, False),
    "SQLITE_IOERR_WRITE": (StoreFull, True, False),
    "SQLITE_IOERR_SHMSIZE": (StoreFull, True, False),
    "SQLITE_CORRUPT": (StoreCorrupt, True, True),
    "SQLITE_CORRUPT_INDEX": (StoreCorrupt, True, True),
    "SQLITE_NOTADB": (StoreCorrupt, True, True),
    "SQLITE_IOERR_FSYNC": (StoreUnavailable, True, True),
    "SQLITE_IOERR_READ": (StoreUnavailable, True, True),
    "SQLITE_IOERR_TRUNCATE": (StoreUnavailable, True, True),
    "SQLITE_BUSY": (StoreUnavailable, True, False),
    "SQLITE_BUSY_SNAPSHOT": (StoreUnavailable, True, False),
    "SQLITE_LOCKED": (StoreUnavailable, True, False),
    "SQLITE_READONLY": (StoreUnavailable, True, False),
    "SQLITE_CANTOPEN": (StoreUnavailable, True, False),
    "SQLITE_CONSTRAINT_UNIQUE": (StoreUnavailable, False, False),
    "SQLITE_MISUSE": (StoreUnavailable, False, False),
}


@pytest.mark.parametrize("name", MEANING)
def test_each_error_has_its_meaning(name):
    """An error of SQLite's becomes the error of the port that tells what to do, and tells whether to go on."""
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    kind, store, over = MEANING[name]
    told = translate(error, "runs.db")
    assert (type(told), of_the_store(error), poisons(error)) == (kind, store, over)
    assert "'runs.db'" in told.message
    assert told.fields == {"store": "runs.db"}


def test_an_error_without_a_code_is_a_statements():
    """An error that SQLite gave no code, such as a value it cannot bind, is not taken for a broken store."""
    error = sqlite3.InterfaceError("bad value")
    assert not of_the_store(error)
    assert not of_the_store(OverflowError())
    assert not poisons(error)
    assert isinstance(translate(error, "runs.db"), StoreUnavailable)


async def test_a_sqlite_that_is_too_old_is_told(opened, path, monkeypatch):
    """With a SQLite older than the schema needs, opening says so and makes nothing."""
    monkeypatch.setattr(opening, "_OLDEST", (9, 1))
    with pytest.raises(StoreUnavailable, match=r"the store needs 9\.1: use a newer Python"):
        await opened()
    assert list(path.parent.iterdir()) == []
