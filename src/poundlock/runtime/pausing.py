"""Which waiting runs an event is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from poundlock.model.runs import RunRecord, WaitRow
from poundlock.pipeline.writing import creation_of
from poundlock.runtime.runs import ensure_written

if TYPE_CHECKING:
    from poundlock.model.events import Event
    from poundlock.runtime.core import Core, LiveRun


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run the event was looked up to, and those of its waits whose conditions match too."""

    record: RunRecord
    hit: tuple[WaitRow, ...]


async def waiting_for(core: Core, event: Event, *, dry: bool = False) -> list[Waiting]:
    """Return the runs with a wait for this event; `hit` is empty where only its conditions refuse.

    Invoked runs that were not written yet are written first, so that what is for them has a place to go; `dry` only
    looks.
    """
    found = []
    for live in list(core.unwritten.values()):
        if any(row.matches(event) for row in live.run.waits):
            if dry:
                found.append(_unwritten(live, event))
            else:
                await ensure_written(core, live)
    for record in await core.store.match_waits(event):
        live_run = core.live.get(record.identity.run_id)
        if live_run is not None and live_run.gate is not None:
            await live_run.gate.wait()  # it tries to stop and was refused often: let it stop first
        found.append(Waiting(record, tuple(row for row in record.waits if row.matches(event))))
    return found


def _unwritten(live: LiveRun, event: Event) -> Waiting:
    run = live.run
    [create] = creation_of(run).creates
    return Waiting(
        RunRecord(run.identity, create.head, run.waits), tuple(row for row in run.waits if row.matches(event))
    )
