"""A step or hook that waits for a run which cannot go on before its own run has ended is refused at once."""

from __future__ import annotations

import asyncio
import contextvars
import itertools

import pytest

from poundlock import Exclusive, Pause, Pipeline, Serialized, Stage, Step, Transient, Wait, Workflow
from poundlock.errors import WouldDeadlock
from poundlock.testing import run_until_idle


class Tried:
    """What came of waiting inside: the errors, in order."""

    def __init__(self):
        self.errors = []
        self.results = []

    async def __call__(self, awaitable):
        try:
            self.results.append(await awaitable)
        except WouldDeadlock as error:
            self.errors.append(error)

    @property
    def refused(self):
        return [error.fields["waits_for"] for error in self.errors]


@pytest.fixture
def tried():
    return Tried()


def flow(id, action, mode=None, router=None):
    wf = Workflow(id, mode=mode, pipelines=[Pipeline("main", [Stage("one", [Step("s", action)], router=router)])])
    wf.on(f"{id}.go")
    return wf


# -------------------------------------------------------------------------------------------------------- one's own run
CALLS = {
    "wait": lambda rt, run_id: rt.wait(run_id),
    "wait with a timeout": lambda rt, run_id: rt.wait(run_id, timeout=5),
    "invoke": lambda rt, run_id: rt.invoke("wf", run_id=run_id, conflict="use_existing"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("place", ["step", "on_prepare", "on_resume", "on_complete"])
async def test_waiting_for_ones_own_run_is_refused(runtime, any_store, tried, call, place, vclock):
    """In a step and in each hook: at once, with the run's id, and the run goes on as if nothing had been asked."""
    rt = await runtime(store=any_store)

    def at(where):
        async def here(ctx):
            if where == place:
                await tried(CALLS[call](rt, ctx.run_id))

        return here

    stages = [Stage("wait", router=Pause(Wait("never"))), Stage("one", [Step("s", at("step"))])]
    hooks = {name: at(name) for name in ("on_prepare", "on_resume", "on_complete")}
    await rt.register(Workflow("wf", pipelines=[Pipeline("main", stages)]), **hooks)
    before = vclock.now()
    await rt.invoke("wf", run_id="r1")
    result = await rt.resume("r1")
    assert (result.status, tried.refused, vclock.now()) == ("completed", [["r1"]], before)
    assert tried.errors[0].code == "WOULD_DEADLOCK"


async def test_results_of_ones_own_receipt(runtime, tried):
    """A step that got hold of the receipt which started its run is refused as well."""
    receipts = asyncio.get_running_loop().create_future()

    async def step(ctx):
        await tried((await receipts).results())

    rt = await runtime(flow("wf", step))
    receipt = await rt.emit("wf.go")
    receipts.set_result(receipt)
    assert (await receipt.results())[0].ok
    assert tried.refused == [receipt.run_ids]


async def test_waiting_from_outside_and_after_the_end_is_fine(runtime, tried):
    """What a step starts in a context of its own is outside; so is what goes on after the run has ended."""
    outside, later = [], asyncio.Event()

    async def watch(rt, run_id):
        outside.append((await rt.wait(run_id)).status)

    async def afterwards(rt, run_id):
        await later.wait()
        await tried(rt.wait(run_id))

    started = []

    async def step(ctx):
        started.append(asyncio.create_task(watch(rt, ctx.run_id), context=contextvars.Context()))
        started.append(asyncio.create_task(afterwards(rt, ctx.run_id)))

    rt = await runtime(flow("wf", step))
    assert (await rt.run("wf")).ok
    later.set()
    await asyncio.gather(*started)
    assert (outside, tried.errors, [each.status for each in tried.results]) == (["completed"], [], ["completed"])


async def test_waiting_for_other_runs_is_fine(runtime, tried):
    """A step may call other workflows, and they others, also several times at once."""

    async def leaf():
        return {"n": 1}

    async def middle():
        await tried(asyncio.gather(*(rt.run("leaf") for _ in range(3))))

    async def top():
        await tried(rt.run("middle"))
        await tried((await rt.emit("leaf.go")).results())

    rt = await runtime(flow("leaf", leaf, Serialized()), flow("middle", middle), flow("top", top))
    assert (await rt.run("top")).ok
    assert (tried.errors, len(tried.results)) == ([], 3)
    assert rt._core.awaited == {}


# --------------------------------------------------------------------------------------------------------------- chains
async def test_two_runs_that_wait_for_each_other(runtime, tried):
    """A run that was called waits for its caller: it is refused, and both end."""
    ids = {}

    async def caller(ctx):
        ids["caller"] = ctx.run_id
        await tried(rt.run("called"))

    async def called(ctx):
        ids["called"] = ctx.run_id
        await tried(rt.wait(ids["caller"]))

    rt = await runtime(flow("caller", caller), flow("called", called))
    assert (await rt.run("caller")).ok
    assert tried.refused == [[ids["caller"], ids["called"]]]
    assert [result.ok for result in tried.results] == [True]


async def test_a_long_chain(runtime, tried):
    """The last of ten runs that call each other waits for the first."""
    ids = []

    def link(number):
        async def step(ctx):
            ids.append(ctx.run_id)
            await tried(rt.run(f"wf{number + 1}") if number < 9 else rt.wait(ids[0]))

        return step

    rt = await runtime(*(flow(f"wf{number}", link(number)) for number in range(10)))
    assert (await rt.run("wf0")).ok
    assert tried.refused == [ids]
    assert ids[5] in tried.errors[0].message


async def test_a_hook_in_a_circle(runtime, tried):
    """on_complete waits for a run whose step waits for the end of the hook's own run."""
    begun, ended = asyncio.Event(), asyncio.Event()
    ids = {}

    async def first(ctx):
        ids["first"] = ctx.run_id

    async def second(ctx):
        ids["second"] = ctx.run_id
        begun.set()
        await ended.wait()
        await tried(rt.wait(ids["first"]))

    async def on_complete(result):
        other = asyncio.create_task(rt.run("second"), context=contextvars.Context())
        await begun.wait()
        ended.set()
        await tried(rt.wait(ids["second"]))
        started.append(other)

    started = []
    rt = await runtime(flow("second", second))
    await rt.register(flow("first", first), on_complete=on_complete)
    assert (await rt.run("first")).ok
    await asyncio.gather(*started)
    assert len(tried.errors) == 1


# ---------------------------------------------------------------------------------------------------------------- slots
@pytest.mark.parametrize("mode", [Serialized(), Exclusive(on_busy="queue_single"), Transient(concurrency=1)], ids=repr)
@pytest.mark.parametrize("how", ["results", "wait", "invoke", "deep"])
async def test_a_run_that_waits_for_this_runs_slot(runtime, any_store, tried, mode, how):
    """A step queues a run behind its own and waits for it: refused; the queued run is not touched and runs later."""
    ids = []

    async def step(ctx):
        ids.append(ctx.run_id)
        if len(ids) > 1:
            return
        receipt = await rt.emit("wf.go")
        [queued] = receipt.run_ids
        if how == "results":
            await tried(receipt.results())
        elif how == "wait":
            await tried(rt.wait(queued, timeout=60))
        elif how == "invoke":
            await tried(rt.invoke("wf", run_id=queued, conflict="use_existing"))
        else:
            await tried(rt.run("deep", queued=queued))

    async def deep(queued):
        await tried(rt.wait(queued))

    rt = await runtime(flow("wf", step, mode), flow("deep", deep), store=any_store)
    await (await rt.emit("wf.go")).results()
    await run_until_idle(rt.clock)
    first, second = ids
    assert (await rt.wait(second)).ok
    assert len(tried.errors) == 1
    assert tried.refused[0][0] == second
    assert tried.refused[0][-1] == (first if how != "deep" else tried.errors[0].fields["run_id"])


async def test_a_slot_that_others_may_free(runtime, tried, gate):
    """With two slots a queued run gets the one of a run that waits for nobody: waiting for it is fine."""
    ids = []
    both = asyncio.Event()

    async def step(ctx):
        ids.append(ctx.run_id)
        if len(ids) == 2:
            both.set()
            await gate()
        elif len(ids) == 1:
            await both.wait()
            receipt = await rt.emit("wf.go")
            waiting = asyncio.ensure_future(tried(receipt.results()))
            await asyncio.sleep(0)  # noqa: TID251 - lets it begin to wait
            gate.open()
            await waiting

    rt = await runtime(flow("wf", step, Transient(concurrency=2)))
    first, second = await rt.emit("wf.go"), await rt.emit("wf.go")
    await first.results()
    await second.results()
    assert (tried.errors, len(tried.results)) == ([], 1)


async def test_all_slots_held_by_runs_that_wait_for_the_queue(runtime, tried):
    """Two runs hold both slots, and each waits for a run that it queued: the second that asks is refused."""
    order = []

    async def step(ctx):
        order.append(ctx.run_id)
        if len(order) > 2:
            return
        if len(order) == 1:
            await second_is_there.wait()
        else:
            second_is_there.set()
        receipt = await rt.emit("wf.go")
        await tried(receipt.results())

    second_is_there = asyncio.Event()
    rt = await runtime(flow("wf", step, Transient(concurrency=2)))
    receipts = [await rt.emit("wf.go"), await rt.emit("wf.go")]
    for receipt in receipts:
        assert (await receipt.results())[0].ok
    assert len(tried.errors) == 1
    await run_until_idle(rt.clock)
    assert len(tried.results) == 1


async def test_another_keys_slot_is_no_reason(runtime, tried):
    """Runs of other keys hold slots of their own."""
    ids = []

    async def step(ctx):
        ids.append(ctx.run_id)
        if len(ids) == 1:
            await tried((await rt.emit("wf.go", who="b")).results())

    rt = await runtime(flow("wf", step, Serialized(key="who")))
    assert (await (await rt.emit("wf.go", who="a")).results())[0].ok
    assert (tried.errors, len(ids)) == ([], 2)


async def test_on_complete_may_wait_for_the_next_in_line(runtime, tried):
    """When the hook is called the slot is free already, and the next run is on its way."""
    rt = await runtime()
    queued = []

    async def step(ctx):
        if not queued:
            queued.extend((await rt.emit("wf.go")).run_ids)

    async def on_complete(result):
        if result.run_id not in queued:
            await tried(rt.wait(queued[0]))

    await rt.register(flow("wf", step, Serialized()), on_complete=on_complete)
    await (await rt.emit("wf.go")).results()
    assert (tried.errors, [result.run_id for result in tried.results]) == ([], queued)


# ----------------------------------------------------------------------------------------------------- waits that end
async def test_a_run_that_waits_with_a_timeout_may_be_waited_for(runtime, gate, vclock):
    """It goes on when its time is over, so a wait for it ends too; and then the run it waited for goes on as well."""
    ids, seen = {}, []

    async def caller(ctx):
        ids["caller"] = ctx.run_id
        called = (await rt.emit("called.go")).run_ids[0]
        waiting = asyncio.ensure_future(rt.wait(called, timeout=5))
        await run_until_idle(vclock)  # until it waits
        gate.open()
        with pytest.raises(TimeoutError):
            await waiting
        seen.append("timed out")

    async def called():
        await gate()
        seen.append((await rt.wait(ids["caller"])).status)

    rt = await runtime(flow("caller", caller), flow("called", called))
    await rt.run("caller")
    await run_until_idle(vclock)
    assert seen == ["timed out", "completed"]


async def test_results_with_a_timeout_too(runtime, gate, vclock):
    """The same for the results of a receipt, of one run or of several."""
    ids, seen = {}, []

    async def caller(ctx):
        ids["caller"] = ctx.run_id
        receipt = await rt.emit("go")
        waiting = asyncio.ensure_future(receipt.results(timeout=5))
        await run_until_idle(vclock)
        gate.open()
        with pytest.raises(TimeoutError):
            await waiting

    async def called():
        await gate()
        seen.append((await rt.wait(ids["caller"])).status)

    workflows = [flow(f"called{number}", called) for number in range(2)]
    for wf in workflows:
        wf.on("go")
    rt = await runtime(flow("caller", caller), *workflows)
    await rt.run("caller")
    await run_until_idle(vclock)
    assert seen == ["completed", "completed"]


async def test_a_timeout_of_ones_own_helps_nobody(runtime, tried, vclock):
    """A run that is waited for, and asks to wait with a time-out for the one that waits, would only time out."""
    ids = {}
    before = vclock.now()

    async def caller(ctx):
        ids["caller"] = ctx.run_id
        await rt.run("called")

    async def called():
        await tried(rt.wait(ids["caller"], timeout=60))

    rt = await runtime(flow("caller", caller), flow("called", called))
    assert (await rt.run("caller")).ok
    assert (len(tried.errors), vclock.now()) == (1, before)


async def test_a_run_that_went_on_does_not_wait(runtime, tried, gate):
    """What a step has started may go on waiting when its run is at the next stage: then a wait for the run ends."""
    ids, tasks, later = {}, [], asyncio.Event()

    async def starts(ctx):
        ids["caller"] = ctx.run_id
        tasks.append(asyncio.ensure_future(rt.run("called")))
        await gate_is_there.wait()

    async def second():
        gate.open()
        await later.wait()

    async def called():
        gate_is_there.set()
        await gate()
        waiting = asyncio.ensure_future(tried(rt.wait(ids["caller"])))
        await run_until_idle(rt.clock)  # until it waits
        later.set()
        await waiting

    gate_is_there = asyncio.Event()
    stages = [Stage("one", [Step("a", starts)]), Stage("two", [Step("b", second)])]
    rt = await runtime(Workflow("caller", pipelines=[Pipeline("main", stages)]), flow("called", called))
    assert (await rt.run("caller")).ok
    await asyncio.gather(*tasks)
    assert (tried.errors, [result.status for result in tried.results]) == ([], ["completed"])


# ------------------------------------------------------------------------------------------------- taking workflows out
async def test_a_run_takes_out_the_workflow_of_its_caller(runtime):
    """`deregister` inside a run that one of the workflow's runs waits for returns; it is done later."""
    rt = await runtime()

    async def caller():
        await rt.run("called")

    async def called():
        await rt.deregister("caller")

    await rt.register(flow("caller", caller))
    await rt.register(flow("called", called))
    assert (await rt.run("caller")).ok
    await run_until_idle(rt.clock)
    assert rt.list_workflows() == ["called"]


async def test_waiting_for_who_takes_ones_workflow_out(runtime, tried):
    """A run that waits in `deregister` for another cannot be waited for by that one."""
    ids, begun, leaving = {}, asyncio.Event(), asyncio.Event()

    async def leaves(ctx):
        ids["leaves"] = ctx.run_id
        await begun.wait()
        taking = asyncio.ensure_future(rt.deregister("other"))
        await run_until_idle(rt.clock)
        leaving.set()
        await taking

    async def other():
        begun.set()
        await leaving.wait()
        await tried(rt.wait(ids["leaves"]))

    rt = await runtime(flow("leaves", leaves), flow("other", other))
    receipt = await rt.emit("other.go")
    assert (await rt.run("leaves")).ok
    assert (len(tried.errors), rt.list_workflows(), len(receipt.run_ids)) == (1, ["leaves"], 1)


# ------------------------------------------------------------------------------------------------ parents and children
def family(action, *, depth=1):
    """A workflow whose runs have a child, or a child of a child, which calls `action`."""
    wf = Workflow("family")
    pipelines = [wf, *(wf.pipeline(f"level-{level}") for level in range(1, depth + 1))]
    for above, below in itertools.pairwise(pipelines):
        above.fork(below, into="results")
    pipelines[-1].step(action, id="acts")
    return wf


@pytest.mark.parametrize("until", ["end", "rest"])
@pytest.mark.parametrize("depth", [1, 2])
async def test_a_child_that_waits_for_the_run_above_it(runtime, any_store, tried, depth, until):
    """A parent rests only once its children do, so none of them can wait for that, however deep it is."""

    async def acts(ctx):
        [info] = [run for run in (await rt.find_runs()).items if run.pipeline_id == "main"]
        await tried(rt.wait(info.run_id, until=until))
        return {"lineage": len((await rt.get_run(ctx.run_id)).lineage)}

    rt = await runtime(store=any_store)
    await rt.register(family(acts, depth=depth))
    assert (await rt.run("family")).ok
    assert (len(tried.errors), len(tried.refused[0])) == (1, depth + 1)
    assert (rt._core.awaited, rt._core.followed) == ({}, {})


@pytest.mark.parametrize("pause_window", [0, 60])
async def test_a_child_whose_parent_is_paused(runtime, any_store, tried, vclock, pause_window):
    """The parent is a row while it waits: the child that goes on cannot wait for it either."""

    async def acts():
        [info] = [run for run in (await rt.find_runs()).items if run.pipeline_id == "main"]
        assert info.status == "paused"
        await tried(rt.wait(info.run_id))

    wf = Workflow("family")
    line = wf.pipeline("line")
    line.wait("answer", on="answered")
    line.step(acts)
    wf.fork(line, into="results")
    rt = await runtime(store=any_store, pause_window=pause_window)
    await rt.register(wf)
    result = await rt.run("family")
    await rt.emit("answered")
    await run_until_idle(vclock)
    assert (await rt.get_run(result.run_id)).status == "completed"
    assert len(tried.errors) == 1


async def test_a_child_that_waits_through_another_run(runtime, any_store, tried):
    """The child runs a workflow whose step waits for the child's parent: refused where the circle would close."""

    async def acts():
        await rt.run("other")

    async def other():
        [info] = [
            run for run in (await rt.find_runs()).items if run.pipeline_id == "main" and run.workflow_id == "family"
        ]
        await tried(rt.wait(info.run_id))

    rt = await runtime(store=any_store)
    await rt.register(family(acts))
    await rt.register(flow("other", other))
    assert (await rt.run("family")).ok
    assert len(tried.errors) == 1


async def test_a_child_that_waits_for_its_sibling(runtime, any_store, tried):
    """That one can go on, so it may be waited for, also by a child of the same parent."""
    gate = asyncio.Event()
    wf = Workflow("family")
    first, second = wf.pipeline("first"), wf.pipeline("second")

    @first.step
    async def waits():
        [info] = [run for run in (await rt.find_runs()).items if run.pipeline_id == "second"]
        gate.set()
        await tried(rt.wait(info.run_id))

    @second.step
    async def works():
        await gate.wait()

    wf.fork(first, second, into="results")
    rt = await runtime(store=any_store)
    await rt.register(wf)
    assert (await rt.run("family")).ok
    assert (tried.errors, len(tried.results)) == ([], 1)


async def test_a_run_that_another_only_started(runtime, any_store, tried):
    """`ctx.start` does not wait, so the started run may wait for the one that started it."""
    ids = []
    gate = asyncio.Event()

    async def starts(ctx):
        ids.append(ctx.run_id)
        await ctx.start("called")
        await gate.wait()

    async def called():
        waiting = asyncio.ensure_future(tried(rt.wait(ids[0])))
        await run_until_idle(rt.clock)
        gate.set()
        await waiting

    rt = await runtime(store=any_store)
    await rt.register(flow("called", called))
    await rt.register(flow("caller", starts))
    assert (await rt.run("caller")).ok
    await run_until_idle(rt.clock)
    assert (tried.errors, len(tried.results)) == ([], 1)


async def test_a_child_that_takes_its_workflow_out(runtime, any_store):
    """`deregister` inside a child returns, as the run above it is one of those that have to end first."""

    async def acts():
        await rt.deregister("family")

    rt = await runtime(store=any_store)
    await rt.register(family(acts))
    assert (await rt.run("family")).ok
    await run_until_idle(rt.clock)
    assert rt.list_workflows() == []
