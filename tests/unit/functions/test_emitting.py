"""Durable functions emit with their end."""

from __future__ import annotations

from poundlock import Event, StepContext, StepError, Trigger, Workflow, workflow
from poundlock.testing import run_until_idle


def listener():
    got = []
    wf = Workflow("listener", triggers={"out": Trigger("out.**")})

    @wf.step
    async def note(event: Event):
        got.append(event)

    return wf, got


async def test_a_function_emits_once_however_often_it_is_called(stores, calls):
    """What the body emits in its last pass leaves with its end, from before a wait too: once, also after a crash."""

    @workflow("sender")
    async def sender(step, ctx: StepContext):
        ctx.emit("out.before", n=await step.run(calls.work))
        await step.wait_for("go on")
        ctx.emit("out.behind")
        return "done"

    other, got = listener()
    rt = await stores.enter(sender, other)
    run = await rt.run("sender")
    await stores.crash(rt)
    rt = await stores.enter(sender, other)
    await run_until_idle(rt.clock)
    assert got == []
    await rt.emit("go on")
    run = await rt.wait(run.run_id)
    await run_until_idle(rt.clock)
    assert (run.result, calls) == ("done", ["work"])
    assert [(event.type, event.payload) for event in got] == [("out.before", {"n": 1}), ("out.behind", {})]
    assert len({event.id for event in got}) == 2


async def test_a_function_that_fails_emits_nothing(stores):
    """A function that raises leaves nothing."""

    @workflow("sender")
    async def sender(step, ctx: StepContext):
        ctx.emit("out.before")
        raise ValueError("no")

    other, got = listener()
    rt = await stores.enter(sender, other)
    assert not (await rt.run("sender")).ok
    await run_until_idle(rt.clock)
    assert got == []


async def test_a_recorded_call_may_not_emit(stores):
    """A call that is on record is not made again, so its events would be lost: emitting there is refused."""

    @workflow("sender")
    async def sender(step, ctx: StepContext):
        async def tell():
            ctx.emit("out.told")

        def tell_in_a_thread():
            ctx.emit("out.told")

        said = []
        for call in (tell, tell_in_a_thread):
            try:
                await step.run(call)
            except StepError as error:
                said.append("emit in the durable function itself" in str(error))
        ctx.emit("out.fine")
        return said

    other, got = listener()
    rt = await stores.enter(sender, other)
    run = await rt.run("sender")
    await run_until_idle(rt.clock)
    assert run.result == [True, True]
    assert [event.type for event in got] == ["out.fine"]


async def test_a_run_that_a_recorded_call_starts_may_emit(stores):
    """Only the call itself may not emit; a run that it starts is another run."""
    inner = Workflow("inner")

    @inner.step
    async def tell(ctx: StepContext):
        ctx.emit("out.inner")

    @workflow("sender")
    async def sender(step):
        async def start():
            return str((await rt.run("inner")).status)

        return await step.run(start)

    other, got = listener()
    rt = await stores.enter(sender, inner, other)
    assert (await rt.run("sender")).result == "completed"
    await run_until_idle(rt.clock)
    assert [event.type for event in got] == ["out.inner"]
