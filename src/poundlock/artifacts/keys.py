"""Keys of artifacts, and how a parameter asks for one.

House rule: users pass a string or a class; inside this package a key is always the string.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from poundlock.errors import ArtifactInvalid
from poundlock.records import dataclass

Key: TypeAlias = str | type[Any]
"""A string, or a class; a class means its qualified name."""


def key_name(key: Key) -> str:
    """Return a key as a string: itself, or a class's module and qualified name.

    Raises:
        ArtifactInvalid: it is neither a non-empty string nor a class.
    """
    if isinstance(key, str) and key:
        return key
    if isinstance(key, type):
        return f"{key.__module__}.{key.__qualname__}"
    raise ArtifactInvalid(f"{key!r} cannot name an artifact: use a non-empty string or a class")


@dataclass(frozen=True, slots=True)
class Use:
    """Asks for an artifact in a signature: `Annotated[Database, Use("db")]`.

    Args:
        key: the artifact's key.
    """

    key: Key
