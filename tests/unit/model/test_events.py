"""Events, and CloudEvents 1.0 in and out."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundlock.codecs import encode, pack
from poundlock.errors import InvalidEvent
from poundlock.model.events import Event, is_name, quoted

FEED = Path(__file__).resolve().parents[4] / "shared/data/webhooks/events.jsonl"
SAMPLES = [
    {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.placed"},
    {
        "specversion": "1.0",
        "id": "A234-1234-1234",
        "source": "https://github.com/cloudevents/spec/pull",
        "type": "com.github.pull_request.opened",
        "subject": "123",
        "time": "2018-04-05T17:31:00Z",
        "comexampleextension1": "value",
        "comexampleothervalue": 5,
        "datacontenttype": "application/json",
        "dataschema": "https://example.org/schema",
        "data": {"lines": [1, 2.5, None, "ä\u0000"], "deep": {"x": [{}]}},
    },
    {"specversion": "1.0", "id": "b", "source": "urn:x", "type": "t", "data_base64": "AAH/"},
    {"specversion": "1.0", "id": "f", "source": "s", "type": "t", "data": False, "time": "2026-01-02T03:04:05.678901Z"},
    {"specversion": "1.0", "id": "s", "source": "s", "type": "t", "data": "text"},
    {"specversion": "1.0", "id": "l", "source": "s", "type": "t", "data": [1]},
    {"specversion": "1.0", "id": "z", "source": "s", "type": "t", "data": 0},
]


# -- CloudEvents
@pytest.mark.parametrize("envelope", SAMPLES, ids=lambda envelope: envelope["id"])
def test_envelopes_go_in_and_out_unchanged(envelope):
    """Reading an envelope and writing it again gives the same envelope, extensions included."""
    event = Event.from_cloudevent(envelope)
    assert event.to_cloudevent() == envelope
    assert Event.from_cloudevent(event.to_cloudevent()) == event


@pytest.mark.skipif(not FEED.exists(), reason="the feed of real events is not next to the repository")
def test_real_events_go_in_and_out_unchanged():
    """Every envelope of the feed of real webhooks reads, writes back the same, and can be stored."""
    lines = FEED.read_text(encoding="utf-8").splitlines()
    assert lines
    for line in lines:
        envelope = json.loads(line)
        event = Event.from_cloudevent(envelope)
        assert event.to_cloudevent() == envelope
        assert pack(event.payload)[0] == envelope["data"]


attributes = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
times = st.datetimes(timezones=st.just(dt.UTC), min_value=dt.datetime(1, 1, 2), max_value=dt.datetime(9999, 12, 30))  # noqa: DTZ001 - hypothesis wants naive bounds


@given(attributes, attributes, attributes, st.none() | attributes, st.none() | times, st.none() | st.integers())
def test_events_survive_the_wire(event_type, event_id, source, key, time, payload):
    """An event written as a CloudEvent and read again is the same event."""
    event = Event(event_type, payload, id=event_id, source=source, key=key, time=time, headers={"tenant": "t"})
    envelope = json.loads(json.dumps(event.to_cloudevent()))
    again = Event.from_cloudevent(envelope)
    assert again.time == pytest.approx(event.time, abs=2e-5) if time else again.time is None
    assert again.to_cloudevent() == envelope
    assert (again.type, again.id, again.source, again.key, again.payload, again.headers) == (
        event.type,
        event.id,
        event.source,
        event.key,
        event.payload,
        event.headers,
    )


def test_bytes_travel_as_base64():
    """A payload of bytes is `data_base64` on the wire and bytes again after it."""
    envelope = Event("t", b"\x00\xff", id="1").to_cloudevent()
    assert envelope["data_base64"] == "AP8="
    assert "data" not in envelope
    assert Event.from_cloudevent(envelope).payload == b"\x00\xff"


def test_an_empty_source_is_written_as_a_slash():
    """CloudEvents wants a source, so an event without one gets the shortest."""
    assert Event("t", id="1").to_cloudevent()["source"] == "/"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": None}, "specversion"),
        ({"id": ...}, "id"),
        ({"type": ...}, "type"),
        ({"source": ...}, "source"),
        ({"type": ""}, "type"),
        ({"type": 5}, "type"),
        ({"id": 5}, "id"),
        ({"source": 5}, "source"),
        ({"time": "yesterday"}, "time"),
        ({"time": {}}, "time"),
        ({"subject": 5}, "key"),
        ({"data_base64": "not base64!"}, "data_base64"),
        ({"data_base64": 5}, "data_base64"),
    ],
    ids=repr,
)
def test_broken_envelopes_are_refused(change, path):
    """An envelope with a missing or impossible attribute is InvalidEvent, and `path` names it."""
    envelope = {**SAMPLES[0], **change}
    envelope = {name: value for name, value in envelope.items() if value is not ...}
    with pytest.raises(InvalidEvent) as caught:
        Event.from_cloudevent(envelope)
    assert caught.value.path == path


@pytest.mark.parametrize("envelope", [None, 5, "text", [], [SAMPLES[0]], {}])
def test_what_is_no_envelope_is_refused(envelope):
    """Anything but an object with the required attributes is InvalidEvent."""
    with pytest.raises(InvalidEvent):
        Event.from_cloudevent(envelope)


# -- building
def test_defaults():
    """An event needs a type; it gets an id of its own at once, and no time before it is accepted."""
    first, second = Event("order.placed"), Event("order.placed")
    assert first.payload is None
    assert (first.source, first.key, first.time, first.headers) == ("", None, None, {})
    assert first.id != second.id


@pytest.mark.parametrize("field", ["type", "id", "source", "key"])
@pytest.mark.parametrize(
    "value", [" a", "a ", "a\n", "a\x00b", "\ud800", "\u200b", "x" * 1025, 5, b"a", ["a"]], ids=ascii
)
def test_names_are_printable_text(field, value):
    """Type, id, source and key are printable, neither over-long nor padded: what else would end up in every index."""
    arguments = {"type": "t", field: value}
    with pytest.raises(InvalidEvent) as caught:
        Event(**arguments)
    assert caught.value.path == field


@pytest.mark.parametrize("field", ["type", "id", "key"])
def test_names_are_not_empty(field):
    """Where a name is given it says something; only a source may be empty."""
    with pytest.raises(InvalidEvent):
        Event(**{"type": "t", field: ""})
    assert Event("t", source="").source == ""


def test_names_may_be_in_any_script():
    """Printable is not the same as ASCII, and 1024 characters are allowed."""
    event = Event("bestellung.größe.注文", id="é" * 1024, key="Ключ 1")
    assert Event.from_cloudevent(event.to_cloudevent()).type == event.type


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (5, 5.0),
        (5.5, 5.5),
        (-1, -1.0),
        (dt.datetime(1970, 1, 1, 0, 0, 5, tzinfo=dt.UTC), 5.0),
        (dt.datetime(1970, 1, 1, 0, 0, 5), 5.0),  # noqa: DTZ001 - naive means UTC
        ("1970-01-01T00:00:05Z", 5.0),
        ("1970-01-01T01:00:05+01:00", 5.0),
        ("1970-01-01T00:00:05.25Z", 5.25),
        ("1970-01-01T00:00:05.123456789Z", 5.123456),
    ],
    ids=repr,
)
def test_times(time, seconds):
    """Seconds, datetimes (naive ones are UTC) and RFC 3339 text become seconds."""
    event = Event("t", time=time)
    assert event.time == seconds
    assert type(event.time) is float


@pytest.mark.parametrize(
    "time",
    [math.nan, math.inf, -math.inf, 1e300, 10**400, -(10**12), 253_402_300_800, True, "", "5", "soon", [], dt.time(1)],
    ids=lambda time: repr(time)[:20],
)
def test_impossible_times_are_refused(time):
    """What cannot be written as a time between the years 1 and 9999 is InvalidEvent, now and not when it is written."""
    with pytest.raises(InvalidEvent) as caught:
        Event("t", time=time)
    assert caught.value.path == "time"


@pytest.mark.parametrize("headers", [5, "text", [("a", 1)], {5: 1}, {"": 1}, {"id": "x"}, {"data": 1}, {"type": "t"}])
def test_headers_cannot_replace_what_the_event_says(headers):
    """Headers are a mapping of extension names; CloudEvents' own attributes are not among them."""
    with pytest.raises(InvalidEvent) as caught:
        Event("t", headers=headers)
    assert caught.value.path == "headers"


def test_events_do_not_change():
    """An event is frozen, does not share its headers with their giver, and equals an event of the same content."""
    headers = {"tenant": "t"}
    event = Event("t", {"a": 1}, id="1", headers=headers)
    headers["tenant"] = "other"
    assert event.headers == {"tenant": "t"}
    with pytest.raises(AttributeError):
        event.type = "u"
    twin = Event("t", {"a": 1}, id="1", headers={"tenant": "t"})
    assert event == twin
    assert len({event, twin}) == 1
    assert event != Event("t", {"a": 2}, id="1", headers={"tenant": "t"})


def test_a_time_that_cloudevents_has_no_text_for_is_named():
    """An event accepted by a clock beyond the year 9999 says why it has no CloudEvents form."""
    event = Event.trusted("a", None, id="1", time=1e12, source="", key=None, headers={})
    with pytest.raises(InvalidEvent, match="after the year 9999") as raised:
        event.to_cloudevent()
    assert raised.value.path == "time"


@given(st.text(max_size=20) | st.text(alphabet='\\"/aé\u2028', max_size=8))
def test_a_name_is_quoted_as_the_codec_does(text):
    """Whatever can be an id or a type has the same JSON text as from the codec, and so has the empty source."""
    if is_name(text) or not text:
        assert quoted(text) == encode(text)


class Name(str, enum.Enum):  # noqa: UP042 - a StrEnum is shown as its value, this one is not
    """Ids as people may write them."""

    ONE = "one"


def test_an_enum_is_quoted_by_its_value():
    """A workflow's id may be a member of an enum: its text is the value, however the member is shown."""
    assert quoted(Name.ONE) == encode("one")
