"""Reading: runs as others see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from poundlock.codecs import load
from poundlock.errors import RunAborted
from poundlock.model.drafts import maker_of
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import (
    Checkpoint,
    RunError,
    RunIdentity,
    RunInfo,
    RunRecord,
    RunResult,
    WaitInfo,
    WaitRow,
    parked_waits,
    wait_info,
)
from poundlock.model.views import StateView
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.outcome import Aborted, Completed, Failed, Outcome, Paused

if TYPE_CHECKING:
    from poundlock.runtime.core import Core


_make: Final = maker_of(RunResult)


def info_of_record(record: RunRecord) -> RunInfo:
    """Return a stored run as others see it."""
    return _info(record.identity, record.head, record.waits, outcome_of(record.head.outcome)[1])


def info_of_run(run: ActiveRun) -> RunInfo:
    """Return a run in this process's memory as others see it."""
    return _info(run.identity, run, run.waits, None)


class _Head(Protocol):
    """What a stored run's head and a run in memory have in common."""

    status: RunStatus
    stage: str | None
    attempt: int
    updated_at: float
    wake_at: float | None


def _info(identity: RunIdentity, head: _Head, waits: tuple[WaitRow, ...], error: RunError | None) -> RunInfo:
    return RunInfo(
        run_id=identity.run_id,
        workflow_id=identity.workflow_id,
        pipeline_id=identity.pipeline_id,
        status=head.status,
        stage=head.stage,
        key=identity.key,
        attempt=head.attempt,
        waits=tuple(wait_info(row) for row in waits),
        created_at=identity.created_at,
        updated_at=head.updated_at,
        parent_id=identity.parent_id,
        lineage=identity.lineage,
        error=error,
        trigger_id=identity.trigger_id,
        wake_at=head.wake_at,
    )


def outcome_of(text: str | None) -> tuple[Any, RunError | None]:
    """Return the result and the error a run's head records."""
    if text is None:
        return None, None
    record = load(text)
    error = record.get("error")
    return record.get("result"), None if error is None else RunError(**error)


def result_of(core: Core, run: ActiveRun, status: RunStatus, outcome: Outcome) -> RunResult:
    """Return what driving a run came to, for those who wait for it."""
    result, error = None, None
    waits: tuple[WaitInfo, ...] = ()
    if isinstance(outcome, Completed):
        result = outcome.result
    elif isinstance(outcome, Failed):
        error = outcome.error
    elif isinstance(outcome, Aborted):
        error = aborted_error(outcome.reason, outcome.by)
    elif isinstance(outcome, Paused):
        waits = parked_waits(run.waits)
    return _make(
        run.identity.run_id,
        run.identity.workflow_id,
        status,
        run.view(),
        result,
        error,
        waits,
        metadata(core, run.attempt),
    )


def result_of_checkpoint(core: Core, checkpoint: Checkpoint) -> RunResult:
    """Return what a stored run came to."""
    record = checkpoint.record
    result, error = outcome_of(record.head.outcome)
    entry = core.entries.get(record.identity.workflow_id)
    model = entry.definition.state if entry is not None else None
    state = StateView(checkpoint.state) if model is None else model.model_validate(checkpoint.state)  # type: ignore[attr-defined]  # a pydantic model, checked at register
    return RunResult(
        run_id=record.identity.run_id,
        workflow_id=record.identity.workflow_id,
        status=record.head.status,
        state=state,
        result=result,
        error=error,
        waits=parked_waits(record.waits) if record.head.status is RunStatus.PAUSED else (),
        metadata=metadata(core, record.head.attempt),
    )


def aborted_error(reason: str, by: str) -> RunError:
    """Return the error of an aborted run: who and why."""
    told = f" by {by}" if by else ""
    return RunError("RunAborted", f"aborted{told}: {reason}" if reason else f"aborted{told}", RunAborted.code)


def metadata(core: Core, attempt: int) -> Mapping[str, Any]:
    """Return what else is worth knowing of a result."""
    return {"attempt": attempt, "durability": core.store.durability}
