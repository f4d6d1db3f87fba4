"""Following a run: its entries as they become durable, and what its steps report, until it ends.

House rules: what a follower yields comes from the log, by sequence, without gaps; the feed only saves reading the
store. A follower holds nothing of its run: whatever it does, the run goes on as if there were none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any, Final, Self

from poundlock.codecs import load
from poundlock.errors import InvalidEvent, RunNotFound, RuntimeStopped, StoreUnavailable
from poundlock.model.hiding import hidden_entries, noted_masks, notes
from poundlock.model.timeline import end_entry, is_end, read_entries
from poundlock.model.timeline_entry import TimelineEntry
from poundlock.runtime.awaited import awaiting, to_wait_for
from poundlock.runtime.core import Core
from poundlock.runtime.reading import masks_for, secrets_now
from poundlock.runtime.watching import Feed, Report
from poundlock.sensitive import Masks
from poundlock.stores.answers import not_found

_PORTION: Final = 64
"""Log rows that are read at once."""
_UNREAD: Final = -1
"""In place of the number of commits that were noticed: the store has to be read."""


def follow(core: Core, run_id: str, after: int) -> Follower:
    """Return a new follower of a run.

    Raises:
        InvalidEvent: `after` is no sequence.
        WrongLoop: this is another event loop.
    """
    if not isinstance(after, int) or isinstance(after, bool) or after < 0:
        raise InvalidEvent(f"after is {after!r:.60}: give the `seq` of an entry, or 0", path="after")
    return Follower(core.here(), run_id, after)


class Follower:
    """The entries of a run: what was, then what comes, until the run ends. An async iterator for one task.

    `aclose()` ends it; so does dropping it. If the task that waits for the next entry is cancelled, nothing is lost:
    the next `anext` goes on with the entry behind the last one that was returned.
    """

    def __init__(self, core: Core, run_id: str, after: int) -> None:
        self._core = core
        self._run_id = run_id
        self._seq = after
        """Of the last entry that was returned."""
        self._entries: deque[TimelineEntry] = deque()
        """Stored entries that were read, and are still to be returned."""
        self._feed: Feed | None = None
        self._masks: Masks | None = None
        """Where values are hidden in the run; None before that is known."""
        self._secrets: set[str] = set()
        """The texts that were hidden so far."""
        self._news = _UNREAD
        """What of the feed's commits was read."""
        self._reports = 0
        """What of the feed's reports was returned or passed over."""
        self._ends = 0
        """How many of the feed's ends were looked at."""
        self._joined: int | None = None
        """The last entry of the run when it was first looked at; None before that."""
        self._ended_before = False
        """Whether it had ended by then."""
        self._busy = False
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TimelineEntry:
        """Return the next entry.

        Raises:
            StopAsyncIteration: the run has ended, and all was returned.
            RunNotFound: there is no such run, or it was deleted.
            RuntimeStopped: the runtime stopped before the run ended.
            WouldDeadlock: this is code of a run that the followed one waits for, and nothing more comes without it.
            PoundlockError: the store cannot be read, or the run cannot go on here.
        """
        if self._busy:
            raise RuntimeError("this follower is waiting for an entry in another task: make one for each task")
        core = self._core.here()
        self._busy = True
        try:
            while not self._over:
                entry = self._next()
                if entry is not None:
                    return entry
                await self._more(core)
        except asyncio.CancelledError:
            self._leave()
            raise
        except (RuntimeStopped, StoreUnavailable) as error:
            self._close()
            if core.ending:  # the store may have been closed under a read
                raise _stopped(self._run_id) from error
            raise
        except BaseException:
            self._close()
            raise
        finally:
            self._busy = False
        self._leave()  # the last look at the store may have said that it is over
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End it; a second call does nothing. A task that waits for an entry sees the end."""
        self._core.here()
        self._close()

    def __del__(self) -> None:
        feed = self._feed
        if feed is not None and self._core.loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody follows
                self._core.loop.call_soon_threadsafe(_leave, self._core, feed)

    def __repr__(self) -> str:
        return f"<follower of run '{self._run_id}' at {self._seq}>"

    # ------------------------------------------------------------------------------------------------- what is at hand
    def _next(self) -> TimelineEntry | None:
        """Return the next entry that is at hand: a report comes behind the entries that were stored before it."""
        report = None if self._feed is None else self._feed.report(self._reports)
        if isinstance(report, int):
            self._reports += report
            now = self._core.clock.now()
            return TimelineEntry(self._seq, now, "pipeline", "follow:dropped", "", {"entries": report}, None, live=True)
        first = self._entries[0] if self._entries else None
        if first is not None and (report is None or (first.seq <= report.seq and not first.live)):
            self._entries.popleft()
            self._seq = first.seq
            if is_end(first) and (first.live or self._is_last(first)):
                self._close()
            return first
        if report is None or (first is None and report.seq > self._seq and self._core.timeline):
            return None  # what was stored before it has to be read first
        self._reports += 1
        return _live(report, self._seq)

    def _is_last(self, end: TimelineEntry) -> bool:
        """Whether an entry is the end that is waited for, and not one after which the run was tried again."""
        joined = self._joined or 0
        return end.seq > joined or (self._ended_before and end.seq == joined)

    # ------------------------------------------------------------------------------------------------------ what comes
    async def _more(self, core: Core) -> None:
        """Get further entries; if there are none, wait for something to happen."""
        core.at_work()
        feed = self._feed or await self._join(core)
        news, reports = feed.news, feed.reports
        if news == self._news:
            await self._wait(core, feed, news, reports)
            return
        rows = feed.rows_since(self._news, self._seq) if core.timeline else None
        if rows is None:
            # The status first: entries that come meanwhile belong to a later one.
            status = await core.store.status(self._run_id)
            rows = await core.store.history(self._run_id, None, self._seq, _PORTION) if core.timeline else []
            if rows:
                news = _UNREAD  # there may be more
            elif status is None:
                if core.runs.live(self._run_id) is None:
                    raise _deleted(self._run_id)
            elif status.terminal:
                await self._end(core)
        entries = [entry for entry in read_entries(rows) if entry.seq > self._seq]
        self._entries.extend(await self._hidden(core, entries))
        self._news = news
        if news == _UNREAD:
            # A store in memory does not wait: without this, a long log would hold all runs up until it is read.
            await asyncio.sleep(0)  # noqa: TID251 - it yields, for others

    async def _hidden(self, core: Core, entries: list[TimelineEntry]) -> list[TimelineEntry]:
        """Return entries as they are shown; what was hidden once is hidden in all that follow."""
        if self._masks is None:
            first = read_entries(await core.store.history(self._run_id, None, 0, 1)) if entries else []
            masks = await masks_for(core, self._run_id, first) if entries else None
            self._masks = masks
            self._secrets = await self._secrets_before(core, masks) if masks else set()
        self._masks = (*(self._masks or ()), *noted_masks(entries)) if any(map(notes, entries)) else self._masks
        if not self._masks:
            return entries
        shown, more = hidden_entries(entries, self._masks, self._secrets)
        self._secrets |= more
        return shown

    async def _secrets_before(self, core: Core, masks: Masks) -> set[str]:
        """Return what was hidden in the entries before the first one that is returned, and what is hidden now."""
        secrets, seq = await secrets_now(core, self._run_id, masks), 0
        while seq < self._seq:
            rows = await core.store.history(self._run_id, None, seq, _PORTION)
            entries = read_entries(rows)
            if not entries:
                break
            before = [entry for entry in entries if entry.seq <= self._seq]
            self._masks = masks = (*masks, *noted_masks(before)) if any(map(notes, before)) else masks
            secrets |= hidden_entries(before, masks)[1]
            seq = entries[-1].seq
        return secrets

    async def _join(self, core: Core) -> Feed:
        feed = self._feed = core.watching.join(self._run_id)
        self._reports, self._ends, self._news = feed.reports, feed.ends, _UNREAD
        # What was submitted before is not noticed by the feed; a commit in flight may even be the run's end.
        await core.store.written_behind()
        if self._joined is None:
            record = await core.store.load(self._run_id)
            if record is None and core.runs.live(self._run_id) is None:
                raise not_found(self._run_id)
            self._joined = 0 if record is None else record.head.log_seq
            self._ended_before = record is not None and record.head.status.terminal
        return feed

    async def _end(self, core: Core) -> None:
        """End, with an entry that says so, unless the last stored one does."""
        record = await core.store.load(self._run_id)
        if record is None:
            raise _deleted(self._run_id)
        last = read_entries(await core.store.history(self._run_id, 1)) if core.timeline else ()
        if any(is_end(entry) for entry in last):
            self._over = True
        else:
            self._entries.append(end_entry(record, self._seq))

    async def _wait(self, core: Core, feed: Feed, news: int, reports: int) -> None:
        """Wait for a commit or a report that is newer, or for the end of the run, or of the runtime."""
        vacancy = None if core.runs.has_task(self._run_id) else core.runs.vacancy(self._run_id)
        if vacancy is not None and vacancy.error is not None:
            raise vacancy.error  # stranded: it is not driven until `recover`
        if feed.ends != self._ends:
            self._ends, self._news = feed.ends, _UNREAD  # it has ended: the store says how
            return
        failures = feed.failures
        if feed.end is None:
            feed.end = core.waiters.end(self._run_id)
            feed.end.add_done_callback(feed.answered)
        if inside := core.inside:
            with awaiting(core, inside, await to_wait_for(core, inside, self._run_id)):
                await feed.something(news, reports)
        else:
            await feed.something(news, reports)
        if feed.failures != failures and feed.error is not None:
            raise feed.error

    # --------------------------------------------------------------------------------------------------------- leaving
    def _close(self) -> None:
        self._over = True
        self._entries.clear()
        if self._feed is not None:
            self._feed.wake()
        self._leave()

    def _leave(self) -> None:
        """Leave the feed; what was read and not returned yet is kept."""
        feed, self._feed = self._feed, None
        if feed is not None:
            _leave(self._core, feed)


def _leave(core: Core, feed: Feed) -> None:
    if core.watching.leave(feed) and feed.end is not None:
        core.waiters.forget(feed.run_id, feed.end)


def _live(report: Report, seq: int) -> TimelineEntry:
    progress = report.progress
    payload: dict[str, Any] | None = None
    if progress.done is not None:
        payload = {"done": progress.done, "of": progress.of, "message": progress.message}
    kind = "step:heartbeat" if payload is None else "step:progress"
    return TimelineEntry(seq, progress.time, "pipeline", kind, load(report.path_json), payload, None, live=True)


def _deleted(run_id: str) -> RunNotFound:
    return RunNotFound(
        f"run '{run_id}' was deleted while it was followed: follow a run before it is deleted, or keep more of them",
        run_id=run_id,
    )


def _stopped(run_id: str) -> RuntimeStopped:
    return RuntimeStopped(
        f"the runtime stopped before run '{run_id}' ended: start it again, and follow the run from the last entry on"
    )
