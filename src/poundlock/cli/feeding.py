"""Feeding a runtime: where a feed is gone on with, what became of each line, and when everything rests.

Lines are fed one after another, so that what a later line decides rests on what an earlier one did. Each line's receipt
is durable before the next line is read, therefore an interrupted feed can be gone on with exactly where it stopped.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poundlock.cli.feed import Feed, Line
from poundlock.clock import sleep_for
from poundlock.errors import PoundlockError, StoreCorrupt, StoreFull, StoreUnavailable
from poundlock.model.lifecycle import RunStatus
from poundlock.model.receipts import Verdict

if TYPE_CHECKING:
    from poundlock.model.events import Event
    from poundlock.model.runs import RunInfo
    from poundlock.ports import Store
    from poundlock.runtime.receipts import Receipt
    from poundlock.runtime.runtime import WorkflowRuntime

_BATCH = 256
_LOOK_EVERY = 0.02
_FATAL = (StoreCorrupt, StoreFull, StoreUnavailable)
"""What no other line of the feed would escape either."""


@dataclass(slots=True)
class Tally:
    """What became of a feed so far.

    Attributes:
        lines: lines that hold something.
        handled: of these, lines that had a receipt from an earlier time.
        emitted: of these, lines that got a receipt now.
        verdicts: (workflow, verdict) to number of receipt lines; workflow None for events nobody wanted.
        faults: lines that hold no event, or whose event was refused.
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


Told = Callable[[Line, "Receipt | None", PoundlockError | None], None]
"""Called for each line that is fed: with its receipt, or with what is wrong; with neither if it was handled before."""


async def feed_all(runtime: WorkflowRuntime, feed: Feed, *, fresh: bool, told: Told) -> Tally:
    """Emit what a feed holds, going on where it was left; what is wrong with one line does not stop the others.

    Args:
        runtime: entered already.
        feed: the lines.
        fresh: the store holds no receipts yet, so there is no need to look for them.
        told: told of each line.

    Raises:
        StoreFull, StoreUnavailable, StoreCorrupt: the store fails, and would for each further line.
    """
    tally = Tally()
    known = _Known(runtime.store, 0 if fresh or feed.path is None else await last_handled(runtime.store, feed))
    async for line in feed.lines():
        tally.lines += 1
        if line.event is None:
            assert line.fault is not None  # noqa: S101 - a line holds an event or a fault
            tally.faults.append((line.number, line.fault))
            told(line, None, line.fault)
        elif line.number <= known.until or (feed.path is None and not fresh and await known.has(line.event)):
            tally.handled += 1
            told(line, None, None)
        else:
            try:
                receipt = await runtime.emit(line.event)
            except _FATAL:
                raise
            except PoundlockError as error:
                tally.faults.append((line.number, error))
                told(line, None, error)
            else:
                tally.took(receipt)
                told(line, receipt, None)
    return tally


async def last_handled(store: Store, feed: Feed) -> int:
    """Return the number of the last line that has a receipt, 0 if none has.

    An event that stands in the feed twice has one receipt, which says nothing of its second line: that one is left out.
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
    """What was handled before: everything up to a line of a file; for a stream, what has a receipt from before."""

    LARGEST = 100_000
    """Events of a stream that are known to be its own; one that is repeated later than that counts as handled."""

    def __init__(self, store: Store, until: int) -> None:
        self.until = until
        self._store = store
        self._own: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def has(self, event: Event) -> bool:
        """Whether an event of a stream has a receipt that was not given while this stream was read."""
        key = (event.source, event.id)
        if key in self._own:
            return False
        known = await self._store.receipt(*key) is not None
        if not known:
            self._own[key] = None
            if len(self._own) > self.LARGEST:  # a stream may never end
                self._own.popitem(last=False)
        return known


async def come_to_rest(runtime: WorkflowRuntime, timeout: float) -> bool:
    """Return once no run of the runtime's workflows moves by itself: True; or False when the time is up.

    A run rests when it has ended, is paused, waits in a queue behind such a run, or is delayed beyond the timeout.
    """
    clock = runtime.clock
    ends = clock.monotonic() + timeout
    while await _moving(runtime, clock.now() + ends - clock.monotonic()):
        left = ends - clock.monotonic()
        if left <= 0:
            return False
        await sleep_for(clock, min(left, _LOOK_EVERY))
    return True


async def _moving(runtime: WorkflowRuntime, deadline: float) -> bool:
    # All in one look: between two, a delayed run could become a running one and be seen by neither.
    async for info in every(runtime, RunStatus.RUNNING, RunStatus.READY, RunStatus.DELAYED):
        later = info.status is RunStatus.DELAYED and info.wake_at is not None and info.wake_at > deadline
        if not later and runtime.has_workflow(info.workflow_id):
            return True
    return False


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
    """Return the receipts by workflow and verdict, without those nobody wanted."""
    grouped: dict[str, dict[str, int]] = {}
    for (workflow, verdict), number in tally.verdicts.items():
        if workflow is not None:
            grouped.setdefault(workflow, {})[str(verdict)] = number
    return grouped


def unmatched(tally: Tally) -> int:
    """Return how many events nobody wanted."""
    return tally.verdicts[(None, Verdict.UNMATCHED)]
