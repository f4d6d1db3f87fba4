"""`__env__`: variables by name, read-only. Values are never part of a representation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping


class EnvService:
    """Looks a variable up in the workflow's own env, then the runtime's; else returns None."""

    __slots__ = ("_layers", "_read")

    def __init__(self, *layers: Mapping[str, str]) -> None:
        self._layers = layers
        self._read: dict[str, None] = {}

    def get(self, key: str) -> str | None:
        """Return the value of a variable, or None."""
        for layer in self._layers:
            if key in layer:
                value = layer[key]
                self._read[value] = None
                return value
        return None

    def secrets(self) -> Iterator[str]:
        """Yield the values that no text may show: those of `env=`, and what was read of the process's environment.

        Of that, not every value: most are words such as "en" or a path, which are part of many texts.
        """
        for layer in self._layers:
            if layer is not os.environ:
                yield from (value for value in layer.values() if isinstance(value, str))
        yield from list(self._read)

    def __repr__(self) -> str:
        return "EnvService(values hidden)"
