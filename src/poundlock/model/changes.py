"""Changes: everything one step of progress writes, committed by `Store.commit` as a whole or not at all.

House rules:

1. Deltas where something grows: the entries of a log, patches of the state. What is small is named whole: a move has
   the run's whole head, a set of waits all of them.
2. Each part names what must still hold for it. If anything does not, nothing of the whole is written.
3. Values in here are detached: texts, numbers, or data that nobody else holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from poundlock.model.lifecycle import RunStatus, check_move
from poundlock.model.modes.decisions import Load
from poundlock.model.receipts import Delivered, Delivery, Fate, ReceiptRow
from poundlock.model.runs import LogRow, RunHead, RunIdentity, RunRecord, StoredEvent, WaitRow


class RunCreate(NamedTuple):
    """A new run. Must hold: no run of this id exists (`RunExists`). The log says its state: no snapshot."""

    identity: RunIdentity
    head: RunHead
    log: LogRow | None
    waits: tuple[WaitRow, ...]


class RunMove(NamedTuple):
    """A change to a run by its owner, or by the command that moves an unowned one.

    Must hold: the run's version is `version` (`StaleVersion`), its epoch is `epoch` (`LeaseLost`), and, if `inbox` is
    given, its last inbox sequence is `inbox` (`InboxAhead`). The version then grows by one. A run that had given its
    slot back and goes on with `slot` True counts as active in its load again; giving it back is a `Release`.

    Attributes:
        waits: the complete set of armed waits from now on; None leaves them as they are.
        consumed: inbox sequences that this change uses up. At a terminal status the whole inbox and all waits go.
        snapshot: JSON text of the whole state, when it is time for one.
        visits: how often it entered its stages, see `visits.py`; None leaves that as it is.
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
        """Return the move of a run without an owner, on the version that was read. Its epoch grows by one.

        Stage and attempt stay as they are; the wake time goes. It keeps its slot until it ends.

        Args:
            record: the run as it was read.
            status: what the run is from then on.
            now: seconds since 1970.
            owner: who owns it from then on; None for nobody. A `ready` run with an owner counts as recovered.
            guard_inbox: refuse (`InboxAhead`) if messages came since it was read.
            outcome: JSON text of its result or error, at the end.
            log: what the move adds to the run's log.

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
    """Proof of which load was read: `generation` is drawn when the row is made, `turn` counts its changes.

    Because the next token follows from this one, a process can line up several changes before the first is durable.
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
        load: the load from now on; an idle one is deleted.
        token: the token from now on.
    """

    workflow_id: str
    load_key: str
    expect: Token | None
    load: Load
    token: Token


class Release(NamedTuple):
    """A run leaves the load of its (workflow, key), and queued runs take the slots that are free then.

    Nothing has to hold for it, because an end cannot be refused: the store works out from the load it finds what the
    load is afterwards (`Load.left`), moves its token on, and returns who was promoted, by priority and then acceptance.
    It comes with the move that takes the run out, after the load changes of the same unit.

    Attributes:
        run_id: the run that leaves.
        queued: whether it leaves the queue; otherwise it gives its slot back.
        slots: how many runs the mode lets be active at once.
        owner: who owns the promoted runs; None leaves them `ready`.
    """

    workflow_id: str
    load_key: str
    run_id: str
    queued: bool
    slots: int
    owner: str | None


WITH_ITS_RUN: Final = float("inf")
"""When a key expires that is remembered for as long as the store has its run."""


class Remember(NamedTuple):
    """A key that must be absent (`KeysTaken`) and is then remembered until `expires_at`.

    `scope` is "workflow/trigger", or "" for the one entry that all waits share; that one is only kept if a delivery of
    the same changes was taken. An expired key counts as absent; one that has expired as it comes is only checked.
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


@dataclass
class Changes:
    """One unit of work. It moves or creates a run at most once; an event whose reference is known stays as it is.

    Without slots, so that what a unit does not change is not even set: the defaults stand in the class.
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
    """What the commit came to, set by the store once it is durable: for whoever was cancelled while waiting for it."""

    @classmethod
    def of_move(cls, move: RunMove, now: float) -> Changes:
        """Return the changes that move a run and do nothing else, as most do."""
        changes = cls.__new__(cls)
        changes.moves = (move,)
        changes.now = now
        return changes

    @classmethod
    def of_creation(cls, create: RunCreate, event: StoredEvent, now: float) -> Changes:
        """Return the changes that create a run and store its event."""
        changes = cls.__new__(cls)
        changes.creates = (create,)
        changes.events = (event,)
        changes.now = now
        return changes

    @property
    def decides_nothing(self) -> bool:
        """Whether runs are created and moved, and that is all: only the runs' own conditions have to hold."""
        return not (
            self.loads or self.releases or self.remember or self.deliveries or self.posts or self.receipt is not None
        )

    def remembered(self, delivered: Sequence[Delivered]) -> list[Remember]:
        """Return the keys to keep, now that it is known what the deliveries came to."""
        missed = bool(delivered) and all(outcome.fate is Fate.GONE for outcome in delivered)
        return [key for key in self.remember if key.expires_at > self.now and (key.scope or not missed)]


class Committed(NamedTuple):
    """What a commit decided by itself.

    Attributes:
        promoted: ids of the runs promoted, in order, over all releases.
        delivered: one per delivery.
        posted: the inbox sequence of each post.
    """

    promoted: tuple[str, ...] = ()
    delivered: tuple[Delivered, ...] = ()
    posted: tuple[int, ...] = ()


NOTHING = Committed()
"""The answer to the many commits that decide nothing by themselves."""
