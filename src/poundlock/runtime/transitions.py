"""Moves of runs without an owner task, as commands write them."""

from __future__ import annotations

from collections.abc import Mapping

from poundlock.codecs import dump
from poundlock.errors import LoadMoved, RunDamaged
from poundlock.model.calls import sums_in, with_sums
from poundlock.model.changes import RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import RunError, RunRecord
from poundlock.pipeline.journal import Journal, event_payload
from poundlock.pipeline.memo import has_children
from poundlock.pipeline.undo_log import due
from poundlock.pipeline.visit_left import note_left
from poundlock.runtime.core import Core
from poundlock.runtime.loads import Pair
from poundlock.runtime.reading import aborted_error


async def ending(core: Core, record: RunRecord, *, reason: str, by: str) -> RunMove:
    """Return the move that aborts a run without an owner task, on the version and with the inbox that were read."""
    detail = {"reason": reason, "by": by}
    return await _ended(core, record, RunStatus.ABORTED, "pipeline:abort", detail, aborted_error(reason, by))


async def failing(core: Core, record: RunRecord, error: RunError) -> RunMove:
    """Return the move that fails a run without an owner task, on the version and with the inbox that were read."""
    detail = {"type": error.type, "message": error.message, "code": error.code}
    return await _ended(core, record, RunStatus.FAILED, "pipeline:failure", detail, error)


async def _ended(
    core: Core, record: RunRecord, status: RunStatus, kind: str, detail: Mapping[str, str | None], error: RunError
) -> RunMove:
    identity, head = record.identity, record.head
    now = core.clock.now()
    journal = Journal(full=core.timeline)
    path = dump(identity.pipeline_id)
    for message in await core.store.inbox(identity.run_id, 0) if head.inbox_seq else ():
        if message.event is not None:
            journal.add(now, "pipeline", "wait:expired", path, event_payload(message.event.event))
    note_left(journal, now, path, record.waits)
    journal.add(now, "pipeline", kind, path, dump(detail))
    outcome = with_sums(outcome_text(error), sums_in(record.waits))
    return RunMove.of(record, status, now=now, guard_inbox=True, outcome=outcome, log=journal.row(head.log_seq + 1))


async def superseding(core: Core, pair: Pair, old: str, new: str) -> RunMove:
    """Return the move that ends the waiting run `old` because `new` takes its place in the queue of `pair`.

    Raises:
        LoadMoved: it is no longer queued; the decision has to be made again.
    """
    record = core.loads.queued_last(pair, old) or await core.store.load(old)
    if record is None or record.head.status is not RunStatus.QUEUED:
        raise LoadMoved(
            f"run '{old}' is no longer queued: read the load again",
            workflow_id="" if record is None else record.identity.workflow_id,
        )
    return await ending(core, record, reason=f"superseded by run {new}", by="mode")


async def has_more_to_do(core: Core, record: RunRecord) -> bool:
    """Whether a run has to be driven before it can be aborted: to abort its children, or to undo its stages."""
    entry = core.entries.get(record.identity.workflow_id)
    plan = None if entry is None or entry.closing else entry.plans.get(record.identity.pipeline_id)
    if plan is not None and has_children(record.waits):
        return True
    if plan is None or not plan.undoes or not plan.undo_on_abort or record.head.status is RunStatus.QUEUED:
        return False
    try:
        return bool(due(await core.store.history(record.identity.run_id)))
    except RunDamaged:
        return False  # what is to be undone cannot be known any more


def release_move(record: RunRecord, now: float, *, begun: bool) -> RunMove:
    """Return the move that releases a run without a task; a `begun` run counts as recovered when claimed.

    Its wake time stays: where it has one, that is why it goes on.
    """
    head = record.head
    return RunMove.of(record, RunStatus.READY, now=now, owner=head.owner if begun else None, wake_at=head.wake_at)


def outcome_text(error: RunError) -> str:
    """Return an error as a run's head records it."""
    return dump({"error": _plain(error)})


def _plain(error: RunError) -> dict[str, str | int | None]:
    return {
        "type": error.type,
        "message": error.message,
        "code": error.code,
        "stage": error.stage,
        "step": error.step,
        "traceback": error.traceback,
        "attempt": error.attempt,
    }
