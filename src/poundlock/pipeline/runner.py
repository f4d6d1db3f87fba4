"""The map of a run: at a wait, in a stage, commit, and again, until there is an Outcome.

What the run writes on its way leaves through `Progress`; what it came to is returned. The last boundary is not
committed here: its changes belong into the one commit that also frees the slot, which is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from poundlock.clock import sleep_for
from poundlock.codecs import dump
from poundlock.errors import RuntimeStopped, StageGone, VisitLimit
from poundlock.model.changes import Changes
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import Message, WaitRow
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.at_wait import standing
from poundlock.pipeline.concluding import Driven, conclude
from poundlock.pipeline.inbox import abort_request
from poundlock.pipeline.outcome import Outcome, Released, aborted, complete, failed, run_error
from poundlock.pipeline.plan import StagePlan
from poundlock.pipeline.short_way import pass_through
from poundlock.pipeline.steps import perform
from poundlock.pipeline.waits import rearm
from poundlock.pipeline.writing import changes_of

_RUNNING = RunStatus.RUNNING
_LONG_LOOP = 64
"""Visits to one stage after which a run lets others go on: one that never waits for anything would keep the loop."""


class Progress(Protocol):
    """Where a run's boundaries go."""

    async def boundary(self, run: ActiveRun, changes: Changes) -> None:
        """Commit a boundary the run goes on from."""

    async def resumed(self, run: ActiveRun) -> None:
        """Hear that the run left the wait it stood at and goes on, with what resumed it folded in."""


def begin(run: ActiveRun) -> None:
    """Stand at the first stage of a new run, with its declared waits armed."""
    rearm(run)


async def drive(run: ActiveRun, progress: Progress) -> Driven:
    """Take a run from where it stands to an outcome.

    Raises:
        asyncio.CancelledError: the task was cancelled for another reason than an abort of this run.
        PoundlockError: a commit failed; the run stands where its last commit left it.
    """
    by_id = run.plan.by_id
    stage = by_id.get(run.stage or "")
    try:
        while True:
            if (run.inbox or run.backlog) and abort_request(run) is not None:
                return _aborted(run)
            if run.stopping:
                return Driven(Released(), run.position(), None)
            if run.waits and (row := run.parked) is not None:
                if (driven := await _at_wait(run, row, progress)) is not None:
                    return driven
                stage = by_id.get(run.stage or "")
            if stage is None:
                return _nowhere(run)
            visits = _enter(run, stage)
            if visits > 1 and (driven := await _again(run, stage, visits)) is not None:
                return driven
            run.interruptible = True
            try:
                driven = await (_in_stage(run, stage) if stage.only is None else pass_through(run, stage, stage.only))
            finally:
                run.interruptible = False
            if driven is not None:
                return driven
            stage = by_id.get(run.stage or "")
            # A stage in which nothing of the user's runs needs no commit before it: its boundary rides in the next one.
            if stage is None or not stage.silent or run.parked is not None:
                await progress.boundary(run, changes_of(run, _RUNNING))
    except asyncio.CancelledError:
        return cancelled(run)


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
        run.interruptible = True
        try:
            outcome = await conclude(run, driven.done, before)
        finally:
            run.interruptible = False
        if outcome is not None:
            return Driven(outcome, before, driven.done)
        await progress.boundary(run, changes_of(run, _RUNNING))
    except asyncio.CancelledError:
        return cancelled(run)
    return await drive(run, progress)


async def _at_wait(run: ActiveRun, row: WaitRow, progress: Progress) -> Driven | None:
    """Leave the wait the run stands at; an outcome if it has to stay there, or ends."""
    before = run.position()
    outcome = standing(run, row)
    if outcome is not None:
        return Driven(outcome, before, None)
    await progress.resumed(run)
    return None


def _enter(run: ActiveRun, stage: StagePlan) -> int:
    """Note that a stage begins; returns how often it was begun by now."""
    run.entered_at = run.log_seq + len(run.journal.parts)
    visits = run.visits[stage.id] = run.visits.get(stage.id, 0) + 1
    if run.recovered or run.journal.full:
        _note_start(run, stage, stage.start_entries if visits <= run.plan.visit_limit else stage.start_entries[:1])
    return visits


async def _again(run: ActiveRun, stage: StagePlan, visits: int) -> Driven | None:
    """Begin a stage once more: an outcome if that was too often."""
    if visits > run.plan.visit_limit:
        before = run.position()
        return Driven(_endless(run, stage), before, None)
    if not visits % _LONG_LOOP:
        await sleep_for(run.clock, 0)
    return None


async def _in_stage(run: ActiveRun, stage: StagePlan) -> Driven | None:
    """Perform a stage and conclude it; an outcome if the run does not go on behind it."""
    done = await perform(run, stage)
    before = run.position()
    outcome = await conclude(run, done, before)
    return None if outcome is None else Driven(outcome, before, done)


def _note_start(run: ActiveRun, stage: StagePlan, entries: Sequence[str]) -> None:
    """Note that a stage begins; where the last owner died in it, that it begins again."""
    journal = run.journal
    if run.recovered:
        payload = dump({"attempt": run.attempt, "recovered": True})
        journal.add(run.clock.now(), "pipeline", "stage:start", stage.path_json, payload)
        run.recovered = False
        entries = entries[1:]
    if journal.full:
        journal.put(run.clock.now(), *entries)


def _endless(run: ActiveRun, stage: StagePlan) -> Outcome:
    error = VisitLimit(
        f"stage '{stage.id}' was entered more than {run.plan.visit_limit} times: end the loop, "
        f"or raise the workflow's visit_limit",
        path=stage.path,
    )
    return failed(run, run_error(error, stage.id, None), stage.path_json)


def _nowhere(run: ActiveRun) -> Driven:
    """Decide for a run that stands at no stage: resumed behind its last one, or at one that is gone."""
    before = run.position()
    if run.stage is None:
        return Driven(complete(run, None), before, None)
    known = ", ".join(run.plan.by_id)
    error = StageGone(
        f"the run stands at stage '{run.stage}', which pipeline '{run.plan.id}' no longer has ({known}): "
        f"restore the stage, or abort the run",
        path=run.plan.id,
    )
    return Driven(failed(run, run_error(error, run.stage, None), run.plan.path_json), before, None)


def cancelled(run: ActiveRun) -> Driven:
    """Tell an abort, which is an outcome, from the end of the process, which is not.

    Raises:
        asyncio.CancelledError: it is the end of the process.
    """
    task = asyncio.current_task()
    if abort_request(run) is None or task is None:
        raise asyncio.CancelledError
    while task.cancelling():
        task.uncancel()
    return _aborted(run)


def _aborted(run: ActiveRun) -> Driven:
    run.abort = abort_request(run)
    run.consumed.clear()
    before = run.position()
    return Driven(aborted(run), before, None)


def stopped(run: ActiveRun) -> RuntimeStopped:
    """Return the error for whoever waits for a run that this runtime no longer drives."""
    return RuntimeStopped(
        f"the runtime stopped before run '{run.identity.run_id}' ended: start it again and the run goes on",
        run_id=run.identity.run_id,
    )
