"""What a stage does with its steps."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading

import pytest
from support import LAST_RESORT

from poundlock import DELETE, InvalidDefinition, Pipeline, Retry, Stage, Step, StepContext, Terminate, Workflow
from poundlock.pipeline.threads import StepThreads


def workflow(*stages, **options):
    return Workflow("wf", pipelines=[Pipeline("main", stages)], **options)


def stage(id, *actions, **options):
    return Stage(id, [Step(f"s{n}", action) for n, action in enumerate(actions)], **options)


def returns(patch):
    async def action():
        return patch

    return action


async def forever():
    await asyncio.get_running_loop().create_future()


# -- several steps at once
async def test_steps_of_a_stage_run_together_and_merge_in_order(runtime, make_gate):
    """Steps of one stage run at the same time; their patches are merged in definition order, whoever ends first."""
    first, second = make_gate(), make_gate()

    async def slow():
        second.open()
        await first()
        return {"x": "slow", "deep": {"a": 1}}

    async def fast():
        await second()
        first.open()
        return {"x": "fast", "deep": {"b": 2}}

    rt = await runtime(workflow(stage("both", slow, fast)))
    result = await rt.run("wf")
    assert result.state == {"x": "fast", "deep": {"a": 1, "b": 2}}
    conflicts = [e for e in (await rt.timeline(result.run_id)).entries if e.type == "state:conflict"]
    assert [(e.path, e.payload) for e in conflicts] == [("main/both", {"path": "x", "winner": "s1"})]


async def test_conflicts_may_be_errors(runtime):
    """With conflict="error" two steps that write one path fail the stage, name the path, and nothing is merged."""
    rt = await runtime(workflow(stage("both", returns({"a": {"b": 1}}), returns({"a": {"b": 2}}), conflict="error")))
    result = await rt.run("wf", start=1)
    assert result.status == "failed"
    assert "'a.b'" in result.error.message
    assert result.state == {"start": 1}


@pytest.mark.parametrize("which", [0, 1])
async def test_a_decorated_step_may_say_what_a_conflict_is(runtime, which):
    """`conflict=` on either step of a stage holds for the stage; without it the later step wins."""

    def writes(value):
        async def write():
            return {"a": value}

        return write

    def made(*conflicts):
        wf = Workflow("wf")
        for number, conflict in enumerate(conflicts):
            wf.step(stage="both", id=f"s{number}", conflict=conflict)(writes(number))
        return wf

    said = [None, None]
    said[which] = "error"
    rt = await runtime(made(*said))
    result = await rt.run("wf")
    assert (result.status, "'a'" in result.error.message) == ("failed", True)
    assert (await (await runtime(made("last", None))).run("wf")).state == {"a": 1}
    assert (await (await runtime(made("error"))).run("wf")).state == {"a": 0}
    assert made("error", "error").definition.pipelines["main"].stages[0].conflict == "error"
    with pytest.raises(InvalidDefinition) as refused:
        made("error", "last")
    assert refused.value.path == "both.conflict"
    with pytest.raises(InvalidDefinition):
        _ = made("first").definition


async def test_patches_are_validated_together(runtime):
    """What counts is the state after all steps of the stage: a rule over two fields may be met by two steps."""
    from pydantic import BaseModel, model_validator

    class Range(BaseModel):
        low: int = 0
        high: int = 5

        @model_validator(mode="after")
        def ordered(self):
            if self.low > self.high:
                raise ValueError("low is above high")
            return self

    rt = await runtime(workflow(stage("both", returns({"low": 10}), returns({"high": 20})), state=Range))
    result = await rt.run("wf")
    assert result.state == Range(low=10, high=20), str(result.error)
    broken = workflow(stage("both", returns({"low": 10}), returns({"x": 20})), state=Range)
    broken.id = "broken"
    await rt.register(broken)
    result = await rt.run("broken")
    assert (result.status, result.error.code, result.state) == ("failed", "STATE_INVALID", Range())


async def test_a_failing_step_cancels_its_siblings_and_commits_none(runtime):
    """After a final failure the siblings are cancelled, no patch of the stage is merged, and the run fails."""
    told = []

    async def fails():
        raise ValueError("on purpose")

    async def waits():
        try:
            await forever()
        finally:
            told.append("cancelled")

    rt = await runtime(workflow(stage("ok", returns({"kept": 1})), stage("both", waits, fails, returns({"lost": 1}))))
    result = await rt.run("wf")
    assert (result.status, str(result.error), result.error.stage, result.error.step) == (
        "failed",
        "ValueError: on purpose",
        "both",
        "s1",
    )
    assert "on purpose" in result.error.traceback
    assert result.state == {"kept": 1}
    assert told == ["cancelled"]
    types = (await rt.timeline(result.run_id)).types()
    assert "step:failure" in types
    assert types[-1] == "pipeline:failure"


# -- what steps raise
class Strange(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("siblings", [0, 1])
@pytest.mark.parametrize("kind", ["async", "thread", "inline"])
@pytest.mark.parametrize(
    "error", [ValueError("v"), Strange("s"), StopIteration(1), StopAsyncIteration(2), asyncio.CancelledError("c")]
)
async def test_whatever_a_step_raises_fails_the_run_only(runtime, kind, error, siblings):
    """An exception of any kind fails the run and is told to its caller; the runtime goes on."""

    def sync():
        raise error

    async def on_loop():
        raise error

    step = Step("bad", on_loop) if kind == "async" else Step("bad", sync, executor=kind)
    rt = await runtime(workflow(Stage("one", [step, *[Step("good", returns(None))][:siblings]])))
    for _ in range(2):
        result = await rt.run("wf")
        assert result.status == "failed"
        assert result.error.step == "bad"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_a_thread_cannot_end_the_process(runtime, error):
    """SystemExit and the like, raised in a worker thread, fail the step and nothing else."""

    def leaves():
        raise error

    rt = await runtime(workflow(stage("one", leaves)))
    result = await rt.run("wf")
    assert result.status == "failed"
    assert type(error).__name__ in str(result.error)


async def test_a_step_that_swallows_a_cancellation_ends_as_it_likes(runtime):
    """A sibling that swallows its cancellation delays the failing stage, but saves nobody."""
    left = []

    async def stubborn():
        try:
            await forever()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # noqa: TID251 - takes its time
            left.append(True)
        return {"late": True}

    async def fails():
        raise ValueError("x")

    rt = await runtime(workflow(stage("both", stubborn, fails)))
    result = await rt.run("wf")
    assert (result.status, result.state, left) == ("failed", {}, [True])


# -- where steps run
async def test_def_steps_run_off_the_loop(runtime):
    """A `def` step runs in a worker thread, an inline one and an async one on the loop's."""
    here, seen = threading.get_ident(), {}

    def in_thread():
        seen["thread"] = threading.get_ident() != here

    def inline():
        seen["inline"] = threading.get_ident() == here

    async def on_loop():
        seen["async"] = threading.get_ident() == here

    steps = [Step("a", in_thread), Step("b", inline, executor="inline"), Step("c", on_loop)]
    rt = await runtime(workflow(Stage("one", steps)))
    assert (await rt.run("wf")).ok
    assert seen == {"thread": True, "inline": True, "async": True}


async def test_def_steps_of_a_stage_run_beside_each_other(runtime):
    """Two `def` steps of one stage can wait for each other: each has a thread of its own."""
    barrier = threading.Barrier(2, timeout=LAST_RESORT)

    def meets():
        barrier.wait()
        return {"met": True}

    rt = await runtime(workflow(stage("one", meets, meets)))
    assert (await rt.run("wf")).state == {"met": True}


async def test_def_steps_have_a_copy_of_the_runs_context(runtime):
    """A `def` step sees the context variables of its run; what it sets is seen by no other step and no caller."""
    variable, seen = contextvars.ContextVar("variable", default="nothing"), []

    def in_thread():
        seen.append(variable.get())
        variable.set("of the step")

    async def behind():
        seen.append(variable.get())

    rt = await runtime(workflow(stage("one", in_thread), stage("two", behind), stage("three", in_thread)))
    variable.set("of the caller")
    assert (await rt.run("wf")).ok
    assert seen == ["of the caller"] * 3
    assert variable.get() == "of the caller"


async def test_no_more_threads_than_the_limit(vclock):
    """A call beyond the limit makes no thread: it waits for one that is free, and is carried out then."""
    threads, loop, used = StepThreads(vclock, 2), asyncio.get_running_loop(), []
    busy, leave = asyncio.Semaphore(0), threading.Event()

    def work():
        used.append(threading.get_ident())
        loop.call_soon_threadsafe(busy.release)
        leave.wait(LAST_RESORT)

    calls = [asyncio.create_task(threads.call(work, (), {})) for _ in range(3)]
    await busy.acquire()
    await busy.acquire()
    assert len(set(used)) == 2
    leave.set()
    await asyncio.gather(*calls)
    assert (len(used), len(set(used))) == (3, 2)
    threads.close()


async def test_a_thread_does_not_keep_the_process(runtime):
    """Steps run in daemon threads: the interpreter does not wait for one that is still at work when it exits."""
    daemons = []
    rt = await runtime(workflow(stage("one", lambda: daemons.append(threading.current_thread().daemon))))
    assert (await rt.run("wf")).ok
    assert daemons == [True]


async def test_which_task_a_step_runs_in(runtime):
    """The only step of a stage runs in the task of its run; steps side by side and with a timeout in others."""
    tasks = {}

    def notes(name):
        async def step():
            tasks[name] = asyncio.current_task()

        return step

    timed = Stage("timed", [Step("t", notes("timed"), timeout=60)])
    rt = await runtime(workflow(stage("alone", notes("alone")), stage("both", notes("a"), notes("b")), timed))
    run_id = (await rt.run("wf")).run_id
    assert tasks["alone"].get_name() == run_id
    assert len(set(tasks.values())) == 4


async def test_an_abandoned_thread_is_in_nobodys_way(runtime, vclock):
    """A `def` step that outlives its timeout keeps its thread; later `def` steps get another one."""
    loop, entered, leave = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def stuck():
        loop.call_soon_threadsafe(entered.set)
        leave.wait(LAST_RESORT)

    def quick():
        return {"quick": True}

    stuck_flow = Workflow("stuck", pipelines=[Pipeline("main", [Stage("one", [Step("s", stuck, timeout=5)])])])
    rt = await runtime(stuck_flow, workflow(stage("one", quick)))
    # The clock does not jump while a thread works, so its time is moved by hand.
    for _ in range(3):
        running = asyncio.create_task(rt.run("stuck"))
        await entered.wait()  # its time runs since before that
        entered.clear()
        vclock.advance(6)
        result = await running
        assert (result.status, result.error.code) == ("failed", "STEP_TIMEOUT")
    assert (await rt.run("wf")).state == {"quick": True}
    leave.set()


@pytest.mark.parametrize("wrap", ["partial", "object", "wrapper", "method"])
async def test_all_kinds_of_callables_are_steps(runtime, wrap):
    """Partials, callable objects, methods and functions that return a coroutine work as steps."""

    async def action(n, extra=0):
        return {"out": n + extra}

    class Callable:
        async def __call__(self, n):
            return {"out": n + 1}

    class Owner:
        def method(self, n):
            return {"out": n + 1}

    def wrapper(n):
        return action(n, 1)

    chosen = {
        "partial": functools.partial(action, extra=1),
        "object": Callable(),
        "wrapper": wrapper,
        "method": Owner().method,
    }[wrap]
    rt = await runtime(workflow(stage("one", chosen)))
    result = await rt.run("wf", n=1)
    assert result.ok, str(result.error)
    assert result.state["out"] == 2


# -- what steps return
@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, object()]}, "a.1"),
        ({"a": float("nan")}, "a"),
        ({"a": {1: 2}}, "a.1"),
        ({"a": "\ud800"}, "a"),
        ({"a": {"b": {1, 2}}}, "a.b"),
    ],
)
async def test_values_that_cannot_be_stored_fail_the_step(runtime, any_store, value, path):
    """What the codec does not know fails the step with its path, in memory as on disk, and state stays."""
    rt = await runtime(workflow(stage("one", returns(value))), store=any_store)
    result = await rt.run("wf", n=1)
    assert (result.status, result.error.code, result.error.step) == ("failed", "NOT_STORABLE", "s0")
    assert f"'{path}'" in result.error.message or path == "a.1"
    assert result.state == {"n": 1}


@pytest.mark.parametrize("value", [7, "text", ["list"], object(), True])
async def test_a_step_returns_a_patch_or_an_instruction(runtime, value):
    """Anything but a mapping, a model, an instruction or None fails the step and says what it may return."""
    rt = await runtime(workflow(stage("one", returns(value))))
    result = await rt.run("wf")
    assert (result.status, result.error.code) == ("failed", "STEP_FAILED")
    assert "return a mapping" in result.error.message
    assert ("Jump('text')" in result.error.message) == (value == "text")  # only a router may name a stage so


async def test_patches_merge_delete_and_keep_none(runtime, any_store):
    """Mappings merge, DELETE removes a key wherever it stands, and None is a value."""
    first = returns({"a": {"b": 1, "c": 2}, "gone": 1, "none": 0})
    second = returns({"a": {"b": DELETE, "d": None}, "gone": DELETE, "none": None, "never": DELETE})
    rt = await runtime(workflow(stage("one", first), stage("two", second)), store=any_store)
    result = await rt.run("wf")
    assert result.state == {"a": {"c": 2, "d": None}, "none": None}
    timeline = await rt.timeline(result.run_id)
    assert timeline.state_at(len(timeline)) == result.state


async def test_a_model_is_a_patch(runtime):
    """A step may return a pydantic model; its fields are the patch."""
    from pydantic import BaseModel

    class Part(BaseModel):
        a: int
        b: list[int]

    rt = await runtime(workflow(stage("one", returns(Part(a=1, b=[2])))))
    assert (await rt.run("wf")).state == {"a": 1, "b": [2]}


async def test_tuples_come_back_as_lists(runtime, any_store):
    """What a step returned is seen as it would be read back: a tuple is a list from then on."""
    seen = []

    async def look(pair):
        seen.append(pair)

    rt = await runtime(workflow(stage("one", returns({"pair": (1, (2, 3))})), stage("two", look)), store=any_store)
    assert (await rt.run("wf")).state == {"pair": [1, [2, 3]]}
    assert seen == [[1, [2, 3]]]


# -- nobody shares a mutable object
async def test_nobody_shares_a_mutable_object(runtime, any_store):
    """Changing what was returned, injected, seen, routed on or resulted never changes the run's state."""
    kept = {"items": [1], "deep": {"list": [1]}}

    async def gives():
        return kept

    async def spoils(items, deep, state, ctx: StepContext, event):
        kept["items"].append("returned")
        items.append("injected")
        deep["list"].append("injected")
        state["items"].append("state")
        dict(state)["items"].append("copied")
        state["deep"]["list"].append("state")
        ctx.state["items"].append("context")
        ctx.latest()["deep"]["list"].append("latest")
        event.payload["start"].append("event")
        return {"more": items_of}

    items_of = [1]

    def route(state, results):
        state["items"].append("router")
        results["s0"]["more"].append("result")
        items_of.append("after")

    async def last():
        return Terminate({"rows": items_of})

    rt = await runtime(workflow(stage("a", gives), stage("b", spoils, router=route), stage("c", last)), store=any_store)
    result = await rt.run("wf", start=[0])
    assert result.ok, result.error and result.error.traceback
    expected = {"start": [0], "items": [1], "deep": {"list": [1]}, "more": [1]}
    assert result.state == expected
    result.state["items"].append("result")
    timeline = await rt.timeline(result.run_id)
    timeline.state_at(len(timeline))["items"].append("timeline")
    assert timeline.state_at(len(timeline)) == expected
    again = await rt.wait(result.run_id)
    assert again.state == expected
    assert again.result == {"rows": [1, "after"]}


async def test_waiters_share_nothing(runtime, gate):
    """Two who wait for one run get results of their own."""
    from pydantic import BaseModel

    class State(BaseModel):
        items: list[int] = []

    async def work():
        await gate()
        return {"items": [1]}

    wf = workflow(stage("one", work), state=State)
    wf.on("go")
    rt = await runtime(wf)
    receipt = await rt.emit("go")
    waiting = [asyncio.create_task(rt.wait(receipt.run_ids[0])) for _ in range(2)]
    await rt.clock.run_until_idle()
    gate.open()
    first, second = [await task for task in waiting]
    first.state.items.append(2)
    assert second.state.items == [1]


# -- the context
async def test_the_context_knows_where_it_is(runtime):
    """StepContext names run, workflow, pipeline, stage, step and attempt, and its key is stable over retries."""
    seen = []

    async def work(ctx: StepContext):
        seen.append((ctx.workflow_id, ctx.pipeline_id, ctx.stage_id, ctx.step_id, ctx.attempt, ctx.idempotency_key))
        if ctx.attempt < 3:
            raise RuntimeError("again")
        return {"run": ctx.run_id}

    rt = await runtime(workflow(Stage("one", [Step("s", work, retry=Retry(3))])))
    result = await rt.run("wf")
    assert result.state["run"] == result.run_id
    assert [entry[:5] for entry in seen] == [("wf", "main", "one", "s", n) for n in (1, 2, 3)]
    assert len({entry[5] for entry in seen}) == 1
    assert result.run_id in seen[0][5]


async def test_the_step_logger_goes_to_the_timeline_and_to_logging(runtime, caplog):
    """What a step logs, on the loop or in a thread, stands in the timeline with its level, and in the ordinary log."""

    def in_thread(ctx: StepContext):
        ctx.logger.warning("careful, %s", "you")

    async def on_loop(ctx: StepContext):
        ctx.logger.info("n=%d", 5)
        ctx.annotate("score", {"a": 1})

    rt = await runtime(workflow(stage("one", in_thread), stage("two", on_loop)))
    with caplog.at_level("INFO"):
        result = await rt.run("wf")
    entries = (await rt.timeline(result.run_id)).entries
    assert [(e.type, e.path, e.payload) for e in entries if e.source == "logger"] == [
        ("log:warning", "main/one/s0", {"level": "WARNING", "message": "careful, you"}),
        ("log:info", "main/two/s0", {"level": "INFO", "message": "n=5"}),
    ]
    assert [(e.type, e.payload) for e in entries if e.type == "annotation"] == [
        ("annotation", {"key": "score", "value": {"a": 1}})
    ]
    assert "careful, you" in caplog.text
