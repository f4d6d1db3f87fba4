"""Outcome: the result of driving a run, and how a run gets one. A closed union; control returns only by this value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from poundlock.codecs import dump, pack
from poundlock.errors import RunAborted, RunLost, StepFailed
from poundlock.guard import as_raised, describe, traceback_text
from poundlock.model.runs import UNDO_WAIT, RunError, WaitRow, own_row
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.inbox import note_event
from poundlock.pipeline.visit_left import note_left
from poundlock.records import dataclass


@dataclass(slots=True)
class Completed:
    """The last stage is done, or a router terminated the run with `result` (already detached)."""

    result: Any = None


@dataclass(slots=True)
class Paused:
    """The run is paused at this wait."""

    wait: WaitRow


@dataclass(slots=True)
class Delayed:
    """The run continues at `until` (seconds since 1970)."""

    until: float


@dataclass(slots=True)
class Failed:
    """A step failed for good, a wait expired, or a router returned Fail."""

    error: RunError


@dataclass(slots=True)
class Aborted:
    """The run's abort was requested."""

    reason: str
    by: str


@dataclass(slots=True)
class Released:
    """The runtime stops; the run was released at a boundary and continues elsewhere or later."""


@dataclass(slots=True)
class Halted:
    """The run is paused at this wait with an error: its state does not fit its model, or a stage failed."""

    wait: WaitRow
    error: RunError


_FAIL: Final = "fail"
_ABORT: Final = "abort"

Outcome = Completed | Paused | Delayed | Failed | Aborted | Released | Halted


def complete(run: ActiveRun, result: Any) -> Outcome:
    """End the run as completed."""
    decoded = None if result is None else pack(result)[0]
    run.stage = None
    if run.buffer or run.backlog or run.inbox:
        _expire_buffer(run)
    if run.journal.full:
        run.journal.put(run.clock.now(), run.plan.success_entry)
    return Completed(decoded)


def failed(run: ActiveRun, error: RunError, path_json: str) -> Outcome:
    """Note that the run fails; `ended` notes its end."""
    payload = dump({"type": error.type, "message": error.message, "code": error.code})
    run.journal.add(run.clock.now(), "pipeline", "stage:failure", path_json, payload)
    return Failed(error)


def aborted(run: ActiveRun) -> Outcome:
    """Return that the run is aborted; `ended` notes its end."""
    request = run.abort or {}
    return Aborted(str(request.get("reason", "")), str(request.get("by", "")))


def ended(run: ActiveRun, outcome: Failed | Aborted) -> None:
    """Note that the run ends like this."""
    _expire_buffer(run)
    if run.waits:
        note_left(run.journal, run.clock.now(), run.plan.path_json, run.waits)
    kind: str
    detail: dict[str, str | None]
    if isinstance(outcome, Failed):
        error = outcome.error
        kind, detail = "pipeline:failure", {"type": error.type, "message": error.message, "code": error.code}
    else:
        kind, detail = "pipeline:abort", {"reason": outcome.reason, "by": outcome.by}
    run.journal.add(run.clock.now(), "pipeline", kind, run.plan.path_json, dump(detail))


def decide(run: ActiveRun, outcome: Failed | Aborted) -> None:
    """Note, in place of the run's waits, how it ends once its stages are undone: that survives a crash with them."""
    if isinstance(outcome, Failed):
        way, detail = _FAIL, asdict(outcome.error)
    else:
        way, detail = _ABORT, {"reason": outcome.reason, "by": outcome.by}
    run.waits = (own_row(UNDO_WAIT, epoch=run.version + 1, on_timeout=way, patch=detail),)


def lose(run: ActiveRun) -> None:
    """Note that a run ends as lost: its owner died, and nothing was written that it could go on from."""
    error = RunLost(
        f"run '{run.run_id}' was under way when its process ended, and its workflow keeps nothing to go on from: "
        f"start it again, or give the workflow another durability",
        run_id=run.run_id,
    )
    decide(run, Failed(run_error(error, run.stage, None)))


def decided(run: ActiveRun) -> Failed | Aborted | None:
    """Return how a run ends that is being undone; None for all others."""
    row = run.undoing
    if row is None:
        return None
    assert isinstance(row.patch, Mapping)  # noqa: S101 - written above
    return Failed(RunError(**row.patch)) if row.on_timeout == _FAIL else Aborted(**row.patch)


def failure_of_outcome(run: ActiveRun, outcome: Outcome | None) -> BaseException | None:
    """Return the error that services see when they are closed after this outcome; None if nothing failed."""
    if isinstance(outcome, Failed):
        if run.failure is None:
            return StepFailed(str(outcome.error), path=outcome.error.stage)
        return as_raised(run.failure)
    if isinstance(outcome, Aborted):
        return RunAborted(f"run '{run.run_id}' was aborted: {outcome.reason or 'no reason given'}")
    return None


def _expire_buffer(run: ActiveRun) -> None:
    """Record buffered events that were never used: they end with the run."""
    # An abort does not wait for the next boundary: messages since the last one end here too.
    left = {message.seq: message for message in (*run.buffer, *run.backlog, *run.inbox)}
    for message in left.values():
        note_event(run, "wait:expired", message)


def run_error(error: BaseException, stage: str | None, step: str | None, attempt: int = 1) -> RunError:
    """Return an error as it is stored with a run."""
    said = describe(error)
    return RunError(said.type, said.message, said.code, stage, step, traceback_text(error), attempt)
