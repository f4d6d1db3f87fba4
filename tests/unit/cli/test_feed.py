"""Reading events from lines."""

from __future__ import annotations

import json

import pytest

from poundlock import PoundlockError
from poundlock.cli.feed import Feed, read_event
from poundlock.errors import FeedInvalid


def read(line, number=1, feed="events.jsonl"):
    return read_event(line if isinstance(line, bytes) else json.dumps(line).encode(), number, feed)


def test_cloudevent_is_read_as_it_is():
    """A CloudEvents envelope keeps its id, source, time, subject and extensions."""
    envelope = {
        "specversion": "1.0",
        "type": "a",
        "id": "1",
        "source": "/x",
        "subject": "k",
        "data": {"n": 1},
        "ext": "e",
    }
    event = read(envelope)
    assert event.to_cloudevent() == envelope


@pytest.mark.parametrize("name", ["payload", "data"])
def test_plain_object_needs_only_a_type(name):
    """A plain object with a type is an event; its payload may be called payload or data."""
    event = read({"type": "a", name: {"n": 1}, "key": "k"})
    assert (event.type, event.payload, event.key, event.source) == ("a", {"n": 1}, "k", "feed:events.jsonl")


def test_event_without_payload_has_an_empty_one():
    """Without payload and data the payload is an empty object."""
    assert read({"type": "a"}).payload == {}


def test_made_id_is_the_same_each_time():
    """An event without an id is given one that depends on nothing but the feed, the line's number and its content."""
    line = {"type": "a", "payload": {"n": 1}}
    same = read(line, 7)
    assert (same.source, same.id) == (read(line, 7).source, read(line, 7).id)
    others = [read(line, 8), read(line, 7, "other.jsonl"), read({"type": "a", "payload": {"n": 2}}, 7)]
    assert len({(event.source, event.id) for event in (same, *others)}) == 4


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "it is not JSON"),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"type": "a", "payload": NaN}', "NaN is not a JSON number"),
        (b"[" * 100_000, "nests too deep"),
        (b'{"type": "a", "payload": ' + b"9" * 5000 + b"}", "it is not JSON"),
        (b'{"type": "a", "payload": {"n": 1, "n": 2}}', "the key 'n' is there twice"),
        (b'{"type": "a", "id": "1", "id": "2"}', "the key 'id' is there twice"),
        (b"{}", "it has no type"),
        (b'{"type": 3}', "type must be printable text"),
        (b'{"type": "a", "colour": 1}', "'colour' is not a field"),
        (b'{"type": "a", "data": 1, "payload": 2}', "both payload and data"),
        (b'{"type": "a", "key": "x", "subject": "y"}', "both key and subject"),
        (b'{"specversion": "0.3", "type": "a"}', "only CloudEvents 1.0"),
        (b'{"specversion": "1.0", "type": "a"}', "'id' is missing"),
        (b'{"type": "a", "time": "yesterday"}', "is not a time"),
    ],
)
def test_malformed_line_says_what_is_wrong(line, told):
    """What holds no event is refused in words that fit behind the line's number."""
    with pytest.raises(PoundlockError, match=told):
        read(line)


async def test_blank_lines_count_but_are_no_lines(tmp_path):
    """Blank lines are passed over and keep the numbers of the others; a byte order mark does no harm."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"type": "a"}\n\n   \n{"type": "b"}\nnonsense')
    feed = Feed.of(str(path))
    assert feed.count() == 3
    lines = [line async for line in feed.lines()]
    assert [(line.number, line.event and line.event.type) for line in lines] == [(1, "a"), (4, "b"), (5, None)]
    assert lines[2].fault is not None


@pytest.mark.parametrize("where", ["nowhere.jsonl", "."])
def test_feed_that_cannot_be_read(where, tmp_path, monkeypatch):
    """A feed that is not there, or is a directory, is refused before anything is done."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FeedInvalid, match="cannot be read"):
        Feed.of(where)
