"""Routers: from a stage's state and results to an instruction."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from poundlock.codecs import dump
from poundlock.errors import StepFailed
from poundlock.guard import name_blocking, repr_of
from poundlock.model import definitions
from poundlock.model.conditions import Condition, all_match, resolve
from poundlock.model.definitions import INSTRUCTIONS, Branch, Instruction, Jump, Switch
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.injection import Deciding, arguments
from poundlock.pipeline.outgoing import send
from poundlock.pipeline.plan import Binding, Router
from poundlock.pipeline.run_view import RunView
from poundlock.records import NamedTuple


class RouterPlace(NamedTuple):
    """The place in a router's context: its stage, step "router"."""

    stage_id: str
    path_json: str
    id: str = "router"


def compile_router(
    router: definitions.Router | None, stage_id: str, path: str, binding: Binding | None
) -> Router | None:
    """Return a router as an async function of (run, results); None if the stage always advances.

    Args:
        router: as it is in the definition.
        stage_id: its stage.
        path: of the stage, in the timeline.
        binding: a function's arguments.
    """
    if router is None:
        return None
    if isinstance(router, str):
        router = Jump(router)
    if isinstance(router, INSTRUCTIONS):
        fixed: Instruction = router

        async def always(_run: RunView, _results: dict[str, Any]) -> Instruction:
            return fixed

        return always
    if isinstance(router, Branch):
        return _by_state(partial(_branched, router))
    if isinstance(router, Switch):
        return _by_state(partial(_switched, router))
    assert binding is not None  # noqa: S101 - every function of a definition is bound
    return _decider(router, binding, RouterPlace(stage_id, dump(path)), path)


def _by_state(target: Callable[[Mapping[str, Any]], str | None]) -> Router:
    """Return a router that reads nothing but the state."""

    async def decide(run: RunView, _results: dict[str, Any]) -> Instruction | None:
        stage = target(run.state)
        return None if stage is None else Jump(stage)

    return decide


def _branched(router: Branch, state: Mapping[str, Any]) -> str | None:
    for conditions, stage in router.cases:
        resolved = resolve(conditions, state)
        if resolved is not None and all_match(resolved, state):
            return stage
    return router.otherwise


def _switched(router: Switch, state: Mapping[str, Any]) -> str | None:
    for value, stage in router.cases:
        if Condition(router.field, "==", value).matches(state):
            return stage
    return router.otherwise


def _decider(function: Callable[..., Any], binding: Binding, place: RouterPlace, path: str) -> Router:
    async def decide(run: RunView, results: dict[str, Any]) -> Instruction | None:
        context = StepContext(run, place, 1) if binding.wants_context else None
        try:
            args, kwargs = await arguments(run, binding, Deciding(context, results))
            since = run.clock.monotonic()
            answer = function(*args, **kwargs)
            name_blocking(run.clock, since, function)
            if inspect.isawaitable(answer):
                answer = await answer
            if context is not None and context.outgoing:
                send(run, place.path_json, context.outgoing)
        finally:
            if context is not None:
                context.abandon()
        return as_instruction(answer, path)

    return decide


def as_instruction(answer: Any, path: str) -> Instruction | None:
    """Return the answer of a router or step as an instruction; a plain string means Jump, None means Advance."""
    if answer is None or isinstance(answer, INSTRUCTIONS):
        return answer
    if isinstance(answer, str):
        return Jump(answer)
    raise StepFailed(
        f"the router of {path} returned {repr_of(answer, 60)}: return an instruction, a stage id or None", path=path
    )
