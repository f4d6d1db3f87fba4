"""A queued run that gives up its place to a newer one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poundlock.codecs import dump
from poundlock.errors import LoadMoved
from poundlock.model.changes import RunMove
from poundlock.model.lifecycle import RunStatus, check_move
from poundlock.model.runs import LogRow, RunRecord
from poundlock.runtime.settle import outcome_text
from poundlock.runtime.views import aborted_error

if TYPE_CHECKING:
    from poundlock.runtime.core import Core


def ending(record: RunRecord, *, reason: str, by: str, now: float, timeline: bool) -> RunMove:
    """Return the move that aborts a run nobody drives, on the version that was read."""
    identity, head = record.identity, record.head
    check_move(head.status, RunStatus.ABORTED)
    payload = dump({"reason": reason, "by": by})
    text = f'[[{now!r},"pipeline","pipeline:abort",{dump(identity.pipeline_id)},{payload},null]]'
    return RunMove(
        run_id=identity.run_id,
        version=head.version,
        epoch=head.epoch,
        inbox=None,
        status=RunStatus.ABORTED,
        owner=None,
        new_epoch=head.epoch + 1,
        stage=head.stage,
        attempt=head.attempt,
        wake_at=None,
        outcome=outcome_text(aborted_error(reason, by)),
        slot=False,
        updated_at=now,
        log=LogRow(head.log_seq + 1, 1, text) if timeline else None,
    )


async def superseding(core: Core, old: str, new: str) -> RunMove:
    """Return the move that ends the waiting run `old` because `new` takes its place.

    Raises:
        LoadMoved: it does not wait any more; the decision has to be made again.
    """
    record = await core.store.load(old)
    if record is None or record.head.status is not RunStatus.QUEUED:
        raise LoadMoved(f"run '{old}' does not wait any more: read the load again")
    return ending(record, reason=f"superseded by run {new}", by="mode", now=core.clock.now(), timeline=core.timeline)
