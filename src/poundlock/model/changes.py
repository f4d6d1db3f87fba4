"""Changes: everything one step of progress writes, committed by `Store.commit` as a whole or not at all.

House rules:

1. Deltas, not whole records: what moves is named, what does not is not repeated.
2. Each part names what must still hold for it. If anything does not, nothing of the whole is written.
3. Values in here are detached: texts, numbers, or data that nobody else holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.receipts import Delivered, Delivery, Fate, ReceiptRow
from poundlock.model.runs import LogRow, RunHead, RunIdentity, StoredEvent, WaitRow


class RunCreate(NamedTuple):
    """A new run. Must hold: no run of this id exists (`RunExists`). `snapshot` is always None: the log says it all."""

    identity: RunIdentity
    head: RunHead
    log: LogRow | None
    waits: tuple[WaitRow, ...]


class RunMove(NamedTuple):
    """A change to a run by its owner, or by the command that moves an unowned one.

    Must hold: the run's version is `version` (`StaleVersion`), its epoch is `epoch` (`LeaseLost`), and, if `inbox` is
    given, its last inbox sequence is `inbox` (`InboxAhead`). The version then grows by one. A run that had given its
    slot back and goes on with `slot` True counts as active in its load again; giving it back is a `LoadChange`.

    Attributes:
        waits: the complete set of armed waits from now on; None leaves them as they are.
        consumed: inbox sequences that this change uses up. At a terminal status the whole inbox and all waits go.
        snapshot: JSON text of the whole state, when it is time for one.
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
        load: the load from now on, promotions included; an idle one is deleted.
        token: the token from now on.
        promote: how many queued runs take a slot now, by priority and then acceptance; the commit returns which.
        owner: who owns the promoted runs; None leaves them `ready`.
    """

    workflow_id: str
    load_key: str
    expect: Token | None
    load: Load
    token: Token
    promote: int = 0
    owner: str | None = None


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
    events: tuple[StoredEvent, ...] = ()
    remember: tuple[Remember, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    posts: tuple[Post, ...] = ()
    receipt: ReceiptRow | None = None
    now: float = 0.0

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
        return not (self.loads or self.remember or self.deliveries or self.posts or self.receipt is not None)

    def remembered(self, delivered: Sequence[Delivered]) -> list[Remember]:
        """Return the keys to keep, now that it is known what the deliveries came to."""
        missed = bool(delivered) and all(outcome.fate is Fate.GONE for outcome in delivered)
        return [key for key in self.remember if key.expires_at > self.now and (key.scope or not missed)]


class Committed(NamedTuple):
    """What a commit decided by itself.

    Attributes:
        promoted: ids of the runs promoted, in order, over all load changes.
        delivered: one per delivery.
        posted: the inbox sequence of each post.
    """

    promoted: tuple[str, ...] = ()
    delivered: tuple[Delivered, ...] = ()
    posted: tuple[int, ...] = ()


NOTHING = Committed()
"""The answer to the many commits that decide nothing by themselves."""
