"""Waiting for the results of runs."""

from __future__ import annotations

import asyncio
from typing import Literal

from poundlock.clock import timeout_after
from poundlock.errors import InvalidDefinition
from poundlock.guard import repr_of
from poundlock.model.durations import Duration
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import RunResult
from poundlock.model.validation import duration
from poundlock.runtime.awaited import awaiting, to_wait_for
from poundlock.runtime.core import Core
from poundlock.runtime.late import all_too_late, too_late
from poundlock.runtime.reading import as_it_is, result_now
from poundlock.runtime.waiters import Waiter
from poundlock.stores.answers import not_found

Until = Literal["rest", "end", "accepted"]
"""How long a call waits: until the run is paused or has ended, until it has ended, or only until it is accepted."""


def check_until(until: object, *allowed: str) -> None:
    """Refuse an `until=` that is none of these (`InvalidDefinition`), before anything is done."""
    if until not in allowed:
        raise InvalidDefinition(f"until is {repr_of(until, 60)}: use {' or '.join(map(repr, allowed))}", path="until")


async def result_at(core: Core, run_id: str, until: Until) -> RunResult:
    """Return the result of a run that was accepted by the calling method, as soon as `until` says."""
    if until == "rest":
        return await next_result(core, run_id)
    return await (wait_for(core, run_id, "end", None) if until == "end" else as_it_is(core, run_id))


async def wait_for(core: Core, run_id: str, until: Literal["rest", "end"], timeout: Duration | None) -> RunResult:
    """Return a run's result once it has ended; with "rest" also once it is paused, by its last commit.

    Raises:
        RunNotFound: no such run.
        TimeoutError: that did not happen within `timeout`; the run is unchanged.
        WouldDeadlock: the run waits for the one whose code this is.
    """
    inside, pauses_count = core.inside, until == "rest"
    if inside:
        with awaiting(core, inside, await to_wait_for(core, inside, run_id, bounded=timeout is not None)):
            return await _wait(core, run_id, timeout, pauses_count=pauses_count)
    return await _wait(core, run_id, timeout, pauses_count=pauses_count)


async def at_rest(core: Core, run_id: str, *, ended: bool) -> RunResult:
    """Return a run's result once it is paused or has ended; `ended`: only once it has ended. For a run's parent.

    Raises:
        RunNotFound: no such run.
    """
    return await _wait(core, run_id, None, pauses_count=not ended)


async def next_result(core: Core, run_id: str, *, bounded: bool = False, checked: bool = False) -> RunResult:
    """Return a run's result at its next pause or its end; at once if it is paused or has ended.

    Args:
        core: of the runtime.
        run_id: which run.
        bounded: whether the caller gives up after a time.
        checked: whether it is known that waiting can end.

    Raises:
        WouldDeadlock: the run waits for the one whose code this is.
    """
    if not checked and (inside := core.inside):
        with awaiting(core, inside, await to_wait_for(core, inside, run_id, bounded=bounded)):
            return await next_result(core, run_id, checked=True)
    if core.runs.has_task(run_id):  # nearly always: it was accepted a moment ago
        waiter = core.waiters.rest(run_id)
        try:
            return await waiter
        except asyncio.CancelledError:
            core.waiters.forget(run_id, waiter)
            raise
    return await _wait(core, run_id, None, pauses_count=True)


async def results(core: Core, run_ids: list[str], timeout: Duration | None) -> list[RunResult]:
    """Return the results of several runs in this order, each at its pause or end."""
    if timeout is None and len(run_ids) == 1:  # nearly always; gathering would take another task
        return [await next_result(core, run_ids[0])]
    loop = asyncio.get_running_loop()
    limit = timeout_after(core.clock, None if timeout is None else duration("timeout", timeout))
    waiting = [loop.create_task(next_result(core, run_id, bounded=timeout is not None)) for run_id in run_ids]
    try:
        async with limit:
            return list(await asyncio.gather(*waiting))
    except TimeoutError as error:
        if not limit.expired:
            raise  # a timeout of other code
        late = [run_id for run_id, task in zip(run_ids, waiting, strict=True) if task.cancelled() or not task.done()]
        raise await all_too_late(core, late, len(run_ids), timeout) from error
    finally:
        for each in waiting:
            each.cancel()  # one was refused: the others are not needed


def _rests(status: RunStatus, pauses_count: bool) -> bool:
    return status.terminal or (pauses_count and status is RunStatus.PAUSED)


def _deleted(run_id: str, waiter: Waiter) -> RunResult:
    """Return the result of a run that is not stored, if it came to rest while the store was asked.

    Raises:
        RunNotFound: there was no such run before either.
    """
    if waiter.done():
        return waiter.result()
    raise not_found(run_id)


async def _wait(core: Core, run_id: str, timeout: Duration | None, *, pauses_count: bool) -> RunResult:
    limit = timeout_after(core.clock, None if timeout is None else duration("timeout", timeout))
    # The wait begins before the store is read: so an end during the read is not missed.
    with core.waiters.waiting(run_id, pauses_count=pauses_count) as waiter:
        try:
            async with limit:
                if not core.runs.has_task(run_id):
                    resting = await _at_rest_now(core, run_id, waiter, pauses_count=pauses_count)
                    if resting is not None:
                        return resting
                return await waiter
        except TimeoutError as error:
            if not limit.expired:
                raise  # a timeout of other code
            raise await too_late(core, run_id, timeout, pauses_count=pauses_count) from error


async def _at_rest_now(core: Core, run_id: str, waiter: Waiter, *, pauses_count: bool) -> RunResult | None:
    """Return the result of a run that no task drives here, if it is at rest by its last commit; else None."""
    vacancy = core.runs.vacancy(run_id)
    if vacancy is not None and vacancy.error is not None:
        raise vacancy.error  # stranded: it is not driven until `recover`
    status = await core.store.status(run_id)
    if status is None:
        return _deleted(run_id, waiter)
    if not _rests(status, pauses_count):
        return None
    checkpoint = await core.store.checkpoint(run_id)
    if checkpoint is None:
        return _deleted(run_id, waiter)
    if not _rests(checkpoint.record.head.status, pauses_count):
        return None  # it has been resumed meanwhile
    return await result_now(core, checkpoint)
