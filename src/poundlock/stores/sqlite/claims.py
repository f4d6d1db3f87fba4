"""Claim runs that are ready or due, inside a transaction of the writer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from poundlock.errors import PoundlockError
from poundlock.model.lifecycle import RunStatus
from poundlock.ports import Claim
from poundlock.stores.sqlite import reads
from poundlock.stores.sqlite.apply import Transaction


def claim(transaction: Transaction, worker: str, workflows: Collection[str], now: float, limit: int) -> list[Claim]:
    """Take over up to `limit` runs: by priority, then due time, then id.

    A run that cannot be read does not block others; its error is raised when there is no other run to claim.
    """
    claims: list[Claim] = []
    unreadable: dict[str, PoundlockError] = {}
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
        for run_id in readable:
            try:
                claims.append(_take(transaction, run_id, worker, now))
            except PoundlockError as error:
                unreadable[run_id] = error
    if unreadable and not claims:
        raise next(iter(unreadable.values()))
    return claims


def _take(transaction: Transaction, run_id: str, worker: str, now: float) -> Claim:
    checkpoint = reads.checkpoint(transaction.cursor, run_id)
    assert checkpoint is not None  # noqa: S101 - it was found in this transaction
    before = checkpoint.record.head
    recovered = before.status is RunStatus.READY and before.owner is not None
    head = transaction.take(run_id, worker, now, attempt=1 if recovered else 0)
    taken = replace(
        before,
        status=head.status,
        version=head.version,
        owner=worker,
        epoch=head.epoch,
        attempt=head.attempt,
        wake_at=None,
        outcome=None,
        slot=head.slot,
        updated_at=now,
    )
    delayed = before.status is RunStatus.DELAYED
    return Claim(checkpoint._replace(record=checkpoint.record._replace(head=taken)), recovered, delayed)
