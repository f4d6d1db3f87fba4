"""Who watches runs of this runtime: a feed for each run that is followed, and the sinks.

House rules: nothing here is the truth, the store is. A feed says that there is something new, and has what came last,
so that those who keep up need not read the store. While nobody watches, commits go straight to the store and pass
nothing here. Nobody who watches is waited for, and what is kept for them is bounded.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from poundlock.errors import PoundlockError
from poundlock.model.changes import Changes, Committed, RunCreate, RunMove, Work
from poundlock.model.runs import LogRow, StepProgress
from poundlock.ports import Store
from poundlock.records import NamedTuple
from poundlock.runtime.sinks import SinkQueue
from poundlock.runtime.waiters import Waiter

MOST_ROWS: Final = 64
"""Log rows that are kept for the followers of one run; who is further behind reads the store."""
MOST_TEXT: Final = 262_144
"""Characters of log that are kept for the followers of one run."""
MOST_REPORTS: Final = 256
"""Reports of steps that are kept for the followers of one run; who is further behind misses the older ones."""

Commit = Callable[[Work], Awaitable[Committed]]


class Report(NamedTuple):
    """What a step has reported. `seq`: stored entries of its run by then; `path_json`: of the step, as JSON text."""

    seq: int
    path_json: str
    progress: StepProgress


class Feed:
    """What happens in one run at the moment. Followers keep their own places in it.

    Attributes:
        run_id: whose it is.
        followers: how many there are.
        news: how many commits of the run were noticed.
        reports: how many reports of its steps came.
        end: the result of the run at its end, as one who waits for it gets it; None while no follower waits.
        ends: how often the run was seen to end, by a commit or by such a result.
        failures, error: how often there was an error in its place, and the last one.
    """

    __slots__ = (
        "_guard",
        "_last",
        "_loop",
        "_rows",
        "_scheduled",
        "_size",
        "_waiting",
        "end",
        "ends",
        "error",
        "failures",
        "followers",
        "news",
        "reports",
        "run_id",
    )

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.followers = 0
        self.news = 0
        self.reports = 0
        self.end: Waiter | None = None
        self.ends = 0
        self.failures = 0
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._rows: deque[LogRow] = deque()
        """The rows of the last commits, without one that had none."""
        self._size = 0
        self._last: deque[Report] = deque(maxlen=MOST_REPORTS)
        self._waiting: set[asyncio.Future[None]] = set()
        self._scheduled = False
        self._guard = threading.Lock()

    # ------------------------------------------------------------------------------------------------- stored entries
    def add(self, row: LogRow | None, *, ended: bool = False) -> None:
        """Note a commit of the run and wake those who wait.

        Args:
            row: what it wrote; None: that is only in the store.
            ended: whether it ended the run. The row alone does not say so to a follower of later entries only.
        """
        self.news += 1
        self.ends += ended
        if row is None:
            self._rows.clear()
            self._size = 0
        else:
            self._rows.append(row)
            self._size += len(row.text)
            while len(self._rows) > MOST_ROWS or self._size > MOST_TEXT:
                self._size -= len(self._rows.popleft().text)
        self.wake()

    def rows_since(self, news: int, seq: int) -> list[LogRow] | None:
        """Return what the commits since `news` have written after entry `seq`; None if only the store knows that."""
        count = self.news - news
        if news < 0 or count > len(self._rows):
            return None
        rows = [row for row in list(self._rows)[len(self._rows) - count :] if row.first_seq + row.size - 1 > seq]
        for row in rows:
            if row.first_seq > seq + 1:
                return None
            seq = row.first_seq + row.size - 1
        return rows

    # -------------------------------------------------------------------------------------------------------- reports
    def show(self, path_json: str, progress: StepProgress, seq: int) -> None:
        """Show what a step reports; from any thread."""
        with self._guard:
            self._last.append(Report(seq, path_json, progress))
            self.reports += 1
            if self._scheduled:
                return
            self._scheduled = True
        with suppress(RuntimeError):  # the loop is closed: nobody follows
            self._loop.call_soon_threadsafe(self._shown)

    def _shown(self) -> None:
        self._scheduled = False
        self.wake()

    def report(self, place: int) -> Report | int | None:
        """Return the report at a place, from 0; how many are gone from there on; None if there is none yet."""
        with self._guard:
            gone = self.reports - len(self._last)
            if place < gone:
                return gone - place
            return self._last[place - gone] if place < self.reports else None

    # -------------------------------------------------------------------------------------------------------- waiting
    async def something(self, news: int, reports: int) -> None:
        """Return once there are more commits or reports than these, or the run has ended."""
        if (news, reports) != (self.news, self.reports):
            return
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(wake)
        try:
            await wake
        finally:
            self._waiting.discard(wake)

    def answered(self, end: Waiter) -> None:
        """Note the end of the run, or why there is none here."""
        if self.end is end:
            self.end = None
        self.error = end.exception()
        if self.error is None:
            self.ends += 1
        else:
            self.failures += 1
        self.wake()

    def wake(self) -> None:
        """Wake all followers that wait."""
        for wake in self._waiting:
            if not wake.done():
                wake.set_result(None)


class Watching:
    """The feeds of a runtime's runs, and its sinks. All on the loop of the runtime.

    Args:
        store: what is committed to.
        spawn: starts a task that is kept.
        install: called with what commits from now on.
    """

    def __init__(
        self,
        store: Store,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        install: Callable[[Commit], None],
    ) -> None:
        self.feeds: dict[str, Feed] = {}
        """By run: what its followers read."""
        self._store = store
        self._spawn = spawn
        self._install = install
        self._sinks: Sequence[SinkQueue] = ()

    def send_to(self, sinks: Sequence[SinkQueue]) -> None:
        """Pass what is committed on to these sinks, from now on."""
        self._sinks = sinks
        if sinks:
            self._install(self._commit)

    async def close(self, grace: float) -> None:
        """Have the sinks take what waits for them, for up to `grace` seconds."""
        if self._sinks:
            await asyncio.gather(*[sink.close(grace) for sink in self._sinks])

    def join(self, run_id: str) -> Feed:
        """Return the feed of a run for a further follower, who has to `leave` it."""
        feed = self.feeds.get(run_id)
        if feed is None:
            self._install(self._commit)
            feed = self.feeds[run_id] = Feed(run_id)
        feed.followers += 1
        return feed

    def leave(self, feed: Feed) -> bool:
        """Take a follower out; returns whether it was the last one."""
        feed.followers -= 1
        if feed.followers:
            return False
        del self.feeds[feed.run_id]
        if not self.feeds and not self._sinks:
            self._install(self._store.commit)
        return True

    def _commit(self, work: Work) -> Awaitable[Committed]:
        """Commit to the store, and note what became durable."""
        answer = self._store.commit(work)
        if type(answer) is Committed:
            self._committed(work)
            return answer
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(partial(self._answered, work))
            return answer
        return self._awaited(answer, work)

    async def _awaited(self, answer: Awaitable[Committed], work: Work) -> Committed:
        try:
            committed = await answer
        except BaseException:
            self._spawn(self._uncertain(work))  # it may have been written
            raise
        self._committed(work)
        return committed

    def _answered(self, work: Work, answer: asyncio.Future[Committed]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            self._spawn(self._uncertain(work))
        else:
            self._committed(work)

    def _committed(self, work: Work) -> None:
        for run_id, row, ended in _written(work):
            feed = self.feeds.get(run_id)
            if feed is not None:
                feed.add(row, ended=ended)
            if row is not None:
                for sink in self._sinks:
                    sink.put(run_id, row)

    async def _uncertain(self, work: Work) -> None:
        """Find out about a commit whose answer was lost, once it is written or not; followers look at the store."""
        if not self._sinks and not any(run_id in self.feeds for run_id, _, _ in _written(work)):
            return
        with suppress(PoundlockError):
            await self._store.written_behind()
        for run_id, row, _ in _written(work):
            feed = self.feeds.get(run_id)
            if feed is not None:
                feed.add(None)
            if row is not None and self._sinks and await self._has(run_id, row):
                for sink in self._sinks:
                    sink.put(run_id, row)

    async def _has(self, run_id: str, row: LogRow) -> bool:
        """Whether a row is in the store; no, if it cannot be read."""
        with suppress(PoundlockError):
            return row in await self._store.history(run_id, None, row.first_seq - 1, 1)
        return False


def _written(work: Work) -> Iterator[tuple[str, LogRow | None, bool]]:
    """Yield the runs that a unit of work writes, the log row of each, and whether it ends."""
    if type(work) is RunMove:
        yield work.run_id, work.log, work.status.terminal
    elif type(work) is RunCreate:
        yield work.identity.run_id, work.start.log, work.start.status.terminal
    elif isinstance(work, Changes):
        for create in work.creates:
            yield create.identity.run_id, create.start.log, create.start.status.terminal
        for move in work.moves:
            yield move.run_id, move.log, move.status.terminal
