"""What a stage keeps before it is concluded: written in the middle of it, and there when it is entered again."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated

import pytest

from poundlock import (
    Jump,
    LeaseLost,
    Pause,
    Pipeline,
    Retry,
    RunExists,
    Service,
    Stage,
    Step,
    StepContext,
    StoreUnavailable,
    Trigger,
    Use,
    Wait,
    Workflow,
)
from poundlock.model.conditions import Condition, StateRef
from poundlock.model.definitions import Advance, Delay, Fail, Terminate
from poundlock.model.events import Event
from poundlock.pipeline.kept_values import resume_as_data, resume_of, wait_as_data, wait_of
from poundlock.pipeline.run_view import Resume
from poundlock.pipeline.step_results import StepDone

RETRY = Retry(3, backoff=10, factor=1)


def flow(*steps, router=None, **options):
    stages = [Stage("work", steps, router=router), Stage("end", [Step("end", lambda: {"end": True})])]
    triggers, pipelines = {"begin": Trigger("begin")}, [Pipeline("main", stages)]
    return Workflow("w", triggers=triggers, pipelines=pipelines, **options)


def failing(seen, times=1):
    """A step that fails so many times, and notes the numbers of its attempts."""

    async def act(ctx: StepContext):
        seen.append(ctx.attempt)
        if len(seen) <= times:
            raise RuntimeError("no")
        return {"done": ctx.attempt}

    return Step("s", act, retry=RETRY)


async def begin(rt, **payload):
    [run_id] = (await rt.emit("begin", payload)).run_ids
    return run_id


def keeps(changes):
    """Whether it is a commit in the middle of a stage."""
    starts = [*changes.moves, *(create.start for create in changes.creates)]
    return any(
        move.status == "running" and move.waits and any(row.wait_id == "__visit__" for row in move.waits)
        for move in starts
    )


async def left_nothing(rt, run_id):
    """Check that no row and no memo of a visit is left."""
    record = await rt.store.load(run_id)
    assert [row.wait_id for row in record.waits if row.wait_id == "__visit__"] == []
    assert all("__visit__" not in [wait.id for wait in info.waits] for info in rt.list_all_runs())


async def held(stores, *steps, **options):
    """A run whose commit in the middle of its first stage is held."""
    stores.clock.autojump = False
    rt = await stores.enter(flow(*steps, **options))
    rt.store.hold = keeps
    run_id = await begin(rt)
    [commit] = await rt.store.until_held()
    return rt, run_id, commit


# -------------------------------------------------------------------------------------------------------- the commit
@pytest.mark.parametrize("written", [False, True])
async def test_a_crash_between_note_and_commit(stores, written):
    """What was noted counts once it is durable: before that, the stage begins as if nothing had been noted."""
    seen = []
    stores.clock.autojump = False
    rt = await stores.enter(flow(failing(seen, 2)))
    setattr(rt.store, "hold_after" if written else "hold", keeps)
    run_id = await begin(rt)
    await rt.store.until_held()
    await stores.crash(rt)
    rt = await stores.enter(flow(failing(seen, 2)))
    await stores.clock.run_for(60)
    assert (await rt.wait(run_id)).status == "completed"
    assert seen == ([1, 2, 3] if written else [1, 1, 2])
    await left_nothing(rt, run_id)


async def test_the_stage_waits_for_it(stores):
    """The next attempt begins only once the commit is durable, and after the whole delay."""
    seen = []
    rt, run_id, commit = await held(stores, failing(seen))
    await stores.clock.run_for(60)
    assert seen == [1]
    commit.release()
    rt.store.hold = None
    await stores.clock.run_until_idle()
    assert (await rt.wait(run_id)).status == "completed"
    assert seen == [1, 2]


async def test_several_share_commits(stores):
    """Steps that note something while a commit is in flight are in the next one, together."""
    seen = [[] for _ in range(8)]
    steps = [failing(each) for each in seen]
    steps = [Step(f"s{place}", step.action, retry=RETRY) for place, step in enumerate(steps)]
    stores.clock.autojump = False
    rt = await stores.enter(flow(*steps))
    run_id = await begin(rt)
    before = len(rt.store.written)
    await stores.clock.run_until_idle()
    assert len(rt.store.written) - before <= 2
    await stores.clock.run_for(60)
    assert (await rt.wait(run_id)).status == "completed"
    assert seen == [[1, 2]] * 8


async def test_the_lease_was_lost(stores):
    """A commit that is refused because the run has another owner ends this drive: no attempt, no failure, no end."""
    seen, hooked = [], []
    stores.clock.autojump = False
    rt = await stores.enter()
    await rt.register(flow(failing(seen)), on_complete=lambda result: hooked.append(result.status))
    rt.store.failing = lambda _, changes: LeaseLost("driven elsewhere") if keeps(changes) and len(seen) == 1 else None
    run_id = await begin(rt)
    await stores.clock.run_until_idle()
    await stores.clock.run_for(60)
    # Nobody else owns it here, so it is looked up and driven again from its last commit.
    assert (await rt.wait(run_id)).status == "completed"
    assert (seen, hooked) == ([1, 1], ["completed"])
    await left_nothing(rt, run_id)


async def test_a_fault_that_passes(stores):
    """A store that is busy for a time: the commit is repeated, and the run goes on."""
    seen, faults = [], [StoreUnavailable("busy"), StoreUnavailable("busy")]
    rt = await stores.enter(flow(failing(seen)))
    rt.store.failing = lambda _, changes: faults.pop() if keeps(changes) and faults else None
    run_id = await begin(rt)
    assert (await rt.wait(run_id)).status == "completed"
    assert (seen, faults) == ([1, 2], [])


@pytest.mark.parametrize("error", [RunExists("no"), RuntimeError("a bug")], ids=["refused", "bug"])
async def test_a_fault_that_stays(stores, error, caplog):
    """A run whose commit fails for another reason is stranded: callers get the error, and `abort` ends it."""
    seen = []
    rt = await stores.enter(flow(failing(seen)))
    rt.store.failing = lambda _, changes: error if keeps(changes) else None
    run_id = await begin(rt)
    with pytest.raises(type(error)):
        await rt.wait(run_id)
    assert seen == [1]
    await rt.abort(run_id)
    assert (await rt.get_run(run_id)).status == "aborted"
    assert "cannot continue" in caplog.text


async def test_a_run_that_was_never_stored(stores):
    """`run` without a boundary yet: the commit in the middle of the stage stores it; if that fails, nothing is kept."""
    seen = []
    rt = await stores.enter(flow(failing(seen)))
    rt.store.hold_after = keeps
    running = asyncio.create_task(rt.run("w"))
    [commit] = await rt.store.until_held()
    [info] = (await rt.find_runs()).items
    assert info.status == "running"
    commit.release()
    assert (await running).status == "completed"
    fault = StoreUnavailable("gone")
    rt.store.failing = lambda *_: fault
    seen.clear()
    with pytest.raises(StoreUnavailable):
        await rt.run("w")
    assert seen == [1]


async def test_a_message_to_a_run_that_is_not_stored(stores):
    """A signal to such a run while the commit is in flight finds it, and counts."""
    seen = []
    stores.clock.autojump = False
    rt = await stores.enter(flow(failing(seen)))
    rt.store.hold_after = keeps
    running = asyncio.create_task(rt.run("w"))
    [commit] = await rt.store.until_held()
    [info] = rt.list_all_runs()
    signalling = asyncio.create_task(rt.signal(info.run_id, {"n": 1}))
    await stores.clock.run_until_idle()
    rt.store.hold_after = None
    commit.release()
    await signalling
    await stores.clock.run_for(60)
    result = await running
    assert (result.status, result.state["n"]) == ("completed", 1)


@pytest.mark.parametrize("how", ["lost", "stop", "abort"])
async def test_services_of_the_stage(stores, how):
    """If the visit ends at such a commit, or while it is in flight, services of the stage see that as a failure."""
    seen, ends = [], []

    async def factory():
        try:
            yield object()
        except BaseException as error:
            ends.append(type(error).__name__)
            raise
        ends.append("closed")

    async def act(ctx: StepContext, it: Annotated[object, Use("it")]):
        seen.append(ctx.attempt)
        if len(seen) == 1:
            raise RuntimeError("no")

    services = [Service("it", factory, scope="stage")]
    rt, run_id, commit = await held(stores, Step("s", act, retry=RETRY), services=services)
    rt.store.hold = None
    if how == "lost":
        commit.fail(LeaseLost("driven elsewhere"))
        await stores.clock.run_until_idle()
        assert (await rt.wait(run_id)).status == "completed"
        assert ends == ["LeaseLost", "closed"]
        return
    ending = asyncio.create_task(rt.abort(run_id) if how == "abort" else rt.stop(drain=0))
    await stores.clock.run_until_idle()
    commit.release()
    await stores.clock.run_until_idle()
    await ending
    assert ends == ["RunAborted" if how == "abort" else "RuntimeStopped"]


# -------------------------------------------------------------------------------------- while the commit is in flight
async def test_an_abort_meanwhile(stores):
    """The run is aborted behind the commit, and nothing of the visit is left."""
    seen = []
    rt, run_id, commit = await held(stores, failing(seen))
    aborting = asyncio.create_task(rt.abort(run_id))
    await stores.clock.run_until_idle()
    rt.store.hold = None
    commit.release()
    await aborting
    assert (await rt.wait(run_id)).status == "aborted"
    await left_nothing(rt, run_id)


async def test_a_siblings_failure_meanwhile(stores):
    """The stage fails behind the commit."""
    seen, free = [], asyncio.Event()

    async def fails():
        await free.wait()
        raise ValueError("for good")

    rt, run_id, commit = await held(stores, failing(seen), Step("f", fails))
    free.set()
    await stores.clock.run_until_idle()
    assert (await rt.get_run(run_id)).status == "running"
    rt.store.hold = None
    commit.release()
    result = await rt.wait(run_id)
    assert (result.status, str(result.error)) == ("failed", "ValueError: for good")
    await left_nothing(rt, run_id)


@pytest.mark.parametrize("lands", [True, False])
async def test_a_stop_meanwhile(stores, lands):
    """The runtime stops without waiting for ever; the next owner goes on from what is durable."""
    seen = []
    rt, run_id, commit = await held(stores, failing(seen, 2))
    stopping = asyncio.create_task(rt.stop(drain=0))
    await stores.clock.run_until_idle()
    rt.store.hold = None
    if lands:
        commit.release()
    else:
        commit.fail(StoreUnavailable("gone"))
    await stores.clock.run_for(60)
    await stopping
    rt = await stores.enter(flow(failing(seen, 2)))
    await stores.clock.run_for(60)
    assert (await rt.wait(run_id)).status == "completed"
    assert seen in ([1, 2, 3], [1, 1, 2])


async def test_a_stop_with_a_store_that_hangs(stores):
    """A commit that never comes back does not hold the stop beyond its limits."""
    seen = []
    rt, _run_id, commit = await held(stores, failing(seen))
    stopping = asyncio.create_task(rt.stop(drain=0))
    await stores.clock.run_for(60)
    assert seen == [1]
    commit.release()
    rt.store.hold = None
    await stopping


async def test_a_signal_between(stores):
    """A signal that comes between two commits of a visit is in the state in the end, and seen by `latest`."""
    seen, latest = [], []

    async def act(ctx: StepContext):
        latest.append(ctx.latest().get("n"))
        seen.append(ctx.attempt)
        if ctx.attempt < 3:
            raise RuntimeError("no")

    stores.clock.autojump = False
    rt = await stores.enter(flow(Step("s", act, retry=RETRY)))
    run_id = await begin(rt)
    await stores.clock.run_until_idle()
    await rt.signal(run_id, {"n": 1})
    await stores.clock.run_for(15)
    await stores.crash(rt)
    rt = await stores.enter(flow(Step("s", act, retry=RETRY)))
    await stores.clock.run_for(60)
    result = await rt.wait(run_id)
    assert (result.status, result.state["n"], latest, seen) == ("completed", 1, [None, 1, 1], [1, 2, 3])


# ------------------------------------------------------------------------------------------------- what is kept with it
@pytest.mark.parametrize("end", ["memory", "crash"])
async def test_registered_waits(stores, end):
    """A wait that a step registered is armed with the stage's commit, also if the run was parked or lost meanwhile."""
    seen, ran, reached, free = [], [], asyncio.Event(), asyncio.Event()
    wait = Wait("go", correlate={"n": StateRef("n")}, where=[Condition("ok", "==", True)], id="gate")

    async def registers(pauses: Annotated[object, Use("__pause_service__")]):
        ran.append(1)
        await pauses.register(wait)
        return {"n": 7}

    async def slow(ctx: StepContext):
        seen.append(ctx.attempt)
        if ctx.attempt == 1:
            raise RuntimeError("no")

    async def between():
        reached.set()
        await free.wait()

    def made():
        retry = Retry(3, backoff=10 if end == "memory" else 3600, max="9h")
        stages = [
            Stage("work", [Step("r", registers), Step("s", slow, retry=retry)]),
            Stage("between", [Step("between", between)], router=lambda: Pause(wait, "end")),
            Stage("end", [Step("end", lambda: None)]),
        ]
        return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)])

    stores.clock.autojump = False
    rt = await stores.enter(made())
    run_id = await begin(rt)
    await stores.clock.run_until_idle()
    if end == "crash":
        await stores.crash(rt)
        rt = await stores.enter(made())
    await stores.clock.run_for(hours=2)
    await reached.wait()
    assert [line.verdict for line in (await rt.emit("go", n=7, ok=True)).lines] == ["buffered"]
    free.set()
    assert (await rt.wait(run_id)).status == "completed"
    assert (seen, ran) == ([1, 2], [1])


async def test_a_walk_with_jumps(stores):
    """A run that jumped has its visits counted one by one: a commit in the middle of a stage counts none twice."""
    seen = []

    async def act(ctx: StepContext, n: int = 0):
        seen.append((n, ctx.attempt))
        if ctx.attempt == 1:
            raise RuntimeError("no")
        return {"n": n + 1}

    def made():
        return flow(
            Step("s", act, retry=RETRY), router=lambda state: Jump("work") if state["n"] < 4 else None, visit_limit=4
        )

    stores.clock.autojump = False
    rt = await stores.enter(made())
    run_id = await begin(rt)
    for _ in range(4):
        await stores.clock.run_for(5)
        await stores.crash(rt)
        rt = await stores.enter(made())
        await stores.clock.run_for(5)
    await stores.clock.run_for(60)
    assert (await rt.wait(run_id)).status == "completed"
    assert seen == [(n, attempt) for n in range(4) for attempt in (1, 2)]
    await left_nothing(rt, run_id)


async def test_the_pause_service_does_not_list_it(stores):
    """What the stage keeps is no wait, so steps do not see it among theirs."""
    listed = []

    async def act(ctx: StepContext, pauses: Annotated[object, Use("__pause_service__")]):
        listed.append([info.id for info in await pauses.list()])
        if ctx.attempt == 1:
            raise RuntimeError("no")

    rt = await stores.enter(flow(Step("s", act, retry=RETRY)))
    assert (await rt.wait(await begin(rt))).status == "completed"
    assert listed == [[], []]


async def test_a_log_without_a_timeline_stays_small(stores):
    """Without a timeline, attempts cost no entry of the log."""
    seen = []
    rt = await stores.enter(flow(failing(seen, 2)), timeline=False)
    run_id = await begin(rt)
    await rt.wait(run_id)
    rows = await rt.store.history(run_id)
    assert sum(row.size for row in rows) <= 4


# ------------------------------------------------------------------------------------------------------ values as data
@pytest.mark.parametrize(
    "instruction",
    [
        Advance(),
        Jump("end"),
        Terminate({"a": [1]}),
        Fail("why"),
        Delay("5m", then="end"),
        Pause(Wait(["a", "b"], where=[Condition("x", ">", StateRef("y.z"))], correlate={"n": StateRef("n")}, id="w")),
        Pause(Wait({"yes": "end", "no": "end"}, timeout="1h", on_timeout="end", patch={"a": 1}, early=False), "end"),
    ],
    ids=["advance", "jump", "terminate", "fail", "delay", "pause", "mapped"],
)
def test_instructions_as_data(instruction):
    """Each instruction that a step returned is read back equal."""
    from poundlock.codecs import pack
    from poundlock.pipeline.kept_values import result_as_data, result_of

    done = StepDone(None, {"p": 1}, '{"p":1}', instruction)
    back = result_of(None, pack(result_as_data(done))[0])
    assert (back.patch, back.text) == ({"p": 1}, '{"p":1}')
    if isinstance(instruction, Pause):
        assert wait_as_data(back.instruction.wait) == wait_as_data(instruction.wait)
        assert back.instruction.resume_at == instruction.resume_at
    else:
        assert back.instruction == instruction


def test_waits_as_data():
    """A wait is read back with its references, and its events in their order."""
    wait = Wait("a", where=[Condition("x", "exists")], correlate={"n": 1, "m": StateRef("m")}, timeout=5)
    assert wait_of(wait_as_data(wait)) == Wait(
        "a", where=[Condition("x", "exists")], correlate={"n": 1, "m": StateRef("m")}, timeout=5
    )


def test_waits_as_data_are_whole():
    """Nothing of a wait is lost, whatever it says; a record of an earlier version says less."""
    wait = Wait(
        ["a", "b"],
        where=[],
        mode=3,
        distinct="by",
        collect="got",
        form={"type": "object"},
        limit=7,
        ttl="1h",
        overflow="reject",
    )
    data = wait_as_data(wait)
    assert set(data) == {field.name for field in dataclasses.fields(Wait)}
    assert wait_of(data) == wait
    earlier = {name: value for name, value in wait_as_data(Wait("a")).items() if name not in ("mode", "limit", "ttl")}
    assert wait_of(earlier) == Wait("a", where=[])


@pytest.mark.parametrize(
    "event", [None, Event("go", {"n": 1}, id="e", source="s", key="k", headers={"h": "1"})], ids=["none", "event"]
)
def test_reasons_as_data(event):
    """Why a run was resumed is read back equal, with the event."""
    from poundlock.codecs import pack

    resume = Resume("event", "gate", event)
    assert resume_of(pack(resume_as_data(resume))[0]) == resume
    assert resume_of(None) is None
