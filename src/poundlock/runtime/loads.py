"""Loads as this process sees them, changes that are on their way included.

A commit takes a while to become durable, and the token after it is known beforehand (`Token.next`). So the next
decision about the same workflow and key need not wait: it is made on the load as it will be, and lined up behind. If
an earlier change is refused, those behind it are too (`LoadMoved`) and decide again on what is really there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from poundlock.model.changes import Token
from poundlock.model.modes.decisions import Load
from poundlock.ports import Store

Pair = tuple[str, str]
"""(workflow id, partition key)"""


class _Ahead:
    __slots__ = ("in_flight", "load", "token")

    def __init__(self) -> None:
        self.load = Load()
        self.token: Token | None = None
        self.in_flight = 0


class LoadDesk:
    """Answers which load to decide on."""

    def __init__(self, store: Store) -> None:
        self.turn = asyncio.Lock()
        """Held by whoever decides again because somebody was quicker, so that the others of this process wait."""
        self._store = store
        self._ahead: dict[Pair, _Ahead] = {}

    async def read(self, pairs: Sequence[Pair]) -> list[tuple[Load, Token | None]]:
        """Return the load and token of each pair, as they will be when everything submitted is durable."""
        ahead = self._ahead
        if not ahead:
            return await self._store.read_loads(pairs)
        stored = dict(zip(pairs, await self._store.read_loads(pairs), strict=True))
        # Looked up after the await: what was submitted meanwhile counts as well.
        return [(ahead[pair].load, ahead[pair].token) if pair in ahead else stored[pair] for pair in pairs]

    def submitted(self, pair: Pair, load: Load, token: Token) -> None:
        """Note a change that is about to be committed."""
        entry = self._ahead.get(pair)
        if entry is None:
            entry = self._ahead[pair] = _Ahead()
        entry.load = load
        entry.token = None if load.idle else token
        entry.in_flight += 1

    def settled(self, pair: Pair, *, applied: bool) -> None:
        """Note that a submitted change is durable, or was refused."""
        entry = self._ahead.get(pair)
        if entry is None:
            return
        entry.in_flight -= 1
        if not applied or not entry.in_flight:
            del self._ahead[pair]
