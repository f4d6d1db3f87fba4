"""Test doubles for what lies between a runtime and its store."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from poundlock import WorkflowRuntime
from poundlock.model.changes import Changes, Committed, RunCreate, RunMove, Work
from poundlock.runtime.core import State
from poundlock.stores import MemoryStore
from poundlock.stores.sqlite import SqliteStore
from poundlock.testing import run_until_idle

LAST_RESORT = 600.0
"""Seconds after which what hangs is given up: it only bounds a hang, so no slow or busy machine may come near it."""


DONE = "done\n"
LINGERING = f"""
import sys
from poundlock.cli.main import main
try:
    main()
finally:
    print({DONE!r}, end="", flush=True)
    sys.stdin.read()
"""
"""A program that does what the command does, says so, and stays until it is killed: no kill can come too late."""


class Held:
    """A commit that waits for the test to let it on. Once it was let on it is no longer among the held ones."""

    def __init__(self, changes: Changes, after: bool, among: list[Held]):
        self.changes = changes
        self.after = after
        self._error: Exception | None = None
        self._judged = asyncio.Event()
        self._among = among
        among.append(self)

    def release(self):
        self._leave()
        self._judged.set()

    def fail(self, error: Exception):
        # Not a future's exception: nobody would retrieve it if whoever commits was cancelled meanwhile.
        self._error = error
        self.release()

    async def wait(self):
        try:
            await self._judged.wait()
        finally:
            self._leave()
        if self._error is not None:
            raise self._error

    async def settled(self):
        """Return once it was let on, or fails."""
        await self._judged.wait()

    def _leave(self):
        if self in self._among:
            self._among.remove(self)


def in_parts(work: Work) -> Changes:
    """Return a unit of work as Changes, so that a test can ask any of them what it creates and moves."""
    if isinstance(work, RunMove):
        return Changes(moves=(work,), now=work.updated_at)
    return Changes(creates=(work,), now=work.start.updated_at) if isinstance(work, RunCreate) else work


class GatedStore:
    """A Store around a real one whose commits a test may hold, let go in any order, make fail, or end the world at.

    Args:
        inner: the real one.
        clock: the VirtualClock that hears of the work of the real one's threads.

    Attributes:
        commits: how many commits were asked for; claims that took a run over count as well.
        hold: which changes are held, before the real store sees them (`hold`) or after it wrote them (`hold_after`).
        failing: commit number to the error it raises instead of being written.
        crash: (number, "before" | "after"): from there on nothing is written and nobody gets an answer.
    """

    def __init__(self, inner, clock=None):
        self.inner = inner
        self.clock = clock
        self.commits = 0
        self.written: list[Changes] = []
        self.hold: Callable[[Changes], bool] | None = None
        self.hold_after: Callable[[Changes], bool] | None = None
        self.held: list[Held] = []
        self._came = asyncio.Event()
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

    @property
    def undelivered(self):
        return self.inner.undelivered

    @property
    def holding(self):
        return self.inner.holding

    def adopt(self, clock):
        if hasattr(self.inner, "adopt"):
            self.inner.adopt(clock)

    def retain(self, receipts, unwanted):
        self.inner.retain(receipts, unwanted)

    async def open(self, worker):
        await self.inner.open(worker)

    async def close(self):
        if not self.dead:
            await self.inner.close()

    async def commit(self, work: Work) -> Committed:
        await self._alive()
        changes = in_parts(work)
        self.commits += 1
        number = self.commits
        error = self.failing(number, changes)
        if error is not None:
            raise error
        if self.hold is not None and self.hold(changes):
            await self._hold(changes, after=False)
        await self._dies(number, "before")
        committed = await self.inner.commit(work)
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
        held = Held(changes, after, self.held)
        self._came.set()
        await held.wait()

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

        async def call(*args, **options):
            await self._alive()
            return await method(*args, **options)

        return call

    async def until_held(self, count=1):
        """Return the held commits once there are `count` of them; fail as soon as nobody is left who could come."""
        while len(self.held) < count:
            self._came.clear()
            if not await happens(self._came.wait(), self.clock) and len(self.held) < count:
                raise AssertionError(f"everything is idle, and {len(self.held)} of {count} commits are held")
        return list(self.held)


class OrderedStore(GatedStore):
    """Says that everything is written only when no earlier commit is held any more, as the port has it."""

    async def written_behind(self):
        for held in [*self.held]:
            await held.settled()
        await self._alive()
        await self.inner.written_behind()


class Stores:
    """One durable place, whatever the kind, and the stores and runtimes opened on it one after another."""

    def __init__(self, kind, folder, clock, wrapper=GatedStore):
        self.kind = kind
        self.wrapper = wrapper
        self.path = folder / "runs.db"
        self.clock = clock
        self._memory = MemoryStore()
        self._runtimes: list[WorkflowRuntime] = []

    def store(self) -> GatedStore:
        """Return a new store on the place; for memory always around the same one."""
        if self.kind == "memory":
            return self.wrapper(self._memory, self.clock)
        return self.wrapper(SqliteStore(self.path, synchronous="OFF", clock=self.clock), self.clock)

    async def enter(self, *workflows, store=None, **options) -> WorkflowRuntime:
        """Return a started runtime on the place; closed after the test."""
        runtime = WorkflowRuntime(*workflows, store=store or self.store(), clock=self.clock, **options)
        self._runtimes.append(runtime)
        return await runtime.__aenter__()

    async def crash(self, runtime):
        """End a runtime as SIGKILL would: it writes nothing more, and its store is free for the next one."""
        runtime.store.die()
        lifetime, core = runtime._lifetime, runtime._core
        core.move_to(State.STOPPED)
        lifetime._times.stop()
        lifetime._poller.stop()
        lifetime._holds.stop()
        lifetime._outbox.stop()
        lifetime.subscriptions.close()
        await lifetime._end_tasks()
        core.runs.close()
        core.threads.close()
        if core._processes is not None:
            await core._processes.close(LAST_RESORT)
        core.waiters.close(RuntimeError("crashed"))
        core.watch.close()
        await runtime.store.inner.close()

    async def close(self):
        for runtime in reversed(self._runtimes):
            store = runtime.store
            store.hold = store.hold_after = None
            store.failing = lambda _number, _changes: None
            for held in list(store.held):
                held.release()
            if not store.dead:
                await runtime.stop(drain=0)
            elif runtime._core.state is not State.STOPPED:
                await self.crash(runtime)


async def until_crash(store: GatedStore, work) -> bool:
    """Run a coroutine until it ends or its store dies, and tell whether it ended.

    What it raises while the store is alive is raised; after a crash nobody is there to hear it.
    """
    working = asyncio.create_task(work)
    crashed = asyncio.create_task(store.crashed.wait())
    await asyncio.wait([working, crashed], return_when=asyncio.FIRST_COMPLETED)
    over = not store.dead
    if over:
        await working
    working.cancel()
    crashed.cancel()
    await asyncio.wait([working, crashed])
    return over


def parks(changes: Changes) -> bool:
    """Whether a commit parks a run."""
    return any(move.status == "paused" for move in changes.moves)


def ends(changes: Changes) -> bool:
    """Whether a commit ends a run."""
    return any(move.status.terminal for move in changes.moves) or any(
        create.start.status.terminal for create in changes.creates
    )


def rests(changes: Changes) -> bool:
    """Whether a commit parks, delays or ends a run."""
    return parks(changes) or ends(changes) or any(move.status == "delayed" for move in changes.moves)


def takes(changes: Changes) -> bool:
    """Whether a commit makes a run somebody else's: a resume by hand."""
    return any(move.new_epoch != move.epoch and move.status == "running" for move in changes.moves)


def unmeasured(environment=os.environ):
    """Return an environment for a child that gets killed or has no room to write.

    Coverage would not be measured in it: it would only leave a half-written file behind, and a warning about that.
    """
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE_PROCESS_")}


async def run_workload(module, *words, said="", environment=None) -> int:
    """Run one of the programs of the tests until it ends or is killed; returns the exit code.

    Args:
        module: the program, as a module; it can import what is beside it.
        words: its arguments.
        said: put before what it wrote, if it fails.
        environment: default: `unmeasured()`.
    """
    path = os.pathsep.join(filter(None, [str(Path(module.__file__).parent), os.environ.get("PYTHONPATH")]))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        module.__file__,
        *map(str, words),
        env={**(unmeasured() if environment is None else environment), "PYTHONPATH": path},
        stderr=asyncio.subprocess.PIPE,
    )
    _, written = await process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise AssertionError(f"{said}\n{written.decode()}")
    return process.returncode


async def happens(event, clock=None):
    """Wait for an awaitable, and tell whether it ended before everything was idle; the clock makes no jump."""
    awaited = asyncio.ensure_future(event)
    idle = asyncio.create_task(run_until_idle(clock))
    try:
        done, _ = await asyncio.wait({awaited, idle}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (awaited, idle):
            task.cancel()
    if awaited in done:
        awaited.result()
        return True
    idle.result()
    return False


def give_up_hanging():
    """Cancel all tasks of this loop after the last resort: a promise that is not kept must fail, not hang."""
    return asyncio.get_running_loop().call_later(LAST_RESORT, lambda: [task.cancel() for task in asyncio.all_tasks()])


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
