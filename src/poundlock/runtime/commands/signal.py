"""Telling a run something: a patch that its state takes in at the next boundary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from poundlock.codecs import pack_patch
from poundlock.errors import StateInvalid
from poundlock.model.changes import Changes, Post
from poundlock.model.runs import Message
from poundlock.pipeline.states import written
from poundlock.runtime.core import Core
from poundlock.runtime.runs import ensure_written


@dataclass(frozen=True, slots=True)
class Signal:
    """Merge a patch into a run's state at its next boundary; a running step sees it at once with `ctx.latest()`."""

    run_id: str
    patch: Mapping[str, Any]


async def signal(core: Core, command: Signal) -> None:
    """Handle `Signal`; durable when this returns.

    Raises:
        RunNotFound, RunFinished: there is nobody to tell.
        NotStorable: the patch is no data.
        StateInvalid: it is no mapping, or has a key that the state's model lacks.
    """
    patch = as_patch(command.patch)
    model = await _model_of(core, command.run_id)
    if model is not None:
        written(model, patch, {}, "patch")  # where the workflow is unknown, the run says so in its timeline
    await core.tasks.to_the_end(_post(core, command.run_id, patch))


async def _model_of(core: Core, run_id: str) -> Any:
    """Return the model of a run's state, if its workflow is known here and has one."""
    live = core.runs.live(run_id)
    if live is not None:
        return live.entry.definition.state
    if all(entry.definition.state is None for entry in core.entries.values()):
        return None
    record = await core.store.load(run_id)
    entry = None if record is None else core.entries.get(record.identity.workflow_id)
    return None if entry is None else entry.definition.state


async def _post(core: Core, run_id: str, patch: dict[str, Any]) -> None:
    live = core.runs.driven(run_id)
    if live is not None:
        await ensure_written(core, live)
    now = core.clock.now()
    committed = await core.store.commit(Changes(posts=(Post(run_id, "signal", patch, now),), now=now))
    core.runs.tell(Message(run_id, committed.posted[0], "signal", now, patch, None))


def as_patch(patch: Any) -> dict[str, Any]:
    """Return a patch detached.

    Raises:
        StateInvalid: it is no mapping.
        NotStorable: a value in it is no data; `path` names it.
    """
    if not isinstance(patch, Mapping):
        raise StateInvalid(f"a patch is a mapping, not a {type(patch).__qualname__}", path="patch")
    return pack_patch(patch, "patch")[0]  # type: ignore[no-any-return]  # a mapping in, a dict out
