"""Dead letters: events that could not be delivered, as they are listed, and how they are delivered again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from poundlock.codecs import load
from poundlock.errors import DeadLetterNotFound, NotRegistered, OutboxMoved
from poundlock.model.changes import Changes, Committed
from poundlock.model.events import Event
from poundlock.model.hiding import noted_masks
from poundlock.model.outbox import DeadLetter, HeldBy, OutboxMark, OutboxMove, OutboxQuery, OutboxRow, wait_in
from poundlock.model.timeline import read_entries
from poundlock.ports import Store
from poundlock.runtime.core import Core
from poundlock.runtime.dispatch import masks_of
from poundlock.sensitive import Mask, Masks, texts_at

_PAGE: Final = 256
_EVERYTHING: Final[Masks] = (Mask(whole=True),)
"""In place of the masks of a workflow that is not known: any value may be a sensitive one."""


async def letters_of(
    store: Store,
    limit: int,
    after: str | None,
    known: Callable[[str, str], Masks | None] = lambda _workflow, _pipeline: None,
) -> list[DeadLetter]:
    """Return dead letters, in the order in which they were emitted.

    Args:
        store: where they are.
        limit: how many at most.
        after: the id of a dead letter: only those behind it.
        known: returns where sensitive values are in a pipeline's runs, besides what their timelines say; None if the
            workflow is not known here.
    """
    rows = await store.outbox(OutboxQuery(dead=True, after=_number(after) if after else 0, limit=limit))
    return [replace(_letter(row), secrets=frozenset(await _secrets(store, row, known))) for row in rows]


async def _secrets(store: Store, row: OutboxRow, known: Callable[[str, str], Masks | None]) -> set[str]:
    """Return the texts that may not be shown: of the run that emitted an event or refused it, or of its trigger."""
    if row.held_by is not None:
        held = known(row.held_by.workflow_id, row.held_by.trigger_id)
        return texts_at(row.event.payload, _EVERYTHING if held is None else held)
    checkpoint = await store.checkpoint(row.run_id)
    if checkpoint is None:  # nothing says any more what was hidden in its state
        return texts_at(row.event.payload, _EVERYTHING)
    identity = checkpoint.record.identity
    masks = noted_masks(read_entries(await store.history(row.run_id, None, 0, 1)))
    masks = (*masks, *(known(identity.workflow_id, identity.pipeline_id) or ()))
    return {
        text
        for data in (checkpoint.state, checkpoint.event.payload, row.event.payload)
        for text in texts_at(data, masks)
    }


async def dead_letters(core: Core, limit: int, after: str | None) -> list[DeadLetter]:
    """Return dead letters of this runtime's store; hides what the registered workflows mark, too."""

    def known(workflow_id: str, name: str) -> Masks | None:
        """Name: of a pipeline, or of the trigger that held an event."""
        entry = core.entries.get(workflow_id)
        if entry is None:
            return None
        trigger = entry.definition.triggers.get(name)
        return masks_of(
            entry, name if name in entry.plans or trigger is None else entry.definition.pipeline_of(trigger)
        )

    return await letters_of(core.store, limit, after, known)


def _letter(row: OutboxRow) -> DeadLetter:
    error = load(row.error or "{}")
    said = f"{error.get('type')}: {error.get('message')}"
    event: Event = row.event.detached()
    held_by = None if row.held_by is None else f"{row.held_by.workflow_id}/{row.held_by.trigger_id}"
    code, dead_at = error.get("code"), row.dead_at or 0.0
    return DeadLetter(str(row.seq), event, row.run_id, row.attempts, said, code, dead_at, held_by, error.get("wait"))


async def replay(core: Core, letter_id: str) -> None:
    """Have a dead letter delivered again, as the same event.

    Raises:
        DeadLetterNotFound: there is none of this id.
        NotRegistered: a trigger held it that is not registered here; it stays a dead letter.
    """
    row = await letter_row(core.store, letter_id)
    if row.held_by is not None and core.index.find(row.held_by.workflow_id, row.held_by.trigger_id) is None:
        raise not_here(row.held_by)
    await revive(core.commit, row, core.clock.now())
    core.deliver(row.run_id)


async def replay_all(core: Core) -> int:
    """Have all dead letters that there are now delivered again; returns how many.

    Those that a trigger held which is not registered here stay, and so do those that another call replays.
    """
    left, after, replayed = core.store.undelivered[1], 0, 0  # no more: one may become a dead letter again meanwhile
    while left > 0 and (rows := await core.store.outbox(OutboxQuery(dead=True, after=after, limit=min(left, _PAGE)))):
        left -= len(rows)
        after = rows[-1].seq
        for row in rows:
            if row.held_by is not None and core.index.find(row.held_by.workflow_id, row.held_by.trigger_id) is None:
                continue
            try:
                await revive(core.commit, row, core.clock.now())
            except DeadLetterNotFound:
                continue
            replayed += 1
            core.deliver(row.run_id)
    return replayed


async def letter_row(store: Store, letter_id: str) -> OutboxRow:
    """Return the row of a dead letter.

    Raises:
        DeadLetterNotFound: there is none of this id.
    """
    seq = _number(letter_id)
    rows = await store.outbox(OutboxQuery(dead=True, after=seq - 1, limit=1))
    if not rows or rows[0].seq != seq:
        raise _unknown(letter_id)
    return rows[0]


async def revive(commit: Callable[[Changes], Awaitable[Committed]], row: OutboxRow, now: float) -> None:
    """Have a dead letter be delivered again, by whoever delivers.

    Raises:
        DeadLetterNotFound: another call was quicker.
    """
    # Which wait has refused it says who is offered it again.
    mark = OutboxMark(row.admitted, 0, None if wait_in(row.error) is None else row.error)
    try:
        await commit(Changes(outbox=(OutboxMove(row.seq, row.version, mark),), now=now))
    except OutboxMoved:
        raise _unknown(str(row.seq)) from None


def _number(letter_id: str) -> int:
    if isinstance(letter_id, str) and letter_id.isdecimal() and letter_id.isascii():
        return int(letter_id)
    raise _unknown(letter_id)


def _unknown(letter_id: object) -> DeadLetterNotFound:
    return DeadLetterNotFound(
        f"there is no dead letter {letter_id!r:.60}: it was replayed already, or never existed; "
        f"`await runtime.dead_letters()` lists what there is"
    )


def not_here(held_by: HeldBy) -> NotRegistered:
    """Return the error for a dead letter whose trigger is not registered."""
    return NotRegistered(
        f"trigger '{held_by.trigger_id}' of workflow '{held_by.workflow_id}', which held this event, is not registered "
        f"here: register the workflow, then replay it",
        workflow_id=held_by.workflow_id,
        trigger_id=held_by.trigger_id,
    )
