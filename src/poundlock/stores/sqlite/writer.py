"""The writer: all queued jobs go into one transaction and are acknowledged after one sync.

House rules:

1. Nothing is acknowledged before COMMIT has returned, and only if the path still leads to the file that was written.
2. A batch is written as a whole. If a statement fails unexpectedly, the batch is rolled back and repeated with a
   savepoint per change, so that only the faulty one fails. Savepoints cost a fifth of the speed, so this is the
   exception.
3. If the store itself fails, all callers of the batch get the error, and nothing of it was written. After a full disk
   the connection can still be used; after a failed sync it is never used again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from poundlock.model.changes import Changes, Committed, RunCreate, RunMove
from poundlock.ports import Pruned
from poundlock.stores.sqlite import sql
from poundlock.stores.sqlite.apply import Transaction
from poundlock.stores.sqlite.connect import BUSY_SECONDS, LOG_LIMIT, wait_for_others
from poundlock.stores.sqlite.failures import of_the_store, poisons, translate
from poundlock.stores.sqlite.gate import Gate
from poundlock.stores.sqlite.heads import Heads
from poundlock.stores.sqlite.identity import Watched
from poundlock.stores.sqlite.index import Effects, Index
from poundlock.stores.sqlite.pruning import PASS_EVERY, Pruner
from poundlock.stores.sqlite.worker import Job

_LOOK_EVERY: Final = 16  # batches
_PATIENCE: Final = 0.02  # seconds
_BITE: Final = 50  # rows that a transaction looks at besides its own, and for each change in it:
_BITE_PER_JOB: Final = 4  # more than it adds, or the pruning would never be done
_IDLE_BITE: Final = 500  # rows, while nothing else is to be done
_BETWEEN_BITES: Final = 0.05  # seconds
_AFTER_TROUBLE: Final = 60.0  # seconds
_WITHOUT: Final = 1000  # batches without pruning after trouble


class Writer:
    """Performs batches on one connection; everything here runs in the writer's thread.

    Args:
        connection: the only one that writes.
        index: what is active in the file; this thread keeps its own copy, of committed data.
        heads: what is known of its runs.
        path: path of the file.
        gate: all reads of this process pass it.
        acknowledged: called on the event loop with the effects of a batch, before its waiters continue.
        now: returns the time when no written change has one.
        watched: checks that the path still leads to the file.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        index: Index,
        heads: Heads,
        path: str,
        gate: Gate,
        acknowledged: Callable[[Effects], None],
        now: Callable[[], float],
        watched: Watched,
    ) -> None:
        self.commits = 0
        self.syncs = 0
        self._connection = connection
        self._cursor = connection.cursor()
        self._index = Index(index.loads.items(), index.shapes.items())
        self._path = path
        self._watched = watched
        self._gate = gate
        self._acknowledged = acknowledged
        self._now = now
        self._pruner = Pruner(connection)
        self._pruned = self._asked_to_prune = False
        self._prune_after = 0
        self._broken: sqlite3.Error | None = None
        self._batches = 0
        self._heads = heads
        self._behind: deque[str] = deque()

    def forget_hooks(self, run_ids: Collection[str]) -> None:
        """Note, from any thread, that the hooks of these runs are pending no more; written with the next batch."""
        self._behind.extend(run_ids)

    @property
    def behind(self) -> Collection[str]:
        """The runs whose hooks were called, as far as that is not written yet."""
        return self._behind

    def perform(self, jobs: Sequence[Job]) -> Callable[[], None] | None:
        """Do a batch of jobs: units of work, operations, or None for a caller that only waits for earlier jobs."""
        if self._broken is not None:
            self._fail(jobs, self._broken)
            return None
        work = [job for job in jobs if job.work is not None]
        if not work:
            return None
        try:
            effects = self._write(work)
            self._watched.check()
        except sqlite3.Error as error:
            self._fail(work, error)
            return None
        commits = 0
        for job in work:
            if type(job.answer) is Committed:
                commits += 1
                if isinstance(job.work, Changes):
                    job.work.committed = job.answer
        self.commits += commits
        self._checkpoint_wal()
        return lambda: self._acknowledged(effects)

    def _write(self, jobs: Sequence[Job]) -> Effects:
        try:
            return self._transact(jobs, _together)
        except BaseException as error:  # only the faulty change may get the error
            if not of_the_store(error):
                return self._transact(jobs, _one_by_one)
            if not self._pruned or poisons(error):
                raise
            # The pruning in the same transaction may be what the disk has no space for: repeat without it.
            self._prune_after = self._batches + _WITHOUT
            return self._write(jobs)

    def _transact(self, jobs: Sequence[Job], apply: Callable[[Transaction, Sequence[Job]], None]) -> Effects:
        execute = self._cursor.execute
        before = self._connection.total_changes
        self._pruned = self._asked_to_prune = False
        execute("BEGIN IMMEDIATE")
        try:
            transaction = Transaction(self._cursor, self._heads, self._index.loads)
            apply(transaction, jobs)
            transaction.finish()
            called = self._write_behind()
            if self._connection.total_changes != before:
                self._prune_beside(jobs)
            execute("COMMIT")
            for _ in called:
                self._behind.popleft()
        except BaseException:
            self._heads.forget()
            if self._pruned or self._asked_to_prune:
                self._pruner.taken_back()
            # SQLite has rolled back by itself after some errors.
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    execute("ROLLBACK")
            raise
        if self._connection.total_changes != before:  # if all were refused, there was nothing to sync
            self.syncs += 1
        self._index.apply(transaction.effects)
        self._heads.settle()
        if transaction.leftovers and self._pruner.done:
            self._pruner.begin_anew()
        return transaction.effects

    def _prune_beside(self, jobs: Sequence[Job]) -> None:
        """Prune a little in a transaction that is synced anyway."""
        now = _time_of(jobs[-1].work)
        if now and self._pruner.wants(now) and self._batches >= self._prune_after:
            self._pruned = True
            self._pruner.bite(self._cursor.execute, now, _BITE + _BITE_PER_JOB * len(jobs))

    def retain(self, receipts: float, unwanted: float) -> None:
        """Set how many seconds receipts are kept."""
        self._pruner.kept, self._pruner.unwanted = receipts, unwanted

    def prune(self, transaction: Transaction, now: float, rows: int, *, begin: bool) -> Pruned:
        """Take a bite inside a transaction: an operation for `perform`."""
        if begin:
            self._pruner.begin_anew()
        self._asked_to_prune = True
        deleted = self._pruner.bite(transaction.execute, now, rows)
        return Pruned(deleted.get("receipts", 0), deleted.get("remembered", 0), self._pruner.done)

    def idle(self) -> float | None:
        """Prune while no job is queued."""
        if self._broken is not None:
            return None
        now = self._now()
        if not self._pruner.wants(now) and not self._behind:
            return min(self._pruner.due_in(now), PASS_EVERY)
        try:
            self._watched.check()
            wait_for_others(self._connection, 0)
            self._prune_alone(now)
            wait_for_others(self._connection, BUSY_SECONDS)
        except sqlite3.Error as error:
            if poisons(error):
                self._broken = error
                return None
            with contextlib.suppress(sqlite3.Error):
                wait_for_others(self._connection, BUSY_SECONDS)
            return _AFTER_TROUBLE  # another program writes, or the disk is full: nothing is lost by waiting
        return _BETWEEN_BITES if self._pruner.wants(now) else PASS_EVERY

    def _prune_alone(self, now: float) -> None:
        execute = self._cursor.execute
        before = self._connection.total_changes
        execute("BEGIN IMMEDIATE")
        try:
            called = self._write_behind()
            if self._pruner.wants(now):
                self._pruner.bite(execute, now, _IDLE_BITE)
            execute("COMMIT")
            for _ in called:
                self._behind.popleft()
        except BaseException:
            self._pruner.taken_back()
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    execute("ROLLBACK")
            raise
        if self._connection.total_changes != before:
            self.syncs += 1

    def _write_behind(self) -> list[str]:
        """Write whose hooks were called, inside a transaction; they are taken from the front once it is committed."""
        called = list(self._behind)
        if called:
            self._cursor.executemany(sql.DROP_PENDING_HOOKS, [(run_id,) for run_id in called])
        return called

    def _checkpoint_wal(self) -> None:
        """Restart the write-ahead log if reads without a pause have kept SQLite from doing that by itself."""
        self._batches += 1
        gate = self._gate
        if gate.wanted:
            if gate.empty:
                with contextlib.suppress(sqlite3.Error):  # another program may be reading: it is tried again later
                    wait_for_others(self._connection, _PATIENCE)
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                wait_for_others(self._connection, BUSY_SECONDS)
                gate.open()
        elif self._batches % _LOOK_EVERY == 0:
            with contextlib.suppress(OSError):
                if os.stat(f"{self._path}-wal").st_size > LOG_LIMIT:  # noqa: PTH116 - paths are texts, as SQLite has them
                    gate.close()

    def _fail(self, jobs: Sequence[Job], error: sqlite3.Error) -> None:
        if poisons(error):
            self._broken = error
        for job in jobs:
            job.answer = translate(error, self._path)

    def close(self) -> None:
        """Move the content of the log into the database file and close the connection."""
        try:
            if self._broken is None:
                # A failure here loses nothing: the log is read when the file is opened again.
                with contextlib.suppress(sqlite3.Error):
                    if self._behind:
                        self._prune_alone(self._now())
                    self._pruner.save(self._connection)
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._connection.close()


def _time_of(work: Any) -> float:
    """Return when a unit of work was made; 0 if that is not known, or it is an operation."""
    if type(work) is RunMove:
        return work.updated_at
    if type(work) is RunCreate:
        return work.start.updated_at
    return work.now if isinstance(work, Changes) else 0.0


def _together(transaction: Transaction, jobs: Sequence[Job]) -> None:
    """Apply all jobs in their order."""
    transaction.prepare([job.work for job in jobs])
    apply = transaction.apply
    for job in jobs:
        job.answer = apply(job.work)


def _one_by_one(transaction: Transaction, jobs: Sequence[Job]) -> None:
    """Apply each job under a savepoint of its own."""
    execute = transaction.execute
    for job in jobs:
        transaction.effects = Effects()
        execute("SAVEPOINT one")
        try:
            job.answer = transaction.apply(job.work)
            transaction.flush()
        except BaseException as error:
            if of_the_store(error):
                raise
            execute("ROLLBACK TO one")
            transaction.discard()
            job.answer = error
        execute("RELEASE one")
        transaction.before.merge(transaction.effects)
    transaction.effects = transaction.before
