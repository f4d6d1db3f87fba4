"""Ends the holds of triggers when their time is up, a portion of each workflow in turn."""

from __future__ import annotations

import asyncio
from contextvars import Context

from poundlock.clock import sleep_for
from poundlock.errors import RuntimeStopped
from poundlock.guard import log_text
from poundlock.model.holds import HoldKey
from poundlock.runtime.commands.end_hold import EndHold, end_hold
from poundlock.runtime.core import Core, log

_PORTION = 32
"""Holds of a workflow that are ended together, so that they share commits; then it is the turn of others."""
REST = 60.0
"""Seconds to the next attempt for a hold that cannot be ended."""


async def end_due(core: Core) -> float | None:
    """End the holds that are due, of the workflows registered here; returns when the next one is."""
    resting: dict[HoldKey, None] = {}
    while core.accepting and core.store.holding:
        workflows = [entry.id for entry in core.entries.values() if not entry.closing]
        found = await core.store.due_holds(workflows, _PORTION + len(resting))
        now = core.clock.now()
        due = [key for when, key in sorted(found) if when <= now and key not in resting]
        if not due:
            later = [when for when, key in found if key not in resting]
            return min([*later, now + REST] if resting else later, default=None)
        ends = [(key, _spawn(core, key)) for key in due]
        await asyncio.wait([task for _, task in ends])
        for key, task in ends:
            error = None if task.cancelled() else task.result()
            if error is not None:
                resting[key] = None
                what = "ending what trigger '%s' of '%s' holds failed; trying again in %g s\n%s"
                log.error(what, key.trigger_id, key.workflow_id, REST, log_text(error))
        await sleep_for(core.clock, 0)
    return None


async def end_now(core: Core, key: HoldKey) -> None:
    """End a hold before another event of it is taken.

    Raises:
        RuntimeStopped: the runtime stopped meanwhile.
        PoundlockError: what is held cannot be read.
    """
    task = _spawn(core, key)
    try:
        error = await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise RuntimeStopped("the runtime stopped before this was decided: start it, then emit it again") from None
        raise
    if error is not None:
        raise error


def _spawn(core: Core, key: HoldKey) -> asyncio.Task[Exception | None]:
    # In a context of its own: what it starts is not inside the run that emitted an event.
    return Context().run(core.tasks.spawn, _ended(core, key), "poundlock-hold")


async def _ended(core: Core, key: HoldKey) -> Exception | None:
    """End a hold; returns why that failed."""
    try:
        await end_hold(core, EndHold(key))
    except Exception as error:  # noqa: BLE001 - one hold must not stop the others
        return error
    return None
