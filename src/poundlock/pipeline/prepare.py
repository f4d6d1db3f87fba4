"""Before the first stage: the `on_prepare` hook, which may patch the state or fail the run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from poundlock.codecs import dump, pack
from poundlock.model.patches import merge
from poundlock.pipeline.boundary import failed, validate
from poundlock.pipeline.injection import Binding
from poundlock.pipeline.plan import StepPlan
from poundlock.pipeline.runner import Driven
from poundlock.pipeline.steps import StageDone, run_error
from poundlock.pipeline.waiting import rearm

if TYPE_CHECKING:
    from poundlock.pipeline.active import ActiveRun
    from poundlock.pipeline.context import StepContext


def hook_step(run: ActiveRun) -> StepPlan:
    """Return the place that a hook's context names: the pipeline itself, step "hook"."""
    return StepPlan(
        id="hook",
        stage_id="",
        path=run.plan.id,
        path_json=run.plan.path_json,
        action=hook_step,
        is_async=False,
        in_thread=False,
        binding=Binding((), (), (), wants_context=True),
        timeout=None,
        retry=None,
    )


async def prepare(run: ActiveRun, hook: Callable[[Any], Any] | None, context: StepContext) -> Driven | None:
    """Call the hook and merge the patch it may return. Returns an outcome if the run failed already."""
    before = run.position()
    try:
        patch = hook(context) if hook is not None else None
        if inspect.isawaitable(patch):
            patch = await patch
        context.flush()
        if patch is not None:
            decoded, text = pack(patch)
            state = merge(run.state, decoded)
            validate(run, state)
            run.state = state
            run.journal.add(
                run.clock.now(), "state", "state:patch", run.plan.path_json, dump({"hook": "on_prepare"}), text
            )
            rearm(run)
    except Exception as error:  # noqa: BLE001 - hooks are user code; this one fails its run
        reason = run_error(error, None, "on_prepare")
        # Concluded again, because messages came meanwhile, it must fail again and not begin.
        return Driven(failed(run, reason, run.plan.path_json), before, StageDone(run.plan.stages[0], error=reason))
    return None
