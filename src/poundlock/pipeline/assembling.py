"""Checks of a whole definition: what identifies its structure, and functions that would never be called."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import MethodType
from typing import Any

from poundlock.callables import called_name
from poundlock.codecs import dump
from poundlock.guard import call_now, repr_of
from poundlock.model.checks import Fault
from poundlock.model.definitions import (
    OF_WORKFLOW,
    Branch,
    Delay,
    Jump,
    JumpTo,
    Pause,
    Pipeline,
    Router,
    Stage,
    Step,
    Switch,
    Wait,
)
from poundlock.model.validation import ends_run
from poundlock.model.wait_checks import ends_wait
from poundlock.pipeline.model_shape import shape_of


def no_steps(triggered: Iterable[tuple[str, Any]], pipelines: Iterable[Pipeline]) -> Iterator[Fault]:
    """Yield functions under `on` that are not steps, while others are: they would never be called."""
    stages = [stage for pipeline in pipelines for stage in pipeline.stages if isinstance(stage, Stage)]
    actions = [step.action for stage in stages for step in stage.steps if isinstance(step, Step)]

    def is_step(function: Any) -> bool:
        return any(function is each or (isinstance(each, MethodType) and function == each) for each in actions)

    for trigger_id, function in triggered if actions else ():
        behind = call_now(partial(inspect.unwrap, stop=is_step), function)
        if behind.error is not None or not is_step(behind.value):
            name = called_name(function) or repr_of(function, 60)
            yield (
                f"triggers.{trigger_id}",
                (
                    f"'{name}' is written under `on`, but it is not a step, so it would never be called: "
                    f"put `step` below `on` as well, or write `workflow.on(...)` on a separate line"
                ),
            )


def structure_hash(
    pipelines: Iterable[Pipeline], on_failure: str = "fail", on_timeout: str = "fail", state: Any = None
) -> str:
    """Identify what stored runs refer to.

    That is: pipelines, stages, steps, waits, targets of instructions, and the fields of the state's model with their
    types. No code, no label, no trigger, and no number such as a timeout: a change of these fits every stored run.
    """
    structure: list[Any] = []
    for pipeline in pipelines:
        own = [] if pipeline.state in (OF_WORKFLOW, None) else [["state", shape_of(pipeline.state)]]
        structure.append([pipeline.id, [_structure(stage) for stage in pipeline.stages], *own])
    if on_failure != "fail":
        structure.append(on_failure)
    if not ends_run(on_timeout):
        structure.append(["on_timeout", on_timeout])
    if state is not None:
        structure.append(["state", shape_of(state)])
    return hashlib.blake2s(dump(structure).encode(), digest_size=8).hexdigest()


def _structure(stage: Stage) -> list[Any]:
    parts: list[Any] = [stage.id, [step.id for step in stage.steps], _lead(stage.router)]
    told = [stage.then, stage.aside, stage.on_failure]
    if told != [None, False, None]:  # left out where it says nothing, so that older hashes stay the same
        parts.append(told)
    if stage.children is not None:
        over = stage.children.over
        parts.append([stage.children.pipelines, stage.children.workflow, over if isinstance(over, str) else None])
    return parts


def _lead(router: Router | None) -> Any:
    if router is None or isinstance(router, str):
        return router
    name = type(router).__name__
    if isinstance(router, Branch):
        return [name, [stage for _, stage in router.cases], router.otherwise]
    if isinstance(router, Switch):
        return [name, router.field, [stage for _, stage in router.cases], router.otherwise]
    if isinstance(router, Jump):
        return [name, router.stage]
    if isinstance(router, JumpTo):
        return [name, router.address]
    if isinstance(router, Delay):
        return name if router.then is None else [name, router.then]
    if isinstance(router, Pause) and isinstance(router.wait, Wait):
        wait = router.wait
        ways: Any = dict(wait.events) if isinstance(wait.events, Mapping) else router.resume_at
        told = [ways, wait.id, None if ends_wait(wait.on_timeout) else wait.on_timeout]
        return name if told == [None, None, None] else [name, *told]
    return name
