"""Events that user code emits with `ctx.emit`: collected by attempt, and part of the commit in which its work is kept.

House rules: an attempt that failed, or was given up, leaves none; a boundary that is concluded again begins with those
it had before. Their ids follow from the run, the place and the visit, so an attempt that is repeated after a crash
emits the same ids.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from poundlock.codecs import dump
from poundlock.guard import Description
from poundlock.model.events import Event, accepted, as_event, is_name, merged
from poundlock.model.outbox import Outgoing, Refused, error_text
from poundlock.pipeline.run_view import RunView

EMITTED: Final = "event:emitted"
"""Type of the entries in the timeline."""
_NO_CHANGE: Final = "{}"
_one_at_a_time: Final = threading.Lock()
"""A step may emit in several threads; two events must not get the same number."""


def collect(
    outgoing: list[Outgoing], run: RunView, key: str, event: Event | str, payload: Any, fields: Mapping[str, Any]
) -> str:
    """Add an event to those of an attempt, and return its id.

    Args:
        outgoing: those that it has emitted so far.
        run: the run.
        key: names the place and the visit; the event's id is made of it and its number in the attempt.
        event: an event, or a type: then its source is the workflow, `/run/<workflow>`.
        payload: its payload, if it is a type; None is `{}`.
        fields: merged into the payload.

    Raises:
        InvalidEvent, NotStorable: it is not an event; nothing was added.
    """
    now = run.clock.now()
    built = None if isinstance(event, Event) else merged(payload, fields)
    with _one_at_a_time:
        if isinstance(event, Event):
            made = as_event(event, payload, fields)
        else:
            made = Event(event, built, id=_id_of(key, len(outgoing) + 1), source=_source_of(run.identity.workflow_id))
        outgoing.append(Outgoing(*run.redacted(*accepted(made, now))))
    return made.id


def send(run: RunView, path_json: str, outgoing: Sequence[Outgoing]) -> None:
    """Have events leave with the next boundary of the run, and note them in its timeline."""
    run.outgoing = (*run.outgoing, *outgoing)
    now = run.clock.now()
    for event, _ in outgoing:
        # With a patch, so that it is kept without a timeline too: the next visit of the stage gives other ids.
        run.journal.add(now, "pipeline", EMITTED, path_json, dump({"id": event.id, "type": event.type}), _NO_CHANGE)


def refused(run: RunView, event: Event, wait_id: str, said: Description) -> None:
    """Have an event that a wait of the run refused be a dead letter, with the next boundary of the run."""
    error = error_text(said.type, said.message, said.code, wait_id)
    run.outgoing = (*run.outgoing, Refused(event, dump(event.payload), error))


def _id_of(key: str, number: int) -> str:
    return _name(f"{key}/{number}")


def _source_of(workflow_id: str) -> str:
    return _name(f"/run/{workflow_id}")


def _name(text: str) -> str:
    """Return a text if it can be an event's id, else a digest of it: the key of an element may be anything."""
    return text if is_name(text) else hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
