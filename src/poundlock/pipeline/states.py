"""States and the workflow's model of them: whether one fits, and how users see it."""

from __future__ import annotations

from typing import Any

from poundlock.codecs import detach
from poundlock.errors import StateInvalid
from poundlock.model.views import StateView


def shown(model: Any, state: dict[str, Any]) -> Any:
    """Return a state as users see it: a detached instance of the state model, or a read-only mapping without one."""
    return StateView(state) if model is None else model.model_validate(detach(state))


def validate(model: Any, state: dict[str, Any]) -> None:
    """Check a state against the workflow's model; without one, everything fits.

    Raises:
        StateInvalid: `path` is the field that does not fit.
    """
    if model is None:
        return
    from pydantic import ValidationError

    try:
        model.model_validate(state)
    except ValidationError as error:
        path = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise StateInvalid(f"the state does not fit {model.__name__}: {first_fault(error)}", path=path) from None


def fits(model: Any, state: dict[str, Any]) -> bool:
    """Whether a state fits the workflow's model."""
    try:
        validate(model, state)
    except StateInvalid:
        return False
    return True


def first_fault(error: Any) -> str:
    """Return the first fault of a pydantic ValidationError as `path: message`."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])
