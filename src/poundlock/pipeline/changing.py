"""Runs that come back under another definition than the one that wrote them: a deployment between two stages.

A definition is known by its hash. A run has that of the definition it began under, until its state is migrated: from
then on a row of its waits has that of the one it was migrated for. What cannot go on stays paused with the reason, as
a run does whose state does not fit its model: a bad deployment must not end runs for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from poundlock.codecs import TYPE_TAG, detach, dump, pack_patch
from poundlock.errors import DefinitionChanged, StageGone, StateInvalid
from poundlock.guard import call_now, for_the_process, name_of
from poundlock.marks import DELETE, Overwrite
from poundlock.model.patches import merge
from poundlock.model.runs import DEFINITION_WAIT, RunError, RunIdentity, WaitRow, own_row
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.at_wait import stay, wait_for_state
from poundlock.pipeline.concluding import Driven
from poundlock.pipeline.inbox import absorb, apply
from poundlock.pipeline.outcome import aborted, failed, run_error
from poundlock.pipeline.states import Written, as_data, begun
from poundlock.pipeline.waits import note

FAIL, PINNED = "fail", "pinned"
"""What a workflow may say of runs whose definition has changed, besides "continue"."""


def written_under(identity: RunIdentity, waits: Iterable[WaitRow]) -> str:
    """Return the hash of the definition that a run's state is written under."""
    for row in waits:
        if row.wait_id == DEFINITION_WAIT and isinstance(row.patch, Mapping):
            return str(row.patch["hash"])
    return identity.definition_hash


def has_changed(run: ActiveRun) -> bool:
    """Whether the definition is another one than the run's state is written under."""
    return written_under(run.identity, run.waits) != run.plan.definition_hash


def outdated(run: ActiveRun) -> Driven | None:
    """Look at a run that comes back: an outcome if it cannot go on with the definition as it is now."""
    plan = run.plan
    if has_changed(run):
        if plan.on_change == FAIL:
            before = run.position()
            return Driven(failed(run, run_error(other_definition(run), run.stage, None), plan.path_json), before, None)
        if plan.on_change == PINNED:
            return hold(run, run_error(other_definition(run), run.stage, None))
        error = migrate(run)
        if error is not None:
            return hold(run, error)
    if not plan.by_id:
        return hold(run, run_error(pipeline_gone(run.identity), run.stage, None))
    return None


def hold(run: ActiveRun, error: RunError) -> Driven:
    """Keep a run paused until its definition fits: at the wait it is paused at, else at one that is made for this."""
    before = run.position()
    answer = absorb(run)
    if run.abort is not None:
        return Driven(aborted(run), before, None)
    row = run.parked
    if row is None:
        row = wait_for_state(run)
    elif answer is not None:  # a process that does not know the workflow has taken it
        note(run, "wait:refused", row, {"message": error.message, "code": error.code}, dump)
    return Driven(stay(run, row, error, "definition"), before, None)


# ------------------------------------------------------------------------------------------------------ the reasons
def is_lost(run: ActiveRun) -> bool:
    """Whether the run is at a stage that its pipeline does not have."""
    return run.stage is not None and run.stage not in run.plan.by_id


def stage_gone(run: ActiveRun, stage: str | None) -> StageGone:
    """Return the error of a run that is at, or on its way to, a stage that no longer exists."""
    known = ", ".join(run.plan.by_id)
    return StageGone(
        f"the run goes on at stage '{stage}', which pipeline '{run.plan.id}' no longer has ({known}): restore the "
        f"stage, or abort the run",
        path=run.plan.id,
        stage=stage,
    )


def pipeline_gone(identity: RunIdentity) -> StageGone:
    """Return the error of a run whose pipeline no longer exists."""
    return StageGone(
        f"run '{identity.run_id}' belongs to pipeline '{identity.pipeline_id}', which workflow "
        f"'{identity.workflow_id}' no longer has: restore it, or abort the run",
        path=identity.pipeline_id,
        run_id=identity.run_id,
    )


def other_definition(run: ActiveRun) -> DefinitionChanged:
    """Return the error of a run that its workflow does not let go on under another definition."""
    before = written_under(run.identity, run.waits)
    return DefinitionChanged(
        f"run '{run.run_id}' belongs to definition {before} of workflow '{run.identity.workflow_id}', which is "
        f"{run.plan.definition_hash} now: register that definition again, abort the run, or change on_change",
        path=run.plan.id,
        run_id=run.run_id,
        definition_hash=before,
    )


def check_resumable(run: ActiveRun, event_type: str | None) -> None:
    """Refuse an answer by hand that leads nowhere under the definition as it is now.

    Raises:
        StageGone: the stage that follows no longer exists.
        DefinitionChanged: the workflow lets its runs go on under their own definition only.
    """
    if run.plan.on_change == PINNED and has_changed(run):
        raise other_definition(run)
    row = run.parked
    following = None if row is None else row.stage_after(event_type)
    if following is not None and following not in run.plan.by_id:
        raise stage_gone(run, following)


# -------------------------------------------------------------------------------------------------------- migration
def migrate(run: ActiveRun) -> RunError | None:
    """Have the workflow's `migrate` bring the state up to date, once; returns why that failed.

    The change is noted as a patch, so it is written with the next commit, and a replay comes to the same state.
    """
    plan = run.plan
    if plan.migrate is None or plan.on_change in (FAIL, PINNED) or run.undoing is not None or not has_changed(run):
        return None
    before = written_under(run.identity, run.waits)
    try:
        state = migrated_state(plan.state_model, plan.migrate, run.state, before)
        detail = dump({"from": before, "to": plan.definition_hash})
        apply(run, _difference(run.state, state), plan.path_json, "state:migrated", detail)
    except BaseException as error:
        if for_the_process(error):
            raise
        return run_error(error, run.stage, None)
    row = own_row(DEFINITION_WAIT, epoch=run.version + 1, on_timeout="resume", patch={"hash": plan.definition_hash})
    run.waits = (*(other for other in run.waits if other.wait_id != DEFINITION_WAIT), row)
    return None


def migrated_state(
    model: Any, function: Callable[[dict[str, Any], str], Any], state: dict[str, Any], definition_hash: str
) -> dict[str, Any]:
    """Return what a workflow's `migrate` makes of a state, as it is stored.

    Raises:
        StateInvalid, NotStorable: it is not a state of this model.
        BaseException: what the function raised.
    """
    answer = call_now(function, detach(state), definition_hash)
    if answer.error is not None:
        raise answer.error
    data = as_data(model, answer.value)
    if not isinstance(data, Mapping):
        raise StateInvalid(
            f"migrate returned a {name_of(type(answer.value))}: let it return the whole state as a mapping",
            path="migrate",
        )
    migrated, text = pack_patch(dict(data), "migrate")
    if TYPE_TAG in text:
        migrated = merge({}, migrated)
    return migrated if model is None else begun(model, migrated, text).patch


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Written:
    """Return the patch that leads from one state to another, key by key."""
    patch: dict[str, Any] = {key: DELETE for key in before if key not in after}
    for key, value in after.items():
        if key not in before or dump(before[key]) != dump(value):
            patch[key] = Overwrite(value)
    return Written(*pack_patch(patch, "migrate"))
