"""Plans: a definition compiled once, so that running it needs no reflection, no look-ups and no decisions twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from poundlock.clock import Clock
from poundlock.codecs import dump
from poundlock.errors import InvalidDefinition
from poundlock.model.definitions import (
    Advance,
    Instruction,
    Jump,
    Pause,
    Pipeline,
    Stage,
    Step,
    Wait,
    WorkflowDefinition,
)
from poundlock.model.durations import optional_seconds
from poundlock.model.paths import get_path
from poundlock.model.waits import wait_refs
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.injection import Binding, compile_binding
from poundlock.pipeline.journal import entry, patch_head
from poundlock.pipeline.retry import compile_retry
from poundlock.pipeline.routing import Router, compile_router


@dataclass(slots=True, eq=False)
class StepPlan:
    """One step, ready to be called."""

    id: str
    stage_id: str
    path: str
    path_json: str
    action: Callable[..., Any]
    is_async: bool
    in_thread: bool
    binding: Binding
    timeout: float | None
    retry: Callable[..., Any] | None
    start_entry: str = field(init=False)
    success_entry: str = field(init=False)
    patch_head: str = field(init=False)

    def __post_init__(self) -> None:
        self.start_entry = entry("pipeline", "step:start", self.path_json)
        self.success_entry = entry("pipeline", "step:success", self.path_json)
        self.patch_head = patch_head(self.path_json)

    @property
    def simple(self) -> bool:
        """Whether an attempt is nothing but awaiting the action: no services, no timeout, no retry, no thread."""
        return (
            self.is_async
            and self.timeout is None
            and self.retry is None
            and not self.binding.services
            and not self.binding.keyword
        )


@dataclass(slots=True, eq=False)
class StagePlan:
    """One stage, ready to be performed and concluded."""

    id: str
    path: str
    path_json: str
    steps: tuple[StepPlan, ...]
    timeout: float | None
    conflict_is_error: bool
    router: Router | None
    only: StepPlan | None
    following: str | None
    silent: bool
    """Nothing of the user's runs here (no steps, a fixed instruction), so no commit needs to come before it."""
    plain: bool
    """One async step and neither a router nor a model: mostly there is nothing to decide, see `boundary.cross`."""
    rides: bool
    """The next stage is silent, so the boundary before it rides in the one behind it."""
    start_entries: tuple[str, ...] = field(init=False)
    """What the timeline says when the stage begins; if it has only the one step, that it begins too."""
    success_entry: str = field(init=False)

    def __post_init__(self) -> None:
        start = entry("pipeline", "stage:start", self.path_json)
        self.start_entries = (start,) if self.only is None else (start, self.only.start_entry)
        self.success_entry = entry("pipeline", "stage:success", self.path_json)


@dataclass(frozen=True, slots=True)
class DeclaredWait:
    """A wait that stands in the definition, so that events for it are buffered before the run gets there."""

    wait_id: str
    wait: Wait
    resume_at: str | None
    refs: tuple[str, ...]
    """The state paths it refers to: as long as they hold the same values, it is armed for the same events."""

    def values(self, state: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return what a state holds at those paths."""
        return tuple([get_path(state, path) for path in self.refs])


@dataclass(slots=True, eq=False)
class PipelinePlan:
    """One pipeline of one workflow."""

    workflow_id: str
    id: str
    path_json: str
    stages: tuple[StagePlan, ...]
    by_id: Mapping[str, StagePlan]
    declared: tuple[DeclaredWait, ...]
    waits: Mapping[str, DeclaredWait]
    state_model: Any
    visit_limit: int
    definition_hash: str
    routes: Mapping[str, Instruction | None]
    start_entry: str = field(init=False)
    success_entry: str = field(init=False)

    def __post_init__(self) -> None:
        self.start_entry = entry("pipeline", "pipeline:start", self.path_json)
        self.success_entry = entry("pipeline", "pipeline:success", self.path_json)


def compile_plans(
    definition: WorkflowDefinition, service_types: Mapping[Any, tuple[str, ...]], clock: Clock
) -> dict[str, PipelinePlan]:
    """Compile every pipeline of a workflow.

    Raises:
        InvalidDefinition: a step or router has parameters nobody can provide.
    """
    return {
        pipeline.id: _compile_pipeline(definition, pipeline, service_types, clock)
        for pipeline in definition.pipelines.values()
    }


def _compile_pipeline(
    definition: WorkflowDefinition, pipeline: Pipeline, service_types: Mapping[Any, tuple[str, ...]], clock: Clock
) -> PipelinePlan:
    stages = []
    for index, stage in enumerate(pipeline.stages):
        following = pipeline.stages[index + 1] if index + 1 < len(pipeline.stages) else None
        stages.append(_compile_stage(definition, pipeline.id, stage, following, service_types, clock))
    declared = tuple(_declared(pipeline.stages))
    return PipelinePlan(
        workflow_id=definition.id,
        id=pipeline.id,
        path_json=dump(pipeline.id),
        stages=tuple(stages),
        by_id={stage.id: stage for stage in stages},
        declared=declared,
        waits={entry.wait_id: entry for entry in declared},
        state_model=definition.state,
        visit_limit=definition.visit_limit,
        definition_hash=definition.hash,
        routes={stage.id: _static(stage.router) for stage in pipeline.stages},
    )


def _compile_stage(
    definition: WorkflowDefinition,
    pipeline_id: str,
    stage: Stage,
    following: Stage | None,
    service_types: Mapping[Any, tuple[str, ...]],
    clock: Clock,
) -> StagePlan:
    path = f"{pipeline_id}/{stage.id}"
    steps = tuple(_compile_step(definition, path, stage.id, step, service_types, clock) for step in stage.steps)
    timeout = optional_seconds(stage.timeout)
    alone = steps[0] if len(steps) == 1 and steps[0].simple and timeout is None else None
    return StagePlan(
        id=stage.id,
        path=path,
        path_json=dump(path),
        steps=steps,
        timeout=timeout,
        conflict_is_error=stage.conflict == "error",
        router=compile_router(stage.router, path),
        only=alone,
        following=None if following is None else following.id,
        silent=_silent(stage),
        plain=alone is not None and stage.router is None and definition.state is None,
        rides=following is not None and _silent(following),
    )


def _compile_step(
    definition: WorkflowDefinition,
    stage_path: str,
    stage_id: str,
    step: Step,
    service_types: Mapping[Any, tuple[str, ...]],
    clock: Clock,
) -> StepPlan:
    path = f"{stage_path}/{step.id}"
    is_async = _is_async(step.action)
    if is_async and step.executor is not None:
        raise InvalidDefinition(f"{path}: an async step runs on the loop: leave out executor", path=path)
    return StepPlan(
        id=step.id,
        stage_id=stage_id,
        path=path,
        path_json=dump(path),
        action=step.action,
        is_async=is_async,
        in_thread=not is_async and step.executor != "inline",
        binding=compile_binding(
            step.action,
            state_model=definition.state,
            service_types=service_types,
            path=path,
            context_type=StepContext,
        ),
        timeout=optional_seconds(step.timeout),
        retry=None if step.retry is None else compile_retry(step.retry, clock),
    )


def _is_async(action: Callable[..., Any]) -> bool:
    function = getattr(action, "func", action)  # functools.partial
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - asks about the method, not about callability


def _declared(stages: Sequence[Stage]) -> list[DeclaredWait]:
    declared = []
    for index, stage in enumerate(stages):
        if isinstance(stage.router, Pause):
            following = stages[index + 1].id if index + 1 < len(stages) else None
            wait = stage.router.wait
            resume_at = stage.router.resume_at or following
            declared.append(DeclaredWait(wait.id or stage.id, wait, resume_at, wait_refs(wait)))
    return declared


def _silent(stage: Stage) -> bool:
    """Whether nothing of the user's runs in a stage."""
    return not stage.steps and _static(stage.router) is not None


def _static(router: Any) -> Instruction | None:
    if router is None:
        return Advance()
    if isinstance(router, str):
        return Jump(router)
    return None if callable(router) else router
