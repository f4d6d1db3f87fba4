"""Readers: a thread with a connection that can only read. A batch of reads sees one moment of the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from poundlock.stores.sqlite.connect import connect_reader
from poundlock.stores.sqlite.failures import translate
from poundlock.stores.sqlite.worker import Job

Read = Callable[[sqlite3.Cursor], Any]


class Reader:
    """Performs reads; everything here runs in the reader's thread.

    Args:
        path: the file; connected to at the first read, as many programs never list anything.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def perform(self, jobs: Sequence[Job]) -> None:
        """Do a batch of reads."""
        try:
            if self._connection is None:
                self._connection = connect_reader(self._path)
            cursor = self._connection.cursor()
            cursor.execute("BEGIN")
        except sqlite3.Error as error:
            for job in jobs:
                job.answer = translate(error, self._path)
            return
        try:
            for job in jobs:
                self._perform(job, cursor)
        finally:
            with suppress(sqlite3.Error):  # a damaged file: the jobs that met the damage were told
                cursor.execute("ROLLBACK")

    def _perform(self, job: Job, cursor: sqlite3.Cursor) -> None:
        read: Read = job.work
        try:
            job.answer = read(cursor)
        except sqlite3.Error as error:
            job.answer = translate(error, self._path)
        except Exception as error:  # noqa: BLE001 - one unreadable row must not fail the other reads of the batch
            job.answer = error

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
