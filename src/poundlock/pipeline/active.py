"""A run in memory: what its owner knows beyond the row.

House rules: only the task that drives the run writes here, except `inbox`, which deliveries of this process append to.
`state` is never mutated, only replaced, so views and snapshots taken earlier stay valid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from poundlock.codecs import detach, dump
from poundlock.model.changes import Changes, RunCreate, RunMove
from poundlock.model.definitions import Wait
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.patches import merge
from poundlock.model.runs import Checkpoint, LogRow, Message, RunHead, RunIdentity, StoredEvent, WaitRow
from poundlock.model.views import StateView
from poundlock.model.visits import read_visits
from poundlock.pipeline.journal import Journal

if TYPE_CHECKING:
    from poundlock.artifacts import ArtifactContainer
    from poundlock.clock import Clock
    from poundlock.pipeline.plan import PipelinePlan
    from poundlock.pipeline.threads import StepThreads
    from poundlock.state import StateStore

_SMALLEST_SNAPSHOT = 4096
JUMPED: Final = ""
_RUNNING = RunStatus.RUNNING  # looking a member of an enum up costs more than comparing with it


@dataclass(frozen=True, slots=True)
class Resume:
    """Why a paused run went on.

    Attributes:
        reason: "event", "timeout", "api" or "delay"; a stage that is begun again after a crash is not told of a delay.
        wait: id of the wait; None after a delay.
        event: the event that matched; None for other reasons.
    """

    reason: str
    wait: str | None = None
    event: Event | None = None


class Position(NamedTuple):
    """Where a run stands and what changes with a boundary; kept whole so that a refused boundary can be undone."""

    state: dict[str, Any]
    stage: str | None
    waits: tuple[WaitRow, ...]
    buffer: tuple[Message, ...]
    backlog: tuple[Message, ...]
    inbox_seen: int
    consumed: tuple[int, ...]
    registered: Mapping[str, Wait] | None
    abort: Mapping[str, Any] | None
    resume: Resume | None
    mark: int
    visits: dict[str, int]
    walk: str | None


class ActiveRun:
    """One run being driven by this process.

    `parked` on a position is expressed by its waits: a row with `parked` set is the wait the run stands at.
    """

    __slots__ = (
        "abort",
        "armed",
        "attempt",
        "backlog",
        "buffer",
        "clock",
        "consumed",
        "container",
        "entered_at",
        "epoch",
        "event",
        "exported",
        "identity",
        "inbox",
        "inbox_seen",
        "interruptible",
        "journal",
        "log_seq",
        "log_size",
        "make_container",
        "owner",
        "plan",
        "rearmed",
        "recovered",
        "registered",
        "resume",
        "slot",
        "snapshot_size",
        "stage",
        "state",
        "state_store",
        "status",
        "stopping",
        "stored_event",
        "stored_waits",
        "threads",
        "updated_at",
        "version",
        "visits",
        "waits",
        "wake_at",
        "walk",
        "written",
    )

    def __init__(
        self,
        *,
        identity: RunIdentity,
        plan: PipelinePlan,
        event: Event,
        state: dict[str, Any],
        owner: str,
        clock: Clock,
        threads: StepThreads,
        timeline: bool,
        make_container: Callable[[ActiveRun], ArtifactContainer] | None = None,
    ) -> None:
        self.identity = identity
        self.plan = plan
        self.event: Event = event
        self.state = state
        self.owner = owner
        self.clock = clock
        self.threads = threads
        self.make_container = make_container
        self.container: ArtifactContainer | None = None
        self.exported: str | None = None
        """Services that outlived the last pause, as text; put back into the next container where they still fit."""
        self.state_store: StateStore | None = None
        """What the run's services select from; made when the first of them does."""
        self.journal = Journal(full=timeline)
        # the head, as of the last commit
        self.written = False
        self.status = _RUNNING
        self.version = 0
        self.epoch = 1
        self.attempt = 1
        self.slot = identity.load_key is not None
        self.log_seq = 0
        self.entered_at = 0
        """Entries of the timeline before the stage it is in: the same however often that stage is begun."""
        self.stored_waits: tuple[WaitRow, ...] = ()
        self.updated_at = identity.created_at
        self.wake_at: float | None = None
        self.log_size = 0
        self.snapshot_size = _SMALLEST_SNAPSHOT
        """Characters of log after the last snapshot, and those after which the next one is due."""
        # where it stands
        self.stage: str | None = plan.stages[0].id
        self.waits: tuple[WaitRow, ...] = ()
        self.registered: Mapping[str, Wait] | None = None
        """Waits that steps announced since the last boundary; replaced, never changed. Once armed they are rows."""
        self.armed: dict[str, tuple[tuple[Any, ...], WaitRow | None]] | None = None
        """Declared waits as they were armed last, with the values they were resolved from."""
        self.rearmed: tuple[WaitRow, ...] | None = None
        """The waits as they were last armed, to tell whether anybody changed them since."""
        self.buffer: tuple[Message, ...] = ()
        self.consumed: list[int] = []
        self.resume: Resume | None = None
        self.visits: dict[str, int] = {}
        """How often each stage was entered since the last pause or delay; replaced when that begins anew."""
        self.walk: str | None = None
        """What the head says of the visits while the run goes straight on; JUMPED if the counts have to be written."""
        # what others say
        self.inbox: list[Message] = []
        self.backlog: tuple[Message, ...] = ()
        self.inbox_seen = 0
        self.abort: Mapping[str, Any] | None = None
        self.stopping = False
        self.interruptible = False
        """Whether an abort may cancel the task now: user code runs, and no commit is on its way."""
        self.recovered = False

    # ----------------------------------------------------------------------------------------------- what is seen
    def view(self, state: dict[str, Any] | None = None) -> Any:
        """Return a state as users see it: a detached instance of the state model, or a read-only mapping.

        Args:
            state: which one; default: the run's state now.
        """
        shown = self.state if state is None else state
        model = self.plan.state_model
        return StateView(shown) if model is None else model.model_validate(detach(shown))

    def latest(self) -> Any:
        """Return the state with the signals that came since the last boundary merged in."""
        state = self.state
        model = self.plan.state_model
        for message in (*self.backlog, *self.inbox):
            if message.kind == "signal" and message.body is not None:
                told = merge(state, message.body)
                if model is None or _fits(model, told):
                    state = told
        return StateView(state) if model is None else model.model_validate(detach(state))

    @property
    def parked(self) -> WaitRow | None:
        """The wait the run stands at, if it does."""
        for row in self.waits:
            if row.parked:
                return row
        return None

    def services(self) -> ArtifactContainer:
        """Return the run's container; it is made at the first use, so a run without services never has one."""
        if self.container is None:
            assert self.make_container is not None  # noqa: S101 - every run of a runtime has a workflow
            self.container = self.make_container(self)
        return self.container

    # ------------------------------------------------------------------------------------------------- positions
    def position(self) -> Position:
        """Return where the run stands, for `restore`."""
        return Position(
            self.state,
            self.stage,
            self.waits,
            self.buffer,
            self.backlog,
            self.inbox_seen,
            tuple(self.consumed),
            self.registered,
            self.abort,
            self.resume,
            self.journal.mark,
            self.visits,
            self.walk,
        )

    def restore(self, position: Position, messages: Sequence[Message]) -> None:
        """Undo what a refused boundary proposed, and take note of the messages it did not know."""
        self.state = position.state
        self.stage = position.stage
        self.waits = position.waits
        self.rearmed = None
        self.buffer = position.buffer
        self.resume = position.resume
        self.abort = position.abort
        self.backlog = (*position.backlog, *messages)
        self.inbox_seen = max((position.inbox_seen, *(message.seq for message in messages)))
        self.consumed[:] = position.consumed  # what earlier stages used up may ride in the same commit
        self.registered = position.registered
        self.visits = position.visits
        self.walk = position.walk
        self.journal.rewind(position.mark)

    def count_anew(self) -> None:
        """Begin to count visits with the stage the run goes on at: it paused or was delayed before it."""
        self.visits = {}
        self.walk = dump(self.stage)

    def unread(self) -> list[Message]:
        """Take the messages that have not been absorbed yet, in order.

        Deliveries of this process may arrive out of order; one that would leave a gap stays for later.
        """
        messages = list(self.backlog)
        self.backlog = ()
        if len(self.inbox) == 1 and self.inbox[0].seq == self.inbox_seen + 1:
            self.inbox_seen += 1
            messages.append(self.inbox.pop())
        elif self.inbox:
            early: list[Message] = []
            for message in sorted(self.inbox, key=lambda message: message.seq):
                if message.seq == self.inbox_seen + 1:
                    self.inbox_seen = message.seq
                    messages.append(message)
                elif message.seq > self.inbox_seen:
                    early.append(message)
            self.inbox[:] = early
        return messages

    # ---------------------------------------------------------------------------------------------------- writing
    def admitted(self, status: RunStatus) -> RunCreate:
        """Return how this run is written with the event that was admitted for it: running, or queued by nobody."""
        now = self.identity.created_at
        log = self.journal.row(1)
        running = status is _RUNNING
        owner = self.owner if running else None
        size = 0 if log is None else log.size
        head = RunHead(
            status, 1, owner, self.epoch, self.stage, self.attempt, None, None, running and self.slot, 0, size, now
        )
        return RunCreate(self.identity, head, log, self.waits)

    def create(self) -> Changes:
        """Return the changes that write this run as it stood before its stage began: without a boundary behind it.

        What the stage has noted so far is left for its boundary; a crash repeats it.
        """
        now = self.identity.created_at
        log = self.journal.row(1, self.entered_at or None)
        return self._creation(RunStatus.RUNNING, None, None, slot=self.slot, now=now, waits=self.waits, log=log)

    def changes(
        self,
        status: RunStatus,
        *,
        wake_at: float | None = None,
        outcome: str | None = None,
        slot: bool | None = None,
        guard_inbox: bool = False,
    ) -> Changes:
        """Return the changes of a boundary: the run as it stands now, at `status`.

        Args:
            status: what the run is from then on.
            wake_at: when it is due, for paused and delayed runs.
            outcome: JSON text of its result or error, at the end.
            slot: whether it counts as active from then on; None leaves that as it is.
            guard_inbox: refuse (`InboxAhead`) if messages came that this process has not seen.
        """
        now = self.clock.now()
        if slot is None:
            slot = self.slot
        ended = status is not _RUNNING and status.terminal
        waits = () if ended else self.waits
        if not self.written:
            log = self.journal.row(1)
            return self._creation(status, wake_at, outcome, slot=slot, now=now, waits=waits, log=log)
        log, snapshot = self.journal.row(self.log_seq + 1), None
        # A snapshot once the deltas outweigh the state: amortised O(n) storage, and a bounded fold on load.
        if log is not None and self.log_size + len(log.text) > self.snapshot_size and not ended:
            snapshot = dump(self.state)
        epoch = self.epoch
        move = RunMove(
            self.identity.run_id,
            self.version,
            epoch,
            self.inbox_seen if guard_inbox else None,
            status,
            self.owner if status is _RUNNING else None,
            epoch,
            self.stage,
            self.attempt,
            wake_at,
            outcome,
            slot,
            now,
            log,
            None if ended or waits is self.stored_waits else waits,
            tuple(self.consumed) if self.consumed else (),
            snapshot,
            self.walk if self.walk != JUMPED else dump(self.visits),
        )
        return Changes.of_move(move, now)

    def _creation(
        self,
        status: RunStatus,
        wake_at: float | None,
        outcome: str | None,
        *,
        slot: bool,
        now: float,
        waits: tuple[WaitRow, ...],
        log: LogRow | None,
    ) -> Changes:
        head = RunHead(
            status,
            1,
            self.owner if status is _RUNNING else None,
            self.epoch,
            self.stage,
            self.attempt,
            wake_at,
            outcome,
            slot,
            0,
            0 if log is None else log.size,
            now,
            self.walk if self.walk != JUMPED else dump(self.visits),
        )
        event = StoredEvent(self.identity.event_ref, self.event)
        return Changes.of_creation(RunCreate(self.identity, head, log, waits), event, now)

    def committed(self, changes: Changes) -> None:
        """Take over what a commit of `changes` made true."""
        self.registered = None
        if self.state_store is not None:
            self.state_store.adopt(self.state)
        if changes.creates:
            self.created(changes.creates[0])
            return
        move = changes.moves[0]
        log = move.log
        self.version += 1
        self.epoch = move.new_epoch
        self.status = move.status
        self.slot = move.slot
        self.updated_at = move.updated_at
        self.wake_at = move.wake_at
        if log is not None:
            self.log_seq += log.size
            self.log_size += len(log.text)
            self.journal.forget(log.size)
            if move.snapshot is not None:
                self._snapshot_taken(0, len(move.snapshot))
        if move.waits is not None:
            self.stored_waits = move.waits
        if move.consumed:
            self.consumed.clear()

    def created(self, create: RunCreate) -> None:
        """Take over that this run was written for the first time."""
        _, head, log, waits = create
        self.written = True
        self.version = 1
        self.stored_waits = waits
        self.log_seq = head.log_seq
        self.status = head.status
        self.slot = head.slot
        self.updated_at = head.updated_at
        self.wake_at = head.wake_at
        if log is not None:
            self.log_size = len(log.text)
            self.journal.forget(log.size)

    def _snapshot_taken(self, log_size: int, snapshot_size: int) -> None:
        self.log_size = log_size
        self.snapshot_size = max(_SMALLEST_SNAPSHOT, snapshot_size)

    # ---------------------------------------------------------------------------------------------------- loading
    def adopt(self, checkpoint: Checkpoint) -> None:
        """Stand where a checkpoint stands."""
        record = checkpoint.record
        head = record.head
        self.written = True
        self.status = head.status
        self.version = head.version
        self.epoch = head.epoch
        self.attempt = head.attempt
        self.slot = head.slot
        self.log_seq = head.log_seq
        self.stage = head.stage
        self.visits = read_visits(head.visits, [stage.id for stage in self.plan.stages], head.stage)
        self.walk = JUMPED if head.visits is not None and head.visits.startswith("{") else head.visits
        self.waits = self.stored_waits = record.waits
        self.updated_at = head.updated_at
        self.wake_at = head.wake_at
        self.state = checkpoint.state
        self._snapshot_taken(checkpoint.log_size, checkpoint.snapshot_size)
        self.inbox.clear()
        self.inbox_seen = head.inbox_seq
        # Events stood in the inbox before: they are buffered. Signals and requests are still to be absorbed.
        self.buffer = tuple(message for message in checkpoint.inbox if message.kind == "event")
        self.backlog = tuple(message for message in checkpoint.inbox if message.kind != "event")


def _fits(model: Any, state: dict[str, Any]) -> bool:
    """Whether a signal may be merged; one that may not is left out at the boundary too."""
    from pydantic import ValidationError

    try:
        model.model_validate(state)
    except ValidationError:
        return False
    return True
