"""The short way across a stage boundary comes to what the long way comes to.

A stage of one plain step is performed and concluded by `short_way.pass_through`, all others by `steps.perform` and
`concluding.conclude`. The same pipeline is run all the ways there are, on the same answers of its steps and the same
messages at the same moments, and what can be seen of the runs must be equal: state, outcome, and the timeline with
every patch.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundlock import (
    DELETE,
    Event,
    Jump,
    Pause,
    Pipeline,
    RunFinished,
    Stage,
    Step,
    Terminate,
    Trigger,
    Wait,
    Workflow,
    WorkflowRuntime,
)
from poundlock.testing import VirtualClock

KEYS = st.sampled_from(["a", "b", "c"])
LEAVES = st.one_of(st.integers(-3, 3), st.sampled_from([None, "", "{", "$type", DELETE]), st.just([1, {"x": 2}]))
PATCHES = st.dictionaries(KEYS, LEAVES | st.dictionaries(KEYS, LEAVES, max_size=2), max_size=3)
NAMES = ("s0", "s1", "s2", "s3")
ANSWERS = st.one_of(
    PATCHES,
    PATCHES,
    st.none(),
    st.sampled_from([Terminate({"early": True}), Jump("s3"), ValueError("broken")]),
)
MESSAGES = st.sampled_from(["", "", "", "signal", "event", "abort"])
VISITS = st.tuples(ANSWERS, MESSAGES)


def workflow(script, runtime):
    """Return a pipeline whose steps answer by the script, and have somebody write to their run meanwhile."""
    told = iter(range(100))

    def step(name):
        async def act(ctx):
            answer, message = script[name].pop(0) if script[name] else ({}, "")
            rt, number = runtime[0], next(told)
            if message == "signal":
                await rt.signal(ctx.run_id, {"told": {name: number}})
            elif message == "event":
                await rt.emit(Event("go", {"n": number}, id=f"e{number}"))
            elif message == "abort":
                await abort(rt, ctx.run_id)  # from a task beside, how far the run gets would depend on turns
            if isinstance(answer, Exception):
                raise answer
            return answer

        return Step(name, act)

    async def abort(rt, run_id):
        with suppress(RunFinished):  # it ends by itself at this moment
            await rt.abort(run_id)

    stages = [Stage(name, [step(name)]) for name in NAMES[:3]]
    gate = Stage("gate", router=Pause(Wait("go", id="w", timeout=60, on_timeout="resume")))
    last = Stage(NAMES[3], [step(NAMES[3])])
    return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", [*stages, gate, last])])


def force(stage, way):
    """Have a stage take this way: "short", "long", or the short way for its step only, concluded the long way."""
    assert stage.plain is (stage.id != "gate")
    if way != "short":
        stage.plain = False
    if way == "long":
        stage.only = None
        stage.start_entries = stage.start_entries[:1]  # the long way notes itself that a step begins


async def seen(script, initial, *, timeline, way):
    """Run the script and return what can be seen of the run."""
    runtime = []
    async with VirtualClock() as clock:
        wf = workflow({name: list(visits) for name, visits in script.items()}, runtime)
        async with WorkflowRuntime(wf, clock=clock, timeline=timeline) as rt:
            runtime.append(rt)
            for stage in rt._core.entries["w"].plans["main"].stages:
                force(stage, way)
            [run_id] = (await rt.emit("begin", initial)).run_ids
            result = await rt.wait(run_id, 3600)
            entries = (await rt.timeline(run_id)).entries
            shown = [
                (entry.seq, entry.source, entry.type, entry.path, _anonymous(entry.payload, run_id), entry.patch)
                for entry in entries
            ]
            error = result.error and (result.error.type, result.error.message, result.error.stage, result.error.step)
            return dict(result.state), result.status, result.result, error, shown


def _anonymous(payload, run_id):
    """Return a payload without what is drawn anew for every run."""
    if isinstance(payload, dict):
        return {key: _anonymous(value, run_id) for key, value in payload.items() if key != "id"}
    return payload.replace(run_id, "RUN") if isinstance(payload, str) else payload


@pytest.mark.parametrize("timeline", [True, False])
def test_the_short_way_comes_to_what_the_long_way_comes_to(timeline):
    """Whatever steps answer or raise and whoever writes to the run meanwhile, all ways leave the same behind."""

    @given(
        script=st.fixed_dictionaries({name: st.lists(VISITS, min_size=1, max_size=2) for name in NAMES}),
        initial=st.dictionaries(KEYS, st.integers(0, 3), max_size=2),
    )
    def check(script, initial):
        short = asyncio.run(seen(script, initial, timeline=timeline, way="short"))
        for way in ("performed short, concluded long", "long"):
            assert asyncio.run(seen(script, initial, timeline=timeline, way=way)) == short

    check()
