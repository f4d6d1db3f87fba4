"""Values as plain JSON for people and other programs: for showing, not for storing."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from poundlock.codecs import MAX_DEPTH, MAX_INT_BITS, clean, encoded, fields_of, is_registered
from poundlock.marks import Delete
from poundlock.sensitive import conceal, concealed, masked, masks_of, texts_at

_SHOWN: Final[dict[type, Callable[[Any], Any]]] = {
    dt.timedelta: dt.timedelta.total_seconds,
    Delete: lambda _: "DELETE",
}


def plain(value: Any) -> Any:
    """Return a value as data that `json.dumps` takes; never raises, whatever the value's own methods do.

    Dates and times become ISO 8601 text, durations seconds, Decimals and UUIDs text, bytes base64, enums their value,
    sets and tuples lists, models and dataclasses objects. Whatever else there is becomes its `repr`. This is the form
    for logs, answers and exports; it is not read back.
    """
    return _plain(value, 0)


def secrets_in(value: Any) -> set[str]:
    """Return the texts of a state that may not be shown; never raises. Empty for most."""
    try:
        masks = getattr(value, "masks", None)
        if masks:
            return texts_at(dict(value), masks)
        masks = masks_of(type(value)) if hasattr(type(value), "model_dump") else ()
        return texts_at(value.model_dump(mode="json", by_alias=True, warnings=False), masks) if masks else set()
    except Exception:  # noqa: BLE001 - models are user code
        return set()


def plain_beside(value: Any, state: Any) -> Any:
    """Return what `plain` does, without copies of what the state hides."""
    return concealed(plain(value), secrets_in(state))


def told(value: Any, state: Any, secrets: Iterable[str] = (), *, leaving: str = "") -> str:
    """Return the `repr` of a dataclass, without what the state hides and without these texts; never raises."""
    parts = []
    for each in dataclasses.fields(value):
        if each.name == leaving:
            continue
        try:
            parts.append(f"{each.name}={getattr(value, each.name)!r}")
        except Exception:  # noqa: BLE001 - models are user code
            parts.append(f"{each.name}={_named(getattr(value, each.name, None))}")
    return conceal(f"{type(value).__name__}({', '.join(parts)})", {*secrets, *secrets_in(state)})


def _plain(value: Any, depth: int) -> Any:
    if value is None or type(value) is bool:
        return value
    try:
        return _plainly(value, depth)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - models, mappings and the like are user code
        return _named(value)


def _plainly(value: Any, depth: int) -> Any:
    kind = type(value)
    if isinstance(value, enum.Enum) and kind is not Delete:
        return _plain(value.value, depth + 1)
    if isinstance(value, str):
        return clean(str.__str__(value))
    if isinstance(value, int):
        return int(value) if value.bit_length() <= MAX_INT_BITS else _named(value)
    if isinstance(value, float):
        return float(value) if value - value == 0 else str(float(value))
    if depth > 2 * MAX_DEPTH:
        return _named(value)
    if isinstance(value, Mapping):
        masks = getattr(value, "masks", None)  # of a view that hides values
        if masks:
            return {_plain_key(key): _plain(item, depth + 1) for key, item in masked(dict(value), masks).items()}
        return {_plain_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in value]
    if kind in _SHOWN:
        return _SHOWN[kind](value)
    if is_registered(kind):
        return _plain(encoded(value), depth + 1)
    if hasattr(kind, "model_dump"):
        dumped = value.model_dump(mode="json", by_alias=True, warnings=False)
        return _plain(masked(dumped, masks_of(kind)), depth + 1)
    if dataclasses.is_dataclass(kind):
        return _plain(masked(fields_of(value), masks_of(kind)), depth + 1)
    return clean(repr(value))


def _plain_key(key: Any) -> str:
    shown = _plain(key, 0)
    return shown if isinstance(shown, str) else str(shown)


def _named(value: Any) -> str:
    """Return what can be said of a value that cannot be shown. A metaclass may hide the name of its class."""
    return f"<{type.__dict__['__name__'].__get__(type(value))}>"
