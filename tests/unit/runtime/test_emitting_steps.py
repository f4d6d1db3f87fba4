"""`ctx.emit`: what a step emits leaves with the commit of its stage, or not at all."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading

import pytest

from poundlock import (
    Delay,
    Event,
    Fail,
    InvalidEvent,
    Jump,
    NotStorable,
    Pending,
    Pipeline,
    Retry,
    Service,
    Stage,
    Step,
    StepContext,
    Trigger,
    Workflow,
)
from poundlock.errors import StepOver
from poundlock.model.outbox import OutboxQuery
from poundlock.testing import RecordingBus, run_until_idle


def listener():
    """A workflow that notes every event of type `out.*` that starts it."""
    got = []
    wf = Workflow("listener", triggers={"out": Trigger("out.**")})

    @wf.step
    async def note(event: Event):
        got.append(event)

    return wf, got


async def settled(rt):
    """Wait until everything is idle, and return what is left in the outbox."""
    await run_until_idle(rt.clock)
    return [row.event.type for row in await rt.store.outbox(OutboxQuery())]


def one_step(function, **options):
    wf = Workflow("sender")
    wf.on("go")(wf.step(**options)(function) if options else wf.step(function))
    return wf


async def run_of(stores, wf, **payload):
    """Run a workflow beside the listener; returns its result, what the listener got, and the runtime."""
    other, got = listener()
    rt = await stores.enter(wf, other)
    result = await rt.run(wf.id, payload)
    assert await settled(rt) == []
    return result, got, rt


# ------------------------------------------------------------------------------------------------------ it leaves
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_events_leave_when_the_stage_commits(stores, kind):
    """What a step emits starts runs, in order, with the payload as `rt.emit` takes it, and is told in the timeline."""
    ids = []

    def body(ctx):
        ids.append(ctx.emit("out.a", n=1))
        ids.append(ctx.emit("out.b", {"n": 2}, m=3))
        ids.append(ctx.emit("out.c"))
        return {"done": True}

    async def step(ctx: StepContext):
        return body(ctx)

    def in_thread(ctx: StepContext):
        return body(ctx)

    result, got, rt = await run_of(stores, one_step(step if kind == "async" else in_thread))
    assert dict(result.state) == {"done": True}
    assert [(event.type, event.payload) for event in got] == [
        ("out.a", {"n": 1}),
        ("out.b", {"n": 2, "m": 3}),
        ("out.c", {}),
    ]
    assert [event.id for event in got] == ids
    assert {event.source for event in got} == {"/run/sender"}
    entries = [entry for entry in (await rt.timeline(result.run_id)).entries if entry.type == "event:emitted"]
    assert [entry.payload["id"] for entry in entries] == ids
    assert rt.statistics()["outbox"] == rt.statistics()["dead_letters"] == 0


async def test_nothing_leaves_before_the_commit(stores, gate):
    """While the stage is not committed there is nothing in the outbox."""
    wf = Workflow("sender")

    @wf.on("go")
    @wf.step
    async def step(ctx):
        ctx.emit("out.a")
        await gate()

    other, got = listener()
    rt = await stores.enter(wf, other)
    running = asyncio.create_task(rt.run("sender"))
    assert (await settled(rt), got, gate.inside) == ([], [], 1)
    gate.open()
    await running
    await settled(rt)
    assert len(got) == 1


async def test_an_event_of_ones_own_keeps_its_id_and_source(stores):
    """An Event leaves as it is; only its time is stamped."""

    async def step(ctx):
        ctx.emit(Event("out.a", {"n": 1}, id="evt-1", source="/shop", key="K", headers={"trace": "x"}))

    _, [event], rt = await run_of(stores, one_step(step))
    assert (event.id, event.source, event.key, dict(event.headers)) == ("evt-1", "/shop", "K", {"trace": "x"})
    assert event.time is not None
    assert await rt.store.receipt("/shop", "evt-1")


async def test_what_was_emitted_is_a_copy(stores):
    """Changing a payload after it was emitted changes nothing."""

    async def step(ctx):
        payload = {"items": [1]}
        ctx.emit("out.a", payload)
        payload["items"].append(2)

    _, [event], _ = await run_of(stores, one_step(step))
    assert event.payload == {"items": [1]}


async def test_it_resumes_a_waiting_run(stores):
    """An emitted event is an event as any other: a run that waits for it goes on."""
    waiting = Workflow("waiting", triggers={"begin": Trigger("begin")})
    waiting.wait("answer", on="out.answer")

    async def step(ctx):
        ctx.emit("out.answer", text="yes")

    rt = await stores.enter(waiting, one_step(step))
    [paused] = await (await rt.emit("begin")).results()
    await rt.run("sender")
    result = await rt.wait(paused.run_id)
    assert (result.status, result.state["text"]) == ("completed", "yes")


async def test_steps_leave_theirs_in_the_order_of_the_definition(stores):
    """Of steps side by side the first one's events come first, whichever returned first."""
    last = asyncio.Event()

    async def first(ctx):
        await last.wait()
        ctx.emit("out.first")

    async def second(ctx):
        ctx.emit("out.second")
        last.set()

    wf = Workflow("sender")
    wf.on("go")(wf.step(stage="both")(first))
    wf.step(stage="both")(second)
    _, got, _ = await run_of(stores, wf)
    assert [event.type for event in got] == ["out.first", "out.second"]


async def test_elements_leave_theirs_in_their_order(stores):
    """Events of a step with `each` come in the order of its elements, each with an id of its own."""
    turns = {0: asyncio.Event(), 1: asyncio.Event()}

    async def step(ctx, item, index):
        if index in turns:
            await turns[index].wait()
        ctx.emit("out.item", item=item)
        if index > 0:
            turns[index - 1].set()

    wf = Workflow("sender")
    wf.on("go")(wf.step(each="items", limit=3)(step))
    _, got, _ = await run_of(stores, wf, items=["a", "b", "c"])
    assert [event.payload["item"] for event in got] == ["a", "b", "c"]
    assert len({event.id for event in got}) == 3


async def test_a_key_that_cannot_be_in_an_id_is_replaced(stores):
    """Keys of elements may be any text: ids stay valid and different."""

    async def step(ctx, key):
        ctx.emit("out.item", key=key)

    wf = Workflow("sender")
    wf.on("go")(wf.step(each="items")(step))
    keys = ["line\nbreak", "x" * 3000, "plain"]
    _, got, _ = await run_of(stores, wf, items=dict.fromkeys(keys, 0))
    assert [event.payload["key"] for event in got] == keys
    assert len({event.id for event in got}) == 3


async def test_events_of_many_threads_of_a_step_have_their_own_ids(stores):
    """A step that emits in several threads loses none."""

    def step(ctx):
        threads = [threading.Thread(target=lambda: [ctx.emit("out.a") for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    _, got, _ = await run_of(stores, one_step(step))
    assert len({event.id for event in got}) == 80


@pytest.mark.parametrize("timeline", [True, False], ids=["timeline", "bare"])
async def test_each_round_of_a_loop_has_its_own_ids(stores, timeline):
    """A stage that is visited again emits again: ids differ, also where the log holds no timeline and no patch."""
    rounds = []
    wf = Workflow("sender")

    @wf.on("go")
    @wf.step
    async def step(ctx):
        rounds.append(ctx.emit("out.a"))

    @wf.route(after="step")
    def again():
        return Jump("step") if len(rounds) < 3 else None

    other, got = listener()
    rt = await stores.enter(wf, other, timeline=timeline)
    await rt.run("sender")
    assert await settled(rt) == []
    assert [event.id for event in got] == rounds
    assert len(set(rounds)) == 3


async def test_the_id_is_the_same_for_each_attempt(stores):
    """An attempt that is repeated emits the same ids, so a receiver sees the event once."""
    ids = []

    async def step(ctx):
        ids.append(ctx.emit("out.a"))
        if len(ids) < 3:
            raise ConnectionError

    _, got, _ = await run_of(stores, one_step(step, retry=Retry(attempts=3, backoff=0)))
    assert len(set(ids)) == 1
    assert [event.id for event in got] == ids[:1]


async def test_a_run_that_pauses_or_is_delayed_leaves_its_events(stores):
    """The commit that parks a run takes its events along, as each boundary does."""

    async def step(ctx):
        ctx.emit("out.a")
        return Delay("1h")

    wf = one_step(step)
    wf.wait("never", on="never")
    result, got, _ = await run_of(stores, wf)
    assert (result.status, len(got)) == ("paused", 1)


async def test_the_bus_gets_it_too(stores):
    """Observers on the bus see an emitted event, once, with its id."""
    ids = []

    async def step(ctx):
        ids.append(ctx.emit("seen"))

    bus = RecordingBus()
    rt = await stores.enter(one_step(step), bus=bus)
    await rt.run("sender")
    assert await settled(rt) == []
    assert [(event.type, event.id) for event in bus.events] == [("seen", ids[0])]


# ------------------------------------------------------------------------------------------------ it does not leave
async def test_a_failed_attempt_leaves_nothing(stores):
    """Only what the successful attempt emitted counts."""
    tries = []

    async def step(ctx):
        tries.append(ctx.attempt)
        ctx.emit("out.a", attempt=ctx.attempt)
        if ctx.attempt < 2:
            ctx.emit("out.b")
            raise ConnectionError

    _, got, _ = await run_of(stores, one_step(step, retry=Retry(attempts=2, backoff=0)))
    assert [(event.type, event.payload) for event in got] == [("out.a", {"attempt": 2})]


async def test_a_failed_stage_leaves_nothing(stores):
    """If a step beside it fails, a step's events do not leave, nor do those of one that was given up."""
    emitted = asyncio.Event()

    async def good(ctx):
        ctx.emit("out.good")

    async def given_up(ctx):
        ctx.emit("out.given_up")
        emitted.set()
        await asyncio.get_running_loop().create_future()

    async def bad():
        await emitted.wait()
        raise ValueError("no")

    wf = Workflow("sender")
    wf.on("go")(wf.step(stage="all")(good))
    wf.step(stage="all")(given_up)
    wf.step(stage="all")(bad)
    result, got, rt = await run_of(stores, wf)
    assert (result.status, got) == ("failed", [])
    assert "event:emitted" not in (await rt.timeline(result.run_id)).types()


@pytest.mark.parametrize("fault", ["router", "state", "service"])
async def test_a_stage_that_cannot_be_concluded_leaves_nothing(stores, fault):
    """If the router fails, the state does not fit, or a service of the stage cannot be closed, nothing leaves."""
    from pydantic import BaseModel

    class State(BaseModel):
        n: int = 0

    def closes():
        yield 1
        if fault == "service":
            raise OSError("cannot be closed")

    wf = Workflow("sender", state=State, services=[Service("closes", closes, scope="stage")])

    async def step(ctx):
        ctx.emit("out.a")
        await ctx.use(lambda deps: deps.require("closes"))
        return {"n": "many" if fault == "state" else 1}

    wf.on("go")(wf.step(step))

    @wf.route(after="step")
    def route():
        if fault == "router":
            raise ValueError("no")

    result, got, _ = await run_of(stores, wf)
    assert (result.status, got) == ("failed", [])


async def test_a_timed_out_attempt_leaves_nothing(stores):
    """An attempt that is given up leaves nothing, and what it emits later is refused where it is emitted."""
    refused = []

    async def step(ctx):
        if ctx.attempt > 1:
            ctx.emit("out.second")
            return
        ctx.emit("out.first")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            try:
                ctx.emit("out.late")
            except StepOver as error:
                refused.append(error.path)

    _, got, _ = await run_of(stores, one_step(step, timeout=1, retry=Retry(attempts=2, backoff=0)))
    assert [event.type for event in got] == ["out.second"]
    assert refused == ["step"]


async def test_emitting_after_the_step_is_refused(stores):
    """A task that the step left behind gets an error instead of an event that is lost."""
    kept = []

    async def step(ctx):
        kept.append(ctx)

    _, got, _ = await run_of(stores, one_step(step))
    with pytest.raises(StepOver, match="is over"):
        kept[0].emit("out.a")
    assert got == []


async def test_an_aborted_run_leaves_nothing_of_its_stage(stores, gate):
    """An abort gives the stage up with its events; those of stages before it have left."""
    wf = Workflow("sender")

    @wf.on("go")
    @wf.step
    async def first(ctx):
        ctx.emit("out.first")

    @wf.step
    async def second(ctx):
        ctx.emit("out.second")
        await gate()

    other, got = listener()
    rt = await stores.enter(wf, other)
    run_id = (await rt.emit("go")).lines[0].run_id
    await run_until_idle(rt.clock)
    await rt.abort(run_id)
    await rt.wait(run_id)
    await settled(rt)
    assert [event.type for event in got] == ["out.first"]


@pytest.mark.parametrize(
    ("arguments", "fields", "error"),
    [
        (("",), {}, InvalidEvent),
        ((Event("out.a"), {"n": 1}), {}, InvalidEvent),
        (("out.a", [1]), {"n": 1}, InvalidEvent),
        (("out.a",), {"n": object()}, NotStorable),
    ],
    ids=["type", "two payloads", "no mapping", "no data"],
)
async def test_what_is_no_event_is_refused_at_once(stores, arguments, fields, error):
    """A mistake is raised in the step, with the errors of `rt.emit`, and nothing is emitted for it."""

    async def step(ctx):
        with pytest.raises(error):
            ctx.emit(*arguments, **fields)
        ctx.emit("out.fine")

    _, got, _ = await run_of(stores, one_step(step))
    assert [event.type for event in got] == ["out.fine"]


# ------------------------------------------------------------------------------------------------------ by place
async def test_fail_is_a_commit(stores):
    """`Fail` is decided by a stage that has succeeded, so its events leave with the failure, as its patch does."""

    async def step(ctx):
        ctx.emit("out.failed")
        return Fail("no stock", patch={"n": 1})

    result, got, _ = await run_of(stores, one_step(step))
    assert (result.status, result.state["n"], len(got)) == ("failed", 1, 1)


async def test_routers_emit_with_their_stage(stores):
    """What a router emits leaves with its stage, behind what the steps emitted, and has ids of its own."""
    wf = Workflow("sender")

    @wf.on("go")
    @wf.step
    async def router(ctx):
        ctx.emit("out.step")

    @wf.route(after="router")
    def route(ctx):
        ctx.emit("out.router")

    _, got, _ = await run_of(stores, wf)
    assert [event.type for event in got] == ["out.step", "out.router"]
    assert len({event.id for event in got}) == 2


async def test_a_stage_that_is_concluded_twice_emits_once(stores):
    """If messages came just before the commit, the router is asked again; its events leave once, with the same id."""
    wf = Workflow("sender")
    store = stores.store()
    asked = []

    @wf.on("go")
    @wf.step
    async def step(ctx):
        ctx.emit("out.step")

    @wf.route(after="step")
    async def route(ctx):
        asked.append(ctx.emit("out.router"))
        if len(asked) == 1:
            await rt.signal(ctx.run_id, {"n": 1})

    other, got = listener()
    rt = await stores.enter(wf, other, store=store)
    run_id = (await rt.emit("go")).lines[0].run_id
    result = await rt.wait(run_id)
    assert await settled(rt) == []
    assert (len(asked), len(set(asked)), result.state["n"]) == (2, 1, 1)
    assert [event.type for event in got] == ["out.step", "out.router"]


async def test_undo_emits_with_its_own_end(stores):
    """What an undo emits leaves with the commit that notes its success; that of an undo that failed does not."""
    wf = Workflow("sender")

    async def release(ctx):
        ctx.emit("out.released")

    async def broken(ctx):
        ctx.emit("out.broken")
        raise ValueError("cannot be undone")

    @wf.on("go")
    @wf.step(undo=release)
    async def reserve(ctx):
        ctx.emit("out.reserved")

    @wf.step(undo=broken)
    async def pay():
        return None

    @wf.step
    async def ship(ctx):
        ctx.emit("out.shipped")
        raise ValueError("no")

    result, got, _ = await run_of(stores, wf)
    assert result.status == "failed"
    assert [event.type for event in got] == ["out.reserved", "out.released"]
    assert len({event.id for event in got}) == 2


async def test_failure_stages_emit(stores):
    """The stage that a failure leads to is a stage: its events leave, those of the failed one do not."""
    wf = Workflow("sender", on_failure="tell")

    @wf.on("go")
    @wf.step
    async def step(ctx):
        ctx.emit("out.step")
        raise ValueError("no")

    @wf.aside
    async def tell(ctx):
        ctx.emit("out.told", why=ctx.failure.message)

    result, got, _ = await run_of(stores, wf)
    assert (result.status, [(event.type, event.payload["why"]) for event in got]) == ("completed", [("out.told", "no")])


async def test_hooks_emit_with_the_next_commit(stores):
    """What `on_prepare` and `on_resume` emit leaves with the first commit after them; if they raise, it does not."""
    wf = Workflow("sender", triggers={"go": Trigger("go")})
    wf.wait("answer", on="answer")
    other, got = listener()
    rt = await stores.enter(other)
    raises = []

    def prepare(ctx):
        ctx.emit("out.prepared")

    async def resume(ctx):
        ctx.emit("out.resumed")
        if raises:
            raise ValueError("no")

    await rt.register(wf, on_prepare=prepare, on_resume=resume)
    paused = await rt.run("sender")
    await rt.resume(paused.run_id)
    assert await settled(rt) == []
    assert [event.type for event in got] == ["out.prepared", "out.resumed"]
    raises.append(True)
    paused = await rt.run("sender")
    await rt.resume(paused.run_id)
    assert await settled(rt) == []
    assert [event.type for event in got[2:]] == ["out.prepared"]


@pytest.mark.parametrize("refused", [False, True], ids=["passes", "again"])
async def test_what_a_hook_emitted_leaves_with_the_creation_of_its_run(stores, gate, refused):
    """A run that is stored early, because of a message to it, brings what `on_prepare` emitted along, once.

    The hook is not called again after that, so nothing else could. The stage that is under way keeps its own events.
    """
    wf = Workflow("sender")

    @wf.on("go")
    @wf.step
    async def step(ctx):
        ctx.emit("out.step")

    @wf.route(after="step")
    async def route(ctx):
        if not gate.came:
            await gate()
            if refused:
                await rt.signal(ctx.run_id, {"m": 1})

    other, got = listener()
    rt = await stores.enter(other)
    await rt.register(wf, on_prepare=lambda ctx: ctx.emit("out.prepared") and None)
    running = asyncio.create_task(rt.invoke("sender"))
    await run_until_idle(rt.clock)
    assert await rt.store.load(rt.list_all_runs()[0].run_id) is None
    await rt.signal(rt.list_all_runs()[0].run_id, {"n": 1})
    await settled(rt)
    assert [event.type for event in got] == ["out.prepared"]
    gate.open()
    result = await running
    assert await settled(rt) == []
    assert ([event.type for event in got], result.state["n"]) == (["out.prepared", "out.step"], 1)
    assert rt.statistics().get("event:duplicate", 0) == 0


async def test_a_stage_with_a_timeout_and_a_stage_of_definitions(stores):
    """Steps that are attempted in tasks of their own emit as others do."""

    async def step(ctx):
        ctx.emit("out.a")
        return {"n": 1}

    stage = Stage("all", steps=[Step("a", step, timeout=5), Step("b", step)], timeout=9)
    wf = Workflow("sender", triggers={"go": Trigger("go")}, pipelines=[Pipeline("main", stages=[stage])])
    _, got, _ = await run_of(stores, wf)
    assert len({event.id for event in got}) == 2


# ------------------------------------------------------------------------------------------- other kinds of stages
@pytest.mark.parametrize("durability", ["stage", "step", "async", "exit", "none"])
async def test_events_leave_whatever_is_durable_when(stores, durability):
    """With each durability a run's events leave in order, once, as soon as what they are written with is durable."""
    wf = Workflow("sender", durability=durability)

    @wf.on("go")
    @wf.step
    async def first(ctx):
        ctx.emit("out.first")
        return {"n": 1}

    @wf.step(each="items")
    async def second(ctx, item):
        ctx.emit("out.second", item=item)

    @wf.step
    async def third(ctx):
        ctx.emit("out.third")

    result, got, _ = await run_of(stores, wf, items=[1, 2])
    assert result.ok
    assert [event.type for event in got] == ["out.first", "out.second", "out.second", "out.third"]
    assert len({event.id for event in got}) == 4


async def test_boundaries_written_behind_say_what_they_bring(stores, gate):
    """With boundaries that nobody waits for, events leave while the run goes on, once they are durable."""
    wf = Workflow("sender", durability="async")

    @wf.on("go")
    @wf.step
    async def first():
        return {"n": 1}

    @wf.step
    async def second(ctx):
        ctx.emit("out.second")

    @wf.step
    async def third():
        await gate()

    other, got = listener()
    store = stores.store()
    rt = await stores.enter(wf, other, store=store)
    await rt.emit("go")
    store.hold = lambda changes: any(move.outgoing for move in changes.moves)
    [held] = await store.until_held()
    await run_until_idle(rt.clock)
    assert (got, gate.inside) == ([], 1)
    held.release()
    await settled(rt)
    assert len(got) == 1
    gate.open()


@pytest.mark.parametrize("each", [False, True], ids=["steps", "elements"])
async def test_what_a_kept_step_emitted_is_kept_with_it(stores, gate, each):
    """Where the result of a step is durable before its stage, its events are too, and leave with the stage."""
    wf = Workflow("sender", durability="step")
    calls = []

    async def quick(ctx):
        calls.append("quick")
        ctx.emit("out.quick", when=dt.date(2030, 1, 2))
        return {"quick": True}

    async def slow(ctx):
        calls.append("slow")
        await gate()
        ctx.emit("out.slow")

    async def element(ctx, item):
        await (quick if item == "quick" else slow)(ctx)

    if each:
        wf.on("go")(wf.step(each="items")(element))
    else:
        wf.on("go")(wf.step(stage="all")(quick))
        wf.step(stage="all")(slow)
    other, got = listener()
    rt = await stores.enter(wf, other)
    run_id = (await rt.emit("go", items=["quick", "slow"])).lines[0].run_id
    await run_until_idle(rt.clock)
    assert (got, calls) == ([], ["quick", "slow"])
    await stores.crash(rt)
    rt = await stores.enter(wf, other)
    await run_until_idle(rt.clock)
    gate.open()
    assert (await rt.wait(run_id)).ok
    await settled(rt)
    assert calls == ["quick", "slow", "slow"]
    assert [event.type for event in got] == ["out.quick", "out.slow"]
    assert got[0].payload == {"when": dt.date(2030, 1, 2)}


async def test_what_begins_something_slow_emits_with_its_end(stores):
    """Of a step with `poll`, the events of the call and of the last check leave with its stage, with their own ids."""
    wf = Workflow("sender")
    checks = []

    def check(ctx, job):
        checks.append(job)
        ctx.emit("out.check", n=len(checks))
        return Pending() if len(checks) < 3 else {"done": job}

    @wf.on("go")
    @wf.step(poll=check, every="2h")
    async def begin(ctx):
        ctx.emit("out.begin")
        return "job"

    other, got = listener()
    rt = await stores.enter(wf, other)
    run_id = (await rt.emit("go")).lines[0].run_id
    assert (await rt.wait(run_id)).state["done"] == "job"
    await settled(rt)
    assert [(event.type, event.payload) for event in got] == [("out.begin", {}), ("out.check", {"n": 3})]
    assert len({event.id for event in got}) == 2


async def test_a_delayed_attempt_emits_with_its_stage(stores):
    """Where a run is parked between two attempts, what other steps of the stage emitted waits with it."""
    wf = Workflow("sender")
    tries = []

    async def good(ctx):
        ctx.emit("out.good")

    async def late(ctx):
        tries.append(ctx.attempt)
        ctx.emit("out.late", attempt=ctx.attempt)
        if len(tries) < 2:
            raise ConnectionError

    wf.on("go")(wf.step(stage="both")(good))
    wf.step(stage="both", retry=Retry(attempts=2, backoff="2h", jitter=0))(late)
    other, got = listener()
    rt = await stores.enter(wf, other)
    run_id = (await rt.emit("go")).lines[0].run_id
    assert (await rt.wait(run_id)).ok
    await settled(rt)
    assert [(event.type, event.payload) for event in got] == [("out.good", {}), ("out.late", {"attempt": 2})]


async def test_children_emit_with_their_own_stages(stores):
    """A run that is forked leaves its events by itself; they are not part of its parent's stage."""
    wf = Workflow("sender", triggers={"go": Trigger("go")})
    part = wf.pipeline("part")

    @part.step
    async def inner(ctx):
        ctx.emit("out.inner")

    wf.fork(part, id="parts")

    @wf.step
    async def after(ctx):
        ctx.emit("out.after")

    _, got, _ = await run_of(stores, wf)
    assert [event.type for event in got] == ["out.inner", "out.after"]
