"""Waiting for runs, and the runtime's own comings and goings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from poundlock.clock import timeout_after
from poundlock.errors import InvalidEvent
from poundlock.model.durations import Duration, optional_seconds
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import RunResult
from poundlock.runtime.core import Core
from poundlock.runtime.views import result_of_checkpoint
from poundlock.stores.answers import not_found


def merged(payload: Any, fields: Mapping[str, Any]) -> Any:
    """Return payload and keyword fields as one payload.

    Raises:
        InvalidEvent: there are fields, but the payload is no mapping to merge them into.
    """
    if not fields:
        return {} if payload is None else payload
    if payload is None:
        return dict(fields)
    if not isinstance(payload, Mapping):
        raise InvalidEvent("keywords can only be merged into a payload that is a mapping", path="payload")
    return {**payload, **fields}


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
        if run_id not in core.live:
            checkpoint = await core.store.checkpoint(run_id)
            if checkpoint is None:
                raise not_found(run_id)
            status = checkpoint.record.head.status
            if status.terminal or (pauses_count and status is RunStatus.PAUSED):
                return result_of_checkpoint(core, checkpoint)
        async with limit:
            return await waiter
