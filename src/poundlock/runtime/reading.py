"""Reading runs: one, many, those in memory, their timelines, and the counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from poundlock.errors import InvalidEvent
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import RunInfo, RunQuery
from poundlock.model.timeline import Timeline, read_entries
from poundlock.ports import Page
from poundlock.runtime.core import Core
from poundlock.runtime.views import info_of_record, info_of_run
from poundlock.stores.answers import not_found

if TYPE_CHECKING:
    from poundlock.runtime.registration import Registered

LARGEST_PAGE = 500


class PipelineRegistry:
    """The runs of one workflow that are in this process's memory."""

    def __init__(self, core: Core, entry: Registered) -> None:
        self._core = core
        self._entry = entry

    def runs(self) -> list[RunInfo]:
        """Return them as they are now."""
        return [info for info in list_all_runs(self._core) if info.workflow_id == self._entry.id]

    def get(self, run_id: str) -> RunInfo | None:
        """Return one of them, or None."""
        return watch(self._core, self._entry.id, run_id)

    def __len__(self) -> int:
        return len(self.runs())

    def __contains__(self, run_id: str) -> bool:
        return self.get(run_id) is not None


async def get_run(core: Core, run_id: str) -> RunInfo:
    """Return a run as it stands in the store; an invoked one that was not written yet comes from memory."""
    record = await core.store.load(run_id)
    if record is not None:
        return info_of_record(record)
    live = core.live.get(run_id)
    if live is None:
        raise not_found(run_id)
    return info_of_run(live.run)


def query(
    workflow: str | None,
    status: RunStatus | str | Sequence[RunStatus | str] | None,
    key: str | None,
    text: str | None,
    since: float | None,
    until: float | None,
    limit: int,
    cursor: str | None,
) -> RunQuery:
    """Return a checked query.

    Raises:
        InvalidEvent: a filter is none; `path` names it.
    """
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidEvent(f"limit is {limit}: ask for 1 to {LARGEST_PAGE} runs per page", path="limit")
    wanted = () if status is None else (status,) if isinstance(status, str) else tuple(status)
    try:
        statuses = tuple(RunStatus(name) for name in wanted)
    except ValueError as error:
        known = ", ".join(RunStatus)
        raise InvalidEvent(f"{error}: use {known}", path="status") from None
    return RunQuery(workflow, statuses, key, text, since, until, limit, cursor)


async def find_runs(core: Core, wanted: RunQuery) -> Page[RunInfo]:
    """Return stored runs, newest first."""
    page = await core.store.find(wanted)
    return Page([info_of_record(record) for record in page.items], page.next_cursor)


def watch(core: Core, workflow_id: str, run_id: str) -> RunInfo | None:
    """Return a run in memory, or None."""
    live = core.held(run_id)
    return info_of_run(live.run) if live is not None and live.entry.id == workflow_id else None


def list_all_runs(core: Core) -> list[RunInfo]:
    """Return all runs in memory: driven ones first, then parked ones."""
    held = [*core.live.values(), *(live for _, live in core.parked.values())]
    return [info_of_run(live.run) for live in held]


async def timeline(core: Core, run_id: str) -> Timeline:
    """Return a run's timeline."""
    rows = await core.store.history(run_id)
    if not rows and await core.store.load(run_id) is None:
        raise not_found(run_id)
    return Timeline(run_id, read_entries(rows))


def statistics(core: Core) -> Mapping[str, int]:
    """Return counters."""
    held = Counter({"workflows": len(core.entries), "runs:live": len(core.live), "runs:parked": len(core.parked)})
    size = core.store.size
    stored = {"store:bytes": size, "store:bytes:grown": size - core.size_at_start} if size else {}
    return {**core.counters, **held, **stored}


__all__ = [
    "PipelineRegistry",
    "find_runs",
    "get_run",
    "list_all_runs",
    "query",
    "replace",
    "statistics",
    "timeline",
    "watch",
]
