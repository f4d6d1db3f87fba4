"""The builder: a chain of calls gives the definitions that decorators give, and all faults at the end."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict

from poundlock import (
    Condition,
    Delay,
    InvalidDefinition,
    Jump,
    Pause,
    Pipeline,
    Retry,
    Serialized,
    Service,
    Stage,
    Step,
    Task,
    Terminate,
    Wait,
    Workflow,
    WorkflowRuntime,
    branch,
    flow,
    switch,
)
from poundlock.testing import VirtualClock


async def check(amount: int):
    return {"checked": amount}


async def reserve():
    return {"reserved": True}


async def charge():
    return {"charged": True}


async def refuse():
    return {"refused": True}


def faults_of(made):
    """Return the faults of a build, by path."""
    with pytest.raises(InvalidDefinition) as caught:
        made.build()
    return dict(caught.value.faults)


# ------------------------------------------------------------------------------------------------ the same definitions
def test_a_flow_gives_what_decorators_give():
    """Triggers, steps, branches, waits and aside stages are the same definition, with the same hash, either way."""
    wf = Workflow("orders", mode=Serialized(), keep_outputs=True)
    wf.on("order.placed", key="order")
    wf.step(retry=Retry(2))(check)
    wf.route(branch({Condition("amount", ">", 10): "review"}, otherwise="both"), after="check")
    wf.wait("review", on={"yes": "both", "no": "refuse"}, timeout="1d")
    wf.step(stage="both")(reserve)
    wf.step(stage="both")(charge)
    wf.aside(refuse)
    built = (
        flow("orders", mode=Serialized())
        .on("order.placed", key="order")
        .pipe(check, retry=Retry(2))
        .branch({Condition("amount", ">", 10): "review"}, otherwise="both")
        .wait("review", on={"yes": "both", "no": "refuse"}, timeout="1d")
        .parallel(reserve, charge, stage="both")
        .aside(refuse)
        .build()
    )
    assert built.definition == wf.definition


def test_where_stages_lead():
    """Routers belong to the stage before; where that has one already, they get a stage of their own."""
    wf = (
        flow("w")
        .pipe(check, then="refuse")
        .delay("2h")
        .delay(5, then="check", id="again")
        .switch("kind", {"a": "check"})
        .branch({Condition("n", ">", 1): "check"}, otherwise="check")
        .delay("1d")
        .pipe(reserve)
        .route(Jump("check"))
        .wait("ok", on="yes", resume_at="check")
        .end({"done": True})
        .pipe(charge)
        .end()
        .aside(refuse, then="check")
        .build()
    )
    stages = wf.definition.pipelines["main"].stages
    assert {stage.id: stage.router for stage in stages} == {
        "check": None,
        "delay": Delay("2h"),
        "again": Delay(5, then="check"),
        "switch": switch("kind", {"a": "check"}),
        "branch": branch({Condition("n", ">", 1): "check"}, otherwise="check"),
        "delay-2": Delay("1d"),
        "reserve": Jump("check"),
        "ok": Pause(Wait("yes", id="ok"), "check"),
        "end": Terminate({"done": True}),
        "charge": Terminate(),
        "refuse": None,
    }
    assert {stage.id for stage in stages if stage.aside} == {"refuse"}
    assert {stage.id: stage.then for stage in stages if stage.then} == {"check": "refuse", "refuse": "check"}


def test_options_of_stages_and_steps():
    """What a step or a stage can have, a call can say; it replaces what a step or task says."""
    given = Step("b", reserve, retry=Retry(2), label="B")
    task = Task("t", charge, timeout=5, label="T")
    wf = (
        flow("w")
        .pipe(check, id="a", stage="first", timeout="1m", each="items", limit=2, into="found", on_failure="pause")
        .pipe(given, retry=Retry(9))
        .pipe(task, id="t2", undo=refuse)
        .parallel(given, task, timeout=30, label="Both", conflict="error", on_failure="a")
        .pipe(Stage("a", Step("x", check), label="as it is"), then="b")
        .build()
    )
    first, second, third, both, last = wf.definition.pipelines["main"].stages
    assert (first.id, first.on_failure) == ("first", "pause")
    assert first.steps == (Step("a", check, timeout="1m", each="items", limit=2, into="found"),)
    assert second.steps == (Step("b", reserve, retry=Retry(9), label="B"),)
    assert (third.id, third.steps[0].timeout, third.steps[0].undo, third.steps[0].label) == ("t2", 5, refuse, "T")
    assert (both.id, both.timeout, both.label, both.conflict, both.on_failure) == ("b+t", 30, "Both", "error", "a")
    assert (last.label, last.then) == ("as it is", "b")


async def test_a_flow_runs():
    """What is built is a workflow like any other: it is registered, and started by its events."""

    def answer():
        return "an answer"

    wf = flow("w").on("go", "begin").service(answer).pipe(check).parallel(reserve, charge).end("enough").build()
    async with WorkflowRuntime(wf, clock=VirtualClock()) as rt:
        [result] = await (await rt.emit("begin", {"amount": 3})).results()
    assert (result.ok, result.result) == (True, "enough")
    assert dict(result.state) == {"amount": 3, "checked": 3, "reserved": True, "charged": True}


def test_each_build_is_a_workflow_of_its_own():
    """A flow may be built, extended and built again; what was built before does not change."""
    made = flow("w").pipe(check)
    first = made.build()
    second = made.pipe(reserve).build()
    assert [len(wf.definition.pipelines["main"].stages) for wf in (first, second)] == [1, 2]
    assert repr(made) == "Flow('w', 2 stages)"


# -------------------------------------------------------------------------------------------------------------- faults
class Settings(BaseModel):
    rate: float
    size: int = 3


def test_all_faults_are_reported_together():
    """Faults of calls and of the definition come in one error, each with its path; nothing is raised before."""
    made = (
        flow("w")
        .on("go")
        .on("go")
        .on()
        .on("a", "b", id="one")
        .pipe("check")
        .pipe(check)
        .pipe(check)
        .parallel()
        .branch(5)
        .switch("x", 7)
        .route(8)
        .pipe(reserve, config={"a": 1})
        .pipe(Stage("s", Step("x", check)), retry=Retry(2))
        .pipe(Task("t", charge, config=Settings), config={"rate": "much", "size": "big"})
        .pipe(Task("u", charge), config=3)
        .wait("ok", on="yes", resume_at="nowhere")
        .service(7)
    )
    faults = faults_of(made)
    assert set(faults) == {
        "2.on",
        "3.on",
        "4.on",
        "5.pipe",
        "7.pipe",
        "8.parallel",
        "9.branch",
        "10.switch",
        "11.route",
        "12.pipe",
        "13.pipe",
        "pipelines.main.t.t.config.rate",
        "pipelines.main.t.t.config.size",
        "15.pipe",
        "pipelines.main.ok.router.resume_at",
        "17.service",
    }
    assert "there is a stage 'check' already" in faults["7.pipe"]
    assert "'check' is not a function, a Task or a Step" in faults["5.pipe"]


def test_a_flow_beside_other_pipelines():
    """A flow may be given more pipelines; its own is "main", and its triggers start that one."""
    wf = flow("w", pipelines=[Pipeline("other", [Stage("s", Step("x", check))])]).on("go").pipe(check).build()
    assert list(wf.definition.pipelines) == ["other", "main"]
    assert wf.definition.triggers["go"].pipeline == "main"


def test_what_can_be_read_once_is_kept():
    """Services and pipelines may come from a generator: each build has all of them."""
    more = (Pipeline(name, [Stage("s", Step("x", check))]) for name in ("one", "two"))
    services = (Service(name, dict) for name in ("a", "b"))
    made = flow("w", pipelines=more, services=services).pipe(check)
    for wf in (made.build(), made.build()):
        assert list(wf.definition.pipelines) == ["one", "two", "main"]
        assert [service.id for service in wf.services] == ["a", "b"]


def test_an_unknown_option_of_the_workflow_is_a_type_error():
    """An option that there is not is refused where it is written."""
    with pytest.raises(TypeError, match="colour"):
        flow("w", colour="red")


def test_an_empty_flow_is_refused():
    """A flow without stages says what is missing."""
    assert faults_of(flow("w")) == {"pipelines.main.stages": "a pipeline needs at least one stage"}


class Nested(BaseModel):
    a: int = 1
    b: int


class Deep(BaseModel):
    name: str
    nested: Nested = Nested(b=2)
    table: dict[str, dict[str, int]] = {"x": {"one": 1, "two": 2}}


@pytest.mark.parametrize(
    ("task", "config", "expected"),
    [
        (Task("t", check, config=Deep, defaults=5), None, {"config": "5 is not a mapping of settings"}),
        (Task("t", check, config=3), None, {"config": "3 is not a pydantic model: give the class of one"}),
        (Task("t", check, input=int), None, {"input": "<class 'int'> is not a pydantic model: give the class of one"}),
        (Task("t", check, output="Out"), None, {"output": "'Out' is not a pydantic model: give the class of one"}),
        (Task("t", check, config=Deep), None, {"config.name": "Field required"}),
        (
            Task("t", check),
            {"a": 1},
            {"config": "the task has no model of its settings: give Task(config=), or leave this out"},
        ),
        (
            Task("t", check, config=Deep),
            {"name": "x", "nested": {"b": "no"}},
            {"config.nested.b": "Input should be a valid integer, unable to parse string as an integer"},
        ),
    ],
    ids=["defaults", "config", "input", "output", "missing", "none", "nested"],
)
def test_contracts_are_checked_at_the_build(task, config, expected):
    """What is no model, and settings that do not fit, are faults of the build, with the path of the setting."""
    faults = faults_of(flow("w").pipe(task, config=config))
    assert faults == {f"pipelines.main.t.t.{place}": text for place, text in expected.items()}


def test_a_misspelled_setting_is_told():
    """A setting that the model does not know is a fault with near matches, unless the model says what becomes of it."""

    class Tolerant(Settings):
        model_config = ConfigDict(extra="ignore")

    task = Task("t", check, config=Settings, defaults={"rate": 2, "rat": 1})
    assert faults_of(flow("w").pipe(task)) == {
        "pipelines.main.t.t.config.rat": "there is no setting 'rat': did you mean 'rate'?"
    }
    assert flow("w").pipe(Task("t", check, config=Tolerant), config={"rate": 2, "rat": 1}).build()


async def test_settings_are_merged_at_every_depth():
    """The workflow's settings count before the task's, and these before the model's, at every depth."""
    seen = []

    async def look(config: Deep):
        seen.append(config.model_dump())
        config.table.clear()  # each attempt has its own

    task = Task("look", look, config=Deep, defaults={"name": "t", "nested": {"b": 5}, "table": {"x": {"two": 20}}})
    wf = flow("w").pipe(task, config={"nested": {"a": 7}, "table": {"y": {}}}).pipe(task, id="again").build()
    async with WorkflowRuntime(wf, clock=VirtualClock()) as rt:
        assert (await rt.run("w")).ok
    assert seen == [
        {"name": "t", "nested": {"a": 7, "b": 5}, "table": {"x": {"one": 1, "two": 20}, "y": {}}},
        {"name": "t", "nested": {"a": 1, "b": 5}, "table": {"x": {"one": 1, "two": 20}}},
    ]


def test_a_task_is_a_step_in_any_workflow():
    """`Task.step` gives a step for `Stage`, so tasks can be used with pipelines as data too."""
    task = Task("t", check, config=Settings)
    wf = Workflow("w", pipelines=[])
    assert task.step("x", config={"rate": 2}).id == "x"
    wf = flow("w").parallel(task.step("one", config={"rate": 2}), task.step("two", config={"rate": 3})).build()
    assert [step.contract.settings for step in wf.definition.pipelines["main"].stages[0].steps] == [
        {"rate": 2},
        {"rate": 3},
    ]


async def test_a_contract_names_its_step():
    """An error of a contract names the step by its id, also where that has dots."""
    wf = flow("w").pipe(Task("load.orders", check, input=Settings)).build()
    async with WorkflowRuntime(wf, clock=VirtualClock()) as rt:
        result = await rt.run("w")
    assert "the state is no input of step 'load.orders'" in result.error.message
