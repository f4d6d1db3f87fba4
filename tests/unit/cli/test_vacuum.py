"""`poundlock vacuum`, and what `poundlock doctor` says of retention."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

KEEPING = """
from poundlock import Retention, Workflow, WorkflowRuntime

orders = Workflow("orders", retention=Retention(ended_runs=0))

@orders.on("go")
@orders.step
def ship(n):
    return {"shipped": "x" * 20_000}
"""


@pytest.fixture
def full(call, tmp_path, feed, store):
    """A store with three ended runs, and the app they are of."""
    app = tmp_path / "keeping.py"
    app.write_text(KEEPING, encoding="utf-8")
    events = [{"type": "go", "payload": {"n": number}} for number in range(3)]
    assert call("run", app, "--events", feed(*events), "--store", store).code == 0
    assert len(runs(call, store)) == 3
    return app


def runs(call, store):
    return call("runs", "ls", "--store", store, "--json").json["runs"]


def test_a_dry_run_says_what_would_go(call, full, store):
    """It counts by workflow, and changes nothing."""
    said = call("vacuum", "--store", store, "--older-than", "0s", "--dry-run")
    assert said.code == 0
    assert "Would delete 3 ended runs" in said.out
    assert "orders: 3" in said.out
    assert len(runs(call, store)) == 3


def test_old_runs_are_deleted(call, full, store):
    """Those that ended so long ago; without --older-than no run goes."""
    assert call("vacuum", "--store", store, "--json").json["runs"] == 0
    assert call("vacuum", "--store", store, "--older-than", "1d", "--json").json["runs"] == 0
    done = call("vacuum", "--store", store, "--older-than", "0s", "--json").json
    assert (done["runs"], done["by_workflow"], done["done"]) == (3, {"orders": 3}, True)
    assert runs(call, store) == []


def test_the_file_becomes_smaller_on_request(call, full, store):
    """With --compact it has no free pages, and nothing of the deleted runs is left in it."""
    path = Path(store.removeprefix("sqlite:///"))
    done = call("vacuum", "--store", store, "--older-than", "0s", "--compact", "--json").json
    assert done["bytes"] < done["bytes_before"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert b"xxxx" not in path.read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--store", "memory:"],
        ["--store", "sqlite:///nowhere.db"],
        ["--older-than", "soon"],
        ["--dead-letters", "soon"],
        ["--dry-run", "--compact"],
    ],
)
def test_wrong_calls_are_refused(call, full, store, arguments, monkeypatch, tmp_path):
    """Each with a sentence; nothing is deleted, and no file is made."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    given = arguments if not arguments or "--store" in arguments else ["--store", store, *arguments]
    said = call("vacuum", *given)
    assert said.code in (1, 2)
    assert said.err.startswith("poundlock: ")
    assert sorted(tmp_path.iterdir()) == before
    assert len(runs(call, store)) == 3


def test_the_doctor_says_what_retention_would_delete(call, full, store):
    """By the retention of the app's workflows, without deleting it."""
    said = call("doctor", full, "--store", store)
    assert "Would delete 3 ended runs" in said.out
    assert call("doctor", full, "--store", store, "--json").json["retention"]["runs"] == 3
    assert "retention" not in call("doctor", "--store", store, "--json").json
    assert len(runs(call, store)) == 3


GIVING_UP = """
from poundlock import Retention, Trigger, Workflow

sender = Workflow("sender")

@sender.on("go")
@sender.step
def send(ctx):
    ctx.emit("strict.in", {"n": 1})

strict = Workflow("strict", triggers={"in": Trigger("strict.in", map=lambda event: 1 / 0)})

@strict.step
def never():
    return {}
"""


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ([], 1),
        (["--dead-letters", "same"], 0),
        (["--dead-letters", "0s"], 0),
        (["--dead-letters", "9d"], 1),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_dead_letters_stay_unless_somebody_says_otherwise(call, tmp_path, feed, store, options, left, dry):
    """What the app says of them is not known here, and nobody has taken them yet: they stay, also without their run."""
    app = tmp_path / "giving_up.py"
    app.write_text(GIVING_UP, encoding="utf-8")
    assert call("run", app, "--events", feed({"type": "go", "payload": {}}), "--store", store).code == 0
    words = ["vacuum", "--store", store, "--older-than", "0s", *options, *(["--dry-run"] if dry else [])]
    said = call(*words, "--json").json
    assert (said["runs"], said["dead_letters"]) == (1, 1 - left)
    assert len(call("events", "dead", "--store", store, "--json").json["dead_letters"]) == (1 if dry else left)
