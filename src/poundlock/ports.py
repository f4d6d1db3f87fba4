"""All ports in one file. Plain data in and out; a method is atomic where its docstring says so.

House rule: Protocols only, and no method without a caller.
"""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from poundlock.clock import Clock
from poundlock.errors import RunDamaged
from poundlock.model.changes import Committed, Token, Work
from poundlock.model.events import Event
from poundlock.model.holds import HeldRow, Hold, HoldKey
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.operator_pause import WorkflowPause
from poundlock.model.outbox import OutboxQuery, OutboxRow
from poundlock.model.receipts import ReceiptLine
from poundlock.model.retention import EndedRun
from poundlock.model.runs import Checkpoint, LogRow, Message, RunQuery, RunRecord
from poundlock.model.schedules import ScheduleRow
from poundlock.records import NamedTuple

__all__ = [
    "AtHand",
    "Bus",
    "Claim",
    "Claims",
    "Clock",
    "FollowsClock",
    "FollowsRetention",
    "Handler",
    "Page",
    "Pruned",
    "Publication",
    "PublicationHandler",
    "Store",
    "Subscription",
]


T = TypeVar("T")


class Page(typing.NamedTuple, Generic[T]):  # noqa: TID251 - only that of the standard library can be generic
    """Some items of a longer list.

    Attributes:
        items: these.
        next_cursor: what gives the next ones, as `cursor=`; None at the end.
    """

    items: list[T]
    next_cursor: str | None


class AtHand(list[T]):
    """The answer to a read for which a store has nothing to wait: it is given in the call. It can be awaited, too."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, AtHand[T]]:
        yield from ()  # nothing: it only makes this a generator
        return self


class Claim(NamedTuple):
    """A run claimed by this worker, with all data needed to continue it."""

    checkpoint: Checkpoint
    recovered: bool
    """True if its last owner died or stopped while the run was running."""
    delayed: bool = False
    """True if it was delayed and is due."""


class Claims(list[Claim]):
    """The runs claimed together, in order.

    Attributes:
        waiting: ids of runs that were due and did not get a slot: they are `ready` now and wait for one.
        damaged: why runs that could be claimed cannot be read, by id; they are unchanged.
    """

    __slots__ = ("damaged", "waiting")

    def __init__(self, claims: Iterable[Claim] = (), waiting: Sequence[str] = ()) -> None:
        super().__init__(claims)
        self.waiting = waiting
        self.damaged: dict[str, RunDamaged] = {}


class Pruned(NamedTuple):
    """What a store has deleted because it has expired.

    Attributes:
        receipts: how many receipts.
        remembered: how many ids of events, and idempotency keys.
        done: whether a whole pass over them is over.
    """

    receipts: int
    remembered: int
    done: bool


class Store(Protocol):
    """The durable data. One worker at a time owns an open store, unless an adapter says otherwise.

    Expired data is deleted in small steps, a bounded amount with each commit: idempotency keys that have expired,
    receipts after seven days (or when the key of the event expires, if that is later), and events that no run and no
    inbox refers to. Durable stores keep ended runs until `Changes.deletes` names them; a store in memory may delete the
    oldest, and then answers as if they had never existed.

    Attributes:
        store_id: identifies the data, not the connection; events published by one store carry it.
        durability: what a returned commit means: "memory", "committed" or "fsynced".
        size: its current size on disk in bytes; 0 without a disk.
    """

    store_id: str
    durability: str

    @property
    def size(self) -> int: ...

    @property
    def holding(self) -> int:
        """How many holds of triggers there are, as committed."""

    @property
    def undelivered(self) -> tuple[int, int]:
        """How many events are in the outbox still to be delivered, and how many are dead letters, as committed."""

    async def open(self, worker: str) -> None:
        """Connect, check the schema, and release runs of dead owners: they become `ready` under a new epoch.

        If one worker owns the store, every run that is `running` now has a dead owner, even one of the same name.

        Raises:
            StoreUnavailable, StoreCorrupt, StoreTooNew: with the next action; nothing was changed.
        """

    async def close(self) -> None:
        """Finish what was submitted and disconnect. A second call does nothing."""

    def commit(self, work: Work) -> Awaitable[Committed]:
        """Write a unit of work atomically; its answer comes when it is durable.

        A store that has nothing to wait for returns the `Committed` itself, so that its caller need not await it; such
        a store raises in the call.

        Units are applied in the order they were submitted. If the waiting caller is cancelled, its unit is written
        completely or not at all, and no other caller is affected; after `written_behind`, `committed` of Changes is
        the result, or None if they were not written.

        Raises:
            Refused (InboxAhead, LoadMoved, WaitMoved, KeysTaken, HoldMoved, OutboxMoved, ScheduleMoved),
                StaleVersion, LeaseLost, RunExists, RunNotFound, RunFinished: a condition does not hold; nothing was
                written.
            StoreFull: there is no space; nothing was written.
            StoreUnavailable, StoreCorrupt: the store failed; nothing was written, or the message says that it is
                unknown.
        """

    async def written_behind(self) -> None:
        """Return when everything submitted before this call is durable."""

    def read_loads(self, pairs: Sequence[tuple[str, str]]) -> Awaitable[list[tuple[Load, Token | None]]]:
        """Return the load and token of each (workflow, key); O(1) each. The token of an idle pair is None.

        A store that has them in memory returns them `AtHand`, so that its caller need not await them.
        """

    async def load(self, run_id: str) -> RunRecord | None:
        """Return a run's record."""

    async def status(self, run_id: str) -> RunStatus | None:
        """Return a run's status; asked for by each caller that waits, so a store answers many together."""

    async def checkpoint(self, run_id: str) -> Checkpoint | None:
        """Return a run's record, state, event and inbox, read atomically."""

    async def find(self, query: RunQuery) -> Page[RunRecord]:
        """Return records, newest first; keyset pagination, stable while others write."""

    async def claim(self, worker: str, workflows: Mapping[str, int], now: float, limit: int) -> Claims:
        """Atomically take ownership of up to `limit` runs that are `ready`, or paused or delayed and due at `now`.

        Order: by `rank` of their priority and the time since when they can go on (a ready run's last change, a due
        run's wake time), then id. Only runs of these workflows, which are given with the number of slots of their
        modes. A claim counts as an attempt of a recovered run. A due paused run keeps its wait: the claimer decides
        what the timeout means. A delayed run keeps its wake time, and so does a `ready` one: it says why the run goes
        on.

        A run that had released its slot takes one again (`Load.returned`). If there is none, it is not claimed, but
        waits for one (`NEEDS_SLOT`) and keeps its wake time, which says why it goes on. Runs that wait for a slot are
        left alone. A claim may leave due runs for the next one even if it claims fewer than `limit`.

        Raises:
            UnknownCodec: a run's state cannot be read, and there is no other run to claim; that run is unchanged. One
                that is damaged is not raised, but told in `Claims.damaged`.
        """

    def waiting_loads(
        self, workflows: Collection[str], queued: bool
    ) -> Awaitable[Sequence[tuple[tuple[str, str], Load]]]:
        """Return the loads of these workflows in which resumed runs wait for a slot; if `queued`, or new ones.

        Without `queued` the cost depends only on how many there are, so it is asked with each claim.
        """

    async def next_due(self, workflows: Collection[str]) -> float | None:
        """Return the earliest wake time among paused and delayed runs of these workflows."""

    def match_waits(self, event: Event) -> Awaitable[list[RunRecord]]:
        """Return the runs with a wait that this event may match, oldest first; one look-up per shape in use.

        A store that has them in memory, or knows that there are none, returns them `AtHand`.
        """

    async def unfit(self, workflow: str) -> list[RunRecord]:
        """Return the paused runs of a workflow that have an error: their state does not match its model."""

    async def paused_in_slot(self, workflow: str) -> list[RunRecord]:
        """Return the paused runs of a workflow that hold a slot."""

    async def inbox(self, run_id: str, after: int) -> list[Message]:
        """Return the unconsumed messages of a run with a sequence above `after`, in order."""

    async def history(
        self, run_id: str, last: int | None = None, after: int = 0, limit: int | None = None
    ) -> list[LogRow]:
        """Return log rows of a run in order; what that costs depends on how many it returns, not on those before them.

        Args:
            run_id: which run; an unknown one has none.
            last: only so many from the end, at least 1; given alone.
            after: only rows that have an entry with a higher sequence; the first one may begin earlier.
            limit: of these only so many, at least 1, from the first on.
        """

    async def pauses(self) -> list[WorkflowPause]:
        """Return the workflows that are paused, by id; see `Changes.paused`. Few: read once, as the store is opened."""

    async def receipt(self, source: str, event_id: str) -> tuple[ReceiptLine, ...] | None:
        """Return the lines of the last receipt for an event."""

    def read_holds(self, keys: Sequence[HoldKey]) -> Awaitable[list[Hold | None]]:
        """Return what triggers hold, in this order; None where there is nothing. O(1) each, `AtHand` from memory."""

    async def held_events(self, key: HoldKey, limit: int) -> list[HeldRow]:
        """Return up to `limit` events of a hold, in the order in which they came."""

    async def due_holds(self, workflows: Collection[str], limit: int) -> list[tuple[float, HoldKey]]:
        """Return when holds end, the earliest ones of each of these workflows, up to `limit` of each; in any order."""

    async def outbox(self, query: OutboxQuery) -> list[OutboxRow]:
        """Return rows of the outbox, by their numbers.

        They are written by moves (`outgoing`), in order, and changed or deleted by `Changes.outbox`. They do not depend
        on their run: it may have ended, or be deleted.
        """

    async def pending_hooks(self, workflow: str) -> list[str]:
        """Return the runs of a workflow whose hooks are pending (`Changes.hooks`), in the order of their ends."""

    async def hooks_called(self, run_ids: Collection[str]) -> None:
        """Note that the hooks of these runs were called: they are no longer pending.

        It costs no sync of its own: it becomes durable with the next commit, while the store is idle, or when it is
        closed. After a crash before that they are pending again.
        """

    async def ended(self, cursor: str | None, limit: int) -> Page[EndedRun]:
        """Return ended runs in the order of their creation, so that parents come before their children.

        Looks at `limit` runs at most, also at those that have not ended: a page may be empty and not be the last.
        """

    async def prune(self, now: float, limit: int, *, begin: bool) -> Pruned:
        """Delete some of what has expired, receipts and keys, looking at about `limit` rows.

        Repeated calls come to the end (`done`). `begin`: first of all rows, as if nothing had been looked at lately.
        """

    async def schedules(self, workflow_id: str) -> dict[str, ScheduleRow]:
        """Return the rows of a workflow's time triggers, by trigger. They are written by `Changes.schedules`."""

    async def stats(self) -> dict[str, int]:
        """Return counts: runs per status, `waits`, `events`, `remembered` keys, `receipts`; `bytes`, which is `size`.

        Where there are some, `outbox` and `dead_letters`, and `holds` and `held`, the events in them.

        Also `commits` and `syncs` since the store was opened.
        """


class FollowsClock(Protocol):
    """A Store that reads the time; other stores do not need this method."""

    def adopt(self, clock: Clock) -> None:
        """Use this clock from now on, unless the store was created with one.

        The runtime calls it before it opens the store; on an open store it does nothing.
        """


class FollowsRetention(Protocol):
    """A Store whose receipts may be kept for other times than seven days; other stores do not need this method."""

    def retain(self, receipts: float, unwanted: float) -> None:
        """Keep receipts for so many seconds from now on: those of events that nobody wanted, and all others.

        The runtime calls it before it opens the store.
        """


class Publication(NamedTuple):
    """An event on a bus, with what its emitter has already decided.

    With `store_id` and the `decided` (workflow, trigger) pairs, a subscription on the same store decides only the
    others.
    """

    event: Event
    store_id: str | None = None
    decided: frozenset[tuple[str, str]] = frozenset()


Handler = Callable[[Event], Awaitable[Any] | Any]
"""A handler of a user: a plain or an async function."""

PublicationHandler = Callable[[Publication], Awaitable[Any] | Any]
"""A handler of a runtime: it also needs what was already decided."""


class Subscription(Protocol):
    """A handler's subscription on a bus."""

    def cancel(self) -> None:
        """End the subscription: the handler is not started again. A second call does nothing."""


class Bus(Protocol):
    """Delivers events from publishers to subscribers."""

    async def publish(self, event: Event | Publication) -> None:
        """Deliver an event to every subscriber whose pattern matches; returns when all of them have accepted it.

        The bus handles the errors of handlers; the publisher does not get them.

        Raises:
            EmitLoop: handlers publish in an endless loop.
        """

    def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Call `handler` for every event whose type matches `pattern`: an exact type or a dotted pattern."""

    def subscribe_publications(self, pattern: str, handler: PublicationHandler) -> Subscription:
        """Like `subscribe`, for handlers that need the whole Publication."""

    def has_subscribers(self, event_type: str, ignoring: Collection[Subscription] = ()) -> bool:
        """Whether an event of this type has a subscriber that is not in `ignoring`; a guess towards True is allowed."""
