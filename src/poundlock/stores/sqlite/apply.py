"""Apply units of work inside a transaction of the writer.

House rules:

1. `check` reads and answers; `write` writes and cannot refuse. So a refused change has no effect, and the others in the
   transaction are not affected. Only the store or a bug can fail in `write`: then the transaction is rolled back.
2. The order of checks and writes is that of the memory store, which is the specification.
3. Nothing is read change by change: `prepare` reads what many changes ask for, and rows are collected in `batch`.
4. What a run is like now is known from `heads`, which are changed in place; what was collected is written before
   anything else reads the file (`flush`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from poundlock.codecs import dump, encode, load
from poundlock.errors import NotStorable, PoundlockError
from poundlock.ids import default_ids
from poundlock.model.changes import (
    NOTHING,
    Changes,
    Committed,
    LoadChange,
    Post,
    Promotion,
    Release,
    Remember,
    RunCreate,
    RunDelete,
    RunMove,
    Token,
)
from poundlock.model.holds import ALL, HoldChange, HoldKey
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load, Promoted
from poundlock.model.outbox import Letter, OutboxMove, Outgoing, Refused
from poundlock.model.priorities import rank
from poundlock.model.receipts import (
    Delivered,
    Delivery,
    Fate,
    ReceiptLine,
    Rewrite,
    answer_note,
    changes_nothing,
    lines_text,
    merged,
    none_accepted,
    rewritten,
)
from poundlock.model.runs import LOOSE, NEEDS_SLOT, LogRow, StoredEvent, WaitRow
from poundlock.model.waits import armed_anew, fate, is_due, key_shape
from poundlock.records import NamedTuple
from poundlock.stores.answers import (
    exists,
    finished,
    hold_moved,
    keys_taken,
    load_moved,
    not_deletable,
    not_found,
    outbox_moved,
    refusal,
    schedule_moved,
    wait_moved,
)
from poundlock.stores.sqlite import sql
from poundlock.stores.sqlite.batch import Batch
from poundlock.stores.sqlite.heads import Head, Heads
from poundlock.stores.sqlite.index import DEAD, HELD, HOLDS, OUTBOX, Effects, Pair
from poundlock.stores.sqlite.leaving import delete
from poundlock.stores.sqlite.rows import event_row, event_text, hold_row, load_row

_IDLE = Load()
_RUNNING = RunStatus.RUNNING
_SILENT = LogRow(1, 0, "[]")
"""The first log row of a run that has only an event to keep."""


class _Kept(NamedTuple):
    """An event of a unit of work; `alone`: one row refers to it and keeps it, so it is not in the table of events."""

    stored: StoredEvent
    alone: bool


class Transaction:
    """One transaction of the writer: a cursor, and the effects of its changes on the index.

    Args:
        cursor: on the writer's connection, inside BEGIN IMMEDIATE.
        heads: the heads the writer knows.
        loads: the loads stored before this transaction.

    Attributes:
        effects: the effects on the index. Loads and counts are written from here, once each, after all changes.
        before: the effects of the earlier changes, while each change is applied alone.
    """

    def __init__(self, cursor: sqlite3.Cursor, heads: Heads, loads: Mapping[Pair, tuple[Load, Token]]) -> None:
        self.execute = cursor.execute
        self.cursor = cursor
        self.heads = heads
        self.batch = Batch(cursor)
        self.effects = Effects()
        self.before = Effects()
        self._loads = loads
        self._remembered: dict[tuple[str, ...], Remember] = {}
        self._receipts: set[Pair] = set()
        self._asked: set[Pair] = set()
        self._outbox: dict[int, tuple[int, bool] | None] = {}
        """Version of each outbox row that is asked for, and whether it is a dead letter; None if it is gone."""
        self.leftovers = False
        """Whether rows of deleted runs were left for the pruner."""
        self._holds: dict[HoldKey, int | None] = {}
        """Token of each hold that is asked for; None if there is none."""

    # ---------------------------------------------------------------------------------------------------- reading
    def prepare(self, works: Iterable[Any]) -> None:
        """Read together what these units of work ask for, which is faster than reading it when each is checked."""
        known = self.heads.known
        runs: dict[str, None] = {}
        events: dict[Pair, None] = {}
        sent: dict[int, None] = {}
        for work in works:
            kind = type(work)
            if kind is RunMove:
                if work[0] not in known:
                    runs[work[0]] = None
                continue
            if kind is RunCreate:
                runs[work[0][0]] = None
                continue
            if kind is not Changes:
                continue  # an operation reads for itself
            changes = work
            for create in changes.creates:
                runs[create.identity.run_id] = None
            for move in changes.moves:
                if move.run_id not in known:
                    runs[move.run_id] = None
            for delivery in changes.deliveries:
                runs[delivery.run_id] = None
            for post in changes.posts:
                runs[post.run_id] = None
            for key in changes.remember:
                events[key.source, key.event_id] = None
            for delivered in changes.outbox:
                sent[delivered.seq] = None
            for gone in changes.deletes:
                runs[gone.run_id] = None
            if changes.receipt is not None:
                events[changes.receipt.source, changes.receipt.event_id] = None
        if runs:
            self.heads.read(self.execute, runs)
        if events:
            self._ask(list(events))
        if sent:
            self._read_outbox(list(sent))

    def _read_outbox(self, seqs: list[int]) -> None:
        """Read the versions of outbox rows, and which are dead letters."""
        self._outbox.update(dict.fromkeys(seqs))
        for size, portion in sql.portions(seqs):
            for seq, version, dead in self.execute(sql.outbox_rows(size), portion):
                self._outbox[seq] = (version, bool(dead))

    def _ask(self, pairs: list[Pair]) -> None:
        """Read what is stored for events: remembered keys, and whether there is a receipt."""
        self._asked.update(pairs)
        values = [value for pair in pairs for value in pair]
        start = 0
        for size in sql.sizes(len(pairs)):
            portion = values[start : start + 2 * size]
            start += 2 * size
            for row in self.execute(sql.remembered(size), portion):
                self._remembered[row[:3]] = Remember(*row)
            self._receipts.update(self.execute(sql.receipts(size), portion))

    def head(self, run_id: str) -> Head | None:
        """Return the head of a run as it is after all applied changes; None if there is no such run."""
        return self.heads.get(self.execute, run_id)

    def flush(self) -> None:
        """Write what was collected, so that the file can be read."""
        self.batch.flush(self.effects)

    def discard(self) -> None:
        """Drop what was collected and is known, after a rollback to the last savepoint."""
        self.batch.clear()
        self.heads.forget()
        self.effects = Effects()
        self._remembered.clear()
        self._receipts.clear()
        self._asked.clear()
        self._outbox.clear()
        self._holds.clear()

    # --------------------------------------------------------------------------------------------------- checks
    def check(self, changes: Changes) -> PoundlockError | None:
        """Return why the changes do not apply now, or None if they do."""
        for create in changes.creates:
            if self.head(create.identity.run_id) is not None and not changes.deletes_run(create.identity.run_id):
                return exists(create.identity.run_id)
        for move in changes.moves:
            head = self.head(move.run_id)
            refused = not_found(move.run_id) if head is None else refusal(move, head)
            if refused is not None:
                return refused
        return self._check_decisions(changes)

    def _check_decisions(self, changes: Changes) -> PoundlockError | None:
        taken = self._taken(changes)
        if taken:
            return keys_taken(taken)
        for change in changes.loads:
            found = self.load_of((change.workflow_id, change.load_key))
            if (None if found is None else found[1]) != change.expect:
                return load_moved(change.workflow_id)
        for delivery in changes.deliveries:
            head = self.head(delivery.run_id)
            if head is not None and armed_anew(delivery, head.armed()):
                return wait_moved(delivery.run_id)
        for post in changes.posts:
            head = self.head(post.run_id)
            if head is None:
                if changes.creates_run(post.run_id):
                    continue
                return not_found(post.run_id)
            if head.status.terminal:
                return finished(post.run_id, head.status)
        for delivered in changes.outbox:
            if delivered.seq not in self._outbox:
                self._read_outbox([delivered.seq])
            row = self._outbox[delivered.seq]
            if row is None or row[0] != delivered.version:
                return outbox_moved(delivered.seq)
        for gone in changes.deletes:
            head = self.head(gone.run_id)
            if head is None:
                return not_found(gone.run_id)
            if head.version != gone.version or not head.status.terminal:
                return not_deletable(gone.run_id, head.version)
        for workflow_id, trigger_id, expect, _ in changes.schedules:
            if self.execute(sql.SCHEDULE, (workflow_id, trigger_id)).fetchone() != expect:
                return schedule_moved(workflow_id, trigger_id)
        for held in changes.holds:
            if self._token_of(held.key) != held.expect:
                return hold_moved(held.key.workflow_id)
        return None

    def _token_of(self, key: HoldKey) -> int | None:
        if key not in self._holds:
            row = self.execute(sql.HOLD, key).fetchone()
            self._holds[key] = None if row is None else row[4]
        return self._holds[key]

    def _taken(self, changes: Changes) -> dict[str, Remember]:
        """Return what is already stored under keys that the changes want to store, by scope."""
        taken = {}
        for key in changes.remember:
            if (key.source, key.event_id) not in self._asked:
                self._ask([(key.source, key.event_id)])
            known = self._remembered.get(key[:3])
            if known is not None and known.expires_at > changes.now:
                taken[key.scope] = known
        return taken

    # --------------------------------------------------------------------------------------------------- writes
    def apply(self, work: Any) -> Any:
        """Apply a unit of work if its conditions hold: return what was committed, or why not. Perform an operation."""
        kind = type(work)
        if kind is RunMove:  # nearly always; `isinstance` costs more
            run_id = work[0]
            head = self.heads.known.get(run_id) or self.head(run_id)
            if head is None:
                return not_found(run_id)
            refused = refusal(work, head)
            if refused is not None:
                return refused
            self.move(work, head)
            release = work.release
            if release is not None:
                return Committed(tuple(self.release(release, work.updated_at)))
            waits = work.slots is not None and head.slot == NEEDS_SLOT
            return Committed(waiting=(run_id,)) if waits else NOTHING
        if kind is RunCreate:
            identity, _, stored = work
            run_id = identity[0]
            if self.head(run_id) is not None:
                return exists(run_id)
            self.create(work, None if stored is None else self._keep(stored, alone=stored[0] == run_id))
            return NOTHING
        if isinstance(work, Changes):
            return self._apply_parts(work)
        self.flush()
        return work(self)

    def _apply_parts(self, changes: Changes) -> Committed | PoundlockError:
        refused = self.check(changes)
        if refused is not None:
            return refused
        try:
            posts = [(post, dump(post.body, "body")) for post in changes.posts] if changes.posts else ()
        except NotStorable as error:
            return error
        if changes.deletes:
            self._delete(changes.deletes)
        events = self._events(changes)
        for create in changes.creates:
            self.create(create, events.get(create.identity.event_ref))
        for move in changes.moves:
            head = self.head(move.run_id)
            assert head is not None  # noqa: S101 - checked before
            self.move(move, head)
        return self._decide(changes, posts, events)

    def _delete(self, deletes: Sequence[RunDelete]) -> None:
        self.flush()
        for gone in deletes:
            delete(self, gone.run_id)
        # Keys have gone with the runs: what comes next in this transaction has to read them again.
        self._remembered.clear()
        self._receipts.clear()
        self._asked.clear()

    def _decide(self, changes: Changes, posts: Sequence[tuple[Post, str]], events: Mapping[str, _Kept]) -> Committed:
        now = changes.now
        for change in changes.loads:
            self.change_load(change)
        promoted = tuple([run_id for release in changes.leaving() for run_id in self.release(release, now)])
        waiting = tuple([move.run_id for move in changes.moves if self._waits(move)])
        for promotion in changes.promotions:
            promoted += self.promotion(promotion, now)
        delivered = tuple([self._deliver(delivery, now, events) for delivery in changes.deliveries])
        posted = tuple([self._post(post, body) for post, body in posts])
        for sent in changes.outbox:
            self._move_outbox(sent)
        for run_id in changes.hooks:
            ended = self.head(run_id)
            assert ended is not None  # noqa: S101 - these changes end it
            self.execute(sql.PUT_PENDING_HOOKS, (ended.workflow_id, run_id))
        for workflow_id, trigger_id, _, row in changes.schedules:
            self.execute(sql.PUT_SCHEDULE, (workflow_id, trigger_id, *row))
        for pause in changes.paused:
            self.execute(sql.PAUSE, pause)
        for workflow_id in changes.unpaused:
            self.execute(sql.UNPAUSE, (workflow_id,))
        missed = none_accepted(delivered)
        for key in changes.remember:
            if key.expires_at > now and (key.scope or not missed):
                self._remember(key)
        receipt = changes.receipt
        if receipt is not None:
            pair = (receipt.source, receipt.event_id)
            if pair not in self._asked:
                self._ask([pair])
            lines = receipt.settled(changes.deliveries, delivered)
            if pair not in self._receipts:
                self._receipts.add(pair)
                self.effects.tally("receipts", 1)
            elif changes_nothing(lines):
                lines = merged(self._lines_of(pair) or (), lines)
            self.batch.receipts[pair] = (receipt.time, lines_text(lines))
        if changes.holds or changes.rewrites:
            self._end_holds(changes)
        return Committed(promoted, delivered, posted, waiting)

    def _waits(self, move: RunMove) -> bool:
        """Whether a run that was to go on with this move waits for a slot."""
        if move.slots is None:
            return False
        head = self.head(move.run_id)
        return head is not None and head.slot == NEEDS_SLOT

    def _events(self, changes: Changes) -> dict[str, _Kept]:
        """Store the events that several rows refer to; return all of them by reference.

        A run keeps an event that has its own id, and an inbox one that is only delivered, and only once.
        """
        kept = {}
        deliveries, creates = changes.deliveries, changes.creates
        for stored in changes.stored_events():
            ref = stored.ref
            if deliveries:
                alone = ref[:1] == LOOSE and len(deliveries) == 1 and deliveries[0].event_ref == ref
            else:
                alone = len(creates) == 1 and creates[0].identity.run_id == ref
            kept[ref] = self._keep(stored, alone=alone)
        return kept

    def _keep(self, stored: StoredEvent, *, alone: bool) -> _Kept:
        if not alone:
            self.batch.events += event_row(stored)
        return _Kept(stored, alone)

    def create(self, create: RunCreate, kept: _Kept | None) -> None:
        """Create a run.

        Args:
            create: the run.
            kept: its event; None for one that was stored earlier.
        """
        identity, start, _ = create
        # Unpacked in one step: reading one field of a named tuple costs as much as five of these.
        run_id, _, _, _, status, owner, epoch, stage, attempt, wake_at, outcome, slot, now, log, waits = start[:15]
        heads, batch = self.heads, self.batch
        run = heads.new_run()
        first_seq, size, text = log or _SILENT
        head = Head(
            None,
            run,
            run_id,
            identity.workflow_id,
            identity.load_key,
            status,
            1,
            owner,
            epoch,
            stage,
            attempt,
            wake_at,
            outcome,
            slot,
            0,
            first_seq + size - 1,
            now,
            start.visits,
            None,
        )
        heads.add(head)
        own = kept is not None and kept.alone
        event_type = kept.stored.event.type if kept is not None else self._type_of(identity.event_ref)
        place = 0 if status is not RunStatus.QUEUED else heads.new_place()
        batch.created.append((head, identity, event_type, own, place))
        if kept is not None and own:
            batch.firsts += (run, 1, stage or 0, attempt, now, first_seq, size, text, event_text(kept.stored))
        elif log is not None:
            batch.logs += (run, 1, stage or 0, attempt, now, first_seq, size, text)
        if waits:
            self._arm(head, waits)
        if start.outgoing:
            self._send(run_id, start.outgoing, now)

    def _send(self, run_id: str, outgoing: Sequence[Outgoing | Refused], now: float) -> None:
        """Put events of a run into the outbox."""
        refused = 0
        for each in outgoing:
            text = event_text(StoredEvent("", each.event, each.text))
            if type(each) is Refused:
                refused += 1
                self.batch.refused += (run_id, text, each.error, now)
            else:
                self.batch.outgoing += (run_id, text)
        self.effects.tally(OUTBOX, len(outgoing) - refused)
        if refused:
            self.effects.tally(DEAD, refused)

    def _type_of(self, ref: str) -> str:
        self.flush()
        row = self.execute(sql.EVENT, (ref,)).fetchone()
        return "" if row is None else str(row[1])

    def move(self, move: RunMove, head: Head) -> None:
        """Move a run, as its head allows."""
        # Unpacked in one step, as above.
        (
            run_id,
            version,
            _,
            _,
            status,
            owner,
            epoch,
            stage,
            attempt,
            wake_at,
            outcome,
            slot,
            now,
            log,
            waits,
            consumed,
            snapshot,
            visits,
            _,
            outgoing,
            slots,
        ) = move
        if slots is not None and not self.takes_slot(head, slots):
            status, owner, slot = RunStatus.READY, None, NEEDS_SLOT
            self._get_in_line(head)
        if head.version != version:
            raise AssertionError(f"one unit of work moves run '{run_id}' twice")
        version += 1
        head.version = version
        head.stage = stage
        head.attempt = attempt
        head.updated_at = now
        batch = self.batch
        if log is not None:
            first_seq, size, text = log
            head.log_seq = first_seq + size - 1
            batch.logs += (head.run, version, stage or 0, attempt, now, first_seq, size, text)
        counted = bool(consumed) and waits is None and head.consume(consumed)
        # At a boundary the log says everything, see schema_3.sql.
        if counted or not (
            status is _RUNNING is head.status
            and log is not None
            and epoch == head.epoch
            and slot == head.slot
            and waits is None
            and (visits is None or visits == head.visits)
            and owner == head.owner
            and wake_at == head.wake_at
            and outcome == head.outcome
        ):
            batch.changed[head.run] = head
            if head.slot == NEEDS_SLOT and slot != NEEDS_SLOT:
                self._withdraw(head)
            head.slot = slot
            head.status = status
            head.owner = owner
            head.epoch = epoch
            head.wake_at = wake_at
            head.outcome = outcome
            if visits is not None:
                head.visits = visits
            terminal = status.terminal
            if terminal and head.waits is not None:
                self._arm(head, ())
            elif waits is not None and not terminal:
                self._arm(head, waits, consumed)
            if terminal and head.inbox_seq:
                batch.emptied.append(head.run)
            self.heads.leaves(head)
        if outgoing:
            self._send(run_id, outgoing, now)
        if snapshot is not None:
            batch.snapshots[head.run] = (version, snapshot)
        if consumed and not status.terminal:
            for seq in consumed:
                batch.consumed += (head.run, seq)

    def _arm(self, head: Head, waits: Sequence[WaitRow], consumed: Collection[int] = ()) -> None:
        """Replace the armed waits of a run; keys that stay are not written."""
        armed, old = len(head.armed()), set(head.keys())
        if not head.arm(waits, consumed):
            return
        new = set(head.keys())
        self.effects.tally("waits", len(waits) - armed)
        for key in old - new:
            self._change_key(key, head.run, -1)
        for key in new - old:
            self._change_key(key, head.run, 1)

    def _change_key(self, key: str, run: int, change: int) -> None:
        keys = self.batch.keys
        keys[key, run] = keys.get((key, run), 0) + change
        self.effects.count(key_shape(key), change)

    def _remember(self, key: Remember) -> None:
        name = key[:3]
        if name not in self._remembered:
            self.effects.tally("remembered", 1)
        self._remembered[name] = self.batch.remember[name] = key

    def _move_outbox(self, move: OutboxMove) -> None:
        """Change a row of the outbox, or delete it."""
        seq, version, mark = move
        row = self._outbox[seq]
        assert row is not None  # noqa: S101 - checked before
        self.effects.tally(DEAD if row[1] else OUTBOX, -1)
        if mark is None:
            self.execute(sql.DELETE_OUTBOX, (seq,))
            self._outbox[seq] = None
            return
        admitted, attempts, error, dead_at = mark
        self.execute(sql.MARK_OUTBOX, (version + 1, int(admitted), attempts, error, dead_at, seq))
        self.effects.tally(OUTBOX if dead_at is None else DEAD, 1)
        self._outbox[seq] = (version + 1, dead_at is not None)

    # ---------------------------------------------------------------------------------------------------- holds
    def _end_holds(self, changes: Changes) -> None:
        """Write the changes of holds, and what comes with them."""
        for change in changes.holds:
            self._change_hold(change)
        for rewrite in changes.rewrites:
            self._rewrite(rewrite, changes.now)
        for letter in changes.letters:
            self._add_letter(letter)

    def _change_hold(self, change: HoldChange) -> None:
        key, expect, hold, clear, add = change
        execute, tally = self.execute, self.effects.tally
        if hold is None:
            execute(sql.DELETE_HOLD, key)
            clear = ALL
        else:
            execute(sql.PUT_HOLD, (*key, *hold_row(hold)))
        tally(HOLDS, (hold is not None) - (expect is not None))
        if clear:
            tally(HELD, -execute(sql.DELETE_HELD, (*key, clear)).rowcount)
        if add is not None:
            text = event_text(StoredEvent("", add.event, add.text))
            execute(sql.ADD_HELD, (*key, text, add.load_key, add.initial))
            tally(HELD, 1)
        self._holds[key] = None if hold is None else hold.token

    def _rewrite(self, rewrite: Rewrite, now: float) -> None:
        """Put a new line into a stored receipt."""
        pair = (rewrite.source, rewrite.event_id)
        lines = self._lines_of(pair)
        if lines is None:
            self._receipts.add(pair)
            self.effects.tally("receipts", 1)
        self.batch.receipts[pair] = (now, lines_text(rewritten(lines or (), rewrite.line)))

    def _lines_of(self, pair: Pair) -> tuple[ReceiptLine, ...] | None:
        """Return the lines of a stored receipt; None if there is none."""
        known = self.batch.receipts.get(pair)
        row = known[1:] if known is not None else self.execute(sql.RECEIPT, pair).fetchone()
        return None if row is None else tuple(ReceiptLine.from_dict(line) for line in load(row[0]))

    def _add_letter(self, letter: Letter) -> None:
        event, text, held_by, error, dead_at = letter
        whole = event_text(StoredEvent("", event, text))
        self.execute(sql.ADD_LETTER, (whole, error, dead_at, encode(list(held_by))))
        self.effects.tally(DEAD, 1)

    # ---------------------------------------------------------------------------------------------------- loads
    def change_load(self, change: LoadChange) -> None:
        """Set a load."""
        loaded = change.load
        self.effects.loads[change.workflow_id, change.load_key] = None if loaded.idle else (loaded, change.token)

    def release(self, release: Release, now: float) -> list[str]:
        """Remove a run from its load, give free slots to runs that wait, and return those."""
        pair = (release.workflow_id, release.load_key)
        known = self.load_of(pair)
        if known is None:
            return []  # no run is active or waits
        after = known[0].left(release.run_id, release.slots, queued=release.queued)
        token = known[1].next(release.run_id)
        if after.returning or after.queued:
            return self._promote(pair, after, token, release.owner, now)
        self.effects.loads[pair] = None if after.load.idle else (after.load, token)
        return []

    def promotion(self, promotion: Promotion, now: float) -> tuple[str, ...]:
        """Give free slots to runs that wait, and return those."""
        workflow_id, load_key, slots, owner = promotion
        known = self.load_of((workflow_id, load_key))
        after = Promoted(_IDLE) if known is None else known[0].promoted(slots)
        if known is None or not (after.returning or after.queued):
            return ()
        token = known[1].next(f"{after.returning} {after.queued}")
        return tuple(self._promote((workflow_id, load_key), after, token, owner, now))

    def _promote(self, pair: Pair, after: Promoted, token: Token, owner: str | None, now: float) -> list[str]:
        """Give slots to runs that wait, resumed ones first, and set the load."""
        self.flush()
        returning: list[str] = []
        if after.returning:
            rows = self.execute(sql.RETURNING, (*pair, after.returning)).fetchall()
            returning = [run_id for (run_id,) in rows]
        promoted = returning
        if after.queued:
            promoted = [*returning, *self._first_in_queue(pair, after.queued)]
        self.heads.read(self.execute, promoted)
        for run_id in promoted:
            head = self.head(run_id)
            assert head is not None  # noqa: S101 - found in this transaction
            self.take(head, owner, now, slot=True, wake_at=head.wake_at)  # a queued run has none
        load = after.load._replace(active_id=promoted[-1]) if promoted else after.load
        self.effects.loads[pair] = (load, token)
        return promoted

    def load_of(self, pair: Pair) -> tuple[Load, Token] | None:
        """Return a load as it is after all applied changes."""
        for effects in (self.effects, self.before):
            if pair in effects.loads:
                return effects.loads[pair]
        return self._loads.get(pair)

    def _first_in_queue(self, pair: Pair, count: int) -> list[str]:
        """Return the queued runs that come first, by `rank`, those of one priority in order of acceptance."""
        rows = self.execute(sql.QUEUE_HEAD, (*pair, count)).fetchall()
        [lowest] = self.execute(sql.QUEUE_LOWEST, pair).fetchone()
        if rows and rows[0][1] != lowest:
            heads: list[list[Any]] = []
            priority = rows[0][1]
            while priority is not None:
                heads.append(self.execute(sql.QUEUE_OF_PRIORITY, (*pair, priority, count)).fetchall())
                [priority] = self.execute(sql.QUEUE_BELOW, (*pair, priority)).fetchone()
            rows = [_first_of(heads) for _ in range(min(count, sum(map(len, heads))))]
        return [run_id for run_id, _, _ in rows]

    def returned(self, head: Head, slots: int) -> tuple[Load, bool] | None:
        """Return `Load.returned` for a run that goes on; None if it needs no slot, or has one."""
        if head.slot or head.load_key is None:
            return None
        known, _ = self.load_of((head.workflow_id, head.load_key)) or (_IDLE, None)
        return known.returned(head.run_id, slots)

    def takes_slot(self, head: Head, slots: int) -> bool:
        """Whether a run that goes on has a slot, or gets one; its load is what it is after that."""
        returned = self.returned(head, slots)
        if returned is None:
            return True
        pair = (head.workflow_id, head.load_key or "")
        _, token = self.load_of(pair) or (_IDLE, Token(default_ids.token(), 0))
        self.effects.loads[pair] = (returned[0], token.next(head.run_id))
        return returned[1]

    def line_up(self, head: Head, now: float, *, wake_at: float | None = None) -> None:
        """Have a run without an owner wait for a slot; its load counts it already."""
        self._get_in_line(head)
        self.take(head, None, now, slot=NEEDS_SLOT, wake_at=wake_at)

    def _get_in_line(self, head: Head) -> None:
        self.batch.places.append((self.heads.new_place(), head.run))

    def _withdraw(self, head: Head) -> None:
        """Count a run no more that waited for a slot and is moved."""
        pair = (head.workflow_id, head.load_key or "")
        known = self.load_of(pair)
        if known is None:
            return
        loaded = known[0].withdrawn()
        self.effects.loads[pair] = None if loaded.idle else (loaded, known[1].next(head.run_id))

    def take(
        self,
        head: Head,
        owner: str | None,
        now: float,
        *,
        slot: int,
        attempt: int = 0,
        wake_at: float | None = None,
    ) -> None:
        """Give a run without an owner to its next owner, or make it `ready` if there is none.

        Args:
            head: of the run.
            owner: the next owner.
            now: the time.
            slot: whether it holds a slot then.
            attempt: how many attempts this adds.
            wake_at: what its wake time is then.
        """
        head.status = RunStatus.READY if owner is None else _RUNNING
        head.owner = owner
        head.version += 1
        head.epoch += 1
        head.wake_at = wake_at
        head.outcome = None
        head.slot = slot
        head.attempt += attempt
        head.updated_at = now
        self.batch.changed[head.run] = head
        self.heads.leaves(head)

    def finish(self) -> None:
        """Write everything, and then the loads, the shapes of waits and the counts."""
        self.flush()
        idle: list[Any] = []
        busy: list[Any] = []
        for pair, stored in self.effects.loads.items():
            if stored is None:
                idle += pair
            else:
                busy += (*pair, *load_row(*stored))
        many = self.batch.many
        many(sql.delete_loads, sql.PAIR_WIDTH, idle)
        many(sql.put_loads, sql.LOAD_WIDTH, busy)
        for shape, uses in self.effects.shapes.items():
            if uses:
                self.execute(sql.COUNT_SHAPE, (shape, uses))
        counts = [value for name, more in self.effects.counts.items() if more for value in (name, more)]
        many(sql.count, sql.PAIR_WIDTH, counts)

    # ------------------------------------------------------------------------------------------------- messages
    def _deliver(self, delivery: Delivery, now: float, events: Mapping[str, _Kept]) -> Delivered:
        run_id = delivery.run_id
        head = self.head(run_id)
        if head is None:
            return Delivered(Fate.GONE, 0)
        unfit, place = head.outcome is not None, head.inbox_seq + 1
        decided = fate(delivery, head.status, head.armed(), now=now, seq=place, unfit=unfit or delivery.held)
        if not decided.fate.accepted:
            return Delivered(decided.fate, 0, decided.reason)
        kept = events.get(delivery.event_ref)
        text = event_text(kept.stored) if kept is not None and kept.alone else 0
        note = answer_note(decided.answers)
        body = 0 if note is None else dump(note)
        seq = self._append(head, "event", now, body, delivery.event_ref, text)
        waits = decided.fate is Fate.RESUMED and not self.takes_slot(head, delivery.slots)
        if waits:
            self.line_up(head, now)
        elif decided.fate is Fate.RESUMED:
            self.take(head, delivery.owner, now, slot=head.load_key is not None)
        elif delivery.held and is_due(delivery, head.status, head.armed(), unfit=unfit):
            head.wake_at = now
            head.version += 1
        if decided.tallies:
            head.count(decided.tallies)
        for gone in decided.dropped:
            self.batch.consumed += (head.run, gone)
        return Delivered(decided.fate, seq, decided.reason, decided.dropped, waits, decided.answers)

    def _post(self, post: Post, body: str) -> int:
        head = self.head(post.run_id)
        assert head is not None  # noqa: S101 - checked before
        if post.wakes(head.status):
            head.wake_at = post.time
            head.version += 1
        return self._append(head, post.kind, post.time, body, 0, 0)

    def _append(self, head: Head, kind: str, time: float, body: str | int, ref: str | int, event: str | int) -> int:
        head.inbox_seq += 1
        self.batch.changed[head.run] = head
        self.batch.messages += (head.run, head.inbox_seq, kind, time, body, ref, event)
        return head.inbox_seq


def _first_of(heads: list[list[Any]]) -> Any:
    """Take the row that comes first out of lists by priority, the highest first, each in its own order."""
    first = min((rows for rows in heads if rows), key=lambda rows: rank(rows[0][1], rows[0][2]))
    return first.pop(0)
