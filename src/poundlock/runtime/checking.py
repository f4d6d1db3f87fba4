"""Which stored runs could not go on with these definitions: asked before a deployment, of a store that is only read.

It says what a runtime would find: `pipeline/changing.py` for what is gone, the state's model for what does not fit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from poundlock.errors import DefinitionChanged, NotRegistered, RunDamaged, StageGone, suggest
from poundlock.guard import call_now, describe
from poundlock.model.definitions import Pause, Pipeline
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import UNDO_WAIT, RunQuery, RunRecord, WaitRow
from poundlock.model.wait_checks import ends_wait
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.changing import migrated_state, written_under
from poundlock.pipeline.states import validate
from poundlock.ports import Store
from poundlock.records import dataclass

ACTIVE: Final = tuple(status for status in RunStatus if not status.terminal)
WAIT_GONE: Final = "WAIT_GONE"
"""The code of a run that waits at a wait whose patch function is gone; the others are codes of errors."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A stored run that could not go on.

    Attributes:
        run_id, workflow_id: which run.
        status, stage: where it is.
        code: the code of the error that it would be paused or refused with.
        text: why, for people.
    """

    run_id: str
    workflow_id: str
    status: RunStatus
    stage: str | None
    code: str
    text: str


async def active_runs(store: Store) -> AsyncIterator[RunRecord]:
    """Yield the runs that have not ended, newest first."""
    query = RunQuery(status=ACTIVE, limit=500)
    while True:
        page = await store.find(query)
        for record in page.items:
            yield record
        if page.next_cursor is None:
            return
        query = replace(query, cursor=page.next_cursor)


async def misfits(store: Store, record: RunRecord, definitions: Mapping[str, WorkflowDefinition]) -> list[Misfit]:
    """Return why a run could not go on with these definitions; only models and `migrate` are called."""
    identity, head = record.identity, record.head
    definition = definitions.get(identity.workflow_id)
    if definition is None:
        found = [(NotRegistered.code, f"no such workflow: {suggest(identity.workflow_id, list(definitions))}")]
    else:
        found = list(_structural(record, definition)) or await _of_state(store, record, definition)
    return [Misfit(identity.run_id, identity.workflow_id, head.status, head.stage, *each) for each in found]


def _structural(record: RunRecord, definition: WorkflowDefinition) -> Iterator[tuple[str, str]]:
    identity, waits = record.identity, record.waits
    if any(row.wait_id == UNDO_WAIT for row in waits):
        return  # its end is decided; an undo that is gone is only recorded
    before = written_under(identity, waits)
    if definition.on_change != "continue" and before != definition.hash:
        said = f"it belongs to definition {before}, this one is {definition.hash}"
        yield DefinitionChanged.code, f"{said}, and on_change='{definition.on_change}'"
        return
    pipeline = definition.pipelines.get(identity.pipeline_id)
    if pipeline is None:
        near = suggest(identity.pipeline_id, list(definition.pipelines))
        yield StageGone.code, f"there is no pipeline '{identity.pipeline_id}': {near}"
        return
    stages = [stage.id for stage in pipeline.stages]
    row = next((row for row in waits if row.parked), None)
    targets = [record.head.stage] if row is None else _targets(row)
    for target in dict.fromkeys(targets):
        if target is not None and target not in stages:
            yield StageGone.code, f"pipeline '{pipeline.id}' has no stage '{target}': {suggest(target, stages)}"
    if row is not None and row.patch == "call" and row.wait_id not in _declared(pipeline):
        yield WAIT_GONE, f"no stage declares the wait '{row.wait_id}', whose patch is a function"


def _targets(row: WaitRow) -> list[str | None]:
    """Return the stages that a wait may lead to."""
    late = None if ends_wait(row.on_timeout) else row.on_timeout
    return [row.resume_at, *(stage for _, stage in row.leads_to), late]


def _declared(pipeline: Pipeline) -> set[str]:
    return {stage.router.wait.id or stage.id for stage in pipeline.stages if isinstance(stage.router, Pause)}


async def _of_state(store: Store, record: RunRecord, definition: WorkflowDefinition) -> list[tuple[str, str]]:
    model = definition.state_of(record.identity.pipeline_id)
    if model is None and definition.migrate is None:
        return []
    try:
        checkpoint = await store.checkpoint(record.identity.run_id)
    except RunDamaged as damage:
        return [(damage.code, damage.message)]
    if checkpoint is None:
        return []  # it has ended and was deleted meanwhile
    before = written_under(record.identity, record.waits)

    def read() -> Any:
        state = checkpoint.state
        if definition.migrate is not None and before != definition.hash:
            state = migrated_state(model, definition.migrate, state, before)
        if model is not None:
            validate(model, state)

    error = call_now(read).error
    if error is None:
        return []
    said = describe(error)
    return [(said.code or said.type, said.message)]
