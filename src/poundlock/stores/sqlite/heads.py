"""The heads of runs in the writer's memory: those that are running, and those that the current transaction touches.

House rules: everything here is derived from the file, so after a failure it is dropped and read again. There is one
writer per file, so a head in memory is the truth until then. A run that stops running leaves memory with the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from poundlock.json_core import from_json
from poundlock.model.lifecycle import RunStatus
from poundlock.stores.sqlite import sql
from poundlock.stores.sqlite.rows import Row, status_of


class Head:
    """What moves of a run, as the current transaction leaves it.

    Attributes:
        run: its number.
        waits: the JSON text of its waits; None for none.
        stored: the status in its row; None while it has no row.
    """

    __slots__ = (
        "attempt",
        "epoch",
        "inbox_seq",
        "load_key",
        "log_seq",
        "outcome",
        "owner",
        "run",
        "run_id",
        "slot",
        "stage",
        "status",
        "stored",
        "updated_at",
        "version",
        "visits",
        "waits",
        "wake_at",
        "workflow_id",
    )

    def __init__(
        self,
        stored: RunStatus | None,
        run: int,
        run_id: str,
        workflow_id: str,
        load_key: str | None,
        status: RunStatus,
        version: int,
        owner: str | None,
        epoch: int,
        stage: str | None,
        attempt: int,
        wake_at: float | None,
        outcome: str | None,
        slot: bool,
        inbox_seq: int,
        log_seq: int,
        updated_at: float,
        visits: str | None,
        waits: str | None,
    ) -> None:
        self.stored = stored
        self.run = run
        self.run_id = run_id
        self.workflow_id = workflow_id
        self.load_key = load_key
        self.status = status
        self.version = version
        self.owner = owner
        self.epoch = epoch
        self.stage = stage
        self.attempt = attempt
        self.wake_at = wake_at
        self.outcome = outcome
        self.slot = slot
        self.inbox_seq = inbox_seq
        self.log_seq = log_seq
        self.updated_at = updated_at
        self.visits = visits
        self.waits = waits

    def row(self) -> Row:
        """Return the part of its row that moves."""
        owner, stage, wake_at, outcome = self.owner, self.stage, self.wake_at, self.outcome
        visits, waits = self.visits, self.waits
        return (
            self.status._value_,
            self.version,
            0 if owner is None else owner,
            self.epoch,
            0 if stage is None else stage,
            self.attempt,
            "" if wake_at is None else wake_at,
            0 if outcome is None else outcome,
            1 if self.slot else 0,
            self.inbox_seq,
            self.log_seq,
            self.updated_at,
            0 if visits is None else visits,
            0 if waits is None else waits,
        )

    def keys(self) -> list[str]:
        """Return the keys of all armed waits; one that several waits have is there as often."""
        return [] if self.waits is None else [key for wait in from_json(self.waits) for key in wait["keys"]]

    def armed(self) -> list[tuple[str, int, bool]]:
        """Return (wait id, epoch, parked) of each armed wait."""
        if self.waits is None:
            return []
        return [(wait["wait"], wait["epoch"], wait["parked"]) for wait in from_json(self.waits)]


class Heads:
    """The heads that the writer knows.

    Args:
        last_run: the highest number of a run in the file.
        last_place: the highest place in a queue in the file.
    """

    def __init__(self, last_run: int, last_place: int) -> None:
        self.known: dict[str, Head | None] = {}
        """By run id; None for a run that does not exist."""
        self._last_run = last_run
        self._last_place = last_place
        self._passing: set[str] = set()

    def new_run(self) -> int:
        """Return the number of the next run. One that is not used in the end leaves a gap."""
        self._last_run += 1
        return self._last_run

    def new_place(self) -> int:
        """Return the next place in the queues."""
        self._last_place += 1
        return self._last_place

    def get(self, execute: Callable[..., Any], run_id: str) -> Head | None:
        """Return the head of a run; None if there is no such run."""
        if run_id not in self.known:
            self.read(execute, [run_id])
        return self.known[run_id]

    def add(self, head: Head) -> None:
        """Add the head of a new run."""
        self.known[head.run_id] = head
        self._passing.add(head.run_id)

    def read(self, execute: Callable[..., Any], run_ids: Collection[str]) -> None:
        """Read the heads of runs that are not known yet."""
        missing = [run_id for run_id in run_ids if run_id not in self.known]
        self.known.update(dict.fromkeys(missing))
        self._passing.update(missing)
        for size, portion in sql.portions(missing):
            for row in execute(sql.heads(size), portion).fetchall():
                run, run_id, workflow_id, load_key, status, *moving = row
                status = status_of(status)
                moving[7] = bool(moving[7])
                self.known[run_id] = Head(status, run, run_id, workflow_id, load_key, status, *moving)

    def leaves(self, head: Head) -> None:
        """Note a run that may not be running any more."""
        self._passing.add(head.run_id)

    def settle(self) -> None:
        """Keep only running runs, after a commit."""
        for run_id in self._passing:
            head = self.known.get(run_id)
            if head is None or head.status is not RunStatus.RUNNING:
                self.known.pop(run_id, None)
        self._passing.clear()

    def forget(self) -> None:
        """Drop everything, after a rollback."""
        self.known.clear()
        self._passing.clear()
