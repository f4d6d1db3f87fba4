"""Test doubles for what lies between a runtime and its store."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable

from poundlock import WorkflowRuntime
from poundlock.model.changes import Changes, Committed
from poundlock.stores import MemoryStore
from poundlock.stores.sqlite import SqliteStore


class Held:
    """A commit that waits for the test to let it on."""

    def __init__(self, changes: Changes, after: bool):
        self.changes = changes
        self.after = after
        self._verdict: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def release(self):
        self._verdict.set_result(None)

    def fail(self, error: Exception):
        self._verdict.set_exception(error)

    async def wait(self):
        await self._verdict


class GatedStore:
    """A Store around a real one whose commits a test may hold, let go in any order, make fail, or end the world at.

    Attributes:
        commits: how many commits were asked for; claims that took a run over count as well.
        hold: which changes are held, before the real store sees them (`hold`) or after it wrote them (`hold_after`).
        failing: commit number to the error it raises instead of being written.
        crash: (number, "before" | "after"): from there on nothing is written and nobody gets an answer.
    """

    def __init__(self, inner):
        self.inner = inner
        self.commits = 0
        self.written: list[Changes] = []
        self.hold: Callable[[Changes], bool] | None = None
        self.hold_after: Callable[[Changes], bool] | None = None
        self.held: list[Held] = []
        self.failing: Callable[[int, Changes], Exception | None] = lambda _number, _changes: None
        self.crash: tuple[int, str] | None = None
        self.dead = False
        self.crashed = asyncio.Event()

    @property
    def store_id(self):
        return self.inner.store_id

    @property
    def durability(self):
        return self.inner.durability

    @property
    def size(self):
        return self.inner.size

    async def open(self, worker):
        await self.inner.open(worker)

    async def close(self):
        if not self.dead:
            await self.inner.close()

    async def commit(self, changes: Changes) -> Committed:
        await self._alive()
        self.commits += 1
        number = self.commits
        error = self.failing(number, changes)
        if error is not None:
            raise error
        if self.hold is not None and self.hold(changes):
            await self._hold(changes, after=False)
        await self._dies(number, "before")
        committed = await self.inner.commit(changes)
        self.written.append(changes)
        await self._dies(number, "after")
        if self.hold_after is not None and self.hold_after(changes):
            await self._hold(changes, after=True)
        return committed

    async def claim(self, worker, workflows, now, limit):
        await self._alive()
        self.commits += 1
        number = self.commits
        await self._dies(number, "before")
        claims = await self.inner.claim(worker, workflows, now, limit)
        await self._dies(number, "after")
        return claims

    async def _hold(self, changes, *, after):
        held = Held(changes, after)
        self.held.append(held)
        try:
            await held.wait()
        finally:
            self.held.remove(held)

    async def _dies(self, number, where):
        if self.crash == (number, where):
            self.die()
        await self._alive()

    def die(self):
        """Write nothing any more, and leave everybody who asks without an answer."""
        self.dead = True
        self.crashed.set()

    async def _alive(self):
        if self.dead:
            await asyncio.get_running_loop().create_future()

    def __getattr__(self, name):
        """Reads go straight through while the store is alive."""
        method = getattr(self.inner, name)

        async def call(*args):
            await self._alive()
            return await method(*args)

        return call

    async def until_held(self, count=1):
        """Return the held commits once there are `count` of them."""
        for _ in range(100_000):
            if len(self.held) >= count:
                return list(self.held)
            await asyncio.sleep(0)  # noqa: TID251 - only lets the runtime get there
        raise AssertionError(f"only {len(self.held)} commits are held")


class Stores:
    """One durable place, whatever the kind, and the stores and runtimes opened on it one after another."""

    def __init__(self, kind, folder, clock):
        self.kind = kind
        self.path = folder / "runs.db"
        self.clock = clock
        self._memory = MemoryStore()
        self._runtimes: list[WorkflowRuntime] = []

    def store(self) -> GatedStore:
        """Return a new store on the place; for memory always around the same one."""
        if self.kind == "memory":
            return GatedStore(self._memory)
        return GatedStore(SqliteStore(self.path, synchronous="OFF", clock=self.clock))

    async def enter(self, *workflows, store=None, **options) -> WorkflowRuntime:
        """Return a started runtime on the place; closed after the test."""
        runtime = WorkflowRuntime(*workflows, store=store or self.store(), clock=self.clock, **options)
        self._runtimes.append(runtime)
        return await runtime.__aenter__()

    async def crash(self, runtime):
        """End a runtime as SIGKILL would: it writes nothing more, and its store is free for the next one."""
        runtime.store.die()
        lifetime, core = runtime._lifetime, runtime._core
        lifetime._state = "stopped"
        core.accepting = False
        lifetime._pump.stop()
        lifetime.subscriptions.close()
        await core.join_tasks(cancel=True)
        core.stop_evicting()
        core.threads.close()
        core.waiters.close(RuntimeError("crashed"))
        await runtime.store.inner.close()

    async def close(self):
        for runtime in reversed(self._runtimes):
            store = runtime.store
            store.hold = store.hold_after = None
            store.failing = lambda _number, _changes: None
            for held in list(store.held):
                held.release()
            await runtime.stop(drain=0)


def parks(changes: Changes) -> bool:
    """Whether a commit parks a run."""
    return any(move.status == "paused" for move in changes.moves)


def ends(changes: Changes) -> bool:
    """Whether a commit ends a run."""
    return any(move.status.terminal for move in changes.moves) or any(
        create.head.status.terminal for create in changes.creates
    )


def rests(changes: Changes) -> bool:
    """Whether a commit parks, delays or ends a run."""
    return parks(changes) or ends(changes) or any(move.status == "delayed" for move in changes.moves)


def takes(changes: Changes) -> bool:
    """Whether a commit makes a run somebody else's: a resume by hand."""
    return any(move.new_epoch != move.epoch and move.status == "running" for move in changes.moves)


async def turns(count=20):
    """Let the event loop turn without any time passing."""
    for _ in range(count):
        await asyncio.sleep(0)  # noqa: TID251 - no time passes, others only get their turn


class BrokenCursor:
    """A writer's cursor that fails at one statement."""

    def __init__(self, cursor, statement, error, after=0):
        self.cursor = cursor
        self.statement = statement
        self.error = error
        self.after = after

    def execute(self, statement, values=()):
        if statement.startswith(self.statement):
            if self.after == 0:
                raise self.error
            self.after -= 1
        return self.cursor.execute(statement, values)

    def __getattr__(self, name):
        return getattr(self.cursor, name)


def sqlite_error(name):
    """Return an error as SQLite's own looks."""
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    return error
