"""Stages with children: fork, map and call. Each child is a run of its own, and no crash loses one or repeats one."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel
from support import ends, until_crash

from poundlock import (
    Children,
    Delay,
    InvalidDefinition,
    JumpTo,
    NotPaused,
    Pause,
    Pipeline,
    Retry,
    Stage,
    StaleResume,
    StateRef,
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
from poundlock.errors import RuntimeStopped
from poundlock.stores import MemoryStore
from poundlock.testing import run_until_idle


def shop(calls, *, checks=None, **fork):
    """A workflow that forks `review`, which waits for an answer, and `stock`, which does not."""
    wf = Workflow("shop")
    wf.on("order")

    @wf.step
    def first():
        calls.append("first")
        return {"total": 5}

    review = wf.pipeline("review")

    @review.step
    async def look(total):
        calls.append("look")
        return {"looked": total}

    review.wait("answer", on="answered", correlate={"id": StateRef("id")})

    @review.step
    async def decide(by):
        calls.append("decide")
        return Terminate(by)

    stock = wf.pipeline("stock")

    @stock.step
    async def reserve(total):
        calls.append("reserve")
        return {"reserved": total}

    wf.fork(review, stock, input=lambda state: {"total": state["total"], "id": state["id"]}, into="checks", **fork)

    @wf.step
    async def end(checks):
        calls.append("end")
        return {"done": True}

    return wf


async def order(rt, **payload):
    [line] = (await rt.emit("order", payload)).lines
    return line.run_id


async def children_of(rt, parent):
    page = await rt.find_runs(limit=500)
    return {run.pipeline_id: run for run in page.items if run.parent_id == parent}


# ----------------------------------------------------------------------------------------------------------------- fork
async def test_a_paused_child_does_not_hold_back_its_siblings(stores):
    """The parent is paused while all children that have not ended are; its wait names those of the children."""
    calls = []
    rt = await stores.enter(shop(calls))
    run_id = await order(rt, id=1)
    result = await rt.wait(run_id, until="rest")
    assert (result.status, sorted(calls)) == ("paused", ["first", "look", "reserve"])
    assert [wait.id for wait in result.waits] == ["checks/review/answer"]
    children = await children_of(rt, run_id)
    assert {name: child.status for name, child in children.items()} == {"review": "paused", "stock": "completed"}
    assert {child.lineage for child in children.values()} == {(run_id,)}
    assert [wait.id for wait in (await rt.get_run(run_id)).waits] == ["checks/review/answer"]
    await rt.emit("answered", id=1, by="Ada")
    result = await rt.wait(run_id)
    assert (result.status, result.state["checks"]) == (
        "completed",
        {"review": "Ada", "stock": {"total": 5, "id": 1, "reserved": 5}},
    )
    assert sorted(calls) == ["decide", "end", "first", "look", "reserve"]


@pytest.mark.parametrize("pause_window", [0, 60])
async def test_finished_siblings_do_not_run_again_after_a_crash(stores, pause_window):
    """Paused, killed and answered in another runtime: only what was left runs."""
    calls = []
    rt = await stores.enter(shop(calls), pause_window=pause_window)
    run_id = await order(rt, id=1)
    await rt.wait(run_id, until="rest")
    await stores.crash(rt)
    rt = await stores.enter(shop(calls), pause_window=pause_window)
    await rt.emit("answered", id=1, by="Ada")
    assert (await rt.wait(run_id)).state["checks"]["review"] == "Ada"
    assert sorted(calls) == ["decide", "end", "first", "look", "reserve"]


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("timeline", [True, False])
async def test_a_crash_at_any_commit(stores, where, timeline):
    """Whichever commit the process dies at, the result is the same, and no finished stage runs again."""
    number = 0
    while True:
        number += 1
        calls = []
        place = f"order-{number}"
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(shop(calls), store=store, timeline=timeline)

        async def work(rt=rt, place=place):
            await rt.emit("order", id=place)
            await run_until_idle(stores.clock)
            await rt.emit("answered", id=place, by="Ada")
            await run_until_idle(stores.clock)

        over = await until_crash(store, work())
        await stores.crash(rt)
        rt = await stores.enter(shop(calls), timeline=timeline)
        await run_until_idle(stores.clock)
        runs = (await rt.find_runs(limit=500)).items
        [run] = [run for run in runs if run.pipeline_id == "main" and run.parent_id is None][:1] or [None]
        if run is not None:
            if not run.status.terminal:
                await rt.emit("answered", id=place, by="Ada")
            result = await rt.wait(run.run_id)
            assert result.state["checks"] == {
                "review": "Ada",
                "stock": {"total": 5, "id": place, "reserved": 5},
            }, number
            assert all(calls.count(name) <= 2 for name in ("first", "look", "reserve", "decide", "end"))
            assert sum(calls.count(name) - 1 for name in ("first", "look", "reserve", "decide", "end")) <= 2
            mine = [run for run in runs if run.parent_id == run.run_id]
            assert len({run.pipeline_id for run in mine}) == len(mine)
        await rt.stop()
        if over:
            assert number > 5
            return


async def test_a_child_that_fails_fails_the_stage(stores):
    """Fail fast: the others are aborted first, and the error names the child."""
    started = asyncio.Event()
    wf = Workflow("w")
    wf.on("go")
    bad, slow = wf.pipeline("bad"), wf.pipeline("slow")

    @bad.step
    async def breaks():
        await started.wait()
        raise ValueError("no stock")

    @slow.step
    async def hangs():
        started.set()
        await asyncio.Event().wait()

    wf.fork(bad, slow, id="both")
    rt = await stores.enter(wf)
    [run_id] = (await rt.emit("go")).run_ids
    result = await rt.wait(run_id)
    assert (result.status, result.error.code, result.error.stage) == ("failed", "CHILD_FAILED", "both")
    assert result.error.message == "child 'bad' failed: ValueError: no stock"
    children = await children_of(rt, run_id)
    assert {name: child.status for name, child in children.items()} == {"bad": "failed", "slow": "aborted"}
    assert children["slow"].error.message == "aborted by parent: stage 'both' failed"


async def test_failures_are_collected(stores):
    """Collect: the others go on, and the error takes the place of the result."""
    wf = Workflow("w")
    wf.on("go")
    bad, good = wf.pipeline("bad"), wf.pipeline("good")

    @bad.step
    async def breaks():
        raise ValueError("no stock")

    @good.step
    async def works():
        return Terminate(7)

    wf.fork(bad, good, into="both", on_child_failure="collect")
    rt = await stores.enter(wf)
    result = await rt.wait((await rt.emit("go")).run_ids[0])
    assert result.state["both"] == {"bad": {"error": {"type": "ValueError", "message": "no stock"}}, "good": 7}


@pytest.mark.parametrize(("join", "winners"), [("any", 1), (2, 2)])
async def test_the_first_ones_are_enough(stores, join, winners):
    """Join any or n: the others are aborted as not needed, and are not among the results."""
    wf = Workflow("w")
    wf.on("go")
    for name in ("a", "b", "c"):
        pipeline = wf.pipeline(name)
        if ord(name) - ord("a") < winners:
            pipeline.step(lambda: Terminate(1), id="quick", executor="inline")
        else:
            pipeline.wait("never", on="never")
    wf.fork("a", "b", "c", into="all", join=join)
    rt = await stores.enter(wf)
    [run_id] = (await rt.emit("go")).run_ids
    result = await rt.wait(run_id)
    assert (result.status, result.state["all"]) == ("completed", dict.fromkeys("abc"[:winners], 1))
    children = await children_of(rt, run_id)
    left = [child for child in children.values() if child.status == "aborted"]
    assert len(left) == 3 - winners
    assert {child.error.message for child in left} == {"aborted by parent: not needed"}


async def test_too_few_are_completed(stores):
    """Join n with collect: when all have ended and too few are completed, the stage fails and says so."""
    wf = Workflow("w")
    wf.on("go")
    for name in ("a", "b"):
        wf.pipeline(name).step(lambda: 1 / 0, id="breaks", executor="inline")
    wf.fork("a", "b", id="both", join="any", on_child_failure="collect")
    rt = await stores.enter(wf)
    result = await rt.wait((await rt.emit("go")).run_ids[0])
    assert result.error.message == "0 of 2 children of stage 'both' were completed, and 1 are needed"


# ------------------------------------------------------------------------------------------------------ ends of parents
@pytest.mark.parametrize("pause_window", [0, 60])
async def test_aborting_a_paused_parent_aborts_its_children(stores, pause_window):
    """The parent is aborted, and so are children that have not ended; the aborted parent is not a failed one."""
    rt = await stores.enter(shop([]), pause_window=pause_window)
    run_id = await order(rt, id=1)
    await rt.wait(run_id, until="rest")
    await rt.abort(run_id, "too late")
    result = await rt.wait(run_id)
    assert (result.status, result.error.message) == ("aborted", "aborted by api: too late")
    children = await children_of(rt, run_id)
    assert {name: child.status for name, child in children.items()} == {"review": "aborted", "stock": "completed"}


async def test_aborting_a_running_parent_aborts_its_children(stores):
    """A child in the middle of a step is interrupted."""
    started = asyncio.Event()
    wf = Workflow("w")
    wf.on("go")
    slow = wf.pipeline("slow")

    @slow.step
    async def hangs():
        started.set()
        await asyncio.Event().wait()

    wf.fork(slow, id="one")
    rt = await stores.enter(wf)
    [run_id] = (await rt.emit("go")).run_ids
    await started.wait()
    await rt.abort(run_id, "stop it")
    assert (await rt.wait(run_id)).status == "aborted"
    assert (await children_of(rt, run_id))["slow"].status == "aborted"


async def test_a_child_that_is_aborted_by_hand(stores):
    """It counts as failed: also while the parent is only a row."""
    rt = await stores.enter(shop([]), pause_window=0)
    run_id = await order(rt, id=1)
    await rt.wait(run_id, until="rest")
    await rt.abort((await children_of(rt, run_id))["review"].run_id, "wrong order")
    result = await rt.wait(run_id)
    assert result.error.message == "child 'review' was aborted: RunAborted: aborted by api: wrong order"


async def test_a_stage_timeout_aborts_the_children(stores, vclock):
    """`timeout=` of the stage: the children are aborted, and the stage fails."""
    started = asyncio.Event()
    wf = Workflow("w")
    wf.on("go")
    slow = wf.pipeline("slow")

    @slow.step
    async def hangs():
        started.set()
        await asyncio.Event().wait()

    wf.fork(slow, id="one", timeout="1h")
    rt = await stores.enter(wf)
    [run_id] = (await rt.emit("go")).run_ids
    await started.wait()
    await vclock.run_for(hours=1, seconds=1)
    assert (await rt.wait(run_id)).error.code == "STEP_TIMEOUT"
    assert (await children_of(rt, run_id))["slow"].status == "aborted"


@pytest.mark.parametrize("pause_window", [0, 60])
@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_stage_timeout_counts_pauses(stores, vclock, pause_window, crash, goes_on):
    """It runs out while all children are paused, counted from their start, whatever happened in between."""

    def made():
        wf = Workflow("w")
        wf.on("go")
        slow = wf.pipeline("slow")
        slow.wait("first", on="first")
        slow.wait("never", on="never")
        wf.fork(slow, id="one", timeout="1h", on_failure="late")
        wf.aside(lambda failure: {"late": failure.type}, id="late", executor="inline")
        return wf

    rt = await stores.enter(made(), pause_window=pause_window)
    [run_id] = (await rt.emit("go")).run_ids
    await rt.wait(run_id, until="rest")
    await vclock.run_for(minutes=30)
    if goes_on:
        await rt.emit("first")
    await run_until_idle(vclock)
    if crash:
        await stores.crash(rt)
        rt = await stores.enter(made(), pause_window=pause_window)
    await vclock.run_for(minutes=29)
    assert (await rt.get_run(run_id)).status == "paused"
    await vclock.run_for(minutes=2)
    assert dict((await rt.wait(run_id)).state) == {"late": "StepTimeout"}
    assert (await children_of(rt, run_id))["slow"].status == "aborted"


@pytest.mark.parametrize("pause_window", [0, 60])
@pytest.mark.parametrize("way", ["fail", "abort", "late"])
async def test_the_deadline_of_a_parent(stores, vclock, way, pause_window):
    """A parent whose time is over leaves no child behind, whether it fails, is aborted or goes on elsewhere."""
    wf = Workflow("w", timeout="1h", on_timeout=way)
    wf.on("go")
    slow = wf.pipeline("slow")
    slow.wait("never", on="never")
    wf.fork(slow, id="one")
    if way == "late":
        wf.aside(lambda: {"late": True}, id="late", executor="inline")
    rt = await stores.enter(wf, pause_window=pause_window)
    [run_id] = (await rt.emit("go")).run_ids
    await rt.wait(run_id, until="rest")
    [child] = (await children_of(rt, run_id)).values()
    await vclock.run_for(minutes=59)
    assert {(await rt.get_run(each)).status for each in (run_id, child.run_id)} == {"paused"}
    await vclock.run_for(minutes=2)
    result = await rt.wait(run_id)
    assert result.status == {"fail": "failed", "abort": "aborted", "late": "completed"}[way]
    assert (await rt.get_run(child.run_id)).status == "aborted"


@pytest.mark.parametrize("end", ["stop", "crash"])
async def test_the_next_owner_goes_on_with_running_children(stores, end):
    """A stop or a crash while children run: each goes on, and the parent waits for the same ones."""
    calls, started, through = [], asyncio.Event(), asyncio.Event()

    def made():
        wf = Workflow("w")
        wf.on("go")
        for name in ("a", "b"):
            pipeline = wf.pipeline(name)

            async def begin(name=name):
                calls.append(f"begin {name}")
                return {"n": 1}

            async def hang(name=name):
                calls.append(f"hang {name}")
                if len(calls) == 4:
                    started.set()
                await through.wait()
                return Terminate(name)

            pipeline.step(begin, id="begin")
            pipeline.step(hang, id="hang")
        wf.fork("a", "b", into="both")
        return wf

    rt = await stores.enter(made())
    [run_id] = (await rt.emit("go")).run_ids
    await started.wait()
    await (stores.crash(rt) if end == "crash" else rt.stop(drain=0))
    through.set()
    rt = await stores.enter(made())
    result = await rt.wait(run_id)
    assert result.state["both"] == {"a": "a", "b": "b"}
    assert sorted(calls) == ["begin a", "begin b", "hang a", "hang a", "hang b", "hang b"]


async def test_a_stop_does_not_wait_for_a_delayed_child(stores, vclock):
    """A parent that only waits is released at once, and goes on waiting in the next runtime."""

    def made():
        wf = Workflow("w")
        wf.on("go")
        slow = wf.pipeline("slow")
        slow.step(lambda: Delay("1h"), id="later", executor="inline")
        slow.step(lambda: Terminate(1), id="end", executor="inline")
        wf.fork(slow, into="both")
        return wf

    rt = await stores.enter(made())
    [run_id] = (await rt.emit("go")).run_ids
    vclock.autojump = False
    await run_until_idle(vclock)
    before = vclock.now()
    vclock.autojump = True
    await rt.stop(drain=300)
    assert vclock.now() == before
    rt = await stores.enter(made())
    info = await rt.get_run(run_id)
    result = await rt.wait(run_id)
    assert (info.attempt, result.state["both"]) == (1, {"slow": 1})


# ------------------------------------------------------------------------------------------------------------------ map
async def test_map_keeps_the_order(stores):
    """One child per element, at most `limit` at once, results in order."""
    active, most = set(), []
    wf = Workflow("w")
    wf.on("go")
    double = wf.pipeline("double")

    @double.step
    async def twice(item, index):
        active.add(index)
        most.append(len(active))
        await asyncio.sleep(0)  # noqa: TID251 - gives way to the others
        active.discard(index)
        return Terminate(item * 2)

    wf.map(double, over="numbers", limit=3, into="doubled")
    rt = await stores.enter(wf)
    result = await rt.wait((await rt.emit("go", numbers=list(range(20)))).run_ids[0])
    assert result.state["doubled"] == [2 * number for number in range(20)]
    assert max(most) <= 3


async def test_map_over_a_mapping_and_a_function(stores):
    """A mapping gives a mapping; `over` and `input` may be functions; an empty list is no child at all."""
    wf = Workflow("w")
    wf.on("go")
    double = wf.pipeline("double")

    @double.step
    async def twice(n, key="none"):
        return {"n": n * 2}

    wf.map(double, over="by_name", into="named", input=lambda state, item: {"n": item + state["more"]})
    wf.map(double, over=lambda state: [1, 2], into="listed", input=lambda state, item: {"n": item})
    wf.map(double, over="nothing", into="empty")
    rt = await stores.enter(wf)
    result = await rt.wait((await rt.emit("go", by_name={"a": 1, "b": 2}, more=10, nothing=[])).run_ids[0])
    assert result.state["named"] == {"a": {"n": 22}, "b": {"n": 24}}
    assert (result.state["listed"], result.state["empty"]) == ([{"n": 2}, {"n": 4}], [])


async def test_elements_that_pause(stores):
    """Paused children do not count for the limit; each goes on with its own event, also after a restart."""

    def made():
        wf = Workflow("w")
        wf.on("go")
        ask = wf.pipeline("ask")
        ask.wait("vote", on="vote", correlate={"who": StateRef("item")})

        @ask.step
        async def note(yes):
            return Terminate(yes)

        wf.map(ask, over="members", limit=1, into="votes")
        return wf

    rt = await stores.enter(made())
    [run_id] = (await rt.emit("go", members=["a", "b", "c"])).run_ids
    assert len((await rt.wait(run_id, until="rest")).waits) == 3
    await rt.emit("vote", who="b", yes=2)
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status == "paused"
    await stores.crash(rt)
    rt = await stores.enter(made())
    await rt.emit("vote", who="c", yes=3)
    await rt.emit("vote", who="a", yes=1)
    assert (await rt.wait(run_id)).state["votes"] == [1, 2, 3]


# ------------------------------------------------------------------------------------------------------ other workflows
async def test_a_child_of_another_workflow(stores):
    """`call` starts a run of another workflow by its trigger's pipeline; the result is put under `into`."""
    bill = Workflow("bill")

    @bill.step
    async def add(amount):
        return Terminate(amount + 1)

    wf = Workflow("w")
    wf.on("go")
    wf.call("bill", input=lambda state: {"amount": state["amount"]}, into="billed")
    rt = await stores.enter(bill, wf)
    result = await rt.wait((await rt.emit("go", amount=4)).run_ids[0])
    assert result.state["billed"] == 5


async def test_a_workflow_that_is_not_registered(stores):
    """The stage fails and says which one is missing."""
    wf = Workflow("w")
    wf.on("go")
    wf.call("bill")
    rt = await stores.enter(wf)
    result = await rt.wait((await rt.emit("go")).run_ids[0])
    assert (result.status, result.error.code) == ("failed", "NOT_REGISTERED")


# ---------------------------------------------------------------------------------------------------------- typed state
class Order(BaseModel):
    total: int = 0
    parts: dict[str, dict] = {}


class Line(BaseModel):
    item: int
    index: int
    sum: int = 0


async def test_each_pipeline_has_its_model(stores):
    """A pipeline may have a state of its own; without one it has the workflow's, and begins with a copy of it."""
    wf = Workflow("w", state=Order)
    wf.on("go")
    check = wf.pipeline("check")
    seen = []

    @check.step
    async def look(state):
        seen.append(state)

    line = wf.pipeline("line", state=Line)

    @line.step
    async def add(state: Line):
        return {"sum": state.item + state.index}

    wf.fork(check, into="parts")
    wf.map(line, over=lambda state: [5, 6], id="lines", into="parts")
    rt = await stores.enter(wf)
    result = await rt.wait((await rt.emit("go", total=3)).run_ids[0])
    assert result.status == "failed"  # a list is no dict
    assert "parts" in result.error.message
    assert seen == [Order(total=3)]
    page = await rt.find_runs(limit=50)
    lines = [await rt.get_run(run.run_id, state=True) for run in page.items if run.pipeline_id == "line"]
    assert sorted(run.state.sum for run in lines) == [5, 7]


# -------------------------------------------------------------------------------------------------------------- by hand
async def test_answering_a_child_through_its_parent(stores):
    """`resume` of the parent takes the address of a wait below it; without one the error names the addresses."""
    rt = await stores.enter(shop([]))
    run_id = await order(rt, id=1)
    await rt.wait(run_id, until="rest")
    with pytest.raises(NotPaused, match="checks/review/answer"):
        await rt.resume(run_id, {"by": "Ada"})
    result = await rt.resume(run_id, {"by": "Ada"}, wait="checks/review/answer", until="end")
    assert (result.run_id, result.state["checks"]["review"]) == (run_id, "Ada")


# ---------------------------------------------------------------------------------------------------------- definitions
def test_faults_are_named_together():
    """All faults of children in one error, each with its path."""
    wf = Workflow(
        "w",
        pipelines=[
            Pipeline(
                "main",
                [
                    Stage("a", pipelines=["gone"]),
                    Stage("b", [Step("s", lambda: None)], children=Children(["main"], join=3)),
                    Stage("c", children=Children(["main", "main"], over="", limit=0, input=4)),
                    Stage("d", children=Children(["main"], workflow="other", on_child_failure="ignore", into="x.y")),
                    Stage("e", children=Children()),
                    Stage("f", children="main"),
                ],
            )
        ],
        triggers={"t": Trigger("go")},
    )
    with pytest.raises(InvalidDefinition) as raised:
        _ = wf.definition
    paths = [path for path, _ in raised.value.faults]
    for path in (
        "a.pipelines.0",
        "b",
        "b.join",
        "c.pipelines.1",
        "c.pipelines",
        "c.over",
        "c.limit",
        "c.input",
        "d.workflow",
        "d.on_child_failure",
        "d.into",
        "e.pipelines",
        "f.children",
    ):
        assert f"pipelines.main.{path}" in paths


@pytest.mark.parametrize(("address", "said"), [("kids//x", "no child ''"), ("kids/one/s", None)])
def test_an_address_below_a_stage_names_a_child(address, said):
    """An address that leaves a name out leads nowhere, and is refused."""
    stages = [
        Stage("a", [Step("s", lambda: None)], router=JumpTo(address)),
        Stage("kids", children=Children(["one"])),
    ]
    pipelines = [Pipeline("main", stages), Pipeline("one", [Stage("s", [Step("s", lambda: None)])])]
    wf = Workflow("w", pipelines=pipelines)
    if said is None:
        assert wf.definition
        return
    with pytest.raises(InvalidDefinition) as raised:
        _ = wf.definition
    [(path, text)] = raised.value.faults
    assert path == "pipelines.main.a.router"
    assert said in text


async def test_a_recursion_ends(stores):
    """A pipeline that forks itself fails at a depth, and does not fill the store."""
    wf = Workflow(
        "w", pipelines=[Pipeline("main", [Stage("again", pipelines=["main"])])], triggers={"t": Trigger("go")}
    )
    rt = await stores.enter(wf)
    result = await rt.wait((await rt.emit("go")).run_ids[0])
    assert "levels below the first run" in result.error.message
    assert len((await rt.find_runs(limit=500)).items) == 51


# ------------------------------------------------------------------------------------------------ runs not waited for
@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_step_starts_a_run_once(stores, where):
    """`ctx.start`: however often the step is attempted, and wherever the process dies, there is one run per key."""
    number, over = 0, False
    while not over:
        number += 1
        seen, place = [], f"p{number}"

        def made(seen=seen, place=place):
            letter = Workflow("letter")

            @letter.step
            async def send(to):
                seen.append(to)

            wf = Workflow("w")
            wf.on("go")

            @wf.step(retry=Retry(2, backoff=0))
            async def post(ctx: StepContext):
                first = await ctx.start("letter", {"to": place})
                assert await ctx.start("letter", {"to": place}) == first
                await ctx.start("letter", {"to": f"{place} too"}, key="too")
                if ctx.attempt == 1:
                    raise ValueError("again")
                return {"sent": first}

            return letter, wf

        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(*made(), store=store)
        working = asyncio.create_task(rt.emit("go", id=place))
        crashed = asyncio.create_task(store.crashed.wait())
        await asyncio.wait([working, crashed], return_when=asyncio.FIRST_COMPLETED)
        await run_until_idle(stores.clock)
        over = not store.dead
        working.cancel()
        crashed.cancel()
        await stores.crash(rt)
        rt = await stores.enter(*made())
        await run_until_idle(stores.clock)
        runs = [await rt.get_run(run.run_id, state=True) for run in (await rt.find_runs(limit=500)).items]
        mine = [run for run in runs if run.workflow_id == "w" and run.state["id"] == place]
        letters = [run for run in runs if run.workflow_id == "letter" and run.state["to"].startswith(place + " ")]
        letters += [run for run in runs if run.workflow_id == "letter" and run.state["to"] == place]
        assert all(run.status == "completed" for run in runs), number
        if mine:
            assert sorted(run.state["to"] for run in letters) == [place, f"{place} too"], number
            assert {run.parent_id for run in letters} == {mine[0].run_id}
        else:
            assert letters == []
        await rt.stop()
    assert number > 2


async def test_two_payloads_under_one_key_are_refused(stores):
    """A second run of one workflow needs a key; the error says so."""
    letter, wf = Workflow("letter"), Workflow("w")
    letter.step(lambda: None, id="send", executor="inline")
    wf.on("go")

    @wf.step
    async def post(ctx: StepContext):
        await ctx.start("letter", {"to": "a"})
        await ctx.start("letter", {"to": "b"})

    rt = await stores.enter(letter, wf)
    result = await rt.wait((await rt.emit("go")).run_ids[0])
    assert (result.status, result.error.code) == ("failed", "IDEMPOTENCY_CONFLICT")


# ------------------------------------------------------------------------------------------------------- odd moments
@pytest.mark.parametrize("fault", ["input", "state"])
async def test_children_that_cannot_begin_together_do_not_begin_later(stores, fault):
    """One element makes the stage fail before its children are created: a later stage does not create the others."""
    calls = []
    wf = Workflow("wf")
    wf.on("order")
    line = wf.pipeline("line")

    @line.step
    async def work(item):
        calls.append(item)

    def begin(_state, item):
        if item == 2:
            if fault == "input":
                raise ValueError("no")
            return {"item": object()}
        return {"item": item}

    wf.map(line, over="items", into="results", input=begin, id="lines", on_failure="instead")

    @wf.aside(then="again")
    def instead():
        pass

    other = wf.pipeline("other")

    @other.step
    async def different():
        calls.append("other")

    wf.fork(other, id="again", into="others")
    rt = await stores.enter(wf)
    run_id = await order(rt, items=[1, 2])
    assert ((await rt.wait(run_id)).status, calls) == ("completed", ["other"])
    assert list(await children_of(rt, run_id)) == ["other"]


@pytest.mark.parametrize("pause_window", [0, 60])
async def test_an_end_whose_answer_is_lost_is_passed_on_to_the_parent(stores, pause_window):
    """Other code cancels the task of a child while its end is being committed: its paused parent goes on."""
    rt = await stores.enter(shop([]), pause_window=pause_window)
    run_id = await order(rt, id=1)
    await rt.wait(run_id, until="rest")
    child = (await children_of(rt, run_id))["review"]
    rt.store.hold_after = ends
    await rt.emit("answered", id=1, by="Ada")
    [held] = await rt.store.until_held()
    rt._core.runs.live(child.run_id).task.cancel()
    await run_until_idle(stores.clock)
    rt.store.hold_after = None
    held.release()
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status == "completed"


@pytest.mark.parametrize("stored", [True, False])
async def test_the_store_fails_while_children_are_created(stores, vclock, stored):
    """After half a minute those who wait get the error; a parent that is stored goes on once the store works again."""
    wf = Workflow("wf")
    wf.on("order")
    line = wf.pipeline("line")
    line.wait("answer", on="answered")
    wf.fork(line, into="results")
    rt = await stores.enter(wf)
    rt.store.failing = lambda _number, changes: (
        StoreFull("full") if any(create.identity.parent_id for create in changes.creates) else None
    )
    if stored:
        run_id = await order(rt)
        waiting = asyncio.ensure_future(rt.wait(run_id))
    else:
        waiting = asyncio.ensure_future(rt.run("wf"))
    await run_until_idle(stores.clock)
    for _ in range(10):
        vclock.advance(10)
        await run_until_idle(stores.clock)
    assert waiting.done()
    assert isinstance(waiting.exception(), StoreFull)
    rt.store.failing = lambda _number, _changes: None
    vclock.advance(10)
    await run_until_idle(stores.clock)
    runs = {run.pipeline_id: run.status for run in (await rt.find_runs()).items}
    assert runs == ({"main": "paused", "line": "paused"} if stored else {})


async def test_a_parent_that_is_stored_by_an_event_while_its_children_cannot_be(stores, vclock):
    """The store fails for the children of an invoked run, and an event has the run itself stored: both go on."""
    wf = Workflow("wf")
    line = wf.pipeline("line")

    @line.step
    async def work():
        return Terminate(1)

    wf.fork(line, into="results")
    wf.wait("later", on="later")
    rt = await stores.enter(wf)
    rt.store.failing = lambda _number, changes: (
        StoreFull("full") if any(create.identity.parent_id for create in changes.creates) else None
    )
    waiting = asyncio.ensure_future(rt.run("wf"))
    await run_until_idle(stores.clock)
    await rt.emit("later")
    rt.store.failing = lambda _number, _changes: None
    vclock.advance(10)
    await run_until_idle(stores.clock)
    assert waiting.done()
    result = waiting.result()
    assert (result.status, result.state["results"]) == ("completed", {"line": 1})


def one_by_one(calls, gate):
    """A workflow that runs a child per item, one at a time; each waits for the gate."""
    wf = Workflow("wf")
    wf.on("order")
    line = wf.pipeline("line")

    @line.step
    async def work(item):
        calls.append(item)
        await gate.wait()
        return Terminate(item)

    wf.map(line, over="items", into="results", limit=1)
    return wf


async def test_runs_finish_with_all_their_children(stores):
    """A workflow that is taken out lets its runs finish: children that they have not started yet are a part of them."""
    calls, gate = [], asyncio.Event()
    rt = await stores.enter(one_by_one(calls, gate))
    run_id = await order(rt, items=[1, 2, 3])
    await run_until_idle(stores.clock)
    leaving = asyncio.ensure_future(rt.deregister("wf"))
    await run_until_idle(stores.clock)
    gate.set()
    await run_until_idle(stores.clock)
    assert leaving.done()
    assert calls == [1, 2, 3]
    assert (await rt.get_run(run_id, state=True)).state["results"] == [1, 2, 3]


async def test_a_stop_while_a_child_is_created(stores, vclock):
    """The parent does not use up the drain by waiting for a child that was released at once; all go on later."""
    calls, gate = [], asyncio.Event()
    gate.set()
    rt = await stores.enter(one_by_one(calls, gate))
    rt.store.hold = lambda changes: any(create.identity.parent_id for create in changes.creates)
    run_id = await order(rt, items=[1, 2])
    [held] = await rt.store.until_held()
    before = vclock.now()
    stopping = asyncio.ensure_future(rt.stop(drain=1000))
    await run_until_idle(vclock)
    rt.store.hold = None
    held.release()
    await stopping
    assert vclock.now() == before
    rt = await stores.enter(one_by_one(calls, gate))
    assert (await rt.wait(run_id)).state["results"] == [1, 2]
    assert calls == [1, 2]


async def test_a_called_workflow_that_is_taken_out_meanwhile(stores):
    """Its run was just being created: that is released, and the caller waits for it until the workflow is back."""
    calls = []
    billing = Workflow("billing")

    @billing.step
    async def bill():
        calls.append("bill")
        return Terminate(1)

    sale = Workflow("sale")
    sale.on("order")
    sale.call("billing", into="invoice")
    rt = await stores.enter(billing, sale)
    rt.store.hold = lambda changes: any(create.identity.workflow_id == "billing" for create in changes.creates)
    run_id = await order(rt)
    [held] = await rt.store.until_held()
    await rt.deregister("billing")
    rt.store.hold = None
    held.release()
    await run_until_idle(stores.clock)
    assert ((await rt.get_run(run_id)).status, calls) == ("running", [])
    await rt.register(billing)
    await run_until_idle(stores.clock)
    result = await rt.wait(run_id)
    assert (result.state["invoice"], calls) == (1, ["bill"])


async def test_user_code_that_says_the_runtime_stops(stores):
    """What `input` raises is its failure, whatever it is: the run is not left behind."""

    def begin(_state):
        raise RuntimeStopped("no")

    wf = Workflow("wf")
    wf.on("order")
    line = wf.pipeline("line")
    line.step(lambda: None, id="nothing")
    wf.fork(line, into="results", input=begin)
    rt = await stores.enter(wf)
    run_id = await order(rt)
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status == "failed"


async def test_the_store_fails_while_the_runtime_stops(stores, vclock):
    """A parent that cannot be told of its children then is released, and not failed."""
    gate, calls = asyncio.Event(), []
    rt = await stores.enter(one_by_one(calls, gate))
    run_id = await order(rt, items=[1, 2])
    await run_until_idle(stores.clock)
    live = rt._core.runs.live(run_id)
    [child] = [run for run in (await rt.find_runs()).items if run.parent_id]
    stopping = asyncio.ensure_future(rt.stop(drain=100))
    await run_until_idle(stores.clock)
    rt._core.waiters.fail(child.run_id, StoreUnavailable("no"))
    await run_until_idle(stores.clock)
    gate.set()
    await stopping
    assert live.run.status == "ready"
    rt = await stores.enter(one_by_one(calls, gate))
    assert (await rt.wait(run_id)).state["results"] == [1, 2]


async def test_more_children_than_ended_runs_are_kept(vclock):
    """The memory store keeps children that have ended until their parent has read them, however many; no longer."""
    wf = Workflow("wf")
    line = wf.pipeline("line")

    @line.step
    async def work(item):
        return Pause(Wait("answered")) if item == 0 else None

    @line.step
    async def end(item):
        return Terminate(item)

    wf.map(line, over="items", into="results", limit=5)

    @wf.step
    async def after():
        return {"done": True}

    async with WorkflowRuntime(wf, store=MemoryStore(keep=10), clock=vclock) as rt:
        result = await rt.run("wf", items=list(range(50)))
        assert result.status == "paused"
        await rt.emit("answered")
        result = await rt.wait(result.run_id)
        assert (result.status, result.state["results"]) == ("completed", list(range(50)))
        for _ in range(10):
            await rt.run("wf", items=[1])
        assert len((await rt.find_runs(limit=500)).items) == 10


async def test_a_child_that_goes_on_to_its_next_wait(stores):
    """The waits of a parent are those of its children now, and by hand they are answered there."""
    wf = Workflow("wf")
    wf.on("order")
    line, leaf, other = wf.pipeline("line"), wf.pipeline("leaf"), wf.pipeline("other")
    leaf.wait("one", on="one")
    leaf.wait("two", on="two")
    line.fork(leaf, into="below")
    gate = asyncio.Event()

    @other.step
    async def work():
        await gate.wait()

    wf.fork(line, other, into="results")
    rt = await stores.enter(wf)
    run_id = await order(rt)
    await run_until_idle(stores.clock)
    await rt.emit("one")  # while the parent is driven
    await run_until_idle(stores.clock)
    waiting = asyncio.ensure_future(rt.wait(run_id, until="rest"))
    gate.set()
    address = "results/line/below/leaf/two"
    assert [wait.id for wait in (await waiting).waits] == [address]
    assert [wait.id for wait in (await rt.wait(run_id, until="rest")).waits] == [address]
    assert [wait.id for wait in (await rt.get_run(run_id)).waits] == [address]
    assert [wait.id for wait in (await rt.get_run(run_id, state=True)).waits] == [address]
    with pytest.raises(StaleResume):
        await rt.resume(run_id, wait="results/line/below/leaf/one")
    with pytest.raises(NotPaused, match="two"):
        await rt.resume(run_id)
    await rt.resume(run_id, wait=address)
    assert (await rt.wait(run_id)).status == "completed"


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_crash_while_a_run_of_an_unknown_workflow_is_aborted(stores, where):
    """Whichever commit it is, no child is left without its parent; aborting again ends what is left."""
    number, over = 0, False
    while not over:
        number += 1
        rt = await stores.enter(shop([]))
        run_id = await order(rt, id=number)
        await rt.wait(run_id, until="rest")
        await stores.crash(rt)
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(store=store)
        over = await until_crash(store, rt.abort(run_id))
        await stores.crash(rt)
        rt = await stores.enter()
        if (await rt.get_run(run_id)).status == "aborted":
            assert (await children_of(rt, run_id))["review"].status == "aborted"
        await rt.abort(run_id)
        statuses = {run.status for run in (await children_of(rt, run_id)).values()}
        assert ((await rt.get_run(run_id)).status, statuses) == ("aborted", {"aborted", "completed"})
        await stores.crash(rt)


@pytest.mark.parametrize("paused", [False, True])
async def test_other_code_cancels_what_waits_for_a_child(stores, paused):
    """A program that cancels tasks it does not own does not make a parent wait for ever."""
    gate = asyncio.Event()
    wf = Workflow("wf")
    wf.on("order")
    line, other = wf.pipeline("line"), wf.pipeline("other")
    if paused:
        line.wait("answer", on="answered")

    @line.step
    async def work():
        await gate.wait()

    @other.step
    async def long():
        await gate.wait()

    wf.fork(line, other, into="results")
    rt = await stores.enter(wf)
    run_id = await order(rt)
    await run_until_idle(stores.clock)
    for task in asyncio.all_tasks():
        if task.get_name().startswith("child "):
            task.cancel()
    await run_until_idle(stores.clock)
    await rt.emit("answered")
    gate.set()
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status == "completed"


@pytest.mark.parametrize("pause_window", [0, 60])
async def test_the_end_of_one_of_many_paused_children(stores, pause_window):
    """The parent goes on waiting for the others without looking at all of them; a failure it sees at once."""
    wf = Workflow("w")
    wf.on("go")
    ask = wf.pipeline("ask")
    ask.wait("vote", on="vote", correlate={"who": StateRef("item"), "board": StateRef("board")})

    @ask.step
    async def note(yes):
        if yes is None:
            raise ValueError("no vote")
        return Terminate(yes)

    wf.map(ask, over="members", into="votes", input=lambda state, item: {"item": item, "board": state["board"]})
    rt = await stores.enter(wf, pause_window=pause_window)
    runs = {}
    for board in ("good", "bad"):
        [runs[board]] = (await rt.emit("go", board=board, members=["a", "b", "c", "d"])).run_ids
        await rt.wait(runs[board], until="rest")
        for who in ("c", "a"):
            await rt.emit("vote", board=board, who=who, yes=who)
            await run_until_idle(stores.clock)
        info = await rt.get_run(runs[board])
        assert (info.status, [wait.correlate["who"] for wait in info.waits]) == ("paused", ["b", "d"])
        timeline = await rt.timeline(runs[board])
        assert "stage:resume" not in timeline.types()
    await rt.emit("vote", board="bad", who="d", yes=None)
    assert (await rt.wait(runs["bad"])).error.message == "child '3' failed: ValueError: no vote"
    for who in ("d", "b"):
        await rt.emit("vote", board="good", who=who, yes=who)
    assert (await rt.wait(runs["good"])).state["votes"] == ["a", "b", "c", "d"]
