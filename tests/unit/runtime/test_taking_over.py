"""`TakeOver` and `PollSuspended`, commands of operators."""

from __future__ import annotations

import pytest
from support_operators import Gate, begun, two_stages, waiting

from poundlock import (
    InvalidDefinition,
    NotRegistered,
    Pending,
    RunFinished,
    RunNotFound,
    RunStatus,
    Serialized,
    Workflow,
)
from poundlock.runtime.commands import PollSuspended, TakeOver
from poundlock.testing import run_until_idle

COMPLETED = RunStatus.COMPLETED


# --------------------------------------------------------------------------------------------------------- TakeOver
async def test_a_run_of_a_worker_that_is_gone(stores):
    """It is driven here, with one attempt more; its old owner can write nothing of it."""
    other = await stores.enter(two_stages(Gate()))
    run_id = await begun(other)
    await run_until_idle(stores.clock)
    # As of a worker elsewhere: this process has forgotten it.
    live = other._core.runs.live(run_id)
    other._core.runs.drop(run_id)
    other._core.worker = "here"
    assert await other.dispatch(TakeOver(run_id))
    taken = await other.store.load(run_id)
    assert (taken.head.owner, taken.head.attempt) == ("here", 2)
    assert live.run.epoch < taken.head.epoch
    assert not await other.dispatch(TakeOver(run_id))  # it is driven here now


@pytest.mark.parametrize("state", ["driven", "paused", "queued"])
async def test_what_nobody_has_to_drive_is_left_alone(stores, state):
    """A run that is driven here, or rests, is as it was."""
    gate = Gate()
    rt = await stores.enter()
    await rt.register(waiting() if state == "paused" else two_stages(gate), Serialized())
    run_id = await begun(rt)
    if state == "queued":
        run_id = await begun(rt)
    await run_until_idle(stores.clock)
    before = await rt.store.load(run_id)
    assert not await rt.dispatch(TakeOver(run_id))
    assert await rt.store.load(run_id) == before
    gate.open.set()


async def test_what_cannot_be_taken_over(stores):
    """A run that is unknown, has ended, or whose workflow is not here is refused with a typed error, and unchanged."""
    gate = Gate()
    gate.open.set()
    rt = await stores.enter(two_stages(gate), waiting_named("other"))
    run_id = await begun(rt)
    await rt.wait(run_id)
    with pytest.raises(RunFinished):
        await rt.dispatch(TakeOver(run_id))
    with pytest.raises(RunNotFound):
        await rt.dispatch(TakeOver("unknown"))
    [paused] = (await rt.emit("other")).run_ids
    await run_until_idle(stores.clock)
    await rt.deregister("other")
    with pytest.raises(NotRegistered):
        await rt.dispatch(TakeOver(paused))


def waiting_named(name):
    wf = Workflow(name)
    wf.on(name)
    wf.wait("gate", on="never")
    return wf


# ---------------------------------------------------------------------------------------------------- PollSuspended
def polling(name, done, every="1h", mode=None):
    """A workflow that checks something once an hour."""
    wf = Workflow(name, mode=mode)
    wf.on(name)

    def check(job: dict):
        done["checks"] = done.get("checks", 0) + 1
        return {"got": job["id"]} if done.get("is") else Pending()

    wf.step(lambda: {"id": 7}, id="begin", poll=check, every=every)
    return wf


async def test_parked_runs_check_at_once(stores):
    """A run that is parked until its next check makes it now; if it is not done, the next one is an hour later."""
    done = {}
    stores.clock.autojump = False
    rt = await stores.enter(polling("job", done))
    [run_id] = (await rt.emit("job")).run_ids
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status is RunStatus.DELAYED
    assert await rt.dispatch(PollSuspended()) == 1
    await run_until_idle(stores.clock)
    assert done == {"checks": 1}
    info = await rt.get_run(run_id)
    assert (info.status, info.wake_at) == (RunStatus.DELAYED, rt.clock.now() + 3600)
    done["is"] = True
    assert await rt.dispatch(PollSuspended("job")) == 1
    result = await rt.wait(run_id)
    assert (result.status, result.state["got"], result.metadata["attempt"]) == (COMPLETED, 7, 1)
    assert done["checks"] == 2


async def test_also_after_a_restart_and_up_to_a_limit(stores):
    """Only so many runs check as are asked for, the newest ones first; a crash in between loses none."""
    done = {"is": True}
    stores.clock.autojump = False
    rt = await stores.enter(polling("job", done))
    run_ids = [(await rt.emit("job")).run_ids[0] for _ in range(3)]
    await run_until_idle(stores.clock)
    await stores.crash(rt)
    rt = await stores.enter(polling("job", done))
    assert await rt.dispatch(PollSuspended(limit=2)) == 2
    await run_until_idle(stores.clock)
    assert [(await rt.get_run(run_id)).status is COMPLETED for run_id in run_ids] == [False, True, True]
    assert await rt.dispatch(PollSuspended()) == 1
    assert (await rt.wait(run_ids[0])).status is COMPLETED


async def test_other_runs_rest_on(stores):
    """A run that is delayed otherwise, of a paused workflow, or of another workflow than asked for, is unchanged."""
    from poundlock import Delay

    done = {"is": True}
    stores.clock.autojump = False
    later = Workflow("later")
    later.on("later")
    later.step(lambda: Delay(1000), id="first")
    later.step(lambda: None, id="second")
    rt = await stores.enter(polling("job", done), polling("held", done), later)
    runs = [(await rt.emit(name)).run_ids[0] for name in ("job", "held", "later")]
    await run_until_idle(stores.clock)
    await rt.pause_workflow("held")
    before = [await rt.store.load(run_id) for run_id in runs]
    assert await rt.dispatch(PollSuspended("later")) == 0
    assert [await rt.store.load(run_id) for run_id in runs] == before
    assert await rt.dispatch(PollSuspended()) == 1
    await run_until_idle(stores.clock)
    assert [str((await rt.get_run(run_id)).status) for run_id in runs] == ["completed", "delayed", "delayed"]
    with pytest.raises(InvalidDefinition, match="limit"):
        await rt.dispatch(PollSuspended(limit=0))
    with pytest.raises(NotRegistered):
        await rt.dispatch(PollSuspended("unknown"))
