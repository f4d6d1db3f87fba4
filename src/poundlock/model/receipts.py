"""Receipts: the decisions about an event, one line per trigger of its type and per run with a matching wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from poundlock.codecs import encode
from poundlock.model.buffers import Hit
from poundlock.model.drafts import maker_of
from poundlock.records import NamedTuple, dataclass


class Verdict(StrEnum):
    """One decision about an event."""

    STARTED = "started"
    QUEUED = "queued"
    DELAYED = "delayed"
    DROPPED = "dropped"
    REJECTED = "rejected"
    SIGNALLED = "signalled"
    REPLACED = "replaced"
    RESUMED = "resumed"
    BUFFERED = "buffered"
    DUPLICATE = "duplicate"
    FILTERED = "filtered"
    UNMATCHED = "unmatched"


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """One line of a receipt.

    Attributes:
        verdict: the decision.
        workflow_id: the workflow that decided; None on an `unmatched` line.
        trigger_id: the trigger of this type; None if a waiting run got the event.
        run_id: the run that was started, queued, signalled, resumed or buffered for; None while a trigger holds the
            event.
        reason: why, as text; "" if the verdict is enough.
    """

    verdict: Verdict
    workflow_id: str | None = None
    trigger_id: str | None = None
    run_id: str | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the line as plain data."""
        return {
            "verdict": str(self.verdict),
            "workflow_id": self.workflow_id,
            "trigger_id": self.trigger_id,
            "run_id": self.run_id,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ReceiptLine:
        """Read the result of `to_dict`."""
        return cls(Verdict(data["verdict"]), data["workflow_id"], data["trigger_id"], data["run_id"], data["reason"])


new_line: Final = maker_of(ReceiptLine)
"""Makes a line from all its fields, by place, in a third of the time."""


class Fate(StrEnum):
    """The result of a delivery to a waiting run, decided inside the commit."""

    RESUMED = "resumed"
    BUFFERED = "buffered"
    REJECTED = "rejected"
    DROPPED = "dropped"
    GONE = "gone"

    @property
    def accepted(self) -> bool:
        """Whether the run has the event now."""
        return self in _ACCEPTED


_ACCEPTED: Final = (Fate.RESUMED, Fate.BUFFERED)


class Delivery(NamedTuple):
    """An event for a run with matching waits. `line` is the receipt line if it is accepted.

    Must hold: none of these waits has another epoch now (`WaitMoved`): then it was armed again, so the event has to be
    matched again. A wait that is no longer armed is not refused, see `Fate`.

    `owner` owns the run if this delivery resumes it; None makes it `ready`. `slots` is how many its mode has, 0 if that
    is unknown: a run that had released its slot needs one of them, and waits if it does not get it (`Load.returned`).
    `held`: its workflow is paused. What would resume the run is buffered then, and the run is due at once: it goes on
    as soon as it may be claimed again.
    """

    run_id: str
    waits: tuple[Hit, ...]
    event_ref: str
    owner: str | None
    line: ReceiptLine
    slots: int = 0
    held: bool = False


class Delivered(NamedTuple):
    """The outcome of a delivery: its fate, and the message's sequence in the run's inbox (0 if it was not accepted).

    `reason`: for the receipt; "" if the line says it already. `dropped`: older messages that left the inbox for it.
    `waits`: it has resumed the run, which goes on as soon as it gets a slot. `answers`: id and epoch of the wait that
    it answers, where the run has to be told, see `answer_note`.
    """

    fate: Fate
    seq: int
    reason: str = ""
    dropped: tuple[int, ...] = ()
    waits: bool = False
    answers: tuple[str, int] | None = None


def answer_note(answers: tuple[str, int] | None) -> dict[str, Any] | None:
    """Return the body of the message that an event becomes: what its delivery decided, for the run's next owner."""
    return None if answers is None else {"answers": [*answers]}


WAITS_FOR_SLOT: Final = "waits for a slot"
"""What the receipt says of a resumed run that does not go on at once."""


def none_accepted(delivered: Sequence[Delivered]) -> bool:
    """Whether there were deliveries, and no run took one."""
    return bool(delivered) and not any(outcome.fate.accepted for outcome in delivered)


def settle_lines(
    lines: Sequence[ReceiptLine], deliveries: Sequence[Delivery], delivered: Sequence[Delivered]
) -> tuple[ReceiptLine, ...]:
    """Return the receipt's lines: the decided ones, then one per delivery with its result."""
    if not deliveries:
        return tuple(lines)
    settled = list(lines)
    for delivery, outcome in zip(deliveries, delivered, strict=True):
        line = delivery.line
        verdict = Verdict(outcome.fate) if outcome.fate is not Fate.GONE else Verdict.FILTERED
        reason = outcome.reason or line.reason if outcome.fate is not Fate.GONE else "the run has continued meanwhile"
        if outcome.waits:
            reason = WAITS_FOR_SLOT
        settled.append(ReceiptLine(verdict, line.workflow_id, line.trigger_id, line.run_id, reason))
    return tuple(settled)


def unwanted(lines: Sequence[ReceiptLine]) -> bool:
    """Whether a receipt says that nobody wanted the event."""
    return len(lines) == 1 and lines[0].verdict is Verdict.UNMATCHED


_TAKEN: Final = frozenset(
    {
        Verdict.STARTED,
        Verdict.QUEUED,
        Verdict.DELAYED,
        Verdict.SIGNALLED,
        Verdict.REPLACED,
        Verdict.RESUMED,
        Verdict.BUFFERED,
    }
)
_NOTHING_NEW: Final = frozenset({Verdict.DUPLICATE, Verdict.UNMATCHED})


def changes_nothing(lines: Sequence[ReceiptLine]) -> bool:
    """Whether the lines may be those of a copy: then what is stored of the first one has to be known, see `merged`."""
    taken = False
    for line in lines:
        if line.verdict is Verdict.DUPLICATE:
            return True
        taken = taken or line.verdict in _TAKEN
    return not taken


def merged(before: Sequence[ReceiptLine], lines: Sequence[ReceiptLine]) -> tuple[ReceiptLine, ...]:
    """Return the lines to be stored for an event that came again.

    A copy leaves what the first one has led to. It adds what it has led to itself, in place of a refusal: what was
    refused may come again.

    Args:
        before: the stored lines.
        lines: those of now.
    """
    copy = any(line.verdict is Verdict.DUPLICATE for line in lines)
    if not copy and not (changes_nothing(lines) and any(line.verdict in _TAKEN for line in before)):
        return tuple(lines)
    stored = {_place(line): line for line in before}
    newer: dict[tuple[str | None, str | None, str | None], ReceiptLine] = {}
    for line in lines:
        old = stored.get(_place(line))
        if old is None:
            if line.verdict is not Verdict.UNMATCHED:
                newer[_place(line)] = line
        elif line.verdict not in _NOTHING_NEW and (line.verdict in _TAKEN or old.verdict not in _TAKEN):
            newer[_place(line)] = line
    kept = [newer.pop(_place(line), line) for line in before]
    return (*kept, *newer.values())


def _place(line: ReceiptLine) -> tuple[str | None, str | None, str | None]:
    """Return whose line it is: a trigger's, or a waiting run's."""
    return line.workflow_id, line.trigger_id, line.run_id if line.trigger_id is None else None


class Rewrite(NamedTuple):
    """A line of a stored receipt from now on, in place of that of the same trigger.

    The receipt is then kept as long as a new one. One that is not stored any more begins again, with this line.
    """

    source: str
    event_id: str
    line: ReceiptLine


def rewritten(lines: Sequence[ReceiptLine], line: ReceiptLine) -> tuple[ReceiptLine, ...]:
    """Return a receipt's lines with a new one in place of that of the same trigger, or behind the others."""
    place = (line.workflow_id, line.trigger_id)
    found = tuple(line if (each.workflow_id, each.trigger_id) == place else each for each in lines)
    return found if line in found else (*found, line)


class ReceiptRow(NamedTuple):
    """A receipt as it is to be stored: its lines are completed inside the commit, with the results of deliveries.

    What is stored of an earlier one of its event is merged with it, see `merged`.
    """

    source: str
    event_id: str
    time: float
    lines: tuple[ReceiptLine, ...]

    def settled(self, deliveries: Sequence[Delivery], delivered: Sequence[Delivered]) -> tuple[ReceiptLine, ...]:
        """Return all its lines."""
        return settle_lines(self.lines, deliveries, delivered)


def lines_text(lines: Sequence[ReceiptLine]) -> str:
    """Return lines as JSON text."""
    return encode([line.to_dict() for line in lines])
