"""Before the first stage: the `on_prepare` hook, which may patch the state or fail the run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from poundlock.codecs import dump
from poundlock.errors import StateInvalid
from poundlock.guard import Interrupted, Interruption, name_of
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.concluding import Driven, interrupted
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.inbox import apply
from poundlock.pipeline.interrupting import current_task, disturbed, judge
from poundlock.pipeline.outcome import failed, run_error
from poundlock.pipeline.outgoing import send
from poundlock.pipeline.states import returned, written
from poundlock.pipeline.steps import StageDone
from poundlock.pipeline.waits import rearm
from poundlock.records import NamedTuple


class HookPlace(NamedTuple):
    """The place in a hook's context: the pipeline itself, step "hook"."""

    path_json: str
    id: str = "hook"
    stage_id: str = ""


def hook_context(run: ActiveRun) -> StepContext:
    """Return the context of a hook."""
    return StepContext(run, HookPlace(run.plan.path_json), 1)


async def prepare(run: ActiveRun, hook: Callable[[Any], Any], context: StepContext) -> Driven | None:
    """Call the hook and merge the patch it may return. Returns an outcome if the run ended already.

    Raises:
        Interrupted: the runtime stops, or the run has another owner now.
    """
    task = current_task()
    before = run.position()
    try:
        try:
            try:
                patch = hook(context)
                if inspect.isawaitable(patch):
                    patch = await patch
            finally:
                context.abandon()
            _merge(run, patch)
            if context.outgoing:
                send(run, run.plan.path_json, context.outgoing)
            if not disturbed(run, task):
                return None
            raised = None
        except BaseException as error:  # noqa: BLE001 - hooks are user code; this one fails its run
            raised = error
        raised = await judge(run, task, raised)
        if raised is None:
            return None
        run.restore(before, ())
        run.failure = raised
        reason = run_error(raised, None, "on_prepare")
    except Interrupted as interruption:
        run.restore(before, ())
        if interruption.interruption is Interruption.DEADLINE:
            return None  # the run sees it at its first stage
        return interrupted(run, interruption)
    finally:
        raised = None  # else the error refers to itself through its traceback
    # If it is concluded again because of new messages, it must fail again and not begin.
    first = run.plan.by_id[run.plan.course[0]]
    return Driven(failed(run, reason, run.plan.path_json), before, StageDone(first, error=reason))


def _merge(run: ActiveRun, patch: Any) -> None:
    if patch is None:
        return
    model = run.plan.state_model
    if hasattr(type(patch), "model_dump"):
        change = returned(model, patch, run.state)
    elif isinstance(patch, Mapping):
        change = written(model, patch, run.state)
    else:
        raise StateInvalid(
            f"on_prepare returned a {name_of(type(patch))}: return a mapping, a model or None", path="on_prepare"
        )
    apply(run, change, run.plan.path_json, payload=dump({"hook": "on_prepare"}))
    rearm(run)
