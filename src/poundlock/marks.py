"""Marks in a patch: what merging alone cannot say."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

from poundlock.documenting import documented


class Delete(enum.Enum):
    """In a patch, the value `DELETE` removes its key. None is a value like any other."""

    DELETE = "DELETE"

    def __repr__(self) -> str:
        return "DELETE"


DELETE: Final = Delete.DELETE
"""In a patch: remove this key. A sentinel, because None is a value."""


@documented
@dataclass(frozen=True, slots=True)
class Overwrite:
    """In a patch: put this value in place of what is there, where a mapping would be merged into it.

    Args:
        value: what the key holds from then on, e.g. `{}` to empty a mapping. It may hold neither `DELETE` nor another
            `Overwrite`.
    """

    value: Any
