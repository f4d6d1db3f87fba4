"""What is stored and never shown: the mark `Sensitive[T]`, where it is in a type, and how such values are hidden.

House rules:

1. A mask says where hidden values are in data: by the keys under which they may be stored or shown. It is made of a
   type, or of paths, and knows no pydantic: so whoever shows data can use it.
2. By place, a value is hidden whatever it is. By its text (`conceal`) it is hidden wherever it was copied to, if it is
   long enough to be told from other text.
3. Nothing here raises.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, Final, TypeVar, Union

from poundlock.marks import Delete, Overwrite

T = TypeVar("T")

HIDDEN: Final = "***"
"""What is shown in place of a value."""
SHORTEST: Final = 4
"""Characters a value has at least to be looked for in texts: a shorter one is part of any text."""
_DEEPEST: Final = 8
"""Levels of a mask that are written down as paths; what is below is hidden as a whole."""


class _Mark:
    """The mark in `Annotated`; one for all."""

    def __repr__(self) -> str:
        return "Sensitive"

    def __copy__(self) -> _Mark:
        return self

    def __deepcopy__(self, memo: object) -> _Mark:
        return self


SENSITIVE: Final = _Mark()
Sensitive = Annotated[T, SENSITIVE]
"""A field whose value is stored, because a run needs it after a restart, and shown nowhere: `card: Sensitive[str]`.

Timelines, errors, logs of the timeline, the command line, `to_dict` and `repr` show "***" in its place; the program
itself gets the value. For fields of state models and of models of payloads, at any depth, and for parameters of steps.
"""


class Mask:
    """Where hidden values are.

    Attributes:
        whole: the value itself is hidden.
        keys: masks of the values of a mapping or model, by key.
        each: masks of each element of a list, and each value of a mapping.
    """

    __slots__ = ("each", "keys", "whole")

    def __init__(self, *, whole: bool = False) -> None:
        self.whole = whole
        self.keys: dict[str, tuple[Mask, ...]] = {}
        self.each: tuple[Mask, ...] = ()

    def at(self, key: str) -> tuple[Mask, ...]:
        """Return the masks of what is under a key."""
        return (*self.keys.get(key, ()), *self.each)


Masks = tuple[Mask, ...]
"""All of them hold at once; empty: nothing is hidden."""
NO_MASKS: Final[Masks] = ()
_WHOLE: Final = Mask(whole=True)


# ------------------------------------------------------------------------------------------------------ of a type
_known: dict[Any, Masks] = {}


def masks_of(hint: Any) -> Masks:
    """Return where an annotation, or a class, has `Sensitive`; fields of pydantic models leave their `repr`, too."""
    try:
        found = _known.get(hint)
    except TypeError:  # it cannot be hashed
        return _pruned(_of(hint, {}))
    if found is None:
        try:
            found = _pruned(_of(hint, {}))
        except Exception:  # noqa: BLE001 - classes of users may do anything when they are looked at
            found = NO_MASKS
        _known[hint] = found
    return found


def _of(hint: Any, seen: dict[Any, Mask]) -> Masks:
    origin = typing.get_origin(hint)
    if origin is Annotated:
        inner, *marks = typing.get_args(hint)
        return (_WHOLE,) if any(isinstance(mark, _Mark) for mark in marks) else _of(inner, seen)
    args = typing.get_args(hint)
    if origin is Union or origin is types.UnionType:
        return tuple(mask for each in args for mask in _of(each, seen))
    if origin in (typing.Required, typing.NotRequired, typing.ClassVar, typing.Final):
        return _of(args[0], seen) if args else NO_MASKS
    if isinstance(hint, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        return _of(hint.__value__, seen)
    kind = hint if isinstance(hint, type) and hasattr(hint, "__pydantic_fields__") else origin or hint
    if not isinstance(kind, type):
        return NO_MASKS
    if hasattr(kind, "__pydantic_fields__") or dataclasses.is_dataclass(kind) or _is_typed_dict(kind):
        return _of_fields(kind, seen)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _of_fields(kind, seen)
    if issubclass(kind, Mapping) and len(args) == 2:
        return _each(_of(args[1], seen))
    if issubclass(kind, Sequence | AbstractSet) and not issubclass(kind, str | bytes | bytearray):
        return _each(tuple(mask for each in args if each is not Ellipsis for mask in _of(each, seen)))
    return NO_MASKS


def _is_typed_dict(kind: type) -> bool:
    """Whether it is a TypedDict, also one of typing_extensions."""
    return issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def _each(masks: Masks) -> Masks:
    if not masks:
        return NO_MASKS
    mask = Mask()
    mask.each = masks
    return (mask,)


def _of_fields(kind: Any, seen: dict[Any, Mask]) -> Masks:
    known = seen.get(kind)
    if known is not None:
        return (known,)
    mask = seen[kind] = Mask()
    infos = getattr(kind, "__pydantic_fields__", None)
    if infos is None:
        hints = typing.get_type_hints(kind, include_extras=True)
        for place, (name, hint) in enumerate(hints.items()):
            found = _of(hint, seen)
            if found:
                mask.keys[name] = found
                if issubclass(kind, tuple):
                    mask.keys[str(place)] = found
        return (mask,)
    if getattr(kind, "__pydantic_root_model__", False):
        found = _of(_hint_of(infos["root"]), seen)
        if _pruned(found) and not _in_models(_hint_of(infos["root"])):
            infos["root"].repr = False
        return found
    for name, info in infos.items():
        found = _of(_hint_of(info), seen)
        if not found:
            continue
        for key in {name, *_aliases(info)}:
            mask.keys[key] = found
        if _pruned(found) and not _in_models(_hint_of(info)):
            info.repr = False  # its model's own `repr` would show it
    return (mask,)


def _hint_of(info: Any) -> Any:
    return Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation


def _in_models(hint: Any) -> bool:
    """Whether all that is hidden in an annotation is in pydantic models, which hide it by themselves."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return not any(isinstance(mark, _Mark) for mark in args[1:]) and _in_models(args[0])
    if getattr(hint, "__pydantic_root_model__", False):
        return _in_models(_hint_of(hint.__pydantic_fields__["root"]))  # it always shows what it holds
    if isinstance(hint, type) and hasattr(hint, "__pydantic_fields__"):
        return not dataclasses.is_dataclass(hint)
    if args:
        return all(_in_models(each) for each in args)
    return isinstance(hint, type) and not dataclasses.is_dataclass(hint) and not _pruned(_of(hint, {}))


def _aliases(info: Any) -> Iterable[str]:
    for alias in (info.alias, info.serialization_alias, info.validation_alias):
        choices = getattr(alias, "choices", (alias,))
        yield from (each for each in choices if isinstance(each, str))
        for each in choices:
            path = getattr(each, "path", None)
            if path and isinstance(path[0], str):
                yield path[0]  # what is read from inside of another value: all of that is hidden


def _pruned(masks: Masks) -> Masks:
    """Return the masks that hide anything at all."""
    return tuple(mask for mask in masks if _hides(mask, set()))


def _hides(mask: Mask, seen: set[int]) -> bool:
    if mask.whole:
        return True
    if id(mask) in seen:
        return False
    seen.add(id(mask))
    return any(_hides(each, seen) for group in (mask.each, *mask.keys.values()) for each in group)


# ------------------------------------------------------------------------------------------------------- of paths
def masks_at(paths: Iterable[Sequence[str]]) -> Masks:
    """Return the masks of paths, given as their parts; "*" is each element of a list, or each value of a mapping."""
    top = Mask()
    for parts in paths:
        mask = top
        for part in parts:
            known = mask.each if part == "*" else mask.keys.get(part, ())
            following = known[0] if known else Mask()
            if not known and part == "*":
                mask.each = (following,)
            elif not known:
                mask.keys[part] = (following,)
            mask = following
        mask.whole = True
    return _pruned((top,))


def paths_of(masks: Masks) -> list[list[str]]:
    """Return the masks as paths, so that they can be written down."""
    found: dict[tuple[str, ...], None] = {}

    def walk(mask: Mask, parts: tuple[str, ...]) -> None:
        if mask.whole or (len(parts) >= _DEEPEST and _hides(mask, set())):
            found[parts] = None
            return
        for key, below in mask.keys.items():
            for each in below:
                walk(each, (*parts, key))
        for each in mask.each:
            walk(each, (*parts, "*"))

    for mask in masks:
        walk(mask, ())
    return [list(parts) for parts in found]


def hides(masks: Masks, path: str) -> bool:
    """Whether the value at a dotted path is hidden, or has something hidden in it."""
    at = masks
    for part in path.split("."):
        if any(mask.whole for mask in at):
            return True
        at = tuple(below for mask in at for below in mask.at(part))
    return any(_hides(mask, set()) for mask in at)


# -------------------------------------------------------------------------------------------------------- of data
def masked(value: Any, masks: Masks) -> Any:
    """Return data with "***" in place of what is hidden; None stays. The data itself is not changed."""
    if not masks or value is None:
        return value
    if type(value) is Overwrite:
        return Overwrite(masked(value.value, masks))
    if any(mask.whole for mask in masks):
        return value if isinstance(value, Delete) else HIDDEN
    if isinstance(value, Mapping):
        shown = {}
        for key, item in value.items():
            below = tuple(each for mask in masks for each in mask.at(str(key)))
            shown[key] = masked(item, below) if below else item
        return shown
    if isinstance(value, list | tuple):
        items = []
        for place, item in enumerate(value):
            below = tuple(each for mask in masks for each in mask.at(str(place)))
            items.append(masked(item, below) if below else item)
        return items
    return value


def texts_at(value: Any, masks: Masks) -> set[str]:
    """Return the texts of what is hidden in data, for `conceal`."""
    found: set[str] = set()
    _gather(value, masks, found)
    return found


def _gather(value: Any, masks: Masks, found: set[str]) -> None:
    if not masks or value is None:
        return
    if type(value) is Overwrite:
        _gather(value.value, masks, found)
    elif any(mask.whole for mask in masks):
        _texts(value, found)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _gather(item, tuple(each for mask in masks for each in mask.at(str(key))), found)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            _gather(item, tuple(each for mask in masks for each in mask.at(str(place))), found)


def _texts(value: Any, found: set[str]) -> None:
    if isinstance(value, Mapping):
        for item in value.values():
            _texts(item, found)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _texts(item, found)
    elif not isinstance(value, bool | Delete) and value is not None:
        try:
            text = value if isinstance(value, str) else str(value)
        except Exception:  # noqa: BLE001 - a value of a user's type
            return
        if len(text) >= SHORTEST:
            found.add(text)


def places_of(value: Any, secrets: set[str]) -> list[list[str]]:
    """Return the paths in a mapping at which one of these texts is, or is part of a text."""
    found: list[list[str]] = []

    def walk(at: Any, parts: list[str]) -> None:
        if isinstance(at, Mapping):
            for key, item in at.items():
                walk(item, [*parts, str(key)])
        elif isinstance(at, list | tuple):
            for item in at:
                walk(item, [*parts, "*"])
        elif type(at) is Overwrite:
            walk(at.value, parts)
        elif at is not None and concealed(at, secrets) != at and parts not in found:
            found.append(parts[:_DEEPEST])

    walk(value, [])
    return found


def conceal(text: str, secrets: Iterable[str]) -> str:
    """Return a text with "***" in place of each of these texts, also where it is quoted or escaped."""
    for secret in sorted(secrets, key=len, reverse=True):
        for form in {secret, repr(secret)[1:-1], secret.encode("unicode_escape").decode()}:
            if form in text:
                text = text.replace(form, HIDDEN)
    return text


def concealed(value: Any, secrets: set[str], *, numbers: bool = True) -> Any:
    """Return data in whose texts `conceal` was applied; with `numbers`, numbers that are such a text are hidden too."""
    if not secrets:
        return value
    if isinstance(value, str):
        return conceal(value, secrets)
    if isinstance(value, Mapping):
        return {
            conceal(key, secrets) if isinstance(key, str) else key: concealed(item, secrets, numbers=numbers)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [concealed(item, secrets, numbers=numbers) for item in value]
    if type(value) is Overwrite:
        return Overwrite(concealed(value.value, secrets, numbers=numbers))
    if numbers and isinstance(value, int | float) and not isinstance(value, bool) and str(value) in secrets:
        return HIDDEN
    return value
