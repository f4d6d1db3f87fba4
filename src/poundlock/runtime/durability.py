"""Boundaries of workflows that do not wait for each of theirs: written behind, or not before the run rests.

House rules: a pause, a delay, an end, and what a run writes while it is undoing, are acknowledged whatever the
workflow's durability is. A run that was never stored is stored by an acknowledged commit. Order is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from poundlock.model.changes import RunCreate, RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import LogRow, RunResult
from poundlock.pipeline.active import ActiveRun, NewChild
from poundlock.pipeline.concluding import Driven
from poundlock.pipeline.memo import has_children
from poundlock.pipeline.runner import Progress
from poundlock.pipeline.writing import boundary_of, outgoing_of, take_commit
from poundlock.runtime.core import Core, State
from poundlock.runtime.healing import FAULTS, again, commit_again, notify
from poundlock.runtime.run_table import LiveRun

MOST_BEHIND: Final = 16
"""Boundaries of one run that are written behind at the same time; with more it waits."""


class Lagging(Progress, Protocol):
    """Boundaries that may not be durable when the run goes on."""

    async def written(self) -> None:
        """Return when all of them are durable that are to be; raises why one cannot be."""

    async def left(self) -> None:
        """Write what can still be written: the run is given up here."""


def lagging(core: Core, live: LiveRun, durable: Progress) -> Lagging:
    """Return where the boundaries of a run go that does not wait for each of them.

    Args:
        core: of the runtime.
        live: the run.
        durable: makes a boundary durable.
    """
    return Behind(core, live, durable) if live.run.plan.durability == "async" else AtRest(live, durable)


class _Passing:
    """Passes on what has nothing to do with boundaries."""

    def __init__(self, live: LiveRun, durable: Progress) -> None:
        self._live = live
        self._durable = durable

    async def resumed(self, run: ActiveRun) -> Driven | None:
        return await self._durable.resumed(run)

    def prepare(self, run: ActiveRun, children: Sequence[NewChild]) -> list[str]:
        return self._durable.prepare(run, children)

    async def child_at_rest(self, run_id: str, *, ended: bool) -> RunResult:
        return await self._durable.child_at_rest(run_id, ended=ended)

    async def abort_child(self, run_id: str, reason: str) -> None:
        await self._durable.abort_child(run_id, reason)

    async def start_run(self, run: ActiveRun, workflow_id: str, payload: Any, key: str) -> str:
        return await self._durable.start_run(run, workflow_id, payload, key)

    async def start_run_patiently(self, run: ActiveRun, workflow_id: str, payload: Any, key: str) -> str:
        return await self._durable.start_run_patiently(run, workflow_id, payload, key)


class Behind(_Passing):
    """Boundaries that are written while the run goes on, one after another."""

    def __init__(self, core: Core, live: LiveRun, durable: Progress) -> None:
        super().__init__(live, durable)
        self._core = core
        self._queue: deque[RunMove | RunCreate] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._room: asyncio.Future[None] | None = None

    def boundary(self, run: ActiveRun) -> Awaitable[None] | None:
        if self._error is not None:
            raise self._error
        if not run.written or run.undoing is not None:
            return self._acknowledged(run)
        self._live.open_gate()
        work = boundary_of(run, RunStatus.RUNNING)
        take_commit(run, work)  # what the next one builds on
        self._queue.append(work)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write(), name=f"write {run.run_id}")
        return self._enough() if len(self._queue) >= MOST_BEHIND else None

    async def midway(self, run: ActiveRun) -> None:
        await self.written()
        await self._durable.midway(run)

    async def history(self, run: ActiveRun) -> list[LogRow]:
        await self.written()
        return await self._durable.history(run)

    async def written(self) -> None:
        while self._writer is not None:
            await asyncio.wait([self._writer])
        if self._error is not None:
            raise self._error

    async def left(self) -> None:
        writer = self._writer
        if writer is None:
            return
        if self._core.state is State.STOPPED:  # the store is closed
            writer.cancel()
        else:
            await asyncio.wait([writer])

    async def _acknowledged(self, run: ActiveRun) -> None:
        await self.written()
        if (pending := self._durable.boundary(run)) is not None:
            await pending

    async def _enough(self) -> None:
        while len(self._queue) >= MOST_BEHIND:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        if self._error is not None:
            raise self._error

    async def _write(self) -> None:
        core, run = self._core, self._live.run
        try:
            while self._queue:
                work = self._queue[0]
                try:
                    await core.commit(work)
                except FAULTS as fault:
                    await again(
                        core,
                        fault,
                        partial(commit_again, core, work),
                        f"run '{run.run_id}'",
                        partial(notify, core, run),
                    )
                self._queue.popleft()
                self._wake()
                if outgoing_of(work):
                    run.supervision.sent(run.run_id)
        except BaseException as error:  # noqa: BLE001 - raised by the run, at its next boundary
            self._error = error
            self._queue.clear()
        finally:
            self._writer = None
            self._wake()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class AtRest(_Passing):
    """Boundaries that are not written: what they bring is part of the next pause, delay or end."""

    def boundary(self, run: ActiveRun) -> Awaitable[None] | None:
        if run.undoing is not None or run.returning:  # it is still at its wait
            return self._durable.boundary(run)
        if run.plan.durability == "none" and has_children(run.stored_waits) and not has_children(run.waits):
            return self._durable.boundary(run)  # else it would go on from its children after a kill, with what is ahead
        self._live.open_gate()
        run.registered = None  # they are armed
        if run.state_store is not None:
            run.state_store.adopt(run.state)
        return None

    async def midway(self, run: ActiveRun) -> None:
        await self._durable.midway(run)

    async def history(self, run: ActiveRun) -> list[LogRow]:
        return await self._durable.history(run)

    async def written(self) -> None:
        pass

    async def left(self) -> None:
        pass
