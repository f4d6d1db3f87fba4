"""The memory store: the executable specification of the port.

House rules: every condition is checked before the first write, and nothing between the first and the last write can
fail, so a refused change has no effect. The codec has already detached what comes in; what goes out is a copy.
The store has no policy: its caller, or the model, decides which run to promote, which wait matches, what a timeout
means. Its size is bounded: it keeps what `docs/reference/stores.md` says; each commit deletes a part of the rest.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from operator import itemgetter
from typing import Any

from poundlock.codecs import dump, load
from poundlock.errors import PoundlockError
from poundlock.ids import default_ids
from poundlock.model.changes import (
    NOTHING,
    WITH_ITS_RUN,
    Changes,
    Committed,
    Release,
    Remember,
    RunCreate,
    RunMove,
    Token,
)
from poundlock.model.drafts import new_tuple
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.receipts import Delivered, Delivery, Fate, ReceiptLine, settle_lines
from poundlock.model.runs import (
    Checkpoint,
    LogRow,
    Message,
    RunHead,
    RunIdentity,
    RunQuery,
    RunRecord,
    StoredEvent,
    WaitRow,
)
from poundlock.model.timeline import fold, size_of
from poundlock.model.waits import armed_anew, delivered_fate, event_keys, key_shape
from poundlock.ports import Claim, Page
from poundlock.stores.answers import (
    exists,
    finished,
    keys_taken,
    load_moved,
    not_found,
    read_cursor,
    refusal,
    wait_moved,
    write_cursor,
)
from poundlock.stores.keeping import RECEIPTS_KEPT, Expiring, Heap

_IDLE = Load()
_RUNNING, _READY, _QUEUED = RunStatus.RUNNING, RunStatus.READY, RunStatus.QUEUED
_DUE = (RunStatus.PAUSED, RunStatus.DELAYED)


class _Row:
    """All data of one run."""

    __slots__ = ("head", "identity", "inbox", "log", "number", "remembered", "snapshot", "waits")

    def __init__(self, identity: RunIdentity, head: RunHead, number: int) -> None:
        self.identity = identity
        self.head = _copy(head)
        self.number = number
        # Exact tuples of numbers and texts, and no empty list: the garbage collector does not track them. In a store
        # with ten thousand runs they would be most of its work.
        self.log: list[tuple[int, int, str]] = []
        self.inbox: tuple[()] | list[Message] = ()
        self.waits: tuple[WaitRow, ...] = ()
        self.snapshot: tuple[int, str] | None = None
        self.remembered: tuple[str, str, str] | None = None
        """The key that expires with this run."""

    def record(self) -> RunRecord:
        return RunRecord(self.identity, _copy(self.head), self.waits)


class MemoryStore:
    """Keeps everything in this process, for tests and for work that may end with it.

    Another runtime can open it again: runs of the previous owner are then released, as after a crash.

    Args:
        keep: how many ended runs can still be read; above that the one that ended first is deleted, as if it had never
            existed. Waiters for a run still get its result.
    """

    durability = "memory"
    size = 0

    def __init__(self, *, keep: int = 10_000) -> None:
        self.store_id = default_ids.unique()
        self._rows: dict[str, _Row] = {}
        self._keep = keep
        self._ended: deque[str] = deque()
        self._events: dict[str, Event] = {}
        self._uses: dict[str, int] = {}
        """The number of runs and messages that refer to each event; at zero the event is deleted."""
        self._loads: dict[tuple[str, str], tuple[Load, Token]] = {}
        self._queues: dict[tuple[str, str], Heap] = {}
        self._ready: dict[str, None] = {}
        self._due = Heap()
        self._remembered: Expiring[tuple[str, str, str], Remember] = Expiring()
        self._receipts: Expiring[tuple[str, str], tuple[ReceiptLine, ...]] = Expiring()
        self._waiting: dict[str, dict[str, None]] = {}
        self._shapes: Counter[str] = Counter()
        self._numbers = 0
        self._commits = 0

    # ------------------------------------------------------------------------------------------------ lifetime
    async def open(self, worker: str) -> None:  # noqa: ARG002 - for stores that several workers share
        """Release the runs of former owners, even of one with the same name: each opening is a new owner."""
        for row in self._rows.values():
            head = row.head
            if head.status is RunStatus.RUNNING:
                head.status = RunStatus.READY
                head.epoch += 1
                head.version += 1
                self._ready[row.identity.run_id] = None

    async def close(self) -> None:
        """Do nothing: there is no file or thread."""

    async def written_behind(self) -> None:
        """Do nothing: each commit is complete when it returns."""

    # -------------------------------------------------------------------------------------------------- commit
    async def commit(self, changes: Changes) -> Committed:
        """Apply all of `changes`, or raise and apply none."""
        if not changes.decides_nothing:
            return self._decide(changes)
        for create in changes.creates:
            self._check_absent(create)
        for move in changes.moves:
            self._check_move(move)
        self._write_runs(changes)
        return NOTHING

    def _write_runs(self, changes: Changes) -> None:
        self._commits += 1
        for ref, event in changes.events:
            self._events.setdefault(ref, event)
        for create in changes.creates:
            self._create(create)
        for move in changes.moves:
            self._move(move)

    def _decide(self, changes: Changes) -> Committed:
        self._check(changes)
        posts = [(post, load(dump(post.body, "body"))) for post in changes.posts] if changes.posts else ()
        self._write_runs(changes)
        for change in changes.loads:
            self._set_load((change.workflow_id, change.load_key), change.load, change.token)
        promoted: list[str] = []
        for release in changes.releases:
            promoted += self._release(release, changes.now)
        delivered: tuple[Delivered, ...] = ()
        if changes.deliveries:
            delivered = tuple([self._deliver(delivery, changes.now) for delivery in changes.deliveries])
        posted = [self._append(self._rows[post.run_id], post.kind, body, post.time, None) for post, body in posts]
        if changes.remember or changes.receipt is not None:
            self._remember(changes, delivered)
        for ref, _ in changes.events:
            if ref not in self._uses:  # no run and no message refers to it
                del self._events[ref]
        made = (tuple(promoted), delivered, tuple(posted))
        changes.committed = new_tuple(Committed, made) if promoted or delivered or posted else NOTHING
        return changes.committed

    def _remember(self, changes: Changes, delivered: tuple[Delivered, ...]) -> None:
        now = changes.now
        longest = 0.0
        added = 0
        for key in changes.remembered(delivered) if changes.remember else ():
            name, (run_id, expires_at) = key[:3], key[4:]
            self._remembered.put(name, key, expires_at)
            added += 1
            if expires_at == WITH_ITS_RUN and run_id in self._rows:
                self._rows[run_id].remembered = name
            elif expires_at > longest:
                longest = expires_at
        if changes.receipt is not None:
            source, event_id, time, lines = changes.receipt
            event = (source, event_id)
            until = max(time + RECEIPTS_KEPT, longest, self._receipts.expiry(event))
            self._receipts.put(event, settle_lines(lines, changes.deliveries, delivered), until)
        at_most = 8 + 2 * added  # more than were added, so that a backlog becomes smaller
        if now >= self._remembered.prunable:
            self._remembered.prune(now, at_most)
        if now >= self._receipts.prunable:
            self._receipts.prune(now, at_most)

    def _end(self, run_id: str) -> None:
        """Record the end of a run, and delete the runs that ended first, down to the limit.

        Never this run: its caller can still read the result.
        """
        while self._ended and len(self._ended) >= self._keep:
            first = self._ended.popleft()
            row = self._rows.get(first)
            if row is None or not row.head.status.terminal:
                continue
            del self._rows[first]
            self._disuse(row.identity.event_ref)
            if row.remembered is not None:
                self._remembered.drop(row.remembered)
        self._ended.append(run_id)

    def _use(self, ref: str) -> None:
        self._uses[ref] = self._uses.get(ref, 0) + 1

    def _disuse(self, ref: str) -> None:
        left = self._uses[ref] - 1
        if left:
            self._uses[ref] = left
        else:
            del self._uses[ref], self._events[ref]

    def _check(self, changes: Changes) -> None:
        for create in changes.creates:
            self._check_absent(create)
        for move in changes.moves:
            self._check_move(move)
        # Keys before loads: a repeated event is reported as such, even if its load has changed meanwhile.
        taken = {}
        for key in changes.remember:
            known = self._remembered.get(key[:3])
            if known is not None and known.expires_at > changes.now:
                taken[key.scope] = known
        if taken:
            raise keys_taken(taken)
        for change in changes.loads:
            _, token = self._loads.get((change.workflow_id, change.load_key), (_IDLE, None))
            if token != change.expect:
                raise load_moved(change.workflow_id)
        for delivery in changes.deliveries:
            known_run = self._rows.get(delivery.run_id)
            if known_run is not None and armed_anew(delivery, _phases(known_run)):
                raise wait_moved(delivery.run_id)
        for post in changes.posts:
            row = self._rows.get(post.run_id)
            if row is None:
                if changes.creates_run(post.run_id):
                    continue
                raise not_found(post.run_id)
            if row.head.status.terminal:
                raise finished(post.run_id, row.head.status)

    def _check_absent(self, create: RunCreate) -> None:
        if create.identity.run_id in self._rows:
            raise exists(create.identity.run_id)

    def _check_move(self, move: RunMove) -> None:
        row = self._rows.get(move.run_id)
        if row is None:
            raise not_found(move.run_id)
        head = row.head
        refused = refusal(move, head.version, head.epoch, head.inbox_seq)
        if refused is not None:
            raise refused

    def _create(self, create: RunCreate) -> None:
        self._numbers += 1
        identity, head, log, waits = create
        row = _Row(identity, head, self._numbers)
        self._rows[identity.run_id] = row
        uses, ref = self._uses, identity.event_ref
        uses[ref] = uses.get(ref, 0) + 1
        if log is not None:
            row.log.append(_entries(log))
        if waits:
            self._set_waits(row, waits)
        if row.head.status is not _RUNNING:
            if row.head.status.terminal:  # it ended before its first commit
                self._end(identity.run_id)
            self._index(row)

    def _move(self, move: RunMove) -> None:
        # Unpacked in one step: reading one field of a named tuple costs as much as five of these.
        run_id = move.run_id
        status, owner, epoch, stage, attempt, wake_at, outcome, slot, now, log, waits, consumed, snapshot, visits = (
            move[4:]
        )
        row = self._rows[run_id]
        head = row.head
        before = head.status
        head.version += 1
        head.stage = stage
        head.attempt = attempt
        head.updated_at = now
        if slot is not head.slot:
            if slot:
                self._occupy(row)
            head.slot = slot
        head.status = status
        head.owner = owner
        head.epoch = epoch
        head.wake_at = wake_at
        head.outcome = outcome
        if visits is not None:
            head.visits = visits
        if log is not None:
            row.log.append(_entries(log))
            head.log_seq = log.first_seq + log.size - 1
        if snapshot is not None:
            row.snapshot = (head.log_seq, snapshot)
        if consumed:
            used = set(consumed)
            self._disuse_events(message for message in row.inbox if message.seq in used)
            row.inbox = [message for message in row.inbox if message.seq not in used]
        if waits is not None:
            self._set_waits(row, waits)
        if before is not status or wake_at is not None:
            if before is _READY:
                self._ready.pop(run_id, None)
            if status.terminal:
                self._end(run_id)
                if row.inbox:
                    self._disuse_events(row.inbox)
                    row.inbox = ()
                if row.waits:
                    self._set_waits(row, ())
            elif status is not _RUNNING:
                self._index(row)

    def _disuse_events(self, messages: Iterable[Message]) -> None:
        """Count down the uses of the events of messages that leave an inbox."""
        for message in messages:
            if message.event is not None:
                self._disuse(message.event.ref)

    def _index(self, row: _Row) -> None:
        """Add a run without an owner to the queue or heap where it is looked up."""
        head, identity = row.head, row.identity
        if head.status is _QUEUED:
            pair = (identity.workflow_id, identity.load_key or "")
            queue = self._queues.get(pair)
            if queue is None:
                queue = self._queues[pair] = Heap()
            queue.push((-identity.priority, row.number, identity.run_id), self._is_queued)
        elif head.status is _READY:
            self._ready[identity.run_id] = None
        elif head.wake_at is not None and head.status in _DUE:
            self._due.push((head.wake_at, identity.run_id), self._is_due)

    def _is_queued(self, item: tuple[int, int, str]) -> bool:
        row = self._rows.get(item[2])
        return row is not None and row.head.status is _QUEUED

    def _is_due(self, item: tuple[float, str]) -> bool:
        """Whether this is still the current wake time of a run."""
        row = self._rows.get(item[1])
        return row is not None and row.head.wake_at == item[0] and row.head.status in _DUE

    def _set_waits(self, row: _Row, waits: tuple[WaitRow, ...]) -> None:
        run_id = row.identity.run_id
        for wait in row.waits:
            for key in wait.keys:
                holders = self._waiting.get(key)
                if holders is not None and run_id in holders:
                    del holders[run_id]
                    shape = key_shape(key)
                    self._shapes[shape] -= 1
                    if not self._shapes[shape]:
                        del self._shapes[shape]
                    if not holders:
                        del self._waiting[key]
        row.waits = waits
        for wait in waits:
            for key in wait.keys:
                holders = self._waiting.setdefault(key, {})
                if run_id not in holders:
                    holders[run_id] = None
                    self._shapes[key_shape(key)] += 1

    def _set_load(self, pair: tuple[str, str], loaded: Load, token: Token) -> None:
        if loaded.idle:
            self._loads.pop(pair, None)
            self._queues.pop(pair, None)
        else:
            self._loads[pair] = (loaded, token)

    def _release(self, release: Release, now: float) -> Sequence[str]:
        workflow_id, load_key, run_id, queued, slots, _ = release
        pair = (workflow_id, load_key)
        known = self._loads.get(pair)
        if known is None:
            return ()  # no run is active or queued
        loaded, free = known[0].left(run_id, slots, queued=queued)
        if loaded.idle:
            self._set_load(pair, loaded, known[1])
            return ()
        promoted: list[str] = []
        queue = self._queues.get(pair)
        while queue and len(promoted) < free:
            run_id = heapq.heappop(queue)[2]
            row = self._rows.get(run_id)
            if row is not None and row.head.status is RunStatus.QUEUED:
                promoted.append(run_id)
                row.head.slot = True
                self._take(row, release.owner, now)
        if promoted:
            loaded = loaded._replace(active_id=promoted[-1])
        self._set_load(pair, loaded, known[1].next())
        return promoted

    def _take(self, row: _Row, owner: str | None, now: float) -> None:
        """Give a run without an owner to its next owner, or make it `ready` if there is none."""
        head = row.head
        head.status = RunStatus.RUNNING if owner is not None else RunStatus.READY
        head.owner = owner
        head.version += 1
        head.epoch += 1
        head.wake_at = head.outcome = None
        head.updated_at = now
        if owner is None:
            self._ready[row.identity.run_id] = None

    def _deliver(self, delivery: Delivery, now: float) -> Delivered:
        row = self._rows.get(delivery.run_id)
        fate = Fate.GONE if row is None else _fate(delivery, row)
        if row is None or fate is Fate.GONE:
            return Delivered(Fate.GONE, 0)
        seq = self._append(row, "event", None, now, delivery.event_ref)
        if fate is Fate.RESUMED:
            self._occupy(row)
            self._take(row, delivery.owner, now)
        return Delivered(fate, seq)

    def _occupy(self, row: _Row) -> None:
        """Count a run that continues as active again if it had released its slot; this may exceed its mode's limit."""
        identity = row.identity
        if identity.load_key is None or row.head.slot:
            return
        pair = (identity.workflow_id, identity.load_key)
        known, token = self._loads.get(pair, (_IDLE, Token(default_ids.token(), 0)))
        self._loads[pair] = (known.started(identity.run_id), token.next())
        row.head.slot = True

    def _append(self, row: _Row, kind: Any, body: Any, time: float, event_ref: str | None) -> int:
        row.head.inbox_seq += 1
        stored = None
        if event_ref is not None:
            self._use(event_ref)
            stored = StoredEvent(event_ref, self._events[event_ref])
        row.inbox = row.inbox or []
        row.inbox.append(Message(row.identity.run_id, row.head.inbox_seq, kind, time, body, stored))
        return row.head.inbox_seq

    # --------------------------------------------------------------------------------------------------- reads
    async def read_loads(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Load, Token | None]]:
        """Return loads and tokens."""
        return [self._loads.get(pair, (_IDLE, None)) for pair in pairs]

    async def load(self, run_id: str) -> RunRecord | None:
        """Return a run's record."""
        row = self._rows.get(run_id)
        return None if row is None else row.record()

    async def checkpoint(self, run_id: str) -> Checkpoint | None:
        """Return all that is needed to continue a run."""
        row = self._rows.get(run_id)
        return None if row is None else self._checkpoint(row)

    def _checkpoint(self, row: _Row) -> Checkpoint:
        since, text = row.snapshot or (0, "")
        log = row.log[bisect_right(row.log, since, key=itemgetter(0)) :] if since else row.log
        rows = [LogRow(*entries) for entries in log]
        state = fold(rows, load(text) if text else None)
        event = self._events[row.identity.event_ref]
        return Checkpoint(row.record(), state, event, tuple(row.inbox), size_of(rows), len(text))

    async def find(self, query: RunQuery) -> Page[RunRecord]:
        """Return records, newest first."""
        before = None if query.cursor is None else read_cursor(query.cursor)
        fits = (
            row
            for row in self._rows.values()
            if _fits(query, row, self._events[row.identity.event_ref])
            and (before is None or (row.identity.created_at, row.identity.run_id) < before)
        )
        rows = heapq.nlargest(query.limit + 1, fits, key=lambda row: (row.identity.created_at, row.identity.run_id))
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        return Page([row.record() for row in rows], write_cursor(rows[-1].identity) if more else None)

    async def claim(self, worker: str, workflows: Collection[str], now: float, limit: int) -> list[Claim]:
        """Claim ready and due runs."""
        candidates = [self._rows[run_id] for run_id in self._ready]
        passed: list[tuple[float, str]] = []
        while self._due and self._due[0][0] <= now:
            item = heapq.heappop(self._due)
            # A run that was paused until the same time before is here twice.
            if self._is_due(item) and item not in passed[-1:]:
                candidates.append(self._rows[item[1]])
                passed.append(item)
        candidates = [row for row in candidates if row.identity.workflow_id in workflows]
        candidates.sort(key=_urgency)
        claims: list[Claim] = []
        unreadable: list[PoundlockError] = []
        for row in candidates:
            if len(claims) < limit:
                try:
                    claims.append(self._claim(row, worker, now))
                except PoundlockError as error:  # a run that cannot be read must not block others
                    unreadable.append(error)
        for when, run_id in passed:  # runs that were not claimed stay due
            if self._rows[run_id].head.wake_at == when:
                heapq.heappush(self._due, (when, run_id))
        if unreadable and not claims:
            raise unreadable[0]
        return claims

    def _claim(self, row: _Row, worker: str, now: float) -> Claim:
        checkpoint = self._checkpoint(row)
        head = row.head
        recovered = head.status is RunStatus.READY and head.owner is not None
        delayed = head.status is RunStatus.DELAYED
        self._ready.pop(row.identity.run_id, None)
        self._occupy(row)
        self._take(row, worker, now)
        if recovered:
            head.attempt += 1
        return Claim(checkpoint._replace(record=row.record()), recovered, delayed)

    async def next_due(self, workflows: Collection[str]) -> float | None:
        """Return the earliest wake time."""
        passed = []
        found = None
        while self._due:
            when, run_id = self._due[0]
            if not self._is_due((when, run_id)):
                heapq.heappop(self._due)
            elif self._rows[run_id].identity.workflow_id in workflows:
                found = when
                break
            else:
                passed.append(heapq.heappop(self._due))
        for item in passed:
            heapq.heappush(self._due, item)
        return found

    async def match_waits(self, event: Event) -> list[RunRecord]:
        """Return the runs under the event's keys."""
        if not self._waiting:
            return []
        found = {run_id for key in event_keys(list(self._shapes), event) for run_id in self._waiting.get(key, ())}
        oldest_first = sorted((self._rows[run_id].identity.created_at, run_id) for run_id in found)
        return [self._rows[run_id].record() for _, run_id in oldest_first]

    async def unfit(self, workflow: str) -> list[RunRecord]:
        """Return paused runs with an error."""
        rows = (row for row in self._rows.values() if row.head.status is RunStatus.PAUSED and row.head.outcome)
        return [row.record() for row in rows if row.identity.workflow_id == workflow]

    async def inbox(self, run_id: str, after: int) -> list[Message]:
        """Return unconsumed messages."""
        row = self._rows.get(run_id)
        return [] if row is None else [message for message in row.inbox if message.seq > after]

    async def history(self, run_id: str, last: int | None = None) -> list[LogRow]:
        """Return all log rows, or the last ones."""
        row = self._rows.get(run_id)
        if row is None:
            return []
        return [LogRow(*entries) for entries in (row.log if last is None else row.log[-last:])]

    async def receipt(self, source: str, event_id: str) -> tuple[ReceiptLine, ...] | None:
        """Return the lines of the last receipt of an event."""
        return self._receipts.get((source, event_id))

    async def stats(self) -> dict[str, int]:
        """Return counters."""
        counts = Counter(str(row.head.status) for row in self._rows.values())
        waits = sum(len(row.waits) for row in self._rows.values())
        rows = {"events": len(self._events), "remembered": len(self._remembered), "receipts": len(self._receipts)}
        return {**counts, "waits": waits, **rows, "bytes": 0, "commits": self._commits, "syncs": 0}


def _phases(row: _Row) -> list[tuple[str, int, bool]]:
    return [(wait.wait_id, wait.epoch, wait.parked) for wait in row.waits]


def _entries(log: LogRow) -> tuple[int, int, str]:
    return (log.first_seq, log.size, log.text)


def _copy(head: RunHead) -> RunHead:
    """Return a copy: heads are changed in place here, and callers must not see that. `replace` is six times slower."""
    return RunHead(
        head.status,
        head.version,
        head.owner,
        head.epoch,
        head.stage,
        head.attempt,
        head.wake_at,
        head.outcome,
        head.slot,
        head.inbox_seq,
        head.log_seq,
        head.updated_at,
        head.visits,
    )


def _fate(delivery: Delivery, row: _Row) -> Fate:
    head = row.head
    return delivered_fate(delivery, head.status, _phases(row), unfit=head.outcome is not None)


def _urgency(row: _Row) -> tuple[int, float, str]:
    """Higher priority first, then the earlier due time; a ready run is always due."""
    due = 0.0 if row.head.status is RunStatus.READY else row.head.wake_at or 0.0
    return (-row.identity.priority, due, row.identity.run_id)


def _fits(query: RunQuery, row: _Row, event: Event) -> bool:
    identity, head = row.identity, row.head
    return (
        (query.workflow is None or identity.workflow_id == query.workflow)
        and (not query.status or head.status in query.status)
        and (query.key is None or identity.key == query.key)
        and (query.since is None or identity.created_at >= query.since)
        and (query.until is None or identity.created_at < query.until)
        and (
            query.text is None
            or any(
                query.text.lower() in (text or "").lower()
                for text in (identity.run_id, identity.key, event.type, head.outcome)
            )
        )
    )
