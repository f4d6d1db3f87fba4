"""Retries of store operations that fail for a time: another program holds the lock, or the disk is full.

A commit that failed may have been written all the same, and only its answer was lost. Then a repetition is refused:
whoever repeats one finds out by `is_written`, and does what follows it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from poundlock.clock import sleep_for
from poundlock.errors import PoundlockError, RunExists, StaleVersion, StoreFull, StoreUnavailable
from poundlock.model.changes import Release, RunCreate, RunMove
from poundlock.model.runs import Checkpoint
from poundlock.pipeline.active import ActiveRun
from poundlock.runtime.core import Core, log

T = TypeVar("T")

FAULTS: Final = (StoreFull, StoreUnavailable)
"""Faults of a store that may be temporary."""

PATIENCE: Final = 30.0
"""Seconds before a fault is reported. After that those who wait for the run get it; the retries continue."""

_FIRST: Final = 0.05
_LONGEST: Final = 10.0


def notify(core: Core, run: ActiveRun, fault: PoundlockError) -> None:
    """Notify those who wait for a run that the store still fails.

    Raises:
        PoundlockError: the fault, if the run was never stored: nothing was promised, so the run is dropped.
    """
    if not run.written:
        raise fault
    core.waiters.fail(run.run_id, fault)


def delays() -> Iterator[float]:
    """Yield how many seconds to wait before each further attempt: doubling, from 0.05 to 10."""
    delay = _FIRST
    while True:
        yield delay
        delay = min(delay * 2, _LONGEST)


async def patiently(
    core: Core,
    work: Callable[[], Awaitable[T]],
    what: str,
    lasting: Callable[[PoundlockError], object] | None = None,
) -> T:
    """Do something with the store and retry while that fails; see `again`."""
    try:
        return await work()
    except FAULTS as fault:
        return await again(core, fault, work, what, lasting)


async def read_checkpoint(core: Core, run_id: str) -> Checkpoint | None:
    """Read a run; retries as long as the store fails."""
    return await patiently(core, lambda: core.store.checkpoint(run_id), f"reading run '{run_id}'")


async def is_written(core: Core, work: RunMove | RunCreate) -> bool:
    """Whether a run is as this leaves it. Another process, or a later attempt, would leave another version or time."""
    move = work.start if isinstance(work, RunCreate) else work
    await core.store.written_behind()  # it may still be in flight
    record = await core.store.load(move.run_id)
    if record is None or (isinstance(work, RunCreate) and record.identity != work.identity):
        return False
    head = record.head
    left = (move.status, move.version + 1, move.new_epoch, move.owner, move.updated_at)
    return (head.status, head.version, head.epoch, head.owner, head.updated_at) == left


def find_promoted(core: Core, release: Release | None) -> None:
    """Have the runs looked for that a commit without an answer may have promoted: nobody else would drive them."""
    if release is not None and release.owner is not None:
        core.find_promoted(release.workflow_id)


REPEATED: Final = (StaleVersion, RunExists)
"""How a store refuses a commit that it has written before."""


async def commit_again(core: Core, work: RunMove | RunCreate) -> None:
    """Repeat a commit that failed, unless it was written."""
    try:
        await core.commit(work)
    except REPEATED:
        if not await is_written(core, work):
            raise


async def again(
    core: Core,
    fault: PoundlockError,
    work: Callable[[], Awaitable[T]],
    what: str,
    lasting: Callable[[PoundlockError], object] | None = None,
) -> T:
    """Retry a failed store operation, with back-off, until it succeeds or fails for another reason.

    Args:
        core: of the runtime; once it is ending, the fault is raised instead.
        fault: the first failure.
        work: what to repeat.
        what: names the operation in the log, once.
        lasting: called with each fault after `PATIENCE` seconds; what it raises ends the attempts.
    """
    log.warning("%s: the store failed, and it is tried again until it works: %s", what, fault)
    since = core.clock.monotonic()
    for delay in delays():
        if core.ending:
            raise fault
        await sleep_for(core.clock, delay)
        try:
            done = await work()
        except FAULTS as failed:
            fault = failed
            if lasting is not None and core.clock.monotonic() - since >= PATIENCE:
                lasting(fault)
        else:
            log.warning("%s: the store works again", what)
            return done
    raise AssertionError("delays never end")
