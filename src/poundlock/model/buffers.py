"""What a wait has been given so far: the events that count for it, and what becomes of one more.

Each wait of a run buffers events for itself, under rules of its own. Its *tally* says which messages of the run's inbox
count for it. It is data of the wait's row: the transaction that delivers an event changes it, so that two senders
cannot both be the last one. The run's owner never reads it: it counts the messages themselves, see `counting.py`, in
the same way (`Buffer`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from math import inf
from typing import Any, Final, Literal, Protocol

from poundlock.records import NamedTuple

Mode = Literal["any", "all"] | int
Overflow = Literal["drop_oldest", "drop_newest", "reject"]
OVERFLOWS: Final = ("drop_oldest", "drop_newest", "reject")
DEFAULT_BUFFER: Final = 100
LARGEST_BUFFER: Final = 10_000
"""The tally of a wait is written with each event that is buffered, so it has to stay small."""


class WaitRules(NamedTuple):
    """How a wait counts the events that match it, see `Wait`. `form` is a JSON schema, `ttl` seconds."""

    mode: Mode = "any"
    distinct: str | None = None
    collect: str | None = None
    form: Mapping[str, Any] | None = None
    limit: int = DEFAULT_BUFFER
    ttl: float | None = None
    overflow: Overflow = "drop_oldest"

    @property
    def several(self) -> bool:
        """Whether it may take several events to answer the wait."""
        return self.mode != "any"


USUAL: Final = WaitRules()
"""The rules of a wait that says nothing of them; its row has None."""


class Part(NamedTuple):
    """One buffered event that counts.

    Attributes:
        seq: of its message in the inbox.
        at: when it came, in seconds since 1970; 0 if events of this wait do not expire.
        key: what it stands for: the event type of the wait that it matches (mode "all"), or the value that has to be
            different, as JSON text (`distinct`); else None.
    """

    seq: int
    at: float = 0.0
    key: str | None = None


class Tally(NamedTuple):
    """The buffered events that count for a wait, in order.

    `dropped` and `expired` count those that left the inbox while the run had no owner: its next one notes them in the
    timeline. `answer`: messages among the parts that answer the wait, so that the run goes on with them, which it has
    not done yet. They are in the way of no later event: that one counts for the next question.
    """

    parts: tuple[Part, ...] = ()
    dropped: int = 0
    expired: int = 0
    answer: tuple[int, ...] = ()

    @property
    def blank(self) -> bool:
        """Whether it says nothing."""
        return not (self.parts or self.dropped or self.expired)

    def without(self, seqs: Collection[int]) -> Tally:
        """Return it without these messages. Without one of them the rest is no answer any more."""
        left = tuple([part for part in self.parts if part.seq not in seqs])
        answer = () if any(seq in seqs for seq in self.answer) else self.answer
        return self._replace(parts=left, answer=answer)

    def to_data(self) -> list[Any]:
        """Return it as data, as short as possible: it is written with each event that is buffered."""
        parts = [part.seq if part.key is None and not part.at else list(part) for part in self.parts]
        data = [parts, self.dropped, self.expired]
        return [*data, [*self.answer]] if self.answer else data


EMPTY: Final = Tally()


def read_tally(data: Sequence[Any] | None) -> Tally | None:
    """Read the result of `to_data`."""
    if data is None:
        return None
    parts, dropped, expired, *answers = data
    read = [Part(part) if isinstance(part, int) else Part(*part) for part in parts]
    return Tally(tuple(read), dropped, expired, *map(tuple, answers))


class Counting(Protocol):
    """What has to be known of an armed wait to decide about an event."""

    @property
    def wait_id(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def parked(self) -> bool: ...
    @property
    def events(self) -> Sequence[str]: ...
    @property
    def rules(self) -> WaitRules | None: ...
    @property
    def tally(self) -> Tally | None: ...


class Hit(NamedTuple):
    """A wait that an event matches, as the sender saw it.

    Attributes:
        wait_id, epoch: which wait.
        key: what the event stands for there, see `Part`.
        again: what to say if that has been there before.
    """

    wait_id: str
    epoch: int
    key: str | None = None
    again: str = ""


class Taken(NamedTuple):
    """What becomes of an event at one wait.

    Attributes:
        verdict: "answers" the wait that the run is paused at, "counts", "rejected" or "dropped".
        reason: for the receipt; "" if there is nothing to say but the wait's name.
        tally: the wait's new one, if the event counts, or is the last one of several that answer the wait.
        gone: messages that do not count for this wait any more.
    """

    verdict: Literal["answers", "counts", "rejected", "dropped"]
    reason: str = ""
    tally: Tally | None = None
    gone: tuple[int, ...] = ()


ANSWERED: Final = Taken("answers")


def progress(rules: WaitRules, events: Sequence[str], keys: Sequence[str | None]) -> tuple[int, int]:
    """Return how many answers a wait has, and how many it needs; `keys`: those of its parts."""
    if rules.mode == "all":
        return len({*keys}), len({*events})
    return len(keys), 1 if rules.mode == "any" else rules.mode


class Buffer:
    """The events that count for a wait. They are added one after another: by each sender, and by the run's owner.

    Args:
        rules: the wait's.
        events: its event types and patterns.
        parts: what it has already, in order.

    Attributes:
        parts: those that count, in order, without the answer.
        answer: those that answer the wait that the run is paused at; empty while they do not.
        dropped: those that made room for others.
        expired: those that became too old.
    """

    __slots__ = ("_events", "_keys", "_oldest", "_rules", "answer", "dropped", "expired", "parts")

    def __init__(self, rules: WaitRules, events: Sequence[str], parts: Iterable[Part] = ()) -> None:
        self._rules, self._events = rules, events
        self.answer: tuple[Part, ...] = ()
        self.dropped: list[Part] = []
        self.expired: list[Part] = []
        self._set(parts)

    def _set(self, parts: Iterable[Part]) -> None:
        self.parts = deque(parts)
        self._keys = Counter([part.key for part in self.parts])
        self._oldest = min([part.at for part in self.parts], default=inf)

    @property
    def progress(self) -> tuple[int, int]:
        """How many answers there are, and how many it takes."""
        return progress(self._rules, self._events, [part.key for part in self.parts])

    def add(self, part: Part, *, now: float, asking: bool) -> Literal["answers", "counts", "again", "full"]:
        """Add one more, which came now.

        Args:
            part: the event.
            now: seconds since 1970.
            asking: whether the run is paused at this wait. The event that completes the answer needs no room then;
                what comes after it is for the next question.

        Returns:
            What becomes of it. "again": its value is there already. "full": there is no room for it.
        """
        self.expire(now)
        rules = self._rules
        if rules.distinct is not None and self._keys[part.key]:
            return "again"
        if asking and not self.answer:
            self._append(part)
            if self.complete():
                return "answers"
            self._pop_newest()
        if len(self.parts) >= rules.limit:
            if rules.overflow != "drop_oldest":
                return "full"
            while len(self.parts) >= rules.limit:
                self._drop_oldest()
        self._append(part)
        return "counts"

    def expire(self, now: float) -> None:
        """Let leave what is too old now."""
        if self._rules.ttl is None or self._oldest > (since := now - self._rules.ttl):
            return
        self.expired += [part for part in self.parts if part.at <= since]
        self._set([part for part in self.parts if part.at > since])

    def complete(self) -> bool:
        """Make the first parts that answer the wait its answer, if it has enough of them."""
        if self._rules.mode == "all":
            have, need = len(self._keys), len({*self._events})
        else:
            have, need = len(self.parts), 1 if self._rules.mode == "any" else self._rules.mode
        if have < need:
            return False
        if self._rules.mode == "all":
            first: dict[str | None, Part] = {}
            for part in self.parts:
                first.setdefault(part.key, part)
            used = [*first.values()]
        else:
            used = [*islice(self.parts, need)]
        seqs = {part.seq for part in used}
        self.answer = tuple(used)
        self._set([part for part in self.parts if part.seq not in seqs])
        return True

    def _append(self, part: Part) -> None:
        self.parts.append(part)
        self._keys[part.key] += 1
        self._oldest = min(self._oldest, part.at)

    def _pop_newest(self) -> None:
        self._forget(self.parts.pop())

    def _drop_oldest(self) -> None:
        self.dropped.append(self.parts[0])
        self._forget(self.parts.popleft())

    def _forget(self, part: Part) -> None:
        self._keys[part.key] -= 1
        if not self._keys[part.key]:
            del self._keys[part.key]


def take(wait: Counting, hit: Hit, *, seq: int, now: float, asking: bool, owned: bool) -> Taken:
    """Return what becomes of an event that matches a wait.

    Args:
        wait: as it is now.
        hit: what the event is there.
        seq: which place in the inbox it would get.
        now: seconds since 1970.
        asking: whether the run is paused at this wait.
        owned: whether somebody drives the run: then its owner drops what is too much or too old, at its next boundary.
    """
    rules = wait.rules
    if asking and (rules is None or rules.mode == "any"):
        return ANSWERED  # one is enough, and there is nothing to keep
    rules = rules or USUAL
    tally = wait.tally or EMPTY
    name, limit = f"wait {wait.wait_id}", rules.limit
    used = [part for part in tally.parts if part.seq in tally.answer]
    buffer = Buffer(rules, wait.events, [part for part in tally.parts if part.seq not in tally.answer])
    mine = Part(seq, 0.0 if rules.ttl is None else now, hit.key)
    verdict = buffer.add(mine, now=now, asking=asking)
    if verdict == "again":
        return Taken("rejected", f"{name}: {hit.again}")
    if verdict == "full":
        full = f"{name}: its buffer is full ({limit})"
        return Taken("rejected" if rules.overflow == "reject" else "dropped", full)
    if verdict == "answers":
        have, need = progress(rules, wait.events, [part.key for part in buffer.answer])
        used += buffer.answer
        complete = tally._replace(parts=_in_order(used, buffer), answer=tuple([part.seq for part in used]))
        return Taken("answers", f"{name}: {have} of {need}", complete)
    reason = ""
    if rules.several:
        have, need = buffer.progress
        reason = f"{name}: {have} of {need}" if have <= need else name
    if buffer.dropped:
        reason = f"{reason or name}, the oldest of {limit} was dropped"
    lost = (0, 0) if owned else (len(buffer.dropped), len(buffer.expired))
    counted = Tally(_in_order(used, buffer), tally.dropped + lost[0], tally.expired + lost[1], tally.answer)
    gone = () if owned else tuple(sorted([part.seq for part in (*buffer.dropped, *buffer.expired)]))
    return Taken("counts", reason, counted, gone)


def _in_order(used: Iterable[Part], buffer: Buffer) -> tuple[Part, ...]:
    return tuple(sorted([*used, *buffer.parts]))


def kept_tallies(before: Iterable[Any], rows: Sequence[Any], consumed: Collection[int]) -> Sequence[Any]:
    """Return new rows of waits as they are to be stored: what came for them since their owner looked still counts.

    A wait with the epoch that it had keeps its tally, without what was consumed: the owner does not know what came
    since. One with another epoch brings its own. What the owner noted of lost events is its to say.

    Args:
        before: the rows as they are stored.
        rows: the new ones.
        consumed: messages that their change consumes.
    """
    known = {(row.wait_id, row.epoch): row.tally for row in before if row.tally is not None}
    kept = []
    for row in rows:
        stored = known.get((row.wait_id, row.epoch))
        tally = row.tally
        if stored is not None:
            mine = tally or EMPTY
            tally = stored.without(consumed)._replace(dropped=mine.dropped, expired=mine.expired)
        elif tally is not None and any((row.wait_id, row.epoch) == (old.wait_id, old.epoch) for old in before):
            tally = tally._replace(parts=(), answer=())
        if tally is not None and tally.blank:
            tally = None
        kept.append(row if tally == row.tally else row._replace(tally=tally))
    return kept if any(new is not old for new, old in zip(kept, rows, strict=True)) else rows


def without_consumed(rows: Sequence[Any], consumed: Collection[int]) -> Sequence[Any]:
    """Return rows of waits after messages were consumed; the same object if none of them counted."""
    if not any(row.tally is not None for row in rows):
        return rows
    kept = []
    for row in rows:
        tally = None if row.tally is None else row.tally.without(consumed)
        kept.append(row if tally == row.tally else row._replace(tally=None if tally is None or tally.blank else tally))
    return kept if any(new is not old for new, old in zip(kept, rows, strict=True)) else rows
