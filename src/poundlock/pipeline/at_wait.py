"""At a wait: a run goes on because of an answer, an event or the time, or is paused there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from poundlock.codecs import detach, dump, pack
from poundlock.errors import StateInvalid, StepFailed, WaitExpired
from poundlock.guard import for_the_process, name_blocking, name_of
from poundlock.model.events import Event
from poundlock.model.patches import merge
from poundlock.model.runs import Message, RunError, WaitRow
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.inbox import absorb, apply
from poundlock.pipeline.outcome import Outcome, Paused, Unfit, aborted, failed, run_error
from poundlock.pipeline.run_view import Resume
from poundlock.pipeline.states import validate
from poundlock.pipeline.waits import first_match, leave, note, rearm, stand_at

log = logging.getLogger("poundlock.pipeline")


def standing(run: ActiveRun, row: WaitRow) -> Outcome | None:
    """Decide for a run that stands at a wait: go on by hand, with what was buffered or because time is up, or stand."""
    try:
        answer = absorb(run)
        if run.abort is not None:
            return aborted(run)
        if answer is not None and _fits(run, row, answer["patch"]):
            run.returning = False
            note(run, "pipeline:resume", row, {"reason": "api"})
            _leave(run, row, Resume("api", row.wait_id))
            return _go_on(run, answer["patch"])
        if run.returning and (error := misfit(run)) is not None:
            return stay(run, row, error)
        if row.wait_id in _GOES_ON:
            _leave(run, row, None)
            return _go_on(run, None)
        message = first_match(run, row)
        if message is not None:
            return _go_on(run, _resume_with_event(run, row, message))
        if row.expires_at is not None and run.clock.now() >= row.expires_at:
            return _expired(run, row)
        return Paused(row)
    except BaseException as error:  # patch functions and validators are user code; they fail the run
        if for_the_process(error):
            raise
        return failed(run, run_error(error, None, None), run.plan.path_json)


# ---------------------------------------------------------------------------- a state that no longer fits its model
_STATE_WAIT: Final = "__state__"
_DELAY_WAIT: Final = "__delay__"
_GOES_ON: Final[Mapping[str, Resume | None]] = {_STATE_WAIT: None, _DELAY_WAIT: Resume("delay")}
"""Waits of runs that were not paused when their state turned out not to fit, and the reason they go on for then."""


def misfit(run: ActiveRun) -> RunError | None:
    """Return why the state of a run that comes back does not fit its model; None if it does, and it may go on."""
    try:
        validate(run.plan.state_model, run.state)
    except StateInvalid as error:
        return run_error(error, run.stage, None)
    run.returning = False
    return None


def stay(run: ActiveRun, row: WaitRow, error: RunError) -> Outcome:
    """Leave a run paused at this wait until its state fits: a new deployment may have changed the model."""
    payload = dump({"message": error.message, "code": error.code})
    run.journal.add(run.clock.now(), "state", "state:refused", run.plan.path_json, payload)
    log.error("run '%s' stays paused until its state fits its model: %s", run.identity.run_id, error.message)
    return Unfit(row, error)


def wait_for_state(run: ActiveRun) -> WaitRow:
    """Let a run that is at no wait be paused at one of its own, from which it goes on where it is."""
    row = WaitRow(
        wait_id=_DELAY_WAIT if run.resume is not None and run.resume.reason == "delay" else _STATE_WAIT,
        epoch=run.version + 1,
        parked=True,
        events=(),
        where=(),
        correlate=(),
        resume_at=run.stage,
        on_timeout="resume",
        expires_at=None,
        patch=None,
        keys=(),
    )
    stand_at(run, row)
    return row


def _leave(run: ActiveRun, row: WaitRow, reason: Resume | None) -> None:
    leave(run, row)
    run.resume = reason
    if row.wait_id in _GOES_ON:
        run.resume = _GOES_ON[row.wait_id]
        run.waits = tuple(other for other in run.waits if other.wait_id != row.wait_id)


def _resume_with_event(run: ActiveRun, row: WaitRow, message: Message) -> Mapping[str, Any] | None:
    """Use up a buffered event: the run goes on after the wait. Returns the patch to merge.

    Raises:
        StepFailed: the wait's patch function gave no mapping.
    """
    assert message.event is not None  # noqa: S101 - only event messages are buffered
    event = message.event.event
    run.buffer = tuple(other for other in run.buffer if other.seq != message.seq)
    run.consumed.append(message.seq)
    leave(run, row)
    run.resume = Resume("event", row.wait_id, _own(event))
    note(run, "wait:matched", row, {"event": {"id": event.id, "type": event.type, "source": event.source}})
    note(run, "pipeline:resume", row, {"reason": "event"})
    if row.patch == "call":
        declared = run.plan.waits.get(row.wait_id)
        if declared is None or declared.patch is None:
            raise StepFailed(
                f"the patch function of wait '{row.wait_id}' is gone from the workflow: restore it", path=row.wait_id
            )
        since = run.clock.monotonic()
        patch = declared.patch(_own(event), run.view)
        name_blocking(run.clock, since, declared.wait.patch)  # type: ignore[arg-type]  # it is a function
    else:
        patch = row.patch if row.patch is not None else event.payload
    if patch is None or (row.patch is None and not isinstance(patch, Mapping)):
        return None  # a payload that is no mapping has nothing to fold in; routers see it as resume.event
    if not isinstance(patch, Mapping):
        raise StepFailed(
            f"the patch function of wait '{row.wait_id}' returned a {name_of(type(patch))}: return a mapping",
            path=row.wait_id,
        )
    return pack(patch)[0]  # type: ignore[no-any-return]  # a mapping in, a dict out


def _own(event: Event) -> Event:
    """Return an event for user code, with a payload of its own: the store's is shared by all runs it is for."""
    return Event.trusted(
        event.type,
        detach(event.payload),
        id=event.id,
        time=event.time or 0.0,
        source=event.source,
        key=event.key,
        headers=event.headers,
    )


def check_answer(run: ActiveRun, patch: Mapping[str, Any] | None) -> None:
    """Check before an answer is given that the run can go on with it.

    Raises:
        StateInvalid: with its patch the state does not fit the model; nothing was changed.
    """
    validate(run.plan.state_model, merge(run.state, patch) if patch else run.state)


def _fits(run: ActiveRun, row: WaitRow, patch: Mapping[str, Any] | None) -> bool:
    """Whether an answer fits the state. One given where the workflow was unknown was not checked when it came."""
    try:
        check_answer(run, patch)
    except StateInvalid as error:
        note(run, "wait:refused", row, {"path": error.path, "message": error.message})
        return False
    return True


def _go_on(run: ActiveRun, patch: Mapping[str, Any] | None) -> Outcome | None:
    run.count_anew()
    _fold(run, patch)
    if run.stage is not None:  # else there is nothing behind the wait: the runner completes the run
        run.plan.existing(run.stage)
    return None


def _fold(run: ActiveRun, patch: Mapping[str, Any] | None) -> None:
    if patch:
        apply(run, patch, dump(patch), run.plan.path_json)
    rearm(run)


def _expired(run: ActiveRun, row: WaitRow) -> Outcome | None:
    note(run, "wait:expired", row, {"on_timeout": row.on_timeout})
    if row.on_timeout == "fail":
        error = WaitExpired(f"nothing that matches the wait '{row.wait_id}' came in time", path=row.wait_id)
        return failed(run, run_error(error, None, None), run.plan.path_json)
    if row.on_timeout == "abort":
        run.abort = {"reason": f"wait '{row.wait_id}' expired", "by": "timeout"}
        return aborted(run)
    note(run, "pipeline:resume", row, {"reason": "timeout"})
    leave(run, row)
    run.resume = Resume("timeout", row.wait_id)
    if row.on_timeout != "resume":
        run.stage = row.on_timeout
    return _go_on(run, None)
