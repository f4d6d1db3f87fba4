"""`poundlock check` and `poundlock doctor`: what they find, and that they change nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from poundlock import WorkflowRuntime
from poundlock.cli.app_loading import load_app
from poundlock.clock import SystemClock

ORDERS = """
from pydantic import BaseModel
from poundlock import Pause, Pipeline, Stage, Step, Trigger, Wait, Workflow

{model}

def ship():
    return {{"shipped": True}}

{extra}

stages = [Stage("gate", router=Pause(Wait("ok", id="gate", timeout=60{late}))), Stage("{last}", [Step("ship", ship)])]
{name} = Workflow(
    "{id}", triggers={{"go": Trigger("go")}}, pipelines=[Pipeline("{pipeline}", stages)], {options}
)
"""


def version(tmp_path, name="app.py", **parts):
    """Write one version of an app."""
    known = {
        "model": "",
        "extra": "",
        "late": "",
        "last": "ship",
        "name": "orders",
        "id": "orders",
        "pipeline": "main",
        "options": "",
    }
    path = tmp_path / name
    path.write_text(ORDERS.format(**(known | parts)), encoding="utf-8")
    return path


@pytest.fixture
def waiting(call, tmp_path, feed, store):
    """A store with a run that is paused at its wait; returns the run's id."""
    app = version(tmp_path, "first.py")
    assert call("run", app, "--events", feed({"type": "go", "payload": {"n": 1}}), "--store", store).code == 0
    [run] = call("runs", "ls", "--store", store, "--json").json["runs"]
    return run["run_id"]


def fingerprint(store):
    return hashlib.sha256(Path(store.removeprefix("sqlite:///")).read_bytes()).hexdigest()


def test_a_deployment_that_fits(call, tmp_path, waiting, store):
    """With nothing in the way, the exit code is 0, and the file is what it was."""
    before = fingerprint(store)
    said = call("check", version(tmp_path), "--store", store)
    assert (said.code, said.out) == (0, "Active runs checked: 1. All of them can go on.\n")
    assert fingerprint(store) == before


MODEL = "class State(BaseModel):\n    n: int = 0\n    region: str\n    shipped: bool = False"
EMPTYING = "def migrate(state, definition_hash):\n    return {}"
MIGRATE = "def migrate(state, definition_hash):\n    return {'n': 1, 'region': 'eu'}"


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        pytest.param({"id": "others"}, "NOT_REGISTERED", id="workflow"),
        pytest.param({"pipeline": "other"}, "STAGE_GONE", id="pipeline"),
        pytest.param({"last": "send"}, "STAGE_GONE", id="stage"),
        pytest.param({"last": "send", "options": "on_change='pinned'"}, "DEFINITION_CHANGED", id="pinned"),
        pytest.param({"last": "send", "options": "on_change='fail'"}, "DEFINITION_CHANGED", id="fail"),
        pytest.param({"model": MODEL, "options": "state=State"}, "STATE_INVALID", id="state"),
        pytest.param(
            {"model": MODEL, "extra": EMPTYING, "options": "state=State, migrate=migrate"},
            "STATE_INVALID",
            id="migration",
        ),
    ],
)
def test_what_is_in_the_way(call, tmp_path, waiting, store, parts, code):
    """Each run that could not go on is named with the code it would have; the exit code is 1."""
    app = version(tmp_path, **parts)
    said = call("check", app, "--store", store, "--json")
    assert said.code == 1
    assert said.json["runs"] == 1
    [misfit] = said.json["misfits"]
    assert (misfit["run_id"], misfit["code"], misfit["status"]) == (waiting, code, "paused")
    shown = call("check", app, "--store", store)
    assert shown.code == 1
    assert waiting in shown.out
    assert "1 cannot go on." in shown.out


def test_a_state_that_migrate_makes_fit(call, tmp_path, waiting, store):
    """The state is checked as `migrate` would leave it."""
    app = version(tmp_path, model=MODEL, extra=MIGRATE, options="state=State, migrate=migrate")
    assert call("check", app, "--store", store).code == 0


def test_a_wait_whose_patch_function_is_gone(call, tmp_path, feed, store):
    """A run that is paused at a wait with a patch function needs a stage that declares it."""
    first = version(tmp_path, "first.py", extra="def took(event):\n    return {}", late=", patch=took")
    call("run", first, "--events", feed({"type": "go", "payload": {}}), "--store", store)
    renamed = version(tmp_path)
    renamed.write_text(renamed.read_text().replace('id="gate"', 'id="door"'))
    [misfit] = call("check", renamed, "--store", store, "--json").json["misfits"]
    assert misfit["code"] == "WAIT_GONE"


def went_on(app, store, run_id):
    """Return the error of a run after its event, under an app."""

    async def go():
        async with WorkflowRuntime(*load_app(app).workflows, store=store) as rt:
            await rt.emit("ok")
            return (await rt.wait(run_id, until="rest")).error

    return asyncio.run(go())


def test_what_check_says_is_what_happens(tmp_path, waiting, store):
    """The run that `check` names is paused with that code when it goes on."""
    assert went_on(version(tmp_path, last="send"), store, waiting).code == "STAGE_GONE"


def test_the_store_of_an_apps_runtime(call, tmp_path, waiting, store):
    """An app with a runtime of its own says where the store is."""
    app = version(tmp_path)
    runtime = f"from poundlock import WorkflowRuntime\nruntime = WorkflowRuntime(orders, store={store!r})\n"
    app.write_text(app.read_text() + runtime)
    assert "Active runs checked: 1." in call("check", app).out


def test_doctor_of_a_healthy_store(call, waiting, store):
    """Size and growth are told; the exit code is 0."""
    said = call("doctor", "--store", store)
    assert said.code == 0
    assert said.out.startswith("The store has 0.")
    assert "since it was opened at" in said.out
    assert said.out.endswith("1 active runs.\n")


def test_doctor_names_runs_that_need_attention(call, tmp_path, waiting, store):
    """Runs paused with an error, and runs that are overdue, are named by their codes."""
    went_on(version(tmp_path, last="send"), store, waiting)
    before = fingerprint(store)
    said = call("doctor", "--store", store, "--json")
    assert said.code == 1
    assert [(each["run_id"], each["code"]) for each in said.json["errors"]] == [(waiting, "STAGE_GONE")]
    assert said.json["store"]["bytes"] > 0
    assert said.json["misfits"] == []
    with_app = call("doctor", version(tmp_path, "other.py", last="send"), "--store", store)
    assert "Paused with an error" in with_app.out
    assert "Could not go on with this app" in with_app.out
    assert json.dumps(waiting).strip('"') in with_app.out
    assert fingerprint(store) == before


def test_doctor_names_overdue_runs(call, waiting, store, monkeypatch):
    """A run whose time is over, and that no runtime has taken, is stuck."""
    from poundlock import clock

    now = clock.SystemClock.now() + 3600
    monkeypatch.setattr(clock.SystemClock, "now", staticmethod(lambda: now))
    said = call("doctor", "--store", store, "--json")
    assert [(each["run_id"], each["code"]) for each in said.json["stuck"]] == [(waiting, "OVERDUE")]


def test_doctor_tells_what_operators_have_paused(call, waiting, store):
    """That a workflow, or everything, is paused is told, with who and why; it is no fault of a run."""
    assert call("doctor", "--store", store, "--json").json["paused_workflows"] == {}
    call("pause", "--all", "--reason", "moving house", "--store", store)
    call("pause", "--workflow", "orders", "--store", store)
    said = call("doctor", "--store", store)
    assert said.code == 0
    assert "All workflows are paused by cli since" in said.out
    assert "(moving house): `poundlock unpause --all`" in said.out
    assert "`poundlock unpause --workflow orders`" in said.out
    paused = call("doctor", "--store", store, "--json").json["paused_workflows"]
    assert (paused["*"]["reason"], paused["orders"]["scope"]) == ("moving house", "workflow")


@pytest.mark.parametrize("command", ["check", "doctor"])
def test_a_store_is_needed(call, tmp_path, command):
    """Without a store there is nothing to look at."""
    said = call(command, version(tmp_path))
    assert said.code == 2
    assert "--store" in said.err


TIMED = """
from poundlock import Workflow

report = Workflow("report")
report.on(cron="30 6 * * 1", tz="Europe/Berlin", missed="all")
report.on(every="15m")
report.on("by.hand")
report.step(lambda: None, id="write")
"""


def test_check_tells_when_triggers_fire_next(call, tmp_path, store, waiting):
    """The next three times of each time trigger, in UTC, as the runtime will fire; other triggers have none."""
    app = tmp_path / "timed.py"
    app.write_text(TIMED, encoding="utf-8")
    before = SystemClock().now()
    found = call("check", app, "--store", store, "--json").json["times"]
    after = SystemClock().now()
    assert [(each["workflow_id"], each["trigger_id"], each["missed"]) for each in found] == [
        ("report", "cron", "all"),
        ("report", "every", "once"),
    ]
    weekly, quarterly = [[dt.datetime.fromisoformat(text) for text in each["next"]] for each in found]
    local = [moment.astimezone(ZoneInfo("Europe/Berlin")) for moment in weekly]
    assert [(moment.weekday(), moment.hour, moment.minute) for moment in local] == [(0, 6, 30)] * 3
    assert [(b.date() - a.date()).days for a, b in pairwise(local)] == [7, 7]
    first = quarterly[0].timestamp()
    assert before < first <= after + 900
    assert [moment.timestamp() for moment in quarterly] == [first, first + 900, first + 1800]
    said = call("check", app, "--store", store).out
    assert "Next times of triggers, in UTC" in said
    assert "report cron (cron 30 6 * * 1 Europe/Berlin): " in said
    assert f"{weekly[1]:%Y-%m-%d %H:%M:%S}" in said  # the first one may just have come


def test_check_of_an_app_without_time_triggers_tells_of_none(call, tmp_path, store, waiting):
    """There is nothing about times then, and an empty list as JSON."""
    app = version(tmp_path)
    assert "Next times" not in call("check", app, "--store", store).out
    assert call("check", app, "--store", store, "--json").json["times"] == []
