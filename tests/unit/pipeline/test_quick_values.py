"""Values that are made from plain tuples, past the constructor that would check them, have each field in its place."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from poundlock import Workflow, WorkflowRuntime
from poundlock.model.changes import RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import RunIdentity
from poundlock.pipeline.active import Position
from poundlock.pipeline.writing import boundary_of


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type, as far as its class tells."""
    if hint is Any:
        return True
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in get_args(hint))
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


@pytest.mark.parametrize("waits", [False, True])
async def test_each_field_is_in_its_place(waits):
    """What a run's identity, move and position say is what the run says, field by field and of the declared type."""
    wf = Workflow("wf")
    seen = []

    @wf.on("go", key="who")
    @wf.step
    async def first(ctx):
        run = ctx._run
        if waits:
            run.consumed.append(7)
        move = boundary_of(run, RunStatus.RUNNING, wake_at=9.5, outcome="{}", slot=True, guard_inbox=True)
        seen.append((run, move, run.position(), run.version, tuple(run.consumed)))
        run.consumed.clear()
        return {"a": 1}

    async with WorkflowRuntime(wf) as rt:
        receipt = await rt.emit("go", who="Ada")
        await receipt.results()
    [(run, move, position, version, consumed)] = seen
    for value, kind in ((run.identity, RunIdentity), (move, RunMove), (position, Position)):
        assert type(value) is kind
        assert len(value) == len(kind._fields)
        hints = get_type_hints(kind)
        assert [name for name in kind._fields if not fits(getattr(value, name), hints[name])] == []
    assert move == RunMove(
        run_id=run.identity.run_id,
        version=version,
        epoch=run.epoch,
        inbox=0,
        status=RunStatus.RUNNING,
        owner=run.owner,
        new_epoch=run.epoch,
        stage="first",
        attempt=1,
        wake_at=9.5,
        outcome="{}",
        slot=True,
        updated_at=move.updated_at,
        log=move.log,
        consumed=consumed,
        visits=move.visits,
    )
    assert (run.identity.workflow_id, run.identity.key, run.identity.load_key) == ("wf", "Ada", "Ada")
    assert (position.stage, position.consumed, position.visits) == ("first", consumed, {"first": 1})
