"""What a failure leads to: the end, a pause until somebody helps, or another stage that is given the failure."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from pydantic import BaseModel
from support import ends, parks

from poundlock import (
    Event,
    Fail,
    Failure,
    InvalidDefinition,
    Jump,
    NotPaused,
    Pause,
    Pipeline,
    Retry,
    RunFinished,
    Service,
    Stage,
    StateInvalid,
    StateRef,
    Step,
    StepContext,
    Terminate,
    Trigger,
    Use,
    Wait,
    Workflow,
)


class Mended(BaseModel):
    mended: bool = False
    first: bool = False
    done: bool = False


def breaking(error=None, **options):
    """A workflow whose second stage fails unless the state says it is mended."""
    wf = Workflow("w", **options)

    @wf.on("begin")
    @wf.step
    async def first():
        return {"first": True}

    @wf.step
    async def work(mended: bool = False):
        if not mended:
            raise error or ValueError("broken")
        return {"done": True}

    @wf.step
    async def last(): ...

    return wf


async def begin(rt):
    [result] = await (await rt.emit("begin")).results()
    return result


# ------------------------------------------------------------------------------------------------------- a pause
async def test_a_failure_pauses_the_run(stores, caplog):
    """With "pause" a run waits for help; `resume` enters the failed stage again, with its patch."""
    rt = await stores.enter(breaking(on_failure="pause"))
    result = await begin(rt)
    assert (result.status, result.ok, str(result.error)) == ("paused", False, "ValueError: broken")
    assert (result.error.stage, result.error.step) == ("work", "work")
    assert [(wait.id, wait.resume_at, wait.events) for wait in result.waits] == [("__failure__", "work", ())]
    assert "is paused because stage 'work' failed: ValueError: broken" in caplog.text
    info = await rt.get_run(result.run_id)
    assert (info.status, info.stage, str(info.error)) == ("paused", "work", "ValueError: broken")
    result = await rt.resume(result.run_id, {"mended": True})
    assert (result.status, result.ok, result.error) == ("completed", True, None)
    assert (await rt.timeline(result.run_id)).path() == ["first", "work", "work", "last"]


async def test_a_paused_failure_survives_a_crash(stores):
    """The pause and its error are durable, a new deployment does not resume it, and the answer is."""
    rt = await stores.enter(breaking(on_failure="pause"))
    run_id = (await begin(rt)).run_id
    await stores.crash(rt)
    rt = await stores.enter(breaking(on_failure="pause"))
    await stores.clock.run_until_idle()
    info = await rt.get_run(run_id)
    assert (info.status, str(info.error)) == ("paused", "ValueError: broken")
    assert (await rt.wait(run_id, until="rest")).ok is False
    assert (await rt.resume(run_id, {"mended": True})).status == "completed"


async def test_it_may_fail_again(stores):
    """Without help the stage fails again, and the run is paused again, under a new epoch of the wait."""
    rt = await stores.enter(breaking(on_failure="pause"))
    run_id = (await begin(rt)).run_id
    again = await rt.resume(run_id)
    assert (again.status, again.ok) == ("paused", False)
    assert (await rt.resume(run_id, {"mended": True})).status == "completed"


async def test_an_answer_that_does_not_fit(stores):
    """A patch that does not fit is refused; the run stays paused with its failure."""
    rt = await stores.enter(breaking(on_failure="pause", state=Mended))
    run_id = (await begin(rt)).run_id
    with pytest.raises(StateInvalid):
        await rt.resume(run_id, {"mended": "perhaps"})
    assert str((await rt.get_run(run_id)).error) == "ValueError: broken"
    assert (await rt.resume(run_id, {"mended": True})).status == "completed"


async def test_an_answer_from_a_process_without_the_workflow(stores):
    """Such a process cannot check the patch: one that does not fit leaves the run paused with its failure."""
    rt = await stores.enter(breaking(on_failure="pause", state=Mended))
    run_id = (await begin(rt)).run_id
    await rt.stop()
    other = await stores.enter()
    assert (await other.resume(run_id, {"mended": "perhaps"})).status == "ready"
    await other.stop()
    rt = await stores.enter(breaking(on_failure="pause", state=Mended))
    await stores.clock.run_until_idle()
    info = await rt.get_run(run_id)
    assert (info.status, str(info.error)) == ("paused", "ValueError: broken")
    assert (await rt.resume(run_id, {"mended": True})).status == "completed"


async def test_events_do_not_help(stores):
    """No event resumes such a run; what comes for its other waits is buffered."""
    wf = breaking(on_failure="pause")
    wf.wait("gate", on="go")
    rt = await stores.enter(wf)
    run_id = (await begin(rt)).run_id
    assert [line.verdict for line in (await rt.emit("go")).lines] == ["buffered"]
    await rt.resume(run_id, {"mended": True})
    assert (await rt.wait(run_id)).status == "completed"


async def test_a_paused_failure_is_aborted(stores):
    """A run that waits for help can be aborted; its slot and hooks are those of a pause."""
    ended = []
    rt = await stores.enter()
    await rt.register(breaking(on_failure="pause"), on_complete=lambda result: ended.append(result.status))
    run_id = (await begin(rt)).run_id
    assert ended == []
    await rt.abort(run_id)
    assert (await rt.wait(run_id)).status == "aborted"
    assert ended == ["aborted"]
    with pytest.raises(RunFinished):
        await rt.resume(run_id)


# ------------------------------------------------------------------------------------------------- another stage
@pytest.mark.parametrize("by", ["name", "type", "context"])
async def test_a_failure_leads_to_a_stage(stores, by):
    """The stage that `on_failure` names is given the failure, by name, by type and in the context."""
    seen = []
    wf = Workflow("w")

    @wf.on("begin")
    @wf.step(on_failure="tidy", retry=Retry(3, backoff=0.1))
    async def work():
        raise ValueError("broken")

    @wf.step
    async def never(): ...

    if by == "name":

        @wf.aside
        async def tidy(failure):
            seen.append(failure)

    elif by == "type":

        @wf.aside
        async def tidy(why: Failure):
            seen.append(why)

    else:

        @wf.aside
        async def tidy(ctx: StepContext):
            seen.append(ctx.failure)

    rt = await stores.enter(wf)
    result = await begin(rt)
    assert (result.status, result.error) == ("completed", None)
    assert seen == [Failure("ValueError", "broken", "work", "work", 3)]
    assert (await rt.timeline(result.run_id)).path() == ["work", "tidy"]


async def test_the_failure_survives_a_crash(stores):
    """After a crash in the failure's stage, that stage is entered again and is given the same failure."""
    reached, through, seen = asyncio.Event(), asyncio.Event(), []

    def workflow():
        wf = Workflow("w")

        @wf.on("begin")
        @wf.step(on_failure="tidy")
        async def work():
            raise ValueError("broken")

        @wf.aside
        async def tidy(failure: Failure):
            reached.set()
            await through.wait()
            seen.append(failure.message)

        return wf

    rt = await stores.enter(workflow())
    [line] = (await rt.emit("begin")).lines
    await reached.wait()
    await stores.crash(rt)
    through.set()
    rt = await stores.enter(workflow())
    assert (await rt.wait(line.run_id)).status == "completed"
    assert seen == ["broken"]


@pytest.mark.parametrize(
    "kind", ["step", "stage timeout", "step timeout", "fail", "router", "invalid", "wait", "thread"]
)
async def test_what_counts_as_a_failure(stores, kind):
    """A step's final failure, timeouts of step, stage and wait, an invalid state, a router's error, and `Fail`."""

    class State(BaseModel):
        n: int = 0
        told: str = ""

    async def action():
        if "timeout" in kind:
            await asyncio.Event().wait()
        if kind == "step":
            raise ValueError("broken")
        if kind == "fail":
            return Fail("no", patch={"n": 1})
        return {"n": "many"} if kind == "invalid" else None

    def threaded():
        raise ValueError("broken")

    def way():
        raise ValueError("broken")

    step = Step("work", threaded if kind == "thread" else action, timeout=1 if kind == "step timeout" else None)
    work = {
        "wait": Stage("work", router=Pause(Wait("go", timeout="1h"))),
        "stage timeout": Stage("work", [step], timeout=1),
        "router": Stage("work", [step], router=way),
    }.get(kind, Stage("work", [step]))
    tidy = Stage("tidy", [Step("tidy", lambda failure: {"told": failure.type})], aside=True)
    triggers, pipelines = {"begin": Trigger("begin")}, [Pipeline("main", [work, tidy])]
    rt = await stores.enter(Workflow("w", state=State, on_failure="tidy", triggers=triggers, pipelines=pipelines))
    [line] = (await rt.emit("begin")).lines
    result = await rt.wait(line.run_id)
    assert result.status == "completed", result.error
    expected = {
        "step": "ValueError",
        "thread": "ValueError",
        "router": "ValueError",
        "step timeout": "StepTimeout",
        "stage timeout": "StepTimeout",
        "fail": "Fail",
        "invalid": "StateInvalid",
        "wait": "WaitExpired",
    }
    assert (result.state.told, result.state.n) == (expected[kind], 1 if kind == "fail" else 0)


async def test_a_failure_on_the_way_fails_the_run(stores):
    """A failure in the failure's stage, or in an aside stage behind it, ends the run."""
    wf = Workflow("w", on_failure="tidy")

    @wf.on("begin")
    @wf.step
    async def work():
        raise ValueError("first")

    @wf.aside(then="more")
    async def tidy(): ...

    @wf.aside
    async def more(ctx: StepContext):
        raise ValueError(f"second after {ctx.failure.message}")

    rt = await stores.enter(wf)
    result = await begin(rt)
    assert (result.status, str(result.error)) == ("failed", "ValueError: second after first")


async def test_back_on_its_way_a_run_may_fail_again(stores):
    """Behind the failure's stage, once the run is back in a stage of its course, a failure counts anew."""
    wf = Workflow("w", on_failure="mend")

    @wf.on("begin")
    @wf.step
    async def work(tries: int = 0):
        if tries < 3:
            raise ValueError(f"try {tries}")
        return Terminate(tries)

    @wf.aside(then="work")
    async def mend(failure: Failure, tries: int = 0):
        return {"tries": tries + 1, "why": failure.message}

    rt = await stores.enter(wf)
    result = await begin(rt)
    assert (result.status, result.result, result.state["why"]) == ("completed", 3, "try 2")
    assert (await rt.timeline(result.run_id)).path() == ["work", "mend"] * 3 + ["work"]


async def test_an_abort_is_no_failure(stores):
    """An abort ends the run: no stage handles it."""
    reached = asyncio.Event()
    wf = Workflow("w", on_failure="tidy")
    tidied = []

    @wf.on("begin")
    @wf.step
    async def work():
        reached.set()
        await asyncio.Event().wait()

    wf.aside(lambda: tidied.append(1), id="tidy")
    rt = await stores.enter(wf)
    [line] = (await rt.emit("begin")).lines
    await reached.wait()
    await rt.abort(line.run_id)
    assert (await rt.wait(line.run_id)).status == "aborted"
    assert tidied == []


@pytest.mark.parametrize("way", ["tidy", "pause"])
async def test_services_of_the_stage_see_the_failure(runtime, way):
    """Services that live as long as a stage see its failure, also where the run goes on."""
    seen = []

    def transaction():
        try:
            yield "open"
        except ValueError as error:
            seen.append(str(error))
            raise
        else:
            seen.append("commit")

    wf = Workflow("w", on_failure=way, services=[Service("tx", transaction, scope="stage")])

    @wf.step
    async def work(tx: Annotated[str, Use("tx")]):
        raise ValueError("broken")

    @wf.aside
    async def tidy(tx: Annotated[str, Use("tx")]): ...

    rt = await runtime(wf)
    result = await rt.run("w")
    assert result.status == ("completed" if way == "tidy" else "paused")
    assert seen == (["broken", "commit"] if way == "tidy" else ["broken"])


@pytest.mark.parametrize("way", ["fail", "pause"])
async def test_services_were_rolled_back(stores, way):
    """Once they were, a stage has failed for good: a signal just before the commit cannot make its router succeed."""
    seen = []

    def transaction():
        try:
            yield "open"
        except ValueError:
            seen.append("rollback")
            raise
        seen.append("commit")

    wf = Workflow("w", on_failure=way, services=[Service("tx", transaction, scope="stage")])
    wf.on("begin")

    @wf.step
    async def work(tx: Annotated[str, Use("tx")]):
        return {"done": True}

    @wf.route(after="work")
    def decide(state):
        if "mended" not in state:
            raise ValueError("broken")

    store = stores.store()
    rt = await stores.enter(wf, store=store)
    store.hold = lambda changes: parks(changes) or ends(changes)
    [line] = (await rt.emit("begin")).lines
    [held] = await store.until_held(1)
    store.hold = None
    await rt.signal(line.run_id, {"mended": True})
    held.release()
    result = await rt.wait(line.run_id, until="rest")
    assert (result.status, seen) == ("paused" if way == "pause" else "failed", ["rollback"])
    assert dict(result.state) == {"mended": True}
    if way == "pause":
        assert (await rt.resume(line.run_id)).status == "completed"
        assert seen == ["rollback", "commit"]


@pytest.mark.parametrize("way", ["pause", "tidy"])
async def test_what_a_failed_stage_registered(stores, way):
    """Waits of a failed stage are not armed: they may refer to state that it would have written."""

    async def register(ctx, mended: bool = False):
        async def in_service(deps):
            wait = Wait("go", id="later", correlate={"id": StateRef("id")})
            await (await deps.require("__pause_service__")).register(wait)

        await ctx.use(in_service)
        if not mended:
            raise ValueError("broken")
        return {"id": 1}

    wf = Workflow("w", on_failure=way)
    wf.on("begin")
    wf.step(register, id="register")
    wf.aside(lambda failure: {"told": failure.message}, id="tidy")
    rt = await stores.enter(wf)
    result = await begin(rt)
    if way == "pause":
        assert (result.status, str(result.error)) == ("paused", "ValueError: broken")
        assert (await rt.resume(result.run_id, {"mended": True})).status == "completed"
    else:
        assert (result.status, result.state["told"]) == ("completed", "broken")


async def test_a_signal_at_the_pause_is_taken_in(stores):
    """A signal that comes while the failure is written is merged before the stage is entered again."""
    rt = await stores.enter(breaking(on_failure="pause"))
    run_id = (await begin(rt)).run_id
    await rt.signal(run_id, {"mended": True})
    assert (await rt.resume(run_id)).status == "completed"


async def test_it_waits_as_any_pause_does(stores):
    """Of several answers one wins."""
    rt = await stores.enter(breaking(on_failure="pause"))
    run_id = (await begin(rt)).run_id
    tries = [rt.resume(run_id, {"mended": True}) for _ in range(3)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    won = [answer for answer in answers if not isinstance(answer, NotPaused | RunFinished)]
    assert [answer.status for answer in won] == ["completed"]


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda wf: wf.step(lambda: None, id="a", on_failure="nowhere"), "pipelines.main.a.on_failure"),
        (lambda wf: wf.wait("a", on="go", on_failure="nowhere"), "pipelines.main.a.on_failure"),
        (lambda wf: setattr(wf, "on_failure", "nowhere"), "on_failure"),
        (lambda wf: setattr(wf, "on_failure", 1), "on_failure"),
    ],
    ids=["step", "wait", "workflow", "odd"],
)
def test_faults_are_found(make, path):
    """A failure that would lead to no stage is found in the definition."""
    wf = Workflow("w")
    wf.step(lambda: None, id="first")
    make(wf)
    with pytest.raises(InvalidDefinition) as raised:
        _ = wf.definition
    assert path in [place for place, _ in raised.value.faults]


async def test_a_field_of_that_name(runtime):
    """A model's field `failure` is refused where a failure leads to a stage; elsewhere the name is free."""

    class State(BaseModel):
        failure: str = ""

    free = Workflow("free", state=State)
    free.step(lambda failure: Jump("b") if failure else None, id="a")
    free.step(lambda: None, id="b")
    rt = await runtime(free)
    assert (await rt.run("free", failure="yes")).status == "completed"
    taken = Workflow("taken", state=State, on_failure="b")
    taken.step(lambda: None, id="a")
    taken.aside(lambda failure: None, id="b")
    with pytest.raises(InvalidDefinition, match="'failure' is reserved"):
        await rt.register(taken)


@pytest.mark.parametrize("way", ["pause", "tidy"])
async def test_a_message_at_the_last_moment(stores, way):
    """A signal that comes just before the failure's commit is taken in, and the run goes the same way."""
    store = stores.store()
    wf = breaking(on_failure=way)
    wf.aside(lambda failure: {"told": failure.message}, id="tidy")
    rt = await stores.enter(wf, store=store)
    store.hold = lambda changes: parks(changes) or ends(changes)
    [line] = (await rt.emit("begin")).lines
    [held] = await store.until_held(1)
    store.hold = None
    await rt.signal(line.run_id, {"signalled": True})
    held.release()
    result = await rt.wait(line.run_id, until="rest")
    assert (result.status, result.state["signalled"]) == ("paused" if way == "pause" else "completed", True)
    if way == "pause":
        assert (await rt.resume(line.run_id, {"mended": True})).status == "completed"
    else:
        assert result.state["told"] == "broken"


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("way", ["pause", "tidy"])
async def test_a_crash_at_any_commit(stores, number, when, way):
    """Wherever its owner dies, a run whose stage fails comes to the same end."""

    def workflow():
        wf = breaking(on_failure=way)
        wf.aside(lambda failure: {"told": failure.message}, id="tidy")
        return wf

    store = stores.store()
    store.crash = (number, when)
    rt = await stores.enter(workflow(), store=store)
    begun = asyncio.create_task(rt.invoke("w", event=Event("begin"), run_id="r", until="accepted"))
    crashed = asyncio.create_task(store.crashed.wait())
    calm = asyncio.create_task(stores.clock.run_until_idle())
    await asyncio.wait([crashed, calm], return_when=asyncio.FIRST_COMPLETED)
    await stores.crash(rt)
    begun.cancel()
    await asyncio.gather(begun, crashed, calm, return_exceptions=True)
    rt = await stores.enter(workflow())
    await stores.clock.run_until_idle()
    if (await rt.find_runs()).items == []:
        assert not any(changes.creates for changes in store.written)  # it was not even accepted
        return
    result = await rt.wait("r", until="rest")
    if way == "pause":
        assert (result.status, str(result.error)) == ("paused", "ValueError: broken")
        result = await rt.resume("r", {"mended": True})
    assert (result.status, result.state.get("told")) == ("completed", None if way == "pause" else "broken")
