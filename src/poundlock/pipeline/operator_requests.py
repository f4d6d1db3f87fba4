"""Requests of operators to a run: taken in with its other messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from poundlock.codecs import dump
from poundlock.model.operator_pause import has_pause, lifted, paused_with
from poundlock.model.runs import Message, OperatorPause
from poundlock.pipeline.active import ActiveRun

PAUSED: Final = "run:paused"
UNPAUSED: Final = "run:unpaused"
_REQUESTS: Final = ("pause", "unpause")


def is_requested(run: ActiveRun) -> bool:
    """Whether a request of an operator is among the messages that are not taken in yet."""
    return any(message.kind in _REQUESTS for message in (*run.backlog, *run.inbox))


def take_request(run: ActiveRun, message: Message) -> None:
    """Take in a request of an operator."""
    body = message.body
    assert body is not None  # noqa: S101 - every request has one
    scope = body["scope"]
    if message.kind == "pause":
        run.pausing = True
        if not has_pause(run.waits, scope):
            pause = OperatorPause(scope, body["reason"], body["by"], message.time)
            run.waits = paused_with(run.waits, pause, run.version + 1)
            note_pause(run, PAUSED, body)
    elif has_pause(run.waits, scope):
        run.waits = lifted(run.waits, scope, run.version + 1)
        note_pause(run, UNPAUSED, body)


def note_pause(run: ActiveRun, kind: str, body: Mapping[str, Any]) -> None:
    """Note that a run is paused, or goes on."""
    run.journal.add(run.clock.now(), "dispatch", kind, run.plan.path_json, dump(dict(body)))
