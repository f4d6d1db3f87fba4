"""`dataclass` and `NamedTuple` as in the standard library, made for quick imports.

The standard library writes and compiles up to six methods as soon as it sees a dataclass. That takes a millisecond per
class; the modules of a small program hold 75 such classes, and it uses few of their methods. Here a method is compiled
when it is first used. For a NamedTuple it compiles the annotations, which nobody reads; here they stay text.

House rules:

1. Such a class can do what one of the standard library can: `fields`, `replace`, copies, pickles, signatures, `help()`.
   Only what this package has no use for is missing: `order`, `unsafe_hash` and `InitVar`; generic named tuples.
2. After its first use a method is a plain function of the class, as if it had always been there.
3. Type checkers see the names of the standard library.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import field, fields
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Final, TypeVar

__all__ = ["NamedTuple", "dataclass", "field"]

T = TypeVar("T")


def _dataclass(*, frozen: bool = False, slots: bool = False, eq: bool = True) -> Callable[[type[T]], type[T]]:
    """Return a decorator that makes a class a dataclass.

    Args:
        frozen: whether its instances refuse to be changed; with `eq` they can then be hashed.
        slots: whether its instances have slots instead of a dict; the class is then made anew.
        eq: whether instances are compared by their fields.
    """
    wanted = ["__init__", "__repr__"]
    if eq:
        wanted += ["__eq__", "__hash__"] if frozen else ["__eq__"]

    def decorate(plain: type[T]) -> type[T]:
        cls: Any = dataclasses.dataclass(  # noqa: TID251 - the one place that needs it
            init=False, repr=False, eq=False, slots=slots
        )(plain)
        own = cls.__dict__
        if eq and not frozen and "__hash__" not in own:
            cls.__hash__ = None
        for name in wanted:
            if name not in own:
                setattr(cls, name, _Late(cls, name))
        for name, method in _OF_FROZEN.items() if frozen else ():
            setattr(cls, name, method)
        told = cls.__dataclass_params__  # by this a subclass, and any tool, knows what it has before it
        told.init, told.repr, told.eq, told.frozen = True, True, eq, frozen
        return cls  # type: ignore[no-any-return]  # the class, or the same one made anew

    return decorate


class _NamedTuples(type):
    """Makes a named tuple of each class that is derived from `NamedTuple`."""

    def __new__(cls, name: str, _bases: tuple[type, ...], space: dict[str, Any]) -> Any:
        hints = space["__annotations__"]
        defaults = [space[each] for each in hints if each in space]
        tuple_of: Any = namedtuple  # noqa: PYI024 - to checkers the result is the NamedTuple they know
        made = tuple_of(name, hints, defaults=defaults, module=space["__module__"])
        for key, value in space.items():
            if key not in hints:
                setattr(made, key, value)
        return made


if TYPE_CHECKING:
    from dataclasses import dataclass  # noqa: TID251 - to checkers it is the one they know
    from typing import NamedTuple  # noqa: TID251 - the same
else:
    dataclass = _dataclass
    NamedTuple = type.__new__(_NamedTuples, "NamedTuple", (), {})


class _Late:
    """Stands in the place of a method until that is first looked up, and then gives its place to the method."""

    __slots__ = ("_cls", "_name")

    def __init__(self, cls: type, name: str) -> None:
        self._cls = cls
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        method = _compiled(self._cls, self._name)
        setattr(self._cls, self._name, method)
        return method.__get__(instance, owner)


def _compiled(cls: type, name: str) -> Any:
    """Return a method of a dataclass."""
    write, help_text = _METHODS[name]
    space: dict[str, Any] = {}
    head, *body = write(cls, space)
    text = "\n".join(
        [f"def make({', '.join(space)}):", f" def {name}{head}:", *(f"  {line}" for line in body), f" return {name}"]
    )
    made: dict[str, Any] = {}
    # Among the names of its module, where the annotations of the arguments are looked up.
    # It may be gone by now: a test forgot it to import it afresh, or the interpreter ends.
    names = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
    exec(text, names, made)  # noqa: S102 - the names are those of our own fields
    method = made["make"](**space)
    method.__qualname__ = f"{cls.__qualname__}.{name}"
    method.__doc__ = help_text
    if name == "__init__":
        method.__annotations__ = {each.name: each.type for each in _fields(cls) if each.init} | {"return": None}
    return recursive_repr()(method) if name == "__repr__" else method


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return fields(cls)


class _Fresh:
    """The default of an argument whose true default is made anew for each instance."""

    def __repr__(self) -> str:
        return "<factory>"  # as in the signatures of the standard library


_FRESH: Final = _Fresh()


# ------------------------------------------------------------------------------------- what the methods say
# Each function returns the parameters and the lines of a method, and adds what they name to `space`.
def _init(cls: Any, space: dict[str, Any]) -> list[str]:
    frozen = cls.__dataclass_params__.frozen
    if frozen:
        space["_set"] = object.__setattr__
    by_place, by_name = ["self"], ["*"]
    body = []
    for each in _fields(cls):
        name = given = value = each.name
        absent = ""
        if each.default is not dataclasses.MISSING:
            absent = f"_default_{name}"
            space[absent] = each.default
            given = f"{name}={absent}"
        elif each.default_factory is not dataclasses.MISSING:
            absent = f"_make_{name}()"
            space |= {f"_make_{name}": each.default_factory, "_fresh": _FRESH}
            given, value = f"{name}=_fresh", f"{absent} if {name} is _fresh else {name}"
        if each.init:
            (by_name if each.kw_only else by_place).append(given)
        elif absent:
            value = absent
        else:
            continue  # neither an argument nor a default: `__post_init__` sets it
        body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    return [f"({', '.join(by_place + (by_name if len(by_name) > 1 else []))})", *(body or ["pass"])]


def _repr(cls: Any, _space: dict[str, Any]) -> list[str]:
    shown = ", ".join(f"{each.name}={{self.{each.name}!r}}" for each in _fields(cls) if each.repr)
    return ["(self)", f'return f"{{self.__class__.__qualname__}}({shown})"']


def _eq(cls: Any, _space: dict[str, Any]) -> list[str]:
    names = [each.name for each in _fields(cls) if each.compare]
    ours, theirs = _tuple("self", names), _tuple("other", names)
    return ["(self, other)", f"return {ours} == {theirs} if other.__class__ is self.__class__ else NotImplemented"]


def _hash(cls: Any, _space: dict[str, Any]) -> list[str]:
    names = [each.name for each in _fields(cls) if (each.compare if each.hash is None else each.hash)]
    return ["(self)", f"return hash({_tuple('self', names)})"]


def _tuple(of: str, names: list[str]) -> str:
    return f"({''.join(f'{of}.{name}, ' for name in names)})"


_METHODS: Final = {
    "__init__": (_init, "Create an instance. The arguments are its fields."),
    "__repr__": (_repr, "Return class and fields as text."),
    "__eq__": (_eq, "Whether the other is of the same class and all fields are equal."),
    "__hash__": (_hash, "Return a hash of the fields; they must be hashable."),
}


# ------------------------------------------------------------------------------------- the same for all classes
def _setattr(_self: Any, name: str, _value: Any) -> None:
    """Raise FrozenInstanceError: instances cannot change, `dataclasses.replace` makes a changed copy."""
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(_self: Any, name: str) -> None:
    """Raise FrozenInstanceError: instances cannot change."""
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    """Return the fields' values, for copies and pickles."""
    return [getattr(self, each.name) for each in fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    """Set the fields' values, in a copy."""
    for each, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)


_OF_FROZEN: Final = {
    "__setattr__": _setattr,
    "__delattr__": _delattr,
    "__getstate__": _getstate,
    "__setstate__": _setstate,
}
for _name, _method in _OF_FROZEN.items():
    _method.__name__ = _method.__qualname__ = _name  # in tracebacks and in help()
