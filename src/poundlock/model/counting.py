"""What a run's owner finds buffered for a wait: it counts the messages, in the same way as each sender has counted.

A sender adds one event to what the wait's tally says (`buffers.take`). The owner adds all messages again, one after
another, as if each came only now: so both come to the same result, also where an event that was dropped, or became too
old, made room for another one. An event that does not fit the form of a wait is none of its events: it may be for
another wait of the run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from poundlock.model.buffers import USUAL, Buffer, Part, Tally, WaitRules
from poundlock.model.runs import Message, WaitRow
from poundlock.model.waits import Unanswerable, hit_of
from poundlock.records import NamedTuple

Fits = Callable[[WaitRow, Message], bool]
"""Whether a message has what the form of a wait asks for: only who has the definition can say so of each form."""

_OWN: Final = WaitRules(limit=sys.maxsize)
"""The rules of reserved waits: a run has no limit for what its children tell it."""


class Counted(NamedTuple):
    """The messages of a wait.

    Attributes:
        answer: those that answer the wait that the run is paused at, in order; empty while they do not.
        kept: the others that count, in order.
        dropped: those that made room for others, or found no room.
        expired: those that were too old.
    """

    answer: list[Message]
    kept: list[Message]
    dropped: list[Message]
    expired: list[Message]


def any_form(_row: WaitRow, _message: Message) -> bool:
    """Whether a message fits, where all do."""
    return True


def _count(
    row: WaitRow, messages: Iterable[Message], now: float, fits: Fits
) -> tuple[Buffer, list[Part], dict[int, Message]]:
    """Add the messages that match a wait, one after another; also returns those without room, and all by number."""
    rules = _OWN if row.own else row.rules or USUAL
    buffer = Buffer(rules, row.events)
    full: list[Part] = []
    matching: dict[int, Message] = {}
    for message in messages:
        if message.event is None or not matches(row, message):
            continue
        hit = hit_of(row, message.event.event)
        if isinstance(hit, Unanswerable) or not fits(row, message):
            continue
        matching[message.seq] = message
        part = Part(message.seq, 0.0 if rules.ttl is None else message.time, hit.key)
        if buffer.add(part, now=message.time, asking=answers(row, message)) == "full":
            full.append(part)
    buffer.expire(now)
    return buffer, full, matching


def matches(row: WaitRow, message: Message) -> bool:
    """Whether a message is an event that matches a wait, and counts there by the time at which it came."""
    in_time = row.early or (row.asked_at is not None and message.seq > row.asked_at)
    return in_time and message.event is not None and row.matches(message.event.event)


def answers(row: WaitRow, message: Message) -> bool:
    """Whether this message answered the wait when it came: its delivery said so to its sender, whatever the time now.

    At a wait without rules the first one that matches does. With rules a run may be paused there and not be asking,
    as when an operator has paused it; so the delivery notes it. A later epoch of the same question is the same pause.
    """
    if not row.parked or row.rules is None:
        return row.parked
    if message.body is None:
        return False
    wait_id, epoch = message.body["answers"]
    return bool(wait_id == row.wait_id and epoch >= row.question)


def counted(row: WaitRow, messages: Iterable[Message], now: float, fits: Fits) -> Counted:
    """Return what becomes of the messages at a wait."""
    buffer, full, matching = _count(row, messages, now, fits)
    if row.parked and not buffer.answer:
        buffer.complete()
    lists = (buffer.answer, buffer.parts, sorted([*buffer.dropped, *full]), buffer.expired)
    return Counted(*[[matching[part.seq] for part in parts] for parts in lists])


def answering(row: WaitRow, messages: Iterable[Message], now: float, fits: Fits) -> list[Message]:
    """Return the messages that answer a wait: the first ones that do; none if they do not yet."""
    if row.rules is None:  # the usual: the first that matches
        for message in messages:
            if matches(row, message):
                return [message]
        return []
    return counted(row, messages, now, fits).answer


def so_far(row: WaitRow, messages: Iterable[Message], now: float, fits: Fits) -> list[Message]:
    """Return the messages that are part of an answer which takes several; none at a wait for one."""
    if row.rules is None or not row.rules.several:
        return []
    buffer, _, matching = _count(row, messages, now, fits)
    parts = sorted([*buffer.answer, *buffer.parts])
    if row.rules.mode == "all":
        first: dict[str | None, Part] = {}
        for part in parts:
            first.setdefault(part.key, part)
        parts = [*first.values()]
    return [matching[part.seq] for part in parts]


def tally_of(row: WaitRow, messages: Iterable[Message], now: float, fits: Fits) -> Tally | None:
    """Return the tally of a wait that is armed anew; None if nothing counts."""
    buffer, _, _ = _count(row, messages, now, fits)
    parts = sorted([*buffer.answer, *buffer.parts])
    return Tally(tuple(parts), answer=tuple([part.seq for part in buffer.answer])) if parts else None


def surplus(
    rows: Iterable[WaitRow], messages: Sequence[Message], now: float, fits: Fits
) -> tuple[list[tuple[Message, WaitRow]], list[tuple[Message, WaitRow]]]:
    """Return the messages that no wait has room for, and those that are too old; each with a wait that had it.

    What matches no wait now stays: it may match one later, and is recorded at the end of the run.
    """
    many: dict[int, tuple[Message, WaitRow]] = {}
    late: dict[int, tuple[Message, WaitRow]] = {}
    held: set[int] = set()
    for row in rows:
        found = counted(row, messages, now, fits)
        held.update([message.seq for message in (*found.answer, *found.kept)])
        many.update({message.seq: (message, row) for message in found.dropped})
        late.update({message.seq: (message, row) for message in found.expired})
    over = [each for seq, each in sorted(many.items()) if seq not in held]
    return over, [each for seq, each in sorted(late.items()) if seq not in held and seq not in many]
