"""Binding of all functions of a definition: parameters are resolved once, and those that cannot be filled are reported.

It accepts definitions with other faults, so that all faults are reported together.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from poundlock.callables import is_coroutine_function, parameters_of, runs_later
from poundlock.errors import NotStorable, StateInvalid
from poundlock.guard import call_now
from poundlock.marks import DELETE
from poundlock.model.definitions import (
    INSTRUCTIONS,
    OF_WORKFLOW,
    Children,
    Pause,
    Pipeline,
    Stage,
    Step,
    Trigger,
    Wait,
)
from poundlock.model.modes import Mode
from poundlock.model.waits import wait_refs
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.contracts import of_contract
from poundlock.pipeline.durable import DurableFunction
from poundlock.pipeline.elsewhere import BUILT_IN, PROCESS, unsendable
from poundlock.pipeline.event_functions import EventFunction, PatchFunction, compile_event_function, compile_patch
from poundlock.pipeline.forms import form_faults
from poundlock.pipeline.injection import (
    AFTER_FAILURE,
    ELEMENT,
    FUNCTION,
    RESERVED,
    ROUTER,
    STEP,
    UNDO,
    Injector,
    Kind,
    of_elements,
    polling,
    sent,
)
from poundlock.pipeline.plan import Binding
from poundlock.pipeline.states import written
from poundlock.records import dataclass, field

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TriggerFunctions:
    """A trigger's functions of the event; None for those it does not have."""

    when: EventFunction | None = None
    key: EventFunction | None = None
    map: EventFunction | None = None


@dataclass(frozen=True, slots=True)
class Bindings:
    """The functions of one workflow by where they are: (pipeline, stage, step), (pipeline, stage), trigger."""

    steps: dict[tuple[str, str, str], Binding] = field(default_factory=dict)
    undos: dict[tuple[str, str, str], Binding] = field(default_factory=dict)
    polls: dict[tuple[str, str, str], Binding] = field(default_factory=dict)
    routers: dict[tuple[str, str], Binding] = field(default_factory=dict)
    patches: dict[tuple[str, str], PatchFunction] = field(default_factory=dict)
    triggers: dict[str, TriggerFunctions] = field(default_factory=dict)
    mode_key: EventFunction | None = None


def bind(definition: WorkflowDefinition, mode: Mode, injector: Injector) -> Bindings:
    """Bind the functions of a definition, and of the mode it is registered with; faults go to the injector."""
    pipelines = [list(_of_kind(pipeline.stages, Stage)) for pipeline in definition.pipelines.values()]
    led_to = any(after_failure(stage, stages, definition.on_failure) for stages in pipelines for stage in stages)
    steps = [step for stages in pipelines for stage in stages for step in _of_kind(stage.steps, Step)]
    mapped = any(step.each is not None for step in steps)
    durable = any(isinstance(step.action, DurableFunction) for step in steps)
    more = (*(("failure",) if led_to else ()), *(ELEMENT if mapped else ()), *(("step",) if durable else ()))
    names = (*RESERVED, *more)
    _reserved("state", names, injector)
    key = getattr(mode, "key", None)
    bound = Bindings(mode_key=compile_event_function(key, "mode.key", injector) if callable(key) else None)
    for name, trigger in definition.triggers.items():
        if isinstance(trigger, Trigger):
            bound.triggers[name] = _trigger(f"triggers.{name}", trigger, injector)
    for pipeline in definition.pipelines.values():
        own = injector
        if pipeline.state != OF_WORKFLOW:
            own = injector.of_state(pipeline.state if isinstance(pipeline.state, type) else None)
            _reserved(f"pipelines.{pipeline.id}.state", names, own)
        _pipeline(pipeline, definition.on_failure, own, bound)
    _migrate(definition.migrate, injector)
    return bound


def _reserved(path: str, names: Iterable[str], injector: Injector) -> None:
    """Find fields of the state that functions could not be given."""
    for name in names:
        if name in getattr(injector.state_model, "model_fields", {}):
            injector.fault(
                f"{path}.{name}",
                f"'{name}' is reserved: a parameter of this name gets something else, so no field of the state may "
                f"have it. Give the field another name",
            )


def _migrate(function: object, injector: Injector) -> None:
    """Find a `migrate` that cannot be called with a state and a hash, or does not return at once."""
    if not callable(function):
        return  # there is none, or that is reported already
    if is_coroutine_function(function) or runs_later(function):
        injector.fault("migrate", "is called without waiting: make it a plain function that returns the state")
    parameters = parameters_of(function)
    if parameters is None:
        return
    taken = call_now(inspect.Signature(parameters).bind, {}, "")
    if taken.error is not None:
        injector.fault("migrate", "is called with two arguments by place, the state and the hash: migrate(state, hash)")


def _trigger(path: str, trigger: Trigger, injector: Injector) -> TriggerFunctions:
    functions: Mapping[str, Any] = {"when": trigger.when, "key": trigger.key, "map": trigger.map}
    compiled = {
        name: compile_event_function(function, f"{path}.{name}", injector)
        for name, function in functions.items()
        if callable(function)
    }
    return TriggerFunctions(**compiled)


def after_failure(stage: Stage, stages: Iterable[Stage], on_failure: object) -> bool:
    """Whether the failure of a stage, or of the workflow's stages, leads to this one."""
    return stage.id == on_failure or any(stage.id == other.on_failure for other in stages)


def _pipeline(pipeline: Pipeline, on_failure: object, injector: Injector, bound: Bindings) -> None:
    stages = list(_of_kind(pipeline.stages, Stage))
    for stage in stages:
        kind = AFTER_FAILURE if after_failure(stage, stages, on_failure) else STEP
        path = f"pipelines.{pipeline.id}.{stage.id}"
        for step in _of_kind(stage.steps, Step):
            action: object = step.action
            if not callable(action):
                continue
            if isinstance(action, DurableFunction):
                bound.steps[pipeline.id, stage.id, step.id] = injector.bind(
                    action.function, f"{path}.{step.id}", FUNCTION
                )
                for wait in action.waits:
                    _refs(wait, f"{path}.waits", injector)
                    _form(wait, f"{path}.waits", injector)
                continue
            at = f"{path}.{step.id}"
            own = of_contract(kind if step.each is None else of_elements(kind), step, at)
            bound.steps[pipeline.id, stage.id, step.id] = _bound(step, step.action, at, own, injector)
            _elements(step, at, injector)
            if callable(step.undo):
                undo = _bound(step, step.undo, f"{at}.undo", of_contract(UNDO, step, at), injector)
                bound.undos[pipeline.id, stage.id, step.id] = undo
            if callable(step.poll):
                poll = _bound(step, step.poll, f"{path}.{step.id}.poll", polling(kind), injector)
                bound.polls[pipeline.id, stage.id, step.id] = poll
            if isinstance(step.executor, str) and step.executor:
                _executor(step, f"{path}.{step.id}.executor", injector)
        _children(stage, path, injector)
        router = stage.router
        if isinstance(router, Pause) and isinstance(router.wait, Wait):
            _refs(router.wait, f"{path}.router.wait", injector)
            _patch_keys(router.wait, f"{path}.router.wait.patch", injector)
            _form(router.wait, f"{path}.router.wait", injector)
            _collected(router.wait, f"{path}.router.wait.collect", injector)
            if callable(router.wait.patch):
                patch = compile_patch(router.wait.patch, f"{path}.router.wait.patch", injector)
                bound.patches[pipeline.id, stage.id] = patch
        elif callable(router) and not isinstance(router, INSTRUCTIONS):
            bound.routers[pipeline.id, stage.id] = injector.bind(router, f"{path}.router", ROUTER)


def _bound(step: Step, function: Any, path: str, kind: Kind, injector: Injector) -> Binding:
    """Bind a function of a step; one that is called in another process gets only what can be sent there."""
    if not isinstance(step.executor, str) or step.executor != PROCESS or is_coroutine_function(function):
        return injector.bind(function, path, kind)
    fault = unsendable(function)
    if fault is not None:
        injector.fault(path, fault)
    return injector.bind(function, path, sent(kind))


def _executor(step: Step, path: str, injector: Injector) -> None:
    """Find executors that do not exist, or do not fit."""
    if is_coroutine_function(step.action):
        injector.fault(path, "an async step runs on the loop: leave out executor, or make it a def")
    elif step.executor not in BUILT_IN:
        assert step.executor is not None  # noqa: S101 - looked at by the caller
        fault = injector.service_fault(step.executor)
        if fault is not None:
            injector.fault(path, f"neither {', '.join(BUILT_IN)} nor a service: {fault}")


def _elements(step: Step, path: str, injector: Injector) -> None:
    """Find paths of a step with `each` that the model lacks."""
    each, into = cast("tuple[object, object]", (step.each, step.into or step.id))
    if not isinstance(each, str):
        return  # not called per element, or reported already
    near = injector.unknown_state(each)
    if near is not None:
        injector.fault(f"{path}.each", f"'{each}' is not a field of the state: {near}")
    near = injector.unknown_state(into) if isinstance(into, str) else None
    if near is not None:
        what = "give the one that gets the results, into=" if step.into is None else "its results go there"
        injector.fault(f"{path}.into", f"'{into}' is not a field of the state ({what}): {near}")


def _children(stage: Stage, path: str, injector: Injector) -> None:
    """Find paths of a stage with children that the model lacks."""
    children = stage.children
    if not isinstance(children, Children):
        return
    for name, wanted in (("over", children.over), ("into", children.into or stage.id)):
        near = injector.unknown_state(wanted) if isinstance(wanted, str) else None
        if near is not None:
            injector.fault(f"{path}.{name}", f"'{wanted}' is not a field of the state: {near}")


def _refs(wait: Wait, path: str, injector: Injector) -> None:
    """Find references to state fields that the model lacks: such a wait could never be armed."""
    where: object = wait.where
    correlate: object = wait.correlate
    if not isinstance(where, Sequence) or not (correlate is None or isinstance(correlate, Mapping)):
        return  # reported already
    for reference in wait_refs(wait):
        near = injector.unknown_state(reference)
        if near is not None:
            injector.fault(path, f"StateRef('{reference}') is not a field of the state: {near}")


def _patch_keys(wait: Wait, path: str, injector: Injector) -> None:
    """Find keys of a wait's patch that the model lacks: every event would be refused for them."""
    patch: object = wait.patch
    if isinstance(patch, Mapping) and injector.state_model is not None:
        try:
            written(injector.state_model, _without_deletions(patch), {})
        except StateInvalid as error:
            injector.fault(path, error.message)
        except NotStorable:
            pass  # reported already


def _form(wait: Wait, path: str, injector: Injector) -> None:
    """Find forms that no answer can be checked against."""
    for place, text in form_faults(f"{path}.form", wait.form):
        injector.fault(place, text)


def _collected(wait: Wait, path: str, injector: Injector) -> None:
    """Find keys for payloads that the model lacks: the last event would be refused for them."""
    collect: object = wait.collect
    near = injector.unknown_state(collect) if isinstance(collect, str) and collect else None
    if near is not None:
        injector.fault(path, f"'{collect}' is not a field of the state: {near}")


def _without_deletions(patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a patch without its deletions: those may name fields of a former model."""
    return {
        key: _without_deletions(value) if isinstance(value, Mapping) else value
        for key, value in patch.items()
        if value is not DELETE
    }


def _of_kind(parts: Iterable[Any], kind: type[T]) -> Iterator[T]:
    """Yield the parts of the right type; the others are faults that are reported already."""
    yield from (part for part in parts if isinstance(part, kind) and isinstance(getattr(part, "id", None), str))
