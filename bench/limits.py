"""The limits: the same work by hand on bare asyncio and bare sqlite3, nothing else."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bench.workload import payload

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

    def __init__(self, path: Path) -> None:
        self.syncs = 0
        self._jobs: SimpleQueue[tuple[tuple[str, str], asyncio.Future[None]] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, args=(path,), daemon=True)
        self._thread.start()

    async def put(self, run_id: str, state: str) -> None:
        """Store a state durably."""
        done = self._loop.create_future()
        self._jobs.put(((run_id, state), done))
        await done

    def close(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self, path: Path) -> None:
        connection = connect(path)
        while True:
            batch = [self._jobs.get()]
            while not self._jobs.empty():
                batch.append(self._jobs.get())
            rows = [job for job in batch if job is not None]
            if rows:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?)", [row for row, _ in rows])
                connection.execute("COMMIT")
                self.syncs += 1
                self._loop.call_soon_threadsafe(_resolve, [future for _, future in rows])
            if len(rows) < len(batch):
                connection.close()
                return


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


def connect(path: Path) -> sqlite3.Connection:
    """Open a file as the runtime does: WAL, synchronous FULL."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, state TEXT)")
    return connection


async def durable(path: Path, runs: int, at_once: int) -> int:
    """Three steps per run, the state written durably after each; returns the syncs."""
    writer = Writer(path)

    async def work(first: int) -> None:
        for number in range(first, runs, at_once):
            state = payload(number)
            for step in STEPS:
                state |= await step(state)
                await writer.put(f"{at_once}-{number}", json.dumps(state))

    await asyncio.gather(*(work(first) for first in range(at_once)))
    writer.close()
    return writer.syncs


async def durable_pauses(path: Path, rounds: int, at_once: int) -> int:
    """One durable write to park and one to resume; returns the syncs."""
    writer = Writer(path)

    async def work(first: int) -> None:
        for number in range(first, rounds, at_once):
            state = payload(number) | await reserve(payload(number))
            await writer.put(f"p{at_once}-{number}", json.dumps(state))
            state |= {"by": "bench"}
            await writer.put(f"p{at_once}-{number}", json.dumps(state))

    await asyncio.gather(*(work(first) for first in range(at_once)))
    writer.close()
    return writer.syncs
