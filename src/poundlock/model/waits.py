"""Find the waits that an event matches, without reading every paused run.

A wait is indexed under one key per event type: the type (or pattern), the correlated paths, and their values. The
*shape* of a key is the key without the values. An event is looked up once per shape in use, and shapes come from
definitions: there are only a few, even with many paused runs.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from poundlock.codecs import dump, encode
from poundlock.model.conditions import Condition, StateRef, resolve
from poundlock.model.definitions import Wait
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.paths import MISSING, get_path
from poundlock.model.patterns import type_matches
from poundlock.model.receipts import Delivery, Fate
from poundlock.model.runs import WaitRow

_PLAIN: Final = frozenset({str, int, bool, type(None)})
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LONGEST_INT: Final = 4000  # digits, as far as an integer can be stored
_LONGEST_FLOAT: Final = 300  # digits before the point, all of which a float can have
_SEPARATOR = "\x1f"  # ASCII unit separator: not allowed in an event type (printable), and escaped in JSON


def wait_events(wait: Wait) -> tuple[str, ...]:
    """Return the event types and patterns of a wait."""
    return (wait.events,) if isinstance(wait.events, str) else tuple(wait.events)  # the keys of a mapping


def wait_refs(wait: Wait) -> tuple[str, ...]:
    """Return the state paths a wait refers to."""
    values = [condition.value for condition in wait.where if isinstance(condition, Condition)]
    values += (wait.correlate or {}).values()
    return tuple(dict.fromkeys(value.path for value in values if isinstance(value, StateRef) and _is_path(value.path)))


def _is_path(path: object) -> bool:
    return isinstance(path, str)  # another one is a fault of the definition, and told as such


def wait_keys(events: Iterable[str], correlate: Sequence[tuple[str, Any]]) -> tuple[str, ...]:
    """Return the index keys of a wait: one per event type or pattern."""
    paths = _SEPARATOR.join(path for path, _ in correlate)
    values = _text([canonical(value) for _, value in correlate])
    return tuple([f"{event}{_SEPARATOR}{paths}{_SEPARATOR}{_SEPARATOR}{values}" for event in events])


def _text(values: list[Any]) -> str:
    """Return the JSON text of data; what JSON writes as it is read needs no check."""
    for value in values:
        if type(value) not in _PLAIN:
            return dump(values)
    return encode(values)


def key_shape(key: str) -> str:
    """Return the shape of an index key."""
    return key.rpartition(_SEPARATOR + _SEPARATOR)[0]


def event_keys(shapes: Iterable[str], event: Event) -> list[str]:
    """Return the index keys of waits that this event may match, given the shapes in use."""
    keys = []
    for shape in shapes:
        pattern, _, joined = shape.partition(_SEPARATOR)
        if not type_matches(pattern, event.type):
            continue
        values = [get_path(event.payload, path) for path in joined.split(_SEPARATOR)] if joined else []
        if not any(value is MISSING for value in values):
            keys.append(f"{shape}{_SEPARATOR}{_SEPARATOR}{_text([canonical(value) for value in values])}")
    return keys


def canonical(value: Any) -> Any:
    """Return one form for all values that are equal to a condition (2 and 2.0), so that they are one key."""
    if type(value) is str:
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, Mapping):
        return {key: canonical(value[key]) for key in sorted(value)}
    if isinstance(value, Decimal) and value.is_finite():
        if value.adjusted() <= _LONGEST_INT and value == (whole := value.to_integral_value()):
            return int(whole)
        if value.adjusted() < _LONGEST_FLOAT and (near := float(value)) == value:
            return near
        sign, digits, exponent = value.as_tuple()
        text = "".join(map(str, digits)).rstrip("0")  # `normalize` would round to the context's precision
        return f"{'-' * sign}{text}e{int(exponent) + len(digits) - len(text)}" if text else "0"
    if isinstance(value, dt.datetime) and value.utcoffset() is not None:
        return value - _EPOCH  # cannot overflow, as a change of its time zone could
    return value


def arm(
    wait: Wait,
    wait_id: str,
    state: Mapping[str, Any],
    *,
    epoch: int,
    resume_at: str | None = None,
) -> WaitRow | None:
    """Return the row of a wait with every StateRef resolved against `state`; None while one has no value.

    An armed wait only buffers events. The pipeline pauses at it, which also starts its timeout.
    """
    where = resolve(wait.where, state)
    if where is None:
        return None
    correlate = []
    for path, value in sorted((wait.correlate or {}).items()):
        found = get_path(state, value.path) if isinstance(value, StateRef) else value
        if found is MISSING:
            return None
        correlate.append((path, found))
    events = wait_events(wait)
    return WaitRow(
        wait_id=wait_id,
        epoch=epoch,
        parked=False,
        events=events,
        where=where,
        correlate=tuple(correlate),
        resume_at=resume_at,
        on_timeout=wait.on_timeout,
        expires_at=None,
        patch="call" if callable(wait.patch) else wait.patch,
        keys=wait_keys(events, correlate),
        leads_to=tuple(wait.events.items()) if isinstance(wait.events, Mapping) else (),
        early=wait.early,
    )


def lacking_paths(wait: Wait, state: Mapping[str, Any]) -> list[str]:
    """Return the paths of the wait's StateRefs that have no value in this state, in alphabetical order."""
    values = [*(wait.correlate or {}).values(), *(condition.value for condition in wait.where)]
    paths = {value.path for value in values if isinstance(value, StateRef)}
    return sorted(path for path in paths if get_path(state, path) is MISSING)


def armed_anew(delivery: Delivery, armed: Iterable[tuple[str, int, bool]]) -> bool:
    """Whether a wait that an event was matched against has another epoch now: the event has to be matched again.

    Args:
        delivery: the delivery.
        armed: (wait id, epoch, parked) of the run's current waits.
    """
    epochs = {wait_id: epoch for wait_id, epoch, _ in armed}
    return any(epochs.get(wait_id, epoch) != epoch for wait_id, epoch in delivery.waits)


def delivered_fate(
    delivery: Delivery, status: RunStatus | None, armed: Iterable[tuple[str, int, bool]], *, unfit: bool = False
) -> Fate:
    """Return the result of a delivery.

    Args:
        delivery: the delivery.
        status: the run's status; None if there is no such run.
        armed: (wait id, epoch, parked) of the run's current waits.
        unfit: whether the run is paused with an error, see `fate_of`.
    """
    hit = [parked for wait_id, epoch, parked in armed if (wait_id, epoch) in delivery.waits]
    return fate_of(status, hit, unfit=unfit)


def fate_of(status: RunStatus | None, hit: Collection[bool], *, unfit: bool = False) -> Fate:
    """Return the result of an event for a run.

    Args:
        status: the run's status; None if there is no such run.
        hit: for each wait of the run that the event matches, whether the run is paused at it.
        unfit: whether the run is paused because its state does not match its model: then no event resumes it.
    """
    if status is None or status.terminal or not hit:
        return Fate.GONE
    return Fate.RESUMED if status is RunStatus.PAUSED and any(hit) and not unfit else Fate.BUFFERED
