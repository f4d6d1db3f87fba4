"""The JSON that `poundlock run --json` prints; other shapes are in `runtime/shapes.py`, where the web can use them too.

It is stable: fields may be added, but are not renamed or removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poundlock.model.runs import run_shape

if TYPE_CHECKING:  # for types alone: the command line starts quickly
    from poundlock.cli.feed import Feed
    from poundlock.cli.feeding import Tally
    from poundlock.model.runs import RunInfo


def feed_shape(
    feed: Feed | None, tally: Tally, runs: dict[str, int], parked: list[RunInfo], held: int, *, rested: bool
) -> dict[str, Any]:
    """Return the result of a feed."""
    from poundlock.cli.feeding import by_workflow, unmatched

    return {
        "feed": None if feed is None else feed.name,
        "lines": tally.lines,
        "already_handled": tally.handled,
        "emitted": tally.emitted,
        "unmatched": unmatched(tally),
        "receipts": by_workflow(tally),
        "faults": [
            {"line": number, "code": error.code, "message": error.message, "path": error.path}
            for number, error in tally.faults
        ],
        "runs": runs,
        "held": held,
        "parked": [run_shape(info) for info in parked],
        "rested": rested,
    }
