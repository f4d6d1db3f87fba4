"""Sinks that come with Poundlock: places besides the store that get the timeline entries of all runs of a runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from poundlock.model.timeline_entry import TimelineEntry
from poundlock.showing import plain

__all__ = ["JsonLines"]


class JsonLines:
    """Appends each entry to a file, as a line of JSON: `run_id`, and what `TimelineEntry.to_dict()` gives.

    `WorkflowRuntime(sinks=[JsonLines("timeline.jsonl")])`. The file is opened for each portion, so it may be moved away
    at any time; the next entries begin a new one.

    Args:
        path: of the file; its folder has to exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def write(self, run_id: str, entries: Sequence[TimelineEntry]) -> None:
        """Append entries of one run."""
        lines = [
            json.dumps(plain({"run_id": run_id, **entry.to_dict()}), ensure_ascii=False) + "\n" for entry in entries
        ]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def __repr__(self) -> str:
        return f"JsonLines({str(self.path)!r})"
