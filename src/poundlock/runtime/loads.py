"""Loads as this process sees them, changes that are on their way included.

A commit takes a while to become durable, and the token after it is known beforehand (`Token.next`). So the next
decision about the same workflow and key need not wait: it is made on the load as it will be, and lined up behind.

What nobody here can foresee moves a token too: an event, an answer or a claim that lets a run take its slot again. Then
the line is broken: decisions behind it are refused (`LoadMoved`). Nothing more joins a broken line. Who was refused,
and who comes meanwhile, waits until all of it is durable or refused, reads the store again and lines up anew, side by
side: so a thousand refused decisions are made again in one more sync, not in a thousand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from poundlock.model.changes import RunCreate, Token
from poundlock.model.modes.decisions import Load
from poundlock.model.runs import RunRecord
from poundlock.ports import Store

Pair = tuple[str, str]
"""(workflow id, partition key)"""


class Line:
    """Changes of one pair that are on their way, and the load after the last of them.

    Without slots, because there is one for nearly every run: what rarely changes is its class's.
    """

    load: Load
    token: Token | None
    in_flight: int = 0
    broken: bool = False
    gone: asyncio.Future[None] | None = None
    """Done when nothing of it is on its way any more; made if somebody waits for that."""
    tail: RunRecord | None = None
    """The run queued last, which the store may not know yet."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair


class LoadDesk:
    """Answers which load to decide on."""

    def __init__(self, store: Store) -> None:
        self.turn = asyncio.Lock()
        """Held by whoever was refused together with others too often, and now decides alone."""
        self.deciding: dict[tuple[str, str], asyncio.Future[None] | None] = {}
        """Events that are being decided, by source and id; the future is for other copies of the event, if any came."""
        self._store = store
        self._lines: dict[Pair, Line] = {}

    async def read(self, pairs: Sequence[Pair]) -> list[tuple[Load, Token | None]]:
        """Return the load and token of each pair, as they will be when everything submitted is durable."""
        lines = self._lines
        if not lines:
            return await self._store.read_loads(pairs)
        for pair in pairs:
            while (line := lines.get(pair)) is not None and line.broken:
                await _gone(line)
        stored = dict(zip(pairs, await self._store.read_loads(pairs), strict=True))
        # Looked up after the await: what was submitted meanwhile counts as well.
        return [(lines[pair].load, lines[pair].token) if pair in lines else stored[pair] for pair in pairs]

    def moved(self, loads: Mapping[Pair, tuple[Load, Token | None]]) -> bool:
        """Whether a load that was read is known to be another one by now: what was decided on it would be refused."""
        for pair, (_, token) in loads.items():
            line = self._lines.get(pair)
            if line is not None and (line.broken or line.token != token):
                return True
        return False

    def submitted(self, pair: Pair, load: Load, token: Token | None, queued: RunCreate | None = None) -> Line:
        """Note a change that is about to be committed; give what is returned to `settled`.

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
            line.tail = RunRecord(queued.identity, queued.head, queued.waits)
        return line

    def settled(self, line: Line, *, applied: bool) -> None:
        """Note that a submitted change is durable, or was refused."""
        line.in_flight -= 1
        if not applied:
            line.broken = True
        if not line.in_flight:
            # Nobody joins a broken line, so no later one has taken its place before it is gone.
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
