"""Claim runs that are ready or due, inside a transaction of the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from poundlock.errors import RunDamaged
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.runs import Checkpoint, delay_is_over
from poundlock.ports import Claim, Claims
from poundlock.stores.answers import LINED_UP_AT_ONCE
from poundlock.stores.sqlite import reads
from poundlock.stores.sqlite.apply import Transaction
from poundlock.stores.sqlite.failures import of_the_store
from poundlock.stores.sqlite.heads import Head


def claim(transaction: Transaction, worker: str, workflows: Mapping[str, int], now: float, limit: int) -> Claims:
    """Take over up to `limit` runs, by `rank`. Those that get no slot are lined up for one.

    A run that cannot be read does not block others; its error is raised when there is no other run to claim.
    """
    claims = Claims()
    waiting: list[str] = []
    unreadable: dict[str, Exception] = {}
    known = list(workflows)
    while len(claims) < limit and len(waiting) < LINED_UP_AT_ONCE:
        transaction.flush()
        wanted = limit - len(claims) + len(unreadable)
        found = reads.claimable(transaction.cursor, known, now, wanted)
        run_ids = [run_id for run_id in found if run_id not in unreadable][: limit - len(claims)]
        if not run_ids:
            break
        transaction.heads.read(transaction.execute, run_ids)
        checkpoints: Mapping[str, Checkpoint | Exception] = {}
        for at, run_id in enumerate(run_ids):
            head = transaction.head(run_id)
            assert head is not None  # noqa: S101 - found in this transaction
            slots = workflows[head.workflow_id]
            returned = transaction.returned(head, slots)
            if returned is not None and not returned[1]:
                transaction.takes_slot(head, slots)
                transaction.line_up(head, now, wake_at=head.wake_at)
                waiting.append(run_id)
                continue
            if run_id not in checkpoints:
                # Together, those that may get a slot. What was changed before concerns other runs.
                checkpoints = _read(transaction.cursor, _likely(transaction, workflows, run_ids[at:]))
            checkpoint = checkpoints[run_id]
            if isinstance(checkpoint, Exception):
                unreadable[run_id] = checkpoint
                if isinstance(checkpoint, RunDamaged):
                    claims.damaged[run_id] = checkpoint
                continue
            transaction.takes_slot(head, slots)
            claims.append(_take(transaction, head, checkpoint, worker, now))
    claims.waiting = waiting
    left = [error for run_id, error in unreadable.items() if run_id not in claims.damaged]
    if left and not claims and not waiting and not claims.damaged:
        raise left[0]
    return claims


def _likely(transaction: Transaction, workflows: Mapping[str, int], run_ids: Sequence[str]) -> list[str]:
    """Return the runs that get a slot if all of them that can be read take one, the first one included."""
    free: dict[tuple[str, str | None], int] = {}
    likely = []
    for run_id in run_ids:
        head = transaction.head(run_id)
        assert head is not None  # noqa: S101 - found in this transaction
        if head.slot or head.load_key is None:
            likely.append(run_id)
            continue
        pair = (head.workflow_id, head.load_key)
        if pair not in free:
            known = transaction.load_of(pair)
            load = Load() if known is None else known[0]
            free[pair] = 0 if load.returning else workflows[head.workflow_id] - load.active
        free[pair] -= 1
        if free[pair] >= 0:
            likely.append(run_id)
    return likely


def _read(cursor: sqlite3.Cursor, run_ids: Sequence[str]) -> Mapping[str, Checkpoint | Exception]:
    """Read checkpoints together; one by one if SQLite cannot read one of the rows."""
    try:
        return reads.checkpoints(cursor, run_ids)
    except sqlite3.Error as error:
        if of_the_store(error):
            raise
        if len(run_ids) == 1:
            return {run_ids[0]: error}
    return {key: found for run_id in run_ids for key, found in _read(cursor, [run_id]).items()}


def _take(transaction: Transaction, head: Head, checkpoint: Checkpoint, worker: str, now: float) -> Claim:
    before = checkpoint.record.head
    recovered = before.status is RunStatus.READY and before.owner is not None
    delayed = before.status is RunStatus.DELAYED or delay_is_over(checkpoint.record)
    # That of a run that is not at a wait says why it goes on, until its next boundary.
    wake_at = None if before.status is RunStatus.PAUSED else before.wake_at
    attempt = 1 if recovered else 0
    transaction.take(head, worker, now, slot=head.load_key is not None, attempt=attempt, wake_at=wake_at)
    # Changed in place: it was read for this claim, and nobody else has it.
    before.status = head.status
    before.version = head.version
    before.owner = worker
    before.epoch = head.epoch
    before.attempt = head.attempt
    before.wake_at, before.outcome = wake_at, None
    before.slot = head.slot
    before.updated_at = now
    return Claim(checkpoint, recovered, delayed)
