"""Buffered events that do not fit the form of a wait: they stay for another wait that takes them, or are refused."""

from __future__ import annotations

from poundlock.codecs import dump
from poundlock.errors import AnswerInvalid
from poundlock.guard import describe, shortened
from poundlock.model.counting import Fits, matches
from poundlock.model.patterns import type_matches
from poundlock.model.runs import Message, WaitRow
from poundlock.model.waits import wait_events
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.buffering import take_out
from poundlock.pipeline.forms import misfit_of_declared, misfit_of_event
from poundlock.pipeline.outgoing import refused
from poundlock.pipeline.plan import DeclaredWait
from poundlock.pipeline.waits import fits_of, note


def refuse_misfits(run: ActiveRun, row: WaitRow) -> bool:
    """Let the events leave that match a wait, do not fit its form, and are taken by no other wait of the run.

    Returns:
        Whether there were any.
    """
    if row.rules is None or row.rules.form is None:
        return False
    fits = fits_of(run)
    misfits = [message for message in run.buffer if matches(row, message) and not fits(row, message)]
    lost = [message for message in misfits if not _wanted(run, row, message, fits)]
    for message in lost:
        _refuse(run, row, message)
    return bool(lost)


def _wanted(run: ActiveRun, row: WaitRow, message: Message, fits: Fits) -> bool:
    """Whether another wait of the run takes an event, now or once the state that it refers to says so."""
    for other in run.waits:
        if other.own or other.wait_id == row.wait_id or not _takes(run, other):
            continue
        if matches(other, message) and fits(other, message):
            return True
    return any(entry.wait_id != row.wait_id and _may_want(entry, message) for entry in run.plan.declared)


def _takes(run: ActiveRun, row: WaitRow) -> bool:
    """Whether what a wait buffers is for itself.

    Those that a durable function has from its start keep events for its operations: without a form they do not say what
    these will take, and the one that has come to it says that it does not.
    """
    for_operations = run.plan.replays and row.wait_id in run.plan.waits
    return not for_operations or (row.rules is not None and row.rules.form is not None)


def _may_want(declared: DeclaredWait, message: Message) -> bool:
    """Whether a wait may match an event later: the state decides which events it wants, and may change."""
    wait = declared.wait
    if not declared.refs or not wait.early or message.event is None:
        return False
    event = message.event.event
    if not any(type_matches(pattern, event.type) for pattern in wait_events(wait)):
        return False
    return misfit_of_declared(declared, event.payload) is None


def _refuse(run: ActiveRun, row: WaitRow, message: Message) -> None:
    assert message.event is not None  # noqa: S101 - only events match
    event = message.event.event
    misfit = misfit_of_event(row, run.plan.waits.get(row.wait_id), event.payload)
    said = describe(AnswerInvalid("it does not fit" if misfit is None else misfit.text))
    said = said._replace(message=shortened(said.message))
    take_out(run, {message.seq})
    refused(run, event, row.wait_id, said)
    named = {"id": event.id, "type": event.type, "source": event.source}
    reason = {"message": said.message, "code": said.code, "type": said.type}
    note(run, "wait:refused", row, {"event": named, "payload": event.payload, **reason}, dump)
