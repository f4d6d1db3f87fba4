"""The limits: the same work by hand on bare asyncio and bare sqlite3, a row per run that is replaced, no more."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bench.measure import at_once
from bench.workload import payload

TABLE = "CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, state TEXT)"
REPLACE = "INSERT OR REPLACE INTO runs VALUES (?, ?)"

Row = tuple[str | int, ...]
Step = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


async def reserve(state: dict[str, Any]) -> dict[str, Any]:
    """The first step, by hand."""
    return {"reserved": state["id"]}


async def price(state: dict[str, Any]) -> dict[str, Any]:
    """The second step, by hand."""
    return {"total": state["amount"] * 2}


async def ship(state: dict[str, Any]) -> dict[str, Any]:
    """The third step, by hand."""
    return {"shipped": f"parcel-{state['id']}"}


STEPS: tuple[Step, ...] = (reserve, price, ship)


async def in_memory(runs: int) -> None:
    """Three awaits and three merges per run."""
    for number in range(runs):
        state = payload(number)
        for step in STEPS:
            state |= await step(state)


class Writer:
    """A writer thread with group commit: what is queued while one transaction syncs joins the next."""

    def __init__(self, path: Path, table: str, insert: str) -> None:
        self._insert = insert
        self._jobs: SimpleQueue[tuple[Row, asyncio.Future[None]] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, args=(path, table), daemon=True)
        self._thread.start()

    def put(self, row: Row) -> asyncio.Future[None]:
        """Store a row; the answer is done when it is durable."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put((row, done))
        return done

    def close(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self, path: Path, table: str) -> None:
        connection = connect(path, table)
        while True:
            batch = [self._jobs.get()]
            while not self._jobs.empty():
                batch.append(self._jobs.get())
            rows = [job for job in batch if job is not None]
            if rows:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(self._insert, [row for row, _ in rows])
                connection.execute("COMMIT")
                self._loop.call_soon_threadsafe(_resolve, [future for _, future in rows])
            if len(rows) < len(batch):
                connection.close()
                return


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


def connect(path: Path, table: str) -> sqlite3.Connection:
    """Open a file as the runtime does, WAL and synchronous FULL, with this table in it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(table)
    return connection


class Durable:
    """Three steps per run, the state written durably after each."""

    def __init__(self, path: Path, count: int) -> None:
        self._writer = Writer(path, TABLE, REPLACE)
        self._count = count

    async def work(self, runs: int) -> None:
        """Do so many runs."""
        await at_once(self._count, runs, self._run)

    def close(self) -> None:
        """End the thread."""
        self._writer.close()

    async def _run(self, number: int) -> None:
        state = payload(number)
        for step in STEPS:
            state |= await step(state)
            await self._writer.put((f"{self._count}-{number}", json.dumps(state)))


class Pauses(Durable):
    """One durable write to park and one to resume."""

    async def _run(self, number: int) -> None:
        run, state = f"p{self._count}-{number}", payload(number)
        state |= await reserve(state)
        await self._writer.put((run, json.dumps(state)))
        state |= {"by": "bench"}
        await self._writer.put((run, json.dumps(state)))
