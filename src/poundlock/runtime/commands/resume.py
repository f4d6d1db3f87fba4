"""Resuming a paused run by hand. Of any number who try, exactly one wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from poundlock.errors import NotPaused, PoundlockError, StaleResume, StaleVersion
from poundlock.model.changes import Changes, RunMove
from poundlock.model.lifecycle import RunStatus, check_move
from poundlock.model.runs import LogRow, RunRecord, RunResult, WaitRow
from poundlock.pipeline.boundary import resume_by_hand
from poundlock.pipeline.journal import Journal
from poundlock.runtime.commands.execute import rest_of, start
from poundlock.runtime.commands.signal import as_patch
from poundlock.runtime.core import Core, LiveRun
from poundlock.runtime.runs import restored_run
from poundlock.runtime.views import result_of_checkpoint
from poundlock.stores.answers import finished, not_found


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with a paused run.

    Args:
        patch: merged into its state; None merges nothing.
        wait: id of the wait that is answered; None means the one it stands at as this call enters.
    """

    run_id: str
    patch: Mapping[str, Any] | None = None
    wait: str | None = None


async def resume(core: Core, command: Resume) -> RunResult:
    """Handle `Resume`; returns at the next pause or the end. Where the workflow is unknown, the run is left `ready`.

    Raises:
        RunNotFound, RunFinished: there is nothing to resume.
        NotPaused: the run is not waiting, or somebody else resumed it first.
        StaleResume: the wait that was meant has been answered; the run waits for something else now.
        NotStorable, StateInvalid: the patch does not fit; nothing was changed.
    """
    core.check_accepting()
    patch = None if command.patch is None else as_patch(command.patch)
    epoch: int | None = None
    while True:
        live = core.unpark(command.run_id)
        try:
            if live is not None:
                row = live.run.parked
                assert row is not None  # noqa: S101 - only runs that stand at a wait are kept as parked
                _check_wait(command, row, epoch)
            else:
                record = await core.store.load(command.run_id)
                row = _standing(command, record, epoch)
                assert record is not None  # noqa: S101 - refused otherwise
                if record.identity.workflow_id not in core.entries:
                    return await _leave_ready(core, patch, record, row)
                live = await _restore(core, command)
            epoch = row.epoch
            return await _take(core, live, row, patch)
        except StaleVersion:
            continue  # somebody was quicker, or the run got a signal: see what it stands at now
        except PoundlockError:
            if live is not None and live.run.parked is not None:
                core.keep_parked(live)
            raise


async def _restore(core: Core, command: Resume) -> LiveRun:
    checkpoint = await core.store.checkpoint(command.run_id)
    if checkpoint is None:
        raise not_found(command.run_id)
    entry = core.entry(checkpoint.record.identity.workflow_id)
    return LiveRun(restored_run(core, entry, checkpoint), entry)


async def _take(core: Core, live: LiveRun, row: WaitRow, patch: dict[str, Any] | None) -> RunResult:
    """The winning commit: patch, position and ownership at once."""
    run = live.run
    standing = run.position()
    resume_by_hand(run, row, patch)
    changes = run.changes(RunStatus.RUNNING, slot=run.identity.load_key is not None)
    changes.moves[0].new_epoch = run.epoch + 1
    try:
        await core.store.commit(changes)
    except BaseException:
        run.restore(standing, ())
        raise
    run.committed(changes)
    live.resumed = True
    waiter = rest_of(live)
    start(core, live)
    return await waiter


def _standing(command: Resume, record: RunRecord | None, epoch: int | None) -> WaitRow:
    """Return the wait a stored run stands at, if it is the one that is meant."""
    if record is None:
        raise not_found(command.run_id)
    status = record.head.status
    if status.terminal:
        raise finished(command.run_id, status)
    row = next((row for row in record.waits if row.parked), None)
    if status is not RunStatus.PAUSED or row is None:
        raise NotPaused(
            f"run '{command.run_id}' is {status}, not paused: wait until it pauses, or send it a signal",
            run_id=command.run_id,
            status=status,
        )
    _check_wait(command, row, epoch)
    return row


def _check_wait(command: Resume, row: WaitRow, epoch: int | None) -> None:
    if (command.wait is not None and command.wait != row.wait_id) or (epoch is not None and epoch != row.epoch):
        raise StaleResume(
            f"run '{command.run_id}' waits for '{row.wait_id}' now: look at it again before answering",
            run_id=command.run_id,
            wait=row.wait_id,
        )


async def _leave_ready(core: Core, patch: dict[str, Any] | None, record: RunRecord, row: WaitRow) -> RunResult:
    """Resume a run whose workflow is unknown here: whoever registers it goes on."""
    identity, head = record.identity, record.head
    check_move(head.status, RunStatus.READY)
    now = core.clock.now()
    left = tuple(other._replace(parked=False, expires_at=None) if other is row else other for other in record.waits)
    move = RunMove(
        run_id=identity.run_id,
        version=head.version,
        epoch=head.epoch,
        inbox=None,
        status=RunStatus.READY,
        owner=None,
        new_epoch=head.epoch + 1,
        stage=row.resume_at,
        attempt=head.attempt,
        wake_at=None,
        outcome=None,
        slot=head.slot,
        updated_at=now,
        log=_log(core, record, patch, now),
        waits=left,
    )
    await core.store.commit(Changes(moves=(move,), now=now))
    checkpoint = await core.store.checkpoint(identity.run_id)
    assert checkpoint is not None  # noqa: S101 - just written
    return result_of_checkpoint(core, checkpoint)


def _log(core: Core, record: RunRecord, patch: dict[str, Any] | None, now: float) -> LogRow | None:
    from poundlock.codecs import dump

    journal = Journal(full=core.timeline)
    path = dump(record.identity.pipeline_id)
    journal.add(now, "pipeline", "pipeline:resume", path, dump({"reason": "api"}))
    if patch:
        journal.add(now, "state", "state:patch", path, "null", dump(patch))
    return journal.row(record.head.log_seq + 1)
