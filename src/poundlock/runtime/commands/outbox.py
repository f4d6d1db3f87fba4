"""Delivering what is in the outbox now, and delivering dead letters again."""

from __future__ import annotations

from collections.abc import Sequence

from poundlock.errors import InvalidDefinition
from poundlock.guard import repr_of
from poundlock.records import dataclass
from poundlock.runtime.core import Core
from poundlock.runtime.dead_letters import replay, replay_all


@dataclass(frozen=True, slots=True)
class FlushOutbox:
    """Deliver what runs have emitted without waiting for the next attempt, such as after a broker is back.

    An event that fails again has one attempt less before it is a dead letter, and later ones of its run wait for it.
    What an earlier runtime has left, and no workflow wants yet, goes on waiting for one.
    """


async def flush_outbox(core: Core, _command: FlushOutbox) -> int:
    """Handle `FlushOutbox`: returns once each run's events are delivered as far as they can be, and how many are left.

    Raises:
        RuntimeStopped: the runtime stops meanwhile; the next one delivers the rest.
    """
    await core.flush()
    return core.store.undelivered[0]


@dataclass(frozen=True, slots=True)
class ReplayDeadLetters:
    """Have dead letters delivered again; each event keeps its id.

    Attributes:
        ids: which ones; None: all that there are now, except those of triggers that are not registered here.
    """

    ids: Sequence[str] | None = None


async def replay_dead_letters(core: Core, command: ReplayDeadLetters) -> int:
    """Handle `ReplayDeadLetters`: returns how many are delivered again, once that is durable; before they are.

    Raises:
        DeadLetterNotFound: one of `ids` is none, or another call was quicker; those before it are delivered again.
        NotRegistered: the same for one that a trigger held which is not registered here.
        InvalidDefinition: `ids` is not a list.
    """
    if command.ids is None:
        return await replay_all(core)
    if isinstance(command.ids, str) or not isinstance(command.ids, Sequence):
        raise InvalidDefinition(f"ids is {repr_of(command.ids, 60)}: give a list of ids, or None for all", path="ids")
    for letter_id in dict.fromkeys(command.ids):
        await replay(core, letter_id)
    return len(set(command.ids))
