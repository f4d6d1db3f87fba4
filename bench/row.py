"""A line of the table."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table; what has no floor, limit or goal leaves the place empty."""

    workload: str
    ours: str
    floor: str = "-"
    ratio: str = "-"
    cpu_ratio: str = "-"
    goal: str = "-"
    limit: str = "-"
    of_limit: str = "-"
    notes: str = ""
