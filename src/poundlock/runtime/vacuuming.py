"""Deletes what is kept no longer: ended runs, dead letters and expired receipts, in small portions beside the work.

House rules:

1. What is to go is decided by `model/retention.py`, on what a read said. The commit that deletes it names the version
   that was read, so a run that was begun again meanwhile stays.
2. A commit deletes a bounded number of rows, whatever there is: others have their turn between any two.
3. A run that this process works on or somebody here waits for, whose hooks are pending, or whose events are still to be
   delivered, is left for the next pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from poundlock.clock import Timer, sleep_for
from poundlock.errors import OutboxMoved, PoundlockError, RunNotFound, StaleVersion
from poundlock.guard import log_text
from poundlock.model.changes import Changes, Committed, RunDelete, Work
from poundlock.model.outbox import OutboxMove, OutboxQuery, OutboxRow
from poundlock.model.retention import SAME, EndedRun, Retention, Sweep, Vacuumed
from poundlock.ports import Store
from poundlock.runtime.core import Core, log
from poundlock.runtime.entries import Registered
from poundlock.runtime.phases import Phase

EVERY: Final = 3600.0
"""Seconds between the beginnings of two passes."""

_PAGE: Final = 500
"""Runs that one read looks at."""
_RUNS: Final = 100
_ROWS: Final = 500
"""Runs, and rows of their logs, that one commit deletes."""
_BETWEEN: Final = 0.05
"""Seconds between two commits of a pass in the background."""
_CHANGED: Final = (StaleVersion, RunNotFound, OutboxMoved)


class Vacuuming:
    """The passes in the background: one an hour, if a workflow here lets runs go, or the runtime has a retention."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._timer: Timer | None = None
        self._pass: asyncio.Task[None] | None = None

    def watch(self, entry: Registered) -> None:
        """Note a workflow that has been registered."""
        if not retention_of(self._core, entry).keeps_all_runs:
            self.start()

    def start(self) -> None:
        """Plan the next pass, if there is none."""
        if self._timer is None and self._pass is None and not self._core.ending:
            self._timer = self._core.clock.call_later(EVERY, self._begin)

    def stop(self) -> None:
        """Cancel the timer. A pass ends with its next portion, or is cancelled with all tasks."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self._timer = None
        if not self._core.ending:
            self._pass = self._core.tasks.spawn(self._once(), "poundlock-vacuum")

    async def _once(self) -> None:
        core = self._core
        try:
            done = await vacuum_all(core, receipts=True, between=_BETWEEN)
            if done.runs or done.dead_letters:
                log.info("deleted %d ended runs and %d dead letters, as retention says", done.runs, done.dead_letters)
        except PoundlockError as error:
            log.warning("deleting ended runs failed, and is tried again in an hour\n%s", log_text(error))
        finally:
            self._pass = None
            self.start()


def retention_of(core: Core, entry: Registered) -> Retention:
    """Return how long the runs of a workflow are kept."""
    return entry.definition.retention or core.retention


async def vacuum_all(
    core: Core,
    *,
    limit: int | None = None,
    older_than: float | None = None,
    dry_run: bool = False,
    receipts: bool = False,
    between: float = 0.0,
) -> Vacuumed:
    """Delete what is kept no longer by the runtime's retention and those of its workflows.

    Args:
        core: of the runtime.
        limit: how many runs at most; None: all.
        older_than: delete the runs that ended so many seconds ago too, of any workflow, registered or not.
        dry_run: delete nothing, only count.
        receipts: delete expired receipts and keys too; the store does that by itself, but only beside many commits.
        between: seconds to wait between two portions.
    """
    by_workflow = {entry.id: retention_of(core, entry) for entry in core.entries.values()}
    everywhere = None
    if older_than is not None:
        everywhere = Retention(ended_runs=older_than)
        by_workflow = {name: _shorter(rule, older_than) for name, rule in by_workflow.items()}
    async with core.vacuuming:
        return await vacuum_store(
            core.store,
            Sweep(core.clock.now(), by_workflow, everywhere),
            core.retention,
            lambda work: core.commit(work),  # noqa: PLW0108 - it is another one while a run is followed
            limit=limit,
            dry_run=dry_run,
            receipts=receipts and not dry_run,
            keep=lambda: _needed_here(core),
            pause=(lambda: sleep_for(core.clock, between)) if between else None,
            ending=lambda: core.ending,
        )


def _shorter(rule: Retention, age: float) -> Retention:
    """Return a rule by which no ended run is kept longer than `age`."""
    ages = {name: age if own is None else min(own, age) for name, own in rule.ages().items()}
    completed, failed, aborted = ages["completed"], ages["failed"], ages["aborted"]
    return replace(rule, ended_runs=age, completed=completed, failed=failed, aborted=aborted)


def _needed_here(core: Core) -> Callable[[str], bool]:
    """Return what tells whether this process still needs an ended run."""
    wanted = {each.run_id for edges in core.awaited.values() for each in edges}

    def needed(run_id: str) -> bool:
        return (
            core.runs.phase(run_id) is not Phase.ABSENT
            or core.waiters.has_waiters(run_id)
            or run_id in wanted
            or run_id in core.followed
            or run_id in core.watching.feeds
        )

    return needed


async def vacuum_store(
    store: Store,
    sweep: Sweep,
    retention: Retention,
    commit: Callable[[Work], Awaitable[Committed]],
    *,
    limit: int | None = None,
    dry_run: bool = False,
    receipts: bool = False,
    keep: Callable[[], Callable[[str], bool]] = lambda: lambda _run_id: False,
    pause: Callable[[], object] | None = None,
    ending: Callable[[], bool] = lambda: False,
) -> Vacuumed:
    """Delete from a store what is kept no longer; see `vacuum_all`. `commit` writes to that store."""
    work = _Pass(store, sweep, retention, commit, limit, dry_run, keep, pause, ending)
    await work.runs()
    await work.dead_letters()
    if receipts:
        await work.receipts()
    return work.result()


class _Pass:
    """One pass over a store."""

    def __init__(
        self,
        store: Store,
        sweep: Sweep,
        retention: Retention,
        commit: Callable[[Work], Awaitable[Committed]],
        limit: int | None,
        dry_run: bool,
        keep: Callable[[], Callable[[str], bool]],
        pause: Callable[[], object] | None,
        ending: Callable[[], bool],
    ) -> None:
        self._store = store
        self._sweep = sweep
        self._retention = retention
        self._commit = commit
        self._left = float("inf") if limit is None else limit
        self._dry_run = dry_run
        self._keep = keep
        self._pause = pause
        self._ending = ending
        self._done = True
        self._looks: bool | None = None
        self._by_workflow: dict[str, int] = {}
        self._children = self._dead = self._receipts = self._remembered = 0

    def result(self) -> Vacuumed:
        """Return what was deleted."""
        return Vacuumed(
            sum(self._by_workflow.values()),
            self._children,
            self._by_workflow,
            self._dead,
            self._receipts,
            self._remembered,
            self._done,
        )

    async def runs(self) -> None:
        """Go through the ended runs."""
        sweep = self._sweep
        if sweep.idle:
            return
        if sweep.counts:
            cursor: str | None = None
            while True:
                page = await self._store.ended(cursor, _PAGE)
                for run in page.items:
                    sweep.counted(run)
                cursor = page.next_cursor
                if cursor is None:
                    break
        cursor = None
        while not self._ending():
            page = await self._store.ended(cursor, _PAGE)
            await self._page(page.items)
            cursor = page.next_cursor
            if cursor is None or not self._done:
                return
        self._done = False

    async def _page(self, runs: Iterable[EndedRun]) -> None:
        sweep, needed = self._sweep, self._keep()
        pending: dict[str, set[str]] = {}
        """By workflow, the runs whose hooks are pending; whatever ends from now on is not on this page."""
        portion: list[EndedRun] = []
        rows = 0
        for run in runs:
            if not sweep.leaves(run) or needed(run.run_id):
                continue
            if run.workflow_id not in pending:
                pending[run.workflow_id] = set(await self._store.pending_hooks(run.workflow_id))
            if run.run_id in pending[run.workflow_id]:
                continue
            if self._left <= 0 and run.parent_id is None:  # children go with their parent, whatever the limit
                self._done = False
                continue
            self._left -= 1
            # Noted at once: its children on this page go with it.
            sweep.deleted(run)
            portion.append(run)
            rows += run.version
            if len(portion) == _RUNS or rows >= _ROWS:
                await self._delete(portion)
                portion, rows = [], 0
                needed = self._keep()
        if portion:
            await self._delete(portion)
        if not self._dry_run:
            sweep.turn_page()

    async def _delete(self, runs: list[EndedRun]) -> None:
        letters: dict[str, list[OutboxRow]] = {}
        if await self._any_undelivered():
            runs = [run for run in runs if await self._is_free(run, letters)]
        if not self._dry_run and runs:
            try:
                await self._commit(self._changes(runs, letters))
            except _CHANGED:
                runs = [run for run in runs if await self._alone(run, letters)]
            if self._pause is not None:
                await self._pause()  # type: ignore[misc]  # an awaitable
        for run in runs:
            self._by_workflow[run.workflow_id] = self._by_workflow.get(run.workflow_id, 0) + 1
            self._children += run.parent_id is not None
            self._dead += len(letters.get(run.run_id, ()))

    async def _any_undelivered(self) -> bool:
        """Whether any run has events that are to be delivered, or dead letters; so most passes look at no outbox."""
        if not self._dry_run:
            return any(self._store.undelivered)
        if self._looks is None:  # what only reads a file does not count them
            counts = await self._store.stats()
            self._looks = bool(counts.get("outbox") or counts.get("dead_letters"))
        return self._looks

    async def _is_free(self, run: EndedRun, letters: dict[str, list[OutboxRow]]) -> bool:
        """Whether all events of a run are delivered or given up; adds the dead letters that go with it."""
        if run.parent_id is not None and not self._sweep.leaves(run):  # its parent stays
            self._sweep.stays(run)
            return False
        if await self._store.outbox(OutboxQuery(run.run_id, limit=1)):
            self._sweep.stays(run)
            return False
        if self._retention.dead_letters == SAME:
            last = await self._last_letters(run)
            if last is None:
                self._sweep.stays(run)
                return False
            letters[run.run_id] = last
        return True

    async def _last_letters(self, run: EndedRun) -> list[OutboxRow] | None:
        """Return the dead letters that go in the commit of their run: the last ones, the others are deleted before it.

        None: the run has to stay, because one of them was replayed, or the pass ends.
        """
        query = OutboxQuery(run.run_id, dead=True, limit=_ROWS)
        while len(rows := await self._store.outbox(query)) == _ROWS:
            if self._ending():
                return None
            if not self._dry_run:
                moves = tuple(OutboxMove(row.seq, row.version) for row in rows)
                try:
                    await self._commit(Changes(outbox=moves, now=self._sweep.now))
                except OutboxMoved:
                    return None
                if self._pause is not None:
                    await self._pause()  # type: ignore[misc]  # an awaitable
            self._dead += len(rows)
            query = query._replace(after=rows[-1].seq)
        return rows

    def _changes(self, runs: Collection[EndedRun], letters: Mapping[str, list[OutboxRow]]) -> Changes:
        moves = [OutboxMove(row.seq, row.version) for run in runs for row in letters.get(run.run_id, ())]
        deletes = tuple(RunDelete(run.run_id, run.version) for run in runs)
        return Changes(deletes=deletes, outbox=tuple(moves), now=self._sweep.now)

    async def _alone(self, run: EndedRun, letters: Mapping[str, list[OutboxRow]]) -> bool:
        """Delete one run; returns whether it could be. One whose parent stays does too."""
        if run.parent_id is None or self._sweep.leaves(run):
            try:
                await self._commit(self._changes([run], letters))
            except _CHANGED:
                pass
            else:
                return True
        self._sweep.stays(run)
        return False

    async def dead_letters(self) -> None:
        """Delete the dead letters that are too old."""
        age, now = self._retention.dead_letter_age, self._sweep.now
        if age is None:
            return
        after = 0
        while not self._ending():
            rows = await self._store.outbox(OutboxQuery(dead=True, after=after, limit=_ROWS))
            if not rows:
                return
            after = rows[-1].seq
            old = [row for row in rows if row.dead_at is not None and row.dead_at + age <= now]
            for row in old:
                if not self._dry_run:
                    try:
                        await self._commit(Changes(outbox=(OutboxMove(row.seq, row.version),), now=now))
                    except OutboxMoved:
                        continue  # it was replayed
                self._dead += 1

    async def receipts(self) -> None:
        """Have the store delete expired receipts and keys."""
        begin = True
        while not self._ending():
            pruned = await self._store.prune(self._sweep.now, _ROWS, begin=begin)
            begin = False
            self._receipts += pruned.receipts
            self._remembered += pruned.remembered
            if pruned.done:
                return
            if self._pause is not None:
                await self._pause()  # type: ignore[misc]  # an awaitable
