"""Find the paths that a selector reads. It is called with a proxy of the state that records all access.

A path counts as read if the result can depend on it: a leaf, a mapping that was used as a whole (compared, counted,
iterated, returned), a missing key. A mapping on the way to a leaf does not count; otherwise every change beside the
path would seem relevant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from poundlock.state.views import ListView, MappingView, view


def trace(state: Any, selector: Callable[[Any], Any]) -> tuple[Any, tuple[str, ...]]:
    """Call `selector` with a recording proxy of `state`.

    Args:
        state: JSON-like data, or a pydantic model.
        selector: a function of the state; it may read by attribute (`s.user.id`) or by key (`s["user"]["id"]`).

    Returns:
        Its result, without proxies, and the dotted paths it has read; the empty path is the whole state.

    Raises:
        AttributeError, KeyError, ...: what the selector raises.
    """
    paths: dict[str, None] = {}
    value = _unwrap(selector(_proxy(state, "", paths)))
    return value, _outermost(paths)


def _proxy(value: Any, path: str, paths: dict[str, None]) -> Any:
    """Return a recording proxy of a container; any other value is a leaf, and counts as read."""
    if isinstance(value, MappingView | ListView):
        value = value.data
    if isinstance(value, dict):
        return _Mapping(value, path, paths)
    if isinstance(value, list):
        return _List(value, path, paths)
    if hasattr(type(value), "model_fields"):
        return _Model(value, path, paths)
    paths[path] = None
    return value


def _below(path: str, part: object) -> str:
    return f"{path}.{part}" if path else str(part)


def _outermost(paths: dict[str, None]) -> tuple[str, ...]:
    """Leave out paths that are inside another one."""
    if "" in paths:
        return ("",)
    return tuple(path for path in paths if not any(path.startswith(other + ".") for other in paths))


def _unwrap(value: Any) -> Any:
    """Replace proxies by their values; a returned proxy counts as read completely."""
    if isinstance(value, _Proxy):
        return value.whole()
    if type(value) in {list, tuple, set}:
        return type(value)(_unwrap(item) for item in value)
    return {key: _unwrap(item) for key, item in value.items()} if type(value) is dict else value


class _Proxy:
    __slots__ = ("_path", "_paths", "_value")

    def __init__(self, value: Any, path: str, paths: dict[str, None]) -> None:
        self._value = value
        self._path = path
        self._paths = paths

    def whole(self) -> Any:
        """Return the value, and record that all of it was read."""
        self._paths[self._path] = None
        return view(self._value)

    def _item(self, part: Any, value: Any) -> Any:
        return _proxy(value, _below(self._path, part), self._paths)

    def _missing(self, part: Any) -> None:
        self._paths[_below(self._path, part)] = None

    def __eq__(self, other: object) -> bool:
        return bool(self.whole() == _unwrap(other))

    __hash__ = None  # type: ignore[assignment] # mappings and lists have none

    def __repr__(self) -> str:
        return repr(self.whole())


class _Mapping(_Proxy, Mapping[str, Any]):
    __slots__ = ()

    def __getitem__(self, key: str) -> Any:
        if key not in self._value:
            self._missing(key)
            raise KeyError(key)
        return self._item(key, self._value[key])

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the state has no '{_below(self._path, name)}'") from None

    def __contains__(self, key: object) -> bool:
        self._missing(key)
        return key in self._value

    def __iter__(self) -> Iterator[str]:
        self.whole()
        return iter(self._value)

    def __len__(self) -> int:
        self.whole()
        return len(self._value)


class _List(_Proxy, Sequence[Any]):
    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        # The item at an index depends on the items before it, so a list is read as a whole.
        return view(self.whole()[index])

    def __len__(self) -> int:
        return len(self.whole())


class _Model(_Proxy):
    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name in type(self._value).model_fields:
            return self._item(name, getattr(self._value, name))
        # A property or method: what it reads is unknown.
        self._paths[self._path] = None
        return getattr(self._value, name)
