"""What a function asks for by its parameters, worked out once when its workflow is registered.

First that fits (the order users rely on): `Annotated[T, Use(id)]`; StepContext or the name `ctx`; Event or the name
`event` (a pydantic model on a parameter named `event` is the payload's); the workflow's state model or the name
`state`; a type registered as a service; the state field of that name, validated to the annotation.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from poundlock.codecs import detach
from poundlock.errors import InvalidDefinition, StateInvalid
from poundlock.guard import call_now, repr_of
from poundlock.model.annotations import type_hints
from poundlock.model.events import Event
from poundlock.model.paths import MISSING
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.plan import Binding, Getter
from poundlock.pipeline.run_view import RunView
from poundlock.pipeline.states import first_fault

_EXACT = (str, int, float, bool)
_NAMES = ("ctx", "event", "state")
"""Parameters that mean the same whatever their type, unless they name a service."""


def compile_binding(
    function: Callable[..., Any],
    *,
    state_model: type | None,
    service_types: Mapping[Any, tuple[str, ...]],
    path: str,
) -> Binding:
    """Work out how to call `function` as a step.

    Args:
        function: the step's action.
        state_model: the workflow's state model, if any.
        service_types: type to the ids of the services that provide it.
        path: where the step stands, for errors.

    Raises:
        InvalidDefinition: a parameter cannot be provided: `*args`, a positional-only one after a keyword, or a type
            that two services provide.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise InvalidDefinition(f"{path}: cannot read the parameters of {repr_of(function)}", path=path) from None
    hints = type_hints(function)
    positional: list[Getter] = []
    keyword: list[tuple[str, Getter]] = []
    services: list[tuple[int | str, str]] = []
    wants_context = False
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        hint = hints.get(parameter.name, MISSING)
        place: int | str = parameter.name if parameter.kind is parameter.KEYWORD_ONLY else len(positional)
        spoken_for = parameter.name in _NAMES or any(hint is kind for kind in (StepContext, Event, state_model))
        service = _service(parameter.name, hint, {} if spoken_for else service_types, path)
        getter: Getter
        if service is not None:
            services.append((place, service))
            getter = _nothing
        elif hint is StepContext or (parameter.name == "ctx" and service is None):
            wants_context = True
            getter = _context
        else:
            getter = _getter(parameter, hint, state_model)
        if isinstance(place, str):
            keyword.append((place, getter))
        else:
            positional.append(getter)
    return Binding(tuple(positional), tuple(keyword), tuple(services), wants_context)


def _service(name: str, hint: Any, service_types: Mapping[Any, tuple[str, ...]], path: str) -> str | None:
    if typing.get_origin(hint) is Annotated:
        from poundlock.artifacts import Use

        for extra in typing.get_args(hint)[1:]:
            if isinstance(extra, Use):
                return str(extra.key)
    try:
        ids = service_types.get(hint, ())
    except TypeError:  # an unhashable annotation names no service
        return None
    if len(ids) > 1:
        raise InvalidDefinition(
            f"{path}: parameter '{name}' asks for {hint.__qualname__}, which {', '.join(ids)} provide: "
            f"say which with Annotated[{hint.__qualname__}, Use('{ids[0]}')]",
            path=path,
        )
    return ids[0] if ids else None


def _getter(parameter: inspect.Parameter, hint: Any, state_model: type | None) -> Getter:
    name = parameter.name
    bare = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    if bare is Event or (name == "event" and not _is_model(bare)):
        return _event
    if name == "event":
        return _payload_as(bare)
    if (state_model is not None and bare is state_model) or name == "state":
        return _state
    default = parameter.default
    if state_model is not None and name in getattr(state_model, "model_fields", {}):
        return lambda run, _: getattr(run.view(), name)
    return _field(name, bare, hint, default)


def _field(name: str, bare: Any, hint: Any, default: Any) -> Getter:
    """Return a getter for a state field that checks only where a check can change or refuse something."""
    missing = default is inspect.Parameter.empty

    def absent() -> Any:
        if missing:
            raise StateInvalid(
                f"the state has no field '{name}': write it in an earlier stage, map it from the event, "
                f"or give the parameter a default",
                path=name,
            )
        return default

    if bare is MISSING or bare is Any:

        def plain(run: RunView, _: StepContext | None) -> Any:
            value = run.state.get(name, MISSING)
            return absent() if value is MISSING else detach(value)

        return plain
    adapter: Any = None

    def checked(run: RunView, _: StepContext | None) -> Any:
        nonlocal adapter
        value = run.state.get(name, MISSING)
        if value is MISSING:
            return absent()
        if bare in _EXACT and type(value) is bare:
            return value
        if adapter is None:
            adapter = _adapter(hint)
        return _validated(adapter, detach(value), name)

    return checked


def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def _validated(adapter: Any, value: Any, path: str) -> Any:
    answer = call_now(adapter.validate_python, value)
    if answer.error is None:
        return answer.value
    fault = first_fault(answer.error)
    raise StateInvalid(f"'{path}' does not fit its annotation: {fault.text}", path=path) from fault.cause


def _payload_as(model: Any) -> Getter:
    adapter: Any = None

    def payload(run: RunView, _: StepContext | None) -> Any:
        nonlocal adapter
        if adapter is None:
            adapter = _adapter(model)
        return _validated(adapter, detach(run.event.payload), "event")

    return payload


def _is_model(hint: Any) -> bool:
    return isinstance(hint, type) and hasattr(hint, "model_validate")


def _nothing(_run: RunView, _ctx: StepContext | None) -> Any:
    return None


def _context(_run: RunView, ctx: StepContext | None) -> Any:
    return ctx


def _event(run: RunView, _ctx: StepContext | None) -> Any:
    return run.event.detached()


def _state(run: RunView, _ctx: StepContext | None) -> Any:
    return run.view()
