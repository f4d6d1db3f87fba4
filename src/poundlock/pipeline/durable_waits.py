"""A durable function that waits for events: the rows of its waits, and what answers them.

A function may wait for several things at once, so its run may be paused at several rows: any of them has the function
called again. An event or an answer is put on record here, together with the entry of the operation that waited for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poundlock.codecs import detach, dump
from poundlock.errors import NotStorable
from poundlock.guard import describe
from poundlock.model.events import Event
from poundlock.model.runs import Message, WaitRow
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.buffering import trim
from poundlock.pipeline.forms import misfit_of_answer
from poundlock.pipeline.memo import memo_of
from poundlock.pipeline.misfits import refuse_misfits
from poundlock.pipeline.outcome import Outcome, Paused
from poundlock.pipeline.outgoing import refused
from poundlock.pipeline.waits import asked as asked_for
from poundlock.pipeline.waits import first_match, note, rearm

BY_HAND = "/resume"
"""Source of the event that an answer by hand becomes."""


def waits_for_function(run: ActiveRun, row: WaitRow) -> bool:
    """Whether a run is paused at this row because its function waits: not for another reason, such as a failure."""
    return run.plan.replays and not row.wait_id.startswith("__")


def operation_path(stage_path: str, key: str) -> str:
    """Return the path of an operation in the timeline, as JSON text."""
    return dump(f"{stage_path}/{key}")


# ----------------------------------------------------------------------------------------------------- on record
def event_data(event: Event) -> dict[str, Any]:
    """Return an event as it is recorded."""
    return {
        "type": event.type,
        "payload": event.payload,
        "id": event.id,
        "time": event.time,
        "source": event.source,
        "key": event.key,
        "headers": dict(event.headers),
    }


def recorded_event(data: Mapping[str, Any]) -> Event:
    """Return a recorded event, with its own copy of the payload."""
    return Event.trusted(
        data["type"],
        detach(data["payload"]),
        id=data["id"],
        time=data["time"],
        source=data["source"],
        key=data["key"],
        headers=detach(data["headers"]),
    )


def is_over(record: Mapping[str, Any]) -> bool:
    """Whether a recorded wait is over: answered, or its time has passed."""
    return "event" in record or "expired" in record


def take(run: ActiveRun, row: WaitRow, stage_path: str, message: Message) -> bool:
    """Put a buffered event on record as what a wait was answered with; False if that cannot be recorded."""
    assert message.event is not None  # noqa: S101 - only events are buffered
    event = message.event.event
    run.buffer = tuple(other for other in run.buffer if other.seq != message.seq)
    run.consumed.append(message.seq)
    if not _recorded(run, row, stage_path, event):
        return False
    note(run, "wait:matched", row, {"event": _named(event)})
    return True


def take_first(run: ActiveRun, row: WaitRow, stage_path: str) -> bool:
    """Answer a wait with the earliest buffered event that matches; False if there is none."""
    if run.buffer:
        trim(run)
    while (message := first_match(run, row)) is not None:
        if take(run, row, stage_path, message):
            return True
    return False


# ------------------------------------------------------------------------------------------------------- pausing
def of_functions(run: ActiveRun, row: WaitRow) -> bool:
    """Whether a row was armed by an operation of the run's function."""
    return row.resume_at is not None and row.wait_id not in run.plan.waits and not row.wait_id.startswith("__")


def arm_row(run: ActiveRun, row: WaitRow) -> None:
    """Let a wait buffer events from the next commit on."""
    others = [other for other in run.waits if other.wait_id != row.wait_id]
    run.waits = (*others, row)


def pause(run: ActiveRun, rows: Sequence[WaitRow]) -> Outcome | None:
    """Pause at all these rows. None: what one of them waits for is there already."""
    rearm(run)  # what services announced, and what signals changed
    kept = [row for row in run.waits if not of_functions(run, row) and not row.parked]
    epoch = run.version + 1
    asked = {row.wait_id: row.question for row in run.waits}
    parked = [row.parked_until(row.expires_at, epoch, row.resume_at, None, asked.get(row.wait_id, 0)) for row in rows]
    for row in parked:
        if row.events:
            note(run, "wait:registered", row, asked_for(row), dump)
    run.waits = (*kept, *parked)
    for row in parked:  # only now it is known what else the function waits for
        refuse_misfits(run, row)
    if any(first_match(run, row) is not None for row in parked):
        return None
    for row in parked:
        if row.events:
            note(run, "pipeline:pause", row, {"expires_at": row.expires_at})
    return Paused(first_due(parked))


def first_due(rows: Sequence[WaitRow]) -> WaitRow:
    """Return the row whose time comes first: the run is to be woken then."""
    return min(rows, key=lambda row: float("inf") if row.expires_at is None else row.expires_at)


def answered(run: ActiveRun, rows: Sequence[WaitRow], answer: Mapping[str, Any] | None) -> str | None:
    """Put on record what came for the waits that a run is paused at. Returns why the function is called again.

    Args:
        run: the run; its memo is there.
        rows: those it is paused at.
        answer: the body of an answer by hand.
    """
    memo, now = memo_of(run), run.clock.now()
    why = None
    if answer is not None:
        row = next((row for row in rows if row.wait_id == answer.get("wait")), rows[0])
        if _take_answer(run, row, answer):
            why = "api"
    for row in rows:
        refuse_misfits(run, row)  # those that came where the workflow is not registered
    for row in rows:
        if is_over(memo.kept[row.wait_id]):
            why = why or "event"  # recorded before the run was kept paused for another reason
        elif row.events and take_first(run, row, _stage_path(run, row)):
            why = why or "event"
    if why is None and any(row.expires_at is not None and now >= row.expires_at for row in rows):
        why = "timeout"
    return why


def go_on(run: ActiveRun, rows: Sequence[WaitRow], why: str) -> None:
    """Have the function called again; its waits only buffer from now on."""
    ids = {row.wait_id for row in rows}
    epoch = run.version + 1
    note(run, "pipeline:resume", rows[0], {"reason": why})
    left = [row.left(answered=False, epoch=epoch) if row.wait_id in ids else row for row in run.waits]
    run.waits = tuple(row for row in left if row.events or row.wait_id not in ids)
    run.stage = rows[0].resume_at
    run.resume = None
    run.restart_counts()
    rearm(run)


def _take_answer(run: ActiveRun, row: WaitRow, answer: Mapping[str, Any]) -> bool:
    """Put an answer by hand on record; False if it cannot be recorded, or does not fit the form of the wait."""
    misfit = misfit_of_answer(row, None, answer["patch"])
    if misfit is not None:
        note(run, "wait:refused", row, {"path": misfit.path, "message": misfit.text}, dump)
        return False
    event = Event.trusted(
        answer.get("event") or row.events[0],
        answer["patch"] or {},
        id=f"{run.run_id}/{row.epoch}",
        time=run.clock.now(),
        source=BY_HAND,
        key=None,
        headers={},
    )
    return _recorded(run, row, _stage_path(run, row), event)


def _recorded(run: ActiveRun, row: WaitRow, stage_path: str, event: Event) -> bool:
    """Put what a wait was answered with on record; False, and a refusal in the timeline, if it nests too deep."""
    memo = memo_of(run)
    try:
        record = {**memo.kept[row.wait_id], "event": event_data(event)}
        memo.note(operation_path(stage_path, row.wait_id), row.wait_id, record)
    except NotStorable as error:
        said = {"event": _named(event), "message": error.message, "code": error.code}
        note(run, "wait:refused", row, said, dump)
        if event.source != BY_HAND:
            refused(run, event, row.wait_id, describe(error))
        return False
    return True


def _named(event: Event) -> dict[str, Any]:
    return {"id": event.id, "type": event.type, "source": event.source}


def _stage_path(run: ActiveRun, row: WaitRow) -> str:
    return run.plan.by_id[run.plan.existing(row.resume_at or "")].path
