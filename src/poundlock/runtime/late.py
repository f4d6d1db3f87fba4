"""What a TimeoutError says of runs that were waited for: which run, its status, where it is, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from poundlock.clock import timeout_after
from poundlock.errors import PoundlockError
from poundlock.model.durations import Duration
from poundlock.model.lifecycle import RunStatus
from poundlock.model.moments import utc_text
from poundlock.model.runs import FAILURE_WAIT, RunInfo
from poundlock.runtime.core import Core
from poundlock.runtime.reading import info_of_record, info_of_run

_PATIENCE: Final = 1.0
"""Seconds to ask the store how a run is: its caller has waited long enough."""
_MOST: Final = 5
"""Runs that are named in one error."""


async def too_late(core: Core, run_id: str, timeout: Duration | None, *, pauses_count: bool) -> TimeoutError:
    """Return the error for a run that has not paused or ended in time."""
    missed = "is neither paused nor ended" if pauses_count else "has not ended"
    info = await _present(core, run_id)
    return TimeoutError(f"run '{run_id}' {missed} within {_span(timeout)}: it {_place(info)}; {_advice(info)}")


async def all_too_late(core: Core, run_ids: Sequence[str], asked: int, timeout: Duration | None) -> TimeoutError:
    """Return the error for runs, of those that were waited for together, that neither paused nor ended in time."""
    named = [f"run '{run_id}' {_place(await _present(core, run_id))}" for run_id in run_ids[:_MOST]]
    more = len(run_ids) - len(named)
    if more > 0:
        named.append(f"and {more} more")
    runs = "1 run" if asked == 1 else f"{asked} runs"
    return TimeoutError(
        f"not all of {runs} paused or ended within {_span(timeout)}: {', '.join(named)}; they continue: wait again, or "
        f"abort them"
    )


async def _present(core: Core, run_id: str) -> RunInfo | None:
    """Return a run as it is; None if that is not known in a moment."""
    live = core.runs.live(run_id)
    if live is not None:
        return info_of_run(live.run)
    with suppress(PoundlockError, TimeoutError):
        async with timeout_after(core.clock, _PATIENCE):
            record = await core.store.load(run_id)
            return None if record is None else info_of_record(record)
    return None


def _span(timeout: Duration | None) -> str:
    """Return a timeout as its caller gave it."""
    return f"{timeout:g} s" if isinstance(timeout, int | float) else str(timeout)


def _place(info: RunInfo | None) -> str:
    """Return what a run does, and where."""
    if info is None:
        return "is in a state that could not be read"
    stage = "" if info.stage is None else f" in stage '{info.stage}'"
    match info.status:
        case RunStatus.PAUSED if info.waits and info.waits[0].id == FAILURE_WAIT:
            return f"is paused because stage '{info.stage}' failed" + ("" if info.error is None else f" ({info.error})")
        case RunStatus.PAUSED if info.waits and info.waits[0].parked:
            wait = info.waits[0]
            events = f" for {' or '.join(wait.events)}" if wait.events else ""
            return f"is paused at wait '{wait.id}'{events}"
        case RunStatus.PAUSED:
            return "is paused" + ("" if info.error is None else f" with an error ({info.error})")
        case RunStatus.DELAYED:
            until = "" if info.wake_at is None else f" until {utc_text(info.wake_at)}"
            return f"is delayed{until}"
        case RunStatus.QUEUED:
            return f"is queued until workflow '{info.workflow_id}' has a free slot"
        case RunStatus.READY:
            return f"is ready, and no runtime with workflow '{info.workflow_id}' has taken it yet"
        case RunStatus.RUNNING:
            return f"is running{stage}"
        case _:
            return f"is {info.status} by now"


def _advice(info: RunInfo | None) -> str:
    if info is not None and info.status is RunStatus.PAUSED:
        return "answer it, wait again, or abort it"
    if info is not None and info.status.terminal:
        return "wait again for its result"
    return "it continues: wait again, or abort it"
