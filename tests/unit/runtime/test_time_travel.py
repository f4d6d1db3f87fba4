"""Looking back in time at real runs: what the stages saw, with and without a timeline."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

from poundlock import Jump, RunNotFound, StepContext, Terminate, Workflow
from poundlock.model.patches import merge


class Count(BaseModel):
    n: int = 0
    seen: list[int] = []


def counting(**options):
    """Return a workflow that goes round three times, and what its stage saw in each round."""
    wf = Workflow("w", **options)
    wf.on("begin")
    saw = []

    @wf.step(then="go")
    def go(ctx: StepContext, n: int = 0, seen: list[int] = ()):
        saw.append(dict(ctx.state) if not isinstance(ctx.state, BaseModel) else ctx.state.model_dump())
        after = {"n": n + 1, "seen": [*seen, n]}
        return Terminate("done", patch=after) if n == 2 else after

    return wf, saw


async def test_the_state_that_a_stage_began_with(stores):
    """`state_at` with a stage gives what its latest visit saw, as plain data, also of a state model."""
    wf, saw = counting(state=Count)
    rt = await stores.enter(wf)
    run = await rt.run("w", n=0, seen=[])
    timeline = await rt.timeline(run.run_id)
    assert timeline.state_at("go") == saw[-1] == {"n": 2, "seen": [0, 1]}
    assert timeline.state_at() == run.state.model_dump() == {"n": 3, "seen": [0, 1, 2]}
    starts = [entry.seq for entry in timeline.entries if entry.type == "stage:start"]
    assert [timeline.state_at(seq) for seq in starts] == saw
    player = timeline.player()
    assert player.seek("go").type == "stage:start"
    while player.step_forward() is not None:
        pass
    assert (player.entry.type, player.state) == ("pipeline:success", run.state.model_dump())
    assert str(timeline.diff(starts[0], "go")).splitlines() == ["~ n: 0 -> 2", "~ seen: [] -> [0,1]"]


async def test_without_a_timeline(stores):
    """The player steps through the changes of the state; the starts of stages are not there, and the error says so."""
    wf, _ = counting()
    rt = await stores.enter(wf, timeline=False)
    run = await rt.run("w", n=0, seen=[])
    timeline = await rt.timeline(run.run_id)
    player, states = timeline.player(), []
    while (entry := player.step_forward()) is not None:
        assert entry.patch is not None
        states.append(player.state["n"])
    assert states == sorted(states)
    assert states[-1] == 3
    assert player.state == timeline.state_at() == dict(run.state)
    with pytest.raises(LookupError, match="kept with timeline=False"):
        timeline.state_at("go")


async def test_two_runs_compared(stores):
    """`compare` tells where two runs part, from where on their states differ, and how."""
    wf = Workflow("w")
    wf.on("begin")
    wf.step(lambda n: {"half": n // 2}, id="first")
    wf.step(lambda n: {"big": True}, id="large", then="last")
    wf.step(lambda n: {"done": n}, id="last")

    @wf.route(after="first")
    def size(n: int):
        return Jump("large" if n > 10 else "last")

    rt = await stores.enter(wf)
    one, two = await rt.run("w", n=2), await rt.run("w", n=20)
    found = await rt.compare(one.run_id, two.run_id)
    assert (found.common, found.only_a, found.only_b) == (("first",), ("last",), ("large", "last"))
    assert found.differs_at == "first"
    assert [change.path for change in found.state.changes] == ["n", "half", "done", "big"]
    assert merge(dict(one.state), found.state.patch) == dict(two.state)
    assert f"only {two.run_id} entered: large, last" in str(found)
    json.dumps(found.to_dict())
    same = await rt.compare(one.run_id, one.run_id)
    assert not same
    assert str(same).splitlines() == ["both entered: first, last", "the states at the end are the same"]
    with pytest.raises(RunNotFound):
        await rt.compare(one.run_id, "nobody")
