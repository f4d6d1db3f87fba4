"""Claims what is due, when there is a reason to look."""

from __future__ import annotations

import asyncio

from poundlock.clock import Timer
from poundlock.guard import clear_cancellation, log_text
from poundlock.runtime.commands.claim import Claim, claim
from poundlock.runtime.core import Core, log
from poundlock.runtime.healing import delays


class Poller:
    """Claims when there is a reason: at the start, when a workflow is registered, and when a run is due.

    One timer for the earliest due run, however many wait. Idle, it costs nothing.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._wanted = asyncio.Event()
        self._timer: Timer | None = None
        self._next: float | None = None

    def wake(self) -> None:
        """Claim as soon as possible."""
        self._wanted.set()

    def wake_at(self, when: float) -> None:
        """Claim once the clock has reached `when`; an earlier timer covers a later one."""
        if self._next is None or when < self._next:
            if self._timer is not None:
                self._timer.cancel()
            self._next = when
            self._timer = self._core.clock.call_at(when, self._due)

    def _due(self) -> None:
        self._timer = None
        self._next = None
        self._wanted.set()

    async def run(self) -> None:
        """Claim whenever woken, until the runtime stops."""
        core = self._core
        wait = delays()
        while True:
            try:
                await self._wanted.wait()
                self._wanted.clear()
                await claim(core, Claim())
                due = await core.store.next_due({entry.id for entry in core.entries.values() if not entry.closing})
                wait = delays()
            except asyncio.CancelledError:
                if core.ending:
                    raise
                task = asyncio.current_task()
                assert task is not None  # noqa: S101 - this is a task's coroutine
                await clear_cancellation(task)  # whatever caused it: due runs must not wait for ever
                due = core.clock.now()
            except Exception as error:  # noqa: BLE001 - one bad moment of the store must not end all timers
                delay = next(wait)
                log.error("looking for due runs failed; trying again in %g s\n%s", delay, log_text(error))
                core.clock.call_later(delay, self._wanted.set)
                due = None
            if due is not None:
                self.wake_at(due)

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
