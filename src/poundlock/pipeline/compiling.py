"""From a definition to its plans: all reflection and look-ups are done here, when a workflow is registered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from poundlock.callables import is_coroutine_function
from poundlock.codecs import dump
from poundlock.model.course import course, next_stages
from poundlock.model.deadlines import RunLimit
from poundlock.model.definitions import (
    DEFAULT_LIMIT,
    Children,
    Pause,
    Pipeline,
    Stage,
    Step,
    state_model_of,
)
from poundlock.model.durations import optional_seconds, seconds
from poundlock.model.waits import wait_refs
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.binding import Bindings
from poundlock.pipeline.contracts import contract_plan
from poundlock.pipeline.durable import DurableFunction, early_id
from poundlock.pipeline.elsewhere import elsewhere
from poundlock.pipeline.plan import (
    Binding,
    ChildrenPlan,
    DeclaredWait,
    EachPlan,
    OutputPlan,
    Performer,
    PipelinePlan,
    PollPlan,
    StagePlan,
    StepPlan,
)
from poundlock.pipeline.routing import compile_router


def compile_plans(definition: WorkflowDefinition, bound: Bindings) -> dict[str, PipelinePlan]:
    """Compile every pipeline of a workflow, whose definition has no faults and whose functions are bound."""
    return {pipeline.id: _compile_pipeline(definition, pipeline, bound) for pipeline in definition.pipelines.values()}


def _compile_pipeline(definition: WorkflowDefinition, pipeline: Pipeline, bound: Bindings) -> PipelinePlan:
    following = next_stages(pipeline.stages)
    straight = course(pipeline.stages)
    in_order = set(zip(straight, [*straight[1:], None], strict=True))
    stages = []
    way = definition.failure_way(pipeline)
    for stage in pipeline.stages:
        step = (stage.id, following[stage.id])
        stages.append(_compile_stage(definition, pipeline, stage, step[1], bound, way, strays=step not in in_order))
    declared = tuple(_declared(pipeline, following, bound))
    return PipelinePlan(
        id=pipeline.id,
        path_json=dump(pipeline.id),
        stages=tuple(stages),
        course=tuple(straight),
        by_id={stage.id: stage for stage in stages},
        declared=declared,
        waits={entry.wait_id: entry for entry in declared},
        state_model=state_model_of(definition.state, pipeline),
        visit_limit=definition.visit_limit,
        on_failure=way,
        undoes=any(stage.undoes for stage in stages),
        undo_on_abort=definition.undo_on_abort,
        keeps_outputs=definition.keep_outputs,
        durability=definition.durability,
        replays=any(stage.perform is not None for stage in stages),
        limit=_limit(definition, pipeline),
        definition_hash=definition.hash,
        on_change=definition.on_change,
        migrate=definition.migrate,
    )


def _compile_stage(
    definition: WorkflowDefinition,
    pipeline: Pipeline,
    stage: Stage,
    following: str | None,
    bound: Bindings,
    way: str,
    *,
    strays: bool,
) -> StagePlan:
    pipeline_id = pipeline.id
    path = f"{pipeline_id}/{stage.id}"
    steps = tuple(_compile_step(path, stage.id, step, bound, (pipeline_id, stage.id, step.id)) for step in stage.steps)
    if stage.children is not None:
        steps = (_compile_children(path, stage.id, stage.children),)
    timeout = optional_seconds(stage.timeout)
    keeps = _keeps(definition, stage)
    kept = definition.keep_outputs
    # The short way supports neither services that live as long as a stage, nor a deadline: that needs a task per step;
    # nor stages whose output is kept.
    short = definition.timeout is None and not any(service.scope == "stage" for service in definition.services)
    whole = timeout is None and short and not (keeps or kept)
    alone = steps[0] if len(steps) == 1 and steps[0].simple and whole else None
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
        plain=alone is not None
        and stage.router is None
        and state_model_of(definition.state, pipeline) is None
        and not strays,
        aside=stage.aside,
        on_failure=way if stage.on_failure is None else stage.on_failure,
        undoes=any(step.undo is not None for step in steps),
        output=_output(steps) if kept and steps else None,
        keeps=keeps,
        perform=_performer(stage),
    )


def _performer(stage: Stage) -> Performer | None:
    if not any(isinstance(step.action, DurableFunction) for step in stage.steps):
        return None
    from poundlock.pipeline.functions.passing import perform_function  # most workflows do not need it

    return perform_function


def _output(steps: Sequence[StepPlan]) -> OutputPlan:
    models = {step.id: step.contract.output for step in steps if step.contract is not None}
    return OutputPlan(models, len(steps) == 1)


def _compile_children(path: str, stage_id: str, children: Children) -> StepPlan:
    """Return the stage's one step, which has no function of its own: it waits for the children."""
    needed = None if children.join == "all" else 1 if children.join == "any" else children.join
    limit = children.limit
    plan = ChildrenPlan(
        pipelines=tuple(children.pipelines),
        workflow=children.workflow,
        over=children.over,
        input=children.input,
        into=children.into or stage_id,
        needed=needed,
        collects=children.on_child_failure == "collect",
        limit=DEFAULT_LIMIT if limit is None and children.over is not None else limit,
    )
    return StepPlan(
        id=stage_id,
        stage_id=stage_id,
        path=path,
        path_json=dump(path),
        action=_no_action,
        is_async=False,
        in_thread=False,
        binding=Binding((), (), (), wants_context=False),
        timeout=None,
        retry=None,
        children=plan,
    )


def _no_action() -> None:
    """Take the place of a function where there is none."""


def _limit(definition: WorkflowDefinition, pipeline: Pipeline) -> RunLimit | None:
    seconds = optional_seconds(definition.timeout)
    if seconds is None:
        return None
    return RunLimit(seconds, definition.timeout_way(pipeline), definition.timeout_counts == "active")


def _compile_step(stage_path: str, stage_id: str, step: Step, bound: Bindings, at: tuple[str, str, str]) -> StepPlan:
    plan = _compile_action(stage_path, stage_id, step, bound.steps[at])
    if step.undo is not None:
        undo = replace(step, action=step.undo, undo=None)
        plan.undo = _compile_action(stage_path, stage_id, undo, bound.undos[at], "undo")
    if step.poll is not None and step.every is not None:
        check = _compile_action(stage_path, stage_id, replace(step, action=step.poll), bound.polls[at], "poll")
        plan.poll = PollPlan(check, seconds(step.every), optional_seconds(step.max_wait))
    return plan


def _compile_action(
    stage_path: str, stage_id: str, step: Step, binding: Binding, kind: Literal["step", "undo", "poll"] = "step"
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
        in_thread=not is_async and step.executor in (None, "thread"),
        binding=binding,
        timeout=optional_seconds(step.timeout),
        retry=step.retry,
        each=None if step.each is None or kind != "step" else EachPlan(step.each, step.limit, step.into or step.id),
        contract=None if step.contract is None else contract_plan(step.contract, step.id, path),
        kind=kind,
        elsewhere=None if is_async else elsewhere(step.executor),
    )


def _declared(pipeline: Pipeline, following: Mapping[str, str | None], bound: Bindings) -> Iterator[DeclaredWait]:
    for stage in pipeline.stages:
        if isinstance(stage.router, Pause):
            wait = stage.router.wait
            resume_at = stage.router.resume_at or following[stage.id]
            patch = bound.patches.get((pipeline.id, stage.id))
            yield DeclaredWait(wait.id or stage.id, wait, resume_at, wait_refs(wait), patch, stage.id)
        for step in stage.steps:
            if isinstance(step.action, DurableFunction):
                for wait in step.action.waits:
                    yield DeclaredWait(early_id(wait), wait, None, wait_refs(wait), None, stage.id)


def _keeps(definition: WorkflowDefinition, stage: Stage) -> bool:
    """Whether something of a stage may have to be kept before it is concluded."""
    steps = stage.steps
    if any(step.poll is not None or (step.retry is not None and step.retry.attempts > 1) for step in steps):
        return True
    # A single step is committed right after it, unless user code runs in between.
    several = len(steps) > 1 or callable(stage.router) or any(step.each is not None for step in steps)
    return definition.durability == "step" and bool(steps) and several


def _silent(stage: Stage) -> bool:
    """Whether a stage runs no user code."""
    return not stage.steps and not callable(stage.router) and stage.children is None
