"""The loop over a run's stages: perform, conclude, commit, and again, until there is an Outcome.

What the run writes on its way leaves through `Progress`; what it came to is returned. The last boundary is not
committed here: its changes belong into the one commit that also frees the slot, which is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from poundlock.codecs import dump
from poundlock.errors import RuntimeStopped, StageGone, VisitLimit
from poundlock.model.changes import Changes
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import Message
from poundlock.pipeline.active import ActiveRun, Position
from poundlock.pipeline.boundary import aborted, complete, conclude, failed, standing
from poundlock.pipeline.outcome import Outcome, Paused, Released
from poundlock.pipeline.plan import StagePlan
from poundlock.pipeline.steps import StageDone, perform, run_error
from poundlock.pipeline.waiting import rearm


class Progress(Protocol):
    """Where a run's boundaries go."""

    async def boundary(self, run: ActiveRun, changes: Changes) -> None:
        """Commit a boundary the run goes on from."""


@dataclass(slots=True)
class Driven:
    """An outcome, and what is needed to conclude again if its commit finds messages the run has not seen."""

    outcome: Outcome
    before: Position
    done: StageDone | None


def begin(run: ActiveRun) -> None:
    """Stand at the first stage of a new run, with its declared waits armed."""
    rearm(run, None)


async def drive(run: ActiveRun, progress: Progress) -> Driven:
    """Take a run from where it stands to an outcome.

    Raises:
        asyncio.CancelledError: the task was cancelled for another reason than an abort of this run.
        PoundlockError: a commit failed; the run stands where its last commit left it.
    """
    row = run.parked
    if row is not None:
        before = run.position()
        outcome = standing(run, row)
        if outcome is not None:
            return Driven(outcome, before, None)
    try:
        return await _go_on(run, progress)
    except asyncio.CancelledError:
        return _cancelled(run)


async def reconsider(run: ActiveRun, driven: Driven, messages: Sequence[Message], progress: Progress) -> Driven:
    """Conclude again after a refused commit, with the messages it was refused for."""
    run.restore(driven.before, messages)
    if run.abort is not None:
        before = run.position()
        return Driven(aborted(run), before, None)
    if driven.done is None:
        return await drive(run, progress)
    try:
        before = run.position()
        outcome = await conclude(run, driven.done)
        if outcome is not None:
            return Driven(outcome, before, driven.done)
        await _commit(run, progress)
        return await _go_on(run, progress)
    except asyncio.CancelledError:
        return _cancelled(run)


async def _go_on(run: ActiveRun, progress: Progress) -> Driven:
    while True:
        if run.stopping:
            return Driven(Released(), run.position(), None)
        before = run.position()
        if run.stage is None:  # resumed behind the last stage
            return Driven(complete(run, None), before, None)
        stage = run.plan.by_id.get(run.stage)
        if stage is None:
            return Driven(_gone(run), before, None)
        refused = _enter(run, stage)
        if refused is not None:
            return Driven(refused, before, None)
        done = await perform(run, stage)
        before = run.position()
        outcome = await conclude(run, done)
        if outcome is not None:
            return Driven(outcome, before, done)
        await _commit(run, progress)


async def _commit(run: ActiveRun, progress: Progress) -> None:
    changes = run.changes(RunStatus.RUNNING)
    await progress.boundary(run, changes)


def _enter(run: ActiveRun, stage: StagePlan) -> Outcome | None:
    if run.journal.full:
        payload = dump({"attempt": run.attempt, "recovered": True}) if run.recovered else "null"
        run.journal.add(run.clock.now(), "pipeline", "stage:start", stage.path_json, payload)
        run.recovered = False
    if run.visits is None:
        run.visits = {}
    visits = run.visits[stage.id] = run.visits.get(stage.id, 0) + 1
    if visits <= run.plan.visit_limit:
        return None
    error = VisitLimit(
        f"stage '{stage.id}' was entered {visits} times: end the loop, or raise the workflow's visit_limit",
        path=stage.path,
    )
    return failed(run, run_error(error, stage.id, None), stage.path_json)


def _gone(run: ActiveRun) -> Outcome:
    known = ", ".join(run.plan.by_id)
    error = StageGone(
        f"the run stands at stage '{run.stage}', which pipeline '{run.plan.id}' no longer has ({known}): "
        f"restore the stage, or abort the run",
        path=run.plan.id,
    )
    return failed(run, run_error(error, run.stage, None), run.plan.path_json)


def _cancelled(run: ActiveRun) -> Driven:
    """Tell an abort, which is an outcome, from the end of the process, which is not."""
    task = asyncio.current_task()
    request = run.abort or next((message.body for message in run.inbox if message.kind == "abort"), None)
    if request is None or task is None:
        raise asyncio.CancelledError
    while task.cancelling():
        task.uncancel()
    run.abort = request
    run.consumed.clear()
    before = run.position()
    return Driven(aborted(run), before, None)


def stopped(run: ActiveRun) -> RuntimeStopped:
    """Return the error for whoever waits for a run that this runtime no longer drives."""
    return RuntimeStopped(
        f"the runtime stopped before run '{run.identity.run_id}' ended: start it again and the run goes on",
        run_id=run.identity.run_id,
    )


__all__ = ["Driven", "Paused", "Progress", "begin", "drive", "reconsider", "stopped"]
