"""`poundlock graph`, and a run's chart as a picture."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

PLACED = [
    {"type": "order.placed", "id": "1", "payload": {"order": "A", "amount": 500}},
    {"type": "order.placed", "id": "2", "payload": {"order": "B", "amount": 5}},
]


@pytest.fixture
def fed(call, app, feed, store):
    """Return the id of a paused run; the store holds two."""
    assert call("run", app, "--events", feed(*PLACED), "--store", store).code == 0
    return call("runs", "ls", "--store", store, "--workflow", "orders", "--json").json["runs"][0]["run_id"]


def test_a_workflow_is_drawn_as_mermaid(call, app):
    """Without options the picture is Mermaid on standard output."""
    said = call("graph", app, "orders")
    assert said.code == 0
    assert said.out.startswith("flowchart TD\n")
    assert '-->|"order.approved"|' in said.out


def test_a_workflow_is_drawn_into_a_file(call, app, tmp_path):
    """The name of the file says the format, and `--format` says it too."""
    said = call("graph", app, "orders", "--output", tmp_path / "orders.svg")
    assert (said.code, said.out) == (0, "")
    assert ET.parse(tmp_path / "orders.svg").getroot().tag.endswith("svg")
    assert call("graph", app, "orders", "--format", "svg").out == (tmp_path / "orders.svg").read_text(encoding="utf-8")


def test_a_run_is_marked(call, app, store, fed):
    """With a run, its stage and its status are marked, and with a store alone, all runs are counted."""
    assert "paused here" in call("graph", app, "orders", "--run", fed, "--store", store, "--format", "svg").out
    counted = call("graph", app, "orders", "--store", store).out
    assert "2 paused" in counted
    assert "here" not in counted
    assert "paused" not in call("graph", app, "orders").out


def test_the_store_of_the_environment_is_for_runs_only(call, app, monkeypatch):
    """A store in the environment is not opened unless a run is asked for: a picture needs none."""
    monkeypatch.setenv("POUNDLOCK_STORE", "sqlite:///not-there.db")
    assert call("graph", app, "orders").code == 0


def test_the_workflows_of_a_runtime(call, tmp_path):
    """Where the app has a runtime, its workflows count; a single one need not be named."""
    path = tmp_path / "one_app.py"
    path.write_text(
        "from poundlock import Workflow, WorkflowRuntime\n"
        "def make():\n"
        "    wf = Workflow('inside')\n"
        "    wf.step(id='a')(lambda: None)\n"
        "    return wf\n"
        "runtime = WorkflowRuntime(make())\n",
        encoding="utf-8",
    )
    assert '["a"]' in call("graph", path).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "has several workflows: name one, orders, audit"),
        (["order"], "has no workflow 'order': did you mean 'orders'"),
        (["orders", "--format", "png"], "'png' is not a format: use mermaid or svg"),
        (["orders", "--run", "x"], "no store is given"),
        (["orders", "--output", "missing/orders.svg"], "cannot be written"),
    ],
    ids=["several", "unknown", "format", "store", "folder"],
)
def test_wrong_calls_say_what_to_do(call, app, words, message):
    """A wrong call ends with 2 and says what to write instead."""
    said = call("graph", app, *words)
    assert said.code == 2
    assert message in said.err
    assert "[USAGE]" in said.err


def test_runs_that_do_not_fit(call, app, store, fed):
    """A run of another workflow is refused, and one that is not there is not found."""
    other = call("graph", app, "audit", "--run", fed, "--store", store)
    assert (other.code, "is one of workflow 'orders'" in other.err) == (2, True)
    absent = call("graph", app, "orders", "--run", "no", "--store", store)
    assert (absent.code, "RUN_NOT_FOUND" in absent.err) == (1, True)


def test_a_chart_is_drawn_into_a_file(call, store, fed, tmp_path):
    """`timeline show --svg` writes the same rows as the chart on the screen."""
    said = call("timeline", "show", fed, "--store", store, "--svg", tmp_path / "run.svg")
    assert (said.code, said.out) == (0, "")
    root = ET.parse(tmp_path / "run.svg").getroot()
    rows = [each.attrib["data-row"] for each in root.iter() if "data-row" in each.attrib]
    shown = call("timeline", "show", fed, "--store", store).out.splitlines()[1:]
    assert rows == ["reserve", "approval"] == [line.split()[0] for line in shown[:2]]
