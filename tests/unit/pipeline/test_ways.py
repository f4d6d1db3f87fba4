"""Where a run goes without a router of its own: `then`, aside stages, routers as data, and instructions with data."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from poundlock import (
    Advance,
    Condition,
    Delay,
    Fail,
    InvalidDefinition,
    Jump,
    Pause,
    Pipeline,
    Stage,
    StateRef,
    Step,
    Terminate,
    Wait,
    Workflow,
    branch,
    switch,
)


def stage(id, router=None, **options):
    async def action():
        return None

    return Stage(id, [Step(id, action)], router=router, **options)


def flow(*stages, **options):
    return Workflow("wf", pipelines=[Pipeline("main", stages)], **options)


async def path_of(runtime, workflow, **fields):
    rt = await runtime(workflow)
    result = await rt.run("wf", **fields)
    assert result.status == "completed", result.error
    return (await rt.timeline(result.run_id)).path()


@pytest.mark.parametrize(
    ("stages", "path"),
    [
        ([stage("a"), stage("x", aside=True), stage("b")], ["a", "b"]),
        ([stage("x", aside=True), stage("a"), stage("b")], ["a", "b"]),
        ([stage("a", then="c"), stage("b"), stage("c")], ["a", "c"]),
        ([stage("a", "x"), stage("b"), stage("x", aside=True)], ["a", "x"]),
        ([stage("a", "x"), stage("b"), stage("x", aside=True, then="b")], ["a", "x", "b"]),
        ([stage("a", Advance(), then="c"), stage("b"), stage("c")], ["a", "c"]),
        ([stage("a", Jump("b"), then="c"), stage("b"), stage("c")], ["a", "b", "c"]),
    ],
)
async def test_what_comes_after_a_stage(runtime, stages, path):
    """A stage is followed by `then`, else by the next one that is not aside; behind an aside one the run completes."""
    assert await path_of(runtime, flow(*stages)) == path


async def test_a_step_comes_before_then(runtime):
    """What a step returns beats `then=`."""
    wf = Workflow("wf")

    @wf.step(then="c")
    async def a():
        return Jump("b")

    @wf.step(then="d")
    async def b(): ...

    @wf.step
    async def c(): ...

    @wf.step
    async def d(): ...

    assert await path_of(runtime, wf) == ["a", "b", "d"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"amount": 5000}, ["a", "review"]),
        ({"amount": 500, "kind": "gift", "limit": 100}, ["a", "pay"]),
        ({"amount": 50, "kind": "gift", "limit": 100}, ["a", "hold"]),
        ({}, ["a", "hold"]),
    ],
)
async def test_a_branch_takes_the_first_case_that_is_met(runtime, fields, path):
    """Cases are tried in order; several conditions of one case are joined by AND, and may compare two fields."""
    router = branch(
        {
            Condition("amount", ">", 1000): "review",
            (Condition("kind", "==", "gift"), Condition("amount", ">", StateRef("limit"))): "pay",
        },
        otherwise="hold",
    )
    asides = [stage(name, aside=True) for name in ("review", "pay", "hold")]
    assert await path_of(runtime, flow(stage("a", router), *asides), **fields) == path


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"order": {"kind": "book"}}, ["a", "books"]),
        ({"order": {"kind": 1}}, ["a", "ones"]),
        ({"order": {"kind": 1.0}}, ["a", "ones"]),
        ({"order": {"kind": True}}, ["a", "b"]),
        ({}, ["a", "b"]),
    ],
)
async def test_a_switch_compares_as_conditions_do(runtime, fields, path):
    """The value of a field names the stage; any other value, or none, goes on to the next stage."""
    router = switch("order.kind", {"book": "books", 1: "ones"})
    stages = [stage("a", router), stage("b"), stage("books", aside=True), stage("ones", aside=True)]
    assert await path_of(runtime, flow(*stages), **fields) == path


async def test_a_router_as_data_needs_no_function(runtime):
    """`route` takes data as well as a function below it."""
    wf = Workflow("wf")
    wf.route(switch("n", {1: "one"}), after="a")

    @wf.step
    async def a(): ...

    @wf.aside
    async def one(): ...

    assert await path_of(runtime, wf, n=1) == ["a", "one"]


@pytest.mark.parametrize("by", ["step", "router", "data"])
@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda patch: Advance(patch=patch), "completed"),
        (lambda patch: Jump("b", patch=patch), "completed"),
        (lambda patch: Terminate("done", patch=patch), "completed"),
        (lambda patch: Fail("no", patch=patch), "failed"),
        (lambda patch: Delay("1m", patch=patch), "completed"),
        (lambda patch: Pause(Wait("go"), patch=patch), "paused"),
    ],
    ids=["advance", "jump", "terminate", "fail", "delay", "pause"],
)
async def test_an_instruction_carries_data(runtime, vclock, by, make, status):
    """The patch of an instruction is merged into the state, wherever the instruction comes from."""
    instruction = make({"n": 2, "order": {"paid": True}})

    async def action():
        return instruction if by == "step" else {"n": 1}

    router = {"step": None, "router": lambda: instruction, "data": instruction}[by]
    rt = await runtime(flow(stage("first"), Stage("a", [Step("a", action)], router=router), stage("b")))
    result = await rt.run("wf", order={"id": 7})
    assert (result.status, result.state["n"]) == (status, 2)
    assert result.state["order"] == {"id": 7, "paid": True}
    stored = (await rt.timeline(result.run_id)).state_at(None)
    assert stored["order"] == {"id": 7, "paid": True}


async def test_the_patch_of_an_instruction_fits_the_model(runtime):
    """A patch that does not fit the state's model fails the run, and nothing of it is kept."""

    class State(BaseModel):
        n: int = 0

    async def action():
        return Terminate(patch={"n": "many"})

    rt = await runtime(flow(Stage("a", [Step("a", action)]), state=State))
    result = await rt.run("wf")
    assert (result.status, result.error.code, result.state.n) == ("failed", "STATE_INVALID", 0)


async def test_a_patch_that_is_none(runtime):
    """A patch that is no mapping fails the step and says what to write."""

    async def action():
        return Terminate(patch=["n"])

    rt = await runtime(flow(Stage("a", [Step("a", action)])))
    result = await rt.run("wf")
    assert (result.status, result.error.code) == ("failed", "STEP_FAILED")
    assert "give a mapping" in result.error.message


async def test_a_delay_may_lead_elsewhere(runtime, vclock):
    """`Delay(then=)` continues at that stage, once its time has come."""

    async def action():
        return Delay("1h", then="c")

    rt = await runtime(flow(Stage("a", [Step("a", action)]), stage("b"), stage("c")))
    result = await rt.invoke("wf", run_id="r")
    assert result.status == "completed"
    assert (await rt.timeline("r")).path() == ["a", "c"]


async def test_a_step_does_not_decide_beside_a_router(runtime):
    """If the stage has a router, a step's instruction is a fault that names both."""

    async def action():
        return Terminate()

    rt = await runtime(flow(Stage("a", [Step("x", action)], router=lambda: None)))
    result = await rt.run("wf")
    assert (result.status, result.error.code) == ("failed", "STEP_FAILED")
    assert "step 'x'" in result.error.message
    assert "router" in result.error.message


async def test_steps_that_agree(runtime):
    """Two steps may return the same instruction, each with its own data; different ones fail the stage, named."""

    async def one():
        return Jump("c", patch={"one": 1})

    async def two():
        return Jump("c", patch={"two": 2})

    async def other():
        return Terminate()

    rt = await runtime(
        flow(Stage("a", [Step("one", one), Step("two", two)]), stage("b"), stage("c")),
        Workflow(
            "odd", pipelines=[Pipeline("main", [Stage("a", [Step("one", one), Step("other", other)]), stage("c")])]
        ),
    )
    result = await rt.run("wf")
    assert (result.status, dict(result.state)) == ("completed", {"one": 1, "two": 2})
    assert (await rt.timeline(result.run_id)).path() == ["a", "c"]
    result = await rt.run("odd")
    assert (result.status, dict(result.state)) == ("failed", {})
    assert "'one' and 'other'" in result.error.message


FAULTS = {
    "then": (lambda: flow(stage("a", then="z")), "pipelines.main.a.then"),
    "all aside": (lambda: flow(stage("a", aside=True)), "pipelines.main.stages"),
    "aside": (lambda: flow(stage("a", aside=1), stage("b")), "pipelines.main.a.aside"),
    "branch to": (lambda: flow(stage("a", branch({Condition("n", ">", 1): "z"}))), "pipelines.main.a.router.0"),
    "branch on": (lambda: flow(stage("a", branch({"n": "a"}))), "pipelines.main.a.router.0.0"),
    "no cases": (lambda: flow(stage("a", branch({}))), "pipelines.main.a.router.cases"),
    "no condition": (lambda: flow(stage("a", branch({(): "a"}))), "pipelines.main.a.router.0"),
    "otherwise": (
        lambda: flow(stage("a", branch({Condition("n", ">", 1): "a"}, otherwise="z"))),
        "pipelines.main.a.router.otherwise",
    ),
    "switch to": (lambda: flow(stage("a", switch("n", {1: "z"}))), "pipelines.main.a.router.0"),
    "switch on": (lambda: flow(stage("a", switch("", {1: "a"}))), "pipelines.main.a.router.field"),
    "no values": (lambda: flow(stage("a", switch("n", {}))), "pipelines.main.a.router.cases"),
    "any other": (lambda: flow(stage("a", switch("n", {1: "a"}, otherwise="z"))), "pipelines.main.a.router.otherwise"),
    "patch list": (lambda: flow(stage("a", Jump("a", patch=["n"]))), "pipelines.main.a.router.patch"),
    "patch object": (lambda: flow(stage("a", Jump("a", patch={"n": object()}))), "pipelines.main.a.router.patch"),
    "delay": (lambda: flow(stage("a", Delay(1, then="z"))), "pipelines.main.a.router.then"),
    "no way to": (lambda: flow(Stage("a", router=Advance()), stage("x", aside=True)), "pipelines.main.x"),
    "no branch to": (
        lambda: flow(
            Stage("a", router=branch({Condition("n", ">", 1): "c"}, otherwise="c")),
            Stage("b", router="c"),
            Stage("c", router=Advance()),
        ),
        "pipelines.main.b",
    ),
}


@pytest.mark.parametrize(("make", "path"), FAULTS.values(), ids=FAULTS)
async def test_faults_are_found(make, path):
    """What could never work is found in the definition, with its path."""
    with pytest.raises(InvalidDefinition) as raised:
        _ = make().definition
    assert path in [place for place, _ in raised.value.faults]


def test_one_step_says_it_for_its_stage():
    """Steps of one stage cannot say different things of it."""
    wf = Workflow("wf")
    wf.step(lambda: None, id="a", stage="s", then="x")
    wf.step(lambda: None, id="b", stage="s")
    with pytest.raises(InvalidDefinition, match="then='x' already"):
        wf.step(lambda: None, id="c", stage="s", then="y")
    with pytest.raises(InvalidDefinition, match="aside=False already"):
        wf.aside(lambda: None, id="d", stage="s")


def test_what_says_nothing_leaves_the_hash():
    """A definition without the new words has the hash it had; with them, another one."""
    assert flow(stage("a"), stage("b")).definition.hash == flow(stage("a"), stage("b", then=None)).definition.hash
    assert flow(stage("a"), stage("b")).definition.hash != flow(stage("a", then="a"), stage("b")).definition.hash


async def test_visits_of_a_loop_by_then_are_counted(stores):
    """A loop made of `then` ends at the visit limit, also if its owner dies in the middle."""
    reached, through = asyncio.Event(), asyncio.Event()

    def looping():
        wf = Workflow("wf", visit_limit=5)

        @wf.on("go")
        @wf.step(then="b")
        async def a(n: int):
            if n == 3 and not through.is_set():
                reached.set()
                await through.wait()
            return {"n": n + 1}

        @wf.aside(then="a")
        async def b(): ...

        return wf

    rt = await stores.enter(looping())
    receipt = await rt.emit("go", n=0)
    await reached.wait()
    await stores.crash(rt)
    through.set()
    rt = await stores.enter(looping())
    result = await rt.wait(receipt.run_ids[0])
    assert (result.status, result.error.code, result.state["n"]) == ("failed", "VISIT_LIMIT", 5)
