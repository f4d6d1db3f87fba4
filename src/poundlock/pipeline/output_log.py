"""What stages came to, as the run's log has it: one entry per commit of a stage, if the workflow keeps outputs.

The entries have an empty patch, so they are kept without a timeline too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from poundlock.codecs import pack
from poundlock.model.definitions import Fail
from poundlock.model.mending import OUTPUT, outputs_before
from poundlock.model.runs import LogRow
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.steps import StageDone

_NO_CHANGE: Final = "{}"


def note_output(run: ActiveRun, done: StageDone) -> None:
    """Note what a stage came to: what its step returned, or each of its steps. With Fail it came to nothing."""
    if any(type(step.instruction) is Fail for step in done.steps):
        return
    results = {step.step.id: step.result for step in done.steps}
    output, text = pack(results if len(results) > 1 else next(iter(results.values())), done.stage.id)
    run.outputs = {**(run.outputs or {}), done.stage.id: output}
    run.journal.add(run.clock.now(), "pipeline", OUTPUT, done.stage.path_json, text, _NO_CHANGE)


def outputs_in(rows: Sequence[LogRow]) -> dict[str, Any]:
    """Return the latest output of each stage by a run's log."""
    return {path.split("/")[1]: output for path, output in outputs_before(rows, None).items()}
