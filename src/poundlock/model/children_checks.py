"""Checks of the children of a stage."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import cast

from poundlock.errors import suggest
from poundlock.model.checks import Fault, name_faults, target_faults, whole_faults
from poundlock.model.definitions import Children, JumpTo, Pipeline, Stage
from poundlock.model.quoting import shown
from poundlock.model.workflow_definition import WorkflowDefinition


def children_faults(path: str, stage: Stage, pipeline: Pipeline, definition: WorkflowDefinition) -> Iterator[Fault]:
    """Yield what is wrong with the children of a stage, and with an address below one that it leads to."""
    if isinstance(stage.router, JumpTo) and isinstance(cast("object", stage.router.address), str):
        yield from address_faults(f"{path}.router", stage.router.address, pipeline, definition)
    children: object = stage.children
    if children is None:
        return
    if not isinstance(children, Children):
        yield f"{path}.children", f"{shown(children)} is not Children: Children([pipelines])"
        return
    if stage.steps:
        yield path, "a stage has either steps or children: put the steps into a stage before or behind it"
    if tuple(stage.pipelines) not in ((), tuple(children.pipelines)):
        yield f"{path}.pipelines", "children= says it already: leave it out"
    yield from _what(path, children, definition)
    yield from _how(path, children)


def address_faults(path: str, address: str, pipeline: Pipeline, definition: WorkflowDefinition) -> Iterator[Fault]:
    """Yield what is wrong with an address below a stage of a pipeline; the stage itself is checked elsewhere."""
    stage_id, *below = address.split("/")
    stage = next((stage for stage in pipeline.stages if stage.id == stage_id), None)
    if not below or stage is None:
        return
    children: object = stage.children
    if not isinstance(children, Children):
        yield path, f"stage '{stage_id}' has no children, so there is nothing below it: use Jump('{stage_id}')"
        return
    names = [*children.pipelines, *([] if children.workflow is None else [children.workflow])]
    if children.over is None and below[0] not in names:
        yield path, f"stage '{stage_id}' has no child {shown(below[0])}: {suggest(below[0], names)}"
        return
    if len(below) == 1:
        yield path, f"'{address}' names a child: add the stage at which it begins"
        return
    inner = definition.pipelines.get(below[0] if children.over is None else next(iter(children.pipelines), ""))
    if inner is not None:
        yield from target_faults(path, below[1], [stage.id for stage in inner.stages])
        yield from address_faults(path, "/".join(below[1:]), inner, definition)


def _what(path: str, children: Children, definition: WorkflowDefinition) -> Iterator[Fault]:
    names = list(children.pipelines)
    for place, name in enumerate(cast("list[object]", names)):
        if not isinstance(name, str) or name not in definition.pipelines:
            near = suggest(name if isinstance(name, str) else "", list(definition.pipelines))
            yield f"{path}.pipelines.{place}", f"there is no pipeline {shown(name)}: {near}"
        elif name in names[:place]:
            yield f"{path}.pipelines.{place}", f"'{name}' is named twice: a child is known by its pipeline"
    if children.workflow is not None:
        yield from name_faults(f"{path}.workflow", children.workflow)
        if names:
            yield f"{path}.workflow", "children are runs of pipelines of this workflow, or of another one: give one"
    elif not names:
        yield f"{path}.pipelines", "name the pipelines that run side by side, or a workflow"
    if children.over is not None:
        if len(names) > 1:
            yield f"{path}.pipelines", "with over= each element has a run of the same pipeline: name one"
        over: object = children.over
        if not (isinstance(over, str) and over) and not callable(over):
            yield f"{path}.over", f"{shown(over)} is neither a path into the state nor a function of the state"


def _how(path: str, children: Children) -> Iterator[Fault]:
    for name, function in (("over", children.over), ("input", children.input)):
        if inspect.iscoroutinefunction(function):
            yield f"{path}.{name}", "is async: use a def, and do what takes time in a stage before"
    if children.input is not None and not callable(cast("object", children.input)):
        yield f"{path}.input", f"{shown(children.input)} is not a function of the state"
    into: object = children.into
    if into is not None and (not isinstance(into, str) or not into or "." in into):
        yield f"{path}.into", f"{shown(into)} is not a key of the state: give a text without dots"
    join: object = children.join
    if isinstance(join, str):
        if join not in ("all", "any"):
            yield f"{path}.join", f"{shown(join)} is not a rule: use all, any or a number"
    else:
        most = None if children.over is not None else max(1, len(children.pipelines))
        yield from whole_faults(f"{path}.join", join, 1, most)
    way: object = children.on_child_failure
    if not isinstance(way, str) or way not in ("fail_fast", "collect"):
        yield f"{path}.on_child_failure", f"{shown(way)} is not a rule: use fail_fast or collect"
    if children.limit is not None:
        yield from whole_faults(f"{path}.limit", children.limit, 1)
