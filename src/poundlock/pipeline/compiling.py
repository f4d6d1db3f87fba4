"""From a definition to its plans: all reflection and look-ups are done here, when a workflow is registered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from poundlock.callables import is_coroutine_function
from poundlock.codecs import dump
from poundlock.model.course import course, next_stages
from poundlock.model.definitions import Pause, Pipeline, Stage, Step
from poundlock.model.durations import optional_seconds
from poundlock.model.waits import wait_refs
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.binding import Bindings
from poundlock.pipeline.contracts import contract_plan
from poundlock.pipeline.plan import Binding, DeclaredWait, EachPlan, OutputPlan, PipelinePlan, StagePlan, StepPlan
from poundlock.pipeline.routing import compile_router


def compile_plans(definition: WorkflowDefinition, bound: Bindings) -> dict[str, PipelinePlan]:
    """Compile every pipeline of a workflow, whose definition has no faults and whose functions are bound."""
    return {pipeline.id: _compile_pipeline(definition, pipeline, bound) for pipeline in definition.pipelines.values()}


def _compile_pipeline(definition: WorkflowDefinition, pipeline: Pipeline, bound: Bindings) -> PipelinePlan:
    following = next_stages(pipeline.stages)
    straight = course(pipeline.stages)
    in_order = set(zip(straight, [*straight[1:], None], strict=True))
    stages = []
    for stage in pipeline.stages:
        step = (stage.id, following[stage.id])
        stages.append(_compile_stage(definition, pipeline.id, stage, step[1], bound, strays=step not in in_order))
    declared = tuple(_declared(pipeline, following, bound))
    return PipelinePlan(
        id=pipeline.id,
        path_json=dump(pipeline.id),
        stages=tuple(stages),
        course=tuple(straight),
        by_id={stage.id: stage for stage in stages},
        declared=declared,
        waits={entry.wait_id: entry for entry in declared},
        state_model=definition.state,
        visit_limit=definition.visit_limit,
        on_failure=definition.on_failure,
        undoes=any(stage.undoes for stage in stages),
        undo_on_abort=definition.undo_on_abort,
        keeps_outputs=definition.keep_outputs,
    )


def _compile_stage(
    definition: WorkflowDefinition,
    pipeline_id: str,
    stage: Stage,
    following: str | None,
    bound: Bindings,
    *,
    strays: bool,
) -> StagePlan:
    path = f"{pipeline_id}/{stage.id}"
    steps = tuple(_compile_step(path, stage.id, step, bound, (pipeline_id, stage.id, step.id)) for step in stage.steps)
    timeout = optional_seconds(stage.timeout)
    # The short way does not support services that live as long as a stage.
    staged = any(service.scope == "stage" for service in definition.services)
    kept = definition.keep_outputs  # nor stages whose output is kept
    alone = steps[0] if len(steps) == 1 and steps[0].simple and timeout is None and not (staged or kept) else None
    return StagePlan(
        id=stage.id,
        path=path,
        path_json=dump(path),
        steps=steps,
        timeout=timeout,
        conflict_is_error=stage.conflict == "error",
        router=compile_router(stage.router, stage.id, path, bound.routers.get((pipeline_id, stage.id))),
        only=alone,
        following=following,
        strays=strays,
        silent=_silent(stage),
        plain=alone is not None and stage.router is None and definition.state is None and not strays,
        aside=stage.aside,
        on_failure=definition.on_failure if stage.on_failure is None else stage.on_failure,
        undoes=any(step.undo is not None for step in steps),
        output=_output(steps) if kept and steps else None,
    )


def _output(steps: Sequence[StepPlan]) -> OutputPlan:
    models = {step.id: step.contract.output for step in steps if step.contract is not None}
    return OutputPlan(models, len(steps) == 1)


def _compile_step(stage_path: str, stage_id: str, step: Step, bound: Bindings, at: tuple[str, str, str]) -> StepPlan:
    plan = _compile_action(stage_path, stage_id, step, bound.steps[at])
    if step.undo is not None:
        undo = replace(step, action=step.undo, undo=None)
        plan.undo = _compile_action(stage_path, stage_id, undo, bound.undos[at], "undo")
    return plan


def _compile_action(
    stage_path: str, stage_id: str, step: Step, binding: Binding, kind: Literal["step", "undo"] = "step"
) -> StepPlan:
    path = f"{stage_path}/{step.id}"
    is_async = is_coroutine_function(step.action)
    return StepPlan(
        id=step.id,
        stage_id=stage_id,
        path=path,
        path_json=dump(path),
        action=step.action,
        is_async=is_async,
        in_thread=not is_async and step.executor != "inline",
        binding=binding,
        timeout=optional_seconds(step.timeout),
        retry=step.retry,
        each=None if step.each is None or kind == "undo" else EachPlan(step.each, step.limit, step.into or step.id),
        contract=None if step.contract is None else contract_plan(step.contract, step.id, path),
        kind=kind,
    )


def _declared(pipeline: Pipeline, following: Mapping[str, str | None], bound: Bindings) -> Iterator[DeclaredWait]:
    for stage in pipeline.stages:
        if isinstance(stage.router, Pause):
            wait = stage.router.wait
            resume_at = stage.router.resume_at or following[stage.id]
            patch = bound.patches.get((pipeline.id, stage.id))
            yield DeclaredWait(wait.id or stage.id, wait, resume_at, wait_refs(wait), patch, stage.id)


def _silent(stage: Stage) -> bool:
    """Whether a stage runs no user code."""
    return not stage.steps and not callable(stage.router)
