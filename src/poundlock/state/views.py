"""Read-only views of JSON-like data, for readers of state.

The cost of a view does not depend on the size of the data, because inner values are wrapped only on access. A view
compares equal to the data, and `plain` returns a copy that may be changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from poundlock.codecs import detach


class MappingView(Mapping[str, Any]):
    """A read-only view of a mapping; `data` is the mapping, and belongs to the store."""

    __slots__ = ("data",)

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data

    def __getitem__(self, key: str) -> Any:
        return view(self.data[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, key: object) -> bool:
        return key in self.data

    def __eq__(self, other: object) -> bool:
        return self.data == (other.data if isinstance(other, MappingView) else other)

    __hash__ = None  # type: ignore[assignment] # equal to dictionaries, which have none

    def __repr__(self) -> str:
        return repr(self.data)

    def __copy__(self) -> dict[str, Any]:
        return plain(self)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: object) -> dict[str, Any]:
        return plain(self)  # type: ignore[no-any-return]


class ListView(Sequence[Any]):
    """A read-only view of a list; `data` is the list, and belongs to the store."""

    __slots__ = ("data",)

    def __init__(self, data: list[Any]) -> None:
        self.data = data

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> ListView: ...
    def __getitem__(self, index: int | slice) -> Any:
        return view(self.data[index])

    def __len__(self) -> int:
        return len(self.data)

    def __eq__(self, other: object) -> bool:
        return self.data == (other.data if isinstance(other, ListView) else other)

    __hash__ = None  # type: ignore[assignment] # equal to lists, which have none

    def __add__(self, other: Sequence[Any]) -> list[Any]:
        return [*plain(self), *other]

    def __radd__(self, other: Sequence[Any]) -> list[Any]:
        return [*other, *plain(self)]

    def __repr__(self) -> str:
        return repr(self.data)

    def __copy__(self) -> list[Any]:
        return plain(self)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: object) -> list[Any]:
        return plain(self)  # type: ignore[no-any-return]


def view(value: Any) -> Any:
    """Return a read-only view of a mapping or list; any other value unchanged."""
    if type(value) is dict:
        return MappingView(value)
    return ListView(value) if type(value) is list else value


def plain(value: Any) -> Any:
    """Return data without views: a view becomes a copy of its data, also inside other mappings and lists."""
    if isinstance(value, MappingView | ListView):
        return detach(value.data)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
