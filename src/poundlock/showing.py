"""Values as plain JSON for people and other programs: for showing, not for storing."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from poundlock.codecs import MAX_DEPTH, MAX_INT_BITS, clean, encoded, fields_of, is_registered
from poundlock.marks import Delete
from poundlock.sensitive import NO_MASKS, Masks, conceal, concealed, masked, masks_of, texts_at

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


def secrets_in(value: Any, more: Masks = NO_MASKS) -> set[str]:
    """Return the texts of a state that may not be shown; never raises. Empty for most.

    Args:
        value: the state.
        more: what is hidden in it besides what its model marks.
    """
    try:
        masks = getattr(value, "masks", None)
        if masks:
            return texts_at(dict(value), masks)
        masks = (*masks_of(type(value)), *more) if hasattr(type(value), "model_dump") else ()
        return texts_at(_dumped(value), masks) if masks else set()
    except Exception:  # noqa: BLE001 - models are user code
        return set()


def plain_state(state: Any, masks: Masks) -> Any:
    """Return a state as plain JSON; `masks`: what is hidden in it besides what its model marks."""
    return masked(plain(state), masks)


def plain_beside(value: Any, state: Any, masks: Masks = NO_MASKS) -> Any:
    """Return what `plain` does, without copies of what the state hides."""
    return concealed(plain(value), secrets_in(state, masks))


def told(value: Any, state: Any, secrets: Iterable[str] = (), *, leaving: str = "") -> str:
    """Return the `repr` of a dataclass, without what the state hides and without these texts; never raises."""
    parts = []
    masks = getattr(value, "masks", NO_MASKS)
    for each in dataclasses.fields(value):
        if each.name == leaving or not each.repr:
            continue
        try:
            held = getattr(value, each.name)
            text = _state_text(held, masks) if held is state and masks else repr(held)
            parts.append(f"{each.name}={text}")
        except Exception:  # noqa: BLE001 - models are user code
            parts.append(f"{each.name}={_named(getattr(value, each.name, None))}")
    return conceal(f"{type(value).__name__}({', '.join(parts)})", {*secrets, *secrets_in(state, masks)})


def _state_text(state: Any, masks: Masks) -> str:
    """Return the `repr` of a state that hides more than its model knows."""
    if not hasattr(type(state), "model_dump"):
        return repr(state)
    shown = masked(masked(state.model_dump(warnings=False), masks_of(type(state))), masks)
    return f"{_class_of(state)}({', '.join(f'{key}={item!r}' for key, item in shown.items())})"


def _dumped(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, warnings=False)


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
        return _plain(masked(_dumped(value), masks_of(kind)), depth + 1)
    if dataclasses.is_dataclass(kind):
        return _plain(masked(fields_of(value), masks_of(kind)), depth + 1)
    return clean(repr(value))


def _plain_key(key: Any) -> str:
    shown = _plain(key, 0)
    return shown if isinstance(shown, str) else str(shown)


def _named(value: Any) -> str:
    """Return what can be said of a value that cannot be shown. A metaclass may hide the name of its class."""
    return f"<{_class_of(value)}>"


def _class_of(value: Any) -> str:
    return str(type.__dict__["__name__"].__get__(type(value)))
