"""The meaning of annotations in users' functions: a service, one of our types, a model, or unreadable."""

from __future__ import annotations

import typing
from typing import Annotated, Any

from poundlock.callables import Unresolved, bare, is_unresolved, layers_of


def used_service(hint: Any) -> str | Unresolved | None:
    """Return the id in `Annotated[T, Use(id)]`, also if only its text is known; an Unresolved if there is none."""
    if is_unresolved(hint):
        return hint() if hint.service is None and "Use(" in hint.text else hint.service  # type: ignore[no-any-return]  # a str or None
    for layer in layers_of(hint):
        if typing.get_origin(layer) is Annotated:
            from poundlock.artifacts import Use, key_name

            for extra in typing.get_args(layer)[1:]:
                if isinstance(extra, Use):
                    key: Any = extra.key
                    return key() if is_unresolved(key) else key_name(key)
        elif is_unresolved(layer):
            return used_service(layer)
    return None


def is_payload_model(hint: Any) -> bool:
    """Whether an annotation is a model of a payload: a pydantic model, dataclass or TypedDict."""
    if not isinstance(hint, type) or is_unresolved(hint):
        return False
    return any(hasattr(hint, mark) for mark in ("model_validate", "__dataclass_fields__", "__required_keys__"))


def is_model(hint: Any) -> bool:
    """Whether an annotation is a pydantic model."""
    return isinstance(hint, type) and hasattr(hint, "model_validate")


def is_about(hint: Any, kind: type) -> bool:
    """Whether an annotation names this class of ours, also if it is imported for type checkers only."""
    hint = bare(hint)
    if is_unresolved(hint):
        return bool(hint.text.rpartition(".")[2] == kind.__name__)
    return hint is kind


def cannot_be_read(hint: Any) -> str:
    """Return that an annotation cannot be read, and what to import; empty if it can be read."""
    if not is_unresolved(hint):
        return ""
    names = ", ".join(hint.missing) or "what it names"
    return (
        f"its annotation '{hint.text}' cannot be read at run time: import {names} outside `if TYPE_CHECKING:`, "
        f"or define it at the top of its module"
    )
