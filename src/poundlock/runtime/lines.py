"""What is stored under a key, as it will be once everything that this process has submitted is durable.

A commit takes a while to become durable, and what it leaves is known beforehand. So the next decision about the same
key need not wait: it is based on that, and is submitted behind the first. If one of them is refused, those behind it
are refused too; then nothing more joins the line, and all of them read the store again once it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Line(Generic[K, V]):
    """Changes of one key in flight, and what there is after the last of them.

    Without slots, because there is one for nearly every run: attributes that rarely change are class defaults.
    """

    value: V
    in_flight: int = 0
    broken: bool = False
    gone: asyncio.Future[None] | None = None
    """Done when none of its changes is in flight; created when first awaited."""

    def __init__(self, key: K) -> None:
        self.key = key


class Lines(Generic[K, V]):
    """The lines of one kind of stored values.

    Args:
        stored: reads values from the store.
    """

    def __init__(self, stored: Callable[[Sequence[K]], Awaitable[list[V]]]) -> None:
        self._stored = stored
        self._lines: dict[K, Line[K, V]] = {}

    def read(self, keys: Sequence[K]) -> Awaitable[list[V]]:
        """Return the value of each key, as it will be when everything submitted is durable.

        They are `AtHand` if the store has them at hand and nothing is in flight.
        """
        return self._read_behind(keys) if self._lines else self._stored(keys)

    async def _read_behind(self, keys: Sequence[K]) -> list[V]:
        lines = self._lines
        for key in keys:
            while (line := lines.get(key)) is not None and line.broken:
                await _gone(line)
        stored = dict(zip(keys, await self._stored(keys), strict=True))
        # Looked up after the await, to include what was submitted meanwhile.
        return [lines[key].value if key in lines else stored[key] for key in keys]

    async def quiet(self, key: K) -> None:
        """Return once nothing is in flight for a key."""
        while (line := self._lines.get(key)) is not None:
            await _gone(line)

    def join(self, key: K, value: V) -> Line[K, V]:
        """Record a change that is about to be committed, and what there is after it; pass the result to `settled`."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key)
        line.value = value
        line.in_flight += 1
        return line

    def settled(self, line: Line[K, V], *, applied: bool) -> None:
        """Record that a submitted change is durable, or was refused."""
        line.in_flight -= 1
        if not applied:
            line.broken = True
        if not line.in_flight:
            # Nothing joins a broken line, so no later line has taken its place before it is gone.
            del self._lines[line.key]
            if line.gone is not None and not line.gone.done():
                line.gone.set_result(None)


async def _gone(line: Line[K, V]) -> None:
    if line.gone is None:
        line.gone = asyncio.get_running_loop().create_future()
    await asyncio.shield(line.gone)
