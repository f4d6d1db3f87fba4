"""Functions of an event: `when`, `map`, `key` and `patch`. Their parameters are resolved at registration.

A parameter named `event`, or annotated `Event`, gets the event; one named `payload`, or annotated with a model, its
payload; `patch` also knows `state`. Any other name is a fault: otherwise a parameter with another meaning would get the
event, and an event is always true.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, Protocol

from poundlock.callables import (
    annotations_of,
    bare,
    is_coroutine_function,
    parameters_of,
    runs_later,
    tells_nothing,
)
from poundlock.errors import InvalidEvent
from poundlock.model.events import Event
from poundlock.model.paths import MISSING
from poundlock.pipeline.annotations import cannot_be_read, is_about, is_payload_model, used_service
from poundlock.pipeline.fields import Validator, validator_of
from poundlock.pipeline.injection import Injector, takes_everything

EventFunction = Callable[[Event], Any]
"""Called with its own copy of the event: its changes are not seen elsewhere."""
_Source = Callable[[Event, Callable[[], Any]], Any]
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_PLAIN: Final = (bool, str, int, dict, type(None))


def _no_state() -> Any:
    raise AssertionError("only patch functions are given the state")


class PatchFunction(Protocol):
    """The same, also called with how to get the run's state."""

    def __call__(self, event: Event, state: Callable[[], Any] = _no_state) -> Any:
        """Return the result of the user's function."""


def compile_event_function(function: Any, path: str, injector: Injector) -> EventFunction:
    """Return `when`, `map` or `key` as a function of the event alone; parameters that cannot be filled are faults."""
    return _compile(function, path, injector, {})


def compile_patch(function: Any, path: str, injector: Injector) -> PatchFunction:
    """Return the patch function of a wait; it may ask for the `state` too."""
    return _compile(function, path, injector, {"state": lambda _, state: state()})


def _compile(function: Any, path: str, injector: Injector, offered: dict[str, _Source]) -> PatchFunction:
    name = path.rpartition(".")[2]
    if isinstance(function, type):
        injector.fault(path, "is a class: give a function, or an object of it that can be called")
    elif runs_later(function) or is_coroutine_function(function):
        injector.fault(path, f"must be a plain function: {name} is asked at once, and nothing is awaited")
    parameters = parameters_of(function)
    if parameters is None:
        return _caller(function, name, (_the_event,), ())
    if tells_nothing(parameters):
        injector.fault(path, takes_everything(function))
    hints = annotations_of(function)
    positional: list[_Source] = []
    keyword: list[tuple[str, _Source]] = []
    for parameter in parameters:
        if parameter.kind in _VARIADIC:
            continue
        source = _source(parameter, hints.get(parameter.name, MISSING), f"{path}.{parameter.name}", injector, offered)
        if source is None:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            keyword.append((parameter.name, source))
        else:
            positional.append(source)
    return _caller(function, name, tuple(positional), tuple(keyword))


def _source(
    parameter: inspect.Parameter, hint: Any, path: str, injector: Injector, offered: dict[str, _Source]
) -> _Source | None:
    name = parameter.name.removeprefix("_")  # linters want this prefix for unused parameters
    about = bare(hint)
    injector.misplaced(parameter, path)
    if used_service(hint) is not None:
        injector.fault(path, "a function of the event is given no services: let a step ask for it")
        return None
    if is_about(about, Event) or (name == "event" and not is_payload_model(about)):
        return _the_event
    if name in offered:
        injector.other_model(about, path)
        return offered[name]
    if offered and about is injector.state_model and name != "payload" and about is not None:
        injector.fault(path, f"is the state, or a payload of its form? Name it state or payload, not '{name}'")
        return None
    if name in ("event", "payload") or is_payload_model(about):
        return _payload(hint, path, injector)
    if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
        return _the_event
    if parameter.default is not parameter.empty:
        default = parameter.default
        return lambda _event, _state: default
    also = ", payload or state" if offered else " or payload"
    injector.fault(
        path,
        f"nothing can give '{parameter.name}': name it event, or annotate it "
        f"(a function of the event is given event{also})" + (f"; {said}" if (said := cannot_be_read(hint)) else ""),
    )
    return None


def _payload(hint: Any, path: str, injector: Injector) -> _Source:
    check = validator_of(hint)
    if isinstance(check, str):
        injector.fault(path, check)
    if check is None or isinstance(check, str):
        return lambda event, _: event.payload
    known: Validator = check
    return lambda event, _: known(event.payload, "payload")


def _caller(
    function: Any, name: str, positional: tuple[_Source, ...], keyword: tuple[tuple[str, _Source], ...]
) -> PatchFunction:
    if positional == (_the_event,) and not keyword:  # mostly, and for each event that is emitted

        def call_with_event(event: Event, state: Callable[[], Any] = _no_state) -> Any:  # noqa: ARG001 - it did not ask for it
            answer = function(event)
            return answer if type(answer) in _PLAIN else _settled(answer, name)

        return call_with_event

    def call(event: Event, state: Callable[[], Any] = _no_state) -> Any:
        args = [source(event, state) for source in positional]
        answer = function(*args, **{key: source(event, state) for key, source in keyword})
        return answer if type(answer) in _PLAIN else _settled(answer, name)

    return call


def _settled(answer: Any, name: str) -> Any:
    """Refuse a coroutine or generator: it is always true, and would match every event."""
    if not (inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer)):
        return answer
    if inspect.iscoroutine(answer):
        answer.close()
    raise InvalidEvent(f"{name} returned a {type(answer).__name__}: it must be a plain function", path=name)


def _the_event(event: Event, _state: Callable[[], Any]) -> Any:
    return event
