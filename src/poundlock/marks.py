"""Marks in a patch: delete a key, overwrite a value."""

from __future__ import annotations

import enum
from typing import Any, Final

from poundlock.records import dataclass


class Delete(enum.Enum):
    """In a patch, the value `DELETE` removes its key. None is a value like any other."""

    DELETE = "DELETE"

    def __repr__(self) -> str:
        return "DELETE"


DELETE: Final = Delete.DELETE
"""In a patch: remove this key. A sentinel, because None is a value."""


@dataclass(frozen=True, slots=True)
class Overwrite:
    """In a patch: replace the current value, where a mapping would be merged into it.

    Args:
        value: the new value of the key, e.g. `{}` to empty a mapping. It must contain neither `DELETE` nor another
            `Overwrite`.
    """

    value: Any
