"""Two runs side by side: forks and their sources, attempts of one run, and what they came to."""

from __future__ import annotations

import json

import pytest

from poundlock import InvalidDefinition, Jump, RunNotFound, Workflow


def branching():
    """A workflow that takes the long way if it is told to, and fails if it has to."""
    wf = Workflow("ways")
    wf.on("begin")

    @wf.step
    async def first(state):
        if state.get("fails"):
            raise ValueError("no")
        return Jump("last", patch={"n": 1}) if state.get("short") else {"n": 1}

    @wf.step
    async def middle(n):
        return {"n": n + 1, "deep": {"a": 1, "b": 2}}

    @wf.step
    async def last(n):
        return {"end": n}

    return wf


async def run(rt, **payload):
    [result] = await (await rt.emit("begin", payload)).results()
    return result.run_id


async def test_equal_runs(stores):
    """Two runs of one way with one outcome do not differ, whatever their ids and times are."""
    rt = await stores.enter(branching())
    comparison = await rt.compare(await run(rt), await run(rt))
    assert (bool(comparison), comparison.outcome) == (False, {})


async def test_what_they_came_to(stores):
    """Status, result and error are told where they differ, of both sides."""
    rt = await stores.enter(branching())
    comparison = await rt.compare(await run(rt, fails=True), await run(rt))
    assert comparison.outcome == {"status": ("failed", "completed"), "error": ("ValueError: no", None)}
    assert str(comparison).endswith("status: failed -> completed\nerror: ValueError: no -> -")
    assert json.loads(json.dumps(comparison.to_dict()))["outcome"]["status"] == ["failed", "completed"]


async def test_a_fork_goes_on_from_its_source(stores):
    """A fork that is compared with the run it comes from has that run's way up to the point: only the rest differs."""
    rt = await stores.enter(branching())
    run_id = await run(rt)
    fork = await rt.fork(run_id, "last", {"n": 10})
    await rt.wait(fork.run_id)
    for pair in ((run_id, fork.run_id), (fork.run_id, run_id)):
        comparison = await rt.compare(*pair)
        assert comparison.common == ("first", "middle", "last")
        assert (comparison.only_a, comparison.only_b, comparison.differs_at) == ((), (), "last")
        assert {change.path for change in comparison.state.changes} == {"n", "end"}


async def test_two_attempts_of_one_run(stores):
    """An earlier attempt is compared as it had ended: its way, its state, its error."""
    rt = await stores.enter(branching())
    run_id = await run(rt, fails=True)
    await rt.retry(run_id, patch={"fails": False})
    await rt.wait(run_id)
    comparison = await rt.compare(run_id, run_id, attempt_a=1)
    assert comparison.outcome == {"status": ("failed", "completed"), "error": ("ValueError: no", None)}
    assert (comparison.common, comparison.only_a, comparison.only_b) == (("first",), (), ("middle", "last"))
    assert not await rt.compare(run_id, run_id, attempt_a=2)
    with pytest.raises(InvalidDefinition, match="compare one of 1, 2"):
        await rt.compare(run_id, run_id, attempt_b=7)


async def test_what_a_rerun_went_back_behind(stores):
    """A run that was taken back to an earlier stage has each stage of its way once."""
    rt = await stores.enter(branching())
    one, other = await run(rt), await run(rt)
    await rt.rerun(other, "middle", {"n": 5})
    await rt.wait(other)
    comparison = await rt.compare(one, other)
    assert (comparison.common, comparison.differs_at) == (("first", "middle", "last"), "middle")


async def test_a_run_that_goes_on(stores):
    """A run that is paused is compared as it is now; one that does not exist is refused."""
    wf = branching()
    wf.wait("gate", on="go")
    rt = await stores.enter(wf)
    [line] = (await rt.emit("begin")).lines
    await rt.wait(line.run_id, until="rest")
    other = (await rt.emit("begin")).lines[0].run_id
    await rt.wait(other, until="rest")
    await rt.resume(other)
    assert (await rt.compare(line.run_id, other)).outcome == {"status": ("paused", "completed")}
    with pytest.raises(RunNotFound):
        await rt.compare(other, "nothing")
