"""The JSON shapes that the command line and the web print; stable: fields are added, neither renamed nor removed.

Times are seconds since 1970 UTC; what is absent is null. docs/how-to/command-line.md lists them.
"""

from __future__ import annotations

from typing import Any

from poundlock.model.events import Event
from poundlock.model.runs import RunError, RunInfo, WaitInfo
from poundlock.model.timeline import Timeline
from poundlock.runtime.receipts import Receipt


def wait_shape(wait: WaitInfo) -> dict[str, Any]:
    """Return a wait."""
    return {
        "id": wait.id,
        "events": list(wait.events),
        "where": [{"field": at.field, "op": at.op, "value": at.value} for at in wait.where],
        "correlate": dict(wait.correlate),
        "parked": wait.parked,
        "expires_at": wait.expires_at,
        "resume_at": wait.resume_at,
    }


def error_shape(error: RunError | None) -> dict[str, Any] | None:
    """Return why a run failed; the traceback text is part of `runs show` only."""
    if error is None:
        return None
    return {
        "type": error.type,
        "message": error.message,
        "code": error.code,
        "stage": error.stage,
        "step": error.step,
    }


def run_shape(info: RunInfo) -> dict[str, Any]:
    """Return a run as lists show it."""
    return {
        "run_id": info.run_id,
        "workflow_id": info.workflow_id,
        "pipeline_id": info.pipeline_id,
        "trigger_id": info.trigger_id,
        "status": str(info.status),
        "stage": info.stage,
        "key": info.key,
        "attempt": info.attempt,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
        "wake_at": info.wake_at,
        "parent_id": info.parent_id,
        "lineage": list(info.lineage),
        "waits": [wait_shape(wait) for wait in info.waits],
        "error": error_shape(info.error),
    }


def event_shape(event: Event) -> dict[str, Any]:
    """Return an event without its payload."""
    return {"id": event.id, "type": event.type, "source": event.source, "time": event.time, "key": event.key}


def receipt_shape(number: int, receipt: Receipt) -> dict[str, Any]:
    """Return the receipt of a line of a feed."""
    return {"line": number, **receipt.to_dict()}


def timeline_shape(timeline: Timeline) -> dict[str, Any]:
    """Return a timeline."""
    return {"run_id": timeline.run_id, "entries": [entry.to_dict() for entry in timeline.entries]}
