"""The floors: the least that does the same work by hand, one row per step. Ratios are taken to them.

The floor of W1 is `limits.in_memory`: the three step functions awaited in turn and their dicts merged. W2 and W3 are
bare `sqlite3` (WAL, FULL) with one row `(run, step, json.dumps(state))` per step and group commit: by a writer thread
for W2, on the loop's own thread for W3. No identity, timeline, queue, wait or check of anything.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

from bench.limits import STEPS, Writer, connect, reserve, ship
from bench.measure import at_once
from bench.workload import payload

TABLE = "CREATE TABLE IF NOT EXISTS log (run TEXT, step INTEGER, state TEXT, PRIMARY KEY (run, step)) WITHOUT ROWID"
INSERT = "INSERT INTO log VALUES (?, ?, ?)"
LAST = "SELECT state FROM log WHERE run = ? ORDER BY step DESC LIMIT 1"


class Durable:
    """Three steps per run, a row after each, committed in groups by a writer thread."""

    def __init__(self, path: Path, count: int) -> None:
        self._writer = Writer(path, TABLE, INSERT)
        self._count = count
        self._ids = map("run-{}".format, itertools.count())

    async def work(self, runs: int) -> None:
        """Do so many runs."""
        await at_once(self._count, runs, self._run)

    def close(self) -> None:
        """End the thread."""
        self._writer.close()

    async def _run(self, number: int) -> None:
        run, state = next(self._ids), payload(number)
        for index, step in enumerate(STEPS):
            state |= await step(state)
            await self._writer.put((run, index, json.dumps(state)))


class Pauses:
    """Park: a step and its row. Resume: read, merge the answer, its row, a step and its row. On the loop's thread."""

    def __init__(self, path: Path, count: int) -> None:
        self._connection = connect(path, TABLE)
        self._loop = asyncio.get_running_loop()
        self._group: list[tuple[str, int, str]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._count = count
        self._ids = map("run-{}".format, itertools.count())

    async def work(self, rounds: int) -> None:
        """Do so many round trips."""
        await at_once(self._count, rounds, self._round_trip)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    async def _round_trip(self, number: int) -> None:
        run, state = next(self._ids), payload(number)
        state |= await reserve(state)
        await self._put(run, 0, json.dumps(state))
        [(text,)] = self._connection.execute(LAST, (run,))
        state = json.loads(text) | {"by": "bench"}
        await self._put(run, 1, json.dumps(state))
        state |= await ship(state)
        await self._put(run, 2, json.dumps(state))

    def _put(self, run: str, step: int, state: str) -> asyncio.Future[None]:
        if not self._group:
            self._loop.call_soon(self._commit)  # behind everybody who is ready now: their rows join this group
        done = self._loop.create_future()
        self._group.append((run, step, state))
        self._waiting.append(done)
        return done

    def _commit(self) -> None:
        group, self._group, waiting, self._waiting = self._group, [], self._waiting, []
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(INSERT, group)
        self._connection.execute("COMMIT")
        for done in waiting:
            done.set_result(None)
