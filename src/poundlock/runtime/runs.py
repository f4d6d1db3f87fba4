"""Runs coming into this process's memory: new ones, and those a checkpoint describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from poundlock.codecs import dump, pack
from poundlock.errors import InvalidEvent, NotRegistered, RunExists, StageGone
from poundlock.model.events import Event
from poundlock.model.runs import Checkpoint, RunIdentity
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.boundary import validate
from poundlock.pipeline.runner import begin
from poundlock.pipeline.waiting import AnnouncedWaits

if TYPE_CHECKING:
    from poundlock.artifacts import ArtifactContainer
    from poundlock.runtime.core import Core, LiveRun
    from poundlock.runtime.registration import Registered


def accepted(core: Core, event: Event) -> tuple[Event, str]:
    """Return an event as it is stored: its payload detached, its time stamped; and the payload's JSON text.

    Raises:
        NotStorable: the payload or a header is no data; `path` names it.
    """
    payload, text = pack(event.payload, "payload") if event.payload is not None else (None, "null")
    headers = pack(event.headers, "headers")[0] if event.headers else event.headers
    time = core.clock.now() if event.time is None else event.time
    stored = Event(event.type, payload, id=event.id, time=time, source=event.source, key=event.key, headers=headers)
    return stored, text


def new_run(
    core: Core,
    entry: Registered,
    event: Event,
    initial: Any,
    *,
    pipeline_id: str,
    trigger_id: str | None,
    run_id: str | None = None,
    event_ref: str | None = None,
    load_key: str | None = None,
    priority: int = 0,
) -> ActiveRun:
    """Return a new run at its first stage, not written anywhere yet.

    Args:
        initial: what the state begins with.
        load_key: the partition it counts in; None for invoked runs.

    Raises:
        InvalidEvent: `initial` is no mapping.
        NotStorable, StateInvalid: it is no data, or does not fit the state's model.
    """
    if not isinstance(initial, dict):
        initial = _mapping(initial)
    if initial is event.payload:
        state, text = initial, None  # packed already when the event was accepted
    else:
        state, text = pack(initial, "state")
    now = core.clock.now()
    if run_id is None:
        run_id = core.ids.uuid7(now)
    identity = RunIdentity(
        run_id,
        entry.id,
        trigger_id,
        pipeline_id,
        entry.definition.hash,
        load_key or event.key,
        load_key,
        priority,
        None,
        (),
        now,
        event_ref or run_id,
    )
    run = ActiveRun(
        identity=identity,
        plan=entry.plans[pipeline_id],
        event=event,
        state=state,
        owner=core.worker,
        clock=core.clock,
        threads=core.threads,
        timeline=core.timeline,
        make_container=container_for(core, entry),
    )
    if run.plan.state_model is not None:
        validate(run, state)
    payload = "null"
    if core.timeline:
        payload = _created(event, trigger_id)
    run.journal.add(now, "dispatch", "run:created", run.plan.path_json, payload, text or dump(state))
    if core.timeline:
        run.journal.add(now, "pipeline", "pipeline:start", run.plan.path_json)
    begin(run)
    return run


def container_for(core: Core, entry: Registered) -> Callable[[ActiveRun], ArtifactContainer]:
    """Return how a run of this workflow gets its container."""

    def make(run: ActiveRun) -> ArtifactContainer:
        return entry.services.run_container(
            run.identity.run_id, lambda: state_store(core, entry, run), AnnouncedWaits(run)
        )

    return make


def state_store(core: Core, entry: Registered, run: ActiveRun) -> Any:
    """Return the store that a run's services select its state from, and keep it up to date from now on."""
    from poundlock.state import StateRegistry

    if core.state_registry is None:
        core.state_registry = StateRegistry()
    if run.state_store is None:
        run.state_store = core.state_registry.make(entry.id, run.state, entry.definition.state)
    return run.state_store


def _created(event: Event, trigger_id: str | None) -> str:
    return dump({"event": {"id": event.id, "type": event.type, "source": event.source}, "trigger": trigger_id})


def _mapping(initial: Any) -> dict[str, Any]:
    from collections.abc import Mapping

    if isinstance(initial, Mapping):
        return dict(initial)
    if hasattr(type(initial), "model_dump"):
        return dict(initial.model_dump())
    raise InvalidEvent(
        f"a run's state begins with a mapping, not with a {type(initial).__qualname__}: give the trigger a map=",
        path="payload",
    )


def restored_run(core: Core, entry: Registered, checkpoint: Checkpoint) -> ActiveRun:
    """Return a stored run as an active one, standing where its checkpoint stands.

    Raises:
        StageGone: the workflow no longer has the run's pipeline.
    """
    identity = checkpoint.record.identity
    plan = entry.plans.get(identity.pipeline_id)
    if plan is None:
        raise StageGone(
            f"run '{identity.run_id}' belongs to pipeline '{identity.pipeline_id}', which workflow '{entry.id}' "
            f"no longer has: restore it, or abort the run",
            run_id=identity.run_id,
        )
    run = ActiveRun(
        identity=identity,
        plan=plan,
        event=checkpoint.event,
        state=checkpoint.state,
        owner=core.worker,
        clock=core.clock,
        threads=core.threads,
        timeline=core.timeline,
        make_container=container_for(core, entry),
    )
    run.adopt(checkpoint)
    return run


async def ensure_written(core: Core, live: LiveRun) -> None:
    """Write the creation of an invoked run that has not reached its first boundary, so that others can address it."""
    run = live.run
    if run.written:
        return
    changes = run.create()
    try:
        await core.store.commit(changes)
    except RunExists:
        return  # its first boundary was quicker
    run.committed(changes)


def pipeline_of(entry: Registered, trigger_id: str | None) -> tuple[str | None, str]:
    """Return the trigger and pipeline an invocation means: the named trigger, the only one, or the only pipeline.

    Raises:
        NotRegistered: unknown trigger; the message names near matches.
        InvalidDefinition: there are several and none was named.
    """
    from poundlock.errors import InvalidDefinition, suggest

    triggers = entry.definition.triggers
    if trigger_id is not None:
        trigger = triggers.get(trigger_id)
        if trigger is None:
            raise NotRegistered(
                f"workflow '{entry.id}' has no trigger '{trigger_id}': {suggest(trigger_id, list(triggers))}",
                workflow_id=entry.id,
                trigger_id=trigger_id,
            )
        return trigger_id, trigger.pipeline or next(iter(entry.plans))
    if len(triggers) == 1:
        only, trigger = next(iter(triggers.items()))
        return only, trigger.pipeline or next(iter(entry.plans))
    if len(entry.plans) == 1:
        return None, next(iter(entry.plans))
    raise InvalidDefinition(
        f"workflow '{entry.id}' has several triggers and pipelines: name one of {', '.join(triggers) or 'none'}",
        path="trigger_id",
    )
