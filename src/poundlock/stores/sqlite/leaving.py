"""Delete an ended run inside a transaction of the writer, with what belongs to it alone.

House rule: a run costs a bounded number of rows. What may be more is left in a table of its own, in the same
transaction, and `pruning.py` deletes it in bites: it survives a crash, and nothing else refers to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from poundlock.stores.sqlite import sql
from poundlock.stores.sqlite.heads import Head, Heads
from poundlock.stores.sqlite.index import Effects

LOG_AT_ONCE: Final = 500
"""Rows of a run's log that are deleted with the run."""


class Deleting(Protocol):
    """What is needed of a transaction."""

    execute: Callable[..., Any]
    heads: Heads
    effects: Effects
    leftovers: bool

    def head(self, run_id: str) -> Head | None: ...


def delete(transaction: Deleting, run_id: str) -> None:
    """Delete a run that has ended, and note what is left of it."""
    execute, effects = transaction.execute, transaction.effects
    head = transaction.head(run_id)
    assert head is not None  # noqa: S101 - checked before
    run = head.run
    [event_ref] = execute(sql.RUN_AND_EVENT, (run,)).fetchone()
    execute(sql.DELETE_RUN, (run,))
    execute(sql.DELETE_SNAPSHOT, (run,))
    if head.inbox_seq:
        execute(sql.DELETE_INBOX, (run,))
    if execute(sql.DELETE_LOG, (run, LOG_AT_ONCE)).rowcount == LOG_AT_ONCE:
        execute(sql.LEAVE_LOG, (run,))
        transaction.leftovers = True
    effects.tally(head.status._value_, -1)
    keys = execute(sql.DELETE_KEYS_OF_RUN, (run_id,)).rowcount
    if keys:
        effects.tally("remembered", -keys)
    if event_ref is None:
        effects.tally("events", -1)  # it was in the log
    elif not execute(sql.EVENT_IN_USE, (event_ref,)).fetchone()[0]:
        execute(sql.LEAVE_EVENT, (event_ref,))
        transaction.leftovers = True
    transaction.heads.drop(run_id)
