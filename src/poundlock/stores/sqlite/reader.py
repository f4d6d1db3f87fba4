"""Readers: a thread with a read-only connection. Each read sees one consistent state of the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from poundlock.stores.sqlite.connect import connect_reader
from poundlock.stores.sqlite.failures import translate
from poundlock.stores.sqlite.gate import Gate
from poundlock.stores.sqlite.identity import Watched
from poundlock.stores.sqlite.worker import Job

Read = Callable[[sqlite3.Cursor], Any]


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
        for job in jobs:
            read: Read = job.work
            try:
                if not self._connection.in_transaction:
                    cursor.execute("BEGIN")  # the error of another read has ended it
                job.answer = read(cursor)
            except sqlite3.Error as error:
                job.answer = translate(error, self._path)
            except Exception as error:  # noqa: BLE001 - one unreadable row must not fail the other reads
                job.answer = error
        with suppress(sqlite3.Error):  # after some errors there is no transaction left to end
            cursor.execute("ROLLBACK")

    def idle(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
