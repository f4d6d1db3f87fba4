"""The map of a run: at a wait, in a stage, commit, and again, until there is an Outcome.

The run's boundaries leave through `Progress`; its outcome is returned. The last boundary is not
committed here: its changes belong to the one commit that also frees the slot, which the caller makes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol

from poundlock.clock import sleep_for
from poundlock.codecs import dump
from poundlock.errors import RuntimeStopped, VisitLimit
from poundlock.guard import Interrupted, Interruption, clear_cancellation
from poundlock.model.runs import LogRow, Message, WaitRow
from poundlock.model.timeline_entry import BUFFERED
from poundlock.pipeline.active import ActiveRun, Midway
from poundlock.pipeline.at_wait import decide_at_wait, misfit, stay, wait_for_state
from poundlock.pipeline.changing import hold, is_lost, outdated, stage_gone
from poundlock.pipeline.concluding import Driven, conclude, interrupted
from poundlock.pipeline.deadline import see_to, still_delayed
from poundlock.pipeline.failing import leave_route
from poundlock.pipeline.inbox import absorb
from poundlock.pipeline.interrupting import asked_for, current_task, disturbed, judge
from poundlock.pipeline.memo import QUIET, forget, is_logged, recall, recall_reason, visit_row
from poundlock.pipeline.operator_pausing import pause_due
from poundlock.pipeline.operator_requests import is_requested
from poundlock.pipeline.outcome import (
    Failed,
    Outcome,
    Paused,
    Released,
    aborted,
    complete,
    decided,
    failed,
    run_error,
)
from poundlock.pipeline.output_log import outputs_in
from poundlock.pipeline.plan import StagePlan
from poundlock.pipeline.short_way import pass_through
from poundlock.pipeline.stage_services import conclude_again, visit
from poundlock.pipeline.steps import perform
from poundlock.pipeline.waits import rearm

_LONG_LOOP = 64
"""Visits to one stage after which a run yields: a run that never awaits anything would block the event loop."""


class Progress(Midway, Protocol):
    """Takes a run's boundaries."""

    def boundary(self, run: ActiveRun) -> Awaitable[None] | None:
        """Commit a boundary from which the run continues; None if that is done and nothing has to be awaited."""

    async def resumed(self, run: ActiveRun) -> Driven | None:
        """Called when the run leaves its wait and continues, with the answer merged; an outcome if it fails there."""

    async def history(self, run: ActiveRun) -> list[LogRow]:
        """Return the log of a run, as far as it is committed."""


def begin(run: ActiveRun) -> None:
    """Set a new run to its first stage, with its declared waits armed."""
    if run.plan.keeps_outputs:
        run.outputs = {}
    rearm(run)


async def drive(run: ActiveRun, progress: Progress) -> Driven:
    """Drive a run from its position to an outcome.

    Raises:
        Interrupted: the runtime stops, or the run has another owner now; it is as its last commit left it.
        asyncio.CancelledError: a commit was cancelled, and the runtime did not ask for it.
        PoundlockError: a commit failed; the run is as its last commit left it.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that is driven has a task; the helper would be one call more
    if run.waits and (end := decided(run)) is not None:
        return Driven(end, run.position(), None)
    run.progress = progress
    by_id = run.plan.by_id
    stage = by_id.get(run.stage or "")
    left = 0
    try:
        if run.plan.keeps_outputs and run.outputs is None:  # it comes from its row
            run.outputs = outputs_in(await progress.history(run))
        if run.returning and (driven := await _came_back(run, progress, task)) is not None:
            return driven
        while True:
            if run.inbox or run.backlog or run.interruption is not None:
                _check_asked(run)
                if is_requested(run):
                    run.pausing = True
            if run.pausing and (driven := _paused_here(run)) is not None:
                return driven
            if run.stopping:
                return Driven(Released(), run.position(), None)
            if run.waits and (row := run.parked) is not None:
                if (driven := await _at_wait(run, row, progress, task)) is not None:
                    return driven
                stage = by_id.get(run.stage or "")
                left += 1
                if not left % _LONG_LOOP:  # visits count anew behind a wait, also where its event was there already
                    await sleep_for(run.clock, 0)
            if stage is None:
                return _without_stage(run)
            if run.waits:
                leave_route(run, stage)
                visits = _enter_again(run, stage) if await _in_the_middle(run, stage, progress) else _enter(run, stage)
            else:
                visits = _enter(run, stage)
            if visits > 1 and (driven := await _again(run, stage, visits)) is not None:
                return driven
            run.interruptible = True
            try:
                if stage.only is None:
                    driven = await _in_stage(run, stage, task)
                else:
                    driven = await pass_through(run, stage, stage.only, task)
            finally:
                run.interruptible = False
            if driven is not None:
                return driven
            stage = by_id.get(run.stage or "")
            # A stage without user code needs no commit before it: its boundary is part of the next commit.
            if (stage is None or not stage.silent or run.parked is not None) and (
                pending := progress.boundary(run)
            ) is not None:
                await pending
    except Interrupted as interruption:
        return await _interrupted(run, interruption, progress, task)
    except asyncio.CancelledError:
        return await _cancelled(run, progress, task)


async def reconsider(run: ActiveRun, driven: Driven, messages: Sequence[Message], progress: Progress) -> Driven:
    """Conclude again after a refused commit, with the messages that caused it. Raises the errors of `drive`."""
    task = current_task()
    run.restore(driven.before, messages)
    if run.abort is not None and run.undoing is None:
        before = run.position()
        return Driven(aborted(run), before, None)
    if driven.done is None:
        return await drive(run, progress)
    try:
        before = run.position()
        run.interruptible = True
        try:
            concluding = conclude if run.plan.stage_services is None else conclude_again
            outcome = await concluding(run, driven.done, before, task)
        finally:
            run.interruptible = False
        if outcome is not None:
            return Driven(outcome, before, driven.done)
        if (pending := progress.boundary(run)) is not None:
            await pending
    except Interrupted as interruption:
        return await _interrupted(run, interruption, progress, task)
    except asyncio.CancelledError:
        return await _cancelled(run, progress, task)
    return await drive(run, progress)


def _paused_here(run: ActiveRun) -> Driven | None:
    """Pause a run before its next stage, if operators want that; an answer to its wait is taken in at the wait."""
    before = run.position()
    if run.parked is None and is_requested(run):
        absorb(run)
        if run.abort is not None:
            return Driven(aborted(run), before, None)
    row = pause_due(run)
    return None if row is None else Driven(Paused(row), before, None)


def _check_asked(run: ActiveRun) -> None:
    """Begin nothing more once the runtime wants the run to stop (`Interrupted`)."""
    if (why := asked_for(run)) is not None:
        raise Interrupted(why)


async def _cancelled(run: ActiveRun, progress: Progress, task: asyncio.Task[Any]) -> Driven:
    """Decide for a run that was cancelled outside of user code, in a commit or while it yielded."""
    why = asked_for(run)
    if why is None:
        raise asyncio.CancelledError
    await clear_cancellation(task)
    return await _interrupted(run, Interrupted(why), progress, task)


async def _interrupted(
    run: ActiveRun, interruption: Interrupted, progress: Progress, task: asyncio.Task[Any]
) -> Driven:
    """Decide for a run that was interrupted; after its deadline it may go on. Raises the errors of `drive`."""
    if interruption.interruption is not Interruption.DEADLINE:
        return interrupted(run, interruption)
    if run.returning and (kept := outdated(run)) is not None:
        return kept
    before, was_paused = run.position(), run.parked is not None
    outcome = see_to(run)
    if outcome is not None:
        return Driven(outcome, before, None)
    try:
        if was_paused and (driven := await _resumed(run, progress, task)) is not None:
            return driven
        if (pending := progress.boundary(run)) is not None:  # so that it enters that stage once
            await pending
    except Interrupted as again:
        return interrupted(run, again)
    except asyncio.CancelledError:
        return await _cancelled(run, progress, task)
    return await drive(run, progress)


async def _came_back(run: ActiveRun, progress: Progress, task: asyncio.Task[Any]) -> Driven | None:
    """Check a run that was paused or delayed, or had another owner; an outcome if it cannot go on."""
    if run.plan.limit is not None:
        # The time it was paused has to be known after a crash too. It is still at its wait, so nothing else is lost.
        if run.waits is not run.stored_waits and (pending := progress.boundary(run)) is not None:
            await pending
        if (delayed := still_delayed(run)) is not None:
            return Driven(delayed, run.position(), None)
    if run.interruption is not None:
        return None
    unfit = _returned(run)
    if disturbed(run, task):
        await judge(run, task, None)
    return unfit


def _returned(run: ActiveRun) -> Driven | None:
    """Check a run that comes back: its definition, and its state after a delay or from another owner.

    Returns:
        An outcome if it cannot go on.
    """
    if (kept := outdated(run)) is not None or run.parked is not None:
        return kept
    before = run.position()
    error = misfit(run)
    if error is not None and (run.inbox or run.backlog):
        absorb(run)  # a signal may have mended it
        if run.abort is not None:
            return Driven(aborted(run), before, None)
        error = misfit(run)
    return None if error is None else Driven(stay(run, wait_for_state(run), error), before, None)


async def _at_wait(run: ActiveRun, row: WaitRow, progress: Progress, task: asyncio.Task[Any]) -> Driven | None:
    """Leave the wait the run is paused at; an outcome if it has to stay there, or ends."""
    if run.plan.replays and run.memo is None and (begun := visit_row(run)) is not None:
        recall(run, begun, await progress.history(run))  # what comes is put on record
    before, came = run.position(), tuple(run.inbox)
    try:
        outcome = await decide_at_wait(run, row)
    except Interrupted:
        run.restore(before, [message for message in came if message not in run.inbox])
        raise
    if disturbed(run, task):
        taken_in = [message for message in came if message not in run.inbox]
        try:
            stray = await judge(run, task, None)
        except Interrupted:
            run.restore(before, taken_in)
            raise
        if stray is not None and not isinstance(outcome, Failed):
            run.restore(before, taken_in)
            outcome = failed(run, run_error(stray, None, None), run.plan.path_json)
    if outcome is None and is_lost(run):
        error = run_error(stage_gone(run, run.stage), run.stage, None)
        run.restore(before, [message for message in came if message not in run.inbox])
        return hold(run, error)
    if outcome is not None:
        return Driven(outcome, before, None)
    return await _resumed(run, progress, task)


async def _resumed(run: ActiveRun, progress: Progress, task: asyncio.Task[Any]) -> Driven | None:
    """Tell that the run has left its wait; an outcome if it fails there.

    Raises:
        Interrupted: the run was interrupted meanwhile.
    """
    driven = None
    try:
        driven = await progress.resumed(run)
    except asyncio.CancelledError as error:
        await judge(run, task, error)  # a hook's own cancellation has no effect
    if disturbed(run, task):
        await judge(run, task, None)
    return driven


def _enter(run: ActiveRun, stage: StagePlan) -> int:
    """Note that a stage begins; returns how often it has begun."""
    journal, counts, stage_id = run.journal, run.visits, stage.id
    run.visit_key = run.entered_at = run.log_seq + len(journal.parts)
    if run.buffer or run.consumed:
        run.visit_key = run.entered_at - journal.count(
            BUFFERED
        )  # another owner finds these events among the buffered ones
    if not run.written:  # a creation may still be written as of here
        run.entered = stage_id
        run.entered_waits = run.waits
        run.entered_outgoing = run.outgoing
    visits = counts[stage_id] = counts.get(stage_id, 0) + 1
    if visits > 1 and not journal.full:
        run.visit_key = f"{run.entered_at}.{visits}"  # a visit that changes nothing leaves nothing in such a log
    if journal.full or run.recovered:
        _note_start(run, stage, stage.start_entries if visits <= run.plan.visit_limit else stage.start_entries[:1])
    return visits


async def _in_the_middle(run: ActiveRun, stage: StagePlan, progress: Progress) -> bool:
    """Whether the run continues a visit of this stage; then its memo is there."""
    row = visit_row(run)
    if row is None:
        return False
    assert isinstance(row.patch, Mapping)  # noqa: S101 - written by `memo`
    if row.patch["stage"] != stage.id:
        left = run.plan.by_id.get(row.patch["stage"])  # in the middle: at the end of its time, for one
        if left is None or any(step.children is not None for step in left.steps):
            from poundlock.pipeline.children import abandon  # most workflows have none

            await abandon(run, progress.history, f"the run has left stage '{row.patch['stage']}'")
        forget(run)
        return False
    if run.memo is None:
        recall(run, row, await progress.history(run) if is_logged(row) else ())
    recall_reason(run, row)
    run.entered_at = row.patch["entered_at"]
    run.visit_key = row.patch.get("key", run.entered_at)
    if stage.only is not None:
        forget(run)  # nothing of it is kept by this version of the workflow
    return True


def _enter_again(run: ActiveRun, stage: StagePlan) -> int:
    """Note that a stage continues; returns how often it has begun."""
    visits = run.visits[stage.id] = run.visits.get(stage.id) or 1
    if run.recovered:
        _note_recovery(run, stage, "stage:resume")  # no second start: it is the same visit
    elif run.journal.full and not (run.memo is not None and run.memo.kept.get(QUIET) is True):
        run.journal.add(run.clock.now(), "pipeline", "stage:resume", stage.path_json)
    return visits


async def _again(run: ActiveRun, stage: StagePlan, visits: int) -> Driven | None:
    """Check a repeated visit of a stage: an outcome if there were too many."""
    if visits > run.plan.visit_limit:
        before = run.position()
        return Driven(_endless(run, stage), before, None)
    if not visits % _LONG_LOOP:
        await sleep_for(run.clock, 0)
    return None


async def _in_stage(run: ActiveRun, stage: StagePlan, task: asyncio.Task[Any]) -> Driven | None:
    """Perform a stage and conclude it; an outcome if the run does not continue after it."""
    if run.plan.stage_services is not None:
        return await visit(run, stage, task)
    done = await perform(run, stage, task)
    before = run.position()
    outcome = await conclude(run, done, before, task)
    return None if outcome is None else Driven(outcome, before, done)


def _note_start(run: ActiveRun, stage: StagePlan, entries: Sequence[str]) -> None:
    """Note that a stage begins, or begins again if the last owner died in it."""
    if run.recovered:
        _note_recovery(run, stage, "stage:start")
        entries = entries[1:]
    journal = run.journal
    if journal.full:
        journal.put(run.clock.now(), *entries)


def _note_recovery(run: ActiveRun, stage: StagePlan, kind: str) -> None:
    """Note that the last owner died in a stage, which begins again or continues."""
    payload = dump({"attempt": run.attempt, "recovered": True})
    run.journal.add(run.clock.now(), "pipeline", kind, stage.path_json, payload)
    run.recovered = False


def _endless(run: ActiveRun, stage: StagePlan) -> Outcome:
    error = VisitLimit(
        f"stage '{stage.id}' was entered more than {run.plan.visit_limit} times without a pause or delay in between: "
        f"end the loop, or raise the workflow's visit_limit",
        path=stage.path,
    )
    return failed(run, run_error(error, stage.id, None), stage.path_json)


def _without_stage(run: ActiveRun) -> Driven:
    """Decide for a run without a stage: resumed after its last one, or at one that no longer exists."""
    if run.stage is None:
        before = run.position()
        return Driven(complete(run, None), before, None)
    return hold(run, run_error(stage_gone(run, run.stage), run.stage, None))


def stopped(run: ActiveRun) -> RuntimeStopped:
    """Return the error for those who wait for a run that this runtime no longer drives."""
    run_id = run.run_id
    if run.written:
        said = f"the runtime stopped before run '{run_id}' ended: start it again and the run continues"
    else:
        said = f"the runtime stopped before run '{run_id}' ended, and it was not stored yet: invoke it again"
    return RuntimeStopped(said, run_id=run_id)
