"""Find where a value that was read back differs from the one that was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from poundlock.guard import for_the_process


def difference(left: Any, right: Any, path: str = "") -> str | None:
    """Return the path of the first difference; None if there is none.

    Models and dataclasses must be of the same class and equal in each field; their own `__eq__` is not used, because
    private data is not stored. A list equals a tuple of the same items. NaN differs from everything.
    """
    try:
        return _difference(left, right, path)
    except BaseException as error:  # the `__eq__` of a user's class, or values that contain themselves
        if for_the_process(error):
            raise
        return path


def _difference(left: Any, right: Any, path: str) -> str | None:
    names = field_names(left)
    if names is not None:
        if type(left) is not type(right):
            return path
        return _first((getattr(left, name), getattr(right, name), below(path, name)) for name in names)
    if isinstance(left, Mapping):
        if not isinstance(right, Mapping):
            return path
        for key in (*left, *right):
            if key not in left or key not in right:
                return below(path, key)
        return _first((left[key], right[key], below(path, key)) for key in left)
    if isinstance(left, list | tuple):
        if not isinstance(right, list | tuple) or len(left) != len(right):
            return path
        pairs = enumerate(zip(left, right, strict=True))
        return _first((one, other, below(path, index)) for index, (one, other) in pairs)
    alike = isinstance(left, bool) is isinstance(right, bool) and bool(left == right)
    return None if alike else path


def _first(pairs: Any) -> str | None:
    for left, right, path in pairs:
        found = _difference(left, right, path)
        if found is not None:
            return found
    return None


def field_names(value: Any) -> list[str] | None:
    """Return the field names of a model or dataclass, including extras; None for other values."""
    kind = type(value)
    fields = getattr(kind, "__pydantic_fields__", None)
    if fields is not None:
        return [*fields, *(getattr(value, "__pydantic_extra__", None) or ())]
    if dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind)]
    return None


def below(path: str, part: object) -> str:
    """Return the path of a part."""
    return f"{path}.{part}" if path else str(part)
