"""A sink that keeps the timelines of all runs in memory, for tests."""

from __future__ import annotations

from collections.abc import Sequence

from poundlock.model.timeline import Timeline
from poundlock.model.timeline_entry import TimelineEntry

__all__ = ["MemoryTimeline", "memory_timeline"]


class MemoryTimeline:
    """The timelines of the runs of a runtime, as its sink: `WorkflowRuntime(sinks=[memory_timeline()])`.

    Entries come a moment behind their commits: wait with `run_until_idle`, or leave the runtime, before you look.

    Attributes:
        runs: ids of the runs that have entries, in the order of their first ones.
    """

    def __init__(self) -> None:
        self._entries: dict[str, list[TimelineEntry]] = {}

    async def write(self, run_id: str, entries: Sequence[TimelineEntry]) -> None:
        """Keep entries of one run."""
        self._entries.setdefault(run_id, []).extend(entries)

    @property
    def runs(self) -> list[str]:
        return list(self._entries)

    def of(self, run_id: str) -> Timeline:
        """Return the timeline of a run as far as it came; an unknown one is empty."""
        return Timeline(run_id, self._entries.get(run_id, ()))

    def __repr__(self) -> str:
        return f"<timelines of {len(self._entries)} runs>"


def memory_timeline() -> MemoryTimeline:
    """Return a new sink that keeps timelines in memory."""
    return MemoryTimeline()
