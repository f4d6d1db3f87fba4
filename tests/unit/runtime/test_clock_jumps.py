"""The wall clock is set while things wait: stretches of time do not care, appointments follow it."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import Delay, Pause, Pipeline, Retry, Stage, Step, StepTimeout, Wait, Workflow
from poundlock.errors import RuntimeStopped, StoreUnavailable
from poundlock.stores import MemoryStore

DAY = 86_400.0


async def forever():
    await asyncio.get_running_loop().create_future()


@pytest.fixture
def spent(vclock):
    """How many seconds have really passed since the test began."""
    began = vclock.monotonic()
    return lambda: vclock.monotonic() - began


@pytest.fixture(params=[-DAY, DAY], ids=["back", "forward"])
def jump(request, vclock):
    """Sets the wall clock by a day, back or forward."""
    return lambda: vclock.set(vclock.now() + request.param)


@pytest.fixture
def jump_in(vclock, jump):
    """Sets the wall clock so many seconds from now."""
    return lambda delay: vclock.call_later(delay, jump)


async def test_a_step_has_its_seconds(runtime, spent, jump):
    """A step with one second fails after one second, also if the wall clock is set by a day meanwhile."""
    wf = Workflow("slow")

    @wf.step(timeout=1)
    async def step():
        jump()
        await forever()

    result = await (await runtime(wf)).run("slow")
    assert result.error.code == StepTimeout.code
    assert spent() == 1


async def test_a_stage_has_its_seconds(runtime, spent, jump):
    """So does a stage of several steps."""

    async def one():
        jump()
        await forever()

    async def two():
        await forever()

    both = Stage("both", [Step("one", one), Step("two", two)], timeout=2)
    wf = Workflow("slow", pipelines=[Pipeline("main", [both])])
    result = await (await runtime(wf)).run("slow")
    assert result.error.code == StepTimeout.code
    assert spent() == 2


async def test_back_off_takes_its_seconds(runtime, spent, jump):
    """The waits between a step's attempts are as long as they are, whatever the wall clock does meanwhile."""
    wf, attempts = Workflow("flaky"), []

    @wf.step(retry=Retry(attempts=3, backoff=1, jitter=0))
    async def step():
        attempts.append(spent())
        jump()
        if len(attempts) < 3:
            raise ConnectionError

    assert (await (await runtime(wf)).run("flaky")).ok
    assert attempts == [0, 1, 3]


async def test_draining_takes_its_seconds(runtime, spent, jump_in):
    """`stop(drain=5)` gives runs five seconds to reach a boundary."""
    wf, began = Workflow("slow"), asyncio.Event()

    @wf.step
    async def step():
        began.set()
        await forever()

    rt = await runtime(wf)
    running = asyncio.create_task(rt.run("slow"))
    await began.wait()
    jump_in(1)
    await rt.stop(drain=5)
    assert spent() == 5
    with pytest.raises(RuntimeStopped):
        await running


async def test_the_grace_of_an_abort_takes_its_seconds(runtime, spent, jump_in):
    """A step that swallows its abort is left behind after `abort_grace`."""
    wf, began, deaf = Workflow("deaf"), asyncio.Event(), asyncio.Event()

    @wf.step
    async def step():
        began.set()
        while not deaf.is_set():
            try:
                await deaf.wait()
            except asyncio.CancelledError:
                continue

    rt = await runtime(wf, abort_grace=3)
    running = asyncio.create_task(rt.run("deaf"))
    await began.wait()
    jump_in(1)
    [info] = rt.list_all_runs()
    await rt.abort(info.run_id)
    assert (await rt.wait(info.run_id)).status == "aborted"
    assert spent() == 3
    deaf.set()
    await running


async def test_waiting_for_a_run_takes_its_seconds(runtime, vclock, spent, jump_in):
    """`wait(timeout=2)` and `results(timeout=2)` give up after two seconds."""
    wf = Workflow("waits")
    wf.on("begin")(forever)
    wf.step(forever)
    rt = await runtime(wf, abort_grace=0)
    receipt = await rt.emit("begin")
    jump_in(1)
    with pytest.raises(TimeoutError):
        await rt.wait(receipt.lines[0].run_id, timeout=2)
    assert spent() == 2
    jump_in(1)
    with pytest.raises(TimeoutError):
        await receipt.results(timeout=2)
    assert spent() == 4


async def test_a_paused_run_leaves_memory_after_its_window(runtime, vclock, jump):
    """`pause_window` is counted in seconds that pass."""
    wf = Workflow("waits")
    wf.wait("answer", on="answer")
    rt = await runtime(wf, pause_window=10)
    run = await rt.run("waits")
    vclock.autojump = False
    jump()
    await vclock.run_for(9)
    assert [info.run_id for info in rt.list_all_runs()] == [run.run_id]
    await vclock.run_for(1)
    assert rt.list_all_runs() == []


class Flaky(MemoryStore):
    """A store that once does not know what is due."""

    failures = 1

    async def next_due(self, workflows):
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("not now")
        return await super().next_due(workflows)


async def test_looking_for_due_runs_is_tried_again_with_back_off(runtime, vclock, jump):
    """After a bad moment of the store due runs are looked for again, the first time 0.05 s later."""
    wf = Workflow("waits")
    wf.wait("answer", on="answer", timeout=3, on_timeout="resume")
    store = Flaky()
    vclock.autojump = False
    await runtime(wf, store=store)
    await vclock.run_until_idle()
    assert store.failures == 0
    jump()
    calls = []
    store.next_due = lambda workflows: calls.append(vclock.monotonic()) or MemoryStore.next_due(store, workflows)
    before = vclock.monotonic()
    await vclock.run_for(2)
    assert [call - before for call in calls] == [pytest.approx(0.05)]


# ---------------------------------------------------------------------------------------------------- appointments
async def test_appointments_are_due_when_the_clock_jumps_past_them(stores):
    """A wait and a delay whose time has come by a jump forward go on at once, although no time has passed."""
    answer = Pause(Wait("answer", timeout="3d", on_timeout="resume"))
    stages = [Stage("delay", router=Delay("2d")), Stage("pause", router=answer)]
    wf = Workflow("waits", pipelines=[Pipeline("main", stages)])
    clock = stores.clock
    clock.autojump = False
    rt = await stores.enter(wf)
    began = clock.monotonic()
    running = asyncio.create_task(rt.run("waits"))
    await clock.run_until_idle()
    clock.set(clock.now() + 2 * DAY)
    run = await running
    assert run.status == "paused"
    clock.set(clock.now() + 3 * DAY)
    assert (await rt.wait(run.run_id)).ok
    assert clock.monotonic() == began
