"""Dotted paths into JSON-like data: `order.lines.0.sku`. A number is an index of a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""What `get_path` returns where there is no value; None is a value."""


def get_path(data: Any, path: str, default: Any = MISSING) -> Any:
    """Return the value at `path` in `data`, or `default`. The empty path means `data` itself."""
    if type(data) is dict and path in data:  # the common case; an isinstance check with Mapping costs far more
        return data[path] if path else data
    if not path:
        return data
    if path in data if isinstance(data, Mapping) else False:
        return data[path]  # a key that contains dots comes first: CloudEvents extensions and form fields have them
    for part in path.split("."):
        if isinstance(data, Mapping):
            if part not in data:
                return default
            data = data[part]
        elif isinstance(data, list) and part.isascii() and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        else:
            return default
    return data


def touches(changed: str, read: str) -> bool:
    """Whether a change at one path is visible at the other: one is a prefix of the other."""
    return (
        changed == read or not changed or not read or changed.startswith(read + ".") or read.startswith(changed + ".")
    )
