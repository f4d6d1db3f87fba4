"""Registering workflows: validation, compilation, wiring; and deregistering them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal

from poundlock.errors import (
    AlreadyRegistered,
    EnvMissing,
    InvalidDefinition,
    PoundlockError,
    RunFinished,
    RunNotFound,
    WouldDeadlock,
)
from poundlock.guard import name_of, repr_of
from poundlock.model.checks import Fault
from poundlock.model.definitions import Service
from poundlock.model.modes import Mode
from poundlock.model.redaction import masks_of_paths, needed_faults, shown_faults
from poundlock.model.validation import faults_of, refuse
from poundlock.model.waits import wait_events
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.binding import Bindings, bind
from poundlock.pipeline.builder import Workflow
from poundlock.pipeline.compiling import compile_plans
from poundlock.pipeline.injection import Injector
from poundlock.ports import Subscription
from poundlock.runtime.awaited import awaiting, to_wait_for_driven
from poundlock.runtime.commands.cancel import Cancel, cancel
from poundlock.runtime.core import Core, log
from poundlock.runtime.entries import Registered
from poundlock.runtime.equipment import StageContainers, close_container, container_for, invoked_by_default
from poundlock.runtime.healing import patiently
from poundlock.runtime.hooks import BoundHooks, Hooks, bind_hooks
from poundlock.runtime.run_table import LiveRun
from poundlock.runtime.secrets import give_secrets, tell_parents
from poundlock.services.install import WorkflowServices, service_types


class Subscriptions:
    """One subscription on the bus per event type, with a count of its users."""

    def __init__(self, core: Core, handler: Callable[..., Awaitable[Any]]) -> None:
        self._core = core
        self._handler = handler
        self._held: dict[str, tuple[Subscription, int]] = {}
        """By type or pattern: the subscription, and how many users it has."""
        self._own: set[Subscription] = set()

    def take(self, pattern: str) -> None:
        """Subscribe to a type or pattern, or count one more user of it."""
        held = self._held.get(pattern)
        if held is None:
            held = (self._core.bus.subscribe_publications(pattern, self._handler), 0)
            self._own.add(held[0])
        self._held[pattern] = (held[0], held[1] + 1)

    def release(self, pattern: str) -> None:
        """Remove one user; without users the subscription ends."""
        held = self._held.pop(pattern, None)
        if held is None:
            return
        if held[1] > 1:
            self._held[pattern] = (held[0], held[1] - 1)
        else:
            held[0].cancel()
            self._own.discard(held[0])

    def want(self, run_id: str, events: list[str]) -> None:
        """Subscribe to a run's awaited event types that its workflow does not declare, in place of the previous ones.

        A router may create a type for each run ("reply.<id>"), so these do not stay until the runtime stops.
        """
        before = self._core.wanted.pop(run_id, ())
        if events:
            self._core.wanted[run_id] = events
        for event in events:
            self.take(event)
        for event in before:
            self.release(event)

    @property
    def own(self) -> Collection[Subscription]:
        """The subscriptions of this runtime, to exclude them when publishing to others."""
        return self._own

    def close(self) -> None:
        """End all subscriptions."""
        for subscription, _ in self._held.values():
            subscription.cancel()
        self._held.clear()
        self._core.wanted.clear()
        self._own.clear()


async def register(
    core: Core,
    subscriptions: Subscriptions,
    workflow: Workflow | WorkflowDefinition,
    mode: Mode | None,
    hooks: Hooks,
    global_services: tuple[Service, ...],
) -> Registered:
    """Check a workflow, compile it and wire its triggers.

    Raises:
        AlreadyRegistered: this runtime has a workflow of this id.
        DuplicateKey, InvalidDefinition: the definition has faults; nothing was registered.
        EnvMissing: required variables are not set; all are named.
    """
    if not isinstance(workflow, Workflow | WorkflowDefinition):
        raise InvalidDefinition(
            f"{repr_of(workflow, 60)} is not a Workflow: give workflows one by one", path="workflow"
        )
    definition, faults = workflow.draft() if isinstance(workflow, Workflow) else (workflow, faults_of(workflow))
    if isinstance(definition.id, str) and definition.id in core.entries:
        raise AlreadyRegistered(
            f"a workflow '{definition.id}' is registered already: deregister it first, or give this one another id",
            workflow_id=definition.id,
        )
    services = WorkflowServices(core, replace(definition, services=tuple(filter(_readable, definition.services))))
    mode = definition.mode if mode is None else mode
    bound, bound_hooks, more = _bound(definition, mode, hooks, services, global_services)
    refuse(definition.id, [*faults, *more])
    missing = [name for name in definition.requires_env if services.env.get(name) is None]
    if missing:
        raise EnvMissing(
            f"workflow '{definition.id}' requires {', '.join(missing)}: set the variables, or pass them in env=",
            workflow_id=definition.id,
            missing=missing,
        )
    if isinstance(workflow, Workflow):
        workflow.built(definition)
    plans = compile_plans(definition, bound)
    if services.has_stages:
        for plan in plans.values():
            plan.stage_services = StageContainers(core, services)
    give_secrets(core, definition, mode, plans, services)
    for plan in plans.values():
        masks = () if plan.secrets is None else plan.secrets.masks
        declared = [(f"waits.{each.wait_id}", each.wait) for each in plan.declared]
        redacted = masks_of_paths([*core.redaction.paths, *definition.redact])
        refuse(
            definition.id,
            [
                *needed_faults(definition.triggers, mode.key, declared, redacted),
                *shown_faults(definition.triggers, mode.key, declared, masks),
            ],
        )
    entry = Registered(
        definition.id,
        definition,
        mode,
        plans,
        bound,
        services,
        bound_hooks,
        container_for(core, services, definition),
        invoked_by_default(definition),
    )
    core.entries[entry.id] = entry
    tell_parents(core, entry.id)
    core.index.add(entry)
    wanted = _wanted(entry)
    core.redaction.add(entry, wanted)
    for pattern in wanted:
        subscriptions.take(pattern)
        entry.subscribed.append(pattern)
    return entry


def _readable(service: object) -> bool:
    """Whether other parts can be checked together with this service, even if it has faults."""
    if not isinstance(service, Service):
        return False
    options: object = service.options
    return isinstance(service.id, str) and isinstance(service.scope, str) and isinstance(options, Mapping)


def _faults_of_mode(mode: Any) -> list[Fault]:
    if isinstance(mode, type):
        return [("mode", f"{name_of(mode)} is a class: write {name_of(mode)}()")]
    if not hasattr(mode, "accept"):
        return [("mode", f"{repr_of(mode, 60)} is not a mode: use Transient, Serialized, SingletonLoop or Exclusive")]
    return []


def _bound(
    definition: WorkflowDefinition, mode: Mode, hooks: Hooks, services: WorkflowServices, globals_: Sequence[Service]
) -> tuple[Bindings, BoundHooks, list[Fault]]:
    """Bind all functions of a workflow; returns parameters that cannot be filled, and the faults of services."""
    faults = services.faults()
    faults += _faults_of_mode(mode)
    state = definition.state if isinstance(definition.state, type) else None  # else that is a fault, reported already
    injector = Injector(state, service_types(services.own, globals_), services.fault_of)
    bound = bind(definition, mode, injector)
    bound_hooks = bind_hooks(hooks, injector, services.fault_of)
    return bound, bound_hooks, [*faults, *injector.faults]


def _wanted(entry: Registered) -> list[str]:
    """Return the event types a workflow is interested in: its triggers', and those of its declared waits."""
    wanted = {trigger.event: None for trigger in entry.definition.triggers.values() if trigger.event}
    for plan in entry.plans.values():
        for declared in plan.declared:
            wanted |= dict.fromkeys(wait_events(declared.wait))
    return list(wanted)


async def deregister(
    core: Core, subscriptions: Subscriptions, workflow_id: str, active: Literal["finish", "abort"]
) -> None:
    """Deregister a workflow: no new runs, then the active ones finish or are aborted, then its services are disposed.

    Called from a hook, it does not wait for the run that the hook belongs to. Queued and parked runs stay in the store.

    It is done once, in a task of the runtime: concurrent calls wait for the same
    end, and it continues if its callers are cancelled. Called from inside a run or a hook while it is in progress, it
    returns at once: two hooks that wait for each other would never end. It also returns at once from inside a run that
    one of the active runs waits for.

    Raises:
        NotRegistered: no such workflow.
    """
    entry = core.entry(workflow_id)
    if entry.leaving is None:
        entry.closing = True
        core.index.remove(entry)
        for pattern in entry.subscribed:
            subscriptions.release(pattern)
        entry.subscribed.clear()
        entry.leaving = core.tasks.spawn(_leave(core, entry, core.inside, active))
    elif core.inside is not None:
        return
    try:
        with ExitStack() as noted:
            if core.inside and active == "finish":
                for live in _others(core, entry, core.inside):
                    noted.enter_context(
                        awaiting(core, core.inside, to_wait_for_driven(core, core.inside, live.run.run_id))
                    )
            await asyncio.wait([entry.leaving])
    except WouldDeadlock:
        return  # it continues without this caller
    if not entry.leaving.cancelled():  # else the runtime stopped, which deregisters it too
        entry.leaving.result()


def _others(core: Core, entry: Registered, inside: str | None) -> list[LiveRun]:
    """Return the runs of a workflow that are driven now, except one."""
    return [live for live in core.runs.all_driven() if live.entry is entry and live.run.run_id != inside]


async def _leave(core: Core, entry: Registered, inside: str | None, active: Literal["finish", "abort"]) -> None:
    """Let the active runs of a workflow end, except the run of the caller, and dispose its services."""
    of_workflow = [live for live in core.runs.all_driven() if live.entry is entry]
    others = _others(core, entry, inside)
    if active == "abort":
        for live in others:
            await _abort(core, Cancel(live.run.run_id, f"workflow '{entry.id}' deregistered", "deregister"))
    await _gone(others)
    if entry.replaying is not None and inside not in core.hooks_running:  # else it waits for this
        await asyncio.wait([entry.replaying])
    for live in of_workflow:
        await close_container(core, live)  # of the caller's run: its services are closed before those they use
    core.entries.pop(entry.id, None)
    core.redaction.remove(entry.id)
    for parked in core.runs.all_parked():
        if parked.entry is entry:
            core.runs.drop(parked.identity.run_id)
    await entry.services.close()


async def _abort(core: Core, abort: Cancel) -> None:
    try:
        await patiently(core, lambda: cancel(core, abort), f"aborting run '{abort.run_id}'")
    except (RunFinished, RunNotFound):
        pass  # it has just ended by itself
    except PoundlockError as error:
        log.error("run '%s' cannot be aborted; its workflow is deregistered when it ends: %s", abort.run_id, error)


async def _gone(runs: list[LiveRun]) -> None:
    """Wait until runs are no longer driven: ended, parked, or left behind because they do not react to their abort."""
    for live in runs:
        if live.task is not None and not live.task.done():
            live.left = asyncio.get_running_loop().create_future()
            await asyncio.wait((live.task, live.left), return_when=asyncio.FIRST_COMPLETED)
