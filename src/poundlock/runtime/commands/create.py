"""Invoking a workflow by hand: no bus, no mode, no load."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Final, Literal

from poundlock.errors import (
    IdempotencyConflict,
    InvalidDefinition,
    InvalidEvent,
    KeysTaken,
    NotRegistered,
    RunExists,
    RunNotFound,
    StaleVersion,
    WorkflowPaused,
)
from poundlock.guard import call_now, describe, repr_of
from poundlock.model.changes import WITH_ITS_RUN, Changes, Remember, RunCreate, RunDelete
from poundlock.model.events import Event, accepted, is_name
from poundlock.model.runs import RunIdentity
from poundlock.model.while_paused import paused_text
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.states import as_data
from poundlock.pipeline.writing import creation_of, take_creation
from poundlock.records import dataclass
from poundlock.runtime.core import Core
from poundlock.runtime.driver import start
from poundlock.runtime.entries import Registered
from poundlock.runtime.phases import Phase
from poundlock.runtime.run_table import LiveRun
from poundlock.runtime.runs import invocation, new_run, pipeline_of
from poundlock.runtime.terminating import place_of, terminated

Conflict = Literal["fail", "use_existing", "terminate_existing"]
"""What a call does if there is a run of the id that it gives."""
_CONFLICTS: Final = ("fail", "use_existing", "terminate_existing")


@dataclass(slots=True)
class Create:
    """Run a workflow on an event or a payload."""

    workflow_id: str
    trigger_id: str | None = None
    event: Event | None = None
    payload: Any = None
    run_id: str | None = None
    conflict: Conflict = "fail"
    idempotency_key: str | None = None
    parent: RunIdentity | None = None
    """The run whose step starts it, if one does."""


async def start_run(core: Core, parent: RunIdentity, workflow_id: str, payload: Any, key: str) -> str:
    """Start a run for a step of another one, once for each key. Raises as `create`."""
    return await create(core, Create(workflow_id, payload=payload, idempotency_key=key, parent=parent))


async def create(core: Core, command: Create) -> str:
    """Handle `Create`: returns the run's id once it is accepted. The run continues even if nothing waits for it.

    A run with the caller's id or key is durable by then; otherwise its creation is committed with its first boundary.

    Raises:
        NotRegistered, InvalidDefinition: unknown workflow or trigger, or several and none named.
        RunExists: the id is taken; unless `conflict` is "fail", by a run of another workflow.
        IdempotencyConflict: the key was used with other content.
        WouldDeadlock: the run to terminate is the caller's own, or waits for it.
        NotStorable, StateInvalid, InvalidEvent: the event cannot begin a run.
        WorkflowPaused: it is paused, and rejects what comes.
    """
    core.check_accepting()
    entry = core.entry(command.workflow_id)
    if entry.closing:
        raise NotRegistered(f"workflow '{entry.id}' is being deregistered: register it again", workflow_id=entry.id)
    paused = core.pause_of(entry.id) if core.pauses and command.parent is None else None
    if paused is not None and paused.incoming == "reject":
        raise WorkflowPaused(
            f"{paused_text(paused)}: unpause {'it' if paused.workflow_id else 'all'}, then call again",
            workflow_id=entry.id,
        )
    if command.conflict not in _CONFLICTS:
        raise InvalidDefinition(
            f"conflict is {command.conflict!r:.60}: use 'fail', 'use_existing' or 'terminate_existing'", path="conflict"
        )
    addressed = command.run_id is not None or command.idempotency_key is not None
    if addressed:
        _check_names(command)
    trigger_id, pipeline_id = pipeline_of(entry, command.trigger_id)
    trigger = None if trigger_id is None else entry.definition.triggers[trigger_id]
    now = core.clock.now()
    run_id = core.ids.uuid7(now) if command.run_id is None else command.run_id
    if command.event is not None:
        if not isinstance(command.event, Event):
            raise InvalidEvent(f"{repr_of(command.event, 60)} is not an Event: give Event(type, payload)", path="event")
        event, text = accepted(command.event, now)
    else:
        payload, model = command.payload, entry.definition.state_of(pipeline_id)
        if model is not None and isinstance(payload, model):
            payload = as_data(model, payload)  # by the same rule as all data of that type
        event, text = invocation((trigger.event if trigger else None) or entry.id, payload, run_id, now)
    if core.redaction.active:
        event, text = core.redaction.of_run([entry.id], event, text)
    initial = {} if event.payload is None else event.payload
    mapped = None if trigger_id is None else entry.functions.triggers[trigger_id].map
    if mapped is not None:
        answer = call_now(mapped, event.detached())
        if isinstance(answer.error, Exception) and not isinstance(answer.error, (StopIteration, StopAsyncIteration)):
            raise answer.error
        if answer.error is not None:  # an error that would end the process, or has a meaning to coroutines
            said = describe(answer.error)
            raise InvalidEvent(f"map of trigger '{trigger_id}' raised {said.type}: {said.message}", path="map")
        initial = answer.value
    run = new_run(
        core,
        entry,
        event,
        initial,
        pipeline_id=pipeline_id,
        trigger_id=trigger_id,
        payload_text=text,
        now=now,
        run_id=run_id,
        parent=command.parent,
    )
    if not addressed:
        start(core, LiveRun(run, entry, new=True))
        return run.run_id
    return await _addressed(core, command, entry, run, text)


def _check_names(command: Create) -> None:
    for path, name in (("run_id", command.run_id), ("idempotency_key", command.idempotency_key)):
        if name is not None and not is_name(name):
            raise InvalidDefinition(
                f"{path} is {name!r:.60}: use printable text of 1 to 1024 characters without outer blanks", path=path
            )


async def _addressed(core: Core, command: Create, entry: Registered, run: ActiveRun, text: str) -> str:
    """Create a run that others may find by its id or key: its creation is durable before it starts."""
    keys: tuple[Remember, ...] = ()
    if command.idempotency_key is not None:
        request = f"{run.identity.trigger_id}\n{run.event.type}\n{text}"
        fingerprint = hashlib.blake2s(request.encode()).hexdigest()
        now = core.clock.now()
        key = Remember(f"/invoke/{entry.id}", command.idempotency_key, "/", fingerprint, run.run_id, WITH_ITS_RUN)
        try:
            # The key is checked first, even if the run's id is taken: checked here, remembered with the creation.
            await core.commit(Changes(remember=(key._replace(expires_at=now),), now=now))
        except KeysTaken as taken:
            return _first_call(key, taken)
        keys = (key,)
    if command.conflict != "terminate_existing":
        return await _place(core, command, entry, run, keys)
    async with place_of(core, run.run_id):
        return await _place(core, command, entry, run, keys)


async def _place(core: Core, command: Create, entry: Registered, run: ActiveRun, keys: tuple[Remember, ...]) -> str:
    """Begin a run, in the place of the one of its id if that is to be terminated."""
    while True:
        if command.conflict == "terminate_existing":
            await _check_same_workflow(core, entry, run.run_id)
        gone = await terminated(core, run.run_id) if command.conflict == "terminate_existing" else None
        if gone is not None:
            run.epoch = gone.head.epoch + 1  # so that nothing of the old one can be written to the new one
        creation = creation_of(run)
        work: RunCreate | Changes = creation
        if keys or gone is not None:
            deletes = () if gone is None else (RunDelete(run.run_id, gone.head.version),)
            work = Changes(creates=(creation,), remember=keys, deletes=deletes, now=core.clock.now())
        try:
            await core.tasks.to_the_end(_begin(core, entry, run, work))
        except KeysTaken as taken:
            return _first_call(keys[0], taken)
        except RunExists:
            if command.conflict == "fail":
                raise
            if command.conflict == "terminate_existing":
                continue  # another call was quicker: its run is terminated then
            await _check_same_workflow(core, entry, run.run_id)
        except (StaleVersion, RunNotFound):
            continue  # the old one was begun again, or deleted
        return run.run_id


async def _check_same_workflow(core: Core, entry: Registered, run_id: str) -> None:
    """Refuse to answer with a run of another workflow, or to end it (`RunExists`)."""
    existing = await core.store.load(run_id)
    if existing is not None and existing.identity.workflow_id != entry.id:
        raise RunExists(
            f"run '{run_id}' is one of workflow '{existing.identity.workflow_id}', not of '{entry.id}': use another id",
            run_id=run_id,
        )


async def _begin(core: Core, entry: Registered, run: ActiveRun, work: RunCreate | Changes) -> None:
    run_id = run.run_id
    if core.runs.phase(run_id) is Phase.ABSENT:  # else the id is taken, and the commit refuses it
        core.runs.expect(run_id, asyncio.current_task())
    try:
        await core.commit(work)
    except BaseException:
        vacancy = core.runs.vacancy(run_id)
        if vacancy is not None and vacancy.task is asyncio.current_task():
            core.runs.drop(run_id)
        raise
    take_creation(run, work.creates[0] if isinstance(work, Changes) else work)
    start(core, LiveRun(run, entry, new=True))


def _first_call(key: Remember, taken: KeysTaken) -> str:
    """Return the run that the first call with an idempotency key created.

    Raises:
        IdempotencyConflict: its request was different.
    """
    [known] = taken.taken.values()
    if known.fingerprint != key.fingerprint:
        raise IdempotencyConflict(
            f"the idempotency key '{key.event_id}' was used with another request: use a new key", run_id=known.run_id
        ) from None
    return str(known.run_id)
