"""The memory store: the executable specification of the port.

House rules: every condition is checked before the first write, and nothing between the first and the last write can
fail, so a refused change has no effect. The codec has already detached what comes in; what goes out is a copy.
The store has no policy: its caller, or the model, decides which run to promote, which wait matches, what a timeout
means. Its size is bounded: it keeps what `docs/reference/stores.md` says; each commit deletes a part of the rest.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any, Final

from poundlock.codecs import dump, load
from poundlock.ids import default_ids
from poundlock.model.buffers import Tally, kept_tallies, without_consumed
from poundlock.model.changes import (
    NOTHING,
    WITH_ITS_RUN,
    Changes,
    Committed,
    Post,
    Promotion,
    Release,
    Remember,
    RunCreate,
    RunMove,
    Token,
    Work,
)
from poundlock.model.events import Event
from poundlock.model.holds import HeldRow, Hold, HoldKey
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load, Promoted
from poundlock.model.operator_pause import WorkflowPause
from poundlock.model.outbox import OutboxQuery, OutboxRow
from poundlock.model.priorities import rank
from poundlock.model.receipts import (
    Delivered,
    Delivery,
    Fate,
    ReceiptLine,
    answer_note,
    merged,
    none_accepted,
    rewritten,
    settle_lines,
    unwanted,
)
from poundlock.model.retention import ENDED, EndedRun
from poundlock.model.runs import (
    CHILDREN_WAIT,
    NEEDS_SLOT,
    Checkpoint,
    LogRow,
    Message,
    RunHead,
    RunIdentity,
    RunQuery,
    RunRecord,
    StoredEvent,
    WaitRow,
    delay_is_over,
)
from poundlock.model.schedules import ScheduleRow
from poundlock.model.timeline import fold, size_of
from poundlock.model.waits import armed_anew, event_keys, fate, is_due, key_shape
from poundlock.ports import AtHand, Claim, Claims, Page, Pruned
from poundlock.stores.answers import (
    LINED_UP_AT_ONCE,
    exists,
    finished,
    keys_taken,
    load_moved,
    not_deletable,
    not_found,
    read_cursor,
    refusal,
    schedule_moved,
    wait_moved,
    write_cursor,
)
from poundlock.stores.keeping import RECEIPTS_KEPT, Expiring
from poundlock.stores.memory_agenda import READY, Agenda, Entry, Queue
from poundlock.stores.memory_holds import MemoryHolds
from poundlock.stores.memory_listing import Listings
from poundlock.stores.memory_outbox import MemoryOutbox

_IDLE = Load()
_NO_LOAD = (_IDLE, None)
_NOBODY: Final[AtHand[RunRecord]] = AtHand()
_RUNNING, _READY, _QUEUED = RunStatus.RUNNING, RunStatus.READY, RunStatus.QUEUED
_DUE = (RunStatus.PAUSED, RunStatus.DELAYED)

_LOOKED_AT: Final = 8
"""Ended runs that are looked at with each end, at most: so that those which were kept for their parents go again."""


class _Row:
    """All data of one run: its identity, the fields of its head, and what belongs to it."""

    __slots__ = (
        "attempt",
        "epoch",
        "identity",
        "inbox",
        "inbox_seq",
        "log",
        "log_seq",
        "number",
        "outcome",
        "owner",
        "remembered",
        "slot",
        "snapshot",
        "stage",
        "status",
        "updated_at",
        "version",
        "visits",
        "waits",
        "wake_at",
    )

    def __init__(self, identity: RunIdentity, start: RunMove, number: int) -> None:
        self.identity = identity
        self.number = number
        # Unpacked in one step: reading one field of a named tuple costs as much as five of these.
        (
            self.status,
            self.owner,
            self.epoch,
            self.stage,
            self.attempt,
            self.wake_at,
            self.outcome,
            self.slot,
            self.updated_at,
            log,
        ) = start[4:14]
        self.visits = start.visits
        self.version = 1
        self.inbox_seq = 0
        # Exact tuples of numbers and texts, and no empty list: the garbage collector does not track them. In a store
        # with ten thousand runs they would be most of its work.
        self.log: list[tuple[int, int, str]] = []
        self.log_seq = 0
        if log is not None:
            first, size, text = log
            self.log.append((first, size, text))
            self.log_seq = first + size - 1
        self.inbox: tuple[()] | list[Message] = ()
        self.waits: tuple[WaitRow, ...] = ()
        self.snapshot: tuple[int, str] | None = None
        self.remembered: tuple[str, str, str] | None = None
        """The key that expires with this run."""

    def record(self) -> RunRecord:
        return RunRecord(self.identity, self.head(), self.waits)

    def head(self) -> RunHead:
        return RunHead(
            self.status,
            self.version,
            self.owner,
            self.epoch,
            self.stage,
            self.attempt,
            self.wake_at,
            self.outcome,
            self.slot,
            self.inbox_seq,
            self.log_seq,
            self.updated_at,
            self.visits,
        )


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
        self._stale = 0
        """How many ids in `_ended` are of runs that were deleted otherwise."""
        self._receipts_kept = self._unwanted_kept = RECEIPTS_KEPT
        self._events: dict[str, Event] = {}
        self._uses: dict[str, int] = {}
        """The number of runs and messages that refer to each event; at zero the event is deleted."""
        self._loads: dict[tuple[str, str], tuple[Load, Token]] = {}
        self._queues: dict[tuple[str, str], Queue] = {}
        self._returning: dict[tuple[str, str], OrderedDict[str, None]] = {}
        """The runs that wait for a slot after they were resumed, in this order."""
        self._listings = Listings(self._rows)
        self._by_status = self._listings.by_status
        self._agendas: dict[str, Agenda] = {}
        """By workflow: what can be claimed, and when."""
        self._unfit: dict[str, None] = {}
        """Runs that are paused with an error."""
        self._in_slot: dict[str, None] = {}
        """Runs that were paused with a slot."""
        self._remembered: Expiring[tuple[str, str, str], Remember] = Expiring()
        self._receipts: Expiring[tuple[str, str], tuple[ReceiptLine, ...]] = Expiring()
        self._waiting: dict[str, dict[str, None]] = {}
        self._shapes: Counter[str] = Counter()
        self._armed = 0
        """The number of waits of all runs."""
        self._outbox = MemoryOutbox()
        self._pending_hooks: dict[str, dict[str, None]] = {}
        """By workflow: the ended runs whose hooks are pending."""
        self._schedules: dict[str, dict[str, ScheduleRow]] = {}
        """By workflow and trigger."""
        self._holds = MemoryHolds()
        self._pauses: dict[str, WorkflowPause] = {}
        """The workflows that are paused, by id."""
        self._numbers = 0
        self._commits = 0

    # ------------------------------------------------------------------------------------------------ lifetime
    async def open(self, worker: str) -> None:  # noqa: ARG002 - for stores that several workers share
        """Release the runs of former owners, even of one with the same name: each opening is a new owner."""
        for _, run_id in list(self._listings.of_status(_RUNNING)):
            row = self._rows[run_id]
            row.status = _READY
            row.epoch += 1
            row.version += 1
            self._relist(run_id, _RUNNING, _READY)
            self._index(row)

    async def close(self) -> None:
        """Do nothing: there is no file or thread."""

    async def written_behind(self) -> None:
        """Do nothing: each commit is complete when it returns."""

    # -------------------------------------------------------------------------------------------------- commit
    def commit(self, work: Work) -> Committed:
        """Apply all of a unit of work, or raise and apply none."""
        if type(work) is RunMove:  # `isinstance` costs more
            row = self._movable(work)
            self._commits += 1
            self._write(row, work)
            if work.slots is not None and row.slot == NEEDS_SLOT:
                return Committed(waiting=(work.run_id,))
            release = work.release
            promoted = () if release is None else self._release(release, work.updated_at)
            return Committed(tuple(promoted)) if promoted else NOTHING
        if type(work) is RunCreate:
            if work.identity.run_id in self._rows:
                raise exists(work.identity.run_id)
            self._commits += 1
            self._create(work)
            return NOTHING
        assert isinstance(work, Changes)  # noqa: S101 - the union is closed
        return self._decide(work)

    def _decide(self, changes: Changes) -> Committed:
        now, rows = changes.now, self._rows
        for identity, _, _ in changes.creates:
            if identity.run_id in rows and not changes.deletes_run(identity.run_id):
                raise exists(identity.run_id)
        moved = [(self._movable(move), move) for move in changes.moves] if changes.moves else ()
        # Keys before loads: a repeated event is reported as such, even if its load has changed meanwhile.
        taken = {}
        known_keys = self._remembered.entries
        for key in changes.remember:
            known = known_keys.get(key[:3])
            if known is not None and known[0] > now:
                taken[key.scope] = known[1]
        if taken:
            raise keys_taken(taken)
        loads = self._loads
        for workflow_id, load_key, expect, _, _ in changes.loads:
            found = loads.get((workflow_id, load_key))
            if (None if found is None else found[1]) != expect:
                raise load_moved(workflow_id)
        for delivery in changes.deliveries:
            known_run = rows.get(delivery.run_id)
            if known_run is not None and armed_anew(delivery, known_run.waits):
                raise wait_moved(delivery.run_id)
        posts = self._checked_posts(changes) if changes.posts else ()
        if changes.outbox:
            self._outbox.check(changes.outbox)
        deleted = [self._deletable(run_id, version) for run_id, version in changes.deletes] if changes.deletes else ()
        for workflow_id, trigger_id, scheduled, _ in changes.schedules:
            if self._schedules.get(workflow_id, {}).get(trigger_id) != scheduled:
                raise schedule_moved(workflow_id, trigger_id)
        if changes.holds:
            self._holds.check(changes.holds)

        # From here on nothing can be refused.
        self._commits += 1
        for row in deleted:
            self._delete(row)
            if changes.creates_run(row.identity.run_id):
                self._ended.remove(row.identity.run_id)  # the one in its place will have ended last
            else:
                self._stale += 1
        for ref, event, _ in changes.events:
            self._events.setdefault(ref, event)
        for create in changes.creates:
            self._create(create)
        for row, move in moved:
            self._write(row, move)
        for workflow_id, load_key, _, loaded, token in changes.loads:
            if loaded.idle:
                loads.pop((workflow_id, load_key), None)
                self._queues.pop((workflow_id, load_key), None)
            else:
                loads[workflow_id, load_key] = (loaded, token)
        promoted: list[str] = []
        waiting: tuple[str, ...] = ()
        if changes.releases or moved:
            for release in changes.leaving():
                promoted += self._release(release, now)
            waiting = tuple([move[0] for row, move in moved if move.slots is not None and row.slot == NEEDS_SLOT])
        for promotion in changes.promotions:
            promoted += self._promotion(promotion, now)
        delivered: tuple[Delivered, ...] = ()
        if changes.deliveries:
            delivered = tuple([self._deliver(delivery, now) for delivery in changes.deliveries])
        posted: tuple[int, ...] = ()
        if posts:
            posted = tuple([self._post(rows[post.run_id], post, body) for post, body in posts])
        if changes.outbox:
            self._outbox.move(changes.outbox)
        for run_id in changes.hooks:
            self._pending_hooks.setdefault(rows[run_id].identity.workflow_id, {})[run_id] = None
        for workflow_id, trigger_id, _, schedule in changes.schedules:
            self._schedules.setdefault(workflow_id, {})[trigger_id] = schedule
        for pause in changes.paused:
            self._pauses[pause.workflow_id] = pause
        for workflow_id in changes.unpaused:
            self._pauses.pop(workflow_id, None)
        if changes.remember or changes.receipt is not None:
            self._remember(changes, delivered)
        if changes.holds or changes.rewrites:
            self._holds.change(changes.holds)
            self._rewrite(changes)
        for ref, *_ in changes.events:
            if ref not in self._uses:  # no run and no message refers to it
                del self._events[ref]
        decided = NOTHING
        if promoted or delivered or posted or waiting:
            decided = Committed(tuple(promoted), delivered, posted, waiting)
        changes.committed = decided
        return decided

    def _checked_posts(self, changes: Changes) -> list[tuple[Post, Any]]:
        """Return the posts with their bodies, detached, if their runs can take them."""
        for post in changes.posts:
            row = self._rows.get(post.run_id)
            if row is None:
                if changes.creates_run(post.run_id):
                    continue
                raise not_found(post.run_id)
            if row.status.terminal:
                raise finished(post.run_id, row.status)
        return [(post, load(dump(post.body, "body"))) for post in changes.posts]

    def _remember(self, changes: Changes, delivered: tuple[Delivered, ...]) -> None:
        now, remembered, receipts = changes.now, self._remembered, self._receipts
        longest = 0.0
        added = 0
        missed = none_accepted(delivered) if delivered else False
        for key in changes.remember:
            source, event_id, scope, _, run_id, expires_at = key
            if expires_at <= now or (missed and not scope):
                continue
            name = (source, event_id, scope)
            remembered.put(name, key, expires_at)
            added += 1
            if expires_at == WITH_ITS_RUN and run_id in self._rows:
                self._rows[run_id].remembered = name
            elif expires_at > longest:
                longest = expires_at
        if changes.receipt is not None:
            source, event_id, time, lines = changes.receipt
            event = (source, event_id)
            if changes.deliveries:
                lines = settle_lines(lines, changes.deliveries, delivered)
            kept = self._unwanted_kept if unwanted(lines) else self._receipts_kept
            until = max(time + kept, longest)
            before = receipts.entries.get(event)
            if before is not None:
                lines = merged(before[1], lines)
            receipts.put(event, lines, until if before is None else max(until, before[0]))
        if now >= remembered.prunable or now >= receipts.prunable:
            at_most = 8 + 2 * added  # more than were added, so that a backlog becomes smaller
            remembered.prune(now, at_most)
            receipts.prune(now, at_most)

    def _rewrite(self, changes: Changes) -> None:
        """Rewrite the receipts of events that were held, and keep what was refused as dead letters."""
        receipts, now = self._receipts, changes.now
        for source, event_id, line in changes.rewrites:
            event = (source, event_id)
            lines = rewritten(receipts.get(event) or (), line)
            receipts.put(event, lines, max(receipts.expiry(event), now + self._receipts_kept))
        for letter in changes.letters:
            self._outbox.add_dead(letter)

    def _end(self, run_id: str) -> None:
        """Record the end of a run, and delete the runs that ended first, down to the limit.

        Never this run: its caller can still read the result. Nor one whose parent still has to.
        """
        ended = self._ended
        for _ in range(min(_LOOKED_AT, len(ended), len(ended) - self._stale - self._keep + 1)):
            first = ended.popleft()
            row = self._rows.get(first)
            if row is None:
                self._stale = max(self._stale - 1, 0)
                continue
            if not row.status.terminal:
                continue
            if row.identity.parent_id is not None and self._waits_for_children(row.identity.parent_id):
                ended.append(first)
                continue
            self._delete(row)
        ended.append(run_id)

    def _deletable(self, run_id: str, version: int) -> _Row:
        """Return an ended run that is to be deleted, if it is still as it was read."""
        row = self._rows.get(run_id)
        if row is None:
            raise not_found(run_id)
        if row.version != version or not row.status.terminal:
            raise not_deletable(run_id, row.version)
        return row

    def _delete(self, row: _Row) -> None:
        """Delete an ended run, and what belongs to it alone."""
        run_id = row.identity.run_id
        del self._rows[run_id]
        self._by_status[row.status._value_].remove(run_id)
        self._disuse(row.identity.event_ref)
        if row.remembered is not None:
            self._remembered.drop(row.remembered)

    def _waits_for_children(self, run_id: str) -> bool:
        row = self._rows.get(run_id)
        return row is not None and any(wait.wait_id == CHILDREN_WAIT for wait in row.waits or ())

    def _use(self, ref: str) -> None:
        self._uses[ref] = self._uses.get(ref, 0) + 1

    def _disuse(self, ref: str) -> None:
        left = self._uses[ref] - 1
        if left:
            self._uses[ref] = left
        else:
            del self._uses[ref], self._events[ref]

    def _movable(self, move: RunMove) -> _Row:
        """Return the run that a move is for, if the move's conditions hold."""
        row = self._rows.get(move.run_id)
        if row is None:
            raise not_found(move.run_id)
        refused = refusal(move, row)
        if refused is not None:
            raise refused
        return row

    def _create(self, create: RunCreate) -> None:
        self._numbers = number = self._numbers + 1
        identity, start, event = create
        run_id, ref, waits = identity.run_id, identity.event_ref, start.waits
        self._rows[run_id] = row = _Row(identity, start, number)
        if event is not None:
            self._events.setdefault(event.ref, event.event)
        uses = self._uses
        uses[ref] = uses.get(ref, 0) + 1
        if waits:
            self._set_waits(row, waits)
        if start.outgoing:
            self._outbox.add(run_id, start.outgoing, start.updated_at)
        status = row.status
        self._by_status[status._value_].fresh[run_id] = None
        if status is not _RUNNING:
            if status.terminal:  # it ended before its first commit
                self._end(run_id)
            self._index(row)

    def _write(self, row: _Row, move: RunMove) -> None:
        # Unpacked in one step: reading one field of a named tuple costs as much as five of these.
        (
            run_id,
            version,
            _,
            _,
            status,
            row.owner,
            row.epoch,
            row.stage,
            row.attempt,
            wake_at,
            outcome,
            slot,
            row.updated_at,
            log,
            waits,
            consumed,
            snapshot,
            visits,
            _,
            outgoing,
            slots,
        ) = move
        before = row.status
        row.version = version + 1
        lined_up = row.slot == NEEDS_SLOT
        if slots is not None and not self._takes_slot(row, slots):
            status, row.slot, row.owner = _READY, NEEDS_SLOT, None
        elif slot is not row.slot:
            if lined_up and slot != NEEDS_SLOT:
                self._withdraw(row)
            row.slot = slot
        row.status = status
        row.wake_at = wake_at
        row.outcome = outcome
        if visits is not None:
            row.visits = visits
        if log is not None:
            first, size, text = log
            row.log.append((first, size, text))
            row.log_seq = first + size - 1
        if outgoing:
            self._outbox.add(run_id, outgoing, row.updated_at)
        if snapshot is not None:
            row.snapshot = (row.log_seq, snapshot)
        if consumed:
            used = set(consumed)
            self._disuse_events(message for message in row.inbox if message.seq in used)
            row.inbox = [message for message in row.inbox if message.seq not in used]
        if waits is not None:
            self._set_waits(row, tuple(kept_tallies(row.waits, waits, consumed)))
        elif consumed:
            row.waits = tuple(without_consumed(row.waits, consumed))
        if before is not status or wake_at is not None:
            if before is not status:
                self._relist(run_id, before, status)
                if before.terminal:
                    self._ended.remove(run_id)  # it goes on, and will have ended last
            if status.terminal:
                self._end(run_id)
                if row.inbox:
                    self._disuse_events(row.inbox)
                    row.inbox = ()
                if row.waits:
                    self._set_waits(row, ())
            elif status is not _RUNNING:
                self._index(row)
        elif outcome is not None or (status is _READY and not (lined_up and row.slot == NEEDS_SLOT)):
            self._index(row)

    def _disuse_events(self, messages: Iterable[Message]) -> None:
        """Count down the uses of the events of messages that leave an inbox."""
        for message in messages:
            if message.event is not None:
                self._disuse(message.event.ref)

    def _relist(self, run_id: str, before: RunStatus, status: RunStatus) -> None:
        """List a run under its new status."""
        listings = self._by_status
        listings[before._value_].remove(run_id)
        listings[status._value_].fresh[run_id] = None
        if self._unfit:
            self._unfit.pop(run_id, None)
        if self._in_slot:
            self._in_slot.pop(run_id, None)

    def _index(self, row: _Row) -> None:
        """Add a run without an owner to the queue or agenda where it is looked up."""
        identity = row.identity
        if row.status is _QUEUED:
            pair = (identity.workflow_id, identity.load_key or "")
            queue = self._queues.get(pair)
            if queue is None:
                queue = self._queues[pair] = Queue(self._is_queued)
            queue.add(identity.priority, identity.created_at, row.number, identity.run_id)
        elif row.status is _READY:
            if row.slot == NEEDS_SLOT:
                pair = (identity.workflow_id, identity.load_key or "")
                self._returning.setdefault(pair, OrderedDict())[identity.run_id] = None
                return
            self._agenda(identity.workflow_id).ready(identity.priority, row.updated_at, identity.run_id)
        elif row.status in _DUE:
            if row.wake_at is not None:
                self._agenda(identity.workflow_id).wait(identity.priority, row.wake_at, identity.run_id)
            if row.outcome is not None and row.status is RunStatus.PAUSED:
                self._unfit[identity.run_id] = None
            if row.slot is True and row.status is RunStatus.PAUSED:
                self._in_slot[identity.run_id] = None

    def _agenda(self, workflow_id: str) -> Agenda:
        agenda = self._agendas.get(workflow_id)
        if agenda is None:
            agenda = self._agendas[workflow_id] = Agenda(self._is_claimable)
        return agenda

    def _is_queued(self, item: tuple[int, float, str]) -> bool:
        row = self._rows.get(item[2])
        return row is not None and row.status is _QUEUED

    def _is_claimable(self, run_id: str, when: float, place: float) -> bool:
        """Whether this still says when a run goes on, and its rank: one that was moved while ready has another."""
        row = self._rows.get(run_id)
        if row is None or row.status is not _READY:
            return self._waits_until(run_id, when)
        current = rank(row.identity.priority, row.updated_at)
        return when == READY and row.slot != NEEDS_SLOT and place == current

    def _waits_until(self, run_id: str, when: float) -> bool:
        """Whether this is still the time until which a run is paused or delayed."""
        row = self._rows.get(run_id)
        return row is not None and row.wake_at == when and row.status in _DUE

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
        self._armed += len(waits) - len(row.waits)
        row.waits = waits
        for wait in waits:
            for key in wait.keys:
                holders = self._waiting.setdefault(key, {})
                if run_id not in holders:
                    holders[run_id] = None
                    self._shapes[key_shape(key)] += 1

    def _release(self, release: Release, now: float) -> Sequence[str]:
        workflow_id, load_key, run_id, queued, slots, _ = release
        pair = (workflow_id, load_key)
        known = self._loads.get(pair)
        if known is None:
            return ()  # no run is active or queued
        after = known[0].left(run_id, slots, queued=queued)
        if after.load.idle:
            del self._loads[pair]
            self._queues.pop(pair, None)
            return ()
        return self._promote(pair, after, known[1].next(run_id), release.owner, now)

    def _promotion(self, promotion: Promotion, now: float) -> Sequence[str]:
        workflow_id, load_key, slots, owner = promotion
        known = self._loads.get((workflow_id, load_key))
        if known is None:
            return ()
        after = known[0].promoted(slots)
        if not (after.returning or after.queued):
            return ()
        token = known[1].next(f"{after.returning} {after.queued}")
        return self._promote((workflow_id, load_key), after, token, owner, now)

    def _promote(
        self, pair: tuple[str, str], after: Promoted, token: Token, owner: str | None, now: float
    ) -> Sequence[str]:
        """Give slots to runs that wait, resumed ones first, and set the load."""
        promoted: list[str] = []
        returning = self._returning.get(pair) if after.returning else None
        while returning and len(promoted) < after.returning:
            run_id = next(iter(returning))
            self._leave_line(pair, run_id)
            promoted.append(run_id)
            row = self._rows[run_id]
            row.slot = True
            self._take(row, owner, now, wake_at=row.wake_at)
        queue, most = self._queues.get(pair), len(promoted) + after.queued
        while queue is not None and len(promoted) < most and (first := queue.pop()) is not None:
            row = self._rows[first]
            promoted.append(first)
            row.slot = True
            self._take(row, owner, now)
        loaded = after.load
        if promoted:
            loaded = loaded._replace(active_id=promoted[-1])
        self._loads[pair] = (loaded, token)
        return promoted

    def _leave_line(self, pair: tuple[str, str], run_id: str) -> None:
        returning = self._returning[pair]
        del returning[run_id]
        if not returning:
            del self._returning[pair]

    def _take(self, row: _Row, owner: str | None, now: float, *, wake_at: float | None = None) -> None:
        """Give a run without an owner to its next owner, or make it `ready` if there is none."""
        before, row.status = row.status, _READY if owner is None else _RUNNING
        row.owner = owner
        row.version += 1
        row.epoch += 1
        row.wake_at = wake_at
        row.outcome = None
        row.updated_at = now
        self._relist(row.identity.run_id, before, row.status)
        if owner is None:
            self._index(row)

    def _deliver(self, delivery: Delivery, now: float) -> Delivered:
        row = self._rows.get(delivery.run_id)
        if row is None:
            return Delivered(Fate.GONE, 0)
        unfit, place = row.outcome is not None, row.inbox_seq + 1
        decided = fate(delivery, row.status, row.waits, now=now, seq=place, unfit=unfit or delivery.held)
        if not decided.fate.accepted:
            return Delivered(decided.fate, 0, decided.reason)
        seq = self._append(row, "event", answer_note(decided.answers), now, delivery.event_ref)
        waits = decided.fate is Fate.RESUMED and not self._takes_slot(row, delivery.slots)
        if waits:
            self._line_up(row, now)
        elif decided.fate is Fate.RESUMED:
            row.slot = row.identity.load_key is not None
            self._take(row, delivery.owner, now)
        elif delivery.held and is_due(delivery, row.status, row.waits, unfit=unfit):
            row.wake_at = now
            row.version += 1
            self._index(row)
        if decided.tallies:
            row.waits = tuple([_counting(wait, decided.tallies.get(wait.wait_id)) for wait in row.waits])
        if decided.dropped:
            self._disuse_events(message for message in row.inbox if message.seq in decided.dropped)
            row.inbox = [message for message in row.inbox if message.seq not in decided.dropped]
        return Delivered(decided.fate, seq, decided.reason, decided.dropped, waits, decided.answers)

    def _takes_slot(self, row: _Row, slots: int) -> bool:
        """Whether a run that goes on has a slot, or gets one; its load is what it is after that."""
        identity = row.identity
        if row.slot or identity.load_key is None:
            return True
        pair, run_id = (identity.workflow_id, identity.load_key), identity.run_id
        known, token = self._loads.get(pair, (_IDLE, Token(default_ids.token(), 0)))
        loaded, taken = known.returned(run_id, slots)
        self._loads[pair] = (loaded, token.next(run_id))
        return taken

    def _line_up(self, row: _Row, now: float, *, wake_at: float | None = None) -> None:
        """Have a run without an owner wait for a slot; its load counts it already."""
        row.slot = NEEDS_SLOT
        self._take(row, None, now, wake_at=wake_at)

    def _withdraw(self, row: _Row) -> None:
        """Count a run no more that waited for a slot and is moved."""
        identity = row.identity
        pair, run_id = (identity.workflow_id, identity.load_key or ""), identity.run_id
        self._leave_line(pair, run_id)
        known = self._loads.get(pair)
        if known is None:
            return
        loaded = known[0].withdrawn()
        if loaded.idle:
            del self._loads[pair]
            self._queues.pop(pair, None)
        else:
            self._loads[pair] = (loaded, known[1].next(run_id))

    def _post(self, row: _Row, post: Post, body: Any) -> int:
        if post.wakes(row.status):
            row.wake_at = post.time
            row.version += 1
            self._index(row)
        return self._append(row, post.kind, body, post.time, None)

    def _append(self, row: _Row, kind: Any, body: Any, time: float, event_ref: str | None) -> int:
        row.inbox_seq += 1
        stored = None
        if event_ref is not None:
            self._use(event_ref)
            stored = StoredEvent(event_ref, self._events[event_ref])
        row.inbox = row.inbox or []
        row.inbox.append(Message(row.identity.run_id, row.inbox_seq, kind, time, body, stored))
        return row.inbox_seq

    # --------------------------------------------------------------------------------------------------- reads
    def read_loads(self, pairs: Sequence[tuple[str, str]]) -> AtHand[tuple[Load, Token | None]]:
        """Return loads and tokens."""
        return AtHand(map(self._loads.get, pairs, repeat(_NO_LOAD)))

    async def load(self, run_id: str) -> RunRecord | None:
        """Return a run's record."""
        row = self._rows.get(run_id)
        return None if row is None else row.record()

    async def status(self, run_id: str) -> RunStatus | None:
        """Return a run's status."""
        row = self._rows.get(run_id)
        return None if row is None else row.status

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
        rows: list[_Row] = []
        for _, run_id in self._listings.newest(query, before):
            row = self._rows[run_id]
            if _fits(query, row, self._events[row.identity.event_ref]):
                if len(rows) == query.limit:
                    return Page([row.record() for row in rows], write_cursor(rows[-1].identity))
                rows.append(row)
        return Page([row.record() for row in rows], None)

    async def claim(self, worker: str, workflows: Mapping[str, int], now: float, limit: int) -> Claims:
        """Claim ready and due runs."""
        agendas = list(self._agendas_of(workflows))
        first = [(entry, place) for place, agenda in enumerate(agendas) if (entry := agenda.first(now)) is not None]
        heapq.heapify(first)
        claims = Claims()
        waiting: list[str] = []
        unread: list[tuple[Agenda, Entry]] = []
        error: Exception | None = None
        while first and len(claims) < limit and len(waiting) < LINED_UP_AT_ONCE:
            entry, place = first[0]
            agenda = agendas[place]
            agenda.skip()
            row = self._rows[entry[1]]
            try:
                claim = self._claim(row, worker, now, workflows[row.identity.workflow_id])
                if claim is None:
                    waiting.append(entry[1])
                else:
                    claims.append(claim)
            except Exception as fault:  # noqa: BLE001 - a run that cannot be read must not block others
                unread.append((agenda, entry))
                error = error or fault
            following = agenda.first(now)
            if following is None:
                heapq.heappop(first)
            else:
                heapq.heapreplace(first, (following, place))
        for agenda, entry in unread:
            agenda.put_back(entry)
        claims.waiting = waiting
        if error is not None and not claims and not waiting:
            raise error
        return claims

    def _agendas_of(self, workflows: Collection[str]) -> Iterator[Agenda]:
        """Yield the agendas of these workflows; those that have become empty are dropped."""
        for workflow_id in workflows:
            agenda = self._agendas.get(workflow_id)
            if agenda is not None:
                if agenda:
                    yield agenda
                else:
                    del self._agendas[workflow_id]

    def _claim(self, row: _Row, worker: str, now: float, slots: int) -> Claim | None:
        """Claim a run; None if it has to wait for a slot."""
        identity = row.identity
        if not row.slot and identity.load_key is not None:
            loaded, _ = self._loads.get((identity.workflow_id, identity.load_key), _NO_LOAD)
            if not loaded.returned(identity.run_id, slots)[1]:
                self._takes_slot(row, slots)
                self._line_up(row, now, wake_at=row.wake_at)
                return None
        checkpoint = self._checkpoint(row)  # it may refuse to be read
        recovered = row.status is RunStatus.READY and row.owner is not None
        delayed = row.status is RunStatus.DELAYED or delay_is_over(checkpoint.record)
        self._takes_slot(row, slots)
        row.slot = identity.load_key is not None
        # That of a run that is not at a wait says why it goes on, until its next boundary.
        self._take(row, worker, now, wake_at=None if row.status is RunStatus.PAUSED else row.wake_at)
        if recovered:
            row.attempt += 1
        return Claim(checkpoint._replace(record=row.record()), recovered, delayed)

    def waiting_loads(self, workflows: Collection[str], queued: bool) -> AtHand[tuple[tuple[str, str], Load]]:
        """Return the loads in which runs wait for a slot."""
        pairs = self._loads if queued else self._returning
        found = [(pair, self._loads.get(pair, _NO_LOAD)[0]) for pair in pairs if pair[0] in workflows]
        return AtHand([each for each in found if each[1].returning or (queued and each[1].queued)])

    async def next_due(self, workflows: Collection[str]) -> float | None:
        """Return the earliest wake time."""
        times = [agenda.next_time(self._waits_until) for agenda in self._agendas_of(workflows)]
        return min((when for when in times if when is not None), default=None)

    def match_waits(self, event: Event) -> AtHand[RunRecord]:
        """Return the runs under the event's keys."""
        if not self._waiting:
            return _NOBODY
        found = {run_id for key in event_keys(list(self._shapes), event) for run_id in self._waiting.get(key, ())}
        oldest_first = sorted((self._rows[run_id].identity.created_at, run_id) for run_id in found)
        return AtHand([self._rows[run_id].record() for _, run_id in oldest_first])

    async def unfit(self, workflow: str) -> list[RunRecord]:
        """Return paused runs with an error."""
        rows = [row for run_id in self._unfit if (row := self._rows[run_id]).identity.workflow_id == workflow]
        return [row.record() for row in sorted(rows, key=_number) if row.outcome is not None]

    async def paused_in_slot(self, workflow: str) -> list[RunRecord]:
        """Return paused runs that hold a slot."""
        rows = [row for run_id in self._in_slot if (row := self._rows[run_id]).identity.workflow_id == workflow]
        return [row.record() for row in sorted(rows, key=_number) if row.slot is True]

    async def inbox(self, run_id: str, after: int) -> list[Message]:
        """Return unconsumed messages."""
        row = self._rows.get(run_id)
        return [] if row is None else [message for message in row.inbox if message.seq > after]

    async def history(
        self, run_id: str, last: int | None = None, after: int = 0, limit: int | None = None
    ) -> list[LogRow]:
        """Return log rows: all, the last ones, or those with entries after a sequence."""
        row = self._rows.get(run_id)
        if row is None:
            return []
        if last is not None:
            return [LogRow(*entries) for entries in row.log[-last:]]
        first = bisect_right(row.log, after, key=_last_seq) if after else 0
        return [LogRow(*entries) for entries in row.log[first : None if limit is None else first + limit]]

    async def pauses(self) -> list[WorkflowPause]:
        """Return the paused workflows."""
        return [self._pauses[workflow_id] for workflow_id in sorted(self._pauses)]

    async def receipt(self, source: str, event_id: str) -> tuple[ReceiptLine, ...] | None:
        """Return the lines of the last receipt of an event."""
        return self._receipts.get((source, event_id))

    @property
    def holding(self) -> int:
        """How many holds of triggers there are."""
        return len(self._holds)

    def read_holds(self, keys: Sequence[HoldKey]) -> AtHand[Hold | None]:
        """Return what triggers hold."""
        return AtHand(map(self._holds.get, keys))

    async def held_events(self, key: HoldKey, limit: int) -> list[HeldRow]:
        """Return events of a hold."""
        return self._holds.held(key, limit)

    async def due_holds(self, workflows: Collection[str], limit: int) -> list[tuple[float, HoldKey]]:
        """Return when holds end."""
        return self._holds.due(workflows, limit)

    @property
    def undelivered(self) -> tuple[int, int]:
        """How many events are still to be delivered, and how many dead letters there are."""
        return self._outbox.undelivered

    async def outbox(self, query: OutboxQuery) -> list[OutboxRow]:
        """Return rows of the outbox."""
        return self._outbox.read(query)

    async def pending_hooks(self, workflow: str) -> list[str]:
        """Return the ended runs of a workflow whose hooks are pending."""
        return list(self._pending_hooks.get(workflow, ()))

    async def hooks_called(self, run_ids: Collection[str]) -> None:
        """Forget that the hooks of these runs are pending."""
        for workflow, pending in list(self._pending_hooks.items()):
            for run_id in run_ids:
                pending.pop(run_id, None)
            if not pending:
                del self._pending_hooks[workflow]

    async def ended(self, cursor: str | None, limit: int) -> Page[EndedRun]:
        """Return ended runs in the order of their creation."""
        after = 0 if cursor is None else int(cursor)
        rows = list(self._rows.values())  # in the order of their numbers
        start = bisect_right(rows, after, key=_number)
        seen = rows[start : start + limit]
        found = [self._ended_run(row) for row in seen if row.status in ENDED]
        return Page(found, str(seen[-1].number) if start + limit < len(rows) else None)

    def _ended_run(self, row: _Row) -> EndedRun:
        identity, parent = row.identity, row.identity.parent_id
        orphan = parent is not None and parent not in self._rows
        return EndedRun(identity.run_id, identity.workflow_id, row.status, row.updated_at, row.version, parent, orphan)

    async def prune(self, now: float, limit: int, *, begin: bool) -> Pruned:  # noqa: ARG002 - the oldest come first
        """Delete expired keys and receipts."""
        before = len(self._receipts), len(self._remembered)
        self._remembered.prune(now, limit)
        self._receipts.prune(now, limit)
        receipts, remembered = before[0] - len(self._receipts), before[1] - len(self._remembered)
        return Pruned(receipts, remembered, receipts < limit and remembered < limit)

    def retain(self, receipts: float, unwanted: float) -> None:
        """Keep receipts for so long from now on."""
        self._receipts_kept, self._unwanted_kept = receipts, unwanted

    async def schedules(self, workflow_id: str) -> dict[str, ScheduleRow]:
        """Return the rows of a workflow's time triggers."""
        return dict(self._schedules.get(workflow_id, ()))

    async def stats(self) -> dict[str, int]:
        """Return counters."""
        counts = {status: listing.size for status, listing in self._by_status.items() if listing.size}
        rows = {"events": len(self._events), "remembered": len(self._remembered), "receipts": len(self._receipts)}
        rows |= self._outbox.counts() | self._holds.counts()
        return {**counts, "waits": self._armed, **rows, "bytes": 0, "commits": self._commits, "syncs": 0}


def _counting(wait: WaitRow, tally: Tally | None) -> WaitRow:
    return wait if tally is None else wait._replace(tally=tally)


def _number(row: _Row) -> int:
    return row.number


def _last_seq(entries: tuple[int, int, str]) -> int:
    return entries[0] + entries[1] - 1


def _fits(query: RunQuery, row: _Row, event: Event) -> bool:
    identity = row.identity
    return (
        (query.workflow is None or identity.workflow_id == query.workflow)
        and (not query.status or row.status in query.status)
        and (query.key is None or identity.key == query.key)
        and (query.since is None or identity.created_at >= query.since)
        and (query.until is None or identity.created_at < query.until)
        and (
            query.text is None
            or any(
                query.text.lower() in (text or "").lower()
                for text in (identity.run_id, identity.key, event.type, row.outcome)
            )
        )
    )
