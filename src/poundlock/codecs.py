"""Values in and out of storage: strict JSON with a small registry of further types.

House rules:

1. What was written is what is read. A value the codec does not know is refused with its path; it never becomes a
   string, a null or something close.
2. `pack` gives the decoded value back with the text. That detached copy is what everyone uses from then on, so a run
   in memory and the same run after a crash see equal values, and no mutable object is shared.
3. No pickle, no import by name: types are revived only from the registry below.

pydantic_core does the JSON itself. It is fast but changes NaN, non-string keys, dates, enums, bytes and sets without a
word, so the fast path encodes, decodes and compares; only when the two differ is the value walked, which either finds
registered types or the path of what cannot be stored.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final

from poundlock.errors import NotStorable, UnknownCodec
from poundlock.json_core import PydanticSerializationError, SchemaSerializer, from_json
from poundlock.marks import DELETE, Delete, Overwrite

CODEC_ID: Final = "json/1"
"""Written into every store; a store with another id is refused."""

TYPE_TAG: Final = "$type"
"""The key that marks a value of a registered type in stored JSON."""
_TAG_BYTES: Final = b'"$type"'
_TAG_JSON: Final = f'"{TYPE_TAG}"'
MAX_DEPTH: Final = 64  # the parser stops at 201, and what is packed here is later nested in logs and envelopes
_HEADROOM: Final = 201 - MAX_DEPTH
_SHALLOW: Final = 2 * MAX_DEPTH  # characters: a level takes two, so what is no longer cannot nest too deep
MAX_INT_BITS: Final = 14_284  # 4300 decimal digits, beyond which the parser refuses


# Half as long as `to_json` for small values. What JSON has no number for becomes null, which comparing then finds.
_to_json: Final[Callable[[Any], bytes]] = SchemaSerializer({"type": "any"}).to_json


# -- the registry: how a type is written, and how it is read back
_encoders: dict[type, tuple[str, Callable[[Any], Any]]] = {
    Delete: ("delete", lambda _: None),
    Overwrite: ("overwrite", lambda mark: mark.value),
    dt.datetime: ("datetime", dt.datetime.isoformat),
    dt.date: ("date", dt.date.isoformat),
    dt.time: ("time", dt.time.isoformat),
    dt.timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    decimal.Decimal: ("decimal", str),
    uuid.UUID: ("uuid", str),
    bytes: ("bytes", lambda value: b64encode(value).decode()),
}
_decoders: dict[str, Callable[[Any], Any]] = {
    "delete": lambda _: DELETE,
    "overwrite": Overwrite,
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
    "timedelta": lambda value: dt.timedelta(*value),
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
    "bytes": b64decode,
    "dict": lambda pairs: {key: _revive(value) for key, value in pairs},
}
_lookalikes: set[type] = set()
"""Registered types that equal plain data, such as text enums. Comparing cannot find them: with any, all is walked."""


def register_type(
    kind: type, *, name: str, encode: Callable[[Any], Any] | None = None, decode: Callable[[Any], Any] | None = None
) -> None:
    """Let values of exactly this type be stored and come back as that type.

    Args:
        kind: the class; subclasses are not covered.
        name: its name in stored data; must not change as long as such data exists.
        encode: value to JSON-like data. Default: an enum's value, a dataclass's fields, `model_dump(mode="json")`.
        decode: the way back. Default: `kind(data)` for enums, `kind(**data)` otherwise.

    Raises:
        ValueError: the name is taken by another type, or there is no default for this type.
    """
    if name in _decoders and _encoders.get(kind, ("", None))[0] != name:
        raise ValueError(f"the stored name '{name}' belongs to another type: choose another name")
    if encode is None:
        if issubclass(kind, enum.Enum):
            encode = lambda value: value.value  # noqa: E731 - one expression per default reads best here
        elif dataclasses.is_dataclass(kind):
            encode = fields_of
        elif hasattr(kind, "model_dump"):
            encode = lambda value: value.model_dump(mode="json", by_alias=False, exclude_computed_fields=True)  # noqa: E731 - the same
        else:
            raise ValueError(
                f"{kind.__qualname__} is not an enum, dataclass or pydantic model: give encode= and decode="
            )
    if decode is None:
        if dataclasses.is_dataclass(kind):
            decode = lambda data: _built(kind, data)  # noqa: E731 - one expression per default reads best here
        elif hasattr(kind, "model_validate"):
            decode = lambda data: kind.model_validate(data, by_alias=True, by_name=True)  # noqa: E731 - the same
        else:
            decode = (lambda data: _member(kind, data)) if issubclass(kind, enum.Enum) else lambda data: kind(**data)
    if issubclass(kind, str | int | float | list | dict):
        _lookalikes.add(kind)
    _encoders[kind] = (name, encode)
    _decoders[name] = decode


def _member(kind: Any, data: Any) -> Any:
    """Return the member of an enum by its value as it was stored: a tuple has become a list."""
    if isinstance(data, list):
        for member in kind:
            if isinstance(member.value, tuple) and pack(member.value)[0] == data:
                return member
    return kind(data)


def is_registered(kind: type) -> bool:
    """Whether values of exactly this type are stored as themselves, besides what JSON has."""
    return kind in _encoders


def encoded(value: Any) -> Any:
    """Return a value of a registered type as the data it is stored as."""
    return _encoders[type(value)][1](value)


def pack(value: Any, path: str = "", marks: str | None = None) -> tuple[Any, str]:
    """Encode a value once.

    Args:
        value: JSON-like data, or values of registered types.
        path: the path of the value, for the error message.
        marks: where DELETE and Overwrite are allowed: "patch": as the values of keys in a patch; "none": nowhere; None:
            anywhere, for what was checked before.

    Returns:
        The decoded value (detached, equal to what a later read gives) and its JSON text.

    Raises:
        NotStorable: a value in it is unknown to the codec; `path` names it.
    """
    try:
        raw = _to_json(value)
        decoded = from_json(raw) if len(raw) <= _SHALLOW else _parse(raw)
        if decoded == value and not _lookalikes:
            text = raw.decode()
            if _TAG_JSON not in text:  # in the bytes the search would take five times as long
                return decoded, text
    except (PydanticSerializationError, ValueError, TypeError, ArithmeticError, RecursionError):
        pass  # the walk below finds the place and says it better
    raw = _to_json(_tagged(value, path, 0))
    decoded, text = _revive(from_json(raw)), raw.decode()
    if marks is not None and _TAG_JSON in text:
        _refuse_marks(decoded, path, spine=marks == "patch")
    return decoded, text


def pack_patch(patch: Any, path: str = "") -> tuple[Any, str]:
    """Encode a patch, in which DELETE and Overwrite may be the value of a key, at any depth.

    Raises:
        NotStorable: a value in it is unknown to the codec, or a mark is inside a list or an Overwrite.
    """
    return pack(patch, path, "patch")


def pack_data(value: Any, path: str = "") -> tuple[Any, str]:
    """Encode what is not a patch, such as an event's payload: DELETE and Overwrite mean nothing in it.

    Raises:
        NotStorable: a value in it is unknown to the codec, or is such a mark.
    """
    return pack(value, path, "none")


def _refuse_marks(value: Any, path: str, *, spine: bool = False) -> None:
    """Refuse DELETE and Overwrite where they mean nothing; they would be stored as if they were data.

    Args:
        value: decoded data.
        path: its path.
        spine: whether it is a patch, or a mapping in one: there they may be the values of keys.

    Raises:
        NotStorable: `path` is the place of the mark.
    """
    if type(value) is dict:
        for key, item in value.items():
            if not spine or type(item) is dict:
                _refuse_marks(item, _join(path, key), spine=spine)
            elif type(item) is Overwrite:
                _refuse_marks(item.value, _join(path, key))
            elif type(item) is list:
                _refuse_marks(item, _join(path, key))
    elif type(value) is list:
        for index, item in enumerate(value):
            _refuse_marks(item, _join(path, index))
    elif value is DELETE or type(value) is Overwrite:
        raise NotStorable(
            f"{_where(path)} is {'DELETE' if value is DELETE else 'an Overwrite'}, which only means something as the "
            f"value of a key in a patch: write the whole list or value that is to be there",
            path=path,
        )


def dump(value: Any, path: str = "") -> str:
    """Encode a value and return its JSON text only; raises NotStorable like `pack`."""
    return pack(value, path)[1]


def encode(data: Any) -> str:
    """Return the JSON text of plain data made here: texts and numbers, no values of registered types, no NaN."""
    return _to_json(data).decode()


def clean(text: str) -> str:
    """Return a text of unknown origin so that it can be stored: what cannot be encoded is shown escaped.

    Errors say anything; that must not make telling of them fail.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def load(text: str | bytes) -> Any:
    """Decode what `pack` or `dump` wrote.

    Raises:
        UnknownCodec: the text names a type that is not registered in this process.
    """
    value = from_json(text)
    if (_TAG_JSON if isinstance(text, str) else _TAG_BYTES) in text:  # type: ignore[operator]  # text in text, bytes in bytes
        return _revive(value)
    return value


def detach(value: Any) -> Any:
    """Return a deep copy of already decoded data (mappings, lists and immutable leaves)."""
    kind = type(value)
    if kind in _PLAIN:  # asking an abstract class such as Mapping is dear
        return value
    if kind is dict:
        return {key: detach(item) if type(item) in CONTAINERS else item for key, item in value.items()}
    if kind is list:
        return [detach(item) if type(item) in CONTAINERS else item for item in value]
    if kind is Overwrite:
        return Overwrite(detach(value.value))
    if isinstance(value, Mapping):
        return {key: detach(item) for key, item in value.items()}
    return value


def _parse(raw: bytes) -> Any:
    """Parse, and let the parser itself refuse what nests too deep: within brackets of ours its own limit comes earlier.

    Walking the data to find its depth would cost a quarter of the whole. Few brackets cannot nest deep; to count them
    by what is left without them takes a third of the time of `count`, which is slow in reading its arguments.
    """
    if len(raw) - len(raw.translate(None, b"{[")) <= MAX_DEPTH:
        return from_json(raw)
    value = from_json(b"[" * _HEADROOM + raw + b"]" * _HEADROOM)
    for _ in range(_HEADROOM):
        value = value[0]
    return value


CONTAINERS: Final = frozenset({dict, list, Overwrite})
"""Types of decoded data that hold other data."""
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


def stored_name(name: str, field: Any) -> str:
    """Return the key that a model's field is stored under: its alias, if that is also read; else the field's name.

    Args:
        name: of the field.
        field: its pydantic FieldInfo.
    """
    reads = field.validation_alias if field.validation_alias is not None else field.alias
    accepted = (
        [reads] if isinstance(reads, str) else [each for each in getattr(reads, "choices", ()) if type(each) is str]
    )
    writes = field.serialization_alias if field.serialization_alias is not None else field.alias
    if writes in accepted or not accepted:
        return writes if accepted else name
    return accepted[0]


def _tagged_model(model: Any, path: str, depth: int) -> Any:
    """Return a pydantic model as data: whole, also where a field holds a subclass of what it was declared as."""
    kind = type(model)
    own = getattr(kind, "__pydantic_decorators__", None)
    if own is None or own.field_serializers or own.model_serializers or not hasattr(kind, "__pydantic_fields__"):
        return _tagged(model.model_dump(by_alias=True), path, depth)  # it says itself how it is written
    if getattr(kind, "__pydantic_root_model__", False):
        return _tagged(model.root, path, depth)
    data: dict[str, Any] = {}
    for name, field in kind.__pydantic_fields__.items():
        if field.exclude:
            continue
        key, value = stored_name(name, field), getattr(model, name)
        try:
            data[_key(key, path)] = _tagged(value, _join(path, key), depth + 1)
        except NotStorable:
            # Its own class knows how to write it, and has to know how to read it.
            if not _reads_back(model, name):
                raise
            data[key] = _tagged(_as_json(model, name), _join(path, key), depth + 1)  # it may hold an infinite number
    return data | _tagged(model.__pydantic_extra__ or {}, path, depth)


def _as_json(model: Any, name: str) -> Any:
    return model.model_dump(mode="json", include={name}, by_alias=False, warnings="none")[name]


def _reads_back(model: Any, name: str) -> bool:
    try:
        fields = {each: getattr(model, each) for each in type(model).__pydantic_fields__}
        back = type(model).model_validate(fields | {name: _as_json(model, name)}, by_alias=False, by_name=True)
        return bool(getattr(back, name) == getattr(model, name))
    except Exception:  # noqa: BLE001 - validators and serializers are user code
        return False


def fields_of(value: Any) -> dict[str, Any]:
    """Return a dataclass's fields; without those that cannot be given and hold their default anyway."""
    items = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for field in dataclasses.fields(value):
        if not field.init and items[field.name] is field.default:
            del items[field.name]
    return items


def _built(kind: type, data: dict[str, Any]) -> Any:
    """Return a dataclass made from its fields, also those that its constructor does not take."""
    late = {field.name for field in dataclasses.fields(kind) if not field.init and field.name in data}
    built = kind(**{name: item for name, item in data.items() if name not in late})
    for name in late:
        object.__setattr__(built, name, data[name])
    return built


def _tagged(value: Any, path: str, depth: int) -> Any:
    """Return pure JSON data for `value`, registered types as `{"$type": name, "value": data}`."""
    if depth > MAX_DEPTH:
        raise NotStorable(f"{_where(path)} is nested deeper than {MAX_DEPTH} levels: flatten it", path=path)
    kind = type(value)
    known = _encoders.get(kind)
    if known is not None:
        if kind is decimal.Decimal and value.is_nan():
            raise NotStorable(f"{_where(path)} is {value}, which does not equal itself: use None", path=path)
        name, encode = known
        return {TYPE_TAG: name, "value": _tagged(encode(value), path, depth + 1)}
    if kind in _PLAIN or isinstance(value, str | int | float):
        return _leaf(value, path)
    if isinstance(value, Mapping):
        # A user's own "$type" key must not be taken for ours when read back. Written as pairs it nests deeper.
        escaped = TYPE_TAG in value
        below = depth + 3 if escaped else depth + 1
        items = {_key(key, path): _tagged(item, _join(path, key), below) for key, item in value.items()}
        return {TYPE_TAG: "dict", "value": [list(pair) for pair in items.items()]} if escaped else items
    if isinstance(value, list | tuple):
        return [_tagged(item, _join(path, index), depth + 1) for index, item in enumerate(value)]
    if hasattr(kind, "model_dump"):
        return _tagged_model(value, path, depth + 1)
    if dataclasses.is_dataclass(kind):
        return _tagged(fields_of(value), path, depth + 1)
    if isinstance(value, enum.Enum):
        raise _no_enum(value, path)
    raise NotStorable(
        f"{_where(path)} is a {kind.__qualname__}, which cannot be stored: return plain data, "
        f"or register the type with poundlock.codecs.register_type",
        path=path,
        type=kind.__qualname__,
    )


def _no_enum(member: enum.Enum, path: str) -> NotStorable:
    name = type(member).__name__
    value = f" ({member.value!r:.60})" if isinstance(member.value, str | int) else ""
    alike = "an IntFlag" if isinstance(member, enum.Flag) else "a StrEnum or IntEnum"
    return NotStorable(
        f"{_where(path)} is {name}.{member.name}, a member of an Enum, which no text or number equals. Write its "
        f".value{value}, or make {name} {alike}. To get members back, declare the field in a state model, "
        f"Workflow(state=...), or call poundlock.codecs.register_type({name}, name={name!r}) at start",
        path=path,
        type=type(member).__qualname__,
    )


def _leaf(value: Any, path: str) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124 - NaN
        raise NotStorable(f"{_where(path)} is {value}, which JSON has no number for: use None", path=path)
    if isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
        raise NotStorable(f"{_where(path)} is an integer of more than 4300 digits: store it as text", path=path)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotStorable(f"{_where(path)} holds a lone surrogate: replace it before storing", path=path) from None
        return str.__str__(value)
    return value


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        instead = "its .value" if isinstance(key, enum.Enum) else "text"
        raise NotStorable(
            f"{_where(path)} has the key {key!r:.60}: keys must be strings. Write {instead}, "
            f"or declare the field in a state model: dict[{type(key).__name__}, ...]",
            path=_join(path, f"{key!s:.60}"),
        )
    return str(_leaf(key, path))


def _revive(value: Any) -> Any:
    if type(value) is dict:
        name = value.get(TYPE_TAG)
        if name is None:
            return {key: _revive(item) for key, item in value.items()}
        decode = _decoders.get(name) if isinstance(name, str) else None
        if decode is None:
            raise UnknownCodec(
                f"stored data names the type '{name}', which this process does not know: "
                f"register it with poundlock.codecs.register_type before reading",
                type=name,
            )
        return decode(value.get("value") if name == "dict" else _revive(value.get("value")))
    if type(value) is list:
        return [_revive(item) for item in value]
    return value


def _join(path: str, part: object) -> str:
    return f"{path}.{part}" if path else str(part)


def _where(path: str) -> str:
    return f"'{path}'" if path else "the value"
