"""Inspect callables: name, parameters, annotations. The only module that does.

House rule: this file calls no user code and never raises, even for odd callables. What cannot be read is None, or an
`Unresolved` annotation; the caller decides what that means.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import sys
import types
import typing
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from poundlock.guard import call_now

_Parameter = inspect.Parameter
_VARIADIC: Final = (_Parameter.VAR_POSITIONAL, _Parameter.VAR_KEYWORD)


# ------------------------------------------------------------------------------------------------ what it is
def called_name(function: Any) -> str | None:
    """Return the name of a callable: its own, or that of the function behind a partial; None if it has none."""
    name = call_now(getattr, function, "__name__", None).value
    if isinstance(name, str) and name:
        return name
    return called_name(function.func) if isinstance(function, functools.partial) else None


def function_behind(function: Any) -> Any:
    """Return the function that a call runs: the one behind partials and callable objects; a class itself."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or isinstance(function, type):
        return function
    return type(function).__call__


def is_coroutine_function(function: Any) -> bool:
    """Whether a call returns a coroutine, as far as its declaration shows."""
    return any(call_now(inspect.iscoroutinefunction, each).value for each in (function, function_behind(function)))


def is_generator_function(function: Any) -> bool:
    """Whether a call returns a generator, sync or async, so that its body does not run."""
    target = function_behind(function)
    return any(call_now(is_one, target).value for is_one in (inspect.isgeneratorfunction, inspect.isasyncgenfunction))


def runs_later(function: Any) -> bool:
    """Whether a call does not run the body yet: a generator function, or one that makes a context manager."""
    return is_generator_function(function) or manages(function) is not None


def manages(function: Any) -> Any:
    """Return `contextmanager` or `asynccontextmanager` if one of them made this function, else None.

    All functions that one of them makes share a code object, which identifies them.
    """
    code = getattr(function_behind(function), "__code__", None)
    return _MANAGERS.get(code) if isinstance(code, types.CodeType) else None


@contextmanager
def _manager() -> Iterator[None]:
    yield


@asynccontextmanager
async def _async_manager() -> typing.AsyncIterator[None]:
    yield


_MANAGERS: Final = {_manager.__code__: contextmanager, _async_manager.__code__: asynccontextmanager}


# ------------------------------------------------------------------------------------------------ its parameters
def parameters_of(function: Any) -> list[_Parameter] | None:
    """Return the parameters of a callable, without those that a partial has bound by name; None if unknown.

    Builtins and compiled callables often have no signature, and a `__signature__` may raise.
    """
    answer = call_now(inspect.signature, function)
    if answer.error is not None:
        return None
    filled: set[str] = set()
    behind = function
    while isinstance(behind, functools.partial):
        filled |= behind.keywords.keys()
        behind = behind.func
    found = [each for each in answer.value.parameters.values() if each.name not in filled]
    if tells_nothing(found) and (not _is_python(function) or _is_mock(function)):
        return None  # what is compiled, or made for a test, claims to take everything
    return found


def _is_python(function: Any) -> bool:
    unwrapped = call_now(inspect.unwrap, function_behind(function))
    return call_now(getattr, unwrapped.value, "__code__", None).value is not None


def _is_mock(function: Any) -> bool:
    mock = sys.modules.get("unittest.mock")
    return mock is not None and issubclass(type(function), mock.NonCallableMock)


def tells_nothing(parameters: list[_Parameter]) -> bool:
    """Whether a callable has only `*args` and `**kwargs`, as a wrapper without `functools.wraps` does."""
    return bool(parameters) and all(each.kind in _VARIADIC for each in parameters)


# ------------------------------------------------------------------------------------------------ its annotations
class Unresolved:
    """Placeholder for an annotation, or a name in one, that cannot be evaluated.

    Each is a class of its own, so that it can be used where a type is expected, such as `Annotated[Missing, ...]`.

    Attributes:
        text: the source text.
        missing: names in it that are not defined, such as those imported under `if TYPE_CHECKING:`.
        service: the id of a `Use("id")` in the text, if there is one.
    """

    text: str = ""
    missing: tuple[str, ...] = ()
    service: str | None = None


def is_unresolved(hint: Any) -> bool:
    """Whether an annotation is an `Unresolved`."""
    return isinstance(hint, type) and issubclass(hint, Unresolved)


def layers_of(hint: Any) -> Iterator[Any]:
    """Yield an annotation, then what is within its `Annotated`, `| None` or alias, down to the type it is about."""
    while True:
        yield hint
        origin = typing.get_origin(hint)
        if origin is typing.Annotated:
            hint = typing.get_args(hint)[0]
        elif origin is typing.Union or origin is types.UnionType:
            choices = [each for each in typing.get_args(hint) if each is not types.NoneType]
            if len(choices) != 1:
                return
            hint = choices[0]
        elif type(hint).__name__ == "TypeAliasType":  # of typing, or of typing_extensions
            hint = call_now(getattr, hint, "__value__", None).value
        else:
            return


def bare(hint: Any) -> Any:
    """Return the type that an annotation is about."""
    return list(layers_of(hint))[-1]


def annotations_of(function: Any) -> dict[str, Any]:
    """Return a callable's annotations as objects; what cannot be resolved becomes a subclass of `Unresolved`.

    What a `__signature__` says of a parameter counts more than the function behind it.
    """
    target = function_behind(function)
    if isinstance(target, type):
        target = inspect.getattr_static(target, "__init__")
    unwrapped = call_now(inspect.unwrap, target)
    target = target if unwrapped.error is not None else unwrapped.value
    raw = call_now(getattr, target, "__annotations__", None).value
    if not isinstance(raw, dict):
        raw = {}
    shown = {each.name: each.annotation for each in parameters_of(function) or () if each.annotation is not each.empty}
    said = {name: hint for name, hint in shown.items() if raw.get(name) is not hint}
    hints = _annotations(target, raw)
    if said:
        scope = _Scope(target)
        hints |= {name: scope.resolve(hint) for name, hint in said.items()}
    return hints


def _annotations(target: Any, raw: dict[str, Any]) -> dict[str, Any]:
    if not raw or all(isinstance(hint, type) for hint in raw.values()):
        return dict(raw)  # often, and then there is nothing to resolve
    whole = call_now(functools.partial(typing.get_type_hints, include_extras=True), target)
    if whole.error is None and isinstance(whole.value, dict):
        return whole.value
    scope = _Scope(target)
    return {name: scope.resolve(hint) for name, hint in raw.items()}


class _Scope(dict[str, Any]):
    """The names a function sees. A missing one gets a placeholder, so that `Annotated[Missing, Use("db")]` works."""

    def __init__(self, function: Any) -> None:
        name = call_now(getattr, function, "__module__", None).value
        module = sys.modules.get(name if isinstance(name, str) else "", builtins)
        super().__init__(vars(builtins) | vars(module) | getattr(function, "__globals__", {}))
        self._missing: list[str] = []
        code = getattr(function, "__code__", None)
        for name, cell in zip(
            code.co_freevars if code else (), getattr(function, "__closure__", None) or (), strict=False
        ):
            try:
                self[name] = cell.cell_contents
            except ValueError:
                continue  # a variable of the enclosing function without a value yet

    def __missing__(self, name: str) -> Any:
        self._missing.append(name)
        return _placeholder(name, (name,))

    def resolve(self, hint: Any) -> Any:
        if not isinstance(hint, str):
            holder = types.SimpleNamespace(__annotations__={"it": hint})
            inner = call_now(lambda: typing.get_type_hints(holder, dict(self), include_extras=True)["it"])
            return hint if inner.error is not None else inner.value
        self._missing.clear()
        answer = call_now(lambda: eval(hint, {}, self))  # noqa: S307 - the text of an annotation in the user's own source
        if answer.error is None and isinstance(answer.value, str) and answer.value != hint:
            return self.resolve(answer.value)  # written in quotes, where all annotations are text
        if answer.error is None and not isinstance(answer.value, str):
            return answer.value
        return _placeholder(hint, tuple(dict.fromkeys(self._missing)))


def _placeholder(text: str, missing: tuple[str, ...]) -> Any:
    name = text if text.isidentifier() else "Unresolved"
    return type(name, (Unresolved,), {"text": text, "missing": missing, "service": _used_in(text)})


def _used_in(text: str) -> str | None:
    """Return the id in `Use("id")`, even if Use itself is imported for type checkers only."""
    answer = call_now(ast.parse, text.strip())
    if answer.error is not None:
        return None
    for node in ast.walk(answer.value):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "key")]
        if name == "Use" and len(given) == 1 and isinstance(given[0], ast.Constant) and isinstance(given[0].value, str):
            return given[0].value
    return None


def provided_type(factory: Any) -> Any:
    """Return the type a service factory provides: the class itself, or its return annotation.

    A generator or context manager provides what it yields: `Iterator[T]`, `Generator[T, ...]` and the like give T. A
    class method that returns `Self` provides its class.
    """
    target = factory
    while isinstance(target, functools.partial):
        target = target.func
    if isinstance(target, type):
        return target
    hint = bare(annotations_of(factory).get("return"))
    if runs_later(factory):
        hint = bare(next(iter(typing.get_args(hint)), None))
    if getattr(hint, "__name__", None) == "Self":  # of a class method, of typing or of typing_extensions
        owner = call_now(getattr, function_behind(factory), "__self__", None).value
        hint = owner if isinstance(owner, type) else None
    return None if hint is type(None) or is_unresolved(hint) else hint
