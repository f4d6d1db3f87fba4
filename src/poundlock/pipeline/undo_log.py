"""What is to be undone, as the run's log has it: stages note their commits, and undoing notes each end of an undo.

These entries have an empty patch, so they are kept without a timeline too. Undoing goes backwards, so the end of an
undo always belongs to the latest commit that is left: the log is read like a stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from poundlock.codecs import dump, load
from poundlock.model.definitions import Fail
from poundlock.model.patches import merge
from poundlock.model.runs import LogRow
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.steps import StageDone
from poundlock.records import NamedTuple

_NOTED: Final = "undo:noted"
_ENDS: Final = ("undo:success", "undo:failure")
_NO_CHANGE: Final = "{}"


class Due(NamedTuple):
    """One step of one visit of a stage, to be undone.

    Attributes:
        stage_id, step_id: which step.
        seq: of the entry that notes the visit's commit.
        state: as that commit left it.
    """

    stage_id: str
    step_id: str
    seq: int
    state: dict[str, Any]


def note_commit(run: ActiveRun, done: StageDone) -> None:
    """Note which steps of a stage have an undo; a step that returned Fail has done nothing that needs one."""
    steps = [each.step.id for each in done.steps if each.step.undo is not None and type(each.instruction) is not Fail]
    if steps:
        payload = dump({"stage": done.stage.id, "steps": steps})
        run.journal.add(run.clock.now(), "pipeline", _NOTED, done.stage.path_json, payload, _NO_CHANGE)


def note_end(run: ActiveRun, path_json: str, error: Mapping[str, Any] | None) -> None:
    """Note that an undo has succeeded, or failed for good: it is not called again."""
    kind = _ENDS[error is not None]
    run.journal.add(run.clock.now(), "pipeline", kind, path_json, dump(error), _NO_CHANGE)


def due(rows: Iterable[LogRow]) -> list[Due]:
    """Return what is left to undo by a run's log, in the order of commit: the last one has to be undone first."""
    left: list[Due] = []
    state: dict[str, Any] = {}
    for row in rows:
        for place, (_, _, kind, _, payload, patch) in enumerate(load(row.text)):
            if kind == _NOTED:
                seq = row.first_seq + place
                left += [Due(payload["stage"], step, seq, state) for step in payload["steps"]]
            elif kind in _ENDS:
                left.pop()
            elif patch:
                state = merge(state, patch)
    return left
