"""Runs in this process's memory: how new ones are made, and how they are restored from checkpoints."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

from poundlock.codecs import TYPE_TAG, dump, encode, pack, pack_patch
from poundlock.errors import InvalidDefinition, InvalidEvent, NotRegistered, RunExists, suggest
from poundlock.model.drafts import new_tuple
from poundlock.model.events import Event, quoted
from poundlock.model.patches import merge
from poundlock.model.runs import Checkpoint, RunIdentity
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.changing import migrate, pipeline_gone
from poundlock.pipeline.journal import patch_entry
from poundlock.pipeline.plan import PipelinePlan
from poundlock.pipeline.runner import begin
from poundlock.pipeline.states import as_data, begun, with_signals
from poundlock.pipeline.writing import creation_of, take_checkpoint, take_commit
from poundlock.runtime.core import Core
from poundlock.runtime.entries import Registered
from poundlock.runtime.healing import FAULTS, is_written, patiently
from poundlock.runtime.parked_run import ParkedRun
from poundlock.runtime.run_table import LiveRun


def invocation(type: str, payload: Any, run_id: str, now: float) -> tuple[Event, str]:
    """Return the event of an invocation with a payload, as it is accepted. It is named like its run.

    Raises:
        NotStorable: the payload is not data; `path` names it.
    """
    decoded, text = pack(payload, "payload", "none")
    event = Event.trusted(type, decoded, id=run_id, time=now, source="/invoke", key=None, headers={})
    return event, text


def new_run(
    core: Core,
    entry: Registered,
    event: Event,
    initial: Any,
    pipeline_id: str,
    trigger_id: str | None,
    payload_text: str,
    now: float,
    run_id: str | None = None,
    event_ref: str | None = None,
    load_key: str | None = None,
    priority: int = 0,
    parent: RunIdentity | None = None,
) -> ActiveRun:
    """Return a new run at its first stage, not stored yet.

    Args:
        initial: the initial state.
        payload_text: JSON text of the event's payload, encoded when the event was accepted.
        now: when it is created.
        load_key: the partition it counts in; None for invoked runs.
        parent: the run that starts it, if a run does.

    Raises:
        InvalidEvent: `initial` is not a mapping.
        NotStorable, StateInvalid: it is not data, or does not fit the state's model.
    """
    plan = entry.plans[pipeline_id]
    if initial is event.payload and isinstance(initial, dict):
        state, text = initial, payload_text
    else:
        state, text = pack_patch(as_mapping(as_data(plan.state_model, initial)), "state")
        if TYPE_TAG in text:
            state = merge({}, state)  # a patch of an empty state: its deletions have no effect
    if plan.state_model is not None:
        state, text = begun(plan.state_model, state, text)
    if run_id is None:
        run_id = core.ids.uuid7(now)
    identity = new_tuple(
        RunIdentity,
        (
            run_id,
            entry.id,
            trigger_id,
            pipeline_id,
            entry.definition.hash,
            load_key or event.key,
            load_key,
            priority,
            None if parent is None else parent.run_id,
            () if parent is None else (*parent.above, parent.run_id),
            now,
            event_ref or run_id,
        ),
    )
    run = ActiveRun(
        identity=identity,
        plan=plan,
        event=event,
        state=state,
        owner=core.worker,
        clock=core.clock,
        threads=core.threads,
        timeline=core.timeline,
        make_container=entry.make_container,
        supervision=core.supervision,
    )
    run.payload_text = payload_text
    if core.timeline:
        created = patch_entry("dispatch", "run:created", plan.path_json, created_detail(event, trigger_id), text)
        run.journal.put(now, created, plan.start_entry)
    else:
        run.journal.put(now, patch_entry("dispatch", "run:created", plan.path_json, "null", text))
    if plan.secrets is not None and plan.secrets.entry:
        run.journal.put(now, plan.secrets.entry)
    begin(run)
    return run


def created_detail(event: Event, trigger_id: str | None) -> str:
    """Return the payload of `run:created`. Its texts are printable, so quoting them takes a third of encoding all."""
    named = f'"id":{quoted(event.id)},"type":{quoted(event.type)},"source":{quoted(event.source)}'
    return f'{{"event":{{{named}}},"trigger":{"null" if trigger_id is None else encode(trigger_id)}}}'


def state_here(core: Core, run_id: str) -> tuple[Any, dict[str, Any]] | None:
    """Return the model of a run's state, and the state with the signals that came; None if it is not in memory here.

    Without a model the state is not needed, and may be empty.
    """
    live = core.runs.live(run_id)
    if live is not None:
        return live.run.plan.state_model, live.run.coming()
    parked = core.runs.parked(run_id)
    if parked is None:
        return None
    model = parked.entry.definition.state_of(parked.identity.pipeline_id)
    if model is None:
        return None, {}
    kept = parked.checkpoint()
    return model, with_signals(model, kept.state, (*kept.inbox, *parked.early))


def as_mapping(initial: Any) -> dict[str, Any]:
    """Return an initial state as a dict.

    Raises:
        InvalidEvent: it is neither a mapping nor a model.
    """
    from collections.abc import Mapping

    if isinstance(initial, Mapping):
        return dict(initial)
    if hasattr(type(initial), "model_dump"):
        data = pack(initial, "state")[0]
        if isinstance(data, dict):
            return data
    raise InvalidEvent(
        f"a run's state begins with a mapping, not with a {type(initial).__qualname__}: give the trigger a map=",
        path="payload",
    )


def without_stages(entry: Registered, pipeline_id: str) -> PipelinePlan:
    """Return a plan for runs of a pipeline that the workflow no longer has: it has no stages."""
    plan = next(iter(entry.plans.values()))
    return replace(
        plan,
        id=pipeline_id,
        path_json=dump(pipeline_id),
        stages=(),
        by_id={},
        declared=(),
        waits={},
        on_failure="fail",
        undoes=False,
        limit=None,
    )


def restored_run(core: Core, entry: Registered, checkpoint: Checkpoint, plan: PipelinePlan | None = None) -> ActiveRun:
    """Return a stored run as an active one, at the position of its checkpoint.

    Raises:
        StageGone: the workflow no longer has the run's pipeline.
    """
    identity = checkpoint.record.identity
    plan = plan or entry.plans.get(identity.pipeline_id)
    if plan is None:
        raise pipeline_gone(identity)
    run = ActiveRun(
        identity=identity,
        plan=plan,
        event=checkpoint.event,
        state=checkpoint.state,
        owner=core.worker,
        clock=core.clock,
        threads=core.threads,
        timeline=core.timeline,
        make_container=entry.make_container,
        supervision=core.supervision,
    )
    take_checkpoint(run, checkpoint)
    if plan.migrate is not None:
        migrate(run)  # what goes wrong is found again when it is driven
    return run


def unparked(core: Core, parked: ParkedRun) -> ActiveRun:
    """Return a run that is parked in memory as an active one: itself, or as if its row had been read."""
    run = parked.kept
    if run is not None:
        run.returning = True
        return run
    run = restored_run(core, parked.entry, parked.checkpoint())
    run.exported = parked.exported
    return run


async def ensure_written(core: Core, live: LiveRun) -> None:
    """Store the creation of an invoked run that has not reached its first boundary, so that others can address it."""
    if live.creation is None:
        if live.run.written or not core.runs.is_current(live):
            return  # also not if it was given up: nothing of it is kept
        live.creation = core.tasks.spawn(_write_creation(core, live))
    await asyncio.shield(live.creation)


async def _write_creation(core: Core, live: LiveRun) -> None:
    creation = creation_of(live.run)
    try:
        try:
            await core.commit(creation)
        except FAULTS:
            if not await patiently(core, partial(is_written, core, creation), f"reading run '{live.run.run_id}'"):
                raise
        announced = live.run.registered
        take_commit(live.run, creation)
        core.runs.written(live.run.run_id)
        live.run.registered = announced  # the stage that registered them is not concluded
    except RunExists:
        pass  # its first boundary was quicker
    finally:
        live.creation = None


def pipeline_of(entry: Registered, trigger_id: str | None) -> tuple[str | None, str]:
    """Return the trigger and pipeline of an invocation.

    Raises:
        NotRegistered: unknown trigger; the message names near matches.
        InvalidDefinition: there are several, and none was named.
    """
    triggers = entry.definition.triggers
    if trigger_id is None:
        if entry.invoked is None:
            raise InvalidDefinition(
                f"workflow '{entry.id}' has several triggers and pipelines: name one of {', '.join(triggers)}",
                path="trigger_id",
            )
        return entry.invoked
    trigger = triggers.get(trigger_id)
    if trigger is None:
        raise NotRegistered(
            f"workflow '{entry.id}' has no trigger '{trigger_id}': {suggest(trigger_id, list(triggers))}",
            workflow_id=entry.id,
            trigger_id=trigger_id,
        )
    return trigger_id, entry.definition.pipeline_of(trigger)
