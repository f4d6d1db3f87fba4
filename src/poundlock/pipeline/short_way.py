"""The short way through a stage of one async step with nothing around it: no retry, no timeout, no service, no thread.

There are two ways through such a stage: this one, and `steps.perform` with `concluding.conclude`, which do all kinds.
Most stages are of this kind, and the short way saves a quarter: a run of three in memory takes 368k instructions
instead of 508k. `tests/properties/test_short_way.py` holds both ways to one result.
"""

from __future__ import annotations

import asyncio
from typing import Any

from poundlock.codecs import pack
from poundlock.guard import Interrupted
from poundlock.model.patches import merge
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.concluding import Driven, conclude
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.interrupting import judge
from poundlock.pipeline.outcome import complete
from poundlock.pipeline.plan import StagePlan, StepPlan
from poundlock.pipeline.step_results import StepDone, digest, failure_of
from poundlock.pipeline.steps import StageDone
from poundlock.pipeline.waits import rearm


async def pass_through(run: ActiveRun, stage: StagePlan, step: StepPlan, task: asyncio.Task[Any]) -> Driven | None:
    """Perform a stage of one plain step and conclude it; an outcome if the run does not continue after it.

    The step's start is noted with the stage's own entries. The step runs in the run's task, the current one.

    Raises:
        Interrupted: the run was interrupted; nothing of the stage counts.
    """
    binding = step.binding
    context = StepContext(run, step, 1) if binding.wants_context else None
    args = []
    patch: dict[str, Any] | None = None
    text = ""
    done: StageDone | None = None
    try:
        for getter in binding.positional:
            args.append(getter(run, context))  # noqa: PERF401 - a comprehension would be a call of its own
        result = await step.action(*args)
        # A step nearly always returns a dict; this does the same as `digest`, without a value around it.
        if stage.plain and type(result) is dict:
            patch, text = pack(result, "", "patch")
        else:
            came_to = digest(run, step, result)
        # `disturbed`, inlined: the call costs more than the check.
        if task.cancelling() or task._must_cancel or run.interruption is not None:  # type: ignore[attr-defined]  # noqa: SLF001 - as in `disturbed`
            stray = await judge(run, task, None)
            if stray is not None:
                done = StageDone(stage, error=failure_of(run, step, stray))
    except Interrupted:
        raise
    except BaseException as error:  # noqa: BLE001 - a step may raise anything; it fails the run, not the runtime
        done = StageDone(stage, error=failure_of(run, step, await judge(run, task, error) or error))
    finally:
        if context is not None:
            context.abandon()
    if done is None:
        journal = run.journal
        if journal.full:
            journal.put(run.clock.now(), step.success_entry)
        # Nothing has to be decided: the step returned a patch, there is no router or model, and no message came.
        if context is not None and context.outgoing is not None:
            came_to = came_to if patch is None else StepDone(step, patch, text)
            came_to.outgoing = context.outgoing
            done = StageDone(stage, (came_to,))
        elif patch is not None and not (run.inbox or run.backlog or run.registered):
            before = run.position() if stage.following is None else None
            # As `conclude` does. A flat patch is merged as a dict; a nested or deleting one has a second brace.
            run.state = merge(run.state, patch) if text.find("{", 1) > 0 else {**run.state, **patch}
            if journal.full:
                journal.put_patch(run.clock.now(), step.patch_head, text, stage.success_entry)
            else:
                journal.put_patch(run.clock.now(), step.patch_head, text)
            run.resume = None
            run.stage = stage.following
            plan = run.plan
            # Armed as they are to be, unless the patch touches what they refer to.
            if (run.waits or plan.declared) and not (run.waits is run.rearmed and plan.correlated.isdisjoint(patch)):
                rearm(run)
            if before is None:
                return None
            return Driven(complete(run, None), before, StageDone(stage, (StepDone(step, patch, text),)))
        else:
            done = StageDone(stage, (came_to if patch is None else StepDone(step, patch, text),))
    before = run.position()
    outcome = await conclude(run, done, before, task)
    return None if outcome is None else Driven(outcome, before, done)
