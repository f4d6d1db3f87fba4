"""Routers: from a stage's state and results to an instruction."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from poundlock.errors import InvalidDefinition, StepFailed
from poundlock.guard import name_blocking, repr_of
from poundlock.model.definitions import INSTRUCTIONS, Instruction, Jump
from poundlock.pipeline.plan import Router
from poundlock.pipeline.run_view import RunView

_OFFERED: dict[str, Callable[[RunView, dict[str, Any]], Any]] = {
    "state": lambda run, _: run.view(),
    "results": lambda _, results: results,
    "event": lambda run, _: run.event.detached(),
    "resume": lambda run, _: run.resume,
}
_BY_PLACE = ("state", "results")


def compile_router(router: Instruction | str | Callable[..., Any] | None, path: str) -> Router | None:
    """Return a router as an async function of (run, results); None where a stage simply advances.

    A function gets `state`, `results`, `event` and `resume` by the names of its parameters; parameters of other names
    get state and results by their place.

    Raises:
        InvalidDefinition: a parameter cannot be provided.
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
    function = router
    sources = _sources(function, path)

    async def decide(run: RunView, results: dict[str, Any]) -> Instruction | None:
        since = run.clock.monotonic()
        answer = function(**{name: source(run, results) for name, source in sources})
        name_blocking(run.clock, since, function)
        if inspect.isawaitable(answer):
            answer = await answer
        return as_instruction(answer, path)

    return decide


def as_instruction(answer: Any, path: str) -> Instruction | None:
    """Return what a router or step answered as an instruction; a plain string means Jump, None means Advance."""
    if answer is None or isinstance(answer, INSTRUCTIONS):
        return answer
    if isinstance(answer, str):
        return Jump(answer)
    raise StepFailed(
        f"the router of {path} returned {repr_of(answer, 60)}: return an instruction, a stage id or None", path=path
    )


def _sources(function: Callable[..., Any], path: str) -> list[tuple[str, Callable[[RunView, dict[str, Any]], Any]]]:
    sources = []
    unnamed = 0
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in _OFFERED:
            sources.append((name, _OFFERED[name]))
        elif parameter.kind is not parameter.POSITIONAL_ONLY and unnamed < len(_BY_PLACE):
            sources.append((name, _OFFERED[_BY_PLACE[unnamed]]))
        elif parameter.default is parameter.empty:
            raise InvalidDefinition(
                f"the router of {path} asks for '{name}': it may ask for {', '.join(_OFFERED)}", path=path
            )
        unnamed += 1
    return sources
