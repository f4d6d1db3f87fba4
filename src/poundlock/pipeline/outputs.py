"""The outputs of stages, as steps ask for them by `ctx.require` and `ctx.optional`. `output_log` keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poundlock.codecs import detach
from poundlock.errors import OutputMissing, StateInvalid, suggest
from poundlock.guard import name_of, repr_of
from poundlock.pipeline.plan import OutputPlan, PipelinePlan
from poundlock.pipeline.states import first_fault


def output_of(plan: PipelinePlan, outputs: Mapping[str, Any] | None, stage_id: str, *, required: bool) -> Any:
    """Return the latest output of a stage, detached; None if it has none and is not required.

    Raises:
        OutputMissing: it has none and is required, there is no such stage, or outputs are not kept.
        StateInvalid: it does not fit the output model of now.
    """
    if outputs is None:
        raise OutputMissing(
            f"the outputs of stages are not kept in pipeline '{plan.id}': give Workflow(keep_outputs=True), or build "
            f"it with flow()",
            path=plan.id,
        )
    if isinstance(stage_id, str) and stage_id in outputs:
        stage = plan.by_id.get(stage_id)
        read = None if stage is None else stage.output
        value = detach(outputs[stage_id])
        return value if read is None else _read(f"{plan.id}/{stage_id}", read, value)
    exists = isinstance(stage_id, str) and stage_id in plan.by_id
    if exists and not required:
        return None
    named = stage_id if isinstance(stage_id, str) else repr_of(stage_id, 60)
    ran = f"with an output so far: {', '.join(outputs)}" if outputs else "no stage has an output so far"
    if exists:
        said = f"stage '{named}' has no output yet ({ran}): ask for it in a later stage, or with ctx.optional"
    else:
        said = f"pipeline '{plan.id}' has no stage '{named}': {suggest(named, list(plan.by_id))} ({ran})"
    raise OutputMissing(said, path=plan.id, stage=named, ran=list(outputs))


def _read(path: str, read: OutputPlan, value: Any) -> Any:
    if read.single:
        return _as_model(path, next(iter(read.models.values()), None), value)
    if not isinstance(value, dict):
        return value  # of a former definition, where the stage had one step
    return {step: _as_model(f"{path}/{step}", read.models.get(step), each) for step, each in value.items()}


def _as_model(path: str, model: Any, value: Any) -> Any:
    if model is None or value is None:
        return value
    from poundlock.state.typed import read

    answer = read(model, value)
    if answer.error is None:
        return answer.value
    fault = first_fault(answer.error)
    raise StateInvalid(
        f"the stored output at '{path}' is no {name_of(model)}: {fault.text}", path=f"{path}.output"
    ) from fault.cause
