"""Find where a value that was read back differs from the one that was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from poundlock.guard import for_the_process

_ABSENT: Final = object()


def difference(left: Any, right: Any, path: str = "") -> str | None:
    """Return the path of the first difference; None if there is none.

    Models and dataclasses must be of the same class and equal in each field; their own `__eq__` is not used, because
    private data is not stored. A generic model without its argument counts as the class of one with it, as in pydantic.
    A list equals a tuple of the same items. NaN differs from everything.
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
        if _class(left) is not _class(right):
            return path
        extra = getattr(right, "__pydantic_extra__", None) or ()
        if extra or foreign_names(left) or foreign_names(right):
            names = list(dict.fromkeys((*names, *extra, *foreign_names(left), *foreign_names(right))))
        return _first(
            (getattr(left, name, _ABSENT), getattr(right, name, _ABSENT), below(path, name)) for name in names
        )
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


def foreign_names(value: Any) -> list[str]:
    """Return the names of what a model or dataclass holds besides its fields, such as a misspelt `model_copy(update=)`.

    What is private and what its class computes (`cached_property`) does not count.
    """
    kind = type(value)
    fields = getattr(kind, "__pydantic_fields__", None) or getattr(kind, "__dataclass_fields__", None)
    held = getattr(value, "__dict__", None)
    if fields is None or held is None or held.keys() <= fields.keys():
        return []
    return [name for name in held if name not in fields and not name.startswith("_") and not hasattr(kind, name)]


def _class(value: Any) -> Any:
    kind = type(value)
    return (getattr(kind, "__pydantic_generic_metadata__", None) or {}).get("origin") or kind


def below(path: str, part: object) -> str:
    """Return the path of a part."""
    return f"{path}.{part}" if path else str(part)
