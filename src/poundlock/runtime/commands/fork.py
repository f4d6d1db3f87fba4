"""Forking a run: a new run that begins where another one was, with the state it had there. That one is not changed.

A fork is created `ready`, with everything it needs of the other run: so it is claimed, and obeys the mode, like a run
that goes on, and it does not matter what becomes of the other run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poundlock.codecs import dump
from poundlock.errors import InvalidDefinition
from poundlock.model.changes import RunCreate, RunMove
from poundlock.model.hiding import NOTED, noted_masks
from poundlock.model.lifecycle import RunStatus
from poundlock.model.mending import (
    FORKED,
    Course,
    Point,
    check_stage,
    definition_before,
    entry_point,
    outputs_before,
    read_course,
    stage_point,
    state_before,
)
from poundlock.model.quoting import shown
from poundlock.model.runs import Checkpoint, LogRow, RunHead, RunIdentity, RunInfo, RunRecord, StoredEvent
from poundlock.model.timeline import read_entries
from poundlock.pipeline.changing import FAIL, PINNED, migrated_state
from poundlock.pipeline.journal import Journal
from poundlock.records import dataclass
from poundlock.runtime.core import Core
from poundlock.runtime.entries import Registered
from poundlock.runtime.mending import Beginning, judged, known_entry, mended_row, taken
from poundlock.runtime.reading import get_run
from poundlock.runtime.runs import created_detail
from poundlock.sensitive import paths_of
from poundlock.stores.answers import not_found


@dataclass(frozen=True, slots=True)
class Fork:
    """Start a new run from a recorded point of another one, whatever that one is doing.

    Args:
        at: a stage, for its latest start; or the number of an entry of the timeline, for the stage it belongs to.
        patch: merged into the state at that start.
        by, reason, elsewhere: see `Retry`.
    """

    run_id: str
    at: str | int
    patch: Mapping[str, Any] | None = None
    by: str = "api"
    reason: str = ""
    elsewhere: bool = False


async def fork(core: Core, command: Fork) -> RunInfo:
    """Handle `Fork`; returns the new run when it is durable.

    Raises:
        RunNotFound: no such run. NotMendable: it was never at that point. StageGone: there is no such stage.
        NotRegistered: its workflow is not registered here. InvalidDefinition: `at` is neither a stage nor an entry.
        StateInvalid, NotStorable: the state does not fit with this patch.
    """
    core.check_accepting()
    at = command.at
    if isinstance(at, bool) or not isinstance(at, str | int):
        raise InvalidDefinition(f"at is {shown(at)}: name a stage, or the number of a timeline entry", path="at")
    given = None if command.patch is None else taken(command.patch)
    checkpoint = await core.store.checkpoint(command.run_id)
    if checkpoint is None:
        raise not_found(command.run_id)
    source = checkpoint.record.identity
    entry = known_entry(core, source.workflow_id, elsewhere=command.elsewhere)
    rows = await core.store.history(command.run_id)
    if not rows:
        raise not_found(command.run_id)  # it was deleted meanwhile
    point = _point(command, entry, source.pipeline_id, read_course(rows), rows[-1])
    state = state_before(rows, point.seq)
    now = core.clock.now()
    written_under = definition_before(rows, point.seq) or source.definition_hash
    if entry is not None:
        state, written_under = _brought_up(entry, source.pipeline_id, state, written_under), entry.definition.hash
    identity = _identity(core, source, written_under, now)
    path = dump(source.pipeline_id)
    journal = Journal(full=core.timeline)
    created = created_detail(checkpoint.event, source.trigger_id)
    journal.add(now, "dispatch", "run:created", path, created, dump(state))
    begins = {"run_id": command.run_id, "stage": point.stage, "seq": point.seq}
    journal.add(now, "dispatch", FORKED, path, dump({"by": command.by, "reason": command.reason, "from": begins}), "{}")
    plan = None if entry is None else entry.plans.get(source.pipeline_id)
    hidden = (*noted_masks(read_entries(rows)), *(plan.secrets.masks if plan is not None and plan.secrets else ()))
    if hidden:  # for readers that do not know the workflow
        journal.add(now, "state", NOTED, path, dump({"paths": paths_of(hidden)}), "{}")
    for place, output in outputs_before(rows, point.seq).items():
        journal.add(now, "pipeline", "stage:output", dump(place), dump(output), "{}")
    beginning = Beginning(point.stage, state, (mended_row(1),), journal)
    create = _creation(core, checkpoint, identity, beginning, entry, given, now)
    await core.tasks.to_the_end(_commit(core, create))
    return await get_run(core, identity.run_id)


async def _commit(core: Core, create: RunCreate) -> None:
    await core.commit(create)
    core.wake_at(create.start.updated_at)


def _point(command: Fork, entry: Registered | None, pipeline_id: str, course: Course, last: LogRow) -> Point:
    plan = None if entry is None else entry.plans.get(pipeline_id)
    known = () if plan is None else list(plan.by_id)
    first = None if plan is None else plan.course[0]
    if isinstance(command.at, str):
        if entry is not None:
            check_stage(command.at, known, pipeline_id)
        return stage_point(course, command.at, first, command.run_id)
    point = entry_point(course, command.at, last.first_seq + last.size - 1, first, command.run_id)
    if entry is not None:
        check_stage(point.stage, known, pipeline_id)
    return point


def _brought_up(entry: Registered, pipeline_id: str, state: dict[str, Any], written_under: str) -> dict[str, Any]:
    """Return a state as the workflow's `migrate` leaves it: the new run belongs to the definition of now."""
    plan = entry.plans[pipeline_id]
    if plan.migrate is None or plan.on_change in (FAIL, PINNED) or written_under == plan.definition_hash:
        return state
    return migrated_state(plan.state_model, plan.migrate, state, written_under)


def _identity(core: Core, source: RunIdentity, definition_hash: str, now: float) -> RunIdentity:
    run_id = core.ids.uuid7(now)
    return source._replace(
        run_id=run_id,
        definition_hash=definition_hash,
        parent_id=None,
        lineage=(*source.lineage, source.run_id),
        created_at=now,
        event_ref=run_id,
    )


def _creation(
    core: Core,
    checkpoint: Checkpoint,
    identity: RunIdentity,
    beginning: Beginning,
    entry: Registered | None,
    given: Any,
    now: float,
) -> RunCreate:
    visits = dump(beginning.stage)
    head = RunHead(RunStatus.READY, 0, None, 1, beginning.stage, 1, None, None, False, 0, 0, now, visits)
    begun = checkpoint._replace(record=RunRecord(identity, head, ()), log_size=0, snapshot_size=0)
    waits = judged(core, begun, beginning, entry, given)
    start = RunMove(
        run_id=identity.run_id,
        version=0,
        epoch=1,
        inbox=None,
        status=RunStatus.READY,
        owner=None,
        new_epoch=1,
        stage=beginning.stage,
        attempt=1,
        wake_at=None,
        outcome=None,
        slot=False,
        updated_at=now,
        log=beginning.journal.row(1),
        waits=waits,
        visits=visits,
    )
    return RunCreate(identity, start, StoredEvent(identity.run_id, checkpoint.event))
