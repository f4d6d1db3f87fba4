"""Who cancelled: the runtime decides by what it asked for, never by what came out of user code.

Not asked: whatever user code raises, and however it cancels itself, is its own failure, and the run ends. Asked: the
outcome is the request's, whatever user code makes of it, and no further attempt begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from typing import Annotated

import pytest
from pydantic import AfterValidator, BaseModel
from support_nasty import CANCELS, FAILS, RAISES, Own, throw

from poundlock import (
    Pause,
    Pipeline,
    Retry,
    RunStatus,
    Serialized,
    Service,
    Stage,
    Step,
    StepContext,
    Trigger,
    Wait,
    Workflow,
    WorkflowRuntime,
)
from poundlock.stores import MemoryStore


def one_stage(stage, **options):
    return Workflow("wf", triggers={"go": Trigger("go")}, pipelines=[Pipeline("main", [stage])], **options)


def step(act, *, beside=(), **options):
    """A workflow of one stage: a step, and others beside it."""
    others = [Step(f"other{n}", other) for n, other in enumerate(beside)]
    return one_stage(Stage("one", [Step("work", act, **options), *others]), mode=Serialized())


async def forever():
    await asyncio.get_running_loop().create_future()


def ok():
    return {"fine": True}


async def ok_on_the_loop():
    return {"fine": True}


def once(act):
    """The act the first time, a good answer from then on."""
    calls = []

    async def work():
        calls.append(1)
        if len(calls) == 1:
            await act()
        return {"fine": True}

    return work


def routing(act):
    """A router that does this the first time, and sends the run on from then on."""
    calls = []

    async def route():
        calls.append(1)
        if len(calls) == 1:
            await act()

    return route


def routed(act):
    return one_stage(Stage("one", [Step("work", ok)], router=routing(act)), mode=Serialized())


def served(act):
    """The service that a step asks for fails to be built."""
    build = once(act)

    async def make():
        await asyncio.sleep(0)  # noqa: TID251 - by now it is built in a task of its own
        made = await build()
        await asyncio.sleep(0)  # noqa: TID251 - a cancellation of its own is delivered here
        return made

    async def work(ctx: StepContext):
        await ctx.use(lambda deps: deps.require("it"))
        return {"fine": True}

    stage = Stage("one", [Step("work", work)])
    return one_stage(stage, services=[Service("it", make, scope="run")], mode=Serialized())


PLACES = {
    "plain step": lambda act: step(once(act)),
    "step with time-out": lambda act: one_stage(Stage("one", [Step("work", once(act), timeout=60)])),
    "step with retry": lambda act: step(once(act), retry=Retry(3, not_on=(Exception,))),
    "one of two": lambda act: step(once(act), beside=[ok]),
    "stage with time-out": lambda act: one_stage(Stage("one", [Step("work", once(act))], timeout=60)),
    "router": routed,
    "service": served,
}


async def ends_failed(rt):
    """Start two runs: the first ends failed, which makes room for the second, and that one is well."""
    ids = [(await rt.emit("go")).run_ids[0] for _ in range(2)]
    first, second = [await rt.wait(run_id) for run_id in ids]
    assert (first.status, second.status) == (RunStatus.FAILED, RunStatus.COMPLETED)
    return first.error


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fails", FAILS)
async def test_what_nobody_asked_for_is_the_failure_of_that_code(runtime, any_store, place, fails):
    """Whatever a step, router or service raises, and however it cancels itself: its run fails, the next one is well."""
    rt = await runtime(PLACES[place](FAILS[fails]), store=any_store)
    error = await ends_failed(rt)
    assert error.stage == "one"
    if fails in CANCELS and place != "service":
        assert (error.type, "not by Poundlock" in error.message) == ("CancelledError", True)


@pytest.mark.parametrize("fails", FAILS)
async def test_what_a_hook_does_before_the_run_is_its_failure(runtime, any_store, fails):
    """`on_prepare` may raise or cancel what it wants: the run fails and is over."""
    act = once(FAILS[fails])

    async def prepare(_ctx):
        await act()

    rt = await runtime(store=any_store)
    await rt.register(step(ok), on_prepare=prepare)
    error = await ends_failed(rt)
    assert error.step == "on_prepare"


def sync_of(name):
    if name in RAISES:

        def act():
            throw(name)
    else:

        def act():
            asyncio.current_task().cancel()

    return act


@pytest.mark.parametrize("early", [False, True], ids=["paused", "buffered"])
@pytest.mark.parametrize("fails", [*RAISES, "cancels itself, returns"])
async def test_what_a_patch_function_does_is_the_fault_of_its_event(runtime, any_store, fails, early):
    """A wait's patch function may raise or cancel what it wants: the event is refused, and the run goes on waiting."""
    act = sync_of(fails)

    def patch(event):
        if event.payload["bad"]:
            act()
        return {}

    reached = asyncio.Event()

    async def work():
        await reached.wait()

    gate = Stage("gate", [Step("work", work)], router=Pause(Wait("go", patch=patch)))
    wf = Workflow("wf", pipelines=[Pipeline("main", [gate, Stage("one", [Step("work", ok)])])])
    wf.on("begin")
    rt = await runtime(wf, store=any_store)
    receipt = await rt.emit("begin")
    if early:
        assert (await rt.emit("go", bad=True)).verdicts == ["buffered"]
    reached.set()
    [paused] = await receipt.results()
    if not early:
        assert (await rt.emit("go", bad=True)).verdicts == ["rejected"]
    assert (await rt.get_run(paused.run_id)).status is RunStatus.PAUSED
    assert ("wait:refused" in (await rt.timeline(paused.run_id)).types()) is early
    assert (await rt.emit("go", bad=False)).verdicts == ["resumed"]
    assert (await rt.wait(paused.run_id)).status is RunStatus.COMPLETED


@pytest.mark.parametrize("fails", RAISES)
@pytest.mark.parametrize("where", ["patch", "state", "latest", "router", "parameter"])
async def test_what_a_validator_raises_is_the_failure_of_that_stage(runtime, any_store, fails, where):
    """A validator of the state's model may raise anything, when a patch is checked or when the state is looked at."""
    broken = []

    def check(value):
        if broken.pop() if broken else False:
            throw(fails)
        return value

    class Model(BaseModel):
        n: Annotated[int, AfterValidator(check)] = 0

    async def work(ctx: StepContext):
        broken.append(1)
        if where == "state":
            return {"n": ctx.state.n}
        if where == "latest":
            return {"n": ctx.latest().n}
        return {"n": 2} if where == "patch" else None

    async def take(n: int):
        return {"n": n}

    stage = Stage("one", [Step("work", work)], router=(lambda state: None) if where == "router" else None)
    stages = [Stage("zero", [Step("first", lambda: {"n": 1})]), stage, Stage("two", [Step("take", take)])]
    rt = await runtime(Workflow("wf", pipelines=[Pipeline("main", stages)], state=Model), store=any_store)
    result = await rt.run("wf")
    assert (result.status, result.error.type) == (RunStatus.FAILED, "StateInvalid")
    assert result.error.stage == ("two" if where == "parameter" else "one")


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError"])
async def test_what_a_step_in_a_thread_raises_is_its_failure(runtime, any_store, name):
    """`sys.exit()` or Ctrl-C in a thread ends neither process nor loop: the step has failed, and the text says why."""
    error = {"KeyboardInterrupt": KeyboardInterrupt, **RAISES}[name]

    def work():
        assert threading.current_thread() is not threading.main_thread()
        raise error()

    rt = await runtime(step(work), store=any_store)
    result = await rt.run("wf")
    assert result.status is RunStatus.FAILED
    assert result.error.step == "work"
    assert name in f"{result.error.type} {result.error.message}"


@pytest.mark.parametrize(("on", "attempts"), [((Exception,), 1), ((BaseException,), 3), ((asyncio.CancelledError,), 3)])
async def test_a_cancellation_of_its_own_is_repeated_only_if_retry_says_so(runtime, on, attempts):
    """A step that cancels itself is tried again where `on` names that: `Exception` does not."""
    tried = []

    async def work():
        tried.append(1)
        asyncio.current_task().cancel()
        await forever()

    rt = await runtime(step(work, retry=Retry(3, backoff=0, on=on)))
    assert (await rt.run("wf")).status is RunStatus.FAILED
    assert len(tried) == attempts


async def test_a_cancellation_that_was_caught_is_no_failure(runtime, any_store):
    """A library that cancels the task for its own time-out, catches that and leaves the count behind harms nobody."""

    async def work():
        asyncio.current_task().cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        assert asyncio.current_task().cancelling() == 1
        return {"fine": True}

    async def after(fine: bool):
        assert asyncio.current_task().cancelling() == 0
        return {"after": fine}

    stages = [Stage("one", [Step("work", work)]), Stage("two", [Step("after", after)])]
    rt = await runtime(Workflow("wf", pipelines=[Pipeline("main", stages)]), store=any_store)
    result = await rt.run("wf")
    assert (result.status, result.state) == ("completed", {"fine": True, "after": True})


async def test_a_cancellation_that_was_taken_back_is_none(runtime, any_store):
    """`cancel()` and `uncancel()` before anything was awaited: nothing of it reaches the commit behind."""

    async def work():
        asyncio.current_task().cancel()
        asyncio.current_task().uncancel()
        return {"fine": True}

    rt = await runtime(step(work), store=any_store)
    assert (await rt.run("wf")).status is RunStatus.COMPLETED


# --------------------------------------------------------------------------------------------------------- it asked
async def _closes():
    raise ConnectionError("closed")


async def _exits():
    raise SystemExit(1)


async def _passes():
    raise asyncio.CancelledError


async def _returns():
    return {"late": True}


async def _cancels():
    asyncio.current_task().cancel()
    await forever()


async def _own():
    raise Own


ANSWERS = {
    "ConnectionError": _closes,
    "SystemExit": _exits,
    "CancelledError": _passes,
    "returns": _returns,
    "cancels itself": _cancels,
    "its own": _own,
}
"""What user code may make of its cancellation."""


def answering(answer, inside, tried):
    async def work():
        tried.append(1)
        try:
            inside.set()
            await forever()
        except asyncio.CancelledError:
            return await ANSWERS[answer]()

    return work


EVERYTHING = Retry(3, backoff=0, on=(BaseException,))
SHAPES = {
    "plain": {},
    "with retry": {"retry": EVERYTHING},
    "with time-out": {"retry": EVERYTHING, "timeout": 3600},
    "one of two": {"retry": EVERYTHING, "beside": [ok_on_the_loop]},
    "per element": {"each": "items"},
    "per element, all of it": {"each": "items", "retry": EVERYTHING, "timeout": 3600, "beside": [ok_on_the_loop]},
}


async def fine():
    return {"fine": True, "items": ["the only one"]}


def shaped(shape, act):
    options = dict(SHAPES[shape])
    beside = options.pop("beside", ())
    steps = [Step("work", act, **options), *(Step("other", other) for other in beside)]
    # On the loop: a runtime that is never stopped would leave the thread of a sync step behind.
    stages = [Stage("zero", [Step("first", fine)]), Stage("one", steps)]
    return Workflow("wf", triggers={"go": Trigger("go")}, pipelines=[Pipeline("main", stages)])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("answer", ANSWERS)
async def test_an_abort_ends_the_run_aborted_whatever_its_step_makes_of_it(runtime, any_store, shape, answer):
    """The outcome of an abort is the abort; no further attempt begins, whatever Retry says."""
    inside, tried = asyncio.Event(), []
    rt = await runtime(shaped(shape, answering(answer, inside, tried)), store=any_store)
    waiting = asyncio.ensure_future(rt.invoke("wf", run_id="r"))
    await inside.wait()
    await rt.abort("r", reason="enough")
    result = await waiting
    assert (result.status, "enough" in str(result.error), tried) == (RunStatus.ABORTED, True, [1])
    assert (result.state["fine"], "work" in result.state) == (True, False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_stop_leaves_the_run_where_its_last_commit_left_it(stores, shape, answer):
    """After `stop` the run is neither failed nor further on: the next process begins its stage again, once."""
    inside, tried = asyncio.Event(), []
    rt = await stores.enter(shaped(shape, answering(answer, inside, tried)))
    waiting = asyncio.ensure_future(rt.invoke("wf", run_id="r"))
    await inside.wait()
    await rt.stop(drain=0)
    await asyncio.wait([waiting])
    assert waiting.exception() is not None
    assert tried == [1]
    again = await stores.enter(shaped(shape, once(_returns)))
    result = await again.wait("r")
    assert (result.status, result.state["fine"]) == ("completed", True)
    entries = (await again.timeline("r")).entries
    assert [entry.type for entry in entries if entry.type.endswith("failure")] == []


@pytest.mark.parametrize("how", ["abort", "stop"])
@pytest.mark.parametrize("shape", ["with retry", "with time-out", "one of two"])
async def test_no_attempt_begins_once_the_run_was_interrupted_between_two(stores, vclock, how, shape):
    """A run that waits for its next attempt is interrupted there, and does not begin it."""
    failed, tried = asyncio.Event(), []

    async def work():
        tried.append(1)
        failed.set()
        raise ConnectionError("closed")

    patient = Retry(3, backoff=3600, on=(BaseException,))
    options = {"timeout": 60} if shape == "with time-out" else {}
    steps = [Step("work", work, retry=patient, **options)]
    if shape == "one of two":
        steps.append(Step("other", ok_on_the_loop))
    rt = await stores.enter(Workflow("wf", pipelines=[Pipeline("main", [Stage("one", steps)])]))
    waiting = asyncio.ensure_future(rt.invoke("wf", run_id="r"))
    await failed.wait()
    began = vclock.now()
    if how == "abort":
        await rt.abort("r")
        assert (await waiting).status is RunStatus.ABORTED
    else:
        await rt.stop(drain=0)
        await asyncio.wait([waiting])
        assert waiting.exception() is not None
    assert (tried, vclock.now()) == ([1], began)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("whose", ["step", "stage"])
async def test_a_time_out_is_a_time_out_whatever_the_step_makes_of_it(runtime, any_store, vclock, answer, whose):
    """The run fails with StepTimeout, also if the step returned in the end, or raised what it likes."""
    inside, tried = asyncio.Event(), []
    act = answering(answer, inside, tried)
    stage = (
        Stage("one", [Step("work", act, timeout=5)])
        if whose == "step"
        else Stage("one", [Step("work", act, retry=EVERYTHING), Step("other", ok)], timeout=5)
    )
    rt = await runtime(Workflow("wf", pipelines=[Pipeline("main", [stage])]), store=any_store, clock=vclock)
    result = await rt.run("wf")
    assert (result.status, result.error.type, result.error.code) == (RunStatus.FAILED, "StepTimeout", "STEP_TIMEOUT")
    assert result.state == {}
    assert tried == [1]


async def test_a_time_out_is_repeated_where_retry_says_so(runtime, vclock):
    """StepTimeout is an ordinary failure of the attempt: the next one begins after the back-off."""
    inside, tried = asyncio.Event(), []
    stage = Stage("one", [Step("work", answering("ConnectionError", inside, tried), timeout=5, retry=Retry(3))])
    wf = Workflow("wf", pipelines=[Pipeline("main", [stage])])
    rt = await runtime(wf, clock=vclock)
    result = await rt.run("wf")
    assert (result.error.type, tried) == ("StepTimeout", [1, 1, 1])


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_sibling_that_is_cancelled_has_no_failure_of_its_own(runtime, any_store, answer):
    """The stage fails for the step that failed; its sibling begins no further attempt and is not noted as failed."""
    inside, tried = asyncio.Event(), []

    async def fails():
        await inside.wait()
        raise ValueError("the reason")

    stage = Stage("one", [Step("work", answering(answer, inside, tried), retry=EVERYTHING), Step("other", fails)])
    rt = await runtime(Workflow("wf", pipelines=[Pipeline("main", [stage])]), store=any_store)
    result = await rt.run("wf")
    assert (result.error.message, result.error.step, tried) == ("the reason", "other", [1])
    entries = (await rt.timeline(result.run_id)).entries
    assert [entry.path for entry in entries if entry.type == "step:failure"] == ["main/one/other"]


# ----------------------------------------------------------------------------------------- steps that do not react
def deaf(inside, let_go):
    """A step that swallows every cancellation until the test lets go of it."""

    async def work(ctx: StepContext):
        inside.set()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                ctx.logger.info("no")
        ctx.annotate("too", "late")
        return {"late": True}

    return work


@pytest.mark.parametrize("whose", ["step", "stage", "sibling"])
async def test_a_step_that_swallows_its_cancellation_is_left_behind(runtime, any_store, vclock, caplog, whose):
    """After `abort_grace` the run goes on without it, a warning says so, and whatever it does later goes nowhere."""
    inside, let_go = asyncio.Event(), asyncio.Event()
    act = deaf(inside, let_go)

    async def fails():
        await inside.wait()
        raise ValueError("the reason")

    stage = {
        "step": lambda: Stage("one", [Step("work", act, timeout=5)]),
        "stage": lambda: Stage("one", [Step("work", act), Step("other", ok)], timeout=5),
        "sibling": lambda: Stage("one", [Step("work", act), Step("other", fails)]),
    }[whose]()
    wf = Workflow("wf", pipelines=[Pipeline("main", [stage])], mode=Serialized())
    rt = await runtime(wf, store=any_store, clock=vclock, abort_grace=7)
    began = vclock.now()
    result = await rt.run("wf")
    assert result.error.type == ("ValueError" if whose == "sibling" else "StepTimeout")
    assert vclock.now() - began == (7 if whose == "sibling" else 12)
    assert "left behind" in caplog.text
    before = (await rt.timeline(result.run_id)).entries
    let_go.set()
    await vclock.run_until_idle()
    assert (await rt.timeline(result.run_id)).entries == before
    assert "late" not in str([entry.payload for entry in before])


# ------------------------------------------------------------------------------------------------- a loop that ends
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_loop_that_ends_is_a_stop(shape, answer):
    """`asyncio.run` cancels every task when it is done, also those of a runtime that nobody stopped: no run ends."""
    store, tried = MemoryStore(), []

    async def unstopped():
        inside = asyncio.Event()
        rt = WorkflowRuntime(shaped(shape, answering(answer, inside, tried)), store=store)
        await rt.__aenter__()
        waiting = asyncio.ensure_future(rt.invoke("wf", run_id="r"))
        await inside.wait()
        waiting.cancel()

    asyncio.run(unstopped())
    record = asyncio.run(store.load("r"))
    assert (record.head.status, record.head.stage, tried) == (RunStatus.RUNNING, "one", [1])


# -------------------------------------------------------------------------------------------- what is no failure
@pytest.mark.parametrize("shape", SHAPES)
def test_a_coroutine_that_is_closed_with_its_loop_ends_in_peace(shape):
    """Where the loop is gone, GeneratorExit is the end of the run's coroutine and no failure: nothing is awaited."""
    store, told, inside = MemoryStore(), [], asyncio.Event()

    async def work():
        try:
            inside.set()
            await forever()
        except GeneratorExit:
            told.append("closed")
            raise

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, context: told.append(context["message"].split("!")[0]))

    async def begin():
        rt = WorkflowRuntime(shaped(shape, work), store=store)
        await rt.__aenter__()
        await rt.emit("go")
        await inside.wait()
        return rt

    rt = loop.run_until_complete(begin())
    loop.close()
    del rt
    gc.collect()
    assert "closed" in told
    assert set(told) <= {"closed", "Task was destroyed but it is pending"}


def test_a_registration_that_is_closed_with_its_loop_ends_in_peace():
    """What a registration still reads when the loop is gone ends without a word: there is nobody to wake."""
    store, told, reading = MemoryStore(), [], asyncio.Event()

    async def endless(_workflow):
        reading.set()
        await forever()

    store.paused_in_slot = endless
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, context: told.append(context["message"].split("!")[0]))

    async def begin():
        rt = WorkflowRuntime(shaped("plain", forever), store=store)
        await rt.__aenter__()
        await reading.wait()
        return rt

    rt = loop.run_until_complete(begin())
    loop.close()
    del rt
    gc.collect()
    assert set(told) == {"Task was destroyed but it is pending"}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_keyboard_interrupt_on_the_main_thread_is_for_the_process(shape):
    """Ctrl-C goes on to whoever runs the loop; the run is not failed by it and goes on when the process comes back."""
    store = MemoryStore()

    async def work():
        raise KeyboardInterrupt

    async def main():
        async with WorkflowRuntime(shaped(shape, work), store=store) as rt:
            await rt.invoke("wf", run_id="r")

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    record = asyncio.run(store.load("r"))
    assert record.head.stage == "one"
    assert not record.head.status.terminal
