"""Read-only views of state: what users hold can never change what the run holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from poundlock.codecs import detach


class StateView(Mapping[str, Any]):
    """A read-only mapping over a state.

    Mappings inside come as views of their own, lists as copies. It compares equal to the plain dict it stands for, and
    `dict(view)` or `view.copy()` give plain data to work with. The state below it is never mutated, so a view keeps
    showing the moment it was made.
    """

    __slots__ = ("_data",)

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def __getitem__(self, key: str) -> Any:
        value = self._data[key]
        if type(value) is dict:
            return StateView(value)
        return detach(value) if type(value) is list else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StateView):
            return self._data == other._data
        return self._data == other

    __hash__ = None  # type: ignore[assignment]  # equal to a dict, so as unhashable as one

    def copy(self) -> dict[str, Any]:
        """Return a detached plain dict."""
        return detach(self._data)  # type: ignore[no-any-return]  # a mapping in, a dict out

    def __repr__(self) -> str:
        return f"StateView({self._data!r})"
