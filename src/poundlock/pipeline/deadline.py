"""The deadline of a run: what passing it leads to, and what a run notes about it when it pauses and when it goes on.

The time of a run that is driven is watched by its driver, which interrupts it. A paused or delayed run wakes at its
deadline, because that is part of its wake time. So it holds after a crash and a restart too.
"""

from __future__ import annotations

from poundlock.codecs import dump
from poundlock.errors import RunTimeout
from poundlock.guard import Interruption
from poundlock.model.deadlines import RunLimit, keeping, kept_in
from poundlock.model.runs import FAILURE_WAIT
from poundlock.pipeline.active import JUMPED, ActiveRun
from poundlock.pipeline.at_wait import misfit, stay, wait_for_state
from poundlock.pipeline.inbox import abort_request, absorb
from poundlock.pipeline.outcome import Delayed, Halted, Outcome, Paused, aborted, failed, run_error
from poundlock.pipeline.waits import leave, rearm


def late(run: ActiveRun) -> RunTimeout:
    """Return the error of a run whose time is over."""
    assert run.plan.limit is not None  # noqa: S101 - else it has no deadline
    return too_late(run.plan.limit, run.plan.id)


def too_late(limit: RunLimit, pipeline_id: str) -> RunTimeout:
    """Return the error of a run of this pipeline that took longer than its limit."""
    return RunTimeout(
        f"the run took longer than {limit.seconds:g} s: raise the workflow's timeout or make the run faster",
        path=pipeline_id,
    )


def too_late_reason(limit: RunLimit) -> str:
    """Return why a run is aborted that took longer than its limit."""
    return f"it took longer than {limit.seconds:g} s"


def passed(run: ActiveRun) -> bool:
    """Whether the run's deadline has passed, and has not been handled yet."""
    deadline = run.deadline
    return deadline is not None and run.clock.now() >= deadline


def see_to(run: ActiveRun) -> Outcome | None:
    """Do what the workflow says about a run whose deadline has passed. None: it goes on, at the stage named there.

    The run is at its last position: nothing of an interrupted stage counts. A run whose state does not fit its model
    stays paused, as at any other time: a bad deployment must not end it.
    """
    limit, row = run.plan.limit, run.parked
    assert limit is not None  # noqa: S101 - else it has no deadline
    absorb(run)
    if run.abort is not None:
        return aborted(run)
    if run.returning and (unfit := misfit(run)) is not None:
        return stay(run, wait_for_state(run) if row is None else row, unfit)
    payload = dump({"timeout": limit.seconds, "on_timeout": limit.on_timeout})
    run.journal.add(run.clock.now(), "pipeline", "pipeline:timeout", run.plan.path_json, payload)
    if limit.on_timeout == "fail":
        run.failure = error = late(run)
        return failed(run, run_error(error, run.stage, None), run.plan.path_json)
    if limit.on_timeout == "abort":
        run.abort = {"reason": too_late_reason(limit), "by": "timeout"}
        return aborted(run)
    _lead_to(run, limit.on_timeout)
    return None


def _lead_to(run: ActiveRun, stage: str) -> None:
    """Set the run to a stage; what it was paused at or was handling is over, and it has no deadline any more."""
    row = run.parked
    if row is not None:
        leave(run, row, answered=False)
        run.waits = tuple([other for other in run.waits if other.wait_id != row.wait_id or not row.own])
    waits = [other for other in run.waits if other.wait_id != FAILURE_WAIT]
    run.waits = keeping(waits, kept_in(waits)._replace(used=True, until=None), run.version + 1)
    run.registered = run.resume = None
    run.interruption = None
    run.stage = run.plan.existing(stage)
    run.walk = JUMPED
    if row is not None:
        run.restart_counts()
    rearm(run)


# ------------------------------------------------------------------------------------------------ pauses and delays
def rests(run: ActiveRun, outcome: Outcome, wake_at: float | None) -> float | None:
    """Note that a run pauses or is delayed with this outcome, and return when it wakes; `wake_at`: without a deadline.

    What is noted is undone with the run's position, if the commit is refused.
    """
    limit, kept = run.plan.limit, kept_in(run.waits)
    if limit is None or kept.used or not isinstance(outcome, Paused | Delayed | Halted):
        return wake_at
    if limit.active:
        run.waits = keeping(run.waits, kept._replace(since=run.clock.now()), run.version + 1)
        return wake_at
    deadline = run.deadline
    assert deadline is not None  # noqa: S101 - neither used nor stopped
    if isinstance(outcome, Halted) and (outcome.wait.wait_id != FAILURE_WAIT or run.returning):
        return wake_at  # its state does not fit: no time resumes it, or it would be tried again and again
    until = wake_at if isinstance(outcome, Delayed) and wake_at is not None and wake_at > deadline else None
    if until != kept.until:
        run.waits = keeping(run.waits, kept._replace(until=until), run.version + 1)
    return deadline if wake_at is None else min(wake_at, deadline)


def goes_on(run: ActiveRun) -> None:
    """Note that a run is driven again: its pause is over since the commit that resumed it."""
    kept = kept_in(run.waits)
    if kept.since is not None:
        paused = kept.paused + max(0.0, run.updated_at - kept.since)
        run.waits = keeping(run.waits, kept._replace(paused=paused, since=None), run.version + 1)


def still_delayed(run: ActiveRun) -> Delayed | None:
    """Return the rest of a delay from which the run was woken for a deadline that is later now, if any."""
    until = kept_in(run.waits).until
    if until is None or run.clock.now() >= until or run.interruption is not None or abort_request(run) is not None:
        return None
    return Delayed(until)


def begin_late(run: ActiveRun) -> None:
    """Have a run that is to be driven see to its deadline first, if that has passed."""
    if passed(run) and run.interruption is None:
        run.interruption = Interruption.DEADLINE
