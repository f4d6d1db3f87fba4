"""Feed a runtime: where a feed continues, the result of each line, and when all runs are idle.

Lines are emitted one after another, so that the decisions for a line see the effects of earlier lines. Each line's
receipt is durable before the next line is read. So an interrupted feed continues exactly where it stopped.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from poundlock.cli.feed import Feed, Line
from poundlock.clock import sleep_for
from poundlock.errors import PoundlockError, StoreCorrupt, StoreFull, StoreUnavailable
from poundlock.model.lifecycle import RunStatus
from poundlock.model.receipts import Verdict
from poundlock.records import dataclass, field

if TYPE_CHECKING:
    from poundlock.model.events import Event
    from poundlock.model.runs import RunInfo
    from poundlock.ports import Store
    from poundlock.runtime.receipts import Receipt
    from poundlock.runtime.runtime import WorkflowRuntime

_BATCH = 256
_LOOK_EVERY = 0.02
_FATAL = (StoreCorrupt, StoreFull, StoreUnavailable)
"""Errors that every further line of the feed would get too."""


@dataclass(slots=True)
class Tally:
    """The result of a feed so far.

    Attributes:
        lines: lines that are not blank.
        handled: of these, lines that already had a receipt.
        emitted: of these, lines that got a receipt now.
        verdicts: (workflow, verdict) to number of receipt lines; workflow None for unmatched events.
        faults: lines without an event, or whose event was refused.
    """

    lines: int = 0
    handled: int = 0
    emitted: int = 0
    verdicts: Counter[tuple[str | None, Verdict]] = field(default_factory=Counter)
    faults: list[tuple[int, PoundlockError]] = field(default_factory=list)

    def took(self, receipt: Receipt) -> None:
        """Count a receipt."""
        self.emitted += 1
        self.verdicts.update((line.workflow_id, line.verdict) for line in receipt.lines)


OnLine = Callable[[Line, "Receipt | None", PoundlockError | None], None]
"""Called for each line: with its receipt, or with its error; with neither if it was handled before."""


async def feed_all(runtime: WorkflowRuntime, feed: Feed, *, fresh: bool, on_line: OnLine) -> Tally:
    """Emit the events of a feed from where it stopped; an error in one line does not stop the others.

    Args:
        runtime: started already.
        feed: the lines.
        fresh: the store has no receipts yet, so that none have to be read.
        on_line: called for each line.

    Raises:
        StoreFull, StoreUnavailable, StoreCorrupt: the store fails, and would for each further line.
    """
    tally = Tally()
    known = _Known(runtime.store, 0 if fresh or feed.path is None else await last_handled(runtime.store, feed))
    async for line in feed.lines():
        tally.lines += 1
        if line.event is None:
            assert line.fault is not None  # noqa: S101 - a line has an event or a fault
            tally.faults.append((line.number, line.fault))
            on_line(line, None, line.fault)
        elif line.number <= known.until or (feed.path is None and not fresh and await known.has(line.event)):
            tally.handled += 1
            on_line(line, None, None)
        else:
            try:
                receipt = await runtime.emit(line.event)
            except _FATAL:
                raise
            except PoundlockError as error:
                tally.faults.append((line.number, error))
                on_line(line, None, error)
            else:
                tally.took(receipt)
                on_line(line, receipt, None)
    return tally


async def last_handled(store: Store, feed: Feed) -> int:
    """Return the number of the last line that has a receipt, 0 if none has.

    An event that is in the feed twice has one receipt, which says nothing about its second line: that line is skipped.
    """
    seen: set[tuple[str, str]] = set()
    firsts: list[tuple[int, str, str]] = []
    for line in feed.again():
        if line.event is not None and (key := (line.event.source, line.event.id)) not in seen:
            seen.add(key)
            firsts.append((line.number, *key))
    firsts.reverse()
    for start in range(0, len(firsts), _BATCH):
        batch = firsts[start : start + _BATCH]
        receipts = await asyncio.gather(*(store.receipt(source, event_id) for _, source, event_id in batch))
        for (number, _, _), receipt in zip(batch, receipts, strict=True):
            if receipt is not None:
                return number
    return 0


class _Known:
    """What was handled before: in a file all up to a line; in a stream the events with an older receipt."""

    LARGEST = 100_000
    """How many of its own events a stream remembers; an event repeated after more than these counts as handled."""

    def __init__(self, store: Store, until: int) -> None:
        self.until = until
        self._store = store
        self._own: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def has(self, event: Event) -> bool:
        """Whether an event of a stream has a receipt from before this stream was read."""
        key = (event.source, event.id)
        if key in self._own:
            return False
        known = await self._store.receipt(*key) is not None
        if not known:
            self._own[key] = None
            if len(self._own) > self.LARGEST:  # a stream may never end
                self._own.popitem(last=False)
        return known


async def wait_until_idle(runtime: WorkflowRuntime, timeout: float) -> bool:
    """Wait until all runs of the runtime's workflows are idle; return True, or False if the time is up first.

    A run is idle when it has ended, is paused, is queued behind such a run, or is delayed beyond the timeout. Events
    that triggers hold are waited for in the same way: until they are decided, if that is before the timeout.
    """
    clock = runtime.clock
    ends = clock.monotonic() + timeout
    while await _is_active(runtime, clock.now() + ends - clock.monotonic()):
        left = ends - clock.monotonic()
        if left <= 0:
            return False
        await sleep_for(clock, min(left, _LOOK_EVERY))
    return True


async def _is_active(runtime: WorkflowRuntime, deadline: float) -> bool:
    # Holds first: what is decided meanwhile is found as a run.
    ends = await held_until(runtime)
    if ends is not None and ends <= deadline:
        return True
    # One query for all statuses: between two, a delayed run could start to run and be missed by both.
    async for info in every(runtime, RunStatus.RUNNING, RunStatus.READY, RunStatus.DELAYED):
        later = info.status is RunStatus.DELAYED and info.wake_at is not None and info.wake_at > deadline
        if not later and runtime.has_workflow(info.workflow_id):
            return True
    return False


async def held_until(runtime: WorkflowRuntime) -> float | None:
    """Return when the first of the held events of the runtime's workflows is decided; None if none is held."""
    store = runtime.store
    if not store.holding or not (await store.stats()).get("held"):
        return None
    return min((when for when, _ in await store.due_holds(runtime.list_workflows(), 1)), default=None)


async def every(runtime: WorkflowRuntime, *statuses: RunStatus) -> AsyncIterator[RunInfo]:
    """Return all runs of these statuses, page by page."""
    cursor = None
    while True:
        page = await runtime.find_runs(status=statuses, limit=500, cursor=cursor)
        for info in page.items:
            yield info
        cursor = page.next_cursor
        if cursor is None:
            return


def by_workflow(tally: Tally) -> dict[str, dict[str, int]]:
    """Return the receipts by workflow and verdict, without those of unmatched events."""
    grouped: dict[str, dict[str, int]] = {}
    for (workflow, verdict), number in tally.verdicts.items():
        if workflow is not None:
            grouped.setdefault(workflow, {})[str(verdict)] = number
    return grouped


def unmatched(tally: Tally) -> int:
    """Return the number of unmatched events."""
    return tally.verdicts[(None, Verdict.UNMATCHED)]
