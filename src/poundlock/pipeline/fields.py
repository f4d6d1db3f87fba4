"""State fields and payloads as arguments: read, checked against the parameter's annotation, or refused by name."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

from poundlock.callables import bare, is_unresolved
from poundlock.codecs import detach, is_registered
from poundlock.errors import StateInvalid
from poundlock.guard import call_now, name_of, repr_of
from poundlock.model.paths import MISSING
from poundlock.pipeline.plan import Getter
from poundlock.pipeline.run_view import RunView
from poundlock.pipeline.states import first_fault
from poundlock.records import dataclass

Validator = Callable[[Any, str], Any]
"""Takes a value and the path it is at; returns it as the annotation wants it, or raises StateInvalid."""

_EXACT: Final = (str, int, float, bool)
_SAFE: Final = (*_EXACT, dict, list, tuple, set, bytes)
"""Types whose validators can always be built, so that they are built at first use."""


@dataclass(frozen=True, slots=True)
class Field:
    """A state field that a parameter requests.

    Attributes:
        field: its name in the state.
        parameter: the parameter's name, for errors.
        check: its validator; None if there is nothing to check.
        exact: the annotation, if it is a plain type whose values need no check.
        default: the parameter's default, or `inspect.Parameter.empty`.
        because: why the annotation could not be used, for the error; empty if it could.
    """

    field: str
    parameter: str
    check: Validator | None
    exact: type | None
    default: Any
    because: str

    def getter(self, *, typed: bool, each: bool = False) -> Getter:
        """Return its getter.

        Args:
            typed: whether it reads an instance of the state model.
            each: whether the function is called once per element: those share an instance, as making one takes the
                longer, the more elements there are.
        """
        field, check, path, exact = self.field, self.check, self.parameter, self.exact
        if typed:
            read: Getter = (lambda _, at: at.field(field)) if each else (lambda run, _: getattr(run.view(), field))
            return read if check is None else partial(self._fitting, read)
        if check is None:

            def plain(run: RunView, _: Any) -> Any:
                value = run.state.get(field, MISSING)
                return self._absent() if value is MISSING else detach(value)

            return plain

        def checked(run: RunView, _: Any) -> Any:
            value = run.state.get(field, MISSING)
            if type(value) is exact:  # the usual case: nothing to check or to copy
                return value
            return self._absent() if value is MISSING else check(detach(value), path)

        return checked

    def _fitting(self, read: Getter, run: RunView, at: Any) -> Any:
        """Return the model's value if it fits the annotation, else the state's value: a nested model as a dict."""
        assert self.check is not None  # noqa: S101 - looked at by `getter`
        value = read(run, at)
        try:
            return self.check(value, self.parameter)
        except StateInvalid:
            held = run.state.get(self.field, MISSING)
            if held is MISSING or held is value:
                raise
            return self.check(detach(held), self.parameter)

    def _absent(self) -> Any:
        if self.default is not inspect.Parameter.empty:
            return self.default
        more = f". If it is to be a service: {self.because}" if self.because else ""
        raise StateInvalid(
            f"the state has no field '{self.parameter}': write it in an earlier stage, map it from the event, "
            f"or give the parameter a default{more}",
            path=self.parameter,
        )


def of_element(name: str, check: Validator | None, exact: type | None, default: Any) -> Getter:
    """Return a getter of an element's `item`, `index` or `key`, from the context of its attempt.

    Args:
        name: which.
        check: its validator; None if there is nothing to check.
        exact: the annotation, if it is a plain type whose values need no check.
        default: the parameter's default, or `inspect.Parameter.empty`.
    """

    def given(_run: RunView, at: Any) -> Any:
        value = getattr(at, name)
        if value is MISSING:
            if default is not inspect.Parameter.empty:
                return default
            raise StateInvalid(f"'{name}' is given for the elements of a mapping: a list has `index`", path=name)
        if check is None or type(value) is exact:
            return value
        try:
            return check(value, name)
        except StateInvalid:
            held = at.stored_item if name == "item" else MISSING
            if held is MISSING:
                raise
            return check(held, name)  # an instance of a model, and the function takes a mapping

    return given


def validator_of(hint: Any) -> Validator | str | None:
    """Return a validator for an annotation; None if there is nothing to check, a text if it cannot be built."""
    about = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    if about is MISSING or about is Any or about is object or is_unresolved(bare(hint)):
        return None
    if any(hint is kind for kind in _SAFE):
        return _when_needed(hint)
    adapter = call_now(_adapter, hint)
    if adapter.error is None:
        return _checked_by(adapter.value)
    if isinstance(about, type) and is_registered(about):
        return _instance_of(about)
    named = name_of(about) if isinstance(about, type) else repr_of(about, 100)
    said = first_fault(adapter.error).text.partition("\n")[0].partition(". ")[0]
    because = "" if "PydanticSchemaGenerationError" in said else f" ({said:.160})"  # that message only repeats this
    return f"data cannot be checked against {named}{because}"


def instance_of(hint: Any) -> Validator:
    """Return a validator for an annotation that is not data: only instances of that type fit."""
    from pydantic import ConfigDict, TypeAdapter

    adapter = call_now(lambda: TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)))
    if adapter.error is None:
        return _checked_by(adapter.value)

    def refused(_value: Any, path: str) -> Any:
        raise StateInvalid(f"'{path}' cannot be checked against its annotation {repr_of(hint, 100)}", path=path)

    return refused


def exactly(hint: Any) -> type | None:
    """Return a plain type of immutable values; a value of it is passed as it is."""
    return next((kind for kind in _EXACT if hint is kind), None)


def _when_needed(hint: Any) -> Validator:
    check: Validator | None = None

    def validated(value: Any, path: str) -> Any:
        nonlocal check
        if check is None:
            check = _checked_by(_adapter(hint))
        return check(value, path)

    return validated


def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def _checked_by(adapter: Any) -> Validator:
    def validated(value: Any, path: str) -> Any:
        answer = call_now(adapter.validate_python, value)
        if answer.error is None:
            return answer.value
        fault = first_fault(answer.error)
        raise StateInvalid(f"'{path}' does not fit its annotation: {fault.text}", path=path) from fault.cause

    return validated


def _instance_of(kind: type) -> Validator:
    def validated(value: Any, path: str) -> Any:
        if isinstance(value, kind):
            return value
        raise StateInvalid(f"'{path}' does not fit its annotation: it is a {name_of(type(value))}", path=path)

    return validated


def payload_as(model: Any) -> Getter:
    """Return a getter of the payload of the run's event as an instance of a model."""
    check = _when_needed(model)
    return lambda run, _: check(detach(run.event.payload), "event")
