"""SqliteStore: the port on a SQLite file. Each method passes its work to a thread.

House rules: the event loop never uses the disk. Writes go through the writer's thread; reads go through readers'
threads, or are answered from the index where every emitted event needs them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from poundlock.clock import Clock, SystemClock
from poundlock.errors import StoreUnavailable
from poundlock.model.changes import Committed, Token, Work
from poundlock.model.events import Event, is_text
from poundlock.model.holds import HeldRow, Hold, HoldKey
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.operator_pause import WorkflowPause
from poundlock.model.outbox import OutboxQuery, OutboxRow
from poundlock.model.receipts import ReceiptLine
from poundlock.model.retention import EndedRun
from poundlock.model.runs import Checkpoint, LogRow, Message, RunQuery, RunRecord
from poundlock.model.schedules import ScheduleRow
from poundlock.model.waits import event_keys
from poundlock.ports import AtHand, Claims, Page, Pruned
from poundlock.stores.keeping import RECEIPTS_KEPT
from poundlock.stores.sqlite import reads
from poundlock.stores.sqlite.apply import Transaction
from poundlock.stores.sqlite.claims import claim
from poundlock.stores.sqlite.connect import Synchronous
from poundlock.stores.sqlite.gate import Gate
from poundlock.stores.sqlite.identity import Watched
from poundlock.stores.sqlite.index import Index, Pair
from poundlock.stores.sqlite.lock import OwnerLock
from poundlock.stores.sqlite.opening import Opened, open_owned, open_readonly, size_of, tidy
from poundlock.stores.sqlite.reader import Keyed, Reader
from poundlock.stores.sqlite.worker import Worker
from poundlock.stores.sqlite.writer import Writer

_NO_LOAD = (Load(), None)
_TOGETHER = 64
"""Look-ups that share a transaction: few enough not to hold up the log, and as many as one statement looks up."""
log = logging.getLogger("poundlock.stores")
T = TypeVar("T")


class SqliteStore:
    """Keeps everything in one SQLite file, owned by one runtime at a time.

    Args:
        path: the file; created if it does not exist. Its write-ahead log and its lock, `<path>.lock`, are next to it.
        synchronous: "FULL": acknowledged commits survive a power failure. "NORMAL": they survive a crash of the
            process, but a power failure may lose the last ones. "OFF": a power failure may damage the file.
        readonly: only read, also while a runtime owns the file: no lock, no writes, and no runs are released.
        clock: its `busy` is called while work is in progress; default: the clock of the runtime that opens the store.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        synchronous: Synchronous = "FULL",
        readonly: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.path = str(path)
        self.store_id = ""
        self.durability = "fsynced" if synchronous == "FULL" else "committed"
        self.readonly = readonly
        self.opened_before: tuple[float, int] | None = None
        """When it was last opened by a runtime before this opening, and how many bytes it had; None: never."""
        self._synchronous: Synchronous = synchronous
        self._clock: Clock = clock or SystemClock()
        self._has_own_clock = clock is not None
        self._index = Index((), ())
        self._lock: OwnerLock | None = None
        self._writer: Writer | None = None
        self._writing: Worker | None = None
        self._lookups: Worker | None = None
        self._lists: Worker | None = None
        self._file = self.path  # the real path after opening
        self._kept = (RECEIPTS_KEPT, RECEIPTS_KEPT)
        self._refusal = f"the store '{self.path}' is not open: await open() first"

    # ------------------------------------------------------------------------------------------------ lifetime
    def adopt(self, clock: Clock) -> None:
        """Use a runtime's clock, unless this store was created with one, or is open."""
        if not self._has_own_clock and self._lookups is None:
            self._clock = clock

    async def open(self, worker: str) -> None:  # noqa: ARG002 - for stores that several workers share
        """Lock the file, check or create its schema, and release the runs of dead owners."""
        if self._lookups is not None:
            raise StoreUnavailable(f"the store '{self.path}' is open already: use it as it is", store=self.path)
        gate = Gate()
        if self.readonly:
            self._file, self.store_id, self.opened_before = await asyncio.to_thread(open_readonly, self.path)
            watched = Watched(self._file, log=False)
            self._refusal = f"the store '{self.path}' was opened to be read: ask the runtime that owns it"
        else:
            opened = await self._take_over()
            self._file = opened.path
            _log_size(opened, self._clock.now())
            self._lock = opened.lock
            self.opened_before = opened.before
            self.store_id = opened.store_id
            self._index = opened.index
            watched = Watched(self._file)
            self._writer = Writer(
                opened.connection,
                opened.index,
                opened.heads,
                self._file,
                gate,
                opened.index.apply,
                self._clock.now,
                watched,
            )
            self._writer.retain(*self._kept)
            self._writing = Worker("poundlock-writer", self._writer, self._clock)
        # Lists for people may take long; reads for runs and events must not wait behind them.
        self._lookups = Worker("poundlock-lookups", Reader(self._file, gate, watched, _TOGETHER), self._clock)
        self._lists = Worker("poundlock-lists", Reader(self._file, gate, watched), self._clock)
        _open_stores.add(self)

    async def _take_over(self) -> Opened:
        now = self._clock.now()
        opening = asyncio.get_running_loop().run_in_executor(None, open_owned, self.path, self._synchronous, now)
        self._clock.busy(1)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread continues; what it opens then has no owner.
            opening.add_done_callback(_abandon)
            raise
        finally:
            self._clock.busy(-1)

    async def close(self) -> None:
        """Finish what was submitted, move the log into the file, and let the next owner in."""
        _open_stores.discard(self)
        self._refusal = f"the store '{self.path}' was closed: open it again"
        workers = (self._lookups, self._lists, self._writing)  # the writer last: it tidies the file
        self._lookups = self._lists = self._writing = None
        interrupted: asyncio.CancelledError | None = None
        for worker in workers:
            try:
                if worker is not None:
                    await worker.stop()
            except asyncio.CancelledError as cancelled:
                interrupted = cancelled
        if self._lock is not None:
            self._lock.release()  # not before the writer has closed the file
            self._lock = None
        elif workers[0] is not None:
            await asyncio.to_thread(tidy, self._file)
        if interrupted is not None:
            raise interrupted

    @property
    def size(self) -> int:
        """Bytes of the file and its write-ahead log. Free space is used again, so the file rarely becomes smaller."""
        return size_of(self._file)

    def _unavailable(self) -> StoreUnavailable:
        return StoreUnavailable(self._refusal, store=self.path)

    # -------------------------------------------------------------------------------------------------- writes
    def commit(self, work: Work) -> asyncio.Future[Committed]:
        """Queue a unit of work for the next transaction; the answer comes when that is durable."""
        writing = self._writing
        if writing is None:
            raise self._unavailable()
        return writing.submit(work)

    async def written_behind(self) -> None:
        """Wait for all queued jobs."""
        if self._writing is not None and not self._writing.idle:
            await self._writing.submit(None)

    async def claim(self, worker: str, workflows: Mapping[str, int], now: float, limit: int) -> Claims:
        """Claim ready and due runs."""
        if self._writing is None:
            raise self._unavailable()
        wanted = dict(workflows)

        def operation(transaction: Transaction) -> Claims:
            return claim(transaction, worker, wanted, now, limit)

        return await self._writing.submit(operation)  # type: ignore[no-any-return]  # the operation's result

    # --------------------------------------------------------------------------------------------------- reads
    async def _read(self, read: Callable[[sqlite3.Cursor], T]) -> T:
        return await self._look_up(read)  # type: ignore[no-any-return]  # what `read` returns

    def _look_up(self, read: Keyed | Callable[[sqlite3.Cursor], Any]) -> asyncio.Future[Any]:
        if self._lookups is None:
            raise self._unavailable()
        return self._lookups.submit(read)

    async def _list(self, read: Callable[[sqlite3.Cursor], T]) -> T:
        if self._lists is None:
            raise self._unavailable()
        return await self._lists.submit(read)  # type: ignore[no-any-return]  # what `read` returns

    def read_loads(self, pairs: Sequence[tuple[str, str]]) -> Awaitable[list[tuple[Load, Token | None]]]:
        """Answer from the index; from the file if this store is read-only."""
        if self._writing is None:
            return self._read(lambda cursor: reads.loads(cursor, pairs))
        loads = self._index.loads
        return AtHand([loads.get(pair, _NO_LOAD) for pair in pairs])

    def waiting_loads(self, workflows: Collection[str], queued: bool) -> AtHand[tuple[Pair, Load]]:
        """Answer from the index; a store that is read-only has no runs that could go on."""
        loads = {} if self._writing is None else self._index.loads
        pairs = loads if queued else self._index.returning
        found = [(pair, loads[pair][0]) for pair in pairs if pair[0] in workflows]
        return AtHand([each for each in found if each[1].returning or (queued and each[1].queued)])

    def match_waits(self, event: Event) -> Awaitable[list[RunRecord]]:
        """Look the waits up; if the index has no matching shape, answer without reading the file."""
        if self._writing is None:
            return self._matched_in_file(event)
        shapes = self._index.shapes
        keys = event_keys(shapes, event) if shapes else ()
        return self._read(lambda cursor: reads.under_keys(cursor, keys)) if keys else AtHand()

    async def _matched_in_file(self, event: Event) -> list[RunRecord]:
        keys = event_keys(await self._read(reads.shapes), event)
        return await self._read(lambda cursor: reads.under_keys(cursor, keys)) if keys else []

    async def load(self, run_id: str) -> RunRecord | None:
        """Return a run's record."""
        return await self._read(lambda cursor: reads.record(cursor, run_id)) if is_text(run_id) else None

    async def checkpoint(self, run_id: str) -> Checkpoint | None:
        """Return all that is needed to continue a run."""
        if not is_text(run_id):
            return None
        return await self._look_up(Keyed(reads.checkpoints, run_id))  # type: ignore[no-any-return]  # one of those

    async def status(self, run_id: str) -> RunStatus | None:
        """Return a run's status."""
        if not is_text(run_id):
            return None
        return await self._look_up(Keyed(reads.statuses, run_id, shared=True))  # type: ignore[no-any-return]  # one of those

    async def unfit(self, workflow: str) -> list[RunRecord]:
        """Return paused runs with an error."""
        return await self._read(lambda cursor: reads.unfit(cursor, workflow))

    async def paused_in_slot(self, workflow: str) -> list[RunRecord]:
        """Return paused runs that hold a slot."""
        return await self._read(lambda cursor: reads.paused_in_slot(cursor, workflow))

    async def inbox(self, run_id: str, after: int) -> list[Message]:
        """Return unconsumed messages."""
        return await self._read(lambda cursor: reads.inbox(cursor, run_id, after))

    async def next_due(self, workflows: Collection[str]) -> float | None:
        """Return the earliest wake time."""
        wanted = list(workflows)
        return await self._read(lambda cursor: reads.next_due(cursor, wanted))

    async def pauses(self) -> list[WorkflowPause]:
        """Return the paused workflows."""
        return await self._read(reads.pauses)

    async def receipt(self, source: str, event_id: str) -> tuple[ReceiptLine, ...] | None:
        """Return the lines of the last receipt of an event."""
        return await self._read(lambda cursor: reads.receipt(cursor, source, event_id))

    @property
    def holding(self) -> int:
        """How many holds of triggers there are; 0 if it is read-only."""
        return self._index.holding

    def read_holds(self, keys: Sequence[HoldKey]) -> Awaitable[list[Hold | None]]:
        """Return what triggers hold; without reading the file if nothing is held at all."""
        if self._writing is not None and not self._index.holding:
            return AtHand([None] * len(keys))
        return self._read(lambda cursor: reads.holds(cursor, keys))

    async def held_events(self, key: HoldKey, limit: int) -> list[HeldRow]:
        """Return events of a hold."""
        return await self._read(lambda cursor: reads.held(cursor, key, limit))

    async def due_holds(self, workflows: Collection[str], limit: int) -> list[tuple[float, HoldKey]]:
        """Return when holds end."""
        wanted = list(workflows)
        return await self._read(lambda cursor: reads.due_holds(cursor, wanted, limit))

    @property
    def undelivered(self) -> tuple[int, int]:
        """How many events are still to be delivered, and how many dead letters there are; 0 if it is read-only."""
        return self._index.undelivered

    async def outbox(self, query: OutboxQuery) -> list[OutboxRow]:
        """Return rows of the outbox."""
        return await self._read(lambda cursor: reads.outbox(cursor, query))

    async def pending_hooks(self, workflow: str) -> list[str]:
        """Return the ended runs of a workflow whose hooks are pending."""
        found = await self._read(lambda cursor: reads.pending_hooks(cursor, workflow))
        called = set(() if self._writer is None else self._writer.behind)
        return [run_id for run_id in found if run_id not in called]

    async def hooks_called(self, run_ids: Collection[str]) -> None:
        """Note it for the next transaction; on a closed store it has no effect."""
        if self._writing is not None and self._writer is not None:
            self._writer.forget_hooks(run_ids)

    async def schedules(self, workflow_id: str) -> dict[str, ScheduleRow]:
        """Return the rows of a workflow's time triggers."""
        return await self._read(lambda cursor: reads.schedules(cursor, workflow_id))

    async def find(self, query: RunQuery) -> Page[RunRecord]:
        """Return records, newest first."""
        return await self._list(lambda cursor: reads.find(cursor, query))

    async def history(
        self, run_id: str, last: int | None = None, after: int = 0, limit: int | None = None
    ) -> list[LogRow]:
        """Return log rows: all, the last ones, or those with entries after a sequence."""
        if not is_text(run_id):
            return []
        return await self._list(lambda cursor: reads.history(cursor, run_id, last, after, limit))

    async def ended(self, cursor: str | None, limit: int) -> Page[EndedRun]:
        """Return ended runs in the order of their creation."""
        after = 0 if cursor is None else int(cursor)
        return await self._list(lambda found: reads.ended(found, after, limit))

    async def prune(self, now: float, limit: int, *, begin: bool) -> Pruned:
        """Delete expired keys, receipts, and what deleted runs have left, in a transaction."""
        writer, writing = self._writer, self._writing
        if writer is None or writing is None:
            raise self._unavailable()

        def operation(transaction: Transaction) -> Pruned:
            return writer.prune(transaction, now, limit, begin=begin)

        return await writing.submit(operation)  # type: ignore[no-any-return]  # the operation's result

    def retain(self, receipts: float, unwanted: float) -> None:
        """Keep receipts for so long from now on."""
        self._kept = (receipts, unwanted)
        if self._writer is not None:
            self._writer.retain(*self._kept)

    async def stats(self) -> dict[str, int]:
        """Return counters; `syncs` counts transactions, each of which is one sync of the disk when durable."""
        figures = await self._list(reads.counts)
        writer = self._writer
        commits, syncs = (0, 0) if writer is None else (writer.commits, writer.syncs)
        return {**figures, "bytes": self.size, "commits": commits, "syncs": syncs}

    # ---------------------------------------------------------------------------------------------------- fork
    def _forked(self) -> None:
        """Disable the store in a forked child: it has no threads, and two processes must not share a connection."""
        self._refusal = f"the store '{self.path}' belongs to the process this one was forked from: open another there"
        # The connections are neither used nor closed here: they stay referenced by their performers.
        self._inherited = (self._writing, self._lookups, self._lists)
        self._writing = self._lookups = self._lists = None
        if self._lock is not None:
            self._lock.release()  # a copy of the descriptor would hold the lock after its owner has ended
            self._lock = None


def _log_size(opened: Opened, now: float) -> None:
    size = size_of(opened.path)
    if opened.before is None:
        log.info("the store '%s' is new", opened.path)
        return
    time, before = opened.before
    log.info(
        "the store '%s' has %.1f MB, %+.1f MB since it was opened %.1f hours ago; ended runs are kept",
        opened.path,
        size / 1e6,
        (size - before) / 1e6,
        (now - time) / 3600,
    )


def _abandon(opening: asyncio.Future[Opened]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abandon()


_open_stores: WeakSet[SqliteStore] = WeakSet()


def _after_fork() -> None:
    for store in list(_open_stores):
        store._forked()  # noqa: SLF001 - our own class


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
