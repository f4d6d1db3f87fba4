"""What needs somebody's attention in a store: runs paused with an error, and runs that nothing moves on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from poundlock.model.lifecycle import RunStatus
from poundlock.model.moments import utc_text
from poundlock.model.operator_pause import WorkflowPause, pause_in
from poundlock.model.runs import RunRecord
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.ports import Store
from poundlock.records import dataclass, field
from poundlock.runtime.checking import Misfit, active_runs, misfits
from poundlock.runtime.reading import outcome_of

LATE: Final = 60.0
"""Seconds after which a run that could go on should have been taken by a runtime that is at work."""
SILENT: Final = 3600.0
"""Seconds after which a run that is running should have committed something."""
OVERDUE, UNCLAIMED, NO_PROGRESS = "OVERDUE", "UNCLAIMED", "NO_PROGRESS"


@dataclass(slots=True)
class Diagnosis:
    """What was found.

    Attributes:
        active: how many runs have not ended.
        errors: runs that are paused with an error, by its code.
        stuck: runs that nothing moves on, by reason; all of them may only wait for a runtime to be started.
        misfits: runs that could not go on with the given definitions, by code.
        pauses: what operators have paused, besides single runs: workflows, or all of them.
    """

    active: int = 0
    errors: list[Misfit] = field(default_factory=list)
    stuck: list[Misfit] = field(default_factory=list)
    misfits: list[Misfit] = field(default_factory=list)
    pauses: list[WorkflowPause] = field(default_factory=list)


async def diagnose(store: Store, now: float, definitions: Mapping[str, WorkflowDefinition] | None) -> Diagnosis:
    """Look at every run that has not ended; nothing is written.

    Args:
        store: an open store; to be read is enough.
        now: the time, in seconds since 1970.
        definitions: those that runs should go on with; None: that is not looked at.
    """
    found = Diagnosis()
    found.pauses = await store.pauses()
    pauses = {pause.workflow_id: pause for pause in found.pauses}
    async for record in active_runs(store):
        found.active += 1
        found.errors += _error(record)
        if pause_in(pauses, record.identity.workflow_id) is None:  # else an operator keeps it from going on
            found.stuck += _stuck(record, now)
        if definitions is not None:
            found.misfits += await misfits(store, record, definitions)
    return found


def _error(record: RunRecord) -> list[Misfit]:
    if record.head.status is not RunStatus.PAUSED:
        return []
    error = outcome_of(record.head.outcome)[1]
    return [] if error is None else [_of(record, error.code or error.type, error.message)]


def _stuck(record: RunRecord, now: float) -> list[Misfit]:
    head = record.head
    if head.status in (RunStatus.PAUSED, RunStatus.DELAYED) and head.wake_at is not None:
        if now - head.wake_at > LATE:
            return [_of(record, OVERDUE, f"it was to go on at {_text(head.wake_at)}")]
    elif head.status is RunStatus.READY and now - head.updated_at > LATE:
        return [_of(record, UNCLAIMED, f"no runtime that has its workflow took it since {_text(head.updated_at)}")]
    elif head.status is RunStatus.RUNNING and now - head.updated_at > SILENT:
        return [_of(record, NO_PROGRESS, f"it has committed nothing since {_text(head.updated_at)}")]
    return []


def _text(moment: float) -> str:
    return utc_text(moment, " ", "seconds").removesuffix("+00:00")


def _of(record: RunRecord, code: str, text: str) -> Misfit:
    identity, head = record.identity, record.head
    return Misfit(identity.run_id, identity.workflow_id, head.status, head.stage, code, text)
