"""Claim runs that are ready or due, inside a transaction of the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence

from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import Checkpoint
from poundlock.ports import Claim
from poundlock.stores.sqlite import reads
from poundlock.stores.sqlite.apply import Transaction
from poundlock.stores.sqlite.failures import of_the_store


def claim(transaction: Transaction, worker: str, workflows: Collection[str], now: float, limit: int) -> list[Claim]:
    """Take over up to `limit` runs: by priority, then due time, then id.

    A run that cannot be read does not block others; its error is raised when there is no other run to claim.
    """
    claims: list[Claim] = []
    unreadable: dict[str, Exception] = {}
    while len(claims) < limit:
        transaction.flush()
        wanted = limit - len(claims) + len(unreadable)
        found = reads.ready(transaction.cursor, workflows, wanted) + reads.due(
            transaction.cursor, workflows, now, wanted
        )
        found.sort(key=lambda row: (-row[0], row[1], row[2]))
        readable = [run_id for _, _, run_id in found if run_id not in unreadable][: limit - len(claims)]
        if not readable:
            break
        checkpoints = _read(transaction.cursor, readable)
        transaction.heads.read(transaction.execute, readable)
        for run_id in readable:
            checkpoint = checkpoints[run_id]
            if isinstance(checkpoint, Exception):
                unreadable[run_id] = checkpoint
            else:
                claims.append(_take(transaction, checkpoint, worker, now))
    if unreadable and not claims:
        raise next(iter(unreadable.values()))
    return claims


def _read(cursor: sqlite3.Cursor, run_ids: Sequence[str]) -> Mapping[str, Checkpoint | Exception]:
    """Read checkpoints together; one by one if SQLite cannot read one of the rows, as a text that is damaged."""
    try:
        return reads.checkpoints(cursor, run_ids)
    except sqlite3.Error as error:
        if of_the_store(error):
            raise
        if len(run_ids) == 1:
            return {run_ids[0]: error}
    return {key: found for run_id in run_ids for key, found in _read(cursor, [run_id]).items()}


def _take(transaction: Transaction, checkpoint: Checkpoint, worker: str, now: float) -> Claim:
    identity, before, _ = checkpoint.record
    recovered = before.status is RunStatus.READY and before.owner is not None
    delayed = before.status is RunStatus.DELAYED
    head = transaction.take(identity.run_id, worker, now, attempt=1 if recovered else 0)
    # Changed in place: it was read for this claim, and nobody else has it.
    before.status = head.status
    before.version = head.version
    before.owner = worker
    before.epoch = head.epoch
    before.attempt = head.attempt
    before.wake_at = before.outcome = None
    before.slot = head.slot
    before.updated_at = now
    return Claim(checkpoint, recovered, delayed)
