"""States and the workflow's model of them: whether one fits, and how users see it."""

from __future__ import annotations

from typing import Any, NamedTuple

from poundlock.codecs import detach
from poundlock.errors import StateInvalid
from poundlock.guard import call_now, describe, name_of
from poundlock.model.views import StateView


def shown(model: Any, state: dict[str, Any]) -> Any:
    """Return a state as users see it: a detached instance of the state model, or a read-only mapping without one.

    Raises:
        StateInvalid: it does not fit the model.
    """
    return StateView(state) if model is None else _checked(model, detach(state))


def validate(model: Any, state: dict[str, Any]) -> None:
    """Check a state against the workflow's model; without one, everything fits.

    Raises:
        StateInvalid: `path` is the field that does not fit.
    """
    if model is not None:
        _checked(model, state)


def _checked(model: Any, state: dict[str, Any]) -> Any:
    answer = call_now(model.model_validate, state)
    if answer.error is None:
        return answer.value
    path, text, cause = first_fault(answer.error)
    raise StateInvalid(f"the state does not fit {name_of(model)}: {text}", path=path) from cause


def fits(model: Any, state: dict[str, Any]) -> bool:
    """Whether a state fits the workflow's model."""
    try:
        validate(model, state)
    except StateInvalid:
        return False
    return True


class Fault(NamedTuple):
    """What a validation found: where, what (with the place), and the error to name as its cause, if that says more."""

    path: str
    text: str
    cause: BaseException | None


def first_fault(error: BaseException) -> Fault:
    """Return the first fault of a validation, whatever a validator raised."""
    answer = call_now(_first_of, error)
    if answer.error is not None:  # no ValidationError, or one that holds an error which cannot be shown
        said = describe(error)
        return Fault("", f"{said.type}: {said.message}", error)
    path, message = answer.value
    return Fault(path, f"{path}: {message}" if path else message, None)


def _first_of(error: Any) -> tuple[str, str]:
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ".".join(str(part) for part in fault["loc"]), str(fault["msg"])
