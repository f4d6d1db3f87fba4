"""Applying Changes inside a transaction of the writer.

House rules:

1. `check` reads and answers; `write` writes and cannot refuse. So a refused change leaves nothing behind, and the
   others in the batch go on. What can fail in `write` is the store or a bug: then the batch is rolled back.
2. The order of checks and writes is that of the memory store, which is the specification.
3. A stage boundary is the hot path: it goes through `Group`, which writes those of all runs with a few statements.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from poundlock.codecs import dump, load
from poundlock.errors import KeysTaken, LoadMoved, PoundlockError, RunExists, WaitMoved
from poundlock.ids import default_ids
from poundlock.model.changes import (
    NOTHING,
    Changes,
    Committed,
    LoadChange,
    Post,
    Remember,
    RunCreate,
    RunMove,
    Token,
)
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.receipts import Delivered, Delivery, Fate
from poundlock.model.runs import WaitRow
from poundlock.model.waits import key_shape
from poundlock.stores.answers import finished, not_found, refusal
from poundlock.stores.sqlite import sql
from poundlock.stores.sqlite.index import Effects
from poundlock.stores.sqlite.rows import (
    boundary_row,
    event_row,
    load_row,
    log_row,
    move_row,
    read_load,
    run_row,
    status_of,
    wait_row,
)

_IDLE = Load()
_NONE: frozenset[str] = frozenset()


class Transaction:
    """One transaction of the writer: a cursor, and what its changes mean for the index.

    Args:
        cursor: on the writer's connection, inside BEGIN IMMEDIATE.
        place: the last place given to a queued run.
        armed: whether there may be waits at all; while not, nobody has to look for them.
    """

    def __init__(self, cursor: sqlite3.Cursor, place: int, armed: bool) -> None:
        self.execute = cursor.execute
        self.cursor = cursor
        self.place = place
        self.armed = armed
        self.effects = Effects()

    # --------------------------------------------------------------------------------------------------- checks
    def check(self, changes: Changes) -> PoundlockError | None:
        """Return why the changes do not apply as things stand, or None if they do."""
        for create in changes.creates:
            run_id = create.identity.run_id
            if self.execute(sql.RUN_EXISTS, (run_id,)).fetchone():
                return exists(run_id)
        for move in changes.moves:
            refused = self._check_move(move)
            if refused is not None:
                return refused
        for change in changes.loads:
            row = self.execute(sql.LOAD, (change.workflow_id, change.load_key)).fetchone()
            if (None if row is None else read_load(row)[1]) != change.expect:
                return LoadMoved(f"the load of '{change.workflow_id}' changed meanwhile: read it again")
        taken = {}
        for key in changes.remember:
            row = self.execute(sql.REMEMBERED, key[:3]).fetchone()
            if row is not None and row[5] > changes.now:
                taken[key.scope] = Remember(*row)
        if taken:
            return KeysTaken("the event was handled before", taken=taken)
        for delivery in changes.deliveries:
            rows = self.execute(sql.WAIT_PHASES, (delivery.run_id,)).fetchall()
            epochs = {wait_id: epoch for wait_id, epoch, _ in rows}
            if any(epochs.get(wait_id, epoch) != epoch for wait_id, epoch in delivery.waits):
                return WaitMoved(f"run '{delivery.run_id}' armed its waits anew: match the event again")
        for post in changes.posts:
            row = self.execute(sql.RUN_STATUS, (post.run_id,)).fetchone()
            if row is None:
                return not_found(post.run_id)
            if status_of(row[0]).terminal:
                return finished(post.run_id, status_of(row[0]))
        return None

    def _check_move(self, move: RunMove) -> PoundlockError | None:
        row = self.execute(sql.RUN_CONDITIONS, (move.run_id,)).fetchone()
        return not_found(move.run_id) if row is None else refusal(move, row[0], row[1], row[2])

    # --------------------------------------------------------------------------------------------------- writes
    def write(self, changes: Changes) -> Committed:
        """Write changes whose conditions hold."""
        execute = self.execute
        posts = [(post, dump(post.body, "body")) for post in changes.posts]
        for event in changes.events:
            execute(sql.insert_events(1), event_row(event))
        for create in changes.creates:
            self._create(create)
        for move in changes.moves:
            self._move(move)
        if not (changes.loads or changes.deliveries or changes.posts or changes.remember or changes.receipt):
            return NOTHING
        now = changes.now
        promoted = tuple(run_id for change in changes.loads for run_id in self._change_load(change, now))
        delivered = tuple(self._deliver(delivery, now) for delivery in changes.deliveries)
        posted = tuple(self._post(post, body) for post, body in posts)
        for key in changes.remember:
            if key.expires_at > now:
                execute(sql.REMEMBER, tuple(key))
        receipt = changes.receipt
        if receipt is not None:
            text = receipt.text(changes.deliveries, delivered)
            execute(sql.PUT_RECEIPT, (receipt.source, receipt.event_id, receipt.time, text))
        return Committed(promoted, delivered, posted)

    def _create(self, create: RunCreate) -> None:
        run_id = create.identity.run_id
        place = None
        if create.head.status is RunStatus.QUEUED:
            place = self.place = self.place + 1
        self.execute(sql.insert_runs(1), run_row(create, place))
        if create.log is not None:
            self.execute(sql.insert_logs(1), log_row(run_id, create.log))
        if create.waits:
            self.replace_waits({run_id: create.waits})

    def _move(self, move: RunMove) -> None:
        run_id = move.run_id
        if move.slot:
            *_, slot, workflow_id, load_key = self.execute(sql.RUN_CONDITIONS, (run_id,)).fetchone()
            if not slot:
                self.occupy(run_id, workflow_id, load_key)
                self.execute(sql.TAKE_SLOT, (run_id,))  # for a run without a load as well
        self.execute(sql.MOVE_RUN, move_row(move))
        if self.cursor.rowcount != 1:
            raise AssertionError(f"one unit of work moves run '{run_id}' twice")
        if move.log is not None:
            self.execute(sql.insert_logs(1), log_row(run_id, move.log))
        self.follow(move)
        waits = () if move.status.terminal else move.waits
        if waits is not None and (waits or self.armed):
            self.replace_waits({run_id: waits})

    def follow(self, move: RunMove) -> None:
        """Write what a move changes besides the run's own row, its log and its waits."""
        run_id = move.run_id
        if move.snapshot is not None:
            self.execute(sql.PUT_SNAPSHOT, (move.snapshot, run_id))
        if move.status.terminal:
            if move.inbox != 0:  # 0: there never was a message
                self.execute(sql.DELETE_INBOX, (run_id,))
        else:
            for seq in move.consumed:
                self.execute(sql.DELETE_MESSAGE, (run_id, seq))

    def replace_waits(self, sets: Mapping[str, Sequence[WaitRow]]) -> None:
        """Replace the armed waits of several runs; keys that stay are not touched."""
        old: dict[str, set[str]] = {}
        if self.armed:
            for size, run_ids in _portions(list(sets)):
                for run_id, keys in self.execute(sql.wait_keys(size), run_ids).fetchall():
                    old.setdefault(run_id, set()).update(load(keys))
            self.many(sql.delete_waits, 1, list(old))
        gone: list[object] = []
        come: list[object] = []
        rows: list[object] = []
        for run_id, waits in sets.items():
            for place, wait in enumerate(waits):
                rows += wait_row(run_id, place, wait)
            before = old.get(run_id, _NONE)
            after = {key for wait in waits for key in wait.keys}
            for key in before - after:
                gone += (key, run_id)
                self.effects.count(key_shape(key), -1)
            for key in after - before:
                come += (key, run_id)
                self.effects.count(key_shape(key), 1)
        self.armed = self.armed or bool(rows)
        self.many(sql.delete_keys, sql.KEY_WIDTH, gone)
        self.many(sql.insert_waits, sql.WAIT_WIDTH, rows)
        self.many(sql.insert_keys, sql.KEY_WIDTH, come)

    def many(self, statement: Callable[[int], str], width: int, values: list[Any]) -> None:
        """Execute a statement for many rows, whose values stand one after another."""
        for size, portion in _portions(values, width):
            self.execute(statement(size), portion)

    # ---------------------------------------------------------------------------------------------------- loads
    def _change_load(self, change: LoadChange, now: float) -> list[str]:
        pair = (change.workflow_id, change.load_key)
        promoted = []
        if change.promote:
            promoted = [run_id for (run_id,) in self.execute(sql.QUEUE_HEAD, (*pair, change.promote))]
            for run_id in promoted:
                self.take(run_id, change.owner, now, slot=True)
        loaded = replace(change.load, active_id=promoted[-1]) if promoted else change.load
        self._put_load(pair, loaded, change.token)
        return promoted

    def _put_load(self, pair: tuple[str, str], loaded: Load, token: Token) -> None:
        if loaded.idle:
            self.execute(sql.DELETE_LOAD, pair)
            self.effects.loads[pair] = None
        else:
            self.execute(sql.PUT_LOAD, (*pair, *load_row(loaded, token)))
            self.effects.loads[pair] = (loaded, token)

    def occupy(self, run_id: str, workflow_id: str, load_key: str | None) -> None:
        """Count a run that gave its slot back as active again; it may exceed what its mode allows."""
        if load_key is None:
            return
        pair = (workflow_id, load_key)
        row = self.execute(sql.LOAD, pair).fetchone()
        known, token = (_IDLE, Token(default_ids.token(), 0)) if row is None else read_load(row)
        self._put_load(pair, replace(known, active=known.active + 1, active_id=run_id), token.next())

    def take(self, run_id: str, owner: str | None, now: float, *, slot: bool, attempt: int = 0) -> None:
        """Move an unowned run to its next owner, or to `ready` if nobody here can run it."""
        status = RunStatus.READY if owner is None else RunStatus.RUNNING
        self.execute(sql.TAKE_RUN, (status.value, owner, 1 if slot else 0, attempt, now, run_id))

    # ------------------------------------------------------------------------------------------------- messages
    def _deliver(self, delivery: Delivery, now: float) -> Delivered:
        run_id = delivery.run_id
        row = self.execute(sql.RUN_PHASE, (run_id,)).fetchone()
        if row is None or status_of(row[0]).terminal:
            return Delivered(Fate.GONE, 0)
        status, slot, workflow_id, load_key, inbox_seq = row
        armed = {(wait_id, epoch): parked for wait_id, epoch, parked in self.execute(sql.WAIT_PHASES, (run_id,))}
        hit = [armed[key] for key in delivery.waits if key in armed]
        if not hit:
            return Delivered(Fate.GONE, 0)
        seq = self._append(run_id, inbox_seq + 1, "event", now, None, delivery.event_ref)
        if status != RunStatus.PAUSED or not any(hit):
            return Delivered(Fate.BUFFERED, seq)
        if not slot:
            self.occupy(run_id, workflow_id, load_key)
        self.take(run_id, delivery.owner, now, slot=bool(slot) or load_key is not None)
        return Delivered(Fate.RESUMED, seq)

    def _post(self, post: Post, body: str) -> int:
        inbox_seq = self.execute(sql.RUN_PHASE, (post.run_id,)).fetchone()[4]
        return self._append(post.run_id, inbox_seq + 1, post.kind, post.time, body, None)

    def _append(self, run_id: str, seq: int, kind: str, time: float, body: str | None, event_ref: str | None) -> int:
        self.execute(sql.NEXT_MESSAGE, (seq, run_id))
        self.execute(sql.INSERT_MESSAGE, (run_id, seq, kind, time, body, event_ref))
        return seq


def _portions(values: list[Any], width: int = 1) -> Iterator[tuple[int, list[Any]]]:
    """Yield the values in portions for which there are statements, each with its number of rows."""
    start = 0
    for size in sql.sizes(len(values) // width):
        end = start + size * width
        yield size, values[start:end]
        start = end


def exists(run_id: str) -> RunExists:
    """Return the error for a run id that is taken."""
    return RunExists(f"a run '{run_id}' exists already: use another id, or wait for that run", run_id=run_id)


class Group:
    """Creations and moves of different runs that are written with a few statements for all.

    Nothing is checked here: if a statement writes fewer rows than it should, `flush` says so, and the whole batch is
    repeated change by change. That costs little as long as it is rare: the owner of a run is alone in moving it.
    """

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._runs: set[str] = set()
        self._clear()

    def _clear(self) -> None:
        self._runs.clear()
        self._events: list[Any] = []
        self._creates: list[Any] = []
        self._boundaries: list[Any] = []
        self._moves: list[Any] = []
        self._logs: list[Any] = []
        self._waits: dict[str, Sequence[WaitRow]] = {}
        self._after: list[RunMove] = []

    @staticmethod
    def fits(changes: Changes) -> bool:
        """Whether the changes are nothing but steps that the runs' owners take, or creations."""
        if changes.loads or changes.deliveries or changes.posts or changes.remember or changes.receipt:
            return False
        for move in changes.moves:
            if move.slot and move.new_epoch != move.epoch:  # a new owner may have to take a slot again
                return False
        return all(create.head.status is not RunStatus.QUEUED for create in changes.creates)

    def touches(self, changes: Changes) -> bool:
        """Whether a run of these changes is in the group already, so that the group has to be written first."""
        runs = self._runs
        for move in changes.moves:
            if move.run_id in runs:
                return True
        for create in changes.creates:
            if create.identity.run_id in runs:
                return True
        for delivery in changes.deliveries:
            if delivery.run_id in runs:
                return True
        return any(post.run_id in runs for post in changes.posts) if changes.posts else False

    def add(self, changes: Changes) -> None:
        """Take in changes that fit and touch no run of the group."""
        for event in changes.events:
            self._events += event_row(event)
        for create in changes.creates:
            run_id = create.identity.run_id
            self._runs.add(run_id)
            self._creates += run_row(create, None)
            if create.log is not None:
                self._logs += log_row(run_id, create.log)
            if create.waits:
                self._waits[run_id] = create.waits
        for move in changes.moves:
            run_id = move.run_id
            self._runs.add(run_id)
            status = move.status
            terminal = status.terminal
            if status is RunStatus.RUNNING and move.new_epoch == move.epoch and move.wake_at is None is move.outcome:
                self._boundaries += boundary_row(move)
            else:
                self._moves += move_row(move)
            if move.log is not None:
                self._logs += log_row(run_id, move.log)
            if terminal:
                self._waits[run_id] = ()
            elif move.waits is not None:
                self._waits[run_id] = move.waits
            if move.snapshot is not None or move.consumed or (terminal and move.inbox != 0):
                self._after.append(move)

    def flush(self) -> bool:
        """Write the group; return False if a condition of one of its moves does not hold."""
        if not self._runs and not self._events:
            return True
        transaction = self._transaction
        transaction.many(sql.insert_events, sql.EVENT_WIDTH, self._events)
        transaction.many(sql.insert_runs, sql.RUN_WIDTH, self._creates)
        transaction.many(sql.insert_logs, sql.LOG_WIDTH, self._logs)
        if not self._update(self._boundaries, sql.BOUNDARY_WIDTH, sql.cross_boundaries):
            return False
        if not self._update(self._moves, sql.MOVE_WIDTH, sql.move_runs):
            return False
        if self._waits and (transaction.armed or any(self._waits.values())):
            transaction.replace_waits(self._waits)
        for move in self._after:
            transaction.follow(move)
        self._clear()
        return True

    def _update(self, values: list[Any], width: int, statement: Callable[[int], str]) -> bool:
        """Update a run per row of values; return False if fewer were updated."""
        transaction = self._transaction
        left = len(values) // width
        start = 0
        while left:
            # A statement for many rows makes a table of them first, which costs as much as updating five.
            rows = min(left, sql.LARGEST) if left > 5 else 1
            size = 1 << (rows - 1).bit_length()
            end = start + rows * width
            transaction.execute(statement(size), values[start:end] + [None] * ((size - rows) * width))
            if transaction.cursor.rowcount != rows:
                return False
            left -= rows
            start = end
        return True
