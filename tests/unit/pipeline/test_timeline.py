"""The one log of a run."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from poundlock import Pipeline, Retry, Stage, Step, StepContext, Workflow


class Counter(BaseModel):
    n: int = 0
    name: str = "x"


def flow():
    left = [1]

    async def add(state, ctx: StepContext):
        ctx.logger.info("adding")
        return {"n": state.get("n", 0) + 1, "list": [state.get("n", 0)]}

    async def flaky():
        if left[0]:
            left[0] -= 1
            raise RuntimeError("once")
        return {"flaky": True}

    def in_thread():
        return {"thread": True}

    stages = [
        Stage("a", [Step("add", add)], router=lambda state: "a" if state["n"] < 3 else None),
        Stage("b", [Step("flaky", flaky, retry=Retry(2)), Step("thread", in_thread)]),
    ]
    wf = Workflow("wf", pipelines=[Pipeline("main", stages)])
    wf.on("go")
    return wf


async def test_the_timeline_has_no_gaps_and_rebuilds_every_state(runtime, any_store):
    """Entries are numbered from 1 without gaps, times never fall, and state_at gives the state at each boundary."""
    rt = await runtime(flow(), store=any_store)
    [result] = await (await rt.emit("go", start=True)).results()
    timeline = await rt.timeline(result.run_id)
    entries = timeline.entries
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.time for entry in entries] == sorted(entry.time for entry in entries)
    assert timeline.path() == ["a", "a", "a", "b"]
    ends = [entry.seq for entry in entries if entry.type == "stage:success"]
    assert [timeline.state_at(seq).get("n") for seq in ends] == [1, 2, 3, 3]
    assert timeline.state_at(0) == {}
    assert timeline.state_at(1) == {"start": True}
    assert timeline.state_at(len(entries)) == result.state
    assert {entry.source for entry in entries} == {"dispatch", "pipeline", "state", "logger"}
    assert timeline.types()[:2] == ["run:created", "pipeline:start"]
    assert timeline.types()[-1] == "pipeline:success"
    for seq in (-1, len(entries) + 1):
        with pytest.raises(IndexError):
            timeline.state_at(seq)


async def test_without_a_timeline_only_deltas_are_kept(runtime, any_store):
    """timeline=False keeps what state is rebuilt from and nothing else; numbers still have no gaps."""
    rt = await runtime(flow(), store=any_store, timeline=False)
    [result] = await (await rt.emit("go", start=True)).results()
    timeline = await rt.timeline(result.run_id)
    assert {entry.type for entry in timeline.entries} == {"run:created", "state:patch"}
    assert [entry.seq for entry in timeline.entries] == list(range(1, len(timeline) + 1))
    assert timeline.state_at(len(timeline)) == result.state


async def test_an_unknown_run_has_no_timeline(runtime):
    """The timeline of an unknown run is RunNotFound."""
    from poundlock import RunNotFound

    rt = await runtime(flow())
    with pytest.raises(RunNotFound):
        await rt.timeline("nobody")


# -- the state model
def typed(*actions):
    stages = [Stage(f"s{n}", [Step("step", action)]) for n, action in enumerate(actions)]
    return Workflow("typed", pipelines=[Pipeline("main", stages)], state=Counter)


async def test_every_commit_is_validated(runtime, any_store):
    """A patch against the model fails the stage with the field's path; the state is the last committed one."""

    async def good():
        return {"n": 5}

    async def bad():
        return {"n": {"not": "a number"}}

    rt = await runtime(typed(good, bad), store=any_store)
    result = await rt.run("typed")
    assert (result.status, result.error.code, result.error.stage) == ("failed", "STATE_INVALID", "s1")
    assert "n: " in result.error.message
    assert result.state == Counter(n=5)
    assert (await rt.wait(result.run_id)).state == Counter(n=5)


async def test_model_states_are_detached_instances(runtime):
    """Each view of the state is an instance of its own; changing one changes nothing."""
    seen = []

    async def first(state: Counter, ctx: StepContext):
        state.n = 99
        ctx.state.n = 98
        ctx.latest().n = 97
        seen.append((ctx.state.n, ctx.latest().n))

    async def second(n, name):
        seen.append((n, name))

    rt = await runtime(typed(first, second))
    result = await rt.run("typed", n=1)
    assert seen == [(1, 1), (1, "x")]
    assert result.state == Counter(n=1)
