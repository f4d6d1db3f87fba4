"""The graph of a workflow: each part of a definition is shown, as text for Mermaid and as a picture."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import partial
from xml.etree import ElementTree as ET

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
    Retry,
    Stage,
    StateRef,
    Step,
    Task,
    Terminate,
    Trigger,
    Wait,
    Workflow,
    WorkflowRuntime,
    branch,
    switch,
)
from poundlock.model.graph import read_graph
from poundlock.testing import VirtualClock


async def work():
    """Do nothing."""


def stages(*given, **options):
    """Return the only panel of a workflow of these stages."""
    workflow = Workflow("w", pipelines=[Pipeline("main", given)], **options)
    [panel] = read_graph(workflow.definition).panels
    return panel


def edges(panel):
    return {(edge.source, edge.target, edge.kind, edge.label) for edge in panel.edges}


def node(panel, id_):
    [found] = [each for each in panel.nodes if each.id == id_]
    return found


def run_step(id_, **options):
    return Stage(id_, Step(id_, work), **options)


def test_stages_stand_in_order_and_end():
    """Each stage leads to the next one, and the last one to the end of the run."""
    panel = stages(run_step("a"), run_step("b"))
    assert [each.id for each in panel.nodes] == ["stage a", "stage b", "completed b"]
    assert edges(panel) == {
        ("stage a", "stage b", "next", ""),
        ("stage b", "completed b", "next", ""),
    }


def test_then_and_aside():
    """`then` replaces the next stage; an aside stage is entered by name only, and ends the run or goes on."""
    panel = stages(
        run_step("a", then="c"), run_step("b", aside=True), run_step("c"), run_step("d", aside=True, then="a")
    )
    assert edges(panel) == {
        ("stage a", "stage c", "next", ""),
        ("stage b", "completed b", "next", ""),
        ("stage c", "completed c", "next", ""),
        ("stage d", "stage a", "next", ""),
    }
    assert (node(panel, "stage b").kind, node(panel, "stage c").kind) == ("aside", "stage")
    assert ("stage a", "stage b") in panel.order


def test_steps_and_what_is_said_of_them():
    """Steps of one stage are listed with retry, timeout, undo and each; a single step of the stage's name is not."""
    steps = [
        Step("charge", work, retry=Retry(5), timeout="30s", undo=work),
        Step("mail", work, each="people", limit=3, label="Send mail"),
        Step("export", work, poll=work, every="1m"),
    ]
    panel = stages(Stage("pay", steps, timeout="2h", conflict="error", label="Payment"), run_step("end"))
    assert node(panel, "stage pay").title == "Payment"
    assert node(panel, "stage pay").lines == (
        "pay",
        "charge · 5 attempts · at most 30 s · undo",
        "Send mail · for each of people, 3 at once",
        "export · checked every 1 min",
        "at most 2 h",
        "writes to one key fail",
    )
    assert node(panel, "stage end").lines == ()


@pytest.mark.parametrize(
    ("router", "expected"),
    [
        (Advance(), {("stage b", "next", "")}),
        (Jump("c"), {("stage c", "next", "")}),
        ("c", {("stage c", "next", "")}),
        (Jump("a"), {("stage a", "next", "")}),
        (Terminate(), {("completed a", "next", "")}),
        (Fail("no"), {("failed a", "next", "")}),
        (Delay("2h30m"), {("stage b", "later", "after 2 h 30 min")}),
        (Delay(until=0, then="c"), {("stage c", "later", "at 1970-01-01 00:00+00:00")}),
        (Pause(Wait("x")), {("stage b", "event", "x")}),
        (Pause(Wait(["x", "y"]), "c"), {("stage c", "event", "x or y")}),
        (Pause(Wait({"x": "b", "y": "c", "z": "c"})), {("stage b", "event", "x"), ("stage c", "event", "y or z")}),
        (Pause(Wait("x", timeout="3d")), {("stage b", "event", "x"), ("failed a", "timeout", "after 3 d")}),
        (
            Pause(Wait("x", timeout=60, on_timeout="abort")),
            {("stage b", "event", "x"), ("aborted a", "timeout", "after 1 min")},
        ),
        (
            Pause(Wait("x", timeout=60, on_timeout="resume")),
            {("stage b", "event", "x"), ("stage b", "timeout", "after 1 min")},
        ),
        (
            Pause(Wait("x", timeout=60, on_timeout="c")),
            {("stage b", "event", "x"), ("stage c", "timeout", "after 1 min")},
        ),
        (
            branch({Condition("n", ">", 5): "c", (Condition("m", "exists"), Condition("k", "==", StateRef("q"))): "a"}),
            {
                ("stage c", "choice", "n > 5"),
                ("stage a", "choice", "m exists and k == state q"),
                ("stage b", "choice", "otherwise"),
            },
        ),
        (
            switch("s", {"x": "c", 1: "c", None: "a"}, otherwise="a"),
            {("stage c", "choice", "s = x or s = 1"), ("stage a", "choice", "s = null or otherwise")},
        ),
        (work, {("unknown a", "code", "work()"), ("stage b", "code", "")}),
    ],
    ids=[
        "advance",
        "jump",
        "text",
        "loop",
        "terminate",
        "fail",
        "delay",
        "delay-then",
        "wait",
        "wait-several",
        "wait-ways",
        "timeout-fail",
        "timeout-abort",
        "timeout-resume",
        "timeout-stage",
        "branch",
        "switch",
        "function",
    ],
)
def test_where_a_router_leads(router, expected):
    """Every kind of router is an edge per target, with what it depends on; that of a function is dashed."""
    panel = stages(run_step("start"), run_step("a", router=router), run_step("b"), run_step("c"))
    assert {(target, kind, label) for source, target, kind, label in edges(panel) if source == "stage a"} == expected


class Odd:
    """A router whose name cannot be read."""

    def __call__(self, state):
        """Decide."""

    def __getattr__(self, name):
        raise RuntimeError(name)


class Nameless:
    """A router without a name."""

    def __call__(self, state):
        """Decide."""


@pytest.mark.parametrize(
    ("router", "label"),
    [(partial(work), "work()"), (Nameless(), "function()"), (Odd(), "function()")],
    ids=["partial", "nameless", "odd"],
)
def test_routers_of_any_kind_are_named(router, label):
    """A callable is shown by the name of its function, or as a function."""
    panel = stages(run_step("a", router=router), run_step("b"))
    assert [edge.label for edge in panel.edges if edge.kind == "code"] == [label, ""]


def test_failures_lead_on():
    """A stage's `on_failure` is an edge or a line, that of the workflow one edge for all."""
    panel = stages(
        run_step("a", on_failure="fix"),
        run_step("b", on_failure="pause"),
        run_step("c", on_failure="fail"),
        run_step("fix", aside=True),
        on_failure="fix",
    )
    assert ("stage a", "stage fix", "failure", "failure") in edges(panel)
    assert ("failure", "stage fix", "failure", "") in edges(panel)
    assert node(panel, "stage b").lines == ("a failure pauses the run",)
    assert node(panel, "stage c").lines == ("a failure ends the run",)


def test_a_deadline_leads_on():
    """The limit is said of the workflow, and the stage it leads to has an edge, in the pipeline that has that stage."""
    main = Pipeline("main", [run_step("a"), run_step("late", aside=True)])
    other = Pipeline("other", [run_step("b")])
    workflow = Workflow("w", pipelines=[main, other], timeout="2h", on_timeout="late")
    graph = read_graph(workflow.definition)
    assert "at most 2 h" in graph.subtitle
    of_main, of_other = graph.panels
    assert ("deadline", "stage late", "timeout", "") in edges(of_main)
    assert node(of_main, "deadline").title == "after 2 h"
    assert not [each for each in of_other.nodes if each.id == "deadline"]
    assert not [each for each in stages(run_step("a"), timeout=5).nodes if each.id == "deadline"]


def test_many_failures_share_an_edge():
    """From four stages on, failures that lead to one place are one edge; each stage still says it."""
    panel = stages(*(run_step(f"s{n}", on_failure="fix") for n in range(4)), run_step("fix", aside=True))
    assert [edge.source for edge in panel.edges if edge.kind == "failure"] == ["failure fix"]
    assert node(panel, "failure fix").title == "failure of 4 stages"
    assert node(panel, "stage s3").lines == ("a failure leads to fix",)


def test_failing_wait_with_a_way_ends_nothing():
    """Where a timeout's failure leads on, there is no end for it."""
    panel = stages(
        Stage("w", router=Pause(Wait("x", timeout=5)), on_failure="fix"), run_step("b"), run_step("fix", aside=True)
    )
    assert {each.kind for each in panel.nodes} == {"wait", "stage", "aside", "completed"}


def test_a_contract_is_shown():
    """A step with models shows what it takes and gives."""

    class Order(BaseModel):
        """What it takes."""

    tasks = [Task("one", work, input=Order, output=Order), Task("two", work, output=Order), Task("three", work)]
    panel = stages(Stage("s", [task.step() for task in tasks]))
    assert node(panel, "stage s").lines == ("one · Order → Order", "two · state → Order", "three")


def test_waits_say_what_they_wait_for():
    """A wait shows its events, its conditions, and that it counts no earlier event."""
    wait = Wait("a.*", correlate={"order": StateRef("id")}, where=[Condition("n", ">=", 2)], early=False)
    panel = stages(Stage("w", router=Pause(wait)), run_step("b"))
    assert node(panel, "stage w").lines == (
        "waits for a.*",
        "with order = state id and n >= 2",
        "only while it is paused",
    )


def test_triggers_begin_at_the_first_stage_of_their_pipeline():
    """Each trigger stands above the pipeline that it starts, with its event, conditions and key."""
    workflow = Workflow(
        "w",
        triggers={
            "placed": Trigger("order.placed", pipeline="one", when=[Condition("n", ">", 1)], key="id"),
            "checked": Trigger("c", pipeline="two", when=work, key=work),
            "called": Trigger(pipeline="two"),
            "cron": Trigger(pipeline="two", cron="0 6 * * *", tz="Europe/Berlin"),
            "every": Trigger(pipeline="two", every="15m"),
        },
        pipelines=[Pipeline("one", [run_step("a", aside=True), run_step("b")]), Pipeline("two", [run_step("a")])],
    )
    one, two = read_graph(workflow.definition).panels
    assert node(one, "trigger placed").lines == ("order.placed", "when n > 1", "by id")
    assert ("trigger placed", "stage b", "next", "") in edges(one)
    assert [(each.title, each.lines) for each in two.nodes if each.kind == "trigger"] == [
        ("checked", ("c", "when work()", "by a key of a function")),
        ("called", ("by a call",)),
        ("cron", ("at 0 6 * * * in Europe/Berlin",)),
        ("every", ("every 15 min",)),
    ]
    assert (one.title, two.title) == ("one", "two")


# --------------------------------------------------------------------------------------------------- runs in the graph
def approval():
    workflow = Workflow("w", label="Approval")
    workflow.on("go")
    workflow.step(id="a")(work)
    workflow.wait("ok", on="yes")
    workflow.step(id="b")(work)
    return workflow


async def test_the_place_of_a_run_and_its_way():
    """A run's stage is marked with its status, the stages it entered are too, and other runs are counted."""
    workflow = approval()
    async with WorkflowRuntime(workflow, clock=VirtualClock()) as rt:
        ids = [(await rt.invoke("w", "go")).run_id for _ in range(3)]
        info, timeline = await rt.get_run(ids[0]), await rt.timeline(ids[0])
        runs = (await rt.find_runs()).items
    [panel] = read_graph(workflow.definition, run=info, timeline=timeline, runs=runs).panels
    found = {each.id: (each.mark, each.passed, each.badges) for each in panel.nodes if each.kind != "trigger"}
    assert found["stage a"] == ("", 1, ())
    assert found["stage ok"] == ("paused", 1, ("3 paused",))
    assert found["stage b"] == ("", 0, ())
    svg = workflow.to_svg(run=info, timeline=timeline)
    assert "paused here" in svg
    assert f"run {ids[0]}, paused" in svg
    assert "paused here" in workflow.to_mermaid(run=info)
    assert "3 paused" in workflow.to_mermaid(runs=runs)


def test_drawing_leaves_the_workflow_open():
    """A workflow that was drawn can still be added to, and its definition draws the same."""
    workflow = approval()
    first = workflow.to_mermaid(), workflow.to_svg()
    workflow.step(id="c")(work)
    assert (workflow.to_mermaid(), workflow.to_svg()) != first
    assert workflow.definition.to_mermaid() == workflow.to_mermaid()
    assert workflow.definition.to_svg() == workflow.to_svg()


def test_faults_are_refused():
    """What has faults is not drawn: all of them are listed, as at registration."""
    workflow = Workflow("w")
    workflow.step(id="a", then="nowhere")(work)
    with pytest.raises(InvalidDefinition, match="nowhere"):
        workflow.to_svg()


# ------------------------------------------------------------------------------------------------------------ any text
ODD = [
    'a "quoted" <b>text</b> & more',
    "end",
    "subgraph x[1]; --> y",
    "line\nbreak\u2028and\ttab",
    "`**markdown**` #35; %%{init}%%",
    "héllo — 日本語 🚢 \u202eflip",
    "]]>",
    "--><script>alert(1)</script>",
    "x" * 500,
    "\x00\x1b\ud800\ufffe",
]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_any_label_can_be_drawn(text):
    """No label breaks a picture: the SVG is XML and shows it, and in Mermaid it stays between its quotes."""
    workflow = Workflow("w", label=text)
    workflow.on("go", when=[Condition("field", "==", text)] if text.isprintable() else ())
    workflow.step(id="a", label=text, stage="s")(work)
    workflow.step(id="b", label=text, stage="s")(work)
    workflow.step(id="c")(work)
    root = ET.fromstring(workflow.to_svg())
    assert {each.tag.partition("}")[2] for each in root.iter()} <= {
        "svg",
        "title",
        "style",
        "rect",
        "g",
        "path",
        "text",
    }
    for line in workflow.to_mermaid().splitlines()[1:]:
        assert re.fullmatch(r'[^"]*("[^"<>`]*(<b>[^"<>`]*</b>)?(<br>[^"<>`]*)*")?[^"]*', line), line
        assert len(line) < 2000


def test_any_id_is_safe_in_mermaid():
    """Boxes are named n0, n1 and so on, so ids that are words of Mermaid, or hardly text, do no harm."""
    workflow = Workflow("w")
    for name in ("end", "class", "a b", 'x"]', "n0", "日本", "--"):
        workflow.step(id=name)(work)
    text = workflow.to_mermaid()
    names = re.findall(r"^    (\w+)[\[(]", text, re.MULTILINE)
    assert names == [f"n{number}" for number in range(8)]
    assert max(Counter(names).values()) == 1


def test_children_deadlines_and_further_pipelines():
    """A stage says which children it starts; triggers and failure ways are shown in their own pipelines only."""
    wf = Workflow("shop", timeout="7d", on_timeout="late", on_failure="late")
    wf.on("order.placed")
    for name in ("review", "stock"):
        wf.pipeline(name).step(lambda: None, id="look")
    wf.fork("review", "stock", id="checks", join="any")
    wf.map("stock", over="lines", into="prices", on_child_failure="collect")
    wf.call("billing")
    wf.step(math.prod, id="sum", executor="process", each="numbers")
    wf.aside(lambda: None, id="late")
    graph = read_graph(wf.draft()[0])
    assert "at most 7 d" in graph.subtitle
    main, *others = graph.panels
    lines = {node.title: node.lines for node in main.nodes}
    assert lines["checks"] == ("review and stock, side by side", "the first one is enough")
    assert lines["prices"] == ("for each of lines: stock, 10 at once", "failures are collected")
    assert lines["billing"] == ("a run of billing",)
    assert lines["sum"] == ("for each of numbers, 10 at once · in a process",)
    assert ("deadline", "stage late", "timeout") in {(edge.source, edge.target, edge.kind) for edge in main.edges}
    for panel in others:
        assert {node.kind for node in panel.nodes} == {"stage", "completed"}
        boxes = {node.id for node in panel.nodes}
        assert all({edge.source, edge.target} <= boxes for edge in panel.edges)
