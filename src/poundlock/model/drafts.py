"""Create frozen values quickly.

A frozen dataclass sets its fields through `object.__setattr__`, a call per field. Where a value with many fields is
made for every event or run, they are set on a twin that is not frozen, which then becomes the real thing: that takes a
third of the time. A named tuple is made by a Python function with an argument per field; where one with many fields is
made for every run or boundary, `new_tuple` makes it from a plain tuple.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final, TypeVar

T = TypeVar("T")

new_tuple: Final[Callable[[type[T], tuple[Any, ...]], T]] = tuple.__new__  # type: ignore[assignment]  # for any kind
"""Makes a named tuple: `new_tuple(Kind, (all, fields, in, order))`. Nothing is checked or filled in.

For `RunMove`, which had 18 fields when this was measured, that saves 2,900 instructions each.
"""


def maker_of(cls: type[T]) -> Callable[..., T]:
    """Return a function that makes instances of a frozen dataclass with slots.

    It takes all fields by place, in the order of the dataclass; they are neither checked nor filled in.
    """
    names = tuple(field.name for field in fields(cls))  # type: ignore[arg-type]  # a dataclass, says the contract
    lines = [f"draft.{name} = {name}" for name in names]
    text = "\n    ".join(
        [f"def make({', '.join(names)}):", "draft = new(Draft)", *lines, "draft.__class__ = cls", "return draft"]
    )
    space: dict[str, Any] = {"new": object.__new__, "cls": cls, "Draft": type("Draft", (), {"__slots__": names})}
    exec(text, space)  # noqa: S102 - the names are those of our own dataclass, and a loop would cost what this saves
    return space["make"]  # type: ignore[no-any-return]  # made above
