"""The heads of runs in the writer's memory: of those that are running, and of those that stopped running lately.

House rules: everything here is derived from the file, so after a failure it is dropped and read again. There is one
writer per file, so a head in memory is the truth until then. A run that has ended leaves memory with the commit; one
that rests stays for a while, because most runs that go on soon after do so before many others have come to rest, and
to read a head again costs as much as to write it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from poundlock.json_core import from_json
from poundlock.model.buffers import Counting, Tally, WaitRules, kept_tallies, read_tally, without_consumed
from poundlock.model.events import is_text
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import WaitRow
from poundlock.records import NamedTuple
from poundlock.stores.sqlite import sql
from poundlock.stores.sqlite.rows import SLOTS, Row, read_rules, read_waits, status_of, waits_text

_RUNNING: Final = RunStatus.RUNNING  # the look-up of an enum member costs more than the comparison
_RESTING: Final = 256
"""How many heads of runs that are not running are kept."""


class Armed(NamedTuple):
    """What decides about an event at an armed wait: read without the rest of its row, which only its owner needs."""

    wait_id: str
    epoch: int
    parked: bool
    events: Sequence[str]
    rules: WaitRules | None
    tally: Tally | None


class Head:
    """What moves of a run, as the current transaction leaves it.

    Attributes:
        run: its number.
        waits: the JSON text of its waits; None for none. Out of date while `_rows` has tallies that are newer.
        stored: the status in its row; None while it has no row.
    """

    __slots__ = (
        "_armed",
        "_keys",
        "_rows",
        "_stale",
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
        slot: int,
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
        self._armed: Sequence[Counting] | None = None
        self._keys: Sequence[str] = ()
        self._rows: Sequence[WaitRow] | None = None
        self._stale = False

    def row(self) -> Row:
        """Return the part of its row that moves."""
        if self._stale:
            self._write_out()
        wake_at = self.wake_at
        # None of these texts can be empty.
        return (
            self.status._value_,
            self.version,
            self.owner or 0,
            self.epoch,
            self.stage or 0,
            self.attempt,
            "" if wake_at is None else wake_at,
            self.outcome or 0,
            self.slot + 0,  # not a bool, see `rows`
            self.inbox_seq,
            self.log_seq,
            self.updated_at,
            self.visits or 0,
            self.waits or 0,
        )

    def arm(self, waits: Sequence[WaitRow], consumed: Collection[int] = ()) -> bool:
        """Replace the armed waits; returns whether they are others than before. What counts for one still does."""
        if self._counts() or any(wait.tally is not None for wait in waits):
            waits = kept_tallies(self._read(), waits, consumed)
        text = waits_text(waits)
        if text == self.waits and not self._stale:
            return False
        self._set(waits)
        self.waits, self._stale = text, False
        self._keys = [key for wait in waits for key in wait.keys]
        return True

    def count(self, tallies: Mapping[str, Tally]) -> None:
        """Set what counts for some of the waits."""
        rows = self._read()
        self._set([wait._replace(tally=tallies[wait.wait_id]) if wait.wait_id in tallies else wait for wait in rows])
        self._stale = True

    def consume(self, seqs: Collection[int]) -> bool:
        """Let messages count no more; returns whether one did."""
        if not self._counts():
            return False
        rows = self._read()
        left = without_consumed(rows, seqs)
        if left is rows:
            return False
        self._set(left)
        self._stale = True
        return True

    def _counts(self) -> bool:
        """Whether events count for one of its waits, or may."""
        if self._rows is not None:
            return any(wait.tally is not None for wait in self._rows)
        return self.waits is not None and '"tally":' in self.waits

    def _read(self) -> Sequence[WaitRow]:
        if self._rows is None:
            self.armed()  # for the keys
            self._set(() if self.waits is None else read_waits(self.waits))
        assert self._rows is not None  # noqa: S101 - just set
        return self._rows

    def _set(self, waits: Sequence[WaitRow]) -> None:
        self._rows = self._armed = waits

    def _write_out(self) -> None:
        self.waits = waits_text(self._rows or ())
        self._stale = False

    def keys(self) -> Sequence[str]:
        """Return the keys of all armed waits; one that several waits have is there as often."""
        self.armed()
        return self._keys

    def armed(self) -> Sequence[Counting]:
        """Return what is to be known of each armed wait."""
        if self._armed is None:
            waits = [] if self.waits is None else from_json(self.waits)
            self._armed = [_armed(wait) for wait in waits]
            self._keys = [key for wait in waits for key in wait["keys"]]
        return self._armed


def _armed(wait: Mapping[str, Any]) -> Armed:
    rules, tally = read_rules(wait.get("rules")), read_tally(wait.get("tally"))
    return Armed(wait["wait"], wait["epoch"], wait["parked"], wait["events"], rules, tally)


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
        self._passing: dict[str, None] = {}
        self._resting: dict[str, None] = {}
        """The runs that are known and not running, the one that rests longest at the front."""

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
        if head.status is not _RUNNING:
            self._passing[head.run_id] = None

    def read(self, execute: Callable[..., Any], run_ids: Collection[str]) -> None:
        """Read the heads of runs that are not known yet."""
        missing = dict.fromkeys([run_id for run_id in run_ids if run_id not in self.known])
        if not missing:
            return
        self.known.update(missing)
        self._passing.update(missing)
        for size, portion in sql.portions([run_id for run_id in missing if is_text(run_id)]):
            for row in execute(sql.heads(size), portion).fetchall():
                run, run_id, workflow_id, load_key, status, *moving = row
                status = status_of(status)
                moving[7] = SLOTS[moving[7]]
                head = self.known[run_id] = Head(status, run, run_id, workflow_id, load_key, status, *moving)
                if status is _RUNNING:
                    _read_last(execute, head)

    def leaves(self, head: Head) -> None:
        """Note a run that may not be running any more."""
        self._passing[head.run_id] = None

    def settle(self) -> None:
        """Keep the running runs, and a number of those that rest, after a commit."""
        known, resting = self.known, self._resting
        for run_id in self._passing:
            resting.pop(run_id, None)
            head = known[run_id]
            if head is None or head.status.terminal:
                del known[run_id]
            elif head.status is not _RUNNING:
                resting[run_id] = None
        self._passing.clear()
        while len(resting) > _RESTING:
            longest = next(iter(resting))
            del resting[longest], known[longest]

    def drop(self, run_id: str) -> None:
        """Note that a run has been deleted."""
        self.known[run_id] = None
        self._passing[run_id] = None

    def forget(self) -> None:
        """Drop everything, after a rollback."""
        self.known.clear()
        self._passing.clear()
        self._resting.clear()


def _read_last(execute: Callable[..., Any], head: Head) -> None:
    """Complete the head of a running run: the last row of its log says how far it is, see schema_3.sql."""
    last = execute(sql.LAST, (head.run, head.version)).fetchone()
    if last is not None:
        head.version, head.stage, head.attempt, head.updated_at, head.log_seq = last
