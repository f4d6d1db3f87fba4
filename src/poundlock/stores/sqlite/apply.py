"""Apply Changes inside a transaction of the writer.

House rules:

1. `check` reads and answers; `write` writes and cannot refuse. So a refused change has no effect, and the others in the
   batch are not affected. Only the store or a bug can fail in `write`: then the batch is rolled back.
2. The order of checks and writes is that of the memory store, which is the specification.
3. The most common changes are written by `group`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from poundlock.codecs import dump, load
from poundlock.errors import PoundlockError
from poundlock.ids import default_ids
from poundlock.model.changes import (
    Changes,
    Committed,
    LoadChange,
    Post,
    Release,
    Remember,
    RunCreate,
    RunMove,
    Token,
)
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.receipts import Delivered, Delivery, Fate
from poundlock.model.runs import WaitRow
from poundlock.model.waits import armed_anew, delivered_fate, key_shape
from poundlock.stores.answers import exists, finished, keys_taken, load_moved, not_found, refusal, wait_moved
from poundlock.stores.sqlite import sql
from poundlock.stores.sqlite.index import Effects, Pair
from poundlock.stores.sqlite.rows import (
    event_row,
    load_row,
    log_row,
    move_row,
    run_row,
    status_of,
    wait_row,
)

_IDLE = Load()
_NONE: frozenset[str] = frozenset()


class Transaction:
    """One transaction of the writer: a cursor, and the effects of its changes on the index.

    Args:
        cursor: on the writer's connection, inside BEGIN IMMEDIATE.
        place: the last place in a queue that was assigned.
        armed: whether there may be waits at all; if not, they are not looked up.
        loads: the loads stored before this transaction.

    Attributes:
        effects: the effects on the index. Loads are written from here, once each, after all changes.
        before: the effects of the earlier changes, while each change is applied alone.
    """

    def __init__(
        self, cursor: sqlite3.Cursor, place: int, armed: bool, loads: Mapping[Pair, tuple[Load, Token]]
    ) -> None:
        self.execute = cursor.execute
        self.cursor = cursor
        self.place = place
        self.armed = armed
        self.effects = Effects()
        self.before = Effects()
        self._loads = loads

    # --------------------------------------------------------------------------------------------------- checks
    def check(self, changes: Changes) -> PoundlockError | None:
        """Return why the changes do not apply now, or None if they do."""
        for create in changes.creates:
            run_id = create.identity.run_id
            if self.execute(sql.RUN_EXISTS, (run_id,)).fetchone():
                return exists(run_id)
        for move in changes.moves:
            refused = self._check_move(move)
            if refused is not None:
                return refused
        taken = self.taken(changes)
        if taken:
            return keys_taken(taken)
        for change in changes.loads:
            if not self.is_current(change):
                return load_moved(change.workflow_id)
        for delivery in changes.deliveries:
            if armed_anew(delivery, self.execute(sql.WAIT_PHASES, (delivery.run_id,))):
                return wait_moved(delivery.run_id)
        for post in changes.posts:
            row = self.execute(sql.RUN_STATUS, (post.run_id,)).fetchone()
            if row is None:
                if changes.creates_run(post.run_id):
                    continue
                return not_found(post.run_id)
            if status_of(row[0]).terminal:
                return finished(post.run_id, status_of(row[0]))
        return None

    def taken(self, changes: Changes) -> dict[str, Remember]:
        """Return what is already stored under keys that the changes want to store, by scope."""
        taken = {}
        for key in changes.remember:
            row = self.execute(sql.REMEMBERED, key[:3]).fetchone()
            if row is not None and row[5] > changes.now:
                taken[key.scope] = Remember(*row)
        return taken

    def _check_move(self, move: RunMove) -> PoundlockError | None:
        row = self.execute(sql.RUN_CONDITIONS, (move.run_id,)).fetchone()
        return not_found(move.run_id) if row is None else refusal(move, row[0], row[1], row[2])

    # --------------------------------------------------------------------------------------------------- writes
    def write(self, changes: Changes) -> Committed:
        """Write changes whose conditions hold."""
        execute = self.execute
        posts = [(post, dump(post.body, "body")) for post in changes.posts]
        for event in changes.stored_events():
            execute(sql.insert_events(1), event_row(event))
        for create in changes.creates:
            self._create(create)
        for move in changes.moves:
            self._move(move)
        now = changes.now
        for change in changes.loads:
            self.change_load(change)
        promoted = tuple(run_id for release in changes.leaving() for run_id in self.release(release, now))
        delivered = tuple(self._deliver(delivery, now) for delivery in changes.deliveries)
        posted = tuple(self._post(post, body) for post, body in posts)
        for key in changes.remembered(delivered):
            execute(sql.remember(1), tuple(key))
        receipt = changes.receipt
        if receipt is not None:
            text = receipt.text(changes.deliveries, delivered)
            execute(sql.put_receipts(1), (receipt.source, receipt.event_id, receipt.time, text))
        return Committed(promoted, delivered, posted)

    def _create(self, create: RunCreate) -> None:
        run_id = create.identity.run_id
        place = None
        if create.head.status is RunStatus.QUEUED:
            place = self.place = self.place + 1
        self.execute(sql.insert_runs(1), run_row(create, place))
        start = create.start
        if start.log is not None:
            self.execute(sql.insert_logs(1), log_row(run_id, start.log))
        if start.waits:
            self.replace_waits({run_id: start.waits})

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
        """Write what a move changes besides the run's row, its log and its waits."""
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
        """Replace the armed waits of several runs; keys that stay are not written."""
        old: dict[str, set[str]] = {}
        if self.armed:
            for size, run_ids in portions(list(sets)):
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
        """Execute a statement for many rows, whose values are in one flat list."""
        for size, portion in portions(values, width):
            self.execute(statement(size), portion)

    # ---------------------------------------------------------------------------------------------------- loads
    def change_load(self, change: LoadChange) -> None:
        """Set a load."""
        loaded = change.load
        self.effects.loads[change.workflow_id, change.load_key] = None if loaded.idle else (loaded, change.token)

    def promotes(self, release: Release) -> bool:
        """Whether queued runs would take slots."""
        known = self.load_of((release.workflow_id, release.load_key))
        return known is not None and known[0].left(release.run_id, release.slots, queued=release.queued)[1] > 0

    def release(self, release: Release, now: float) -> list[str]:
        """Remove a run from its load, give free slots to queued runs, and return those."""
        pair = (release.workflow_id, release.load_key)
        known = self.load_of(pair)
        if known is None:
            return []  # no run is active or queued
        loaded, free = known[0].left(release.run_id, release.slots, queued=release.queued)
        promoted = [run_id for (run_id,) in self.execute(sql.QUEUE_HEAD, (*pair, free)).fetchall()] if free else []
        for run_id in promoted:
            self.take(run_id, release.owner, now, slot=True)
        if promoted:
            loaded = loaded._replace(active_id=promoted[-1])
        self.effects.loads[pair] = None if loaded.idle else (loaded, known[1].next())
        return promoted

    def load_of(self, pair: Pair) -> tuple[Load, Token] | None:
        """Return a load as it is after all applied changes."""
        for effects in (self.effects, self.before):
            if pair in effects.loads:
                return effects.loads[pair]
        return self._loads.get(pair)

    def is_current(self, change: LoadChange) -> bool:
        """Whether the load is unchanged since it was read."""
        found = self.load_of((change.workflow_id, change.load_key))
        return (None if found is None else found[1]) == change.expect

    def occupy(self, run_id: str, workflow_id: str, load_key: str | None) -> None:
        """Count a run that had released its slot as active again; this may exceed its mode's limit."""
        if load_key is None:
            return
        pair = (workflow_id, load_key)
        known, token = self.load_of(pair) or (_IDLE, Token(default_ids.token(), 0))
        self.effects.loads[pair] = (known.started(run_id), token.next())

    def finish(self) -> None:
        """Write the loads and the shapes of waits, after all changes."""
        idle: list[Any] = []
        busy: list[Any] = []
        for pair, stored in self.effects.loads.items():
            if stored is None:
                idle += pair
            else:
                busy += (*pair, *load_row(*stored))
        self.many(sql.delete_loads, sql.PAIR_WIDTH, idle)
        self.many(sql.put_loads, sql.LOAD_WIDTH, busy)
        for shape, uses in self.effects.shapes.items():
            if uses:
                self.execute(sql.COUNT_SHAPE, (shape, uses))

    def take(self, run_id: str, owner: str | None, now: float, *, slot: bool, attempt: int = 0) -> None:
        """Give a run without an owner to its next owner, or make it `ready` if there is none."""
        status = RunStatus.READY if owner is None else RunStatus.RUNNING
        self.execute(sql.TAKE_RUN, (status.value, owner, 1 if slot else 0, attempt, now, run_id))

    # ------------------------------------------------------------------------------------------------- messages
    def _deliver(self, delivery: Delivery, now: float) -> Delivered:
        run_id = delivery.run_id
        row = self.execute(sql.RUN_PHASE, (run_id,)).fetchone()
        if row is None:
            return Delivered(Fate.GONE, 0)
        status, slot, workflow_id, load_key, inbox_seq, unfit = row
        armed = self.execute(sql.WAIT_PHASES, (run_id,)).fetchall()
        fate = delivered_fate(delivery, status_of(status), armed, unfit=bool(unfit))
        if fate is Fate.GONE:
            return Delivered(fate, 0)
        seq = self._append(run_id, inbox_seq + 1, "event", now, None, delivery.event_ref)
        if fate is Fate.RESUMED:
            if not slot:
                self.occupy(run_id, workflow_id, load_key)
            self.take(run_id, delivery.owner, now, slot=bool(slot) or load_key is not None)
        return Delivered(fate, seq)

    def _post(self, post: Post, body: str) -> int:
        inbox_seq = self.execute(sql.RUN_PHASE, (post.run_id,)).fetchone()[4]
        return self._append(post.run_id, inbox_seq + 1, post.kind, post.time, body, None)

    def _append(self, run_id: str, seq: int, kind: str, time: float, body: str | None, event_ref: str | None) -> int:
        self.execute(sql.NEXT_MESSAGE, (seq, run_id))
        self.execute(sql.insert_messages(1), (run_id, seq, kind, time, body, event_ref))
        return seq


def portions(values: list[Any], width: int = 1) -> Iterator[tuple[int, list[Any]]]:
    """Yield the values in portions for which there are statements, each with its number of rows."""
    start = 0
    for size in sql.sizes(len(values) // width):
        end = start + size * width
        yield size, values[start:end]
        start = end
