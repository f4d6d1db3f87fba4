"""What names an artifact, and how a parameter asks for one.

House rule: a key is a string or a class; everywhere inside this room it is the string.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from poundlock.documenting import documented
from poundlock.errors import ArtifactInvalid

Key: TypeAlias = str | type[Any]
"""A string, or a class, which stands for its qualified name."""


def key_name(key: Key) -> str:
    """Return the name a key stands for: itself, or a class's module and qualified name.

    Raises:
        ArtifactInvalid: it is neither a string with something in it nor a class.
    """
    if isinstance(key, str) and key:
        return key
    if isinstance(key, type):
        return f"{key.__module__}.{key.__qualname__}"
    raise ArtifactInvalid(f"{key!r} cannot name an artifact: use a string that is not empty, or a class")


@documented
@dataclass(frozen=True, slots=True)
class Use:
    """Asks for an artifact in a signature: `Annotated[Database, Use("db")]`.

    Args:
        key: the artifact's key.
    """

    key: Key
