"""What a retry needs of the stage in which a run ends: noted with the end.

A run that has ended has no waits any more, and so none of the rows it keeps with them: the visit of a stage and its
memo, the failure that was being handled, the input of a durable function. The entry has an empty patch, so that it is
kept without a timeline too. `mending` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from poundlock.codecs import dump
from poundlock.model.mending import LEFT
from poundlock.model.runs import FAILURE_WAIT, GENERATION_WAIT, VISIT_WAIT, WaitRow
from poundlock.pipeline.journal import Journal

_NO_CHANGE: Final = "{}"
_NEEDED: Final = (VISIT_WAIT, GENERATION_WAIT, FAILURE_WAIT)


def note_left(journal: Journal, now: float, path_json: str, waits: Sequence[WaitRow]) -> None:
    """Note what a retry needs of a run that ends with these waits; nothing for most runs."""
    rows = [[row.wait_id, row.on_timeout, row.patch] for row in waits if row.wait_id in _NEEDED and not row.parked]
    if rows:
        journal.add(now, "pipeline", LEFT, path_json, dump(rows), _NO_CHANGE)
