"""From `emit` to a receipt, and on to the bus; from the bus to a decision."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from poundlock.errors import EmitLoop, InvalidEvent, NotStorable, RunFinished, RunNotFound, StateInvalid
from poundlock.model.events import CONTROL_EVENTS, Event, as_event
from poundlock.model.receipts import ReceiptLine, Verdict
from poundlock.ports import Publication, Subscription
from poundlock.runtime.commands.admit import Admit, admit
from poundlock.runtime.commands.cancel import Cancel, cancel
from poundlock.runtime.commands.signal import Signal, signal
from poundlock.runtime.core import Core, log
from poundlock.runtime.misses import near_misses
from poundlock.runtime.receipts import MAKES_A_RUN, Receipt, new_receipt
from poundlock.runtime.results import results
from poundlock.runtime.slots_told import line_told, waits_for_slot


async def emit(
    core: Core, own: Collection[Subscription], event: Event | str, payload: Any, fields: Mapping[str, Any]
) -> Receipt:
    """Accept an event, then publish it for observers. The receipt is durable before the event is published.

    `own` are the runtime's own subscriptions, which need no copy.
    """
    event = as_event(event, payload, fields)
    admitted = await admit(core, Admit(event))
    lines = admitted.lines
    others = core.bus.has_subscribers(event.type, own)
    if event.type in CONTROL_EVENTS and core.control_events:
        lines = await _controlled(core, admitted.event, lines, others=others)
    if others:
        publication = Publication(admitted.event.detached(), core.store.store_id, decided_by(admitted.lines))
        await _publish(core, publication)
    return new_receipt(admitted.event, lines, partial(results, core))


_REFUSALS: Final = (InvalidEvent, RunNotFound, RunFinished, StateInvalid, NotStorable)
"""What is wrong with a control event, or with the run that it names."""


async def _controlled(
    core: Core, event: Event, lines: tuple[ReceiptLine, ...], *, others: bool
) -> tuple[ReceiptLine, ...]:
    """Carry out a control event, and return the receipt's lines: one of them says what became of it."""
    run_id = run_named(event)
    try:
        await control(core, event)
    except _REFUSALS as error:
        if others and isinstance(error, RunNotFound):
            return lines  # another runtime on this bus may have the run: then the event is for that runtime
        line = ReceiptLine(Verdict.REJECTED, run_id=run_id, reason=f"{error.code}: {error.message}")
    else:
        line = ReceiptLine(Verdict.SIGNALLED, run_id=run_id, reason=event.type)
    return (*(other for other in lines if other.verdict is not Verdict.UNMATCHED), line)


def decided_by(lines: Iterable[ReceiptLine]) -> frozenset[tuple[str, str]]:
    """Return the (workflow, trigger) pairs that have decided."""
    return frozenset((line.workflow_id, line.trigger_id) for line in lines if line.workflow_id and line.trigger_id)


async def spread(core: Core, own: Collection[Subscription], event: Event, decided: frozenset[tuple[str, str]]) -> None:
    """Do what follows the admission of an event: carry out a control event, and publish for observers."""
    others = core.bus.has_subscribers(event.type, own)
    if event.type in CONTROL_EVENTS and core.control_events:
        # Another runtime on this bus may have the run: then the event is for that runtime.
        with contextlib.suppress(RunNotFound) if others else contextlib.nullcontext():
            await control(core, event)
    if others:
        await _publish(core, Publication(event.detached(), core.store.store_id, decided))


async def _publish(core: Core, publication: Publication) -> None:
    """Publish for observers. The event is accepted by now, so a publish cycle among them is not its emitter's fault."""
    try:
        await core.bus.publish(publication)
    except EmitLoop as error:
        log.error("event '%s' was accepted, but not published: %s", publication.event.id, error)


async def explain(core: Core, event: Event | str, payload: Any, fields: Mapping[str, Any]) -> Receipt:
    """Return what would happen, and which of the newest waits it only just misses.

    A line for a run that does not exist yet has no run id: the id could not be found.
    """
    admitted = await admit(core, Admit(as_event(event, payload, fields), dry=True))
    lines = [await _with_line(core, line, admitted.pairs) for line in admitted.lines]
    lines = [replace(line, run_id=None) if line.verdict in MAKES_A_RUN else line for line in lines]
    lines += await near_misses(core, admitted.event, lines)
    return Receipt(admitted.event, tuple(lines))


async def _with_line(core: Core, line: ReceiptLine, pairs: Mapping[str, tuple[str, str]]) -> ReceiptLine:
    """Return a line that also says what the run waits for that would be queued, or that is in line for a slot."""
    pair = None
    if line.verdict is Verdict.QUEUED and line.run_id is not None:
        pair = pairs.get(line.run_id)
    elif line.verdict is Verdict.BUFFERED and line.run_id is not None:
        record = await core.store.load(line.run_id)
        if record is not None and record.identity.load_key is not None and waits_for_slot(record.head):
            pair = (record.identity.workflow_id, record.identity.load_key)
    told = "" if pair is None else await line_told(core, pair)
    return replace(line, reason="; ".join(filter(None, (line.reason, told)))) if told else line


async def from_bus(core: Core, publication: Publication) -> None:
    """Decide an event from the bus, except for what its emitter decided on this store already."""
    if not core.accepting:
        return
    same_store = publication.store_id == core.store.store_id
    command = Admit(publication.event, publication.decided if same_store else frozenset(), waits=not same_store)
    if same_store and not _anything_left(core, command):
        return
    await admit(core, command)
    if publication.event.type in CONTROL_EVENTS and core.control_events and not same_store:
        with contextlib.suppress(RunNotFound):  # a run of another store
            await control(core, publication.event)


def _anything_left(core: Core, command: Admit) -> bool:
    routes = core.index.match(command.event.type)
    return any((route.entry.id, route.trigger_id) not in command.decided for route in routes)


async def control(core: Core, event: Event) -> None:
    """Carry out a control event. Every caller of `emit` may do that, see `WorkflowRuntime(control_events=)`.

    Raises:
        InvalidEvent: it names no run, or its reason is no text.
        RunNotFound, RunFinished, StateInvalid, NotStorable: what the call would raise.
    """
    payload = event.payload if isinstance(event.payload, dict) else {}
    run_id = run_named(event)
    if run_id is None:
        raise InvalidEvent(f"a {event.type} event names no run: give its payload a run_id", path="payload.run_id")
    if event.type == "run:abort":
        reason = payload.get("reason", "")
        if not isinstance(reason, str):
            raise InvalidEvent(
                f"the reason of a {event.type} event is no text: give text, or leave it out", path="payload.reason"
            )
        await cancel(core, Cancel(run_id, reason, event.source or "event"))
    else:
        await signal(core, Signal(run_id, payload.get("patch") or {}))


def run_named(event: Event) -> str | None:
    """Return the run that a control event names; None if it names none."""
    run_id = event.payload.get("run_id") if isinstance(event.payload, dict) else None
    return run_id if isinstance(run_id, str) else None
