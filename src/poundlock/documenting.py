"""Texts of `help()` for the methods that `dataclass` generates."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final, TypeVar

T = TypeVar("T")


def documented(cls: type[T]) -> type[T]:
    """Set our docstrings on the generated methods of a frozen dataclass with slots; written above `@dataclass`.

    Without a docstring a method shows the text of its builtin base, and the methods for pickling show internal comments
    of the standard library.
    """
    for name, text in _TEXTS.items():
        method = cls.__dict__.get(name)
        if method is not None and method.__module__ != "dataclasses" and method.__doc__ is None:
            method.__doc__ = text
    for name, ours in _FOR_COPIES.items():
        method = cls.__dict__.get(name)
        if method is not None and method.__module__ == "dataclasses":  # shared by all: not ours to change
            setattr(cls, name, ours)
    return cls


def _getstate(self: Any) -> list[Any]:
    """Return the fields' values, for copies and pickles."""
    return [getattr(self, field.name) for field in fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    """Set the fields' values, in a copy."""
    for field, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


_getstate.__name__ = _getstate.__qualname__ = "__getstate__"
_setstate.__name__ = _setstate.__qualname__ = "__setstate__"
_FOR_COPIES: Final = {"__getstate__": _getstate, "__setstate__": _setstate}
_TEXTS: Final = {
    "__init__": "Create an instance. The arguments are its fields.",
    "__eq__": "Whether the other is of the same class and all fields are equal.",
    "__hash__": "Return a hash of the fields; they must be hashable.",
    "__repr__": "Return class and fields as text.",
    "__setattr__": "Raise FrozenInstanceError: instances cannot change, `dataclasses.replace` makes a changed copy.",
    "__delattr__": "Raise FrozenInstanceError: instances cannot change.",
}
