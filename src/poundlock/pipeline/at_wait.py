"""At a wait: a run continues because of an answer, an event or a timeout, or is paused there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from poundlock.codecs import dump
from poundlock.errors import AnswerInvalid, NotStorable, StateInvalid, WaitExpired
from poundlock.guard import Answer, Interrupted, describe, for_the_process, shortened
from poundlock.model.counting import answers, so_far
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.patches import merge
from poundlock.model.runs import (
    CHILD_ENDED,
    CHILDREN_WAIT,
    DIVERGED_WAIT,
    FAILURE_WAIT,
    Message,
    RunError,
    WaitRow,
    own_row,
)
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.answers import collected, collects, own_event, patch_of_event
from poundlock.pipeline.buffering import take_out, trim
from poundlock.pipeline.durable_waits import answered, first_due, go_on, waits_for_function
from poundlock.pipeline.failing import halted, wait_failed
from poundlock.pipeline.forms import misfit_of_answer
from poundlock.pipeline.inbox import absorb, apply, settled
from poundlock.pipeline.interrupting import current_task, disturbed, judge
from poundlock.pipeline.memo import drop_notices
from poundlock.pipeline.misfits import refuse_misfits
from poundlock.pipeline.outcome import Halted, Outcome, Paused, aborted, failed, run_error
from poundlock.pipeline.outgoing import refused
from poundlock.pipeline.plan import DeclaredWait
from poundlock.pipeline.run_view import Resume
from poundlock.pipeline.states import Written, brought, validate, written
from poundlock.pipeline.waits import answer_at, fits_of, leave, note, pause_at, rearm

log = logging.getLogger("poundlock.pipeline")
_RUNNING: Final = RunStatus.RUNNING


async def decide_at_wait(run: ActiveRun, row: WaitRow) -> Outcome | None:
    """Decide for a run at a wait: resume by hand, by a buffered event or by timeout, or pause.

    Raises:
        Interrupted: the run was interrupted while a patch function ran.
    """
    try:
        answer = absorb(run)
        if run.abort is not None:
            return aborted(run)
        if waits_for_function(run, row):
            return _function_goes_on(run, answer)
        before = run.waits
        trim(run)
        if run.waits is not before:  # it has noted what was lost
            row = next((now for now in run.waits if now.wait_id == row.wait_id), row)
        if answer is not None and (patch := _answered(run, row, answer["patch"])) is not None:
            run.returning = False
            note(run, "pipeline:resume", row, {"reason": "api"})
            take_out(run, {message.seq for message in so_far(row, run.buffer, run.clock.now(), fits_of(run))})
            _leave(run, row, Resume("api", row.wait_id), answer.get("event"))
            return _continue(run, patch)
        came_back = run.returning
        if came_back and (error := misfit(run)) is not None:
            return stay(run, row, error)
        if row.wait_id in _RESUMED_AS:
            _leave(run, row, None)
            return _continue(run, None)
        if row.wait_id == CHILDREN_WAIT:
            return _among_children(run, row)
        if _was_due(run, row):
            return _expired(run, row)  # what has come since then is too late
        refused = refuse_misfits(run, row)  # those that came where the workflow is not registered
        while messages := answer_at(run, row):
            if await _resume_with_events(run, row, messages):
                return None
            refused = True
        if row.expires_at is not None and run.clock.now() >= row.expires_at:
            return _expired(run, row)
        if refused and not came_back:  # it has not been paused yet: the event was there before
            note(run, "pipeline:pause", row, {"expires_at": row.expires_at})
        return halted(row) if row.wait_id == FAILURE_WAIT else Paused(_counted_anew(run, row))
    except Interrupted:
        raise
    except BaseException as error:
        if for_the_process(error):
            raise
        return failed(run, run_error(error, None, None), run.plan.path_json)


def _counted_anew(run: ActiveRun, row: WaitRow) -> WaitRow:
    """Return a wait that the run stays at, with a new epoch if its tally has an answer that is none.

    The event that seemed to complete it is for another wait, and stays: so this one has to count anew, without it.
    """
    if row.rules is None or not row.rules.several or not any(answers(row, message) for message in run.buffer):
        return row
    anew = row._replace(epoch=run.version + 1, tally=None)
    run.waits = tuple([anew if other is row else other for other in run.waits])
    return anew


def _was_due(run: ActiveRun, row: WaitRow) -> bool:
    """Whether the time of a wait was over before its run, which goes on for that reason, had to wait for a slot."""
    due = run.wake_at
    return run.status is _RUNNING and due is not None and row.expires_at is not None and row.expires_at <= due


def _function_goes_on(run: ActiveRun, answer: Mapping[str, Any] | None) -> Outcome | None:
    """Decide for a durable function that waits; it may wait for several things at once."""
    rows = [row for row in run.waits if row.parked]
    why = answered(run, rows, answer)
    if run.returning and (error := misfit(run)) is not None:
        return stay(run, rows[0], error)
    if why is None:
        return Paused(first_due(rows))
    go_on(run, rows, why)
    return None


# ---------------------------------------------------------------------------- a state that no longer fits its model
_STATE_WAIT: Final = "__state__"
_DELAY_WAIT: Final = "__delay__"
_RESUMED_AS: Final[Mapping[str, Resume | None]] = {
    _STATE_WAIT: None,
    _DELAY_WAIT: Resume("delay"),
    DIVERGED_WAIT: None,
}
"""Waits of runs that were not paused when something did not fit, with the reason for their later resume."""


def misfit(run: ActiveRun) -> RunError | None:
    """Return why the state of a restored run does not fit its model; None if it fits, and the run may continue."""
    try:
        run.state = settled(run, run.state, run.plan.path_json)
    except (StateInvalid, NotStorable) as error:
        return run_error(error, run.stage, None)
    run.returning = False
    return None


def stay(run: ActiveRun, row: WaitRow, error: RunError, source: str = "state") -> Outcome:
    """Keep a run paused at this wait: a new deployment may have changed the model, or the definition.

    Args:
        run: the run.
        row: the wait.
        error: why it cannot go on.
        source: what has changed, for the timeline: "state" or "definition".
    """
    payload = dump({"message": error.message, "code": error.code})
    run.journal.add(run.clock.now(), source, f"{source}:refused", run.plan.path_json, payload)
    log.error("run '%s' stays paused until its %s fits: %s", run.run_id, source, error.message)
    return Halted(row, error)


def wait_for_state(run: ActiveRun) -> WaitRow:
    """Pause a run that is not at a wait: at a wait made for this, behind which it continues at the same stage."""
    wait_id = _DELAY_WAIT if run.resume is not None and run.resume.reason == "delay" else _STATE_WAIT
    row = own_row(wait_id, epoch=run.version + 1, on_timeout="resume", parked=True, resume_at=run.stage)
    pause_at(run, row)
    return row


def _among_children(run: ActiveRun, row: WaitRow) -> Outcome | None:
    """Enter the stage again if a child has ended, or its time is over; else stay paused."""
    over = row.expires_at is not None and run.clock.now() >= row.expires_at
    left = _still_paused(run, row)
    if not drop_notices(run) and not over:
        return Paused(row)
    if left and not over:
        # Others have to be awaited all the same: to enter the stage means to look at all children again.
        assert isinstance(row.patch, Mapping)  # noqa: S101 - written with the row
        rest = row._replace(patch={**row.patch, "paused": left})
        run.waits = tuple([rest if other is row else other for other in run.waits])
        return Paused(rest)
    leave(run, row, answered=True)
    run.resume = None
    run.restart_counts()
    rearm(run)
    return None


def _still_paused(run: ActiveRun, row: WaitRow) -> list[Any]:
    """Return the children that the run has to wait for in any case; none if the stage has to look at those that ended.

    It has to if one has failed, if not all are needed, and for the results, once all have ended.
    """
    ended = set()
    for message in run.buffer:
        if message.event is not None and message.event.event.type == CHILD_ENDED:
            said = message.event.event.payload
            if not said["completed"]:
                return []
            ended.add(said["run_id"])
    if not isinstance(row.patch, Mapping) or not row.patch.get("all"):
        return []
    paused = row.patch["paused"]
    left = [child for child in paused if child["run_id"] not in ended]
    return left if len(left) + len(ended) == len(paused) else []  # one that was not paused has ended: look


def _leave(run: ActiveRun, row: WaitRow, reason: Resume | None, event_type: str | None = None) -> None:
    leave(run, row, answered=True, event_type=event_type)
    run.resume = reason
    if row.wait_id in _RESUMED_AS:
        run.resume = _RESUMED_AS[row.wait_id]
    if row.wait_id in _RESUMED_AS or row.wait_id == FAILURE_WAIT:
        run.waits = tuple(other for other in run.waits if other.wait_id != row.wait_id)


async def _resume_with_events(run: ActiveRun, row: WaitRow, messages: Sequence[Message]) -> bool:
    """Use the buffered events that answer a wait: the run continues after it, or one is refused and it stays paused.

    Any sender may have sent them, so an event that cannot be applied does not fail the run. Several are merged in
    order, each into the state that those before it have left.

    Returns:
        Whether the run continues.

    Raises:
        Interrupted: the run was interrupted meanwhile.
    """
    events = [message.event.event for message in messages if message.event is not None]
    patches: list[Written | None] = []
    if collects(row) is not None:
        answer = collected(row, events, run.plan.state_model, run.state)
        if answer.error is not None:  # each of them fits, as it was judged alone; so the last one is too much
            _refuse(run, row, messages[-1], answer.error)
            return False
        patches.append(answer.value)
    else:
        state = run.state
        for message in messages:
            made = await _patch_of(run, row, message, state)
            if made.error is not None:
                _refuse(run, row, message, made.error)
                return False
            patches.append(made.value)
            state = state if made.value is None else merge(state, made.value.patch)
    take_out(run, {message.seq for message in messages})
    leave(run, row, answered=True, event_type=events[-1].type)
    run.resume = Resume("event", row.wait_id, own_event(events[-1]))
    for event in events:
        note(run, "wait:matched", row, {"event": _named(event)})
    note(run, "pipeline:resume", row, {"reason": "event"})
    if row.patch == "call" and run.plan.secrets is not None:
        for patch, event in zip(patches, events, strict=True):
            moved = None if patch is None else run.plan.secrets.moved(patch.patch, event.payload)
            if moved is not None:
                run.journal.put(run.clock.now(), moved)
    for patch in patches[:-1]:
        if patch is not None and patch.patch:
            apply(run, patch, run.plan.path_json)
    _continue(run, patches[-1])
    return True


async def _patch_of(run: ActiveRun, row: WaitRow, message: Message, state: dict[str, Any]) -> Answer:
    """Return the patch of an event, or why it cannot be applied.

    Raises:
        Interrupted: the run was interrupted meanwhile; the event has left the buffer.
    """
    assert message.event is not None  # noqa: S101 - only event messages are buffered
    event, task = message.event.event, current_task()
    declared, answers, run_id = run.plan.waits.get(row.wait_id), run.supervision.answers, run.run_id
    known = answers.get(run_id, row, event, state)
    answer = patch_of_event(row, declared, event, run.plan.state_model, state, run.clock, known)
    answers.forget(run_id, row, event)
    error = answer.error
    if disturbed(run, task):
        error = await judge(run, task, error)
    return Answer(answer.value, error)


def _refuse(run: ActiveRun, row: WaitRow, message: Message, error: BaseException) -> None:
    """Note an event that cannot be applied; it leaves the buffer."""
    assert message.event is not None  # noqa: S101 - only event messages are buffered
    event = message.event.event
    take_out(run, {message.seq})
    said = describe(error)
    said = said._replace(message=shortened(said.message))
    reason = {"message": said.message, "code": said.code, "type": said.type}
    if event.type != CHILD_ENDED:
        refused(run, event, row.wait_id, said)
    note(run, "wait:refused", row, {"event": _named(event), "payload": event.payload, **reason}, dump)


def _named(event: Event) -> dict[str, Any]:
    return {"id": event.id, "type": event.type, "source": event.source}


def check_form(row: WaitRow, declared: DeclaredWait | None, patch: Mapping[str, Any] | None) -> None:
    """Refuse an answer by hand that does not fit the form of its wait.

    Raises:
        AnswerInvalid: it does not; `path` is the field.
    """
    misfit = misfit_of_answer(row, declared, patch)
    if misfit is not None:
        raise AnswerInvalid(
            f"wait {row.wait_id}: {misfit.text}: an answer has to fit the form of the wait",
            path=f"patch.{misfit.path}" if misfit.path else "patch",
        )


def check_answer(run: ActiveRun, row: WaitRow | None, patch: Mapping[str, Any] | None) -> Written:
    """Return an answer as it is stored, checked before it is committed: the run must be able to continue with it.

    Where the wait collects payloads, an answer that does not set them leaves there what came so far.

    Args:
        run: the run.
        row: the wait that is answered; None if it has no form and collects nothing.
        patch: the answer's.

    Raises:
        AnswerInvalid: it does not fit the wait's form; nothing was changed.
        StateInvalid: with its patch the state does not fit the model; nothing was changed.
        NotStorable: a value in it does not read back equal; nothing was changed.
    """
    model = run.plan.state_model
    if row is not None and row.rules is not None:
        check_form(row, run.plan.waits.get(row.wait_id), patch)
    answer = written(model, patch or {}, run.state, "patch")
    key = None if row is None else collects(row)
    if key is not None and row is not None:
        came = (*run.buffer, *(message for message in run.inbox if message.event is not None))
        parts = so_far(row, came, run.clock.now(), fits_of(run))
        payloads = [part.event.event.payload for part in parts if part.event is not None]
        merged = {**brought(model, {key: payloads}, run.state).patch, **answer.patch}
        answer = written(None, merged, run.state)
    if model is not None:
        validate(model, merge(run.state, answer.patch))
    return answer


def _answered(run: ActiveRun, row: WaitRow, patch: Mapping[str, Any] | None) -> Written | None:
    """Return an answer as it is stored; None if it does not fit: a process without the workflow cannot check it."""
    try:
        return check_answer(run, row, patch)
    except (AnswerInvalid, StateInvalid, NotStorable) as error:
        note(run, "wait:refused", row, {"path": error.path, "message": error.message}, dump)
        return None


def _continue(run: ActiveRun, patch: Written | None) -> Outcome | None:
    run.restart_counts()
    if patch is not None and patch.patch:
        apply(run, patch, run.plan.path_json)
    elif not run.journal.full:
        run.journal.add_growing(run.clock.now(), "pipeline:resume", run.plan.path_json)
    rearm(run)
    return None


def _failed_in_time(run: ActiveRun, row: WaitRow) -> Outcome | None:
    error = WaitExpired(f"nothing that matches the wait '{row.wait_id}' came in time", path=row.wait_id)
    declared = run.plan.waits.get(row.wait_id)
    stage = None if declared is None else run.plan.by_id.get(declared.stage_id or "")
    leave(run, row, answered=False)
    outcome = wait_failed(run, stage, run_error(error, None if stage is None else stage.id, None))
    return _continue(run, None) if outcome is None else outcome


def _expired(run: ActiveRun, row: WaitRow) -> Outcome | None:
    note(run, "wait:expired", row, {"on_timeout": row.on_timeout})
    if row.on_timeout == "fail":
        return _failed_in_time(run, row)
    if row.on_timeout == "abort":
        run.abort = {"reason": f"wait '{row.wait_id}' expired", "by": "timeout"}
        return aborted(run)
    came = _collected_in_time(run, row)
    note(run, "pipeline:resume", row, {"reason": "timeout"})
    leave(run, row, answered=False)
    run.resume = Resume("timeout", row.wait_id)
    if row.on_timeout != "resume":
        run.stage = row.on_timeout
    return _continue(run, came)


def _collected_in_time(run: ActiveRun, row: WaitRow) -> Written | None:
    """Return the patch with the payloads that a wait for several had when its time was over; None without one.

    They stay buffered: the question is still open. A list that does not fit the state's model is left out and noted,
    because it is nobody's fault that it is not complete.
    """
    due = row.expires_at
    if due is None or row.rules is None or not row.rules.several or collects(row) is None:
        return None
    in_time = [message for message in run.buffer if message.time <= due]
    parts = so_far(row, in_time, due, fits_of(run))
    events = [part.event.event for part in parts if part.event is not None]
    answer = collected(row, events, run.plan.state_model, run.state)
    if answer.error is not None:
        said = describe(answer.error)
        detail = {"message": shortened(said.message), "code": said.code, "wait": row.wait_id}
        run.journal.add(run.clock.now(), "state", "state:refused", run.plan.path_json, dump(detail))
        return None
    return answer.value  # type: ignore[no-any-return]  # a patch, if there is no error
