"""Services of one visit of a stage: made when first needed, closed after the router and before the commit.

House rules: a workflow without such services never uses this file. A visit is closed once. A stage whose services were
rolled back has failed for good: concluding it again, because messages came before the commit, cannot make it succeed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from poundlock.errors import LeaseLost, PoundlockError, RunAborted, RuntimeStopped
from poundlock.guard import Interrupted, Interruption, clear_cancellation, log_text
from poundlock.pipeline.active import ActiveRun, Position
from poundlock.pipeline.concluding import Driven, conclude
from poundlock.pipeline.deadline import late
from poundlock.pipeline.failing import left_nothing
from poundlock.pipeline.inbox import absorb
from poundlock.pipeline.interrupting import disturbed, judge
from poundlock.pipeline.outcome import Failed, Halted, Outcome, aborted, failure_of_outcome, run_error
from poundlock.pipeline.plan import StagePlan
from poundlock.pipeline.steps import StageDone, perform

if TYPE_CHECKING:  # heavy, and needed for a type alone
    from poundlock.artifacts import ArtifactContainer

log = logging.getLogger("poundlock.services")


class Visit:
    """A run's visit of a stage."""

    __slots__ = ("_container", "_run", "stage_id")

    def __init__(self, run: ActiveRun, stage_id: str) -> None:
        self._run = run
        self.stage_id = stage_id
        self._container: ArtifactContainer | None = None

    def services(self, of_run: ArtifactContainer) -> ArtifactContainer:
        """Return the container of this visit; it falls back to the run's."""
        if self._container is None:
            maker = self._run.plan.stage_services
            assert maker is not None  # noqa: S101 - else there is no visit
            self._container = maker.open(self._run, self.stage_id, of_run)
        return self._container

    async def close(self, failure: BaseException | None) -> BaseException | None:
        """Close the services; returns the error, if any. An abort meanwhile does not cut it short.

        Raises:
            asyncio.CancelledError: the task was cancelled nevertheless; closing continues without it.
        """
        run = self._run
        container, self._container = self._container, None
        if container is None or run.plan.stage_services is None:
            return None
        before, run.interruptible = run.interruptible, False
        try:
            return await run.plan.stage_services.close(container, self.stage_id, failure)
        finally:
            run.interruptible = before


async def visit(run: ActiveRun, stage: StagePlan, task: asyncio.Task[object]) -> Driven | None:
    """Perform a stage and conclude it; an outcome if the run does not continue after it.

    Raises:
        Interrupted: the run was interrupted; its services saw that as a failure.
    """
    run.visit = current = Visit(run, stage.id)
    try:
        try:
            try:
                done = await perform(run, stage, task)
            finally:
                if run.memo is not None:
                    await run.memo.finish(task)
        except Interrupted as interruption:
            await roll_back(run, current, task, interruption)
            raise
        except PoundlockError as error:  # a commit in the middle of the stage failed
            await _give_up(run, current, task, error)
            raise
        before = run.position()
        outcome = await _conclude(run, done, before, task, current)
        return None if outcome is None else Driven(outcome, before, done)
    finally:
        run.visit = None


async def conclude_again(
    run: ActiveRun, done: StageDone, before: Position, task: asyncio.Task[object]
) -> Outcome | None:
    """Conclude a stage whose services are closed already; its router gets new ones if it needs any."""
    run.visit = current = Visit(run, done.stage.id)
    try:
        return await _conclude(run, done, before, task, current)
    finally:
        run.visit = None


async def _conclude(
    run: ActiveRun, done: StageDone, before: Position, task: asyncio.Task[object], current: Visit
) -> Outcome | None:
    stage, came = done.stage, tuple(run.inbox)
    try:
        outcome = await conclude(run, done, before, task)
    except Interrupted as interruption:
        await roll_back(run, current, task, interruption)
        raise
    failure = done.handled or failure_of_outcome(run, outcome)
    try:
        raised = await current.close(failure)
    except asyncio.CancelledError as cancelled:
        raised = cancelled
    if failure is not None:
        if raised is not None:
            _log(run, stage.id, raised)
            await clear_cancellation(task)
        if isinstance(outcome, Failed | Halted):
            done.error = outcome.error
        return outcome
    if raised is None and not disturbed(run, task):
        return outcome
    taken_in = [message for message in came if message not in run.inbox]
    try:
        raised = await judge(run, task, raised)
    except Interrupted:
        run.restore(before, taken_in)
        raise
    if raised is None:
        return outcome
    run.restore(before, taken_in)  # a failed stage leaves no patch behind, but messages count
    if run.backlog:
        absorb(run)
        if run.abort is not None:
            return aborted(run)
    run.failure = raised
    done.error = run_error(raised, stage.id, None)
    return left_nothing(run, done, done.error)


async def roll_back(run: ActiveRun, current: Visit, task: asyncio.Task[object], interruption: Interrupted) -> None:
    """Close the services of a visit that was interrupted; nothing of it counts."""
    await _give_up(run, current, task, _INTERRUPTED[interruption.interruption](run))


async def _give_up(run: ActiveRun, current: Visit, task: asyncio.Task[object], failure: PoundlockError) -> None:
    try:
        raised = await current.close(failure)
    except asyncio.CancelledError as cancelled:
        await clear_cancellation(task)
        raised = cancelled
    if raised is not None:
        _log(run, current.stage_id, raised)


_INTERRUPTED: Final[dict[Interruption, Callable[[ActiveRun], PoundlockError]]] = {
    Interruption.ABORT: lambda run: RunAborted(f"run '{run.run_id}' is being aborted"),
    Interruption.STOP: lambda run: RuntimeStopped(f"the runtime stops: run '{run.run_id}' continues later"),
    Interruption.DEADLINE: late,
    Interruption.LOST: lambda run: LeaseLost(f"run '{run.run_id}' is driven elsewhere now"),
}


def _log(run: ActiveRun, stage_id: str, error: BaseException) -> None:
    log.error("closing services of stage '%s' of run '%s' failed\n%s", stage_id, run.run_id, log_text(error))
