"""A run as units of work, and back: what it writes at its boundaries, and its update from a commit or a checkpoint."""

from __future__ import annotations

import logging

from poundlock.codecs import dump, load
from poundlock.model.changes import Release, RunCreate, RunMove
from poundlock.model.drafts import new_tuple
from poundlock.model.lifecycle import RunStatus
from poundlock.model.outbox import Outgoing, Refused
from poundlock.model.runs import Checkpoint, LogRow, Message, RunHead, RunRecord, StoredEvent, WaitRow
from poundlock.model.visits import read_visits
from poundlock.pipeline.active import JUMPED, SMALLEST_SNAPSHOT, ActiveRun, Stored
from poundlock.pipeline.buffering import with_tallies
from poundlock.pipeline.reports import Reports

log = logging.getLogger("poundlock.pipeline")

_RUNNING = RunStatus.RUNNING  # the look-up of an enum member costs more than the comparison


def admission_of(run: ActiveRun, status: RunStatus) -> RunCreate:
    """Return the creation of this run, for the commit of its event: running, or queued without an owner.

    It has the event if this is the only run that begins with it; else the event is stored beside it.
    """
    identity = run.identity
    now = identity.created_at
    if status is RunStatus.QUEUED:
        run.journal.add(now, "dispatch", "run:queued", run.plan.path_json)
    running = status is _RUNNING
    log, waits = run.journal.row(1), run.waits
    start = _start_of(run, status, None, None, running and run.slot, now, log, run.stage, waits, ())
    stored = (identity.event_ref, run.event, run.payload_text)
    event = new_tuple(StoredEvent, stored) if identity.owns_event else None
    return new_tuple(RunCreate, (identity, start, event))


def creation_of(run: ActiveRun) -> RunCreate:
    """Return the creation of this run as it was when it entered its stage: without a boundary.

    What the stage has come to is left for its boundary, also if that could not be written yet; a crash repeats it.
    """
    now = run.identity.created_at
    log = run.journal.row(1, run.entered_at or None)
    began = run.entered is not None
    stage, waits = (run.entered, run.entered_waits) if began else (run.stage, run.waits)
    outgoing = run.entered_outgoing if began else run.outgoing
    start = _start_of(run, _RUNNING, None, None, run.slot, now, log, stage, waits, outgoing)
    return RunCreate(run.identity, start, StoredEvent(run.identity.event_ref, run.event, run.payload_text))


def _start_of(
    run: ActiveRun,
    status: RunStatus,
    wake_at: float | None,
    outcome: str | None,
    slot: int,
    now: float,
    log: LogRow | None,
    stage: str | None,
    waits: tuple[WaitRow, ...],
    outgoing: tuple[Outgoing | Refused, ...],
) -> RunMove:
    """Return the first boundary of a run that is not stored yet."""
    epoch = run.epoch
    owner = run.owner if status is _RUNNING else None
    visits = run.walk if run.walk != JUMPED else dump(run.visits)
    return new_tuple(
        RunMove,
        (
            run.run_id,
            0,
            epoch,
            None,
            status,
            owner,
            epoch,
            stage,
            run.attempt,
            wake_at,
            outcome,
            slot,
            now,
            log,
            waits,
            (),
            None,
            visits,
            None,
            outgoing,
            None,
        ),
    )


def boundary_of(
    run: ActiveRun,
    status: RunStatus,
    *,
    wake_at: float | None = None,
    outcome: str | None = None,
    slot: int | None = None,
    guard_inbox: bool = False,
    taken_over: bool = False,
    release: Release | None = None,
) -> RunMove | RunCreate:
    """Return what the run writes at a boundary: itself as it is now, at `status`. Its creation, if it is not stored.

    Args:
        run: the run.
        status: its status from then on.
        wake_at: when it is due, for paused and delayed runs.
        outcome: JSON text of its result or error, at the end.
        slot: whether it counts as active from then on; None leaves that unchanged.
        guard_inbox: refuse (`InboxAhead`) if messages came that this process has not seen.
        taken_over: whether it gets a new owner with this, and so a new epoch.
        release: how it leaves its load with this.
    """
    now = run.clock.now()
    if slot is None:
        slot = run.slot
    ended = status is not _RUNNING and status.terminal
    if run.reports is not None:
        run.waits = run.reports.keep_in(run.waits, run.version + 1)
    log = run.journal.row(run.log_seq + 1)
    if run.buffer and not ended and run.waits is not run.stored_waits:
        run.waits = with_tallies(run)
    waits = () if ended else run.waits
    if not run.written:
        start = _start_of(run, status, wake_at, outcome, slot, now, log, run.stage, waits, run.outgoing)
        event = new_tuple(StoredEvent, (run.identity.event_ref, run.event, run.payload_text))
        return new_tuple(RunCreate, (run.identity, start, event))
    snapshot = None
    # A snapshot once the deltas outweigh the state: amortised O(n) storage, and a bounded fold on load.
    if log is not None:
        run.log_size += len(log.text)  # counted twice if this is refused: then a snapshot only comes earlier
        if run.log_size > run.snapshot_size and not ended:
            snapshot = dump(run.state)
    epoch = run.epoch
    return new_tuple(
        RunMove,
        (
            run.run_id,
            run.version,
            epoch,
            run.inbox_seen if guard_inbox else None,
            status,
            run.owner if status is _RUNNING else None,
            epoch + 1 if taken_over else epoch,
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
            release,
            run.outgoing,
            None,
        ),
    )


def take_commit(run: ActiveRun, work: RunMove | RunCreate) -> None:
    """Update the run after the commit of its boundary."""
    if run.memo is None or not run.memo.writing:  # else the stage goes on, and has not armed them yet
        run.registered = None
    if run.state_store is not None:
        run.state_store.adopt(run.state)
    if run.outgoing:
        _take_sent(run, work)
    if type(work) is RunCreate:
        take_creation(run, work)
        return
    assert type(work) is RunMove  # noqa: S101 - the union is closed
    run.version += 1
    run.stored = work
    run.epoch, _, _, _, _, run.slot, _, log, waits, consumed, snapshot = work[6:17]  # quicker than one after another
    if log is not None:
        run.log_seq += log.size
        run.journal.forget(log.size)
        if snapshot is not None:
            _snapshot_taken(run, 0, len(snapshot))
    if waits is not None:
        run.stored_waits = waits
    if consumed:
        del run.consumed[: len(consumed)]  # the stage may have taken in more meanwhile


def _take_sent(run: ActiveRun, work: RunMove | RunCreate) -> None:
    """Forget the events that left with a commit. The creation of a run may be written without those of its stage."""
    outgoing = outgoing_of(work)
    if outgoing:
        run.outgoing = run.outgoing[len(outgoing) :]
        for each in outgoing:
            if type(each) is Refused:
                said = "event '%s' is a dead letter: a wait of run '%s' refused it: %s"
                log.error(said, each.event.id, run.run_id, load(each.error)["message"])
        run.supervision.sent(run.run_id)


def outgoing_of(work: RunMove | RunCreate) -> tuple[Outgoing | Refused, ...]:
    """Return the events that leave with a boundary."""
    return work.start.outgoing if isinstance(work, RunCreate) else work.outgoing


def take_resumption(run: ActiveRun, now: float) -> None:
    """Update the run after another task's commit at `now` resumed it for this process."""
    run.version += 1
    run.epoch += 1
    run.stored = Stored(_RUNNING, run.stored_stage, None, None, now)
    run.slot = run.identity.load_key is not None
    run.returning = True


def take_creation(run: ActiveRun, create: RunCreate) -> None:
    """Update the run after it was stored for the first time."""
    start = create.start
    slot, _, log, waits = start[11:15]  # quicker than one after another
    run.written = True
    run.payload_text = None
    run.version = 1
    run.stored_waits = waits or ()
    run.stored = start
    run.slot = slot
    if log is not None:
        _, size, text = log
        run.log_seq = size
        run.log_size = len(text)
        run.journal.forget(size)


def _snapshot_taken(run: ActiveRun, log_size: int, snapshot_size: int) -> None:
    run.log_size = log_size
    run.snapshot_size = max(SMALLEST_SNAPSHOT, snapshot_size)


def take_checkpoint(run: ActiveRun, checkpoint: Checkpoint) -> None:
    """Set the run to the position of a checkpoint."""
    record = checkpoint.record
    head = record.head
    run.written = run.returning = True
    run.stored = head
    run.version = head.version
    run.epoch = head.epoch
    run.attempt = head.attempt
    run.slot = head.slot
    run.log_seq = head.log_seq
    run.stage = head.stage
    run.visits = read_visits(head.visits, run.plan.course, head.stage)
    run.walk = JUMPED if head.visits is not None and head.visits.startswith("{") else head.visits
    run.waits = run.stored_waits = record.waits
    if record.waits:
        run.reports = Reports.kept_in(record.waits)
    run.state = checkpoint.state
    _snapshot_taken(run, checkpoint.log_size, checkpoint.snapshot_size)
    run.inbox.clear()
    run.inbox_seen = head.inbox_seq
    # Events in the inbox up to here are buffered. Signals and requests are still to be absorbed.
    run.buffer = tuple(message for message in checkpoint.inbox if message.kind == "event")
    run.backlog = tuple(message for message in checkpoint.inbox if message.kind != "event")


def head_of(run: ActiveRun) -> RunHead:
    """Return the head of a run that has stopped, as the store would give it after the run's last commit."""
    return RunHead(
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


def checkpoint_of(run: ActiveRun) -> Checkpoint:
    """Return the checkpoint of a run that has stopped, as the store would give it after the run's last commit."""
    inbox = sorted((*run.buffer, *run.backlog), key=_seq) if run.buffer or run.backlog else ()
    record = RunRecord(run.identity, head_of(run), run.stored_waits)
    return Checkpoint(record, run.state, run.event, tuple(inbox), run.log_size, run.snapshot_size)


def _seq(message: Message) -> int:
    return message.seq
