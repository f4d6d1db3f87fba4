"""Loads as this process sees them, including changes in flight.

A commit takes a while to become durable, and the token after it is known beforehand (`Token.next`). So the next
decision about the same workflow and key need not wait: it uses the future load, and is submitted behind the first.

The token also changes in ways this process cannot predict: an event, an answer or a claim gives a run its slot again.
Then the line is broken: decisions behind it are refused (`LoadMoved`), and nothing more joins it. Refused decisions,
and new ones, wait until the whole line is durable or refused, read the store again and form a new line, concurrently:
so a thousand refused decisions are repeated in one more sync, not in a thousand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

from poundlock.model.changes import RunCreate, Token
from poundlock.model.modes.decisions import Load
from poundlock.model.runs import RunRecord
from poundlock.ports import Store

Pair = tuple[str, str]
"""(workflow id, partition key)"""


class Line:
    """Changes of one pair in flight, and the load after the last of them.

    Without slots, because there is one for nearly every run: attributes that rarely change are class defaults.
    """

    load: Load
    token: Token | None
    in_flight: int = 0
    broken: bool = False
    gone: asyncio.Future[None] | None = None
    """Done when none of its changes is in flight; created when first awaited."""
    tail: RunRecord | None = None
    """The run queued last, which the store may not know yet."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair


class LoadDesk:
    """Returns the load to decide on."""

    def __init__(self, store: Store) -> None:
        self.turn = asyncio.Lock()
        """Held by a decision that was refused too often with others, and is now made alone."""
        self.deciding: dict[tuple[str, str], asyncio.Future[None] | None] = {}
        """Events that are being decided, by source and id; the future is for further copies of the event, if any."""
        self._store = store
        self._lines: dict[Pair, Line] = {}

    def read(self, pairs: Sequence[Pair]) -> Awaitable[list[tuple[Load, Token | None]]]:
        """Return the load and token of each pair, as they will be when everything submitted is durable.

        They are `AtHand` if the store has them at hand and nothing is in flight.
        """
        return self._read_behind(pairs) if self._lines else self._store.read_loads(pairs)

    async def _read_behind(self, pairs: Sequence[Pair]) -> list[tuple[Load, Token | None]]:
        lines = self._lines
        for pair in pairs:
            while (line := lines.get(pair)) is not None and line.broken:
                await _gone(line)
        stored = dict(zip(pairs, await self._store.read_loads(pairs), strict=True))
        # Looked up after the await, to include what was submitted meanwhile.
        return [(lines[pair].load, lines[pair].token) if pair in lines else stored[pair] for pair in pairs]

    def moved(self, loads: Mapping[Pair, tuple[Load, Token | None]]) -> bool:
        """Whether a load that was read is known to be outdated: a decision on it would be refused."""
        lines = self._lines
        if not lines:
            return False
        for pair, (_, token) in loads.items():
            line = lines.get(pair)
            if line is not None and (line.broken or line.token != token):
                return True
        return False

    def submitted(self, pair: Pair, load: Load, token: Token | None, queued: RunCreate | None = None) -> Line:
        """Record a change that is about to be committed; pass the result to `settled`.

        Args:
            pair: whose load.
            load: the load after the change.
            token: its token then.
            queued: the run that the change puts at the end of the queue.
        """
        line = self._lines.get(pair)
        if line is None:
            line = self._lines[pair] = Line(pair)
        line.load = load
        line.token = None if load.idle else token
        line.in_flight += 1
        if queued is not None:
            line.tail = queued.record
        return line

    def settled(self, line: Line, *, applied: bool) -> None:
        """Record that a submitted change is durable, or was refused."""
        line.in_flight -= 1
        if not applied:
            line.broken = True
        if not line.in_flight:
            # Nothing joins a broken line, so no later line has taken its place before it is gone.
            del self._lines[line.pair]
            if line.gone is not None and not line.gone.done():
                line.gone.set_result(None)

    def queued_last(self, pair: Pair, run_id: str) -> RunRecord | None:
        """Return a run that is about to be queued, if it is the last one that this process submitted for the pair."""
        line = self._lines.get(pair)
        tail = None if line is None else line.tail
        return tail if tail is not None and tail.identity.run_id == run_id else None


async def _gone(line: Line) -> None:
    if line.gone is None:
        line.gone = asyncio.get_running_loop().create_future()
    await asyncio.shield(line.gone)
