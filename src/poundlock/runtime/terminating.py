"""Terminating a run in whose place one of the same id is to begin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from poundlock.errors import RunExists
from poundlock.model.runs import RunRecord
from poundlock.runtime.awaited import awaiting, to_wait_for
from poundlock.runtime.children import abort_and_wait
from poundlock.runtime.core import Core
from poundlock.runtime.settling import until_gone

_WHY = "a new run of the same id takes its place"


@asynccontextmanager
async def place_of(core: Core, run_id: str) -> AsyncIterator[None]:
    """Let one call at a time begin a run in the place of the one of this id.

    Otherwise a call that has aborted a run could wait for the end of the one that another call has begun.

    Raises:
        WouldDeadlock: the run is that of the caller, or waits for it.
    """
    inside = core.inside
    waits = awaiting(core, inside, await to_wait_for(core, inside, run_id)) if inside else nullcontext()
    with waits:
        lock, calls = core.places.get(run_id, (asyncio.Lock(), 0))
        core.places[run_id] = lock, calls + 1
        try:
            async with lock:
                yield
        finally:
            lock, calls = core.places.pop(run_id)
            if calls > 1:
                core.places[run_id] = lock, calls - 1


async def terminated(core: Core, run_id: str) -> RunRecord | None:
    """Return the record of a run once it has ended; None if there is none.

    Nothing here works on it then, except a step that does not react to its abort within the grace.

    The caller has the `place_of` it.

    Raises:
        RunExists: it is the child of another run, which waits for it.
    """
    while True:
        live = core.runs.live(run_id)
        record = await core.store.load(run_id)
        if record is None and live is None:
            return None
        if record is not None and record.identity.parent_id is not None and not record.head.status.terminal:
            raise RunExists(
                f"run '{run_id}' is a child of run '{record.identity.parent_id}', which waits for it: use another "
                f"run_id, or abort that one",
                run_id=run_id,
            )
        await abort_and_wait(core, run_id, lambda: core.abort(run_id, _WHY))
        await core.announced(run_id)
        if live is not None:
            await until_gone(core, live)  # one that does not react can write nothing any more
        record = await core.store.load(run_id)
        if record is None or record.head.status.terminal:
            return record
