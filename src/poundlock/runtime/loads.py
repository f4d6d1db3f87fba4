"""Loads as this process sees them, including changes in flight: see `lines.py`.

The token of a load after a commit is known beforehand (`Token.next`), so decisions line up behind it. The token also
changes in ways this process cannot predict: an event, an answer or a claim gives a run its slot again. Then the line is
broken: a thousand refused decisions form one new line, concurrently, and are repeated in one more sync, not in a
thousand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from poundlock.model.changes import RunCreate, Token
from poundlock.model.modes.decisions import Load
from poundlock.model.runs import RunRecord
from poundlock.ports import Store
from poundlock.runtime.lines import Line, Lines

Pair = tuple[str, str]
"""(workflow id, partition key)"""
Seen = tuple[Load, Token | None]
"""A load and its token; an idle one has none."""


class LoadDesk(Lines[Pair, Seen]):
    """Returns the load to decide on."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.read_loads)
        self.turn = asyncio.Lock()
        """Held by a decision that was refused too often with others, and is now made alone."""
        self.deciding: dict[tuple[str, str], asyncio.Future[None] | None] = {}
        """Events that are being decided, by source and id; the future is for further copies of the event, if any."""
        self._tails: dict[Pair, RunRecord] = {}
        """By pair in flight: the run queued last, which the store may not know yet."""

    def moved(self, loads: Mapping[Pair, Seen]) -> bool:
        """Whether a load that was read is known to be outdated: a decision on it would be refused."""
        lines = self._lines
        if not lines:
            return False
        for pair, (_, token) in loads.items():  # the loads themselves are as they will be after the decision
            line = lines.get(pair)
            if line is not None and (line.broken or line.value[1] != token):
                return True
        return False

    def submitted(
        self, pair: Pair, load: Load, token: Token | None, queued: RunCreate | None = None
    ) -> Line[Pair, Seen]:
        """Record a change that is about to be committed; pass the result to `settled`.

        Args:
            pair: whose load.
            load: the load after the change.
            token: its token then.
            queued: the run that the change puts at the end of the queue.
        """
        if queued is not None:
            self._tails[pair] = queued.record
        return self.join(pair, (load, None if load.idle else token))

    def settled(self, line: Line[Pair, Seen], *, applied: bool) -> None:
        """Record that a submitted change is durable, or was refused."""
        super().settled(line, applied=applied)
        if self._tails and not line.in_flight:
            self._tails.pop(line.key, None)

    def queued_last(self, pair: Pair, run_id: str) -> RunRecord | None:
        """Return a run that is about to be queued, if it is the last one that this process submitted for the pair."""
        tail = self._tails.get(pair)
        return tail if tail is not None and tail.identity.run_id == run_id else None
