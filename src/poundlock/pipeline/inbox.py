"""Messages to a run: taken in, in order, at a boundary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poundlock.codecs import dump
from poundlock.errors import NotStorable, StateInvalid
from poundlock.model.patches import delta, merge
from poundlock.model.runs import Message
from poundlock.model.timeline_entry import BUFFERED
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.buffering import trim
from poundlock.pipeline.journal import event_payload
from poundlock.pipeline.operator_requests import take_request
from poundlock.pipeline.states import Written, settle, written


def absorb(run: ActiveRun) -> Mapping[str, Any] | None:
    """Take in the messages that came: signals change state, events are buffered, requests are noted.

    Returns:
        The answer that was given by hand to the wait the run is paused at, if any.
    """
    answer = None
    if not run.inbox and not run.backlog:
        return None
    buffered: list[Message] = []  # there may be thousands: a parent gets one from each child
    for message in _unread(run):
        if message.kind == "event":
            buffered.append(message)
            note_event(run, BUFFERED, message)
        elif message.kind == "abort":
            run.abort = message.body
            run.consumed.append(message.seq)
        elif message.kind == "resume":
            answer = message.body
            run.consumed.append(message.seq)
        elif message.kind in {"pause", "unpause"}:
            run.consumed.append(message.seq)
            take_request(run, message)
        else:
            run.consumed.append(message.seq)
            if message.body is not None:
                _apply_signal(run, message.body)
    if buffered:
        run.buffer = (*run.buffer, *buffered)
        trim(run)
    return answer


def _unread(run: ActiveRun) -> list[Message]:
    """Take the messages that have not been absorbed yet, in order.

    Deliveries of this process may arrive out of order; messages behind a gap stay for later.
    """
    messages = list(run.backlog)
    run.backlog = ()
    if len(run.inbox) == 1 and run.inbox[0].seq == run.inbox_seen + 1:
        run.inbox_seen += 1
        messages.append(run.inbox.pop())
    elif run.inbox:
        early: list[Message] = []
        for message in sorted(run.inbox, key=lambda message: message.seq):
            if message.seq == run.inbox_seen + 1:
                run.inbox_seen = message.seq
                messages.append(message)
            elif message.seq > run.inbox_seen:
                early.append(message)
        run.inbox[:] = early
    return messages


def _apply_signal(run: ActiveRun, patch: Mapping[str, Any]) -> None:
    """Merge a patch from outside; if it does not fit it is noted and left out, as it is not the run's fault."""
    try:
        apply(run, written(run.plan.state_model, patch, run.state), run.plan.path_json, "state:signal")
    except (StateInvalid, NotStorable) as error:
        payload = dump({"message": error.message, "code": error.code, "patch": patch})
        run.journal.add(run.clock.now(), "state", "state:refused", run.plan.path_json, payload)


def apply(run: ActiveRun, change: Written, path_json: str, kind: str = "state:patch", payload: str = "null") -> None:
    """Merge a patch into the run's state and note it.

    Raises:
        StateInvalid: the result does not fit the state's model; nothing was changed.
        NotStorable: a default of the model cannot be stored; nothing was changed.
    """
    patch, text = change
    state = merge(run.state, patch)
    whole = settle(run.plan.state_model, state)
    run.journal.add(run.clock.now(), "state", kind, path_json, payload, text)
    _note_defaults(run, state, whole, path_json)
    run.state = whole


def settled(run: ActiveRun, state: dict[str, Any], path_json: str) -> dict[str, Any]:
    """Return the state after noted patches, validated; defaults that have to be stored now are noted too.

    Raises:
        StateInvalid: it does not fit the state's model.
        NotStorable: a default of the model cannot be stored.
    """
    whole = settle(run.plan.state_model, state)
    _note_defaults(run, state, whole, path_json)
    return whole


def _note_defaults(run: ActiveRun, state: dict[str, Any], whole: dict[str, Any], path_json: str) -> None:
    if whole is not state:
        run.journal.add(run.clock.now(), "state", "state:defaults", path_json, "null", dump(delta(state, whole)))


def abort_request(run: ActiveRun) -> Mapping[str, Any] | None:
    """Return the request to end this run, if there is one, taken in or not."""
    if run.abort is not None:
        return run.abort
    return next((message.body for message in (*run.backlog, *run.inbox) if message.kind == "abort"), None)


def note_event(run: ActiveRun, kind: str, message: Message) -> None:
    """Note the result of an event for this run."""
    if run.journal.full and message.event is not None:
        run.journal.add(run.clock.now(), "pipeline", kind, run.plan.path_json, event_payload(message.event.event))
