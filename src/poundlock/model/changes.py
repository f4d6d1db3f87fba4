"""Units of work, each committed by `Store.commit` completely or not at all: a boundary of a run, or several parts.

House rules:

1. Growing data is written as deltas: log entries, patches of the state. Small data is written whole: a move has the
   run's whole head, a set of waits has all of them.
2. Each part names its conditions. If one does not hold, nothing of the unit is written.
3. Values are detached: texts, numbers, or data that no other code refers to.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Generator
from typing import Any, Final, Literal, TypeAlias

from poundlock.model.drafts import new_tuple
from poundlock.model.holds import HoldChange
from poundlock.model.lifecycle import RunStatus, check_move
from poundlock.model.modes.decisions import Load
from poundlock.model.operator_pause import WorkflowPause
from poundlock.model.outbox import Letter, OutboxMove, Outgoing, Refused
from poundlock.model.receipts import Delivered, Delivery, ReceiptRow, Rewrite
from poundlock.model.runs import LogRow, RunHead, RunIdentity, RunRecord, StoredEvent, WaitRow
from poundlock.model.schedules import ScheduleMove
from poundlock.records import NamedTuple, dataclass, field

_BITS: Final = 0xFFFF_FFFF  # of a check sum
_AT_REST: Final = (RunStatus.PAUSED, RunStatus.DELAYED)


class Release(NamedTuple):
    """A run leaves the load of its (workflow, key), and runs that wait take the free slots: resumed ones come first.

    It has no condition, because the end of a run cannot be refused: the store computes the new load from the current
    one (`Load.left`), advances its token (`Token.next`), and returns the promoted runs: resumed ones in the order of
    their resumption, then queued ones by priority and acceptance. It is part of the move that takes the run out
    (`RunMove.release`), and written after the load changes of the same unit.

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


class Promotion(NamedTuple):
    """Runs that wait take the free slots of a (workflow, key), though no run leaves it. The fields are as in `Release`.

    It may have more slots than before, or a process that does not know how many it has may have resumed a run.
    """

    workflow_id: str
    load_key: str
    slots: int
    owner: str | None


class RunMove(NamedTuple):
    """What a run writes at a boundary, or a command that moves a run without an owner: one flat value, never changed.

    It is a unit of work by itself: most commits are one of these. Must hold: the run's version is `version`
    (`StaleVersion`), its epoch is `epoch` (`LeaseLost`), and, if `inbox` is given, its last inbox sequence is `inbox`
    (`InboxAhead`). The version then grows by one. A run that waited for a slot (`NEEDS_SLOT`) and is moved to another
    value of `slot` does not count as returning any more.

    Attributes:
        waits: the complete new set of armed waits; None means unchanged.
        consumed: inbox sequences that this change consumes. A terminal status deletes the whole inbox and all waits.
        snapshot: JSON text of the whole state, when a snapshot is due.
        visits: how often the run entered its stages, see `visits.py`; None means unchanged.
        release: the run leaves its load with this move; the answer to the commit names the promoted runs.
        outgoing: events that go into the outbox, in this order; those that a wait refused are dead letters there.
        slots: given where a run that holds no slot goes on: how many its mode has, 0 if that is unknown. If it gets one
            (`Load.returned`), it is as this move says, with `slot` True. If not, it is `ready` without an owner and
            waits for a slot (`NEEDS_SLOT`); the answer says so (`Committed.waiting`).
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
    slot: bool | int
    updated_at: float
    log: LogRow | None = None
    waits: tuple[WaitRow, ...] | None = None
    consumed: tuple[int, ...] = ()
    snapshot: str | None = None
    visits: str | None = None
    release: Release | None = None
    outgoing: tuple[Outgoing | Refused, ...] = ()
    slots: int | None = None

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
        wake_at: float | None = None,
        waits: tuple[WaitRow, ...] | None = None,
    ) -> RunMove:
        """Return the move of a run without an owner, based on the version that was read. Its epoch grows by one.

        Stage and attempt are unchanged. The run keeps its slot until it ends. One that needs a slot to go on gets it by
        `runtime/transitions.py::back_in_line`.

        Args:
            record: the run as it was read.
            status: the new status.
            now: seconds since 1970.
            owner: the new owner; None for a run without an owner. A `ready` run with an owner counts as recovered.
            guard_inbox: refuse (`InboxAhead`) if there are newer messages.
            outcome: JSON text of its result or error, at the end.
            log: the log row of this move.
            wake_at: when it goes on by itself.
            waits: its new set of waits; None means unchanged.

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
            wake_at=wake_at,
            outcome=outcome,
            slot=head.slot is True and not status.terminal,
            updated_at=now,
            log=log,
            waits=waits,
        )


class RunCreate(NamedTuple):
    """A new run; also a unit of work by itself. Must hold: no run of this id exists (`RunExists`).

    Attributes:
        identity: what never changes.
        start: its first boundary, from version 0. Its state is in the log; there is no snapshot.
        event: the event it begins with; None if the Changes around it have it, for several runs.
    """

    identity: RunIdentity
    start: RunMove
    event: StoredEvent | None = None

    @property
    def head(self) -> RunHead:
        """The run's head after this."""
        status, owner, epoch, stage, attempt, wake_at, outcome, slot, now, log = self.start[4:14]  # quicker than singly
        last = 0 if log is None else log.first_seq + log.size - 1
        visits = self.start.visits
        return RunHead(status, 1, owner, epoch, stage, attempt, wake_at, outcome, slot, 0, last, now, visits)

    @property
    def record(self) -> RunRecord:
        """The run after this, as it is read from a store."""
        return RunRecord(self.identity, self.head, self.start.waits or ())


class Token(NamedTuple):
    """The version of a load that was read: `generation` is random per decision, `turn` follows from what came since.

    Because the next token follows from this one, a process can submit several changes before the first is durable. It
    depends on the run that changes the load: were the changes only counted, one that nobody foresaw could stand in for
    one that was refused, and a decision made on the refused one would be written.
    """

    generation: int
    turn: int

    def next(self, run_id: str) -> Token:
        """Return the token the load has after a run left it, or took its slot again."""
        generation, turn = self
        return new_tuple(Token, (generation, crc32(run_id.encode(), turn & _BITS)))


class LoadChange(NamedTuple):
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


WITH_ITS_RUN: Final = float("inf")
"""The expiry of a key that is stored as long as the store has its run."""


class Remember(NamedTuple):
    """A key that must be absent (`KeysTaken`) and is then stored until `expires_at`.

    `scope` is "workflow/trigger", or "" for the one entry that all waits share: that is not stored if the same changes
    have deliveries of which none was accepted (`none_accepted`). An expired key counts as absent; a new key that has
    already expired is only checked. `expires_at` may be `WITH_ITS_RUN`.
    """

    source: str
    event_id: str
    scope: str
    fingerprint: str
    run_id: str | None
    expires_at: float


class Post(NamedTuple):
    """A signal, request (abort, pause, unpause) or answer for a run's inbox.

    Must hold: the run exists (`RunNotFound`), or the same changes create it, and it has not ended (`RunFinished`). A
    request to abort a run that rests makes it due at `time`, in a new version: else nobody would see the request.
    """

    run_id: str
    kind: Literal["signal", "abort", "resume", "pause", "unpause"]
    body: dict[str, Any]
    time: float

    def wakes(self, status: RunStatus) -> bool:
        """Whether a run of this status is due at once: it rests, and is asked to end."""
        return self.kind == "abort" and status in _AT_REST


class RunDelete(NamedTuple):
    """An ended run is deleted, with all that belongs to it: log, snapshot, idempotency key, and its event.

    An event that other runs or inboxes refer to stays until they are gone. Must hold: the run has ended, in this
    version (`StaleVersion`): one that was begun again meanwhile stays.
    """

    run_id: str
    version: int


@dataclass(slots=True)
class Changes:
    """A unit of work of several parts. It moves or creates a run at most once; an event already stored is unchanged.

    A run that it deletes may be one whose id a run has that it creates: that one takes its place.

    `letters` come with `rewrites`: what was held and is refused has a line that says so.

    What a single run writes at a boundary needs none of this: there the `RunMove` or `RunCreate` is the unit of work.
    """

    creates: tuple[RunCreate, ...] = ()
    moves: tuple[RunMove, ...] = ()
    loads: tuple[LoadChange, ...] = ()
    releases: tuple[Release, ...] = ()
    promotions: tuple[Promotion, ...] = ()
    events: tuple[StoredEvent, ...] = ()
    remember: tuple[Remember, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    posts: tuple[Post, ...] = ()
    receipt: ReceiptRow | None = None
    outbox: tuple[OutboxMove, ...] = ()
    hooks: tuple[str, ...] = ()
    """Runs that these changes end, and whose hooks are pending from then on."""
    deletes: tuple[RunDelete, ...] = ()
    schedules: tuple[ScheduleMove, ...] = ()
    holds: tuple[HoldChange, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    letters: tuple[Letter, ...] = ()
    paused: tuple[WorkflowPause, ...] = ()
    """Workflows that are paused from now on; one that is paused already gets this pause instead."""
    unpaused: tuple[str, ...] = ()
    """Workflows whose pause is taken away, by id, or `ALL`; one that is not paused is left as it is."""
    now: float = 0.0
    committed: Committed | None = field(default=None, init=False, compare=False)
    """The result of the commit, set by the store when it is durable: for a caller that was cancelled while waiting."""

    def stored_events(self) -> tuple[StoredEvent, ...]:
        """Return all events to store: those of created runs too."""
        return (*self.events, *(create.event for create in self.creates if create.event is not None))

    def leaving(self) -> list[Release]:
        """Return all releases: those of the moves, and those of runs that these changes do not move."""
        return [*self.releases, *(move.release for move in self.moves if move.release is not None)]

    def deletes_run(self, run_id: str) -> bool:
        """Whether this run is deleted."""
        return any(gone.run_id == run_id for gone in self.deletes)

    def creates_run(self, run_id: str) -> bool:
        """Whether this run is new."""
        return any(create.identity.run_id == run_id for create in self.creates)


class Committed(NamedTuple):
    """The decisions of a commit.

    A store that has nothing to wait for returns this itself from `commit`; so it can be awaited, too.

    Attributes:
        promoted: ids of the promoted runs, in order, over all releases and promotions.
        delivered: one result per delivery.
        posted: the inbox sequence of each post.
        waiting: ids of the moved runs that did not get a slot (`RunMove.slots`).
    """

    promoted: tuple[str, ...] = ()
    delivered: tuple[Delivered, ...] = ()
    posted: tuple[int, ...] = ()
    waiting: tuple[str, ...] = ()

    def __await__(self) -> Generator[Any, None, Committed]:
        yield from ()  # nothing: it only makes this a generator
        return self


Work: TypeAlias = RunCreate | RunMove | Changes
"""What a store commits, completely or not at all."""


NOTHING = Committed()
"""The answer to the many commits without a decision."""
