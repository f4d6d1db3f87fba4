"""Events: input from outside. Field names and the JSON form follow CloudEvents 1.0."""

from __future__ import annotations

import datetime as dt
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from poundlock.codecs import detach, pack, pack_data
from poundlock.errors import InvalidEvent
from poundlock.ids import default_ids
from poundlock.model.drafts import maker_of
from poundlock.model.moments import YEAR_1, YEAR_10000, utc_text
from poundlock.records import dataclass, field

CONTROL_EVENTS: Final = ("run:abort", "run:signal")
"""Events that do the same as `abort` and `signal`; payload `{run_id, reason}` or `{run_id, patch}`."""

_LONGEST: Final = 1024
_ATTRIBUTES: Final = frozenset({"specversion", "type", "id", "source", "time", "subject", "data", "data_base64"})


@dataclass(frozen=True, slots=True, eq=True)
class Event:
    """Something that happened.

    Args:
        type: dotted name, e.g. "order.placed".
        payload: JSON-like data; None means no payload.
        id: unique within `source`; generated now if missing, so emitting the same object twice is a duplicate.
        time: seconds since 1970 UTC, a datetime, or RFC 3339 text; set at acceptance if missing.
        source: its origin, a URI reference.
        key: its subject; the label of the runs it starts, and CloudEvents' `subject`.
        headers: further CloudEvents attributes (extensions), by name.

    Raises:
        InvalidEvent: a field has an invalid value; `path` names it.
    """

    type: str
    payload: Any = field(hash=False)
    id: str = field(kw_only=True)
    time: float | None = field(kw_only=True)
    source: str = field(kw_only=True)
    key: str | None = field(kw_only=True)
    headers: Mapping[str, Any] = field(kw_only=True, hash=False)

    def __init__(
        self,
        type: str,
        payload: Any = None,
        *,
        id: str | None = None,
        time: float | dt.datetime | str | None = None,
        source: str = "",
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Create an instance. The arguments are its fields."""
        if not is_name(type):
            raise _no_name("type", type)
        if id is not None and not is_name(id):
            raise _no_name("id", id)
        if source != "" and not is_name(source):
            raise _no_name("source", source)
        if key is not None and not is_name(key):
            raise _no_name("key", key)
        _PUT_TYPE(self, type)
        _PUT_PAYLOAD(self, payload)
        _PUT_ID(self, default_ids.unique() if id is None else id)
        _PUT_TIME(self, None if time is None else _to_seconds(time))
        _PUT_SOURCE(self, source)
        _PUT_KEY(self, key)
        _PUT_HEADERS(self, {} if headers is None else _check_headers(headers))

    @staticmethod
    def trusted(
        type: str,
        payload: Any,
        *,
        id: str,
        time: float | None,
        source: str,
        key: str | None,
        headers: Mapping[str, Any],
    ) -> Event:
        """Return an event whose fields are known to be valid: checked before, or created by Poundlock.

        Emitting creates every event a second time, with its payload detached; a second check would cost as much as
        starting a run.
        """
        return new_event(type, payload, id, time, source, key, headers)

    def detached(self) -> Event:
        """Return this event with its own copy of the payload, for code that may change it."""
        if not isinstance(self.payload, dict | list):
            return self
        return Event.trusted(
            self.type,
            detach(self.payload),
            id=self.id,
            time=self.time,
            source=self.source,
            key=self.key,
            headers=self.headers,
        )

    def to_cloudevent(self) -> dict[str, Any]:
        """Return the CloudEvents 1.0 JSON form. An empty source, which CloudEvents forbids, is written as "/".

        Raises:
            InvalidEvent: its time is outside of the years 1 to 9999.
        """
        envelope: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "type": self.type,
            "source": self.source or "/",
        }
        if self.time is not None:
            if not YEAR_1 <= self.time < YEAR_10000:  # accepted by a clock outside of these years
                raise InvalidEvent(
                    f"the time of event '{self.id}' is {utc_text(self.time)}: CloudEvents has no text for it",
                    path="time",
                )
            envelope["time"] = dt.datetime.fromtimestamp(self.time, dt.UTC).isoformat().replace("+00:00", "Z")
        if self.key is not None:
            envelope["subject"] = self.key
        envelope.update(self.headers)
        if isinstance(self.payload, bytes):
            envelope["data_base64"] = b64encode(self.payload).decode()
        elif self.payload is not None:
            envelope["data"] = self.payload
        return envelope

    @classmethod
    def from_cloudevent(cls, envelope: Mapping[str, Any]) -> Event:
        """Read a CloudEvents 1.0 JSON envelope.

        Raises:
            InvalidEvent: it is not such an envelope; `path` names the attribute.
        """
        if not isinstance(envelope, Mapping):
            raise InvalidEvent("a CloudEvent is a JSON object with at least specversion, id, source and type")
        if envelope.get("specversion") != "1.0":
            raise InvalidEvent(
                f"specversion is {envelope.get('specversion')!r}: only CloudEvents 1.0 is supported", path="specversion"
            )
        for name in ("id", "source", "type"):
            if name not in envelope:
                raise InvalidEvent(f"the attribute '{name}' is missing: CloudEvents requires it", path=name)
        payload = envelope.get("data")
        if "data_base64" in envelope:
            try:
                payload = b64decode(envelope["data_base64"], validate=True)
            except (ValueError, TypeError):
                raise InvalidEvent("data_base64 is not base64 text", path="data_base64") from None
        return cls(
            envelope["type"],
            payload,
            id=envelope["id"],
            time=envelope.get("time"),
            source=envelope["source"],
            key=envelope.get("subject"),
            headers={name: value for name, value in envelope.items() if name not in _ATTRIBUTES},
        )


new_event: Final = maker_of(Event)
"""Makes an event from all its fields, by place, in a third of the time; see `Event.trusted`."""
# Setting a slot itself takes half the time of `object.__setattr__`, which has to look it up.
_PUT_TYPE, _PUT_PAYLOAD, _PUT_ID, _PUT_TIME, _PUT_SOURCE, _PUT_KEY, _PUT_HEADERS = (
    getattr(Event, slot.name).__set__ for slot in fields(Event)
)


def is_name(value: Any) -> bool:
    """Whether a value can be an id or a type: printable text of 1 to 1,024 characters without outer blanks."""
    return type(value) is str and 0 < len(value) <= _LONGEST and value == value.strip() and value.isprintable()


def is_text(value: Any) -> bool:
    """Whether a value is text that a store can have: without half a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def merged(payload: Any, fields: Mapping[str, Any]) -> Any:
    """Return payload and keyword fields as one payload.

    Raises:
        InvalidEvent: there are fields, but the payload is not a mapping to merge them into.
    """
    if not fields:
        return {} if payload is None else payload
    if payload is None:
        return dict(fields)
    if not isinstance(payload, Mapping):
        raise InvalidEvent("keywords can only be merged into a payload that is a mapping", path="payload")
    return {**payload, **fields}


def as_event(event: Event | str, payload: Any, fields: Mapping[str, Any]) -> Event:
    """Return an Event, built from type, payload and fields if it is not one yet.

    Raises:
        InvalidEvent: an Event was given together with a payload.
    """
    if not isinstance(event, Event):
        return Event(event, merged(payload, fields))
    if payload is not None or fields:
        raise InvalidEvent("an Event has its own payload: build it with that payload", path="payload")
    return event


def accepted(event: Event, now: float) -> tuple[Event, str]:
    """Return an event as it is stored: its payload detached, its time stamped if it has none; and the payload's text.

    Raises:
        NotStorable: the payload or a header is not data; `path` names it.
    """
    payload, text = pack(event.payload, "payload", "none") if event.payload is not None else (None, "null")
    headers = pack_data(event.headers, "headers")[0] if event.headers else event.headers
    time = now if event.time is None else event.time
    return new_event(event.type, payload, event.id, time, event.source, event.key, headers), text


def quoted(name: str) -> str:
    """Return a text that `is_name` accepts, or "", as JSON: printable, it has no other characters to be escaped."""
    if "\\" in name or '"' in name:
        name = name.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + name + '"'  # not formatted: a member of an enum may have a text of its own for that


def _no_name(name: str, value: Any) -> InvalidEvent:
    return InvalidEvent(
        f"an event's {name} must be printable text of 1 to {_LONGEST} characters without outer blanks, "
        f"not {value!r:.60}",
        path=name,
    )


def _check_headers(headers: Any) -> dict[str, Any]:
    if not isinstance(headers, Mapping):
        raise InvalidEvent(f"an event's headers are a mapping of names to values, not {headers!r:.60}", path="headers")
    for name in headers:
        if not isinstance(name, str) or not name or name in _ATTRIBUTES:
            raise InvalidEvent(
                f"{name!r:.60} cannot be a header: use text that is not a CloudEvents attribute of its own "
                f"({', '.join(sorted(_ATTRIBUTES))})",
                path="headers",
            )
    return dict(headers)


def _to_seconds(value: Any) -> float:
    seconds: Any = value
    if not isinstance(value, int | float) or isinstance(value, bool):
        try:
            moment = value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(str(value))
            seconds = moment.replace(tzinfo=moment.tzinfo or dt.UTC).timestamp()
        except (TypeError, ValueError, OverflowError):
            seconds = None
    # Outside of these years, and for NaN, there is no RFC 3339 text.
    if seconds is None or not YEAR_1 <= seconds < YEAR_10000:
        raise InvalidEvent(f"{value!r:.60} is not a time: give seconds, a datetime or RFC 3339 text", path="time")
    return float(seconds)
