"""Signals: a patch that is merged into a run's state at its next boundary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poundlock.errors import StateInvalid
from poundlock.model.changes import Changes, Post
from poundlock.model.runs import Message
from poundlock.pipeline.states import check_signal, with_signals, written
from poundlock.records import dataclass
from poundlock.runtime.core import Core
from poundlock.runtime.runs import ensure_written, state_here


@dataclass(frozen=True, slots=True)
class Signal:
    """Merge a patch into a run's state at its next boundary; a running step sees it at once with `ctx.latest()`."""

    run_id: str
    patch: Mapping[str, Any]


async def signal(core: Core, command: Signal) -> None:
    """Handle `Signal`; durable when this returns.

    Raises:
        RunNotFound, RunFinished: there is no run that could take it.
        NotStorable: the patch is not data.
        StateInvalid: it is not a mapping, has a key that the state's model lacks, or a value that does not fit there;
            `path` is the field, and nothing was changed.
    """
    model, state = await _typed_state(core, command.run_id)
    patch = as_patch(command.patch, model, state)
    check_signal(model, state, patch)
    await core.tasks.to_the_end(_post(core, command.run_id, patch))


async def _typed_state(core: Core, run_id: str) -> tuple[Any, dict[str, Any]]:
    """Return the model of a run's state, and the state; no model if the workflow is unknown: then the run checks."""
    here = state_here(core, run_id)
    if here is not None:
        return here
    if all(plan.state_model is None for entry in core.entries.values() for plan in entry.plans.values()):
        return None, {}
    checkpoint = await core.store.checkpoint(run_id)
    entry = None if checkpoint is None else core.entries.get(checkpoint.record.identity.workflow_id)
    if checkpoint is None or entry is None:
        return None, {}
    model = entry.definition.state_of(checkpoint.record.identity.pipeline_id)
    return model, with_signals(model, checkpoint.state, checkpoint.inbox)


async def _post(core: Core, run_id: str, patch: dict[str, Any]) -> None:
    live = core.runs.driven(run_id)
    if live is not None:
        await ensure_written(core, live)
    now = core.clock.now()
    committed = await core.commit(Changes(posts=(Post(run_id, "signal", patch, now),), now=now))
    core.runs.deliver(Message(run_id, committed.posted[0], "signal", now, patch, None))


def as_patch(patch: Any, model: Any = None, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a patch from `signal` or `resume` as it is stored, detached.

    Args:
        patch: what was given.
        model: of the run's state, if it is known here.
        state: which the patch is going to be merged into.

    Raises:
        StateInvalid: it is not a mapping, or has a key that the model lacks.
        NotStorable: a value in it is not data; `path` names it.
    """
    if not isinstance(patch, Mapping):
        raise StateInvalid(f"a patch is a mapping, not a {type(patch).__qualname__}", path="patch")
    return written(model, patch, state or {}, "patch").patch
