"""Hooks: which there are, and what each of them gets.

Each takes its one documented argument by position, as callbacks do, then services by annotation. This is resolved
when the workflow is registered; a parameter that cannot be filled is a fault of the definition.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from poundlock.callables import annotations_of, parameters_of, runs_later
from poundlock.clock import Clock, timeout_after
from poundlock.errors import HookTimeout
from poundlock.guard import name_blocking, repr_of
from poundlock.model.paths import MISSING
from poundlock.pipeline.injection import Injector
from poundlock.records import dataclass

if TYPE_CHECKING:  # heavy, and needed for a type alone
    from poundlock.artifacts import ArtifactContainer

_ARGUMENTS: Final = {
    "on_prepare": "ctx",
    "on_complete": "result",
    "on_resume": "ctx",
    "on_cleanup": None,
    "on_dispatch": "line",
}
"""What each hook is called with."""
_OUTSIDE: Final = ("on_cleanup", "on_dispatch")
"""Hooks that are called when no services of a run are open."""


def in_time(function: Callable[[Any], Any], seconds: float, clock: Clock) -> Callable[[Any], Any]:
    """Return a hook that raises `HookTimeout` if it takes longer, whatever it makes of its cancellation.

    It runs in the task of its caller, who sees what it sets in its context. So one that does not end at all is not left
    behind here, but by an abort of its run.
    """

    async def ends(answer: Any) -> Any:
        limit = timeout_after(clock, seconds)
        try:
            async with limit:
                return await answer
        finally:
            if limit.expired:
                raise HookTimeout(f"it took longer than {seconds:g} s and was cancelled: increase hook_timeout")

    def call(argument: Any) -> Any:
        answer = function(argument)
        return ends(answer) if inspect.isawaitable(answer) else answer

    return call


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of one workflow, as they were given. Each may be sync or async."""

    on_prepare: Callable[..., Any] | None = None
    on_complete: Callable[..., Any] | None = None
    on_resume: Callable[..., Any] | None = None
    on_cleanup: Callable[..., Any] | None = None
    on_dispatch: Callable[..., Any] | None = None


class _Fault(Protocol):
    def __call__(self, key: str, *, asked_in: Literal["run", "workflow"]) -> str | None: ...


@dataclass(frozen=True, slots=True)
class BoundHook:
    """A hook, and the services it requests: (position or name, id).

    `defaults` are those of positional parameters before a positional service.
    """

    function: Callable[..., Any]
    services: tuple[tuple[int | str, str], ...] = ()
    defaults: tuple[tuple[int, Any], ...] = ()

    def on(self, clock: Clock, services: Callable[[], ArtifactContainer]) -> Callable[..., Any]:
        """Return it as a function of its documented argument alone.

        Args:
            clock: measures how long a plain function blocked the loop.
            services: returns the container of its services.
        """
        if not self.services:
            return self.function

        async def call(*args: Any) -> Any:
            container = services()
            places: dict[int, Any] = dict(self.defaults)
            names: dict[str, Any] = {}
            for place, key in self.services:
                if isinstance(place, int):
                    places[place] = await container.require(key)
                else:
                    names[place] = await container.require(key)
            given = [*args, *(places[place] for place in sorted(places))]
            since = clock.monotonic()
            answer = self.function(*given, **names)
            name_blocking(clock, since, self.function)
            return await answer if inspect.isawaitable(answer) else answer

        return call


@dataclass(frozen=True, slots=True)
class BoundHooks:
    """The hooks of one registered workflow, ready to be called; None for a hook that was not given."""

    on_prepare: BoundHook | None = None
    on_complete: BoundHook | None = None
    on_resume: BoundHook | None = None
    on_cleanup: BoundHook | None = None
    on_dispatch: BoundHook | None = None


def bind_hooks(hooks: Hooks, injector: Injector, service_fault: _Fault) -> BoundHooks:
    """Resolve the parameters of each hook; what cannot be filled is noted as a fault with the injector."""
    bound = {}
    for hook in fields(hooks):
        function = getattr(hooks, hook.name)
        if function is not None:
            bound[hook.name] = _bind(hook.name, function, injector, service_fault)
    return BoundHooks(**bound)


def _bind(name: str, function: Any, injector: Injector, service_fault: _Fault) -> BoundHook:
    if not callable(function):
        injector.fault(name, f"{repr_of(function, 60)} is not a function")
        return BoundHook(function)
    if runs_later(function):
        injector.fault(name, "is a generator function or context manager, so nothing of it would run")
    parameters = parameters_of(function)
    if parameters is None:
        return BoundHook(function)
    argument = _ARGUMENTS[name]
    by_place = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    takes_any = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    hints = annotations_of(function)
    if argument is not None and by_place:
        first = by_place[0]
        if injector.service_of(first.name, hints.get(first.name, MISSING), f"{name}.{first.name}") is not None:
            injector.fault(
                f"{name}.{first.name}", f"its first parameter is the {argument}: take services in those after it"
            )
    elif argument is not None and not takes_any:
        injector.fault(name, f"is called with the {argument}: give it a parameter for it")
    taken = by_place[:1] if argument is not None else []
    services: list[tuple[int | str, str]] = []
    defaults: list[tuple[int, Any]] = []
    for place, parameter in enumerate(parameters):
        if parameter in taken or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        path = f"{name}.{parameter.name}"
        injector.misplaced(parameter, path)
        service = injector.service_of(parameter.name, hints.get(parameter.name, MISSING), path)
        if service is not None:
            fault = service_fault(service, asked_in="workflow" if name in _OUTSIDE else "run")
            if fault is not None:
                injector.fault(path, fault)
            services.append((parameter.name if parameter.kind is not parameter.POSITIONAL_ONLY else place, service))
        elif parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is not parameter.empty:
            defaults.append((place, parameter.default))
        elif parameter.default is parameter.empty:
            given = f"the {argument} and services" if argument else "services"
            injector.fault(
                path,
                f"nothing can give '{parameter.name}': a hook is given {given}, by Annotated[T, Use(id)] or by type",
            )
    last = max((place for place, _ in services if isinstance(place, int)), default=0)
    return BoundHook(function, tuple(services), tuple(each for each in defaults if each[0] < last))
