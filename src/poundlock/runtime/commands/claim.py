"""Taking over runs nobody drives: recovered after a crash, given back, or due."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poundlock.errors import StageGone
from poundlock.model.lifecycle import RunStatus
from poundlock.runtime.commands.execute import start
from poundlock.runtime.core import Core, LiveRun, log
from poundlock.runtime.runs import restored_run

if TYPE_CHECKING:
    from poundlock.clock import Timer
    from poundlock.model.runs import Checkpoint

_BATCH = 100


@dataclass(frozen=True, slots=True)
class Claim:
    """Take over what is ready or due, of the workflows registered here."""


async def claim(core: Core, _command: Claim) -> int:
    """Handle `Claim`; returns how many runs were taken over."""
    taken = 0
    while core.accepting and core.entries:
        workflows = {entry.id for entry in core.entries.values() if not entry.closing}
        claims = await core.store.claim(core.worker, workflows, core.clock.now(), _BATCH)
        for claimed in claims:
            await adopt(core, claimed.checkpoint, recovered=claimed.recovered)
        taken += len(claims)
        if len(claims) < _BATCH:
            break
    return taken


async def adopt(core: Core, checkpoint: Checkpoint, *, recovered: bool = False) -> None:
    """Drive a run whose checkpoint this process just took over."""
    identity = checkpoint.record.identity
    entry = core.entries.get(identity.workflow_id)
    if entry is None or checkpoint.record.head.status is not RunStatus.RUNNING:
        return
    core.unpark(identity.run_id)
    try:
        run = restored_run(core, entry, checkpoint)
    except StageGone as error:
        log.error("%s", error)
        return
    run.recovered = recovered
    # Without a boundary behind it the log holds what its creation wrote, and `on_prepare` is still owed.
    never_began = run.log_seq <= (2 if core.timeline else 1) and run.stage == run.plan.stages[0].id
    start(core, LiveRun(run, entry, new=never_began, resumed=run.parked is not None))


class Pump:
    """Claims when there is a reason to: at the start, when a workflow comes, and when a run is due.

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
        """Claim once the clock has reached `when`; an earlier appointment covers a later one."""
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
        """Claim whenever woken, for ever."""
        core = self._core
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await claim(core, Claim())
                due = await core.store.next_due({entry.id for entry in core.entries.values()})
            except Exception:  # noqa: BLE001 - one bad moment of the store must not end all timers
                log.exception("looking for due runs failed; trying again in a second")
                due = core.clock.now() + 1.0
            if due is not None:
                self.wake_at(due)

    def stop(self) -> None:
        """Cancel the appointment."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
