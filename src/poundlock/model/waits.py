"""Find the waits that an event matches, without reading every paused run.

A wait is indexed under one key per event type: the type (or pattern), the correlated paths, and their values. The
*shape* of a key is the key without the values. An event is looked up once per shape in use, and shapes come from
definitions: there are only a few, even with many paused runs.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from poundlock.codecs import dump, encode
from poundlock.model.buffers import EMPTY, USUAL, Counting, Hit, Tally, WaitRules, take
from poundlock.model.conditions import Condition, StateRef, resolve
from poundlock.model.definitions import Wait
from poundlock.model.drafts import new_tuple
from poundlock.model.durations import optional_seconds
from poundlock.model.events import Event
from poundlock.model.forms import schema_of
from poundlock.model.lifecycle import RunStatus
from poundlock.model.paths import MISSING, get_path
from poundlock.model.patterns import type_matches
from poundlock.model.quoting import shown
from poundlock.model.receipts import Delivery, Fate
from poundlock.model.runs import OPERATOR_WAIT, WaitRow
from poundlock.records import NamedTuple

_PLAIN: Final = frozenset({str, int, bool, type(None)})
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LONGEST_INT: Final = 4000  # digits, as far as an integer can be stored
_LONGEST_FLOAT: Final = 300  # digits before the point, all of which a float can have
_LONGEST_KEY: Final = 80
"""Characters of a value that has to be different; of a longer one a hash stands in the tally."""
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
        rules=rules_of(wait),
    )


def rules_of(wait: Wait) -> WaitRules | None:
    """Return how a wait without faults counts events; None for the usual rules."""
    form = None if wait.form is None else schema_of(wait.form)
    ttl = optional_seconds(wait.ttl)
    rules = WaitRules(wait.mode, wait.distinct, wait.collect, form, wait.limit, ttl, wait.overflow)
    return None if rules == USUAL else rules


def lacking_paths(wait: Wait, state: Mapping[str, Any]) -> list[str]:
    """Return the paths of the wait's StateRefs that have no value in this state, in alphabetical order."""
    values = [*(wait.correlate or {}).values(), *(condition.value for condition in wait.where)]
    paths = {value.path for value in values if isinstance(value, StateRef)}
    return sorted(path for path in paths if get_path(state, path) is MISSING)


def armed_anew(delivery: Delivery, waits: Iterable[Counting]) -> bool:
    """Whether a wait that an event was matched against has another epoch now: the event has to be matched again.

    Args:
        delivery: the delivery.
        waits: the run's current waits.
    """
    epochs = {wait.wait_id: wait.epoch for wait in waits}
    return any(epochs.get(hit.wait_id, hit.epoch) != hit.epoch for hit in delivery.waits)


# ------------------------------------------------------------------------------------- what becomes of one more event
class Decided(NamedTuple):
    """The result of a delivery.

    Attributes:
        fate: what becomes of the event.
        reason: for the receipt; "" if the line says it already.
        tallies: new ones, by wait.
        dropped: messages that leave the inbox, because they count for no wait any more.
        answers: id and epoch of the wait that it answers; None where the first event that matches is the answer.
    """

    fate: Fate
    reason: str = ""
    tallies: Mapping[str, Tally] = {}
    dropped: tuple[int, ...] = ()
    answers: tuple[str, int] | None = None


_GONE: Final = Decided(Fate.GONE)
_RESUMED: Final = Decided(Fate.RESUMED)
_BUFFERED: Final = Decided(Fate.BUFFERED)


def fate(
    delivery: Delivery,
    status: RunStatus | None,
    waits: Sequence[Counting],
    *,
    now: float,
    seq: int,
    unfit: bool = False,
) -> Decided:
    """Return the result of a delivery; each store asks for it inside the transaction that delivers.

    Args:
        delivery: the delivery.
        status: the run's status; None if there is no such run.
        waits: the run's current waits.
        now: seconds since 1970.
        seq: which place in the inbox the event would get.
        unfit: whether the run is paused because its state does not match its model, or its workflow is paused: then no
            event resumes it. Nor does one if an operator has paused the run.
    """
    if status is None or status.terminal:
        return _GONE
    paused = status is RunStatus.PAUSED and not unfit and not _has_operator_row(waits)
    if paused:  # nearly always it is paused at a wait for one event, and there is nothing to count
        for wait in waits:
            if wait.parked and (wait.rules is None or wait.rules.mode == "any"):
                for wait_id, epoch, _, _ in delivery.waits:
                    if wait_id == wait.wait_id and epoch == wait.epoch:
                        return _RESUMED if wait.rules is None else Decided(Fate.RESUMED, answers=(wait_id, epoch))
    hits = [(wait, hit) for wait in waits for hit in delivery.waits if (wait.wait_id, wait.epoch) == hit[:2]]
    if not hits:
        return _GONE
    tallies: dict[str, Tally] = {}
    gone: set[int] = set()
    said: list[str] = []
    refused: list[tuple[Fate, str]] = []
    plain = True
    for wait, hit in hits:
        asking = paused and wait.parked
        if wait.wait_id.startswith("__"):  # a run has no limit for what its children tell it
            if asking:
                return _RESUMED
            said.append("")
            continue
        taken = take(wait, hit, seq=seq, now=now, asking=asking, owned=status is RunStatus.RUNNING)
        if taken.verdict == "answers":
            complete = {} if taken.tally is None else {wait.wait_id: taken.tally}
            return Decided(Fate.RESUMED, taken.reason, complete, answers=(wait.wait_id, wait.epoch))
        if taken.tally is None:
            refused.append((Fate.REJECTED if taken.verdict == "rejected" else Fate.DROPPED, taken.reason))
            continue
        tallies[wait.wait_id] = taken.tally
        gone.update(taken.gone)
        said.append(taken.reason or f"wait {wait.wait_id}")
        plain = plain and not taken.reason
    if not said:
        verdict = Fate.REJECTED if any(each is Fate.REJECTED for each, _ in refused) else Fate.DROPPED
        return Decided(verdict, "; ".join([reason for _, reason in refused]))
    if not tallies:
        return _BUFFERED
    if gone:
        held = [tallies.get(wait.wait_id, wait.tally) or EMPTY for wait in waits]
        gone.difference_update(part.seq for tally in held for part in tally.parts)
    reason = "" if plain and not refused else "; ".join(filter(None, said))
    return Decided(Fate.BUFFERED, reason, tallies, tuple(sorted(gone)))


def is_due(delivery: Delivery, status: RunStatus, waits: Sequence[Counting], *, unfit: bool) -> bool:
    """Whether a run is to look at its wait as soon as its workflow is unpaused: the event may be the answer to it.

    Args:
        delivery: the delivery, which was held and buffered.
        status: the run's status.
        waits: the run's current waits.
        unfit: whether the run is paused with an error.
    """
    if status is not RunStatus.PAUSED or unfit or _has_operator_row(waits):
        return False
    parked = {(wait.wait_id, wait.epoch) for wait in waits if wait.parked}
    return any(hit[:2] in parked for hit in delivery.waits)


def _has_operator_row(waits: Sequence[Counting]) -> bool:
    return any(wait.wait_id == OPERATOR_WAIT for wait in waits)


class Unanswerable(NamedTuple):
    """Why an event cannot be an answer of a wait that it matches."""

    reason: str


def hit_of(row: WaitRow, event: Event) -> Hit | Unanswerable:
    """Return what an event is at a wait that it matches."""
    rules = row.rules
    if rules is None or not rules.several:
        return new_tuple(Hit, (row.wait_id, row.epoch, None, ""))
    if rules.mode == "all":
        return Hit(row.wait_id, row.epoch, _type_among(row.events, event.type))
    if rules.distinct is None:
        return Hit(row.wait_id, row.epoch)
    value = get_path(event.payload, rules.distinct)
    if value is MISSING:
        return Unanswerable(f"wait {row.wait_id}: {rules.distinct} is missing")
    again = f"{rules.distinct} {shown(value)} has answered"
    return Hit(row.wait_id, row.epoch, _short(_text([canonical(value)])[1:-1]), again)


def _short(text: str) -> str:
    """Return a text that stands for this one: a tally is written with each event, so it has no whole payloads."""
    return text if len(text) <= _LONGEST_KEY else f"#{hashlib.blake2s(text.encode()).hexdigest()}"


def _type_among(events: Sequence[str], event_type: str) -> str:
    """Return which of a wait's types and patterns an event stands for: the exact one, else the first that fits."""
    if event_type in events:
        return event_type
    return next(pattern for pattern in events if type_matches(pattern, event_type))
