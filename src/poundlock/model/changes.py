"""Changes: all writes of one unit of work, committed by `Store.commit` completely or not at all.

House rules:

1. Growing data is written as deltas: log entries, patches of the state. Small data is written whole: a move has the
   run's whole head, a set of waits has all of them.
2. Each part names its conditions. If one does not hold, nothing of the unit is written.
3. Values are detached: texts, numbers, or data that no other code refers to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from poundlock.model.lifecycle import RunStatus, check_move
from poundlock.model.modes.decisions import Load
from poundlock.model.receipts import Delivered, Delivery, Fate, ReceiptRow
from poundlock.model.runs import LogRow, RunHead, RunIdentity, RunRecord, StoredEvent, WaitRow
from poundlock.records import NamedTuple, dataclass, field


class RunCreate(NamedTuple):
    """A new run. Must hold: no run of this id exists (`RunExists`). Its state is in the log; there is no snapshot."""

    identity: RunIdentity
    head: RunHead
    log: LogRow | None
    waits: tuple[WaitRow, ...]


class RunMove(NamedTuple):
    """A change to a run by its owner, or by the command that moves a run without an owner.

    Must hold: the run's version is `version` (`StaleVersion`), its epoch is `epoch` (`LeaseLost`), and, if `inbox` is
    given, its last inbox sequence is `inbox` (`InboxAhead`). The version then grows by one. A run that had released its
    slot and continues with `slot` True counts as active in its load again; a `Release` releases it.

    Attributes:
        waits: the complete new set of armed waits; None means unchanged.
        consumed: inbox sequences that this change consumes. A terminal status deletes the whole inbox and all waits.
        snapshot: JSON text of the whole state, when a snapshot is due.
        visits: how often the run entered its stages, see `visits.py`; None means unchanged.
    """

    run_id: str
    version: int
    epoch: int
    inbox: int | None
    status: RunStatus
    owner: str | None
    new_epoch: int
    stage: str | None
    attempt: int
    wake_at: float | None
    outcome: str | None
    slot: bool
    updated_at: float
    log: LogRow | None = None
    waits: tuple[WaitRow, ...] | None = None
    consumed: tuple[int, ...] = ()
    snapshot: str | None = None
    visits: str | None = None

    @classmethod
    def of(
        cls,
        record: RunRecord,
        status: RunStatus,
        *,
        now: float,
        owner: str | None = None,
        guard_inbox: bool = False,
        outcome: str | None = None,
        log: LogRow | None = None,
    ) -> RunMove:
        """Return the move of a run without an owner, based on the version that was read. Its epoch grows by one.

        Stage and attempt are unchanged; the wake time is removed. The run keeps its slot until it ends.

        Args:
            record: the run as it was read.
            status: the new status.
            now: seconds since 1970.
            owner: the new owner; None for a run without an owner. A `ready` run with an owner counts as recovered.
            guard_inbox: refuse (`InboxAhead`) if there are newer messages.
            outcome: JSON text of its result or error, at the end.
            log: the log row of this move.

        Raises:
            AssertionError: the life cycle has no such move.
        """
        head = record.head
        check_move(head.status, status)
        return cls(
            run_id=record.identity.run_id,
            version=head.version,
            epoch=head.epoch,
            inbox=head.inbox_seq if guard_inbox else None,
            status=status,
            owner=owner,
            new_epoch=head.epoch + 1,
            stage=head.stage,
            attempt=head.attempt,
            wake_at=None,
            outcome=outcome,
            slot=head.slot and not status.terminal,
            updated_at=now,
            log=log,
        )


class Token(NamedTuple):
    """The version of a load that was read: `generation` is random per row, `turn` counts its changes.

    Because the next token follows from this one, a process can submit several changes before the first is durable.
    """

    generation: int
    turn: int

    def next(self) -> Token:
        """Return the token the load has after one more change."""
        return Token(self.generation, self.turn + 1)


@dataclass(slots=True)
class LoadChange:
    """A change to the load of one (workflow, key).

    Must hold: the stored token is `expect`, or there is no row if that is None (`LoadMoved`).

    Attributes:
        load: the new load; an idle one is deleted.
        token: the new token.
    """

    workflow_id: str
    load_key: str
    expect: Token | None
    load: Load
    token: Token


class Release(NamedTuple):
    """A run leaves the load of its (workflow, key), and queued runs take the free slots.

    It has no condition, because the end of a run cannot be refused: the store computes the new load from the current
    one (`Load.left`), advances its token, and returns the promoted runs, by priority and then acceptance. It is written
    with the move that takes the run out, after the load changes of the same unit.

    Attributes:
        run_id: the run that leaves.
        queued: whether it leaves the queue; otherwise it releases its slot.
        slots: how many runs may be active in this mode.
        owner: the owner of the promoted runs; None makes them `ready`.
    """

    workflow_id: str
    load_key: str
    run_id: str
    queued: bool
    slots: int
    owner: str | None


WITH_ITS_RUN: Final = float("inf")
"""The expiry of a key that is stored as long as the store has its run."""


class Remember(NamedTuple):
    """A key that must be absent (`KeysTaken`) and is then stored until `expires_at`.

    `scope` is "workflow/trigger", or "" for the one entry that all waits share; it is stored only if a delivery of the
    same changes was accepted. An expired key counts as absent; a new key that has already expired is only checked.
    `expires_at` may be `WITH_ITS_RUN`.
    """

    source: str
    event_id: str
    scope: str
    fingerprint: str
    run_id: str | None
    expires_at: float


class Post(NamedTuple):
    """A signal, abort request or answer for a run's inbox.

    Must hold: the run exists and has not ended (`RunFinished`).
    """

    run_id: str
    kind: Literal["signal", "abort", "resume"]
    body: dict[str, Any]
    time: float


@dataclass()
class Changes:
    """One unit of work. It moves or creates a run at most once; an event that is already stored is unchanged.

    Without `__slots__`, so that unused parts are not even set: their defaults are class attributes.
    """

    creates: tuple[RunCreate, ...] = ()
    moves: tuple[RunMove, ...] = ()
    loads: tuple[LoadChange, ...] = ()
    releases: tuple[Release, ...] = ()
    events: tuple[StoredEvent, ...] = ()
    remember: tuple[Remember, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    posts: tuple[Post, ...] = ()
    receipt: ReceiptRow | None = None
    now: float = 0.0
    committed: Committed | None = field(default=None, init=False, compare=False)
    """The result of the commit, set by the store when it is durable: for a caller that was cancelled while waiting."""

    @classmethod
    def of_move(cls, move: RunMove, now: float) -> Changes:
        """Return changes that only move a run, as most do."""
        changes = cls.__new__(cls)
        changes.moves = (move,)
        changes.now = now
        return changes

    @classmethod
    def of_creation(cls, create: RunCreate, event: StoredEvent, now: float) -> Changes:
        """Return changes that create a run and store its event."""
        changes = cls.__new__(cls)
        changes.creates = (create,)
        changes.events = (event,)
        changes.now = now
        return changes

    @property
    def decides_nothing(self) -> bool:
        """Whether runs are only created and moved: then only the runs' own conditions have to hold."""
        return not (
            self.loads or self.releases or self.remember or self.deliveries or self.posts or self.receipt is not None
        )

    def remembered(self, delivered: Sequence[Delivered]) -> list[Remember]:
        """Return the keys to store, after the results of the deliveries are known."""
        missed = bool(delivered) and all(outcome.fate is Fate.GONE for outcome in delivered)
        return [key for key in self.remember if key.expires_at > self.now and (key.scope or not missed)]


class Committed(NamedTuple):
    """The decisions of a commit.

    Attributes:
        promoted: ids of the promoted runs, in order, over all releases.
        delivered: one result per delivery.
        posted: the inbox sequence of each post.
    """

    promoted: tuple[str, ...] = ()
    delivered: tuple[Delivered, ...] = ()
    posted: tuple[int, ...] = ()


NOTHING = Committed()
"""The answer to the many commits without a decision."""
