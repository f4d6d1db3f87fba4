"""Concluding a stage: messages first, then the stage's patch, then its router, which gives the run's new position.

All changes made here are undone (`ActiveRun.restore`) and concluded again if the commit finds that messages came
meanwhile; so nothing here may have an effect outside the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from poundlock.codecs import detach, dump
from poundlock.errors import StepFailed
from poundlock.guard import Interrupted, Interruption, name_of, repr_of
from poundlock.model.definitions import Advance, Delay, Fail, Instruction, Jump, JumpTo, Pause, Terminate
from poundlock.model.patches import clash, merge
from poundlock.model.runs import RunError
from poundlock.model.validation import moment_of
from poundlock.pipeline.active import JUMPED, ActiveRun, Position
from poundlock.pipeline.buffering import trim
from poundlock.pipeline.failing import left_nothing, stage_failed
from poundlock.pipeline.inbox import abort_request, absorb, apply, settled
from poundlock.pipeline.interrupting import disturbed, judge
from poundlock.pipeline.memo import forget, lead_below
from poundlock.pipeline.misfits import refuse_misfits
from poundlock.pipeline.operator_pausing import pause_due
from poundlock.pipeline.outcome import Delayed, Outcome, Paused, Released, aborted, complete, run_error
from poundlock.pipeline.outgoing import send
from poundlock.pipeline.output_log import note_output
from poundlock.pipeline.plan import StagePlan, StepPlan
from poundlock.pipeline.step_results import Suspended, carried_patch
from poundlock.pipeline.steps import StageDone
from poundlock.pipeline.undo_log import note_commit
from poundlock.pipeline.waits import asked, first_match, note, park, pause_at, rearm
from poundlock.records import dataclass


@dataclass(slots=True)
class Driven:
    """An outcome, and what is needed to conclude again if its commit finds new messages."""

    outcome: Outcome
    before: Position
    done: StageDone | None


async def conclude(run: ActiveRun, done: StageDone, before: Position, task: asyncio.Task[Any]) -> Outcome | None:
    """Conclude a performed stage; `before` is the run's position. None: the run continues with its next stage.

    Raises:
        Interrupted: the run was interrupted; its position is unchanged, and the messages are taken in.
    """
    stage = done.stage
    absorbed: Position | None = None
    try:
        if run.inbox or run.backlog:
            absorb(run)
            if run.abort is not None:
                return aborted(run)
            before = run.position()
        if done.suspended is not None and done.error is None:
            return _suspend(run, stage, done.suspended)
        if done.error is not None:
            return left_nothing(run, done, done.error)
        if run.waits:
            forget(run)
        absorbed = before
        _apply_steps(run, done)
        if stage.output is not None:
            note_output(run, done)
        instruction = None
        if stage.router is not None or len(done.steps) != 1 or done.steps[0].instruction is not None:
            instruction = await _route(run, done)
            if stage.router is not None and instruction is not None:  # a step's own is among the patches of the steps
                carried = carried_patch(run, instruction, stage.path)
                if carried is not None:
                    apply(run, carried, stage.path_json)
        if stage.undoes:
            note_commit(run, done)
        if run.journal.full:
            run.journal.put(run.clock.now(), stage.success_entry)
        if type(instruction) is Fail:
            reason = RunError("Fail", instruction.reason, StepFailed.code, stage.id)
            outcome = stage_failed(run, done, reason)
        else:
            outcome = follow(run, stage, instruction)
        if not disturbed(run, task):
            return outcome
        raised = None
    except BaseException as error:  # noqa: BLE001 - routers, validators and patches are user code; they fail the run
        raised = error
    try:
        raised = await judge(run, task, raised)
        if raised is None:
            return outcome
        if absorbed is not None:
            run.restore(absorbed, ())  # a failed stage leaves no patch behind
        run.failure = raised
        return left_nothing(run, done, run_error(raised, stage.id, None))
    except Interrupted:
        if absorbed is not None:
            run.restore(absorbed, ())
        raise
    finally:
        del raised  # else the error refers to itself through its traceback


def interrupted(run: ActiveRun, interruption: Interrupted) -> Driven:
    """Return the outcome of a run that was interrupted to be aborted.

    Raises:
        Interrupted: for another reason, which is not an outcome.
    """
    if interruption.interruption is not Interruption.ABORT:
        raise interruption
    run.abort = abort_request(run)
    run.consumed.clear()
    before = run.position()
    return Driven(aborted(run), before, None)


def follow(run: ActiveRun, stage: StagePlan, instruction: Instruction | None) -> Outcome | None:
    """Apply an instruction to the position. None: the run continues at another stage."""
    run.resume = None
    if instruction is None or type(instruction) is Advance:
        run.stage = stage.following
        if stage.strays:
            run.walk = JUMPED
        # At the end it only matters whether the registered waits could be armed.
        if run.stage is not None or run.registered:
            rearm(run)
        return None if run.stage is not None else complete(run, None)
    if type(instruction) is Jump:
        run.stage = run.plan.existing(instruction.stage)
        run.walk = JUMPED
        rearm(run)
        return None
    if type(instruction) is JumpTo:
        lead_below(run, instruction.address)
        rearm(run)
        return None
    if type(instruction) is Terminate:
        return complete(run, instruction.result)
    if type(instruction) is Delay:
        return _delay(run, stage, instruction)
    assert isinstance(instruction, Pause)  # noqa: S101 - the union is closed
    return _pause(run, stage, instruction)


def _suspend(run: ActiveRun, stage: StagePlan, suspended: Suspended) -> Outcome | None:
    """Leave a stage in the middle; the run enters it again. None: what it waits for is there already."""
    run.resume = None
    if suspended.leave is not None:
        return suspended.leave(run)
    if suspended.released:
        paused = pause_due(run) if run.pausing else None
        if paused is not None:
            return Paused(paused)
        return Released() if run.stopping else None
    row = suspended.wait
    if row is None:
        until = suspended.until
        assert until is not None  # noqa: S101 - one of the two is given
        run.restart_counts()
        if not suspended.quiet:
            run.journal.add(run.clock.now(), "pipeline", "pipeline:delay", stage.path_json, dump({"until": until}))
        return Delayed(until)
    note(run, "wait:registered", row, asked(row), dump)
    pause_at(run, row)
    refuse_misfits(run, row)
    if first_match(run, row) is not None:
        return None
    note(run, "pipeline:pause", row, {"expires_at": row.expires_at})
    return Paused(row)


def _apply_steps(run: ActiveRun, done: StageDone) -> None:
    """Merge the steps' patches in definition order: all of them, or none if the result is not valid."""
    steps = done.steps
    if len(steps) > 1:
        _note_clashes(run, done)
    state = run.state
    for step in steps:
        if step.patch is not None and step.text is not None:
            state = merge(state, step.patch)
            run.journal.put_patch(run.clock.now(), step.step.patch_head, step.text)
        if step.outgoing:
            send(run, step.step.path_json, step.outgoing)
    # Only the merged state has to be valid: a rule over two fields may need the patches of two steps.
    if state is not run.state:
        run.state = state if run.plan.state_model is None else settled(run, state, done.stage.path_json)


def _note_clashes(run: ActiveRun, done: StageDone) -> None:
    for place, step in enumerate(done.steps):
        patch = step.patch
        if not patch:
            continue
        paths = (clash(before.patch, patch) for before in done.steps[:place] if before.patch)
        path = next((path for path in paths if path is not None), None)
        if path is not None:
            if done.stage.conflict_is_error:
                raise StepFailed(
                    f"two steps of stage '{done.stage.id}' wrote '{path}': let one write it, or use conflict='last'",
                    path=path,
                )
            payload = dump({"path": path, "winner": step.step.id})
            run.journal.add(run.clock.now(), "state", "state:conflict", done.stage.path_json, payload)


async def _route(run: ActiveRun, done: StageDone) -> Instruction | None:
    routed = [(step.step, step.instruction) for step in done.steps if step.instruction is not None]
    router = done.stage.router
    if router is None:
        return _agreed(done.stage, routed)
    if routed:
        step, told = routed[0]
        raise StepFailed(
            f"step '{step.id}' returned {name_of(type(told))}, but stage '{done.stage.id}' has a router: let one of "
            f"them decide",
            path=step.path,
        )
    instruction = await router(run, {step.step.id: detach(step.result) for step in done.steps})
    if run.journal.full and not isinstance(instruction, Pause):
        payload = dump({"instruction": "Advance" if instruction is None else repr_of(instruction)})
        run.journal.add(run.clock.now(), "pipeline", "router:evaluated", done.stage.path_json, payload)
    return instruction


def _agreed(stage: StagePlan, routed: Sequence[tuple[StepPlan, Instruction]]) -> Instruction | None:
    """Return the instruction that steps of a stage returned, if any did: the same one, but for its data."""
    if not routed:
        return None
    first, instruction = routed[0]
    for step, other in routed[1:]:
        if replace(other, patch=None) != replace(instruction, patch=None):
            raise StepFailed(
                f"steps '{first.id}' and '{step.id}' of stage '{stage.id}' lead to different places: let one of them, "
                f"or a router, decide",
                path=stage.path,
            )
    return instruction


def _delay(run: ActiveRun, stage: StagePlan, delay: Delay) -> Outcome | None:
    now = run.clock.now()
    try:
        until = moment_of(delay, now)
    except ValueError as error:
        raise StepFailed(f"the delay after stage '{stage.id}' cannot be read: {error}", path=stage.path) from error
    run.stage = stage.following if delay.then is None else run.plan.existing(delay.then)
    rearm(run)
    if run.stage is None:
        return complete(run, None)  # no stage follows the delay, so there is nothing to wait for
    run.restart_counts()
    run.journal.add_growing(now, "pipeline:delay", stage.path_json, dump({"until": until}))
    return Delayed(until)


def _pause(run: ActiveRun, stage: StagePlan, pause: Pause) -> Outcome | None:
    if pause.resume_at is not None:
        run.plan.existing(pause.resume_at)
    if run.buffer:
        trim(run)  # what a former owner had not dropped yet
    row = park(run, stage, pause)
    rearm(run, pausing=True)
    note(run, "wait:registered", row, asked(row), dump)
    pause_at(run, row)
    refuse_misfits(run, row)
    if first_match(run, row) is not None:
        return None  # committed at this wait, so that after a crash it continues for the same reason
    note(run, "pipeline:pause", row, {"expires_at": row.expires_at})
    return Paused(row)
