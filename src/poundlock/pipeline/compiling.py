"""From a definition to its plans: what reflection and look-ups there are happens here, when a workflow registers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poundlock.codecs import dump
from poundlock.errors import InvalidDefinition
from poundlock.model.definitions import (
    Pause,
    Pipeline,
    Stage,
    Step,
    WorkflowDefinition,
)
from poundlock.model.durations import optional_seconds
from poundlock.model.waits import wait_refs
from poundlock.pipeline.injection import compile_binding
from poundlock.pipeline.plan import DeclaredWait, PipelinePlan, StagePlan, StepPlan
from poundlock.pipeline.routing import compile_router


def compile_plans(
    definition: WorkflowDefinition, service_types: Mapping[Any, tuple[str, ...]]
) -> dict[str, PipelinePlan]:
    """Compile every pipeline of a workflow.

    Raises:
        InvalidDefinition: a step or router has parameters nobody can provide.
    """
    return {
        pipeline.id: _compile_pipeline(definition, pipeline, service_types)
        for pipeline in definition.pipelines.values()
    }


def _compile_pipeline(
    definition: WorkflowDefinition, pipeline: Pipeline, service_types: Mapping[Any, tuple[str, ...]]
) -> PipelinePlan:
    stages = []
    for index, stage in enumerate(pipeline.stages):
        following = pipeline.stages[index + 1] if index + 1 < len(pipeline.stages) else None
        stages.append(_compile_stage(definition, pipeline.id, stage, following, service_types))
    declared = tuple(_declared(pipeline.stages))
    return PipelinePlan(
        id=pipeline.id,
        path_json=dump(pipeline.id),
        stages=tuple(stages),
        by_id={stage.id: stage for stage in stages},
        declared=declared,
        waits={entry.wait_id: entry for entry in declared},
        state_model=definition.state,
        visit_limit=definition.visit_limit,
    )


def _compile_stage(
    definition: WorkflowDefinition,
    pipeline_id: str,
    stage: Stage,
    following: Stage | None,
    service_types: Mapping[Any, tuple[str, ...]],
) -> StagePlan:
    path = f"{pipeline_id}/{stage.id}"
    steps = tuple(_compile_step(definition, path, stage.id, step, service_types) for step in stage.steps)
    timeout = optional_seconds(stage.timeout)
    # The short way knows nothing of services that live as long as a stage.
    staged = any(service.scope == "stage" for service in definition.services)
    alone = steps[0] if len(steps) == 1 and steps[0].simple and timeout is None and not staged else None
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
    )


def _compile_step(
    definition: WorkflowDefinition,
    stage_path: str,
    stage_id: str,
    step: Step,
    service_types: Mapping[Any, tuple[str, ...]],
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
        ),
        timeout=optional_seconds(step.timeout),
        retry=step.retry,
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
    return not stage.steps and not callable(stage.router)
