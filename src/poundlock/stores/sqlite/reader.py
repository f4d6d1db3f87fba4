"""Readers: a thread with a read-only connection. Each read sees one consistent state of the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from poundlock.records import NamedTuple
from poundlock.stores.sqlite.connect import connect_reader
from poundlock.stores.sqlite.failures import contained, translate
from poundlock.stores.sqlite.gate import Gate
from poundlock.stores.sqlite.identity import Watched
from poundlock.stores.sqlite.worker import Job

Read = Callable[[sqlite3.Cursor], Any]


class Keyed(NamedTuple):
    """A read of one of many things. Those that share a transaction are read together, by a few statements.

    Attributes:
        many: returns what is found, by key; an exception in its place is raised for that key only.
        key: which of them.
        shared: whether all who ask for the same key may get one and the same answer; not if it can be changed.
    """

    many: Callable[[sqlite3.Cursor, Sequence[str]], Mapping[str, Any]]
    key: str
    shared: bool = False


class Reader:
    """Performs reads; everything here runs in the reader's thread.

    Args:
        path: the file; connected at the first read, because many programs never list anything.
        gate: pauses reads for the writer.
        watched: checks that this is still the file that was opened first.
        together: how many reads share a transaction and a check of the file. They were all asked for before it began,
            so each sees what was committed when it was asked for.
    """

    def __init__(self, path: str, gate: Gate, watched: Watched, together: int = 1) -> None:
        self._path = path
        self._gate = gate
        self._watched = watched
        self._together = together
        self._connection: sqlite3.Connection | None = None

    def perform(self, jobs: Sequence[Job]) -> None:
        """Do a batch of reads, a few in each transaction: a short one does not block the log."""
        for start in range(0, len(jobs), self._together):
            with self._gate:
                self._perform(jobs[start : start + self._together])

    def _perform(self, jobs: Sequence[Job]) -> None:
        try:
            self._watched.check()
            if self._connection is None:
                self._connection = connect_reader(self._path)
            cursor = self._connection.cursor()
            cursor.execute("BEGIN")
        except sqlite3.Error as error:
            for job in jobs:
                job.answer = translate(error, self._path)
            return
        for group in _alike(jobs):
            if not self._read(cursor, group) and len(group) > 1:
                for job in group:  # damage that one of them meets must not fail the others
                    self._read(cursor, [job])
        with suppress(sqlite3.Error):  # after some errors there is no transaction left to end
            cursor.execute("ROLLBACK")

    def _read(self, cursor: sqlite3.Cursor, jobs: list[Job]) -> bool:
        """Do one read, or several of the same kind; returns whether it could be done."""
        failed: Exception
        try:
            if not cursor.connection.in_transaction:
                cursor.execute("BEGIN")  # the error of another read has ended it
            work: Keyed | Read = jobs[0].work
            if type(work) is not Keyed:
                jobs[0].answer = work(cursor)  # type: ignore[operator]  # mypy does not narrow by `type(...) is not`
                return True
            found = work.many(cursor, [job.work.key for job in jobs])
        except sqlite3.Error as error:
            failed = translate(error, self._path)
        except BaseException as error:  # noqa: BLE001 - one unreadable row must not fail the other reads
            failed = contained(error)
        else:
            for job in jobs:
                job.answer = found.get(job.work.key)
            return True
        for job in jobs:
            job.answer = failed
        return False

    def idle(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


def _alike(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs in groups that are read together."""
    together: dict[Any, list[Job]] = {}
    alone: list[list[Job]] = []
    taken: set[Keyed] = set()
    for job in jobs:
        work = job.work
        if type(work) is not Keyed or (work in taken and not work.shared):
            alone.append([job])
        else:
            taken.add(work)
            together.setdefault(work.many, []).append(job)
    return [*alone, *together.values()]
