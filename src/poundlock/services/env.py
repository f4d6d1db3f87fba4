"""`__env__`: variables by name, read-only. Values are never part of a representation."""

from __future__ import annotations

from collections.abc import Mapping


class EnvService:
    """Looks a variable up in the workflow's own env, then the runtime's; else returns None."""

    __slots__ = ("_layers",)

    def __init__(self, *layers: Mapping[str, str]) -> None:
        self._layers = layers

    def get(self, key: str) -> str | None:
        """Return the value of a variable, or None."""
        for layer in self._layers:
            if key in layer:
                return layer[key]
        return None

    def __repr__(self) -> str:
        return "EnvService(values hidden)"
