"""A state that no longer fits its model: a new deployment, a date that has passed. It must not fail runs for good."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel, field_validator

from poundlock import (
    Delay,
    Pause,
    Pipeline,
    RunStatus,
    Serialized,
    Stage,
    StateInvalid,
    Step,
    Trigger,
    Wait,
    Workflow,
)

COMPLETED, PAUSED, FAILED, ABORTED = RunStatus.COMPLETED, RunStatus.PAUSED, RunStatus.FAILED, RunStatus.ABORTED


class Old(BaseModel):
    n: int = 0
    by: str = ""
    done: bool = False


class New(BaseModel):
    """The next deployment requires a field more."""

    n: int = 0
    by: str = ""
    region: str
    done: bool = False


class Angry(BaseModel):
    """A model whose validator raises what is no ValidationError."""

    n: int = 0
    by: str = ""
    done: bool = False

    @field_validator("n")
    @classmethod
    def never(cls, _value):
        raise SystemExit("no")


def approval(model, wait=None, mode=None):
    ran = []

    async def finish(ctx):
        ran.append(ctx.resume and (ctx.resume.reason, ctx.resume.wait))
        return {"done": True}

    async def begin():
        ran.append("begin")

    router = Pause(wait or Wait("ok", id="gate"))
    stages = [Stage("begin", [Step("begin", begin)], router=router), Stage("finish", [Step("finish", finish)])]
    return Workflow(
        "w", triggers={"go": Trigger("go")}, pipelines=[Pipeline("main", stages)], state=model, mode=mode
    ), ran


async def paused(stores, model=Old, **options):
    wf, _ = approval(model, **options)
    rt = await stores.enter(wf)
    [run] = await (await rt.emit("go", n=1)).results(60)
    assert run.status is PAUSED
    return rt, run.run_id


async def deployed(stores, rt, model, **options):
    """The same store under the next version of the workflow."""
    await rt.stop()
    wf, ran = approval(model, **options)
    return await stores.enter(wf), ran


@pytest.mark.parametrize("model", [New, Angry])
async def test_resuming_is_refused_and_changes_nothing(stores, model):
    """A resume of a run whose state does not fit raises StateInvalid with the path; the run stays paused as it was."""
    rt, run_id = await paused(stores)
    rt, ran = await deployed(stores, rt, model)
    before = await rt.get_run(run_id)
    with pytest.raises(StateInvalid) as refused:
        await rt.resume(run_id, {"by": "ada"})
    assert refused.value.path == ("region" if model is New else "")
    assert await rt.get_run(run_id) == before
    assert ran == []
    rt, ran = await deployed(stores, rt, Old)
    assert (await rt.resume(run_id, {"by": "ada"})).state.done is True
    assert ran == [("api", "gate")]


async def test_a_patch_that_makes_the_state_fit_resumes(stores):
    """`resume` with what the new model asks for goes on, also after the run was paused because of its state."""
    rt, run_id = await paused(stores)
    rt, ran = await deployed(stores, rt, New)
    await rt.emit("ok", by="ada")
    await stores.clock.run_until_idle()
    assert (await rt.get_run(run_id)).error.code == "STATE_INVALID"
    result = await rt.resume(run_id, {"region": "eu"})
    assert (result.status, result.state.region, result.state.done) == (COMPLETED, "eu", True)
    assert (await rt.get_run(run_id)).error is None
    assert ran == [("api", "gate")]


async def test_an_event_pauses_it_again_and_is_kept(stores, caplog):
    """An event for such a run leaves it paused with the error; later events are buffered, and used once it fits."""
    rt, run_id = await paused(stores)
    rt, ran = await deployed(stores, rt, New)
    with caplog.at_level(logging.ERROR):
        await rt.emit("ok", by="ada")
        await stores.clock.run_until_idle()
    assert run_id in caplog.text
    info = await rt.get_run(run_id)
    assert (info.status, info.stage, info.error.code, info.wake_at) == (PAUSED, "begin", "STATE_INVALID", None)
    assert [wait.id for wait in info.waits if wait.parked] == ["gate"]
    receipt = await rt.emit("ok", by="grace")
    assert [str(line.verdict) for line in receipt.lines if line.run_id == run_id] == ["buffered"]
    await stores.clock.run_until_idle()
    assert ran == []
    assert (await rt.get_run(run_id)).status is PAUSED
    rt, ran = await deployed(stores, rt, Old)
    result = await rt.wait(run_id, 60)
    assert (result.status, result.state.by) == (COMPLETED, "ada")
    assert ran == [("event", "gate")]


@pytest.mark.parametrize("on_timeout", ["resume", "fail", "abort"])
async def test_a_time_out_pauses_it_again_without_wake_up(stores, on_timeout):
    """At its time-out such a run is paused at the same wait, without wake-up; once it fits, the time-out has come."""
    options = {"wait": Wait("ok", id="gate", timeout="1h", on_timeout=on_timeout)}
    rt, run_id = await paused(stores, **options)
    rt, ran = await deployed(stores, rt, New, **options)
    await stores.clock.run_for("2h")
    info = await rt.get_run(run_id)
    assert (info.status, info.error.code, info.wake_at) == (PAUSED, "STATE_INVALID", None)
    await stores.clock.run_for("20d")
    assert (await rt.get_run(run_id)).status is PAUSED
    assert ran == []
    rt, ran = await deployed(stores, rt, Old, **options)
    result = await rt.wait(run_id, 60)
    assert result.status is {"resume": COMPLETED, "fail": FAILED, "abort": ABORTED}[on_timeout]
    assert ran == ([("timeout", "gate")] if on_timeout == "resume" else [])


async def test_a_deployment_that_is_as_bad_leaves_it_as_it_is(stores):
    """Registering a model that does not fit either tries the run once and pauses it again, with its time-out kept."""
    rt, run_id = await paused(stores)
    for _ in range(3):
        rt, ran = await deployed(stores, rt, New)
        await rt.emit("ok", by="ada")
        await stores.clock.run_until_idle()
        info = await rt.get_run(run_id)
        assert (info.status, info.error.code, ran) == (PAUSED, "STATE_INVALID", [])
    await rt.abort(run_id, "enough")
    assert (await rt.wait(run_id, 60)).status is ABORTED


async def test_a_run_that_was_delayed_goes_on_for_its_reason(stores):
    """A delayed run whose state does not fit when it is due is paused, and goes on as after its delay once it fits."""

    def delayed(model):
        ran = []

        async def finish(ctx):
            ran.append(ctx.resume and ctx.resume.reason)

        stages = [Stage("nap", router=Delay("1h")), Stage("finish", [Step("finish", finish)])]
        wf = Workflow("w", triggers={"go": Trigger("go")}, pipelines=[Pipeline("main", stages)], state=model)
        return wf, ran

    wf, _ = delayed(Old)
    rt = await stores.enter(wf)
    [run_id] = (await rt.emit("go", n=1)).run_ids
    await stores.clock.run_until_idle()
    await rt.stop()
    wf, ran = delayed(New)
    rt = await stores.enter(wf)
    await stores.clock.run_for("2h")
    info = await rt.get_run(run_id)
    assert (info.status, info.stage, info.error.code) == (PAUSED, "finish", "STATE_INVALID")
    with pytest.raises(StateInvalid):
        await rt.resume(run_id)
    await rt.stop()
    wf, ran = delayed(Old)
    rt = await stores.enter(wf)
    result = await rt.wait(run_id, 60)
    assert (result.status, ran) == (COMPLETED, ["delay"])
    assert (await rt.get_run(run_id)).waits == ()


async def test_a_run_of_a_dead_owner_waits_for_its_state_to_fit(stores):
    """A run that was running as its process died is not failed by a model it does not fit; a signal mends it too."""
    busy = asyncio.Event()

    def working(model, hold):
        async def work(n: int):
            if hold:
                busy.set()
                await asyncio.get_running_loop().create_future()
            return {"done": True}

        stages = [Stage("first", [Step("first", nothing)]), Stage("work", [Step("work", work)])]
        return Workflow("w", triggers={"go": Trigger("go")}, pipelines=[Pipeline("main", stages)], state=model)

    async def nothing():
        pass

    rt = await stores.enter(working(Old, hold=True))
    [run_id] = (await rt.emit("go", n=1)).run_ids
    await busy.wait()
    await stores.crash(rt)
    rt = await stores.enter(working(New, hold=False))
    await stores.clock.run_until_idle()
    info = await rt.get_run(run_id)
    assert (info.status, info.stage, info.error.code) == (PAUSED, "work", "STATE_INVALID")
    result = await rt.resume(run_id, {"region": "eu"})
    assert (result.status, result.state.done, result.state.region) == (COMPLETED, True, "eu")


async def test_a_date_that_has_passed_does_not_end_a_run(stores):
    """A state can stop to fit by itself, without any deployment: then too the run stays paused and answers."""
    clock = stores.clock

    class Due(BaseModel):
        due: datetime
        by: str = ""
        done: bool = False

        @field_validator("due")
        @classmethod
        def to_come(cls, value):
            if value <= datetime.fromtimestamp(clock.now(), UTC):
                raise ValueError("it has passed")
            return value

    wf, ran = approval(Due)
    rt = await stores.enter(wf)
    due = datetime.fromtimestamp(clock.now(), UTC) + timedelta(seconds=30)
    [run] = await (await rt.emit("go", due=due)).results(60)
    await clock.run_for(31)
    with pytest.raises(StateInvalid) as refused:
        await rt.resume(run.run_id)
    assert refused.value.path == "due"
    await rt.emit("ok", by="ada")
    await clock.run_until_idle()
    assert (await rt.get_run(run.run_id)).error.code == "STATE_INVALID"
    assert ran == ["begin"]
    result = await rt.resume(run.run_id, {"due": due + timedelta(days=1)})
    assert (result.status, result.state.done) == (COMPLETED, True)


async def test_the_slot_is_kept_as_for_any_pause(stores):
    """A serialized workflow holds its next run back while one of it waits for its state to fit, and then goes on."""
    rt, run_id = await paused(stores, mode=Serialized())
    [second] = (await rt.emit("go", n=2)).run_ids
    rt, _ = await deployed(stores, rt, New, mode=Serialized())
    await rt.emit("ok", by="ada")
    await stores.clock.run_until_idle()
    assert (await rt.get_run(second)).status is RunStatus.QUEUED
    await rt.abort(run_id)
    await stores.clock.run_until_idle()
    assert (await rt.get_run(second)).error.code == "STATE_INVALID"


async def test_results_of_ended_runs_are_shown_as_they_are(stores):
    """An ended run whose state does not fit the model of today answers with the plain mapping and says so."""
    rt, run_id = await paused(stores)
    assert (await rt.resume(run_id, {"by": "ada"})).status is COMPLETED
    rt, _ = await deployed(stores, rt, New)
    result = await rt.wait(run_id, 60)
    assert result.status is COMPLETED
    assert result.state == {"n": 1, "by": "ada", "done": True}
    assert "region" in result.metadata["state_invalid"]
