"""The loop over a run's stages: perform, conclude, commit, and again, until there is an Outcome.

What the run writes on its way leaves through `Progress`; what it came to is returned. The last boundary is not
committed here: its changes belong into the one commit that also frees the slot, which is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from poundlock.clock import sleep_until
from poundlock.codecs import dump
from poundlock.errors import RuntimeStopped, StageGone, VisitLimit
from poundlock.model.changes import Changes
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import Message
from poundlock.pipeline.active import ActiveRun, Position
from poundlock.pipeline.boundary import aborted, complete, conclude, cross, failed, may_cross, standing
from poundlock.pipeline.outcome import Outcome, Paused, Released
from poundlock.pipeline.plan import StagePlan
from poundlock.pipeline.steps import StageDone, perform, perform_only, run_error
from poundlock.pipeline.waiting import rearm

_RUNNING = RunStatus.RUNNING
_LONG_LOOP = 64
"""Visits to one stage after which a run lets others go on: one that never waits for anything would keep the loop."""


class Progress(Protocol):
    """Where a run's boundaries go."""

    async def boundary(self, run: ActiveRun, changes: Changes) -> None:
        """Commit a boundary the run goes on from."""

    async def resumed(self, run: ActiveRun) -> None:
        """Hear that the run left the wait it stood at and goes on, with what resumed it folded in."""


@dataclass(slots=True)
class Driven:
    """An outcome, and what is needed to conclude again if its commit finds messages the run has not seen."""

    outcome: Outcome
    before: Position
    done: StageDone | None


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
    try:
        while True:
            if (run.inbox or run.backlog) and abort_request(run) is not None:
                return _aborted(run)
            if run.stopping:
                return Driven(Released(), run.position(), None)
            row = run.parked if run.waits else None
            if row is not None:
                before = run.position()
                outcome = standing(run, row)
                if outcome is not None:
                    return Driven(outcome, before, None)
                await progress.resumed(run)
            stage = by_id.get(run.stage or "")
            if stage is None:
                before = run.position()
                # No stage at all: the run was resumed behind its last one.
                return Driven(complete(run, None) if run.stage is None else _gone(run), before, None)
            run.entered_at = run.log_seq + len(run.journal.parts)
            visits = run.visits[stage.id] = run.visits.get(stage.id, 0) + 1
            if run.recovered or run.journal.full:
                _note_start(
                    run, stage, stage.start_entries if visits <= run.plan.visit_limit else stage.start_entries[:1]
                )
            if visits > 1:
                if visits > run.plan.visit_limit:
                    before = run.position()
                    return Driven(_endless(run, stage), before, None)
                if not visits % _LONG_LOOP:
                    await sleep_until(run.clock, run.clock.now())
            run.interruptible = True
            try:
                if stage.only is None:
                    done = await perform(run, stage)
                else:
                    step = await perform_only(run, stage.only)
                    if stage.plain and may_cross(step, run):
                        if stage.following is None:
                            before = run.position()
                            cross(run, stage, step)
                            return Driven(complete(run, None), before, StageDone(stage, (step,)))
                        cross(run, stage, step)
                        run.interruptible = False
                        if not stage.rides:
                            await progress.boundary(run, run.changes(_RUNNING))
                        continue
                    done = StageDone.of(stage, step)
                before = run.position()
                outcome = await conclude(run, done, before)
                if outcome is not None:
                    return Driven(outcome, before, done)
            finally:
                run.interruptible = False
            following = by_id.get(run.stage or "")
            # A stage in which nothing of the user's runs needs no commit before it: its boundary rides in the next one.
            if following is None or not following.silent or run.parked is not None:
                await progress.boundary(run, run.changes(_RUNNING))
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
        await progress.boundary(run, run.changes(_RUNNING))
    except asyncio.CancelledError:
        return cancelled(run)
    return await drive(run, progress)


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
        f"stage '{stage.id}' was entered more than {run.plan.visit_limit} times without a pause or delay in between: "
        f"end the loop, or raise the workflow's visit_limit",
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


def abort_request(run: ActiveRun) -> Mapping[str, Any] | None:
    """Return the request to end this run, if there is one, taken in or not."""
    if run.abort is not None:
        return run.abort
    return next((message.body for message in (*run.backlog, *run.inbox) if message.kind == "abort"), None)


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


__all__ = ["Driven", "Paused", "Progress", "abort_request", "begin", "cancelled", "drive", "reconsider", "stopped"]
