"""What triggers hold as this process sees it, including changes in flight, and whose turn it is to decide on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from poundlock.model.holds import Hold, HoldChange, HoldKey
from poundlock.ports import Store
from poundlock.runtime.lines import Lines


class HoldDesk(Lines[HoldKey, Hold | None]):
    """Returns the hold to decide on. Decisions on one hold are made in turn, and become durable together.

    A turn lasts until the decision is submitted. So a thousand events for one key do not refuse each other, and whoever
    ends a hold, or completes a batch, can wait until what is held is durable: nothing comes in between.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store.read_holds)
        self._turns: dict[HoldKey, tuple[asyncio.Lock, int]] = {}
        """By hold: its lock, and how many have it or wait for it."""

    async def turn(self, keys: Iterable[HoldKey]) -> Turn:
        """Wait for the turn to decide on these holds; it has to be given back."""
        turn = Turn(self)
        try:
            for key in sorted(set(keys)):  # in one order, so that no two wait for each other
                lock, users = self._turns.get(key) or (asyncio.Lock(), 0)
                self._turns[key] = (lock, users + 1)
                turn.wanted.append(key)
                await lock.acquire()
                turn.taken += 1
        except BaseException:
            turn.give_back()
            raise
        return turn

    def moved_since(self, changes: Sequence[HoldChange]) -> bool:
        """Whether a change is known to be refused, because of what was submitted since its hold was read."""
        lines = self._lines
        for change in changes if lines else ():
            line = lines.get(change.key)
            if line is not None and (line.broken or _token_of(line.value) != change.expect):
                return True
        return False

    def give_back(self, key: HoldKey, *, taken: bool) -> None:
        """Let the next one have its turn."""
        lock, users = self._turns[key]
        if taken:
            lock.release()
        if users == 1:
            del self._turns[key]
        else:
            self._turns[key] = (lock, users - 1)


class Turn:
    """The turn to decide on some holds. Giving it back twice does nothing."""

    def __init__(self, desk: HoldDesk) -> None:
        self._desk = desk
        self.wanted: list[HoldKey] = []
        self.taken = 0
        """How many of these it has; it waits for the others."""

    def give_back(self) -> None:
        """Let others decide."""
        for place, key in enumerate(self.wanted):
            self._desk.give_back(key, taken=place < self.taken)
        self.wanted.clear()
        self.taken = 0


def _token_of(hold: Hold | None) -> int | None:
    return None if hold is None else hold.token
