"""Inspect a factory: its parameters, its kind, the type it builds.

House rules: pure inspection, once per factory; this file calls no factory and looks nothing up in a container.
"""

from __future__ import annotations

import enum
import functools
import inspect
import types
import typing
import weakref
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Annotated, Any, Union

from poundlock.artifacts.keys import Key, Use, key_name
from poundlock.artifacts.template import ArtifactTemplate, Factory
from poundlock.callables import (
    Unresolved,
    annotations_of,
    function_behind,
    is_unresolved,
    manages,
    parameters_of,
    provided_type,
)
from poundlock.errors import InvalidDefinition
from poundlock.records import NamedTuple

CONTEXT_NAMES = frozenset({"ctx", "context"})
"""Parameters with these names get the factory context without an annotation."""

PARAMS_NAME = "params"
"""A parameter with this name gets what was passed to `resolve(key, params=...)`."""


class ContextMark:
    """Base of the factory context; a parameter annotated with a subclass gets the context."""


class Kind(enum.Enum):
    """How a factory provides its artifact, which also determines the clean-up."""

    FUNCTION = "function"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"
    MANAGER = "context manager"
    ASYNC_MANAGER = "async context manager"


_AT_ONCE = frozenset({Kind.FUNCTION, Kind.GENERATOR, Kind.MANAGER})


class Need(NamedTuple):
    """An artifact that a parameter of a factory requests."""

    param: str
    key: Key
    """A string from `Use`, or the class the parameter is annotated with."""
    optional: bool
    """The parameter has a default, used where the key is not registered."""


class Signature(NamedTuple):
    """The parameters of a factory."""

    context: str | None
    """The parameter that gets the factory context."""
    params: str | None
    """The parameter that gets the params of the request."""
    needs: tuple[Need, ...]
    positional: tuple[tuple[str, Any], ...]
    """Parameters that cannot be passed by name, with their defaults."""


class Recipe:
    """An inspected template: all that a build needs. Shared by every container that uses the template."""

    __slots__ = (
        "at_once",
        "context",
        "expected",
        "factory",
        "kind",
        "name",
        "needs",
        "param_key",
        "params",
        "plain",
        "provided_type",
        "retry",
        "template",
        "timeout",
        "transient",
    )

    def __init__(self, template: ArtifactTemplate) -> None:
        signature = read_signature(template.factory, template.key)
        self.template = template
        self.name = key_name(template.key)
        self.factory = _callable_by_name(template.factory, signature.positional)
        self.kind = kind_of(template.factory)
        self.context = signature.context
        self.params = signature.params
        self.needs = signature.needs
        self.transient = template.scope == "transient"
        self.timeout = template.timeout
        self.retry = template.retry
        self.param_key = template.param_key
        self.expected = _checkable(template.type or (template.key if isinstance(template.key, type) else None))
        self.provided_type = template.type or _class_or_none(provided_type(template.factory))
        # Whether it can be built without waiting, as far as its own signature shows.
        self.at_once = self.kind in _AT_ONCE and self.timeout is None and self.retry is None
        self.plain = self.kind in {Kind.FUNCTION, Kind.GENERATOR} and self.context is None and self.params is None

    def __repr__(self) -> str:
        return f"<Recipe {self.name!r} {self.kind.value}>"


def kind_of(factory: Factory) -> Kind:
    """Return the kind of a factory; partials and callable objects are unwrapped."""
    function = function_behind(factory)
    if inspect.iscoroutinefunction(function):
        return Kind.COROUTINE
    if inspect.isasyncgenfunction(function):
        return Kind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(function):
        return Kind.GENERATOR
    return _MANAGED[manages(factory)]


_MANAGED = {None: Kind.FUNCTION, contextmanager: Kind.MANAGER, asynccontextmanager: Kind.ASYNC_MANAGER}


def read_signature(factory: Factory, key: Key) -> Signature:
    """Read the parameters of a factory.

    Raises:
        InvalidDefinition: a parameter without default is neither the context, nor params, nor annotated.
    """
    context = params = None
    needs: list[Need] = []
    positional: list[tuple[str, Any]] = []
    hints = annotations_of(factory)
    for parameter in _parameters(factory):
        name, hint = parameter.name, hints.get(parameter.name)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append((name, parameter.default))
        asked = _asked_for(hint)
        if _is_context(hint) or (name in CONTEXT_NAMES and not isinstance(asked, str)):
            context = name
        elif name == PARAMS_NAME and not isinstance(asked, str):
            params = name
        elif asked is not None:
            needs.append(Need(name, asked, parameter.default is not parameter.empty))
        elif parameter.default is parameter.empty:
            raise InvalidDefinition(
                f"the factory of '{key_name(key)}' has a parameter '{name}' that cannot be injected: name it ctx for "
                f'the factory context, annotate it with a class or Annotated[T, Use("key")], or give it a default',
                path=f"{key_name(key)}.{name}",
            )
    return Signature(context, params, tuple(needs), tuple(positional))


_injections: weakref.WeakKeyDictionary[Any, Mapping[str, Key]] = weakref.WeakKeyDictionary()


def injections(function: Callable[..., Any]) -> Mapping[str, Key]:
    """Return which artifact each parameter of a function requests.

    Args:
        function: any callable; it is inspected once and not called.

    Returns:
        parameter name -> the key from `Annotated[T, Use(key)]`, as a string; or the class the parameter is annotated
        with, which is an artifact only if one is registered for it (see `ArtifactContainer.key_of`). Parameters that
        request nothing are left out. String annotations that cannot be resolved count as no annotation.

    Raises:
        InvalidDefinition: a `Use(...)` names something that is not defined.
    """
    try:
        return _injections[function]
    except (KeyError, TypeError):
        pass
    hints = annotations_of(function)
    asked = {parameter.name: _asked_for(hints.get(parameter.name)) for parameter in _parameters(function)}
    found = types.MappingProxyType({name: key for name, key in asked.items() if key is not None})
    with suppress(TypeError):  # a callable that cannot be weakly referenced is inspected each time
        _injections[function] = found
    return found


# ------------------------------------------------------------------------------------------------- annotations
def _parameters(factory: Factory) -> list[inspect.Parameter]:
    # A callable without a readable signature, such as many builtins, is called without arguments.
    return [each for each in parameters_of(factory) or () if each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}]


def _asked_for(hint: Any) -> Key | None:
    """Return the key that an annotation requests, or None."""
    if is_unresolved(hint):
        return _unreadable(hint)
    if typing.get_origin(hint) is Annotated:
        for mark in hint.__metadata__:
            if isinstance(mark, Use):
                if isinstance(mark.key, type) and is_unresolved(mark.key):
                    raise InvalidDefinition(
                        f"Use({mark.key.__name__}) names something that is not defined where it is written: "
                        f"write the key as a literal, or define it at module level",
                        path=mark.key.__name__,
                    )
                return key_name(mark.key)
        return _asked_for(hint.__origin__)
    if typing.get_origin(hint) in {Union, types.UnionType}:
        choices = [each for each in typing.get_args(hint) if each is not type(None)]
        return _asked_for(choices[0]) if len(choices) == 1 else None
    return hint if isinstance(hint, type) and typing.get_origin(hint) is None else None


def _unreadable(hint: type[Unresolved]) -> Key | None:
    """Return the key of a `Use` in an annotation that cannot be evaluated, from its text."""
    if hint.service is None and "Use(" in hint.text:
        names = ", ".join(hint.missing) or "its names"
        raise InvalidDefinition(
            f"the annotation '{hint.text}' cannot be read at run time: import {names} outside `if TYPE_CHECKING:`, "
            f"or define it at the top of its module",
            path=hint.text,
        )
    return hint.service


def _is_context(hint: Any) -> bool:
    if not isinstance(hint, type):
        return False
    # If the class is imported for type checkers only, just its name is known.
    return issubclass(hint, ContextMark) or (issubclass(hint, Unresolved) and hint.__name__ == "FactoryContext")


def _class_or_none(hint: Any) -> type | None:
    return hint if isinstance(hint, type) else None


def _checkable(expected: type | None) -> type | None:
    """Return the class if `isinstance` accepts it, else None: a Protocol may not be runtime-checkable."""
    if expected is None:
        return None
    try:
        isinstance(None, expected)
    except TypeError:
        return None
    return expected


def _callable_by_name(factory: Factory, positional: tuple[tuple[str, Any], ...]) -> Factory:
    if not positional:
        return factory

    @functools.wraps(factory)
    def by_name(**arguments: Any) -> Any:
        return factory(*[arguments.pop(name, default) for name, default in positional], **arguments)

    return by_name
