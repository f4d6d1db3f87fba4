"""The outbox: events that steps have emitted, from the commit of their stage until they are delivered.

A dead letter may also be an event that a trigger held, and that was refused when its hold ended.
"""

from __future__ import annotations

from typing import Any

from poundlock.codecs import dump, load
from poundlock.model.events import Event
from poundlock.model.moments import utc_text
from poundlock.records import NamedTuple, dataclass
from poundlock.sensitive import concealed
from poundlock.showing import plain, told


class HeldBy(NamedTuple):
    """The trigger that held an event which is a dead letter.

    Attributes:
        load_key: the partition in which it is decided.
        batch: whether the event is a whole batch: then its payload is the state its run begins with.
    """

    workflow_id: str
    trigger_id: str
    load_key: str
    batch: bool


class Outgoing(NamedTuple):
    """An event that leaves with a boundary of a run, as it was accepted; `text` is the JSON text of its payload."""

    event: Event
    text: str


class Refused(NamedTuple):
    """An event that a wait of the run refused: with the boundary it becomes a dead letter.

    `text` is the JSON text of its payload, `error` that of why it was refused (`error_text`), with the wait.
    """

    event: Event
    text: str
    error: str


class OutboxRow(NamedTuple):
    """An event in the outbox, or a dead letter.

    Attributes:
        seq: its number; those of a run grow in the order in which it emitted them, and none is used twice.
        run_id: the run that emitted it, or whose wait refused it; "" if it was held.
        event: which event.
        version: grows with each change of the row, from 1.
        admitted: whether its triggers and waits are decided; it is still to be published on the bus.
        attempts: how many deliveries failed.
        error: JSON text of why the last one failed; None if none did.
        dead_at: since when it is a dead letter, in seconds since 1970; None while it is still to be delivered.
        held_by: the trigger that held it: it is for that one only. None for what a run emitted.
    """

    seq: int
    run_id: str
    event: Event
    version: int = 1
    admitted: bool = False
    attempts: int = 0
    error: str | None = None
    dead_at: float | None = None
    held_by: HeldBy | None = None


class Letter(NamedTuple):
    """A new dead letter: an event that a trigger held, and that was refused when its hold ended.

    Attributes:
        event: what was held.
        text: JSON text of its payload.
        held_by: the trigger that held it.
        error: JSON text of why it was refused.
        dead_at: when, in seconds since 1970.
    """

    event: Event
    text: str
    held_by: HeldBy
    error: str
    dead_at: float


class OutboxMark(NamedTuple):
    """What an outbox row says from now on; see `OutboxRow`."""

    admitted: bool
    attempts: int
    error: str | None = None
    dead_at: float | None = None


class OutboxMove(NamedTuple):
    """A change of an outbox row. Must hold: the row exists, and its version is `version` (`OutboxMoved`).

    Attributes:
        seq: which row.
        version: as it was read.
        mark: what it says from now on; None deletes it: it is delivered.
    """

    seq: int
    version: int
    mark: OutboxMark | None = None


class Sending(NamedTuple):
    """An event of the outbox that is being admitted.

    Attributes:
        row: as it was read.
        onward: whether it goes on after it is admitted: then the row stays until that is done.
    """

    row: OutboxRow
    onward: bool

    @property
    def only(self) -> str | None:
        """The run whose wait refused the event before: it alone is offered it, whether it had it before or not."""
        return None if wait_in(self.row.error) is None else self.row.run_id

    def admitted(self, *, stays: bool = False) -> OutboxMove:
        """Return what becomes of the row with the event's admission; it `stays` if somebody is to be told of that."""
        row = self.row
        mark = OutboxMark(True, row.attempts, row.error) if self.onward or stays else None
        return OutboxMove(row.seq, row.version, mark)

    def refused(self, verdict: str, reason: str, now: float) -> OutboxMove:
        """Return what becomes of the row if somebody who was to get the event refuses it: a dead letter."""
        row = self.row
        error = error_text(verdict, reason, None, wait_in(row.error))
        return OutboxMove(row.seq, row.version, OutboxMark(False, row.attempts + 1, error, now))


def error_text(type: str, message: str, code: str | None, wait: str | None = None) -> str:
    """Return the JSON text of an outbox row's error; `wait`: the one that refused it."""
    of_wait = {} if wait is None else {"wait": wait}
    return dump({"type": type, "message": message, "code": code, **of_wait})


def wait_in(error: str | None) -> str | None:
    """Return the wait that refused an event, by the error of its row; None if it was no wait."""
    return None if error is None else load(error).get("wait")


class OutboxQuery(NamedTuple):
    """Selects rows of the outbox, by their numbers.

    Attributes:
        run_id: only those of this run.
        dead: the dead letters; otherwise what is still to be delivered.
        after: only rows with a larger number.
        limit: how many.
    """

    run_id: str | None = None
    dead: bool = False
    after: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a step emitted and that could not be delivered, or that a trigger or a wait refused.

    Attributes:
        id: names it for `replay`.
        event: what was emitted or held; its own id stays the same when it is replayed. Of a batch the last event, with
            the payload `{"events": [...]}`.
        run_id: the run that emitted it, or whose wait refused it; "" if a trigger held it.
        attempts: how many deliveries failed.
        error: type and message of the last failure.
        code: code of that error; None for errors that are not Poundlock's.
        time: when it was given up, in seconds since 1970.
        held_by: "workflow/trigger" that held it; None for what a step emitted.
        wait: the wait of the run that refused it: a replay offers it to that run only; None if the run emitted it.
        secrets: texts that are hidden when it is shown.
    """

    id: str
    event: Event
    run_id: str
    attempts: int
    error: str
    code: str | None
    time: float
    held_by: str | None = None
    wait: str | None = None
    secrets: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        """Return its fields as text."""
        return told(self, None, self.secrets, leaving="secrets")

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return concealed(self._data(), set(self.secrets))  # type: ignore[no-any-return]  # a dict in, a dict out

    def _data(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "event": {
                "id": self.event.id,
                "type": self.event.type,
                "source": self.event.source,
                "key": self.event.key,
                "payload": plain(self.event.payload),
            },
            "run_id": self.run_id,
            "attempts": self.attempts,
            "error": self.error,
            "code": self.code,
            "time": utc_text(self.time),
            "held_by": self.held_by,
            "wait": self.wait,
        }
