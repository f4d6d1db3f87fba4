"""What a retry takes over of the stage that its run ended in: what `visit_left` has noted, or its timeline tells.

The visit continues, so idempotency keys stay the same. What has finished in it is kept, as far as the workflow's
durability has kept it; what failed begins anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from poundlock.model.mending import Visit
from poundlock.model.runs import MENDED_WAIT, VISIT_WAIT, LogRow, RunError, WaitRow, own_row
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.memo import QUIET, kept_entries
from poundlock.pipeline.waits import rearm
from poundlock.records import NamedTuple

_CHILD: Final = "child:"
_JOB: Final = "job:"
_NEXT: Final = "next:"
_ATTEMPTS: Final = ":retry:"


def is_to_begin(run: ActiveRun) -> bool:
    """Whether the run was retried, rerun or forked, and its attempt has not begun."""
    return any(row.wait_id == MENDED_WAIT for row in run.waits)


def begin_attempt(run: ActiveRun) -> None:
    """Note that the attempt begins, with the run's next commit; arm its declared waits, if that is not done yet."""
    run.waits = tuple([row for row in run.waits if row.wait_id != MENDED_WAIT])
    rearm(run)


class Recalled(NamedTuple):
    """What a retry takes over of the visit in which its run ended.

    Attributes:
        waits: rows of the run.
        entries: keys and values that are put in place of those that its memo has in the log.
    """

    waits: tuple[WaitRow, ...] = ()
    entries: tuple[tuple[str, Any], ...] = ()


def children_kept(left: Sequence[Any], rows: Iterable[LogRow]) -> list[str]:
    """Return the ids of the children that the visit has started."""
    visit = _visit_in(left)
    if visit is None:
        return []
    kept = dict(kept_entries(rows, visit["entered_at"]))
    return [value for key, value in kept.items() if key.startswith(_CHILD) and value is not None]


def recalled(
    left: Sequence[Any],
    visit: Visit | None,
    rows: Sequence[LogRow],
    stage: str,
    error: RunError | None,
    completed: Collection[str],
    now: float,
    epoch: int,
) -> Recalled:
    """Return what a retry takes over: finished steps, elements and children; what failed, or was under way, is not.

    Args:
        left: what was noted at the end.
        visit: the visit in the middle of which the run ended, by its timeline.
        rows: the run's log.
        stage: the one at which the retry begins.
        error: why it failed.
        completed: ids of the children that are completed.
        now: seconds since 1970: times of the visit count anew.
        epoch: of the new rows.
    """
    said = _visit_in(left)
    if said is not None and said["stage"] != stage:
        return Recalled()
    # Rows that are not of the visit: the failure that is being handled, and the input of a durable function.
    others = [
        own_row(wait_id, epoch=epoch, on_timeout=way, patch=patch)
        for wait_id, way, patch in left
        if wait_id != VISIT_WAIT
    ]
    if said is None:
        if visit is None:
            return Recalled(tuple(others))
        said = {"stage": stage, "entered_at": visit.seq - 1}
        if visit.key != visit.seq - 1:
            said["key"] = visit.key
    kept = dict(kept_entries(rows, said["entered_at"])) if "logged" in said else {}
    small = said.get("small", {})
    failed = None if error is None or error.stage != stage else error.step
    changes = _changes({**kept, **small}, failed, completed, now) | _of_function(rows, said, failed)
    left_small = {key: changes.get(key, value) for key, value in small.items() if changes.get(key, value) is not None}
    patch = {**said, "since": now, "small": left_small}
    if not left_small:
        del patch["small"]
    row = own_row(VISIT_WAIT, epoch=epoch, on_timeout="resume", patch=patch)
    return Recalled((*others, row), tuple((key, value) for key, value in changes.items() if key in kept))


def _visit_in(left: Sequence[Any]) -> Mapping[str, Any] | None:
    return next((patch for wait_id, _, patch in left if wait_id == VISIT_WAIT), None)


def _changes(known: Mapping[str, Any], failed: str | None, completed: Collection[str], now: float) -> dict[str, Any]:
    """Return what is put in place of the values of a memo; None takes one out.

    The attempts count anew. So does the time of what other steps had begun; what the failed one had, it begins again.
    """
    changes: dict[str, Any] = {}
    for key, value in known.items():
        kind, _, step = key.partition(":")
        if key == QUIET or _ATTEMPTS in key or key.startswith(_NEXT):
            changes[key] = None
        elif key.startswith(_CHILD):
            if value not in completed:
                changes[key] = None
        elif key.startswith(_JOB) and isinstance(value, Mapping) and kind:
            changes[key] = None if step == failed else {**value, "since": now, "next": now}
    return changes


def _of_function(rows: Sequence[LogRow], visit: Mapping[str, Any], failed: str | None) -> dict[str, Any]:
    """Return what is put in place of the record of a durable function: the operation it failed with is tried again.

    So are those that were given up beside it.
    """
    changes: dict[str, Any] = {}
    if failed is None or "logged" not in visit:
        return changes
    behind = False
    for key, value in kept_entries(rows, visit["entered_at"]):
        if not isinstance(value, Mapping) or "op" not in value:
            continue
        if key == failed and "error" in value:
            behind = True
            changes[key] = {"op": value["op"], "name": value["name"]}
        elif behind and "gone" in value:
            changes[key] = {name: held for name, held in value.items() if name != "gone"}
        elif key in changes:
            del changes[key]  # it was tried again, or asked for again, later
    return changes
