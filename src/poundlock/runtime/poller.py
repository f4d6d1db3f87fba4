"""Looks for what is due, when there is a reason to look: runs to be claimed, or holds to be ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from poundlock.clock import Timer
from poundlock.guard import clear_cancellation, log_text
from poundlock.runtime.commands.claim import Claim, claim
from poundlock.runtime.core import Core, log
from poundlock.runtime.healing import delays


class Poller:
    """Looks when there is a reason: at the start, when a workflow is registered, and when something is due.

    One timer for the earliest, however many wait. Idle, it costs nothing.

    Args:
        core: of the runtime.
        look: does what is due, and returns when the next is; None if nothing is.
        what: names that in the log.
    """

    def __init__(self, core: Core, look: Callable[[], Awaitable[float | None]], what: str) -> None:
        self._core = core
        self._look = look
        self._what = what
        self._wanted = asyncio.Event()
        self._timer: Timer | None = None
        self._retry: Timer | None = None
        self._next: float | None = None
        self._stopped = False

    def wake(self) -> None:
        """Look as soon as possible."""
        self._wanted.set()

    def wake_at(self, when: float) -> None:
        """Look once the clock has reached `when`; an earlier timer covers a later one."""
        if self._stopped:
            return  # a timer now would outlive the runtime
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
        """Look whenever woken, until the runtime stops."""
        core = self._core
        wait = delays()
        while True:
            try:
                await self._wanted.wait()
                self._wanted.clear()
                due = await self._look()
                wait = delays()
            except asyncio.CancelledError:
                if core.ending:
                    raise
                task = asyncio.current_task()
                assert task is not None  # noqa: S101 - this is a task's coroutine
                await clear_cancellation(task)  # whatever caused it: what is due must not wait for ever
                due = core.clock.now()
            except Exception as error:  # noqa: BLE001 - one bad moment of the store must not end all timers
                delay = next(wait)
                log.error("%s failed; trying again in %g s\n%s", self._what, delay, log_text(error))
                if not self._stopped:
                    self._retry = core.clock.call_later(delay, self._wanted.set)
                due = None
            if due is not None:
                self.wake_at(due)

    def stop(self) -> None:
        """Cancel the timer, and set none any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._retry is not None:
            self._retry.cancel()


async def claim_due(core: Core) -> float | None:
    """Claim the runs that are ready or due; returns when the next one is."""
    await claim(core, Claim())
    return await core.store.next_due(core.working())
