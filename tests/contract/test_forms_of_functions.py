"""Forms of waits of durable functions."""

from __future__ import annotations

import pytest
from pydantic import BaseModel
from support import Stores

from poundlock import AnswerInvalid, RunStatus, Wait, workflow
from poundlock.testing import run_until_idle


class Vote(BaseModel):
    member: str
    yes: bool


def asking(waits=(), form=None):
    @workflow("asking", waits=waits)
    async def function(step):
        if waits:
            await step.wait_for("begun")
        return (await step.wait_for("vote", form=form or Vote.model_json_schema(), key="vote")).payload["member"]

    return function


async def said(rt, *args, **fields):
    return [f"{line.verdict} {line.reason}" for line in (await rt.emit(*args, **fields)).lines]


async def test_events_and_answers_are_checked(stores: Stores):
    """What does not fit is refused, by hand too, and the function is not called for it."""
    rt = await stores.enter(asking())
    run = await rt.run("asking")
    assert run.waits[0].form["required"] == ["member", "yes"]
    assert await said(rt, "vote", member="a") == ["rejected wait vote: 'yes' is a required property"]
    with pytest.raises(AnswerInvalid) as error:
        await rt.resume(run.run_id, {"member": "a", "yes": "no"})
    assert error.value.path == "patch.yes"
    result = await rt.resume(run.run_id, {"member": "a", "yes": True}, wait=run.waits[0].token)
    assert (result.status, result.result) == (RunStatus.COMPLETED, "a")


async def test_what_an_earlier_wait_buffered_is_checked(stores: Stores):
    """A wait from the start has no form: its events are checked when the function asks for one that fits."""
    rt = await stores.enter(asking(waits=["vote"]))
    run = await rt.run("asking")
    await rt.emit("vote", member="a")
    await rt.emit("vote", member="b", yes=True)
    await rt.emit("begun")
    result = await rt.wait(run.run_id)
    assert result.result == "b"
    assert (await rt.timeline(run.run_id)).types().count("wait:refused") == 1


async def test_a_wait_from_the_start_may_have_a_form(stores: Stores):
    """Then what does not fit is refused as it comes; a limit and its overflow hold as well."""
    early = Wait("vote", form=Vote, limit=1, overflow="reject", id="votes")
    rt = await stores.enter(asking(waits=[early]))
    run = await rt.run("asking")
    assert await said(rt, "vote", member="a") == ["rejected wait votes: yes: Field required"]
    assert await said(rt, "vote", member="a", yes=True) == ["buffered wait votes"]
    assert await said(rt, "vote", member="b", yes=True) == ["rejected wait votes: its buffer is full (1)"]
    await rt.emit("begun")
    await run_until_idle(stores.clock)
    assert (await rt.wait(run.run_id)).result == "a"


async def test_an_answer_that_nobody_could_check(stores: Stores):
    """Given where the workflow is unknown, it is refused when the run is claimed, and the run waits on."""
    rt = await stores.enter(asking())
    run = await rt.run("asking")
    await stores.crash(rt)
    rt = await stores.enter()
    assert (await rt.resume(run.run_id, {"member": 3})).status is RunStatus.READY
    await rt.stop()
    rt = await stores.enter(asking())
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run.run_id)).status is RunStatus.PAUSED
    assert await said(rt, "vote", member="a", yes=True) == ["resumed wait vote"]
    assert (await rt.wait(run.run_id)).result == "a"
