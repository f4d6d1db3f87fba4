"""A run as Changes, and back: the contents of its commits, and its update from a commit or a checkpoint."""

from __future__ import annotations

from poundlock.codecs import dump
from poundlock.model.changes import Changes, RunCreate, RunMove
from poundlock.model.drafts import new_tuple
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import Checkpoint, LogRow, Message, RunHead, RunRecord, StoredEvent, WaitRow
from poundlock.model.visits import read_visits
from poundlock.pipeline.active import JUMPED, SMALLEST_SNAPSHOT, ActiveRun

_RUNNING = RunStatus.RUNNING  # the look-up of an enum member costs more than the comparison


def admission_of(run: ActiveRun, status: RunStatus) -> RunCreate:
    """Return the creation of this run, for the commit of its event: running, or queued without an owner."""
    now = run.identity.created_at
    if status is RunStatus.QUEUED:
        run.journal.add(now, "dispatch", "run:queued", run.plan.path_json)
    log = run.journal.row(1)
    running = status is _RUNNING
    owner = run.owner if running else None
    size = 0 if log is None else log.size
    head = RunHead(status, 1, owner, run.epoch, run.stage, run.attempt, None, None, running and run.slot, 0, size, now)
    return RunCreate(run.identity, head, log, run.waits)


def creation_of(run: ActiveRun) -> Changes:
    """Return the changes that write this run as it was before its first stage began: without a boundary.

    Entries of the stage so far are left for its boundary; a crash repeats them.
    """
    now = run.identity.created_at
    log = run.journal.row(1, run.entered_at or None)
    return _creation(run, RunStatus.RUNNING, None, None, slot=run.slot, now=now, waits=run.waits, log=log)


def changes_of(
    run: ActiveRun,
    status: RunStatus,
    *,
    wake_at: float | None = None,
    outcome: str | None = None,
    slot: bool | None = None,
    guard_inbox: bool = False,
) -> Changes:
    """Return the changes of a boundary: the run as it is now, at `status`.

    Args:
        status: the run's status from then on.
        wake_at: when it is due, for paused and delayed runs.
        outcome: JSON text of its result or error, at the end.
        slot: whether it counts as active from then on; None leaves that unchanged.
        guard_inbox: refuse (`InboxAhead`) if messages came that this process has not seen.
    """
    now = run.clock.now()
    if slot is None:
        slot = run.slot
    ended = status is not _RUNNING and status.terminal
    waits = () if ended else run.waits
    if not run.written:
        log = run.journal.row(1)
        return _creation(run, status, wake_at, outcome, slot=slot, now=now, waits=waits, log=log)
    log, snapshot = run.journal.row(run.log_seq + 1), None
    # A snapshot once the deltas outweigh the state: amortised O(n) storage, and a bounded fold on load.
    if log is not None:
        run.log_size += len(log.text)  # counted twice if this is refused: then a snapshot only comes earlier
        if run.log_size > run.snapshot_size and not ended:
            snapshot = dump(run.state)
    epoch = run.epoch
    move = new_tuple(
        RunMove,
        (
            run.identity.run_id,
            run.version,
            epoch,
            run.inbox_seen if guard_inbox else None,
            status,
            run.owner if status is _RUNNING else None,
            epoch,
            run.stage,
            run.attempt,
            wake_at,
            outcome,
            slot,
            now,
            log,
            None if ended or waits is run.stored_waits else waits,
            tuple(run.consumed) if run.consumed else (),
            snapshot,
            run.walk if run.walk != JUMPED else dump(run.visits),
        ),
    )
    return Changes.of_move(move, now)


def _creation(
    run: ActiveRun,
    status: RunStatus,
    wake_at: float | None,
    outcome: str | None,
    *,
    slot: bool,
    now: float,
    waits: tuple[WaitRow, ...],
    log: LogRow | None,
) -> Changes:
    head = RunHead(
        status,
        1,
        run.owner if status is _RUNNING else None,
        run.epoch,
        run.stage,
        run.attempt,
        wake_at,
        outcome,
        slot,
        0,
        0 if log is None else log.size,
        now,
        run.walk if run.walk != JUMPED else dump(run.visits),
    )
    event = StoredEvent(run.identity.event_ref, run.event)
    return Changes.of_creation(RunCreate(run.identity, head, log, waits), event, now)


def take_commit(run: ActiveRun, changes: Changes) -> None:
    """Update the run after a commit of `changes`."""
    run.registered = None
    if run.state_store is not None:
        run.state_store.adopt(run.state)
    if changes.creates:
        take_creation(run, changes.creates[0])
        return
    move = changes.moves[0]
    log = move.log
    run.version += 1
    run.epoch = move.new_epoch
    run.status = move.status
    run.slot = move.slot
    run.updated_at = move.updated_at
    run.wake_at = move.wake_at
    run.stored_stage = move.stage
    run.stored_outcome = move.outcome
    if log is not None:
        run.log_seq += log.size
        run.journal.forget(log.size)
        if move.snapshot is not None:
            _snapshot_taken(run, 0, len(move.snapshot))
    if move.waits is not None:
        run.stored_waits = move.waits
    if move.consumed:
        run.consumed.clear()


def take_resumption(run: ActiveRun, now: float) -> None:
    """Update the run after another task's commit at `now` resumed it for this process."""
    run.version += 1
    run.epoch += 1
    run.status = _RUNNING
    run.stored_outcome = None
    run.slot = run.identity.load_key is not None
    run.wake_at = None
    run.returning = True
    run.updated_at = now


def take_creation(run: ActiveRun, create: RunCreate) -> None:
    """Update the run after it was stored for the first time."""
    _, head, log, waits = create
    run.written = True
    run.version = 1
    run.stored_waits = waits
    run.stored_stage = head.stage
    run.stored_outcome = head.outcome
    run.log_seq = head.log_seq
    run.status = head.status
    run.slot = head.slot
    run.updated_at = head.updated_at
    run.wake_at = head.wake_at
    if log is not None:
        run.log_size = len(log.text)
        run.journal.forget(log.size)


def _snapshot_taken(run: ActiveRun, log_size: int, snapshot_size: int) -> None:
    run.log_size = log_size
    run.snapshot_size = max(SMALLEST_SNAPSHOT, snapshot_size)


def take_checkpoint(run: ActiveRun, checkpoint: Checkpoint) -> None:
    """Set the run to the position of a checkpoint."""
    record = checkpoint.record
    head = record.head
    run.written = run.returning = True
    run.status = head.status
    run.version = head.version
    run.epoch = head.epoch
    run.attempt = head.attempt
    run.slot = head.slot
    run.log_seq = head.log_seq
    run.stage = run.stored_stage = head.stage
    run.stored_outcome = head.outcome
    run.visits = read_visits(head.visits, [stage.id for stage in run.plan.stages], head.stage)
    run.walk = JUMPED if head.visits is not None and head.visits.startswith("{") else head.visits
    run.waits = run.stored_waits = record.waits
    run.updated_at = head.updated_at
    run.wake_at = head.wake_at
    run.state = checkpoint.state
    _snapshot_taken(run, checkpoint.log_size, checkpoint.snapshot_size)
    run.inbox.clear()
    run.inbox_seen = head.inbox_seq
    # Events in the inbox up to here are buffered. Signals and requests are still to be absorbed.
    run.buffer = tuple(message for message in checkpoint.inbox if message.kind == "event")
    run.backlog = tuple(message for message in checkpoint.inbox if message.kind != "event")


def checkpoint_of(run: ActiveRun) -> Checkpoint:
    """Return the checkpoint of a run that has stopped, as the store would give it after the run's last commit."""
    head = RunHead(
        status=run.status,
        version=run.version,
        owner=None,
        epoch=run.epoch,
        stage=run.stored_stage,
        attempt=run.attempt,
        wake_at=run.wake_at,
        outcome=run.stored_outcome,
        slot=run.slot,
        inbox_seq=run.inbox_seen,
        log_seq=run.log_seq,
        updated_at=run.updated_at,
        visits=run.walk if run.walk != JUMPED else dump(run.visits),
    )
    inbox = sorted((*run.buffer, *run.backlog), key=_seq) if run.buffer or run.backlog else ()
    record = RunRecord(run.identity, head, run.stored_waits)
    return Checkpoint(record, run.state, run.event, tuple(inbox), run.log_size, run.snapshot_size)


def _seq(message: Message) -> int:
    return message.seq
