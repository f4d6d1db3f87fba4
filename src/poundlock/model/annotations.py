"""What functions say by their annotations."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any


def type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function that can be resolved; the others are left out one by one."""
    target = function if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
    target = inspect.unwrap(getattr(target, "func", target))
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception:  # noqa: BLE001 - resolving runs the user's annotations, which may raise anything
        return _hints_one_by_one(target)


def _hints_one_by_one(target: Any) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for name, annotation in getattr(target, "__annotations__", {}).items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(holder, getattr(target, "__globals__", {}), include_extras=True)
        except Exception:  # noqa: BLE001, S112 - the same; this parameter falls back to its name
            continue
    return hints


def provided_type(factory: Callable[..., Any]) -> Any:
    """Return the type a service factory provides: the class itself, or its return annotation."""
    if inspect.isclass(factory):
        return factory
    return type_hints(factory).get("return")
