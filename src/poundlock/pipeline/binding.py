"""Binding of all functions of a definition: parameters are resolved once, and those that cannot be filled are reported.

It accepts definitions with other faults, so that all faults are reported together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from poundlock.callables import is_coroutine_function
from poundlock.errors import NotStorable, StateInvalid
from poundlock.marks import DELETE
from poundlock.model.definitions import INSTRUCTIONS, Pause, Pipeline, Stage, Step, Trigger, Wait
from poundlock.model.modes import Mode
from poundlock.model.waits import wait_refs
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.contracts import of_contract
from poundlock.pipeline.event_functions import EventFunction, PatchFunction, compile_event_function, compile_patch
from poundlock.pipeline.injection import AFTER_FAILURE, ELEMENT, RESERVED, ROUTER, STEP, UNDO, Injector, of_elements
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
    for name in (*RESERVED, *(("failure",) if led_to else ()), *(ELEMENT if mapped else ())):
        if name in getattr(injector.state_model, "model_fields", {}):
            injector.fault(
                f"state.{name}",
                f"'{name}' is reserved: a parameter of this name gets something else, so no field of the state may "
                f"have it. Give the field another name",
            )
    key = getattr(mode, "key", None)
    bound = Bindings(mode_key=compile_event_function(key, "mode.key", injector) if callable(key) else None)
    for name, trigger in definition.triggers.items():
        if isinstance(trigger, Trigger):
            bound.triggers[name] = _trigger(f"triggers.{name}", trigger, injector)
    for pipeline in definition.pipelines.values():
        _pipeline(pipeline, definition.on_failure, injector, bound)
    return bound


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
            own = of_contract(kind if step.each is None else of_elements(kind), step.contract, f"{path}.{step.id}")
            bound.steps[pipeline.id, stage.id, step.id] = injector.bind(step.action, f"{path}.{step.id}", own)
            _elements(step, f"{path}.{step.id}", injector)
            if callable(step.undo):
                undo_kind = of_contract(UNDO, step.contract, f"{path}.{step.id}")
                undo = injector.bind(step.undo, f"{path}.{step.id}.undo", undo_kind)
                bound.undos[pipeline.id, stage.id, step.id] = undo
            if step.executor is not None and is_coroutine_function(step.action):
                injector.fault(f"{path}.{step.id}.executor", "an async step runs on the loop: leave out executor")
        router = stage.router
        if isinstance(router, Pause) and isinstance(router.wait, Wait):
            _refs(router.wait, f"{path}.router.wait", injector)
            _patch_keys(router.wait, f"{path}.router.wait.patch", injector)
            if callable(router.wait.patch):
                patch = compile_patch(router.wait.patch, f"{path}.router.wait.patch", injector)
                bound.patches[pipeline.id, stage.id] = patch
        elif callable(router) and not isinstance(router, INSTRUCTIONS):
            bound.routers[pipeline.id, stage.id] = injector.bind(router, f"{path}.router", ROUTER)


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
