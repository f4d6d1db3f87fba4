"""Invoking a workflow by hand: no bus, no mode, no load."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from poundlock.errors import IdempotencyConflict, KeysTaken, RunExists
from poundlock.model.changes import Remember
from poundlock.model.events import Event
from poundlock.model.runs import RunResult
from poundlock.pipeline.active import ActiveRun
from poundlock.runtime.commands.execute import rest_of, start
from poundlock.runtime.control import rested
from poundlock.runtime.core import Core, LiveRun
from poundlock.runtime.dispatch import public
from poundlock.runtime.registration import Registered
from poundlock.runtime.runs import accepted, new_run, pipeline_of

_KEY_WINDOW = 86_400.0


@dataclass(frozen=True, slots=True)
class Create:
    """Run a workflow on an event (or a payload) and wait until it rests."""

    workflow_id: str
    trigger_id: str | None = None
    event: Event | None = None
    payload: Any = None
    run_id: str | None = None
    conflict: Literal["fail", "use_existing"] = "fail"
    idempotency_key: str | None = None


async def create(core: Core, command: Create) -> RunResult:
    """Handle `Create`. The run goes on even if the caller stops waiting."""
    core.check_accepting()
    entry = core.entry(command.workflow_id)
    trigger_id, pipeline_id = pipeline_of(entry, command.trigger_id)
    trigger = None if trigger_id is None else entry.definition.triggers[trigger_id]
    event = command.event
    if event is None:
        event = Event((trigger.event if trigger else None) or entry.id, command.payload, source="/invoke")
    event, text = accepted(core, event)
    initial = {} if event.payload is None else event.payload
    if trigger is not None and trigger.map is not None:
        initial = trigger.map(public(event))
    run = new_run(core, entry, event, initial, pipeline_id=pipeline_id, trigger_id=trigger_id, run_id=command.run_id)
    if command.run_id is None and command.idempotency_key is None:
        live = LiveRun(run, entry, new=True)
        waiter = rest_of(live)
        start(core, live)
        return await waiter
    return await _addressed(core, command, entry, run, text)


async def _addressed(core: Core, command: Create, entry: Registered, run: ActiveRun, text: str) -> RunResult:
    """Create a run that others may know by its id or key: its creation is durable before it starts."""
    changes = run.create()
    if command.idempotency_key is not None:
        fingerprint = hashlib.blake2s(f"{run.event.type}\n{text}".encode()).hexdigest()
        expires = core.clock.now() + _KEY_WINDOW
        key = (f"/invoke/{command.workflow_id}", command.idempotency_key, command.trigger_id or "")
        changes.remember = (Remember(*key, fingerprint, run.identity.run_id, expires),)
    try:
        await core.store.commit(changes)
    except KeysTaken as taken:
        [known] = taken.fields["taken"].values()
        if known.fingerprint != changes.remember[0].fingerprint:
            raise IdempotencyConflict(
                f"the idempotency key '{command.idempotency_key}' was used with another request: use a new key",
                run_id=known.run_id,
            ) from None
        return await rested(core, known.run_id)
    except RunExists:
        if command.conflict == "fail":
            raise
        return await rested(core, run.identity.run_id)
    run.committed(changes)
    live = LiveRun(run, entry, new=True)
    waiter = rest_of(live)
    start(core, live)
    return await waiter
