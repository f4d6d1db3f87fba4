"""A parked run in memory: as little as it takes to show it, and to go on without reading its row.

At first the run itself is kept: most runs that go on within their pause window do so soon, and to make one again costs
4 % of a pause and its resumption. When enough others have come after it, `shrink` turns it into its checkpoint,
with what is large in it as text. All that it had in memory besides, such as its plan and its journal, is gone then, and
it goes on as from its row.
"""

from __future__ import annotations

from typing import Any

from poundlock.codecs import dump, encode, load
from poundlock.model.buffers import WaitRules, read_tally
from poundlock.model.conditions import Condition
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import Checkpoint, Message, RunHead, RunRecord, WaitRow
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.writing import checkpoint_of, head_of
from poundlock.runtime.entries import Registered
from poundlock.runtime.phases import Phase


class ParkedRun:
    """A run that is paused or delayed, within its pause window.

    Args:
        entry: its workflow.
        run: as its last commit left it.

    Attributes:
        entry: its workflow.
        exported: what its services exported.
        early: the messages that came after its last commit, until now.
        kept: the run itself; None once it was turned into text.
    """

    __slots__ = (
        "_head",
        "_inbox",
        "_log_size",
        "_rest",
        "_seen",
        "_snapshot_size",
        "_state",
        "_waits",
        "early",
        "entry",
        "exported",
        "identity",
        "kept",
    )

    phase = Phase.PARKED
    alive = False

    def __init__(self, entry: Registered, run: ActiveRun) -> None:
        self.entry = entry
        self.identity = run.identity
        self.exported = run.exported
        self.early: tuple[Message, ...] = ()
        self.kept: ActiveRun | None = run
        self._seen = run.inbox_seen
        for message in run.inbox:
            self.deliver(message)
        run.inbox.clear()

    @property
    def head(self) -> RunHead:
        """What its last commit says of it."""
        return self._head if self.kept is None else head_of(self.kept)

    @property
    def status(self) -> RunStatus:
        """Paused or delayed."""
        return self._head.status if self.kept is None else self.kept.status

    @property
    def waits(self) -> tuple[WaitRow, ...]:
        """What it waits for."""
        if self.kept is not None:
            return self.kept.stored_waits
        return tuple([_wait(*parts) for parts in load(self._waits)])

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages that it has not used."""
        before = self._inbox if self.kept is None else self.kept.buffer
        return (*before, *self.early)

    def deliver(self, message: Message) -> None:
        """Add a message that has become durable, unless the run had read it before it was parked."""
        if message.seq > self._seen:
            self.early = (*self.early, message)

    def shrink(self) -> None:
        """Keep only the checkpoint, and what is large in it as text; what others read stays the same.

        Raises:
            Exception: what the code raises that encodes values of a registered type; nothing was changed.
        """
        if self.kept is None:
            return
        (_, head, waits), state, event, inbox, log_size, snapshot_size = checkpoint_of(self.kept)
        # Encoded one by one, because each may nest as deep as data can.
        armed = dump([_of_wait(wait) for wait in waits])
        payload, headers = dump(event.payload), dump(dict(event.headers)) if event.headers else "{}"
        about = encode([event.type, event.id, event.time, event.source, event.key])
        self._state = dump(state)
        self._waits, self._rest = armed, f"[{payload},{headers},{about}]"
        self._inbox, self._log_size, self._snapshot_size = inbox, log_size, snapshot_size
        self._head, self.kept = head, None

    def checkpoint(self) -> Checkpoint:
        """Return its checkpoint, as the store had it after its last commit; it must not be changed."""
        if self.kept is not None:
            return checkpoint_of(self.kept)
        payload, headers, (kind, event_id, time, source, key) = load(self._rest)
        event = Event.trusted(kind, payload, id=event_id, time=time, source=source, key=key, headers=headers)
        return Checkpoint(self.record(), load(self._state), event, self._inbox, self._log_size, self._snapshot_size)

    def record(self) -> RunRecord:
        """Return its record, for those who list runs: they need neither the state nor the event."""
        return RunRecord(self.identity, self.head, self.waits)


def _of_wait(wait: WaitRow) -> list[Any]:
    """Return a wait as data."""
    (
        wait_id,
        epoch,
        parked,
        events,
        where,
        correlate,
        *rest,
        patch,
        keys,
        leads_to,
        early,
        rules,
        at,
        question,
        tally,
    ) = wait
    conditions = [[condition.field, condition.op, condition.value] for condition in where]
    # Lists, because then the codec's fast way has nothing to object to.
    lists = [list(events), conditions, list(map(list, correlate))]
    counting = [None if rules is None else list(rules), at, question, None if tally is None else tally.to_data()]
    return [wait_id, epoch, parked, *lists, *rest, patch, list(keys), list(map(list, leads_to)), early, *counting]


def _wait(
    wait_id: str,
    epoch: int,
    parked: bool,
    events: list[str],
    where: list[list[Any]],
    correlate: list[list[Any]],
    resume_at: str | None,
    on_timeout: str,
    expires_at: float | None,
    patch: Any,
    keys: list[str],
    leads_to: list[list[str]],
    early: bool,
    rules: list[Any] | None,
    asked_at: int | None,
    question: int,
    tally: list[Any] | None,
) -> WaitRow:
    """Return the wait of such data."""
    return WaitRow(
        wait_id,
        epoch,
        parked,
        tuple(events),
        tuple([Condition(*parts) for parts in where]),
        tuple([(path, value) for path, value in correlate]),
        resume_at,
        on_timeout,
        expires_at,
        patch,
        tuple(keys),
        tuple([(event, stage) for event, stage in leads_to]),
        early,
        None if rules is None else WaitRules(*rules),
        asked_at,
        question,
        read_tally(tally),
    )
