"""Read-only views of state: what users hold can never change what the run holds."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any, NoReturn

from poundlock.codecs import CONTAINERS, detach
from poundlock.sensitive import Masks, concealed, masked, texts_at


class StateView(dict[str, Any]):
    """A read-only dict that shows a state as it was at one moment.

    A real dict, so that `json.dumps` and other code that needs one accepts it. It has its own copy of the data, because
    C code reads a dict without calling its class. Mappings inside come as views, lists as copies. It compares equal to
    the plain dict, and `dict(view)` or `view.copy()` return data that may be changed.
    """

    __slots__ = ()

    def __init__(self, data: Mapping[str, Any]) -> None:
        # Data without containers is copied by dict itself, without Python code per value.
        dict.__init__(self, data if CONTAINERS.isdisjoint(map(type, data.values())) else detach(data))

    @classmethod
    def over(cls, data: dict[str, Any]) -> StateView:
        """Return a view of data that nothing uses any more, such as the state of an invoked run that has ended.

        What is inside is not copied: that would be the dearest part of a small run's result.
        """
        view = cls.__new__(cls)
        dict.__init__(view, data)
        return view

    def __getitem__(self, key: str) -> Any:
        return _shown(super().__getitem__(key))

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or `default`."""
        return _shown(super().__getitem__(key)) if key in self else default

    # Overridden, so that `dict(view)` and `{**view}` ask the view instead of copying what is behind it.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # a view as well, but not dict's own
        """Return keys and values."""
        return ItemsView(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]  # the same
        """Return values."""
        return ValuesView(self)

    def copy(self) -> dict[str, Any]:
        """Return a detached plain dict."""
        return {key: detach(value) for key, value in super().items()}

    __hash__ = None

    def __copy__(self) -> StateView:
        return self

    def __deepcopy__(self, memo: object) -> StateView:
        return self

    def __reduce__(self) -> Any:
        return StateView, (self.copy(),)

    def __or__(self, other: Any) -> Any:
        return self.copy() | dict(other) if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return dict(other) | self.copy() if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        return f"StateView({super().__repr__()})"

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a state is read-only: return a patch from the step, or change a copy of it (state.copy())")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class MaskedView(StateView):
    """A view of a state whose model is known and has sensitive fields, where no instance of it can be made."""

    __slots__ = ("masks",)
    masks: Masks

    @classmethod
    def of(cls, data: Mapping[str, Any], masks: Masks) -> StateView:
        """Return a view of data; without masks a plain one."""
        if not masks:
            return StateView(data)
        view = cls(data)
        view.masks = masks
        return view

    def __repr__(self) -> str:
        data = self.copy()
        return f"StateView({concealed(masked(data, self.masks), texts_at(data, self.masks))!r})"


def _shown(value: Any) -> Any:
    """Return a part of a view: what is inside belongs to the view, so that a mapping need not be copied deep again."""
    kind = type(value)
    if kind is dict:
        return StateView.over(value)
    return detach(value) if kind is list else value
