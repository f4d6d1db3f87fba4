"""Arguments of any type: what cannot be meant is refused with a typed error that names it, and nothing is changed."""

from __future__ import annotations

import datetime as dt

import pytest

from poundlock import Event, InvalidDefinition, InvalidEvent, NotRegistered, RunNotFound, Workflow, WorkflowRuntime


def plain():
    """A workflow of one step."""
    wf = Workflow("plain")
    wf.on("begin")

    @wf.step
    async def work():
        return {"done": True}

    return wf


@pytest.mark.parametrize("active", ["abrot", "", None, True])
async def test_a_workflow_is_not_deregistered_in_a_way_that_does_not_exist(stores, active):
    """A misspelled way is refused, and the workflow stays."""
    rt = await stores.enter(plain())
    with pytest.raises(InvalidDefinition, match="use 'finish' or 'abort'") as refused:
        await rt.deregister("plain", active)
    assert (refused.value.path, rt.has_workflow("plain")) == ("active", True)
    assert (await rt.run("plain")).status == "completed"


@pytest.mark.parametrize("env", [{"TOKEN": 5}, {"TOKEN": None}, {5: "x"}, ["TOKEN"], "TOKEN", 5])
def test_variables_are_text(env):
    """A value that is no text could not be found in other texts: then no error of a run could be shown."""
    with pytest.raises(InvalidDefinition, match="env"):
        WorkflowRuntime(env=env)


@pytest.mark.parametrize("workflow_id", [None, 1.5, [], "", Event("begin")])
async def test_a_workflow_is_named_by_text(stores, workflow_id):
    """What is no id of a workflow is the id of none that is registered."""
    rt = await stores.enter(plain())
    for call in (rt.run, rt.invoke, rt.deregister):
        with pytest.raises(NotRegistered):
            await call(workflow_id)
    with pytest.raises(NotRegistered):
        rt.registry(workflow_id)


async def test_a_run_begins_with_an_event(stores):
    """A mapping in place of an event is refused; it may have been meant as the payload, or as the event."""
    rt = await stores.enter(plain())
    with pytest.raises(InvalidEvent, match="is not an Event") as refused:
        await rt.invoke("plain", event={"type": "begin"})
    assert refused.value.path == "event"
    assert not (await rt.find_runs()).items


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"limit": "many"},
        {"limit": True},
        {"workflow": 5},
        {"key": 5},
        {"text": 5},
        {"text": "\ud800"},
        {"cursor": 5},
        {"since": "yesterday"},
        {"since": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)},
        {"until": dt.timedelta(days=1)},
        {"until": float("nan")},
        {"status": "gone"},
        {"status": 5},
    ],
    ids=repr,
)
async def test_a_list_of_runs_has_a_valid_filter(stores, wrong):
    """A filter of another type is refused: an empty list would say that there are no such runs."""
    rt = await stores.enter(plain())
    await rt.run("plain")
    with pytest.raises(InvalidEvent) as refused:
        await rt.find_runs(**wrong)
    assert refused.value.path == next(iter(wrong))


@pytest.mark.parametrize(
    "run_id",
    [None, 5, "", "nobody", b"nobody", "\ud800", "nobody\0", "n" * 100_000],
    ids=lambda value: repr(value)[:20],
)
async def test_no_run_has_such_an_id(stores, run_id):
    """Whatever is given as an id: there is no such run, in any store."""
    rt = await stores.enter(plain())
    for call in (
        rt.get_run(run_id),
        rt.timeline(run_id),
        rt.wait(run_id),
        rt.resume(run_id),
        rt.signal(run_id, {}),
        rt.abort(run_id),
        rt.pause(run_id),
        rt.unpause(run_id),
        rt.retry(run_id),
        rt.rerun(run_id, "work"),
        rt.fork(run_id, "work"),
    ):
        with pytest.raises(RunNotFound):
            await call


@pytest.mark.parametrize("sinks", [5, [5]])
def test_sinks_are_functions(sinks):
    """What cannot take entries is refused."""
    with pytest.raises(InvalidDefinition, match="sinks"):
        WorkflowRuntime(sinks=sinks)
