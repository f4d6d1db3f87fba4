"""What is durable when, by the workflow's durability, and what a kill leaves."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from pydantic import BaseModel
from support import Stores, rests

from poundlock import (
    Delay,
    InvalidDefinition,
    Jump,
    LeaseLost,
    Pause,
    Pipeline,
    Retry,
    Service,
    Stage,
    Step,
    StepContext,
    StoreUnavailable,
    Terminate,
    Trigger,
    Wait,
    Workflow,
    WorkflowRuntime,
)
from poundlock.runtime.durability import MOST_BEHIND
from poundlock.stores.sqlite import SqliteStore
from poundlock.testing import run_until_idle

LEVELS = ("stage", "step", "async", "exit", "none")


def staged(durability, ran=None, *, stages=5, pause=None, hold=None, **options):
    """So many stages of one step, with a pause before one of them if wanted; `hold(stage)` may keep a step busy."""
    ran = [] if ran is None else ran

    def step(name):
        async def act(ctx: StepContext, state):
            ran.append(name)
            if hold is not None:
                await hold(name)
            return {name: sorted(state)}

        return Step(name, act)

    made = [Stage(f"s{number}", [step(f"s{number}")]) for number in range(stages)]
    if pause is not None:
        made.insert(pause, Stage("gate", router=Pause(Wait("go", id="gate"))))
    triggers, pipelines = {"begin": Trigger("begin")}, [Pipeline("main", made)]
    return Workflow("w", triggers=triggers, pipelines=pipelines, durability=durability, **options)


async def begin(rt, **payload):
    [run_id] = (await rt.emit("begin", payload)).run_ids
    return run_id


class Busy:
    """Keeps a step busy until it is let go."""

    def __init__(self, stage):
        self.stage = stage
        self.inside, self.free = asyncio.Event(), asyncio.Event()

    async def __call__(self, stage):
        if stage == self.stage:
            self.inside.set()
            await self.free.wait()


# -------------------------------------------------------------------------------------------------------- all levels
@pytest.mark.parametrize("level", LEVELS)
async def test_the_result_is_the_same(stores, level):
    """Whatever the durability: state, timeline and result of a run that nothing disturbs are the same."""
    rt = await stores.enter(staged(level, pause=3))
    run_id = await begin(rt)
    assert (await rt.wait(run_id, until="rest")).status == "paused"
    await rt.emit("go", n=1)
    result = await rt.wait(run_id)
    assert result.status == "completed"
    assert dict(result.state) == {
        "n": 1,
        "s0": [],
        "s1": ["s0"],
        "s2": ["s0", "s1"],
        "s3": ["n", "s0", "s1", "s2"],
        "s4": ["n", "s0", "s1", "s2", "s3"],
    }
    types = Counter((await rt.timeline(run_id)).types())
    assert (types["stage:start"], types["stage:success"], types["pipeline:success"]) == (6, 6, 1)
    await stores.crash(rt)
    rt = await stores.enter(staged(level, pause=3))
    assert (await rt.get_run(run_id, state=True)).state == result.state


@pytest.mark.parametrize(("level", "commits"), [("stage", 5), ("step", 5), ("async", 5), ("exit", 1), ("none", 1)])
async def test_what_it_costs(stores, level, commits):
    """How many commits a run of five stages is."""
    rt = await stores.enter(staged(level))
    assert (await rt.run("w")).status == "completed"
    assert len(rt.store.written) == commits


@pytest.mark.parametrize("level", LEVELS)
async def test_a_pause_survives(stores, level):
    """A pause is acknowledged whatever the durability: after a kill the run is paused there, and can be answered."""
    ran = []
    rt = await stores.enter(staged(level, ran, pause=3))
    run_id = await begin(rt)
    result = await rt.wait(run_id, until="rest")
    assert result.status == "paused"
    await stores.crash(rt)
    rt = await stores.enter(staged(level, ran, pause=3))
    info = await rt.get_run(run_id, state=True)
    assert (info.status, sorted(info.state)) == ("paused", ["s0", "s1", "s2"])
    await rt.resume(run_id, {"x": 1})
    assert (await rt.wait(run_id)).status == "completed"
    assert ran == ["s0", "s1", "s2", "s3", "s4"]


@pytest.mark.parametrize("level", LEVELS)
async def test_an_end_survives(stores, level):
    """So is an end, with the state and the result; a failure too."""
    for last in (lambda: Terminate({"a": 1}), lambda: 1 / 0):
        wf = staged(level)
        wf._pipelines[0] = Pipeline("main", [*wf._pipelines[0].stages, Stage("last", [Step("last", last)])])
        rt = await stores.enter(wf)
        run_id = await begin(rt)
        result = await rt.wait(run_id)
        await stores.crash(rt)
        rt = await stores.enter()
        info = await rt.get_run(run_id, state=True)
        assert (info.status, len(info.state)) == (result.status, 5)
        again = await rt.wait(run_id)
        assert (again.result, again.error) == (result.result, result.error)
        assert (result.status, result.result) in (("completed", {"a": 1}), ("failed", None))
        await rt.stop()


@pytest.mark.parametrize("level", LEVELS)
async def test_a_stop_writes_what_is_done(stores, level):
    """A runtime that stops while a run is between stages leaves it there: the next one repeats no stage."""
    ran, busy = [], Busy("s2")
    stores.clock.autojump = False
    rt = await stores.enter(staged(level, ran, hold=busy))
    run_id = await begin(rt)
    await busy.inside.wait()
    stopping = asyncio.create_task(rt.stop(drain=60))
    await run_until_idle(stores.clock)
    busy.free.set()
    await stopping
    rt = await stores.enter(staged(level, ran))
    assert (await rt.wait(run_id)).status == "completed"
    assert ran == ["s0", "s1", "s2", "s3", "s4"]


@pytest.mark.parametrize("level", LEVELS)
async def test_an_abort(stores, level):
    """A run is aborted in the middle of a step as always."""
    busy = Busy("s2")
    rt = await stores.enter(staged(level, hold=busy))
    run_id = await begin(rt)
    await busy.inside.wait()
    await rt.abort(run_id)
    assert (await rt.wait(run_id)).status == "aborted"


@pytest.mark.parametrize("level", LEVELS)
async def test_signals(stores, level):
    """A signal is in the state in the end, also if the process dies behind it."""
    busy = Busy("s2")
    stores.clock.autojump = False
    rt = await stores.enter(staged(level, hold=busy))
    run_id = await begin(rt)
    await busy.inside.wait()
    await rt.signal(run_id, {"n": 1})
    if level != "none":
        await stores.crash(rt)
        rt = await stores.enter(staged(level))
    busy.free.set()
    result = await rt.wait(run_id)
    assert (result.status, result.state["n"]) == ("completed", 1)


@pytest.mark.parametrize("level", LEVELS)
async def test_what_is_undone(stores, level):
    """A failed run undoes its stages, and each undo is durable: after a kill it is not called again."""
    undone, reached = [], asyncio.Event()

    def made(block):
        wf = Workflow("w", durability=level)
        wf.on("begin")

        async def undo_a():
            if block:
                reached.set()
                await asyncio.Event().wait()
            undone.append("a")

        async def undo_b():
            undone.append("b")

        wf.step(lambda: {"a": 1}, id="a", undo=undo_a)
        wf.step(lambda: {"b": 1}, id="b", undo=undo_b)
        wf.step(lambda: 1 / 0, id="fail")
        return wf

    rt = await stores.enter(made(block=True))
    run_id = await begin(rt)
    await reached.wait()
    assert undone == ["b"]
    await stores.crash(rt)
    rt = await stores.enter(made(block=False))
    result = await rt.wait(run_id)
    assert (result.status, result.error.type, undone) == ("failed", "ZeroDivisionError", ["b", "a"])


# --------------------------------------------------------------------------------------------- a kill at every commit
async def ended(rt, ran):
    """Begin a run, unless there is one, answer its wait, and return its end."""
    found = (await rt.find_runs(workflow="w")).items
    run_id = found[0].run_id if found else await begin(rt)
    result = await rt.wait(run_id, until="rest")
    if result.status == "paused":
        ran.append("|")
        await rt.resume(run_id, {"n": 1})
        result = await rt.wait(run_id)
    return result


async def killed(place, level, crash):
    """Go through a run with a pause, killed at a commit; returns its end, what ran, and how many commits there were."""
    ran = []
    store = place.store()
    store.crash = crash
    rt = await place.enter(staged(level, ran, pause=3), store=store)
    working = asyncio.create_task(ended(rt, ran))
    dead = asyncio.create_task(store.crashed.wait())
    await asyncio.wait([working, dead], return_when=asyncio.FIRST_COMPLETED)
    dead.cancel()
    if not store.dead:
        return await working, ran, store.commits
    working.cancel()
    await asyncio.wait([working])
    await place.crash(rt)
    ran.append("killed")
    rt = await place.enter(staged(level, ran, pause=3))
    return await ended(rt, ran), ran, store.commits


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("level", LEVELS)
async def test_a_kill_at_every_commit(store_kind, tmp_path, vclock, level, where):
    """Each durability keeps its word, whichever commit the process dies at.

    "stage" and "step" repeat at most the step under way. The others repeat stages, in their order, up to the last pause
    at most: "async" those that were not written yet, "exit" all of them. "none" repeats nothing: a run that was under
    way fails as lost.
    """

    async def once(name, crash):
        (tmp_path / name).mkdir()
        place = Stores(store_kind, tmp_path / name, vclock)
        try:
            return await killed(place, level, crash)
        finally:
            await place.close()

    expected, _, commits = await once("undisturbed", None)
    assert expected.status == "completed"
    lost = 0
    for number in range(1, commits + 1):
        result, ran, _ = await once(str(number), (number, where))
        told = f"commit {number}: {ran}"
        if level == "none" and result.status == "failed":
            assert (result.error.code, ran[-1]) == ("RUN_LOST", "killed"), told
            lost += 1
            continue
        assert (result.status, dict(result.state)) == ("completed", dict(expected.state)), told
        stages = [name for name in ran if name.startswith("s")]
        repeated = sum((Counter(stages) - Counter(set(stages))).values())
        assert repeated <= {"stage": 1, "step": 1, "none": 0}.get(level, 3), told
        halves = [name for name in ran if name != "killed"]
        assert "s3" not in halves[: halves.index("|")], told
        behind = ran[ran.index("killed") + 1 :] if "killed" in ran else []
        again = [name for name in behind if name.startswith("s")]
        assert again == sorted(again), told
    assert (lost > 0) is (level == "none")


@pytest.mark.parametrize("level", ["exit", "none"])
async def test_a_kill_in_a_step(stores, level):
    """Without boundaries, a run begins again from its last pause, or fails as lost."""
    ran, busy = [], Busy("s4")
    rt = await stores.enter(staged(level, ran, pause=2, hold=busy))
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    await rt.resume(run_id, until="accepted")
    await busy.inside.wait()
    await stores.crash(rt)
    ended = []
    rt = await stores.enter()
    await rt.register(staged(level, ran, pause=2), on_complete=lambda result: ended.append(result.status))
    result = await rt.wait(run_id)
    if level == "exit":
        assert (result.status, ran) == ("completed", ["s0", "s1", "s2", "s3", "s4", "s2", "s3", "s4"])
    else:
        assert (result.status, result.error.code, ended) == ("failed", "RUN_LOST", ["failed"])
        assert ran == ["s0", "s1", "s2", "s3", "s4"]
        assert sorted(result.state) == ["s0", "s1"]


async def test_a_lost_run_gives_its_slot_back(stores):
    """A lost run ends like others: the next one in the queue begins."""
    from poundlock import Serialized

    ran, busy = [], Busy("s1")
    rt = await stores.enter(staged("none", ran, hold=busy, mode=Serialized()))
    first, second = await begin(rt), await begin(rt)
    await busy.inside.wait()
    await stores.crash(rt)
    rt = await stores.enter(staged("none", ran, mode=Serialized()))
    assert (await rt.wait(first)).status == "failed"
    assert (await rt.wait(second)).status == "completed"


async def test_a_message_to_a_lost_run(stores):
    """A signal at the moment its end is written does not revive it."""
    ran, busy = [], Busy("s1")
    rt = await stores.enter(staged("none", ran, hold=busy))
    run_id = await begin(rt)
    await busy.inside.wait()
    await stores.crash(rt)
    store = stores.store()
    store.hold = rests
    rt = await stores.enter(staged("none", ran), store=store)
    [end] = await store.until_held()
    await rt.signal(run_id, {"n": 1})
    store.hold = None
    end.release()
    result = await rt.wait(run_id)
    assert (result.status, result.error.code, ran) == ("failed", "RUN_LOST", ["s0", "s1"])


# --------------------------------------------------------------------------------------------------------- "step"
@pytest.mark.parametrize("finished", [0, 1, 3])
async def test_finished_steps_do_not_run_again(stores, finished):
    """After a crash only the steps of a stage run again that had not finished."""
    ran, block = [], [True]

    def step(number):
        async def act(ctx: StepContext):
            ran.append(number)
            if number >= finished and block[0]:
                await asyncio.Event().wait()
            return {f"r{number}": number, "keys": {str(number): ctx.idempotency_key}}

        return Step(f"r{number}", act)

    def made():
        stage = Stage("all", [step(number) for number in range(4)])
        return Workflow("w", triggers={"t": Trigger("begin")}, pipelines=[Pipeline("main", [stage])], durability="step")

    stores.clock.autojump = False
    rt = await stores.enter(made())
    run_id = await begin(rt)
    await run_until_idle(stores.clock)
    await stores.crash(rt)
    block[0] = False
    rt = await stores.enter(made())
    result = await rt.wait(run_id)
    assert result.status == "completed"
    assert Counter(ran) == {number: 1 + (number >= finished) for number in range(4)}
    assert [result.state[f"r{number}"] for number in range(4)] == [0, 1, 2, 3]


class Total(BaseModel):
    items: list[int] = []
    total: int = 0
    out: list[int] = []


@pytest.mark.parametrize("what", ["model", "other model", "none", "jump", "terminate", "router"])
async def test_results_of_all_kinds_are_kept(stores, what):
    """A model, nothing, an instruction: what a finished step returned counts after the crash as before it."""
    ran, block = [], [True]

    class Part(BaseModel):
        total: int = 5

    async def first(state: Total):
        ran.append("first")
        if what == "model":
            return state.model_copy(update={"total": 5})
        return {
            "other model": Part(),
            "jump": Jump("end", patch={"total": 5}),
            "terminate": Terminate({"a": 1}),
            "router": {"total": 5},
        }.get(what)

    async def second():
        ran.append("second")
        if block[0] and what != "router":
            await asyncio.Event().wait()

    async def router(results):
        ran.append("router")
        if block[0]:
            await asyncio.Event().wait()
        return Jump("end", patch={"total": results["first"]["total"] + 1})

    def made():
        steps = [Step("first", first)] if what == "router" else [Step("first", first), Step("second", second)]
        stage = Stage("all", steps, router=router if what == "router" else None)
        stages = [
            stage,
            Stage("skipped", [Step("x", lambda: ran.append("skipped"))]),
            Stage("end", [Step("e", lambda: None)]),
        ]
        triggers, pipelines = {"t": Trigger("begin")}, [Pipeline("main", stages)]
        return Workflow("w", triggers=triggers, pipelines=pipelines, durability="step", state=Total)

    stores.clock.autojump = False
    rt = await stores.enter(made())
    run_id = await begin(rt)
    await run_until_idle(stores.clock)
    await stores.crash(rt)
    block[0] = False
    rt = await stores.enter(made())
    result = await rt.wait(run_id)
    assert result.status == "completed"
    assert ran.count("first") == 1
    assert result.state.total == {"none": 0, "terminate": 0, "router": 6}.get(what, 5)
    assert ("skipped" in ran) is (what in ("model", "other model", "none"))
    assert result.result == ({"a": 1} if what == "terminate" else None)


@pytest.mark.parametrize("limit", [1, 7])
async def test_finished_elements_do_not_run_again(stores, limit):
    """After a crash only the elements run again that had not finished; a mapping by its keys."""
    for items in (list(range(30)), {f"k{number}": number for number in range(30)}):
        ran, block = [], [True]

        async def act(item, ran=ran, block=block):
            ran.append(item)
            if item == 20 and block[0]:
                await asyncio.Event().wait()
            return None if item == 3 else item * 2

        def made(act=act):
            stage = Stage("all", [Step("each", act, each="items", into="out", limit=limit)])
            return Workflow(
                "w", triggers={"t": Trigger("begin")}, pipelines=[Pipeline("main", [stage])], durability="step"
            )

        stores.clock.autojump = False
        rt = await stores.enter(made())
        run_id = await begin(rt, items=items)
        await run_until_idle(stores.clock)
        await stores.crash(rt)
        block[0] = False
        rt = await stores.enter(made())
        result = await rt.wait(run_id)
        values = [None if number == 3 else number * 2 for number in range(30)]
        assert result.state["out"] == (values if isinstance(items, list) else dict(zip(items, values, strict=True)))
        assert Counter(ran) == {number: 1 + (number == 20) for number in range(30)}
        await rt.stop()


async def test_attempts_of_elements_count_on(stores):
    """At "step", the attempts of elements survive a crash in a short delay too."""
    ran = []

    async def act(item, ctx: StepContext):
        ran.append((item, ctx.attempt))
        raise OSError("no")

    def made():
        step = Step("each", act, each="items", limit=2, retry=Retry(3, backoff=10, factor=1))
        pipelines = [Pipeline("main", [Stage("all", [step])])]
        return Workflow("w", triggers={"t": Trigger("begin")}, pipelines=pipelines, durability="step")

    stores.clock.autojump = False
    rt = await stores.enter(made())
    run_id = await begin(rt, items=[1])
    await stores.clock.run_for(15)
    await stores.crash(rt)
    rt = await stores.enter(made())
    await stores.clock.run_for(60)
    assert (await rt.wait(run_id)).status == "failed"
    assert ran == [(1, 1), (1, 2), (1, 3)]


async def test_many_elements_share_commits(stores):
    """Ten thousand elements: those that finish together share a commit, and each is written once."""

    async def act(item):
        await asyncio.sleep(0)  # noqa: TID251 - others finish in the same turn of the loop
        return item

    stage = Stage("all", [Step("each", act, each="items", into="out", limit=500)])
    wf = Workflow("w", triggers={"t": Trigger("begin")}, pipelines=[Pipeline("main", [stage])], durability="step")
    rt = await stores.enter(wf)
    run_id = await begin(rt, items=list(range(10_000)))
    result = await rt.wait(run_id)
    assert result.state["out"] == list(range(10_000))
    assert rt.store.commits < 200
    written = sum(len(move.log.text) for changes in rt.store.written for move in changes.moves if move.log is not None)
    assert written < 10_000 * 150


async def test_services_of_a_stage_and_results_of_steps():
    """A result would be durable before a service of the stage commits: that is a fault of the definition."""
    wf = Workflow("w", durability="step", services=[Service("tx", object, scope="stage")])
    wf.step(lambda: None, id="s")
    with pytest.raises(InvalidDefinition) as raised:
        wf.definition  # noqa: B018 - builds it
    assert [path for path, _ in raised.value.faults] == ["durability"]


@pytest.mark.parametrize("level", ["often", None, 1, ["stage"]], ids=str)
async def test_other_durabilities(level):
    """Any other value is a fault, which names those there are."""
    wf = Workflow("w", durability=level)
    wf.step(lambda: None, id="s")
    with pytest.raises(InvalidDefinition, match="use stage, step, async, exit, none"):
        wf.definition  # noqa: B018 - builds it


# --------------------------------------------------------------------------------------------------------- "async"
def moves_on(changes):
    """Whether it is a boundary of a run that goes on."""
    return any(move.status == "running" for move in changes.moves)


async def test_it_does_not_wait(stores):
    """Stages go on while the first boundary is in flight, up to a limit; the end waits for all of them, in order."""
    ran = []
    rt = await stores.enter(staged("async", ran, stages=MOST_BEHIND + 5))
    rt.store.hold = moves_on
    run_id = await begin(rt)
    [first] = await rt.store.until_held()
    await run_until_idle(stores.clock)
    assert len(ran) == MOST_BEHIND
    assert (await rt.get_run(run_id)).status == "running"
    rt.store.hold = None
    first.release()
    result = await rt.wait(run_id)
    assert (result.status, len(ran)) == ("completed", MOST_BEHIND + 5)
    versions = [move.version for changes in rt.store.written for move in changes.moves]
    assert versions == sorted(versions)
    assert len(set(versions)) == len(versions)


async def test_a_fault_that_passes(stores):
    """A commit that the store cannot take at the moment is repeated, in order."""
    faults = [StoreUnavailable("busy"), StoreUnavailable("busy")]
    rt = await stores.enter(staged("async"))
    rt.store.failing = lambda _, changes: faults.pop() if moves_on(changes) and faults else None
    run_id = await begin(rt)
    assert (await rt.wait(run_id)).status == "completed"
    assert faults == []


async def test_the_lease_was_lost(stores):
    """A refused commit ends the drive; looked up, the run goes on from what is durable."""
    ran, errors = [], [LeaseLost("driven elsewhere")]
    rt = await stores.enter(staged("async", ran))
    rt.store.failing = lambda _, changes: errors.pop() if moves_on(changes) and errors else None
    run_id = await begin(rt)
    result = await rt.wait(run_id)
    assert (result.status, len(result.state), errors) == ("completed", 5, [])


async def test_a_lasting_fault(stores):
    """Any other error of a commit strands the run: callers get it, and `abort` ends the run."""
    rt = await stores.enter(staged("async"))
    rt.store.failing = lambda _, changes: RuntimeError("a bug") if moves_on(changes) else None
    run_id = await begin(rt)
    with pytest.raises(RuntimeError):
        await rt.wait(run_id)
    await rt.abort(run_id)
    assert (await rt.get_run(run_id)).status == "aborted"


async def test_a_stop_while_boundaries_are_in_flight(stores):
    """A stop in the middle of a step writes the boundaries before it."""
    ran, busy = [], Busy("s3")
    stores.clock.autojump = False
    rt = await stores.enter(staged("async", ran, hold=busy))
    rt.store.hold = moves_on
    run_id = await begin(rt)
    [first] = await rt.store.until_held()
    await busy.inside.wait()
    stopping = asyncio.create_task(rt.stop(drain=0))
    await run_until_idle(stores.clock)
    rt.store.hold = None
    first.release()
    await stopping
    rt = await stores.enter(staged("async", ran))
    assert (await rt.wait(run_id)).status == "completed"
    assert ran == ["s0", "s1", "s2", "s3", "s3", "s4"]


async def test_retries_and_elements_behind(stores):
    """What is kept in the middle of a stage comes behind the boundaries before it."""
    ran = []

    async def act(ctx: StepContext):
        ran.append(ctx.attempt)
        if ctx.attempt < 3:
            raise OSError("no")

    wf = staged("async")
    last = Stage("last", [Step("last", act, retry=Retry(3, backoff=10))])
    wf._pipelines[0] = Pipeline("main", [*wf._pipelines[0].stages, last])
    rt = await stores.enter(wf)
    assert (await rt.wait(await begin(rt))).status == "completed"
    assert ran == [1, 2, 3]


# ---------------------------------------------------------------------------------------------------- "exit" and "none"
@pytest.mark.parametrize("level", ["exit", "none"])
async def test_waits_are_armed_in_memory(stores, level):
    """A wait that a step registered before a stage is there when the run pauses at it."""
    from typing import Annotated

    from poundlock import Use

    async def registers(pauses: Annotated[object, Use("__pause_service__")]):
        await pauses.register(Wait("go", id="gate"))

    stages = [
        Stage("a", [Step("a", registers)]),
        Stage("b", [Step("b", lambda: None)], router=lambda: Pause(Wait("go", id="gate"))),
        Stage("c", [Step("c", lambda: {"c": 1})]),
    ]
    wf = Workflow("w", triggers={"t": Trigger("begin")}, pipelines=[Pipeline("main", stages)], durability=level)
    rt = await stores.enter(wf)
    run_id = await begin(rt)
    assert (await rt.wait(run_id, until="rest")).status == "paused"
    await rt.emit("go")
    assert (await rt.wait(run_id)).status == "completed"


@pytest.mark.parametrize("level", ["exit", "none"])
async def test_a_message_to_a_run_that_is_not_stored(stores, level):
    """Such a message stores the run as it is at its boundary; the rest is not written before it rests."""
    busy = Busy("s2")
    rt = await stores.enter(staged(level, hold=busy))
    running = asyncio.create_task(rt.run("w"))
    await busy.inside.wait()
    [info] = rt.list_all_runs()
    await rt.signal(info.run_id, {"n": 1})
    busy.free.set()
    result = await running
    assert (result.status, len(result.state)) == ("completed", 6)


@pytest.mark.parametrize(("level", "status"), [("exit", "delayed"), ("none", "running"), ("async", "delayed")])
async def test_long_retries(stores, level, status):
    """A park is a rest, so "exit" writes it; with "none" the step waits in memory."""
    stores.clock.autojump = False

    async def act(ctx: StepContext):
        if ctx.attempt == 1:
            raise OSError("no")

    step = Step("s", act, retry=Retry(2, backoff="1h", max="1h"))
    pipelines = [Pipeline("main", [Stage("s", [step])])]
    rt = await stores.enter(Workflow("w", triggers={"t": Trigger("begin")}, pipelines=pipelines, durability=level))
    run_id = await begin(rt)
    await run_until_idle(stores.clock)
    assert (await rt.get_run(run_id)).status == status
    await stores.clock.run_for(hours=2)
    assert (await rt.wait(run_id)).status == "completed"


@pytest.mark.parametrize("level", LEVELS)
async def test_a_delay_survives(stores, level):
    """A `Delay` is a rest, whatever the durability."""
    ran = []
    wf = lambda: staged(level, ran)  # noqa: E731 - as often as it is entered

    def delayed():
        made = wf()
        first, *others = made._pipelines[0].stages
        made._pipelines[0] = Pipeline("main", [first, Stage("later", router=Delay("1h")), *others])
        return made

    stores.clock.autojump = False
    rt = await stores.enter(delayed())
    run_id = await begin(rt)
    await run_until_idle(stores.clock)
    await stores.crash(rt)
    rt = await stores.enter(delayed())
    await stores.clock.run_for(hours=2)
    assert (await rt.wait(run_id)).status == "completed"
    assert ran == ["s0", "s1", "s2", "s3", "s4"]


@pytest.mark.parametrize("level", ["exit", "none", "async"])
async def test_a_loop(stores, level):
    """A loop of many rounds that nothing awaits ends, and its visits are limited as always."""

    async def act(n: int = 0):
        return {"n": n + 1}

    stage = Stage("a", [Step("a", act)], router=lambda state: Jump("a") if state["n"] < 300 else None)
    wf = Workflow("w", triggers={"t": Trigger("begin")}, pipelines=[Pipeline("main", [stage])], durability=level)
    rt = await stores.enter(wf)
    assert (await rt.wait(await begin(rt))).state["n"] == 300
    limited = Workflow("v", triggers={"t": Trigger("end")}, pipelines=[Pipeline("main", [stage])], durability=level)
    limited.visit_limit = 10
    await rt.register(limited)
    [run_id] = (await rt.emit("end")).run_ids
    assert (await rt.wait(run_id)).error.code == "VISIT_LIMIT"


@pytest.mark.parametrize("failing", [False, True])
async def test_a_kill_behind_a_stage_with_children(stores, failing):
    """With "none" no step runs twice, also behind children that have ended or failed: the run is lost there."""
    ran, begun = [], asyncio.Event()
    wf = Workflow("w", durability="none")
    wf.on("begin")
    line = wf.pipeline("line")

    @line.step
    async def child():
        ran.append("child")
        if failing:
            raise ValueError("no")

    wf.fork(line, into="results", on_failure="after" if failing else None)

    @wf.step
    async def after():
        ran.append("after")
        begun.set()
        await asyncio.get_running_loop().create_future()

    rt = await stores.enter(wf)
    run_id = await begin(rt)
    await begun.wait()
    await stores.crash(rt)
    rt = await stores.enter(wf)
    result = await rt.wait(run_id)
    assert (result.error.code, ran) == ("RUN_LOST", ["child", "after"])


@pytest.mark.parametrize("kind", ["memory", "fsynced", "committed"])
async def test_a_result_says_what_a_commit_survives(tmp_path, kind):
    """`metadata["durability"]` is that of the store: memory, a file that is synced, or one that is not each time."""
    synchronous = {"fsynced": "FULL", "committed": "OFF"}
    store = SqliteStore(tmp_path / "runs.db", synchronous=synchronous[kind]) if kind in synchronous else None
    async with WorkflowRuntime(staged("stage"), store=store) as rt:
        result = await rt.run("w")
        assert result.metadata["durability"] == kind
        assert (await rt.wait(result.run_id)).metadata["durability"] == kind
