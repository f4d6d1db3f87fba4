"""Taking over runs nobody drives: recovered after a crash, given back, or due."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poundlock.clock import sleep_for
from poundlock.errors import LeaseLost, StageGone, StaleVersion
from poundlock.model.changes import Changes, RunMove
from poundlock.model.lifecycle import RunStatus, check_move
from poundlock.pipeline.active import Resume
from poundlock.runtime.commands.execute import start
from poundlock.runtime.core import Core, LiveRun, log
from poundlock.runtime.runs import restored_run, without_stages

if TYPE_CHECKING:
    from poundlock.clock import Timer
    from poundlock.model.runs import Checkpoint, RunRecord

_BATCH = 100


@dataclass(frozen=True, slots=True)
class Claim:
    """Take over what is ready or due, of the workflows registered here.

    `stranded`: also what this process owns but could not go on with, because its store failed.
    """

    stranded: bool = False


async def claim(core: Core, command: Claim) -> int:
    """Handle `Claim`; returns how many runs were taken over."""
    taken = 0
    if command.stranded:
        await _give_back(core)
    while core.accepting and core.entries:
        workflows = {entry.id for entry in core.entries.values() if not entry.closing}
        claims = await core.store.claim(core.worker, workflows, core.clock.now(), _BATCH)
        for claimed in claims:
            adopt(core, claimed.checkpoint, recovered=claimed.recovered, delayed=claimed.delayed)
        taken += len(claims)
        if len(claims) < _BATCH:
            break
    return taken


async def _give_back(core: Core) -> None:
    """Make stranded runs `ready`, under a new epoch, so that they are claimed like those of a dead owner.

    Those that were only never heard of were not begun: taking them up is no recovery.
    """
    await core.store.written_behind()
    for run_id in [*core.stranded, *core.unheard]:
        record = await core.store.load(run_id)
        live = core.live.get(run_id)
        if live is not None and record is not None and live.run.epoch == record.head.epoch:
            pass  # it was only feared to be without a driver; one of an older epoch is on its way out
        elif record is not None and record.head.owner == core.worker and record.head.status is RunStatus.RUNNING:
            try:
                move = _given_back(record, core.clock.now(), begun=run_id in core.stranded)
                await core.store.commit(Changes(moves=(move,)))
            except (StaleVersion, LeaseLost):
                continue  # somebody drives it after all
        core.stranded.discard(run_id)
        core.unheard.discard(run_id)


def _given_back(record: RunRecord, now: float, *, begun: bool) -> RunMove:
    head = record.head
    check_move(head.status, RunStatus.READY)
    return RunMove(
        run_id=record.identity.run_id,
        version=head.version,
        epoch=head.epoch,
        inbox=None,
        status=RunStatus.READY,
        owner=head.owner if begun else None,  # what is ready and had an owner counts as recovered
        new_epoch=head.epoch + 1,
        stage=head.stage,
        attempt=head.attempt,
        wake_at=None,
        outcome=None,
        slot=head.slot,
        updated_at=now,
    )


def take_up(core: Core, run_ids: Iterable[str]) -> None:
    """Have runs claimed that a commit may have made ours, because nobody heard what it came to."""
    core.unheard.update(run_ids)
    core.spawn(_take_up(core))


async def _take_up(core: Core) -> None:
    await claim(core, Claim(stranded=True))


def adopt(core: Core, checkpoint: Checkpoint, *, recovered: bool = False, delayed: bool = False) -> None:
    """Drive a run whose checkpoint this process just took over."""
    identity = checkpoint.record.identity
    entry = core.entries.get(identity.workflow_id)
    if entry is None or checkpoint.record.head.status is not RunStatus.RUNNING:
        return
    core.unpark(identity.run_id)
    try:
        run = restored_run(core, entry, checkpoint)
    except StageGone:
        run = restored_run(core, entry, checkpoint, without_stages(entry, identity.pipeline_id))
        run.waits = ()  # whatever it stood at leads nowhere: driven, it fails and says why
    run.recovered = recovered
    if delayed:
        run.resume = Resume("delay")
    # Without a boundary behind it the log holds what its creation wrote, and `on_prepare` is still owed.
    never_began = run.log_seq <= (2 if core.timeline else 1) and run.stage == run.plan.stages[0].id
    start(core, LiveRun(run, entry, new=never_began))


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
                due = await core.store.next_due({entry.id for entry in core.entries.values() if not entry.closing})
            except Exception:  # noqa: BLE001 - one bad moment of the store must not end all timers
                log.exception("looking for due runs failed; trying again in a second")
                await sleep_for(core.clock, 1.0)
                self._wanted.set()
                continue
            if due is not None:
                self.wake_at(due)

    def stop(self) -> None:
        """Cancel the appointment."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
