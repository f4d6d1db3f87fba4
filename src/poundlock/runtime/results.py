"""Waiting for the results of runs."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from poundlock.clock import timeout_after
from poundlock.model.durations import Duration, optional_seconds
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import RunResult
from poundlock.runtime.core import Core
from poundlock.runtime.reading import result_of_checkpoint
from poundlock.stores.answers import not_found


class Accepted(NamedTuple):
    """What `Create` and `Resume` answer: the run is accepted. What it comes to is a question of its own.

    Attributes:
        run_id: which run.
        here: whether this process drives it; else it is `ready` for whoever knows its workflow.
    """

    run_id: str
    here: bool = True


async def rest_of(core: Core, accepted: Accepted) -> RunResult:
    """Return an accepted run's result at its next pause or its end; as it is now where another process drives it."""
    if accepted.here:
        return await rested(core, accepted.run_id)
    checkpoint = await core.store.checkpoint(accepted.run_id)
    if checkpoint is None:
        raise not_found(accepted.run_id)
    return result_of_checkpoint(core, checkpoint)


async def wait_for_end(core: Core, run_id: str, timeout: Duration | None) -> RunResult:
    """Return a run's result once it has ended.

    Raises:
        RunNotFound: no such run.
        TimeoutError: it has not ended within `timeout`; the run is not touched.
    """
    return await _wait(core, run_id, timeout, pauses_count=False)


async def rested(core: Core, run_id: str, timeout: Duration | None = None) -> RunResult:
    """Return a run's result at its next pause or its end; at once if it rests already."""
    return await _wait(core, run_id, timeout, pauses_count=True)


async def results(core: Core, run_ids: list[str], timeout: Duration | None) -> list[RunResult]:
    """Return the results of several runs in this order, each at its pause or end."""
    async with timeout_after(core.clock, optional_seconds(timeout)):
        return list(await asyncio.gather(*(rested(core, run_id) for run_id in run_ids)))


async def _wait(core: Core, run_id: str, timeout: Duration | None, *, pauses_count: bool) -> RunResult:
    limit = timeout_after(core.clock, optional_seconds(timeout))
    # Waiting begins before the store is asked: an end that comes while it answers is heard.
    with core.waiters.waiting(run_id, pauses_count=pauses_count) as waiter:
        if core.runs.driven(run_id) is None:
            vacancy = core.runs.vacancy(run_id)
            if vacancy is not None and vacancy.error is not None:
                raise vacancy.error  # stranded: nothing drives it on until `recover`
            checkpoint = await core.store.checkpoint(run_id)
            if checkpoint is None:
                raise not_found(run_id)
            status = checkpoint.record.head.status
            if status.terminal or (pauses_count and status is RunStatus.PAUSED):
                return result_of_checkpoint(core, checkpoint)
        async with limit:
            return await waiter
