"""Taking up what a dead runtime, or a failing store, left behind."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from support import rests

from poundlock import (
    Delay,
    Jump,
    LeaseLost,
    Pause,
    Pipeline,
    Retry,
    RunStatus,
    Serialized,
    Stage,
    Step,
    StepContext,
    StoreFull,
    StoreUnavailable,
    Terminate,
    Trigger,
    Wait,
    Workflow,
    WorkflowRuntime,
)
from poundlock.stores import MemoryStore

ABORTED, COMPLETED, PAUSED, RUNNING = RunStatus.ABORTED, RunStatus.COMPLETED, RunStatus.PAUSED, RunStatus.RUNNING


def staged(ran, *, hold=None, mode=None, routers=(None, None), names=("one", "two", "three")):
    """Three stages; `hold(stage)` may keep a step busy; routers of the first two."""

    def step(name):
        async def run(ctx, state):
            ran.append((state.get("n"), name))
            if hold is not None:
                await hold(name)
            return {name: ctx.attempt}

        return Step(name, run)

    stages = [Stage(name, [step(name)], router=router) for name, router in zip(names, (*routers, None), strict=True)]
    return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)], mode=mode)


class Busy:
    """Keeps a step of one stage busy until it is let go."""

    def __init__(self, stage):
        self.stage = stage
        self.inside = asyncio.Event()
        self.free = asyncio.Event()

    async def __call__(self, stage):
        if stage == self.stage:
            self.inside.set()
            await self.free.wait()


@pytest.mark.parametrize("stage", ["one", "two", "three"])
async def test_a_run_that_was_running_goes_on_where_it_was(stores, stage):
    """After a crash no finished stage runs again, at once and without any time passing; the attempt is counted."""
    ran, busy = [], Busy(stage)
    stores.clock.autojump = False
    rt = await stores.enter(staged(ran, hold=busy))
    [run_id] = (await rt.emit("begin")).run_ids
    await busy.inside.wait()
    await stores.crash(rt)
    rt = await stores.enter(staged(ran))
    await stores.clock.run_until_idle()
    result = await rt.wait(run_id)
    assert result.status is COMPLETED
    counts = Counter(name for _, name in ran)
    assert counts == {name: 1 + (name == stage) for name in ("one", "two", "three")}
    assert result.metadata["attempt"] == 2
    entries = (await rt.timeline(run_id)).entries
    recovered = [(entry.path, entry.payload) for entry in entries if entry.payload and "recovered" in entry.payload]
    assert recovered == [(f"main/{stage}", {"attempt": 2, "recovered": True})]
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))


@pytest.mark.parametrize("kept", [False, True], ids=["concluded at once", "with attempts"])
async def test_a_step_behind_a_wait_keeps_its_key(stores, kept):
    """Killed in the step that follows an event's arrival, a run uses the same idempotency key, and starts no run twice.

    Events that nobody waits for yet, and that arrived with it, change nothing.
    """
    keys, busy = [], Busy("tell")
    stores.clock.autojump = False

    def made(hold):
        wf = Workflow("w")
        wf.on("begin")
        wf.wait("first", on="said")
        wf.wait("second", on="said later")

        @wf.step(retry=Retry(2, backoff="10s") if kept else None)
        async def tell(ctx: StepContext):
            keys.append(ctx.idempotency_key)
            await ctx.start("letter", {"to": "Ada"})
            if kept and ctx.attempt == 1:
                raise ValueError("not yet")
            await hold("tell")

        letter = Workflow("letter")
        letter.step(lambda: None, id="send", executor="inline")
        return wf, letter

    async def nothing(_): ...

    rt = await stores.enter(*made(busy))
    [run_id] = (await rt.emit("begin")).run_ids
    await rt.wait(run_id, until="rest")
    for event in ("said", "said later", "said"):
        await rt.emit(event)
    if kept:
        await stores.clock.run_for(seconds=10)
    await busy.inside.wait()
    await stores.crash(rt)
    rt = await stores.enter(*made(nothing))
    await stores.clock.run_until_idle()
    assert (await rt.wait(run_id)).status is COMPLETED
    assert len(keys) == (3 if kept else 2)
    assert len(set(keys)) == 1
    assert len([run for run in (await rt.find_runs()).items if run.workflow_id == "letter"]) == 1


@pytest.mark.parametrize("way", ["jump", "delay", "event", "timeout", "answer", "failure"])
@pytest.mark.parametrize("timeline", [True, False])
@pytest.mark.parametrize("level", ["stage", "exit"])
async def test_each_visit_has_a_key_of_its_own(stores, way, timeline, level):
    """Also without a timeline, where a round of a loop that changes no state leaves nothing in the log."""
    keys, rounds = [], 4
    stores.clock.autojump = False
    wf = Workflow("w", durability=level)
    wf.on("begin")

    @wf.step(on_failure="pause")
    async def look(ctx: StepContext):
        keys.append(ctx.idempotency_key)
        if len(keys) == rounds:
            return Terminate()
        if way == "failure":
            raise ValueError("again")
        return Delay(60, then="look") if way == "delay" else Jump("look") if way == "jump" else None

    wf.wait("more", on="more", timeout=60 if way == "timeout" else None, on_timeout="resume", resume_at="look")
    rt = await stores.enter(wf, timeline=timeline)
    [run_id] = (await rt.emit("begin")).run_ids
    for _ in range(rounds):
        await stores.clock.run_for(seconds=61)
        if way == "event":
            await rt.emit("more")
        elif way in ("answer", "failure") and (await rt.get_run(run_id)).status is PAUSED:
            await rt.resume(run_id)
    assert (await rt.wait(run_id)).status is COMPLETED
    assert (len(keys), len(set(keys))) == (rounds, rounds)


async def test_a_run_that_was_never_written_is_gone(stores):
    """An invoked run that crashed in its first stage was promised to nobody and leaves nothing behind."""
    ran, busy = [], Busy("one")
    rt = await stores.enter(staged(ran, hold=busy))
    running = asyncio.create_task(rt.run("w"))
    await busy.inside.wait()
    await stores.crash(rt)
    running.cancel()
    rt = await stores.enter(staged(ran))
    assert (await rt.find_runs()).items == []
    assert (await rt.run("w")).status is COMPLETED


async def test_the_queue_survives_in_order(stores):
    """Queued events are still queued after a crash and run one at a time, in the order they were accepted."""
    ran, busy = [], Busy("two")
    stores.clock.autojump = False
    rt = await stores.enter(staged(ran, hold=busy, mode=Serialized()))
    run_ids = [run_id for n in range(5) for run_id in (await rt.emit("begin", n=n)).run_ids]
    await busy.inside.wait()
    await stores.crash(rt)
    rt = await stores.enter(staged(ran, mode=Serialized()))
    await stores.clock.run_until_idle()
    assert {(await rt.wait(run_id)).status for run_id in run_ids} == {COMPLETED}
    assert ran == [
        (0, "one"),
        (0, "two"),
        (0, "two"),
        (0, "three"),
        *((n, name) for n in range(1, 5) for name in ("one", "two", "three")),
    ]


async def test_ready_delayed_and_parked_runs_survive(stores):
    """Runs that stand still in every way are taken up by the next runtime, each when it is time."""
    ran = []
    routers = (Delay(60), Pause(Wait("go", timeout=60, on_timeout="resume")))
    stores.clock.autojump = False
    rt = await stores.enter(staged(ran, routers=routers))
    [run_id] = (await rt.emit("begin")).run_ids
    await stores.clock.run_until_idle()
    for _ in range(2):
        await stores.crash(rt)
        rt = await stores.enter(staged(ran, routers=routers))
        await stores.clock.run_until_idle()
        await stores.clock.run_for(61)
    result = await rt.wait(run_id)
    assert (result.status, result.metadata["attempt"]) == (COMPLETED, 1)
    assert [name for _, name in ran] == ["one", "two", "three"]


async def test_on_prepare_is_not_called_twice(stores):
    """A run past its first boundary is not prepared again after a crash; one before it is."""
    for stage, calls in (("one", 2), ("two", 1)):
        ran, prepared, busy = [], [], Busy(stage)
        rt = await stores.enter()
        await rt.register(staged(ran, hold=busy), on_prepare=lambda ctx, told=prepared: told.append(ctx.run_id))
        [run_id] = (await rt.emit("begin")).run_ids
        await busy.inside.wait()
        await stores.crash(rt)
        rt = await stores.enter()
        await rt.register(staged(ran), on_prepare=lambda ctx, told=prepared: told.append(ctx.run_id))
        assert (await rt.wait(run_id, 60)).status is COMPLETED
        assert prepared == [run_id] * calls
        await rt.stop()


@pytest.mark.parametrize("gone", ["stage", "pipeline"])
async def test_what_is_gone_from_the_definition_is_said_clearly(stores, gone):
    """A run whose stage or pipeline no longer exists is paused with a code that says so, and stops nobody else."""
    ran, busy = [], Busy("two")
    rt = await stores.enter(staged(ran, hold=busy))
    [run_id] = (await rt.emit("begin")).run_ids
    await busy.inside.wait()
    await stores.crash(rt)
    if gone == "stage":
        changed = staged(ran, names=("one", "zwei", "three"))
    else:
        [only] = staged(ran).definition.pipelines.values()
        changed = Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("other", only.stages)])
    rt = await stores.enter(changed)
    result = await rt.wait(run_id, 60, until="rest")
    assert (result.status, result.error.code) == (RunStatus.PAUSED, "STAGE_GONE")
    assert (await (await rt.emit("begin")).results(60))[0].status is COMPLETED


async def test_an_owner_that_was_replaced_can_write_nothing(vclock):
    """A runtime whose store was opened by another one is fenced: its writes are refused, who waits gets the end."""
    ran, busy = [], Busy("two")
    store = MemoryStore()
    async with WorkflowRuntime(staged(ran, hold=busy), store=store, clock=vclock) as old:
        [run_id] = (await old.emit("begin")).run_ids
        await busy.inside.wait()
        waiting = asyncio.create_task(old.wait(run_id))
        await vclock.run_until_idle()
        async with WorkflowRuntime(staged(ran), store=store, clock=vclock) as new:
            assert (await new.wait(run_id, 60)).status is COMPLETED
            before = await new.timeline(run_id)
            busy.free.set()
            assert (await waiting).status is COMPLETED
            assert (await new.timeline(run_id)).entries == before.entries
            assert Counter(name for _, name in ran) == {"one": 1, "two": 2, "three": 1}
            assert old.list_all_runs() == []


async def test_who_waits_for_a_run_that_another_owner_drives_is_told(vclock):
    """A run that was taken over and is still going on elsewhere: who waits for it here gets LeaseLost, at once."""
    ran, busy, other = [], Busy("two"), Busy("two")
    store = MemoryStore()
    async with WorkflowRuntime(staged(ran, hold=busy), store=store, clock=vclock) as old:
        [run_id] = (await old.emit("begin")).run_ids
        await busy.inside.wait()
        waiting = asyncio.create_task(old.wait(run_id))
        await vclock.run_until_idle()
        async with WorkflowRuntime(staged(ran, hold=other), store=store, clock=vclock) as new:
            await other.inside.wait()
            busy.free.set()
            with pytest.raises(LeaseLost):
                await waiting
            other.free.set()
            assert (await new.wait(run_id, 60)).status is COMPLETED


async def test_a_run_that_was_promoted_while_its_workflow_was_taken_out_is_given_back(stores):
    """A run whose checkpoint is read while its workflow is deregistered is `ready` for whoever registers it again."""
    ran, busy = [], Busy("one")
    rt = await stores.enter(staged(ran, hold=busy, mode=Serialized()))
    first = await rt.emit("begin", n=1)
    second = await rt.emit("begin", n=2)
    await busy.inside.wait()
    read, asked, go_on = rt.store.inner.checkpoint, asyncio.Event(), asyncio.Event()

    async def slowly(run_id):
        if run_id == second.run_ids[0]:
            asked.set()
            await go_on.wait()
        return await read(run_id)

    rt.store.inner.checkpoint = slowly
    busy.free.set()
    await asked.wait()
    assert (await rt.wait(first.run_ids[0], 60)).status is COMPLETED
    await rt.deregister("w")
    go_on.set()
    await stores.clock.run_until_idle()
    assert (await rt.get_run(second.run_ids[0])).status is RunStatus.READY
    await rt.register(staged(ran, mode=Serialized()))
    result = await rt.wait(second.run_ids[0], 60)
    assert (result.status, result.metadata["attempt"]) == (COMPLETED, 1)


@pytest.mark.parametrize("helps", ["abort", "recover"])
async def test_a_run_whose_checkpoint_cannot_be_read_is_stranded(stores, helps):
    """A promoted run that cannot be read does not hold its slot for ever: `abort` ends it, `recover` tries it again."""
    ran, busy = [], Busy("one")
    rt = await stores.enter(staged(ran, hold=busy, mode=Serialized()))
    read, failures = rt.store.inner.checkpoint, [RuntimeError("an odd row")]

    async def odd(run_id):
        if failures:
            raise failures.pop()
        return await read(run_id)

    receipts = [await rt.emit("begin", n=n) for n in range(3)]
    stranded = receipts[1].run_ids[0]
    waiting = asyncio.create_task(rt.wait(stranded, 60))
    await busy.inside.wait()
    await stores.clock.run_until_idle()
    rt.store.inner.checkpoint = odd
    busy.free.set()
    with pytest.raises(RuntimeError):
        await waiting
    if helps == "abort":
        await rt.abort(stranded)
    else:
        assert await rt.recover() == 1
    assert (await rt.wait(stranded, 60)).status is (ABORTED if helps == "abort" else COMPLETED)
    assert (await rt.wait(receipts[2].run_ids[0], 60)).status is COMPLETED


# ------------------------------------------------------------------------------------------------- failing stores
@pytest.mark.parametrize("error", [StoreFull, StoreUnavailable])
@pytest.mark.parametrize("mended", ["itself", "restart"])
async def test_a_store_that_fails_once_loses_nothing(stores, error, mended):
    """Whichever commit the store fails at, the run goes on once the store works again, without repeating a step."""
    routers = (None, Pause(Wait("go")))
    number = 0
    while True:
        number += 1
        ran = []
        rt = await stores.enter(staged(ran, routers=routers))
        failed = []

        seen = []

        def failing(_at, changes, number=number, failed=failed, seen=seen):
            seen.append(changes)
            if len(seen) == number:
                failed.append(changes)
                return error("the store failed for a moment: try again")
            return None

        async def restarted(rt, ran=ran, failing=failing):
            if mended == "itself":
                return rt
            await stores.clock.run_until_idle()
            await rt.stop(drain=0)
            rt = await stores.enter(staged(ran, routers=routers))
            rt.store.failing = failing
            return rt

        rt.store.failing = failing
        key = f"{mended}-{number}"
        try:
            receipt = await rt.emit("begin", n=key)
        except error:
            receipt = await rt.emit("begin", n=key)
        [run_id] = receipt.run_ids
        rt = await restarted(rt)
        await stores.clock.run_for(1.0)
        assert (await rt.get_run(run_id)).status is PAUSED, number
        try:
            await rt.emit("go", n=key)
        except error:
            await rt.emit("go", n=key)
        rt = await restarted(rt)
        result = await rt.wait(run_id, 60)
        assert result.status is COMPLETED, number
        mine = Counter(name for n, name in ran if n == key)
        assert set(mine) == {"one", "two", "three"}, number
        assert sum(mine.values()) <= (3 if mended == "itself" else 4), number
        await rt.stop()
        if not failed:
            break
    assert number > 5


async def test_a_failing_store_fails_one_run_only(stores):
    """While one run's commits fail, the others complete; who waits for the one gets the error, and it goes on later."""
    ran, broken, busy = [], set(), Busy("two")
    rt = await stores.enter(staged(ran, hold=busy))
    rt.store.failing = lambda _number, changes: (
        StoreFull("full: free some space") if any(move.run_id in broken for move in changes.moves) else None
    )
    receipt = await rt.emit("begin", n=1)
    await busy.inside.wait()
    waiting = asyncio.create_task(rt.wait(receipt.run_ids[0]))
    await stores.clock.run_until_idle()
    broken.add(receipt.run_ids[0])
    other = await rt.emit("begin", n=2)
    busy.free.set()
    assert [result.status for result in await other.results(60)] == [COMPLETED]
    with pytest.raises(StoreFull):
        await waiting
    assert (await rt.get_run(receipt.run_ids[0])).status is RUNNING
    broken.clear()
    result = await rt.wait(receipt.run_ids[0], 60)
    assert (result.status, result.metadata["attempt"]) == (COMPLETED, 1)
    assert Counter(name for n, name in ran if n == 1) == {"one": 1, "two": 1, "three": 1}


async def test_a_run_that_the_runtime_cannot_settle_is_stranded_until_it_is_taken_up_or_aborted(stores):
    """A run whose commit fails for another reason is not lost: who waits gets the error, `recover` or `abort` help."""
    ran, broken = [], []
    rt = await stores.enter(staged(ran))
    rt.store.failing = lambda _number, changes: (
        broken.pop() if broken and any(move.status.terminal for move in changes.moves) else None
    )
    broken.append(RuntimeError("a bug"))
    first = await rt.emit("begin", n=1)
    with pytest.raises(RuntimeError):
        await first.results(60)
    with pytest.raises(RuntimeError):  # also later: nothing drives it on
        await rt.wait(first.run_ids[0], 60)
    assert await rt.recover() == 1
    assert await rt.recover() == 0
    result = await rt.wait(first.run_ids[0], 60)
    assert (result.status, result.metadata["attempt"]) == (COMPLETED, 2)
    broken.append(RuntimeError("a bug"))
    second = await rt.emit("begin", n=2)
    with pytest.raises(RuntimeError):
        await second.results(60)
    await rt.abort(second.run_ids[0], "it hangs")
    assert (await rt.wait(second.run_ids[0], 60)).status is ABORTED
    assert rt.list_all_runs() == []


async def test_invoking_while_the_store_fails(stores):
    """Who invokes a run that cannot be written hears of it after half a minute, and nothing of it is left."""
    ran = []
    rt = await stores.enter(staged(ran))
    rt.store.failing = lambda _number, changes: StoreFull("full: free some space") if changes.creates else None
    with pytest.raises(StoreFull):
        await rt.run("w")
    rt.store.failing = lambda _number, _changes: None
    assert (await rt.find_runs()).items == []
    assert rt.list_all_runs() == []
    assert (await rt.run("w")).status is COMPLETED


async def test_a_run_resumed_while_the_store_fails_can_be_resumed_again(stores):
    """A resume whose commit fails gets the store's error and changes nothing."""
    ran = []
    rt = await stores.enter(staged(ran, routers=(None, Pause(Wait("go")))))
    [run] = await (await rt.emit("begin")).results(60)
    rt.store.failing = lambda _number, changes: StoreFull("full: free some space") if changes.moves else None
    with pytest.raises(StoreFull):
        await rt.resume(run.run_id, {"by": 1})
    rt.store.failing = lambda _number, _changes: None
    assert (await rt.get_run(run.run_id)).status is PAUSED
    assert (await rt.resume(run.run_id, {"by": 2})).state["by"] == 2


async def test_the_park_that_failed_is_tried_again(stores):
    """A run whose parking commit failed parks when the store works again; its last stage is not performed again."""
    ran = []
    rt = await stores.enter(staged(ran, routers=(None, Pause(Wait("go")))))
    failures = [StoreUnavailable("gone for a moment: try again")]
    rt.store.failing = lambda _number, changes: failures.pop() if failures and rests(changes) else None
    [run_id] = (await rt.emit("begin")).run_ids
    await stores.clock.run_until_idle()
    assert (await rt.get_run(run_id)).status is RUNNING
    await stores.clock.run_for(1.0)
    assert (await rt.get_run(run_id)).status is PAUSED
    await rt.emit("go")
    assert (await rt.wait(run_id, 60)).status is COMPLETED
    assert Counter(name for _, name in ran) == {"one": 1, "two": 1, "three": 1}
