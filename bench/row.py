"""A line of the table."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table."""

    workload: str
    limit: str
    ours: str
    ratio: str
    target: str
    notes: str
