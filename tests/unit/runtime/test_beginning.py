"""How a run begins, and what its steps see of it."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import DELETE, Retry, StepContext, Workflow


async def test_deleting_what_is_not_there_leaves_nothing_in_the_first_state(runtime):
    """A `map` may return DELETE: the key is simply absent, in the live state and in the recorded one."""
    wf = Workflow("desk")

    @wf.on("asked", map=lambda event: {"kept": event.payload["a"], "dropped": DELETE})
    @wf.step
    async def look(state):
        return {"seen": sorted(state)}

    rt = await runtime(wf)
    result = (await (await rt.emit("asked", a=1)).results())[0]
    assert result.state == {"kept": 1, "seen": ["kept"]}
    assert (await rt.timeline(result.run_id)).state_at(1) == {"kept": 1}


async def test_a_step_left_behind_sees_the_state_of_its_own_stage(runtime):
    """`ctx.state` is what it was when the stage began, however far the run has come since."""
    wf = Workflow("desk")
    kept: list[StepContext] = []

    @wf.step
    async def first(ctx: StepContext):
        kept.append(ctx)
        return {"stage": 1}

    @wf.step
    async def second():
        return {"stage": 2}

    rt = await runtime(wf)
    await rt.run("desk", {"stage": 0})
    assert kept[0].state == {"stage": 0}


async def test_retrying_on_everything_does_not_retry_an_abort(runtime):
    """`Retry(on=(BaseException,))` means failures: a cancellation ends the step at once."""
    wf = Workflow("desk")
    begun = asyncio.Event()
    attempts: list[int] = []

    @wf.on("asked")
    @wf.step(retry=Retry(5, on=(BaseException,)))
    async def stubborn(ctx: StepContext):
        attempts.append(ctx.attempt)
        begun.set()
        await asyncio.Event().wait()

    rt = await runtime(wf)
    receipt = await rt.emit("asked")
    await begun.wait()
    await rt.abort(receipt.run_ids[0], "enough")
    result = await rt.wait(receipt.run_ids[0])
    assert (result.status, attempts) == ("aborted", [1])


@pytest.mark.parametrize("payload", [{"a": {"b": [1]}}, {}])
async def test_the_first_state_is_the_payload(runtime, payload):
    """Without a `map` the payload is the state a run begins with."""
    wf = Workflow("desk")

    @wf.on("asked")
    @wf.step
    async def nothing():
        return None

    rt = await runtime(wf)
    result = (await (await rt.emit("asked", payload)).results())[0]
    assert result.state == payload


async def test_the_idempotency_key_is_the_same_after_the_run_was_written_early(stores):
    """An invoked run that is written in the middle of its first stage, and crashes there, keeps the stage's key."""
    wf = Workflow("desk")
    keys: list[str] = []
    begun, go = asyncio.Event(), asyncio.Event()

    @wf.on("asked")
    @wf.step
    async def charge(ctx: StepContext):
        keys.append(ctx.idempotency_key)
        begun.set()
        await go.wait()

    rt = await stores.enter(wf)
    waiting = asyncio.ensure_future(rt.run("desk"))
    await begun.wait()
    [info] = rt.list_all_runs()
    await rt.signal(info.run_id, {"noted": True})  # a message needs a row to lie in
    await stores.crash(rt)
    waiting.cancel()
    go.set()
    again = await stores.enter(wf)
    result = await again.wait(info.run_id)
    assert (result.status, len(keys), len(set(keys))) == ("completed", 2, 1)
