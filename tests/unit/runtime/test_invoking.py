"""Calling a workflow by hand, and looking at its runs."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import (
    Condition,
    Event,
    Exclusive,
    IdempotencyConflict,
    InvalidDefinition,
    InvalidEvent,
    NotRegistered,
    NotStorable,
    Pipeline,
    RunExists,
    RunNotFound,
    RunStatus,
    Stage,
    Step,
    StepContext,
    Trigger,
    Workflow,
)


def pipeline(id):
    async def note():
        return {"pipeline": id}

    return Pipeline(id, [Stage("one", [Step("note", note)])])


def workflow(id="wf", triggers=None, pipelines=("a",), **options):
    return Workflow(id, triggers=triggers, pipelines=[pipeline(name) for name in pipelines], **options)


# -- which trigger, which pipeline
async def test_the_only_trigger_is_meant(runtime):
    """Without a trigger id the only trigger is taken, with its map; `when` and modes do not count."""
    trigger = Trigger("go", map=lambda event: {"got": event.payload}, when=[Condition("never", "exists")])
    heard = []
    rt = await runtime()
    await rt.register(workflow(triggers={"t": trigger}, mode=Exclusive()), on_dispatch=heard.append)
    result = await rt.run("wf", x=1)
    assert result.state == {"got": {"x": 1}, "pipeline": "a"}
    event = Event("other", {"y": 2})
    first = await rt.invoke("wf", None, event)
    second = await rt.invoke("wf", "t", event)
    assert first.run_id != second.run_id
    assert second.state == {"got": {"y": 2}, "pipeline": "a"}
    assert (await rt.get_run(second.run_id)).trigger_id == "t"
    assert heard == []


async def test_else_the_only_pipeline(runtime):
    """With several triggers, or none, the only pipeline is taken, without any trigger's map."""
    triggers = {"x": Trigger("x", map=lambda event: {"mapped": 1}), "y": Trigger("y")}
    rt = await runtime(workflow(triggers=triggers), workflow("none"))
    for id in ("wf", "none"):
        result = await rt.run(id, n=1)
        assert result.state == {"n": 1, "pipeline": "a"}
        assert (await rt.get_run(result.run_id)).trigger_id is None


async def test_else_the_choices_are_named(runtime):
    """With several of both InvalidDefinition names the triggers; naming one works."""
    triggers = {"to_a": Trigger("x", pipeline="a"), "to_b": Trigger("x", pipeline="b")}
    rt = await runtime(workflow(triggers=triggers, pipelines=("a", "b")))
    with pytest.raises(InvalidDefinition) as caught:
        await rt.run("wf")
    assert "to_a, to_b" in str(caught.value)
    assert (await rt.invoke("wf", "to_b")).state == {"pipeline": "b"}


async def test_unknown_names_come_with_near_matches(runtime):
    """Unknown workflows and triggers are NotRegistered, and say what was probably meant."""
    rt = await runtime(workflow("orders", triggers={"placed": Trigger("x"), "gone": Trigger("y")}))
    for call, meant in (
        (rt.run("ordres"), "'orders'"),
        (rt.invoke("ordres"), "'orders'"),
        (rt.deregister("ordres"), "'orders'"),
        (rt.invoke("orders", "plaecd"), "'placed'"),
    ):
        with pytest.raises(NotRegistered) as caught:
            await call
        assert f"did you mean {meant}" in str(caught.value)
    with pytest.raises(NotRegistered):
        rt.registry("ordres")
    for call in (rt.get_run("nobody"), rt.wait("nobody"), rt.resume("nobody"), rt.timeline("nobody")):
        with pytest.raises(RunNotFound):
            await call


async def test_what_cannot_begin_a_run_is_raised(runtime, any_store):
    """A payload that is no data, or no mapping, is raised by the call; nothing is written."""
    rt = await runtime(workflow(), store=any_store)
    with pytest.raises(NotStorable) as caught:
        await rt.run("wf", a={"b": object()})
    assert caught.value.path == "payload.a.b"
    with pytest.raises(InvalidEvent):
        await rt.run("wf", [1])
    with pytest.raises(InvalidEvent):
        await rt.run("wf", [1], more=2)
    assert (await rt.find_runs()).items == []


# -- ids and keys
@pytest.mark.parametrize("name", [5, b"x", "", " mine", "two\nlines", "half \ud800", "x" * 1025], ids=repr)
@pytest.mark.parametrize("path", ["run_id", "idempotency_key"])
async def test_what_cannot_be_a_name_is_refused(runtime, any_store, path, name):
    """A run id or key that is no printable text is refused with the argument's name, and nothing is written."""
    rt = await runtime(workflow(), store=any_store)
    with pytest.raises(InvalidDefinition) as refused:
        await rt.invoke("wf", **{path: name})
    assert refused.value.path == path
    assert (await rt.find_runs()).items == []


async def test_a_run_id_is_used_once(runtime, any_store):
    """The caller's run id is the run's; a second use is RunExists, or the existing run's result."""
    rt = await runtime(workflow(), store=any_store)
    first = await rt.invoke("wf", None, Event("x", {"n": 1}), run_id="mine")
    assert first.run_id == "mine"
    with pytest.raises(RunExists):
        await rt.invoke("wf", run_id="mine")
    existing = await rt.invoke("wf", None, Event("x", {"n": 2}), run_id="mine", conflict="use_existing")
    assert existing.state == first.state
    await rt.register(workflow("other"))
    for conflict in ("use_existing", "terminate_existing"):
        with pytest.raises(RunExists, match="one of workflow 'wf', not of 'other'"):
            await rt.invoke("other", run_id="mine", conflict=conflict)
    assert (await rt.get_run("mine")).workflow_id == "wf"
    with pytest.raises(InvalidDefinition):
        await rt.invoke("wf", run_id="mine", conflict="whatever")


async def test_an_idempotency_key_runs_once(runtime, any_store):
    """The same key and request give the first call's result, whether it has ended or runs; another request raises."""
    rt = await runtime(workflow(triggers={"t": Trigger("x"), "u": Trigger("x")}), store=any_store)

    def call(n=1, trigger="t", **options):
        return rt.invoke("wf", trigger, Event("x", {"n": n}), idempotency_key="k", **options)

    results = await asyncio.gather(*(call() for _ in range(5)))
    assert len({result.run_id for result in results}) == 1
    assert (await call()).run_id == results[0].run_id
    for other in (call(2), call(trigger="u")):
        with pytest.raises(IdempotencyConflict):
            await other
    assert len((await rt.find_runs()).items) == 1


async def test_an_idempotency_key_lives_as_long_as_its_run(runtime, vclock, any_store):
    """A call that is repeated after a month, with much going on meanwhile, is still the first call."""
    rt = await runtime(workflow(), store=any_store)
    first = await rt.invoke("wf", event=Event("x", {"n": 1}), idempotency_key="k")
    for _ in range(30):
        vclock.advance(days=1)
        await rt.emit("noise")
    again = await rt.invoke("wf", event=Event("x", {"n": 1}), idempotency_key="k")
    assert (first.run_id, first.state) == (again.run_id, again.state)


async def test_key_and_id_together(runtime, any_store):
    """A repeated call with key and run id is the first call again, not a run that exists already."""
    rt = await runtime(workflow(), store=any_store)
    event = Event("x", {"n": 1})
    first = await rt.invoke("wf", None, event, run_id="mine", idempotency_key="k")
    again = await rt.invoke("wf", None, event, run_id="mine", idempotency_key="k")
    assert (first.run_id, first.state) == (again.run_id, again.state)


async def test_a_caller_that_goes_away_leaves_its_run_running(runtime, gate, any_store):
    """Cancelling the caller of `run` does not touch the run."""
    wf = Workflow("slow")
    ids = []

    @wf.step
    async def work(ctx: StepContext):
        ids.append(ctx.run_id)
        await gate()
        return {"done": True}

    rt = await runtime(wf, store=any_store)
    running = asyncio.create_task(rt.run("slow"))
    await rt.clock.run_until_idle()
    running.cancel()
    await asyncio.wait([running])
    gate.open()
    await rt.clock.run_until_idle()
    assert (await rt.wait(ids[0])).state == {"done": True}


# -- looking at runs
async def test_runs_in_memory(runtime, gate):
    """watch, registry and list_all_runs show the runs of this process, by workflow; statistics counts."""
    wf = Workflow("slow")
    wf.on("go")

    @wf.step
    async def work():
        await gate()

    rt = await runtime(wf, workflow("other"))
    receipt = await rt.emit("go")
    await rt.clock.run_until_idle()
    [run_id] = receipt.run_ids
    info = rt.watch("slow", run_id)
    assert (info.run_id, info.workflow_id, info.status, info.stage) == (run_id, "slow", RunStatus.RUNNING, "work")
    assert rt.watch("other", run_id) is None
    assert [run.run_id for run in rt.list_all_runs()] == [run_id]
    assert [run.run_id for run in rt.registry("slow").runs()] == [run_id]
    assert (run_id in rt.registry("slow"), run_id in rt.registry("other")) == (True, False)
    assert rt.list_workflows() == ["slow", "other"]
    assert rt.statistics()["runs:live"] == 1
    gate.open()
    await receipt.results()
    assert (len(rt.registry("slow")), rt.list_all_runs()) == (0, [])
    counted = rt.statistics()
    assert (counted["event:started"], counted["completed"], counted["runs:live"], counted["workflows"]) == (1, 1, 0, 2)


async def test_find_runs_filters_and_pages(runtime, vclock, any_store):
    """find_runs filters by workflow, status, key, text and time, newest first, page by page without gap or repeat."""

    async def work(n):
        if n == 3:
            raise ValueError("third")

    wf = Workflow("many", pipelines=[Pipeline("main", [Stage("one", [Step("work", work)])])])
    wf.on("go", key="n")
    rt = await runtime(wf, workflow("other"), store=any_store)
    ids, times = [], []
    for n in range(7):
        vclock.advance(10)
        times.append(vclock.now())
        receipt = await rt.emit("go", n=n)
        ids += receipt.run_ids
        await receipt.results()
    other = (await rt.run("other")).run_id

    async def found(**filters):
        return [run.run_id for run in (await rt.find_runs(**filters)).items]

    assert await found(workflow="many") == ids[::-1]
    assert await found(status="failed") == [ids[3]]
    assert set(await found(status=["completed", RunStatus.FAILED])) == {*ids, other}
    assert await found(key="5") == [ids[5]]
    assert await found(text="third") == [ids[3]]
    assert await found(workflow="many", since=times[2], until=times[4]) == [ids[3], ids[2]]
    paged, cursor = [], None
    while True:
        page = await rt.find_runs("many", limit=3, cursor=cursor)
        paged += [run.run_id for run in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        await rt.emit("go", n=100 + len(paged))
    assert paged == ids[::-1]
    for bad in ({"limit": 0}, {"limit": 501}, {"status": "sleeping"}, {"cursor": "nonsense"}):
        with pytest.raises(InvalidEvent) as caught:
            await rt.find_runs(**bad)
        assert caught.value.path == next(iter(bad))


async def test_commands_can_be_dispatched(runtime):
    """`dispatch` carries out a command and answers once it is accepted; it refuses what is not a command."""
    from poundlock.runtime.commands import Create

    rt = await runtime(workflow())
    run_id = await rt.dispatch(Create("wf", payload={"n": 1}))
    assert (await rt.wait(run_id)).state == {"n": 1, "pipeline": "a"}
    with pytest.raises(InvalidDefinition):
        await rt.dispatch("nonsense")
