"""Invoking a workflow by hand: no bus, no mode, no load."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from poundlock.errors import IdempotencyConflict, InvalidDefinition, KeysTaken, NotRegistered, RunExists
from poundlock.model.changes import WITH_ITS_RUN, Changes, Remember
from poundlock.model.events import Event, is_name
from poundlock.model.runs import RunResult
from poundlock.pipeline.active import ActiveRun
from poundlock.runtime.commands.execute import start
from poundlock.runtime.control import rested
from poundlock.runtime.core import Core, LiveRun
from poundlock.runtime.registration import Registered
from poundlock.runtime.runs import accepted, invocation, new_run, pipeline_of
from poundlock.runtime.waiters import Waiter


@dataclass(slots=True)
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
    if entry.closing:
        raise NotRegistered(f"workflow '{entry.id}' is being deregistered: register it again", workflow_id=entry.id)
    if command.conflict not in ("fail", "use_existing"):
        raise InvalidDefinition(f"conflict is {command.conflict!r:.60}: use 'fail' or 'use_existing'", path="conflict")
    for path, name in (("run_id", command.run_id), ("idempotency_key", command.idempotency_key)):
        if name is not None and not is_name(name):
            raise InvalidDefinition(
                f"{path} is {name!r:.60}: use printable text of 1 to 1024 characters without outer blanks", path=path
            )
    trigger_id, pipeline_id = pipeline_of(entry, command.trigger_id)
    trigger = None if trigger_id is None else entry.definition.triggers[trigger_id]
    run_id = core.ids.uuid7(core.clock.now()) if command.run_id is None else command.run_id
    if command.event is not None:
        event, text = accepted(core, command.event)
    else:
        event, text = invocation(core, (trigger.event if trigger else None) or entry.id, command.payload, run_id)
    initial = {} if event.payload is None else event.payload
    if trigger is not None and trigger.map is not None:
        initial = trigger.map(event.detached())
    run = new_run(
        core,
        entry,
        event,
        initial,
        pipeline_id=pipeline_id,
        trigger_id=trigger_id,
        payload_text=text,
        run_id=run_id,
    )
    if command.run_id is None and command.idempotency_key is None:
        live = LiveRun(run, entry, new=True)
        waiter = core.waiters.rest(run.identity.run_id)
        start(core, live)
        return await waiter
    return await _addressed(core, command, entry, run, text)


async def _addressed(core: Core, command: Create, entry: Registered, run: ActiveRun, text: str) -> RunResult:
    """Create a run that others may know by its id or key: its creation is durable before it starts."""
    changes = run.create()
    if command.idempotency_key is not None:
        request = f"{run.identity.trigger_id}\n{run.event.type}\n{text}"
        fingerprint = hashlib.blake2s(request.encode()).hexdigest()
        now = core.clock.now()
        key = Remember(
            f"/invoke/{entry.id}", command.idempotency_key, "/", fingerprint, run.identity.run_id, WITH_ITS_RUN
        )
        try:
            # The key speaks first, also where the run's id is taken: checked here, remembered with the creation.
            await core.store.commit(Changes(remember=(key._replace(expires_at=now),), now=now))
        except KeysTaken as taken:
            return await rested(core, _first_call(key, taken))
        changes.remember = (key,)
    try:
        waiter = await core.to_the_end(_begin(core, entry, run, changes))
    except KeysTaken as taken:
        return await rested(core, _first_call(changes.remember[0], taken))
    except RunExists:
        if command.conflict == "fail":
            raise
        return await rested(core, run.identity.run_id)
    return await waiter


async def _begin(core: Core, entry: Registered, run: ActiveRun, changes: Changes) -> Waiter:
    await core.store.commit(changes)
    run.committed(changes)
    waiter = core.waiters.rest(run.identity.run_id)
    start(core, LiveRun(run, entry, new=True))
    return waiter


def _first_call(key: Remember, taken: KeysTaken) -> str:
    """Return the run that the first call with an idempotency key made.

    Raises:
        IdempotencyConflict: it asked for something else.
    """
    [known] = taken.fields["taken"].values()
    if known.fingerprint != key.fingerprint:
        raise IdempotencyConflict(
            f"the idempotency key '{key.event_id}' was used with another request: use a new key", run_id=known.run_id
        ) from None
    return str(known.run_id)
