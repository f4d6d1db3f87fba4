"""Read events from lines of text: CloudEvents, or plain JSON objects with a type.

A feed has a name. An event without an id gets an id made from the line's number and content, and the feed as its
source. So its events are recognised when the same feed is read again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from poundlock.cli.strict_json import NotStrict, parsed
from poundlock.errors import FeedInvalid, InvalidEvent, PoundlockError
from poundlock.model.events import Event
from poundlock.records import dataclass

_FIELDS = frozenset({"type", "payload", "data", "id", "time", "source", "key", "subject", "headers"})
_LONGEST_LINE = 64 << 20


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not blank: its event, or the error in it."""

    number: int
    event: Event | None
    fault: PoundlockError | None = None


class Feed:
    """Lines of events.

    Args:
        name: the file's name without its folder; generated ids and sources are derived from it.
        path: the file; None means standard input, which can be read only once.
    """

    def __init__(self, name: str, path: Path | None) -> None:
        self.name = name
        self.path = path

    @classmethod
    def of(cls, where: str) -> Feed:
        """Return the feed for a command line argument; "-" means standard input.

        Raises:
            FeedInvalid: there is no such file, or it cannot be read.
        """
        if where == "-":
            return cls("stdin", None)
        path = Path(where)
        try:
            with path.open("rb"):
                return cls(path.name, path)
        except OSError as error:
            raise FeedInvalid(
                f"the events '{where}' cannot be read ({error.strerror}): give a file of JSON lines, or - for standard "
                f"input",
                path="events",
            ) from None

    def count(self) -> int | None:
        """Return the number of lines that are not blank; None for standard input."""
        if self.path is None:
            return None
        with self.path.open("rb") as file:
            return sum(1 for raw in file if raw.strip())

    def again(self) -> Iterator[Line]:
        """Return the lines from the first on; only a file can be read again."""
        assert self.path is not None  # noqa: S101 - called for files only
        with self.path.open("rb") as file:
            yield from self._parsed(file)

    async def lines(self) -> AsyncIterator[Line]:
        """Return the lines as they come; waiting for standard input does not block the event loop."""
        if self.path is not None:
            for line in self.again():
                yield line
            return
        piped = await _piped(sys.stdin.buffer)
        if piped is None:  # redirected from a file, where reading does not block
            for line in self._parsed(sys.stdin.buffer):
                yield line
            return
        reader, transport = piped
        try:
            number = 0
            while raw := await reader.readline():
                number += 1
                if raw.strip():
                    yield self._line(raw, number)
        finally:
            transport.close()

    def _parsed(self, file: BinaryIO) -> Iterator[Line]:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                yield self._line(raw, number)

    def _line(self, raw: bytes, number: int) -> Line:
        try:
            return Line(number, read_event(raw, number, self.name))
        except PoundlockError as error:
            return Line(number, None, error)


async def _piped(stdin: BinaryIO) -> tuple[asyncio.StreamReader, asyncio.BaseTransport] | None:
    """Return standard input as a stream if reading it can block: a pipe, socket or terminal."""
    mode = os.fstat(stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stdin.isatty()):
        return None
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), stdin
    )
    return reader, transport


def read_event(raw: bytes, number: int, feed: str) -> Event:
    """Return the event in a line.

    Raises:
        FeedInvalid: it is not a JSON object, or has unknown fields.
        InvalidEvent: it is not an event; `path` names the field.
    """
    text = raw.rstrip()  # so that an error at the end of the line is not reported at the start of the next line
    record = _decoded(text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text)
    if not isinstance(record, dict):
        raise FeedInvalid("it is not a JSON object: write one event per line")
    if "specversion" in record:
        return Event.from_cloudevent(record)
    if "type" not in record:
        raise InvalidEvent('it has no type: an event needs at least {"type": ...}', path="type")
    unknown = sorted(record.keys() - _FIELDS)
    if unknown:
        raise FeedInvalid(f"'{unknown[0]}' is not a field of an event: put it into the payload", path=unknown[0])
    for one, other in (("payload", "data"), ("key", "subject")):
        if one in record and other in record:
            raise FeedInvalid(f"it has both {one} and {other}, which mean the same: keep one", path=other)
    return Event(
        record["type"],
        record.get("payload", record.get("data", {})),
        id=record.get("id") or _made_id(raw, number),
        time=record.get("time"),
        source=record.get("source") or f"feed:{feed}",
        key=record.get("key", record.get("subject")),
        headers=record.get("headers") or {},
    )


def _made_id(raw: bytes, number: int) -> str:
    return f"{number}-{hashlib.blake2s(raw.strip(), digest_size=8).hexdigest()}"


def _decoded(raw: bytes) -> object:
    try:
        return parsed(raw.decode())
    except UnicodeDecodeError:
        raise FeedInvalid("it is not UTF-8 text: write the file in UTF-8") from None
    except NotStrict as error:
        raise FeedInvalid(f"it is not JSON ({error}): correct the line") from None
