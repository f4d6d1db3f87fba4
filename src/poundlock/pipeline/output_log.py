"""What stages came to, as the run's log has it: one entry per commit of a stage, if the workflow keeps outputs.

The entries have an empty patch, so they are kept without a timeline too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from poundlock.codecs import load, pack
from poundlock.model.definitions import Fail
from poundlock.model.runs import LogRow
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.steps import StageDone

_NOTED: Final = "stage:output"
_NO_CHANGE: Final = "{}"


def note_output(run: ActiveRun, done: StageDone) -> None:
    """Note what a stage came to: what its step returned, or each of its steps. With Fail it came to nothing."""
    if any(type(step.instruction) is Fail for step in done.steps):
        return
    results = {step.step.id: step.result for step in done.steps}
    output, text = pack(results if len(results) > 1 else next(iter(results.values())), done.stage.id)
    run.outputs = {**(run.outputs or {}), done.stage.id: output}
    run.journal.add(run.clock.now(), "pipeline", _NOTED, done.stage.path_json, text, _NO_CHANGE)


def outputs_in(rows: Iterable[LogRow]) -> dict[str, Any]:
    """Return the latest output of each stage by a run's log."""
    outputs: dict[str, Any] = {}
    for row in rows:
        for _, _, kind, path, payload, _ in load(row.text):
            if kind == _NOTED:
                outputs[path.split("/")[1]] = payload
    return outputs
