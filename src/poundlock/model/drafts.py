"""Making frozen values quickly.

A frozen dataclass sets its fields through `object.__setattr__`, a call per field. Where a value is made for every event
or run, its fields are set on a twin that is not frozen, which then becomes the real thing: a third of the time.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def draft_of(cls: type) -> Any:
    """Return a class with the slots of a frozen dataclass whose instances may be given that class afterwards.

    Its fields are positional, in the order of the dataclass, and are neither checked nor filled in:

        draft = _Draft(1, 2)
        draft.__class__ = Point
    """
    names = tuple(field.name for field in fields(cls))
    text = "\n ".join([f"def __init__(self, {', '.join(names)}):", *(f"self.{name} = {name}" for name in names)])
    space: dict[str, Any] = {}
    exec(text, space)  # noqa: S102 - the names are those of our own dataclass, and a loop would cost what this saves
    return type(f"{cls.__name__}Draft", (), {"__slots__": names, "__init__": space["__init__"]})
