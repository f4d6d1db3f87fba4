"""Why a waiting run does not get an event whose type it waits for, in a sentence: for receipts, and for `explain`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from poundlock.model.conditions import Condition
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.patterns import type_matches
from poundlock.model.receipts import ReceiptLine, Verdict
from poundlock.model.runs import RunIdentity, RunQuery, WaitRow
from poundlock.runtime.core import Core
from poundlock.runtime.dispatch import masks_of, unmet
from poundlock.sensitive import Masks

LOOKED_AT: Final = 500
"""Runs that `explain` looks at, the newest ones."""
SHOWN: Final = 10
"""Runs that it tells of."""
_WAITING: Final = (RunStatus.RUNNING, RunStatus.READY, RunStatus.PAUSED, RunStatus.DELAYED)


def why_not(rows: Iterable[WaitRow], event: Event, masks: Masks) -> str:
    """Return which wait does not match, by which condition or correlated path, and what was seen there.

    Of several waits one that is correlated with the event comes first. Empty: the event's type fits none. `masks`:
    where sensitive values are in events of the run; these are not told.
    """
    of_others = ""
    for row in rows:
        if row.own or not any(type_matches(pattern, event.type) for pattern in row.events):
            continue
        elsewhere = unmet([Condition(path, "==", value) for path, value in row.correlate], event.payload, masks)
        if elsewhere:
            of_others = of_others or f"wait {row.wait_id}: {elsewhere}"
            continue
        found = unmet(row.where, event.payload, masks)
        if found or not row.early:
            return f"wait {row.wait_id}: {found or 'not asked yet'}"
    return of_others


async def near_misses(core: Core, event: Event, lines: Sequence[ReceiptLine]) -> list[ReceiptLine]:
    """Return a line for each of the newest runs that wait for such an event, but not for this one.

    `emit` has none for them: it finds the runs of an event by its correlated values, and does not look at others.

    Args:
        core: of the runtime.
        event: the event.
        lines: what is said of it already.
    """
    told = {line.run_id for line in lines}
    page = await core.store.find(RunQuery(status=_WAITING, limit=LOOKED_AT))
    waiting: list[tuple[RunIdentity, Sequence[WaitRow]]] = [
        (live.run.identity, live.run.waits) for live in core.runs.unwritten()
    ]
    waiting += [(record.identity, record.waits) for record in page.items]
    found = []
    for identity, rows in waiting:
        masks = masks_of(core.entries.get(identity.workflow_id), identity.pipeline_id)
        reason = why_not(rows, event, masks) if identity.run_id not in told else ""
        if reason:
            told.add(identity.run_id)
            found.append(ReceiptLine(Verdict.FILTERED, identity.workflow_id, None, identity.run_id, reason))
            if len(found) == SHOWN:
                break
    return found
