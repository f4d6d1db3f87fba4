"""Values of users in messages and comparisons: quoting them never raises.

`guard.repr_of` does the same above the model. It is not used here, because `guard` knows threads and the event loop,
which the model may not.
"""

from __future__ import annotations

from functools import partial
from typing import Any


def shown(value: Any, limit: int = 60) -> str:
    """Return a value as code shows it, cut to `limit` characters, whatever its `__repr__` does."""
    try:
        text = repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a user's `__repr__` may raise anything
        text = f"(a {type(value).__name__} that cannot be shown)"
    return text.encode("utf-8", "backslashreplace").decode()[:limit]


def name_of(function: Any) -> str:
    """Return the name of a callable, or of the function behind a partial; else "function"."""
    while isinstance(function, partial):
        function = function.func
    try:
        name = function.__name__
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a user's `__getattr__` may raise anything
        return "function"
    return name if isinstance(name, str) and name else "function"


def differ(one: Any, other: Any) -> bool:
    """Whether two values differ, as far as they can be compared at all."""
    try:
        return one is not other and bool(one != other)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a user's `__eq__` may raise anything
        return True
