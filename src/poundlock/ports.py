"""All ports on one page. Plain data in and out; "atomic" is said where it is promised.

House rule: Protocols only, and no method without a caller.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from poundlock.clock import Clock
from poundlock.model.changes import Changes, Committed, Token
from poundlock.model.events import Event
from poundlock.model.modes.decisions import Load
from poundlock.model.receipts import ReceiptLine
from poundlock.model.runs import Checkpoint, LogRow, Message, RunQuery, RunRecord

__all__ = [
    "Bus",
    "Claim",
    "Clock",
    "FollowsClock",
    "Handler",
    "Page",
    "Publication",
    "PublicationHandler",
    "Store",
    "Subscription",
]


T = TypeVar("T")


class Page(NamedTuple, Generic[T]):
    """Some items of a longer list.

    Attributes:
        items: these.
        next_cursor: what gives the next ones, as `cursor=`; None at the end.
    """

    items: list[T]
    next_cursor: str | None


class Claim(NamedTuple):
    """A run taken over by `claim`, with all that is needed to go on with it."""

    checkpoint: Checkpoint
    recovered: bool
    """True if its last owner died or stopped while the run was running."""
    delayed: bool = False
    """True if it was delayed, and is due now."""


class Store(Protocol):
    """Where everything durable lives. One worker at a time owns an opened store, unless an adapter says otherwise.

    What has served its time goes by and by, beside the commits, a bounded bit with each: remembered keys that have
    expired, receipts after seven days (or when the event's id is forgotten, if that is later), and events that no run
    and no inbox refers to. Durable stores keep ended runs; one in memory may forget the oldest, and then answers as if
    they had never been.

    Attributes:
        store_id: identifies the data, not the connection; events published by one store carry it.
        durability: what a returned commit means: "memory", "committed" or "fsynced".
        size: bytes that it takes on a disk now; 0 where there is none.
    """

    store_id: str
    durability: str

    @property
    def size(self) -> int: ...

    async def open(self, worker: str) -> None:
        """Connect, check the schema, and give runs of dead owners back: they become `ready` under a new epoch.

        Where one worker owns the store, every run that is running then has a dead owner, also one of the same name.

        Raises:
            StoreUnavailable, StoreCorrupt, StoreTooNew: with the next action; nothing was changed.
        """

    async def close(self) -> None:
        """Finish what was submitted and let go. Closing twice does nothing."""

    async def commit(self, changes: Changes) -> Committed:
        """Write all of `changes` atomically and return when durable.

        Changes submitted one after another are applied in that order. If the waiting caller is cancelled, its changes
        are written as a whole or not at all, and nobody else is affected; after `written_behind` their `committed` is
        what they came to, or None if they were not written.

        Raises:
            Refused (InboxAhead, LoadMoved, WaitMoved, KeysTaken), StaleVersion, LeaseLost, RunExists, RunNotFound,
                RunFinished: a condition does not hold; nothing was written.
            StoreFull: there is no space; nothing was written.
            StoreUnavailable, StoreCorrupt: the store failed; nothing was written, or the message says nobody knows.
        """

    async def written_behind(self) -> None:
        """Return when everything submitted before this call is durable."""

    async def read_loads(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Load, Token | None]]:
        """Return the load and token of each (workflow, key); O(1) each. An idle pair has token None."""

    async def load(self, run_id: str) -> RunRecord | None:
        """Return a run's record."""

    async def checkpoint(self, run_id: str) -> Checkpoint | None:
        """Return a run's record, state, event and inbox as of one moment."""

    async def find(self, query: RunQuery) -> Page[RunRecord]:
        """Return records, newest first; keyset pagination, stable while others write."""

    async def claim(self, worker: str, workflows: Collection[str], now: float, limit: int) -> list[Claim]:
        """Atomically take ownership of up to `limit` runs that are `ready`, or paused or delayed and due at `now`.

        Order: priority, then due time (a ready run is due at once), then id. Only runs of these workflows. A claim
        counts as an attempt of a recovered run; a run that had given its slot back counts as active again. A due paused
        run stays at its parked wait: the claimer decides what its timeout means.

        Raises:
            UnknownCodec: a run's state cannot be read, and there is no other to claim; it is left as it is.
        """

    async def next_due(self, workflows: Collection[str]) -> float | None:
        """Return the earliest wake time among paused and delayed runs of these workflows."""

    async def match_waits(self, event: Event) -> list[RunRecord]:
        """Return the runs with a wait that this event is looked up by, oldest first; a look-up per shape in use."""

    async def unfit(self, workflow: str) -> list[RunRecord]:
        """Return the paused runs of a workflow that have an error: their state does not fit its model."""

    async def inbox(self, run_id: str, after: int) -> list[Message]:
        """Return the unconsumed messages of a run with a sequence above `after`, in order."""

    async def history(self, run_id: str, last: int | None = None) -> list[LogRow]:
        """Return all log rows of a run, in order; only the last `last` (at least 1) of them if that is given."""

    async def receipt(self, source: str, event_id: str) -> tuple[ReceiptLine, ...] | None:
        """Return the lines of the last receipt given for an event."""

    async def stats(self) -> dict[str, int]:
        """Return counts: runs per status, `waits`, `events`, `remembered` keys, `receipts`; `bytes`, which is `size`.

        And `commits` and `syncs` since the store was opened.
        """


class FollowsClock(Protocol):
    """A Store that reads time; one that reads none need not have this."""

    def adopt(self, clock: Clock) -> None:
        """Read time from this clock from now on, unless the store was given one when it was made.

        The runtime calls it before it opens the store; while the store is open nothing changes.
        """


class Publication(NamedTuple):
    """An event on a bus, with what its emitter decided already.

    `store_id` and `decided` (workflow, trigger) pairs let a subscription on the same store decide only the others.
    """

    event: Event
    store_id: str | None = None
    decided: frozenset[tuple[str, str]] = frozenset()


Handler = Callable[[Event], Awaitable[Any] | Any]
"""What users subscribe: a plain function, or an async one."""

PublicationHandler = Callable[[Publication], Awaitable[Any] | Any]
"""What a runtime subscribes: it also wants to know what was decided already."""


class Subscription(Protocol):
    """A handler's place on a bus."""

    def cancel(self) -> None:
        """Take the handler off: it is not started again. Doing it twice does nothing."""


class Bus(Protocol):
    """Carries events between publishers and subscribers."""

    async def publish(self, event: Event | Publication) -> None:
        """Hand an event to every subscriber whose pattern fits; returns when all of them have accepted it.

        A failing handler is the bus's business, not the publisher's.

        Raises:
            EmitLoop: handlers publish in a circle.
        """

    def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Call `handler` for every event whose type fits `pattern`: an exact type or a dotted pattern."""

    def subscribe_publications(self, pattern: str, handler: PublicationHandler) -> Subscription:
        """Like `subscribe`, for handlers that want the whole Publication."""

    def has_subscribers(self, event_type: str, ignoring: Collection[Subscription] = ()) -> bool:
        """Whether anybody but `ignoring` would hear of an event of this type; a guess towards True is allowed."""
