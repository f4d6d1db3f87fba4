"""The timeout of a run: its deadline holds wherever the run is, across crashes, and `on_timeout` decides."""

from __future__ import annotations

import asyncio
import threading
from typing import Annotated

import pytest
from pydantic import BaseModel
from support import LAST_RESORT, Stores

from poundlock import (
    Delay,
    Event,
    Failure,
    InvalidDefinition,
    Pause,
    Pipeline,
    Retry,
    RunStatus,
    Serialized,
    Service,
    Stage,
    Step,
    StepContext,
    StoreUnavailable,
    Terminate,
    Trigger,
    Use,
    Wait,
    Workflow,
)
from poundlock.testing import run_until_idle

PAUSED, DELAYED, QUEUED = RunStatus.PAUSED, RunStatus.DELAYED, RunStatus.QUEUED


def counts(timeline, kind):
    return timeline.types().count(kind)


class Work:
    """A workflow with a limit whose first stage is given; behind it comes `after`, and beside it stands `late`."""

    def __init__(self, *, timeout="1m", router=None, first=None, **options):
        self.ran = []
        self.contexts = []
        self.reached = asyncio.Event()
        self.options = {"timeout": timeout, **options}
        self.router = router
        self.first = first or self.quick

    async def quick(self):
        self.ran.append("first")
        return {"first": True}

    async def hang(self):
        self.ran.append("first")
        self.reached.set()
        await asyncio.Event().wait()

    def workflow(self):
        async def after():
            self.ran.append("after")

        async def late(ctx: StepContext, failure: Failure = None):
            self.ran.append("late")
            self.contexts.append((ctx.deadline, failure))
            return {"late": True}

        stages = [
            Stage("first", [Step("first", self.first)], router=self.router),
            Stage("after", [Step("after", after)]),
            Stage("late", [Step("late", late)], aside=True),
        ]
        return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)], **self.options)


async def begin(rt):
    [line] = (await rt.emit("begin")).lines
    return line.run_id


ENDS = [
    ("fail", "failed", "RUN_TIMEOUT", []),
    ("abort", "aborted", "RUN_ABORTED", []),
    ("late", "completed", None, ["late"]),
]
each_end = pytest.mark.parametrize(("on_timeout", "status", "code", "more"), ENDS, ids=[end[0] for end in ENDS])


# ------------------------------------------------------------------------------------------------ where it holds
@each_end
async def test_it_interrupts_a_running_step(stores, on_timeout, status, code, more):
    """An async step is cancelled at the deadline and not before, and `on_timeout` decides; nothing of it counts."""
    work = Work(on_timeout=on_timeout)
    work.first = work.hang
    stores.clock.autojump = False
    rt = await stores.enter(work.workflow())
    run_id = await begin(rt)
    await work.reached.wait()
    await stores.clock.run_for(59.9)
    assert (await rt.get_run(run_id)).status == "running"
    await stores.clock.run_for(0.2)
    result = await rt.wait(run_id)
    assert (result.status, result.error and result.error.code) == (status, code)
    assert work.ran == ["first", *more]
    assert "first" not in result.state
    assert counts(await rt.timeline(run_id), "pipeline:timeout") == 1


@each_end
async def test_a_paused_run_wakes_at_it(stores, on_timeout, status, code, more):
    """A pause counts: the run wakes at its deadline, though its wait has more time."""
    work = Work(on_timeout=on_timeout, router=Pause(Wait("go", timeout="1h", id="w")))
    rt = await stores.enter(work.workflow(), pause_window=0)
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    created = (await rt.get_run(run_id)).created_at
    info = await rt.get_run(run_id)
    assert (info.status, info.wake_at, [wait.id for wait in info.waits]) == (PAUSED, created + 60, ["w"])
    assert info.waits[0].expires_at == pytest.approx(created + 3600)
    result = await rt.wait(run_id)
    assert (result.status, result.error and result.error.code) == (status, code)
    assert stores.clock.now() == pytest.approx(created + 60)
    assert work.ran == ["first", *more]
    assert counts(await rt.timeline(run_id), "wait:expired") == 0


async def test_a_wait_that_expires_before_it_decides_itself(stores):
    """The run wakes at what comes first."""
    work = Work(on_timeout="abort", router=Pause(Wait("go", timeout="10s", on_timeout="resume", id="w")))
    rt = await stores.enter(work.workflow())
    result = await rt.wait(await begin(rt))
    assert (result.status, work.ran) == ("completed", ["first", "after"])


@each_end
async def test_a_delayed_run_wakes_at_it(stores, on_timeout, status, code, more):
    """A delay counts too, and its end is not waited for."""
    work = Work(on_timeout=on_timeout, router=Delay("1h"))
    rt = await stores.enter(work.workflow())
    start = stores.clock.now()
    result = await rt.wait(await begin(rt))
    assert (result.status, result.error and result.error.code) == (status, code)
    assert stores.clock.now() == pytest.approx(start + 60)
    assert work.ran == ["first", *more]


@pytest.mark.parametrize("again", [False, True], ids=["same-process", "restarted"])
@pytest.mark.parametrize(("on_timeout", "status", "code"), [end[:3] for end in ENDS[:2]], ids=["fail", "abort"])
async def test_a_queued_run_ends_at_it(stores, again, on_timeout, status, code):
    """A run that waits for its turn ends at its deadline, also after a restart, with its hooks."""
    ended = []
    work = Work(on_timeout=on_timeout, timeout_counts="active", router=Pause(Wait("go", id="w")))

    async def enter():
        rt = await stores.enter()
        await rt.register(work.workflow(), Serialized(), on_complete=lambda result: ended.append(result.run_id))
        return rt

    stores.clock.autojump = False
    rt = await enter()
    one = await begin(rt)
    await rt.wait(one, until="rest")  # it holds the slot, and its own time stands still
    await stores.clock.run_for(20)
    two = await begin(rt)
    await stores.clock.run_for(20)
    three = await begin(rt)
    assert [(await rt.get_run(run_id)).status for run_id in (two, three)] == [QUEUED, QUEUED]
    if again:
        await stores.crash(rt)
        rt = await enter()
    await stores.clock.run_for(39.9)
    assert (await rt.get_run(two)).status is QUEUED
    await stores.clock.run_for(0.2)
    result = await rt.wait(two)
    assert (result.status, result.error.code, ended, work.ran) == (status, code, [two], ["first"])
    await rt.emit("go")
    assert (await rt.wait(one)).status == "completed"
    assert (await rt.wait(three)).status == "completed"  # it had buffered the event


async def test_a_queued_run_goes_to_its_stage_when_its_turn_comes(stores):
    """Where the deadline leads to a stage, the mode still says how many runs are active."""
    work = Work(on_timeout="late", timeout_counts="active", router=Pause(Wait("go", id="w")))
    work.options["mode"] = Serialized()
    stores.clock.autojump = False
    rt = await stores.enter(work.workflow())
    one = await begin(rt)
    await rt.wait(one, until="rest")
    two = await begin(rt)
    await stores.clock.run_for(61)
    assert (await rt.get_run(two)).status is QUEUED
    await rt.emit("go")
    result = await rt.wait(two)
    assert (result.status, work.ran) == ("completed", ["first", "after", "late"])


async def test_a_promoted_run_is_noted_no_longer(stores, gate):
    """What is kept about queued runs goes with them."""
    work = Work(first=gate)
    work.options["mode"] = Serialized()
    rt = await stores.enter(work.workflow())
    stores.clock.autojump = False
    one, two = await begin(rt), await begin(rt)
    three = await begin(rt)
    assert len(rt._core.queued) == 2
    await rt.abort(three)
    assert list(rt._core.queued) == [two]
    gate.open()
    assert (await rt.wait(one)).status == (await rt.wait(two)).status == "completed"
    assert rt._core.queued == {}


async def test_it_interrupts_a_router(stores):
    """Routers are part of a stage too."""

    async def router():
        await asyncio.Event().wait()

    rt = await stores.enter(Work(router=router).workflow())
    result = await rt.wait(await begin(rt))
    assert (result.error.code, dict(result.state)) == ("RUN_TIMEOUT", {})


async def test_it_interrupts_on_prepare(stores):
    """A hook that hangs before the first stage does not hold a run either."""

    async def on_prepare(ctx):
        await asyncio.Event().wait()

    work = Work(on_timeout="late")
    rt = await stores.enter()
    await rt.register(work.workflow(), on_prepare=on_prepare)
    assert (await rt.wait(await begin(rt))).status == "completed"
    assert work.ran == ["late"]


async def test_a_step_that_ignores_its_cancellation_is_left_behind(stores, gate):
    """The run goes on after the grace period: nobody else would end such a step."""

    async def stubborn():
        while not gate._open.is_set():
            try:
                await gate()
            except asyncio.CancelledError:
                continue

    rt = await stores.enter(Work(first=stubborn).workflow(), abort_grace=5)
    start = stores.clock.now()
    result = await rt.wait(await begin(rt))
    assert (result.error.code, stores.clock.now()) == ("RUN_TIMEOUT", pytest.approx(start + 65))
    gate.open()


async def test_a_step_in_a_thread_is_abandoned(stores):
    """As at its own timeout; it can see that."""
    seen, let_go, over = [], threading.Event(), threading.Event()

    def first(ctx):
        stores.clock.busy(-1)  # the thread waits for the test, not for the clock
        let_go.wait(LAST_RESORT)
        stores.clock.busy(1)
        seen.append(ctx.cancelled)
        over.set()

    rt = await stores.enter(Work(first=first).workflow())
    result = await rt.wait(await begin(rt))
    let_go.set()
    assert result.error.code == "RUN_TIMEOUT"
    await asyncio.to_thread(over.wait, LAST_RESORT)
    assert seen == [True]


async def test_a_retry_does_not_outlive_it(stores):
    """Neither the wait for the next attempt."""
    calls = []

    async def first():
        calls.append(1)
        raise ValueError("again")

    wf = Workflow(
        "w",
        triggers={"begin": Trigger("begin")},
        pipelines=[Pipeline("main", [Stage("s", [Step("s", first, retry=Retry(50, backoff="25s", factor=1.0))])])],
        timeout="1m",
    )
    rt = await stores.enter(wf)
    result = await rt.wait(await begin(rt))
    assert (result.error.code, len(calls)) == ("RUN_TIMEOUT", 3)


# ------------------------------------------------------------------------------------------------ across crashes
async def test_it_survives_a_crash(stores):
    """A run that is taken over after its deadline ends at once; one before it has the rest of its time."""
    for gone, left in ((40, 20), (90, 0)):
        work = Work()
        work.first = work.hang
        rt = await stores.enter(work.workflow())
        stores.clock.autojump = False
        start = stores.clock.now()
        run_id = await begin(rt)
        await work.reached.wait()
        await stores.crash(rt)
        stores.clock.advance(gone)
        work.ran.clear()
        rt = await stores.enter(work.workflow())
        await stores.clock.run_for(left)
        result = await rt.wait(run_id)
        assert (result.error.code, work.ran) == ("RUN_TIMEOUT", ["first"] if left else [])
        assert stores.clock.now() == pytest.approx(start + gone + left)
        await rt.stop(drain=0)


@each_end
async def test_a_paused_run_meets_it_after_a_restart(stores, on_timeout, status, code, more):
    """Its deadline may pass while no process runs."""
    work = Work(on_timeout=on_timeout, router=Pause(Wait("go", id="w")))
    rt = await stores.enter(work.workflow())
    stores.clock.autojump = False
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    await stores.crash(rt)
    stores.clock.advance(100)
    stores.clock.autojump = True
    rt = await stores.enter(work.workflow())
    result = await rt.wait(run_id)
    assert (result.status, result.error and result.error.code) == (status, code)
    assert work.ran == ["first", *more]


async def test_the_stage_is_entered_once_across_a_crash(stores):
    """That the deadline led to a stage is durable before the stage begins."""
    work = Work(on_timeout="late")
    work.first = work.hang
    store = stores.store()
    rt = await stores.enter(work.workflow(), store=store)
    stores.clock.autojump = False
    run_id = await begin(rt)
    await work.reached.wait()
    store.hold = lambda changes: any(move.status == "completed" for move in changes.moves)
    stores.clock.advance(60)
    await store.until_held()
    await stores.crash(rt)
    rt = await stores.enter(work.workflow())
    assert (await rt.wait(run_id)).status == "completed"
    assert work.ran == ["first", "late", "late"]  # the stage again, as after any crash: not the deadline
    assert counts(await rt.timeline(run_id), "pipeline:timeout") == 1


# ------------------------------------------------------------------------------------------------ what it leads to
async def test_it_is_used_up_by_its_stage(stores):
    """The stage is entered once; from then on the run has no deadline, and takes as long as it wants."""
    waited = []

    async def late(ctx: StepContext):
        waited.append(ctx.deadline)
        await ctx.sleep("1d")

    work = Work(on_timeout="late")
    work.first = work.hang
    stages = [
        Stage("first", [Step("first", work.first)]),
        Stage("late", [Step("late", late)], router=Pause(Wait("go", id="w", timeout="2d", on_timeout="resume"))),
        Stage("end", [Step("end", work.quick)]),
    ]
    wf = Workflow(
        "w",
        triggers={"begin": Trigger("begin")},
        pipelines=[Pipeline("main", stages)],
        timeout="1m",
        on_timeout="late",
    )
    rt = await stores.enter(wf)
    start = stores.clock.now()
    assert (await rt.wait(await begin(rt))).status == "completed"
    assert (waited, stores.clock.now()) == ([None], pytest.approx(start + 60 + 3 * 86400))


@pytest.mark.parametrize("way", ["pause", "late"])
async def test_no_on_failure_covers_it(stores, way):
    """The deadline is no failure of a stage."""
    work = Work(on_failure=way)
    work.first = work.hang
    rt = await stores.enter(work.workflow())
    result = await rt.wait(await begin(rt))
    assert (result.status, result.error.code, work.ran) == ("failed", "RUN_TIMEOUT", ["first"])


@each_end
async def test_it_goes_on_while_a_failure_is_waited_for(stores, on_timeout, status, code, more):
    """Also at `__failure__` the deadline holds, and `on_timeout` decides; the failure is over then."""

    async def first():
        raise ValueError("broken")

    work = Work(on_timeout=on_timeout, on_failure="pause", first=first)
    rt = await stores.enter(work.workflow())
    start = stores.clock.now()
    run_id = await begin(rt)
    assert (await rt.wait(run_id, until="rest")).waits[0].id == "__failure__"
    result = await rt.wait(run_id)
    assert (result.status, result.error and result.error.code, work.ran) == (status, code, more)
    assert stores.clock.now() == pytest.approx(start + 60)
    assert [failure for _, failure in work.contexts] == [None] * len(more)


async def test_stages_are_undone_when_it_fails_the_run(stores):
    """Undo has no deadline: it has to come to its end."""
    undone = []

    async def undo(ctx: StepContext):
        undone.append(ctx.deadline)
        await ctx.sleep("10m")
        undone.append("done")

    work = Work()
    stages = [
        Stage("first", [Step("first", work.quick, undo=undo)]),
        Stage("second", [Step("second", work.hang)]),
    ]
    wf = Workflow(
        "w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)], timeout="1m", on_timeout="fail"
    )
    rt = await stores.enter(wf)
    result = await rt.wait(await begin(rt))
    assert (result.status, result.error.code, undone) == ("failed", "RUN_TIMEOUT", [None, "done"])


async def test_an_abort_beats_it(stores):
    """A run whose abort was requested before its deadline is aborted by that request."""
    work = Work(on_timeout="late")
    work.first = work.hang
    rt = await stores.enter(work.workflow())
    stores.clock.autojump = False
    run_id = await begin(rt)
    await work.reached.wait()
    store = rt.store
    store.hold = lambda changes: bool(changes.posts)
    aborting = asyncio.create_task(rt.abort(run_id, "enough"))
    [held] = await store.until_held()
    held.release()
    stores.clock.advance(60)
    await aborting
    result = await rt.wait(run_id)
    assert (result.status, str(result.error)) == ("aborted", "RunAborted: aborted by api: enough")


async def test_messages_at_the_last_moment_do_not_save_it(stores):
    """A signal that comes just before the end is taken in, and the run still ends by its deadline."""
    work = Work()
    work.first = work.hang
    store = stores.store()
    rt = await stores.enter(work.workflow(), store=store)
    stores.clock.autojump = False
    run_id = await begin(rt)
    await work.reached.wait()
    store.hold = lambda changes: any(move.status == "failed" for move in changes.moves)
    stores.clock.advance(60)
    [held] = await store.until_held()
    store.hold = None
    await rt.signal(run_id, {"more": 1})
    held.release()
    result = await rt.wait(run_id)
    assert (result.error.code, dict(result.state)) == ("RUN_TIMEOUT", {"more": 1})
    assert counts(await rt.timeline(run_id), "pipeline:timeout") == 1


async def test_an_unfit_state_stays_paused(stores):
    """A bad deployment does not end a run: its deadline is seen to once the state fits again."""

    def workflow(model):
        work = Work(router=Pause(Wait("go", id="w")))
        work.options["state"] = model
        return work.workflow()

    class Fine(BaseModel):
        first: bool = False

    class Broken(BaseModel):
        first: dict

    rt = await stores.enter(workflow(Fine))
    stores.clock.autojump = False
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    await rt.stop()
    stores.clock.advance(100)
    stores.clock.autojump = True
    rt = await stores.enter(workflow(Broken))
    await run_until_idle()
    info = await rt.get_run(run_id)
    assert (info.status, info.error.code, info.wake_at) == (PAUSED, "STATE_INVALID", None)
    await rt.stop()
    rt = await stores.enter(workflow(Fine))
    assert (await rt.wait(run_id)).error.code == "RUN_TIMEOUT"


async def test_a_changed_definition_comes_first(stores):
    """A run that its workflow pins to its definition waits for that; a migrated state is what its stage is given."""

    def workflow(*more, **options):
        work = Work(on_timeout="late", router=Pause(Wait("go", id="w")), **options)
        wf = work.workflow()
        if more:

            @wf.pipeline("other").step
            async def other(): ...

        return wf

    rt = await stores.enter(workflow(on_change="pinned"))
    stores.clock.autojump = False
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    await rt.stop()
    stores.clock.advance(100)
    rt = await stores.enter(workflow("changed", on_change="pinned"))
    await run_until_idle(stores)
    info = await rt.get_run(run_id)
    assert (info.status, info.error.code, info.wake_at) == (PAUSED, "DEFINITION_CHANGED", None)
    await rt.stop()
    stores.clock.autojump = True
    rt = await stores.enter(workflow("changed", migrate=lambda state, before: {**state, "migrated": True}))
    result = await rt.wait(run_id)
    assert (result.status, dict(result.state)) == ("completed", {"first": True, "late": True, "migrated": True})


async def test_a_longer_timeout_counts_for_runs_that_wait(stores):
    """The definition says how long; a run that wakes too early for it pauses again, or is delayed for the rest."""
    for router in (Pause(Wait("go", id="w", timeout="1h", on_timeout="resume")), Delay("1h")):
        work = Work(router=router)
        rt = await stores.enter(work.workflow())
        stores.clock.autojump = False
        start = stores.clock.now()
        run_id = await begin(rt)
        while (await rt.get_run(run_id)).status not in (PAUSED, DELAYED):
            await run_until_idle()
        await rt.stop()
        work.options["timeout"] = "2h"
        stores.clock.autojump = True
        rt = await stores.enter(work.workflow())
        assert (await rt.wait(run_id)).status == "completed"
        assert (work.ran, stores.clock.now()) == (["first", "after"], pytest.approx(start + 3600))
        await rt.stop()


@each_end
@pytest.mark.parametrize("paused", [False, True], ids=["working", "paused"])
async def test_its_children_end_with_the_stage_that_waits_for_them(stores, paused, on_timeout, status, code, more):
    """A run that waits for its children meets its deadline too; they are aborted, and none is left behind."""
    ran = []
    wf = Workflow("w", timeout="1m", on_timeout=on_timeout)
    wf.on("begin")

    @wf.step
    async def first():
        ran.append("first")

    child = wf.pipeline("child")
    if paused:
        child.wait("answer", on="answered")

    @child.step
    async def slow(ctx: StepContext):
        await ctx.sleep("1h")

    wf.fork("child", into="got")

    @wf.aside
    async def late():
        ran.append("late")

    rt = await stores.enter(wf, pause_window=0)
    start = stores.clock.now()
    run_id = await begin(rt)
    result = await rt.wait(run_id)
    assert (result.status, result.error and result.error.code, ran) == (status, code, ["first", *more])
    assert stores.clock.now() == pytest.approx(start + 60, abs=1)
    [of_child] = [run for run in (await rt.find_runs()).items if run.run_id != run_id]
    assert of_child.status.terminal


# ------------------------------------------------------------------------------------------------ what counts
async def test_active_time_leaves_out_pauses_and_delays(stores):
    """With `timeout_counts="active"` a run may be paused and delayed for as long as it takes, also across restarts."""
    ran = []

    async def slow(ctx: StepContext):
        ran.append(ctx.deadline - ctx.now())
        await ctx.sleep(25)

    stages = [
        Stage("one", [Step("one", slow)], router=Pause(Wait("go", id="w"))),
        Stage("two", [Step("two", slow)], router=Delay("1d")),
        Stage("three", [Step("three", slow)]),
    ]

    def workflow():
        return Workflow(
            "w",
            triggers={"begin": Trigger("begin")},
            pipelines=[Pipeline("main", stages)],
            timeout="1m",
            timeout_counts="active",
        )

    rt = await stores.enter(workflow(), pause_window=0)
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    assert (await rt.get_run(run_id)).wake_at is None
    await rt.stop()
    stores.clock.advance(days=3)
    rt = await stores.enter(workflow())
    await rt.emit("go")
    result = await rt.wait(run_id)
    assert (result.status, result.error.code) == ("failed", "RUN_TIMEOUT")
    assert ran == [pytest.approx(60), pytest.approx(35), pytest.approx(10)]


async def test_active_time_survives_a_crash_behind_a_pause(stores):
    """How long a run was paused is durable before it goes on: what it then takes counts, crash or not."""
    work = Work()
    left = []

    async def second(ctx: StepContext):
        left.append(round(ctx.deadline - ctx.now()))
        await work.hang()

    stages = [
        Stage("one", [Step("one", work.quick)], router=Pause(Wait("go", id="w"))),
        Stage("two", [Step("two", second)]),
    ]

    def workflow():
        return Workflow(
            "w",
            triggers={"begin": Trigger("begin")},
            pipelines=[Pipeline("main", stages)],
            timeout="1m",
            timeout_counts="active",
        )

    rt = await stores.enter(workflow())
    stores.clock.autojump = False
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    await stores.clock.run_for(1000)
    await rt.emit("go")
    await work.reached.wait()
    await stores.clock.run_for(20)
    await stores.crash(rt)
    work.reached.clear()
    rt = await stores.enter(workflow())
    await work.reached.wait()
    await stores.clock.run_for(41)
    assert ((await rt.wait(run_id)).error.code, left) == ("RUN_TIMEOUT", [60, 40])


# ------------------------------------------------------------------------------------------------ registration
def test_faults_are_reported_together():
    """Each with its path; a stage that is not there with near matches."""
    work = Work(timeout="soon", on_timeout="lat", timeout_counts="some")
    with pytest.raises(InvalidDefinition) as caught:
        _ = work.workflow().definition
    faults = dict(caught.value.faults)
    assert set(faults) == {"timeout", "on_timeout", "timeout_counts"}
    assert "late" in faults["on_timeout"]


def test_options_without_a_timeout_are_faults():
    """They would have no effect."""
    work = Work(timeout=None, on_timeout="abort", timeout_counts="active")
    with pytest.raises(InvalidDefinition) as caught:
        _ = work.workflow().definition
    assert {path for path, _ in caught.value.faults} == {"on_timeout", "timeout_counts"}


def test_its_stage_is_reachable_and_part_of_the_structure():
    """A stage that only the deadline leads to is no fault, and another one is another structure."""

    async def step(): ...

    def hash_of(**options):
        stages = [Stage("one", [Step("s", step)], router=Terminate()), Stage("end", [Step("s", step)])]
        return Workflow("w", pipelines=[Pipeline("main", stages)], **options).definition.hash

    with pytest.raises(InvalidDefinition, match="no earlier stage leads here"):
        hash_of(timeout=5)
    assert hash_of(timeout=5, on_timeout="end") == hash_of(timeout=6, on_timeout="end", timeout_counts="active")
    assert hash_of(timeout=5, on_timeout="end") != hash_of(timeout=5, on_timeout="one", on_failure="end")


# ------------------------------------------------------------------------------------------------ more of the same
async def test_services_of_a_stage_see_it(stores):
    """They are rolled back, as at any other interruption."""
    seen = []

    def session():
        try:
            yield "session"
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    async def first(session: Annotated[str, Use("session")]):
        await asyncio.Event().wait()

    work = Work(first=first)
    work.options["services"] = [Service("session", session, scope="stage")]
    rt = await stores.enter(work.workflow())
    assert (await rt.wait(await begin(rt))).error.code == "RUN_TIMEOUT"
    assert seen == ["RunTimeout"]


@each_end
async def test_a_called_run_that_is_not_stored_yet(stores, on_timeout, status, code, more):
    """The deadline holds for a run that has not reached its first commit, and `run` answers."""
    work = Work(on_timeout=on_timeout)
    work.first = work.hang
    rt = await stores.enter(work.workflow())
    result = await rt.run("w")
    assert (result.status, result.error and result.error.code, work.ran) == (status, code, ["first", *more])
    assert (await rt.get_run(result.run_id)).status == status


async def test_no_time_at_all(stores):
    """A timeout of zero ends a run before its first stage begins."""
    work = Work(timeout=0)
    rt = await stores.enter(work.workflow())
    assert (await rt.run("w")).error.code == "RUN_TIMEOUT"
    assert work.ran == []


async def test_a_stop_beats_it(stores):
    """A runtime that stops as the deadline passes leaves the run to the next one, which ends it.

    It may have begun the stage that the deadline leads to; like any stage without a commit, that begins again.
    """
    work = Work(on_timeout="late")
    work.first = work.hang
    rt = await stores.enter(work.workflow())
    stores.clock.autojump = False
    run_id = await begin(rt)
    await work.reached.wait()
    stores.clock.advance(60)
    stores.clock.autojump = True
    await rt.stop(drain=0)
    rt = await stores.enter(work.workflow())
    assert (await rt.wait(run_id)).status == "completed"
    assert work.ran in (["first", "late"], ["first", "late", "late"])


async def test_hooks_are_called_as_at_any_end(stores):
    """`on_complete` sees the failure, and `on_resume` a paused run that its deadline leads on."""
    called = []
    work = Work(on_timeout="late", router=Pause(Wait("go", id="w")))
    rt = await stores.enter()
    await rt.register(
        work.workflow(),
        on_resume=lambda ctx: called.append("resume"),
        on_complete=lambda result: called.append(str(result.status)),
    )
    assert (await rt.wait(await begin(rt))).status == "completed"
    assert called == ["resume", "completed"]


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("counts_as", ["total", "active"])
@pytest.mark.parametrize("on_timeout", ["fail", "abort", "late"])
async def test_a_crash_at_every_commit(store_kind, tmp_path, vclock, on_timeout, counts_as, where):
    """Whichever commit the process dies at, a run that pauses and then takes too long comes to the same end."""

    async def once(name, crash):
        (tmp_path / name).mkdir()
        place = Stores(store_kind, tmp_path / name, vclock)
        ran = []

        async def quick():
            ran.append("quick")
            return {"quick": True}

        async def slow(ctx: StepContext):
            ran.append("slow")
            await ctx.sleep("1h")

        async def late():
            ran.append("late")
            return {"late": True}

        def workflow():
            stages = [
                Stage("quick", [Step("quick", quick, undo=quick)], router=Pause(Wait("go", id="w"))),
                Stage("slow", [Step("slow", slow)]),
                Stage("late", [Step("late", late)], aside=True),
            ]
            return Workflow(
                "w",
                triggers={"begin": Trigger("begin")},
                pipelines=[Pipeline("main", stages)],
                timeout="1m",
                on_timeout=on_timeout,
                timeout_counts=counts_as,
            )

        async def work(rt):
            await rt.emit(Event("begin", {}, id="1", source="/test"))
            while not [run for run in (await rt.find_runs()).items if run.status is PAUSED or run.status.terminal]:
                await run_until_idle(vclock)
                if not vclock.autojump:
                    vclock.advance(1)
            await rt.emit(Event("go", {}, id="2", source="/test"))
            [run] = (await rt.find_runs()).items
            vclock.autojump = True
            try:
                return await rt.wait(run.run_id)
            finally:
                vclock.autojump = False

        store = place.store()
        store.crash = crash
        entering = asyncio.create_task(place.enter(workflow(), store=store))
        crashed = asyncio.create_task(store.crashed.wait())
        await asyncio.wait([entering, crashed], return_when=asyncio.FIRST_COMPLETED)
        rt = await entering
        working = asyncio.create_task(work(rt))
        await asyncio.wait([working, crashed], return_when=asyncio.FIRST_COMPLETED)
        if store.dead:
            working.cancel()
            await asyncio.wait([working])
            vclock.autojump = False
            await place.crash(rt)
            rt = await place.enter(workflow())
            result = await work(rt)
        else:
            crashed.cancel()
            result = await working
        entries = counts(await rt.timeline(result.run_id), "pipeline:timeout")
        await place.close()
        return (result.status, result.error and result.error.code, dict(result.state), entries), store.commits

    vclock.autojump = False
    expected, commits = await once("undisturbed", None)
    assert commits >= 4
    for number in range(1, commits + 1):
        found, _ = await once(str(number), (number, where))
        assert found == expected, f"commit {number}"


async def test_many_queued_runs_end_after_a_restart(stores):
    """Some at a time, and all of them; those whose time is not over stay in line."""
    work = Work(timeout_counts="active", router=Pause(Wait("go", id="w")))
    work.options["mode"] = Serialized()
    stores.clock.autojump = False
    rt = await stores.enter(work.workflow())
    one = await begin(rt)
    await rt.wait(one, until="rest")
    gone = [await begin(rt) for _ in range(100)]
    stores.clock.advance(30)
    left = [await begin(rt) for _ in range(5)]
    await stores.crash(rt)
    stores.clock.advance(31)
    rt = await stores.enter(work.workflow())
    for run_id in gone:
        assert (await rt.wait(run_id)).error.code == "RUN_TIMEOUT"
    assert {(await rt.get_run(run_id)).status for run_id in left} == {QUEUED}
    await rt.emit("go")
    assert {(await rt.wait(run_id)).status for run_id in (one, *left)} == {RunStatus.COMPLETED}


async def test_a_busy_store_delays_the_end_of_queued_runs(stores):
    """The end is tried again until the store takes it."""
    store = stores.store()
    work = Work(timeout_counts="active", router=Pause(Wait("go", id="w")))
    work.options["mode"] = Serialized()
    rt = await stores.enter(work.workflow(), store=store)
    stores.clock.autojump = False
    one = await begin(rt)
    await rt.wait(one, until="rest")
    two = await begin(rt)
    tries = []

    def failing(_number, changes):
        if any(move.status == "failed" for move in changes.moves) and len(tries) < 3:
            tries.append(1)
            return StoreUnavailable("not now")
        return None

    store.failing = failing
    stores.clock.autojump = True
    assert (await rt.wait(two)).error.code == "RUN_TIMEOUT"
    assert len(tries) == 3


async def test_an_unfit_state_at_a_failure_is_left_alone(stores):
    """A run that waits for help, and whose state does not fit, is not claimed again and again after its deadline."""

    class Fine(BaseModel):
        first: bool = False

    class Broken(BaseModel):
        first: dict

    async def first():
        raise ValueError("broken")

    def workflow(model):
        work = Work(on_failure="pause", first=first)
        work.options["state"] = model
        return work.workflow()

    rt = await stores.enter(workflow(Fine))
    stores.clock.autojump = False
    [line] = (await rt.emit("begin", first=True)).lines
    await rt.wait(line.run_id, until="rest")
    await rt.stop()
    stores.clock.advance(100)
    rt = await stores.enter(workflow(Broken))
    await run_until_idle(stores)
    info = await rt.get_run(line.run_id)
    assert (info.status, info.error.code, info.wake_at) == (PAUSED, "STATE_INVALID", None)
    await rt.stop()
    rt = await stores.enter(workflow(Fine))
    result = await rt.wait(line.run_id)
    assert (result.status, result.error.code) == ("failed", "RUN_TIMEOUT")
