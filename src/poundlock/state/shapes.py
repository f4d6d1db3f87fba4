"""The shape of a type: the keys its data may have, and the key each field is stored under.

Computed from the annotations, once per type, when data of that type is written first. A type that is not a model,
dataclass, TypedDict, mapping or list has no shape: only pydantic knows its content.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, Final, TypeAlias, TypeVar, Union

from poundlock.codecs import stored_name
from poundlock.records import dataclass, field

T = TypeVar("T")
_STEADY: Final = (list, dict, set, frozenset, tuple, str, int, float, bool, bytes)
"""Default factories that always return the same value."""


@dataclass(slots=True)
class FieldShape:
    """One field of a model.

    Attributes:
        name: the attribute name.
        stored: the key its value is stored under.
        hint: its annotation, with its validators and serializers.
        paths: further places in the data that it is read from (`AliasPath`).
        factory: the factory of its default, if it may return different values.
        init: whether it can be set; a dataclass field with `init=False` cannot.
        default: its default value.
    """

    name: str
    stored: str
    hint: Any
    paths: tuple[Any, ...] = ()
    factory: Any = None
    init: bool = True
    default: Any = None

    @property
    def shape(self) -> Shape | None:
        """The shape of its values."""
        return shape_of(self.hint)


@dataclass(slots=True)
class ModelShape:
    """A model, dataclass or TypedDict; where several are possible, all of them combined.

    Attributes:
        kinds: the classes.
        fields: fields by name.
        keys: fields by each key that is read: names and aliases.
        extras: whether further keys are kept.
        forbids: whether further keys are an error, also if an event has them.
        computed: names and aliases of computed fields.
        rigid: whether it does not accept text for a time, a number and so on (pydantic's strict mode).
    """

    kinds: tuple[type, ...]
    fields: dict[str, FieldShape] = field(default_factory=dict)
    keys: dict[str, FieldShape] = field(default_factory=dict)
    extras: bool = False
    forbids: bool = False
    computed: frozenset[str] = frozenset()
    rigid: bool = False


@dataclass(slots=True)
class MappingShape:
    """A mapping of any keys."""

    key: Any
    value: Any


@dataclass(slots=True)
class ListShape:
    """A list, tuple or set."""

    item: Any


Shape: TypeAlias = ModelShape | MappingShape | ListShape


def once_each(make: Callable[[Any], T]) -> Callable[[Any], T]:
    """Return a function of an annotation that works each out once; one that cannot be hashed, each time."""
    cached = functools.lru_cache(maxsize=4096)(make)

    @functools.wraps(make)
    def made(hint: Any) -> T:
        try:
            hash(hint)
        except TypeError:  # `Annotated` takes anything, mappings too
            return make(hint)
        return cached(hint)

    return made


def content(value: Any) -> Any:
    """Return what a root model holds, whose data is that alone; any other value itself."""
    while getattr(type(value), "__pydantic_root_model__", False):
        value = value.root
    return value


@once_each
def shape_of(hint: Any) -> Shape | None:
    """Return the shape of an annotation's values; None for scalars, and for values of any kind."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return shape_of(typing.get_args(hint)[0])
    if origin is Union or origin is types.UnionType:
        return _of_union([each for each in typing.get_args(hint) if each is not type(None)])
    kind = origin if isinstance(origin, type) else hint
    if not isinstance(kind, type):
        return None
    args = typing.get_args(hint)
    if getattr(kind, "__pydantic_root_model__", False):
        return shape_of(kind.__pydantic_fields__["root"].annotation)  # type: ignore[attr-defined]  # each has that one
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return None  # a named tuple: each item has a type of its own
    if hasattr(hint, "__pydantic_fields__") or dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        return _of_model(hint if isinstance(hint, type) else kind)
    if issubclass(kind, Mapping):
        return MappingShape(args[0], args[1]) if len(args) == 2 else MappingShape(Any, Any)
    if issubclass(kind, Sequence | AbstractSet) and not issubclass(kind, str | bytes | bytearray | memoryview):
        items = tuple(each for each in args if each is not Ellipsis)
        return ListShape(_any_of(items) if items else Any)
    return None


def _any_of(hints: tuple[Any, ...]) -> Any:
    """Return the annotation of what is one of several types."""
    if len(hints) == 1:
        return hints[0]
    try:
        return Union[hints]  # noqa: UP007 - made of a tuple
    except TypeError:  # one cannot be hashed
        return Any


def _of_union(hints: list[Any]) -> Shape | None:
    """Return the shape of a union: models are combined; a union with other containers has no shape."""
    shapes = [shape for shape in map(shape_of, hints) if shape is not None]
    if len(shapes) <= 1:
        return shapes[0] if shapes else None
    models = [shape for shape in shapes if isinstance(shape, ModelShape)]
    if len(models) < len(shapes):
        return None
    together = ModelShape(tuple(kind for shape in models for kind in shape.kinds))
    for shape in models:
        together.extras = together.extras or shape.extras
        together.forbids = together.forbids or shape.forbids
        together.rigid = together.rigid or shape.rigid
        together.computed |= shape.computed
        for key, of_key in shape.keys.items():
            known = together.keys.get(key)
            if known is None:
                together.keys[key] = of_key
            elif (known.stored, known.hint) != (of_key.stored, of_key.hint):
                together.keys[key] = FieldShape(key, key, Any)  # it is not known yet which of them it is
    return together


def _of_model(kind: type) -> ModelShape:
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    extra = config.get("extra")
    shape = ModelShape((kind,), extras=extra == "allow", forbids=extra == "forbid", rigid=bool(config.get("strict")))
    infos = getattr(kind, "__pydantic_fields__", None)
    if infos is not None:
        for name, info in infos.items():
            hint = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
            own = FieldShape(name, stored_name(name, info), hint, _paths(info), _unsteady(info.default_factory))
            own.init, own.default = info.init is not False, info.default
            shape.fields[name] = own
            shape.keys.update(dict.fromkeys(_accepted(info), own))
        computed = getattr(kind, "__pydantic_decorators__").computed_fields  # noqa: B009 - every such class has them
        shape.computed = frozenset({*computed, *(each.info.alias for each in computed.values() if each.info.alias)})
    else:
        _of_plain(kind, shape)
    for name, own in shape.fields.items():
        shape.keys.setdefault(name, own)  # an alias of another field comes first, as in pydantic
    return shape


def _of_plain(kind: type, shape: ModelShape) -> None:
    """Add the fields of a standard dataclass or a TypedDict."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001 - names that exist only for type checkers; pydantic reports them better
        hints = {}
    if typing.is_typeddict(kind):
        for name in kind.__annotations__:
            shape.fields[name] = FieldShape(name, name, _bare(hints.get(name, Any)))
        return
    for each in dataclasses.fields(kind):
        factory = None if each.default_factory is dataclasses.MISSING else _unsteady(each.default_factory)
        shape.fields[each.name] = FieldShape(each.name, each.name, hints.get(each.name, Any), (), factory, each.init)
        shape.fields[each.name].default = each.default


def _bare(hint: Any) -> Any:
    """Return a TypedDict's annotation without Required and its like."""
    while typing.get_origin(hint) in (typing.Required, typing.NotRequired):
        hint = typing.get_args(hint)[0]
    return hint


def _accepted(info: Any) -> list[str]:
    reads = info.validation_alias if info.validation_alias is not None else info.alias
    choices = (reads,) if reads is not None and not hasattr(reads, "choices") else getattr(reads, "choices", ())
    return [each for each in choices if isinstance(each, str)]


def _paths(info: Any) -> tuple[Any, ...]:
    reads = info.validation_alias
    choices = (reads,) if not hasattr(reads, "choices") else reads.choices
    return tuple(each for each in choices if hasattr(each, "search_dict_for_path"))


def _unsteady(factory: Any) -> Any:
    return None if factory is None or any(factory is steady for steady in _STEADY) else factory


@once_each
def has_factories(hint: Any) -> bool:
    """Whether it contains a default that may differ from time to time."""
    seen: set[int] = set()

    def look(shape: Shape | None) -> bool:
        if shape is None or id(shape) in seen:
            return False
        seen.add(id(shape))
        if isinstance(shape, MappingShape):
            return look(shape_of(shape.value))
        if isinstance(shape, ListShape):
            return look(shape_of(shape.item))
        fields = {id(own): own for own in (*shape.fields.values(), *shape.keys.values())}
        return any(own.factory is not None or look(own.shape) for own in fields.values())

    return look(shape_of(hint))
