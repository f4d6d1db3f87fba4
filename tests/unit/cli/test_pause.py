"""`poundlock pause` and `poundlock unpause`."""

from __future__ import annotations

import pytest


@pytest.fixture
def waiting(call, app, feed, store):
    """The id of a run that waits for its approval."""
    event = {"type": "order.placed", "payload": {"order": "A-7"}}
    assert call("run", app, "--events", feed(event), "--store", store).code == 0
    [run] = call("runs", "ls", "--store", store, "--json").json["runs"]
    return run["run_id"]


def status(call, store, run_id):
    return call("runs", "show", run_id, "--store", store, "--json").json["status"]


def test_a_run_is_paused_and_unpaused(call, store, waiting):
    """The run says by whom and why, is not resumed meanwhile, and waits on afterwards."""
    done = call("pause", waiting, "--reason", "on holiday", "--store", store)
    assert done.code == 0
    assert "paused by cli" in done.out
    assert "on holiday" in done.out
    shown = call("runs", "show", waiting, "--store", store)
    assert "on holiday" in shown.out
    [pause] = call("runs", "ls", "--store", store, "--json").json["runs"][0]["paused_by"]
    assert (pause["scope"], pause["by"], pause["reason"]) == ("run", "cli", "on holiday")
    refused = call("resume", waiting, "--store", store)
    assert refused.code == 1
    assert "unpause" in refused.err
    assert call("pause", waiting, "--store", store, "--json").json["paused_by"] == [pause]
    undone = call("unpause", waiting, "--store", store, "--json").json
    assert (undone["status"], undone["paused_by"]) == ("paused", [])
    assert call("resume", waiting, "--store", store).code == 0


def test_a_workflow_and_all(call, app, feed, store, waiting):
    """A paused workflow says so in lists, and queues or rejects what comes until it is unpaused."""
    done = call("pause", "--workflow", "orders", "--incoming", "reject", "--reason", "closed", "--store", store)
    assert (done.code, done.out) == (0, "Workflow orders: paused\n")
    [run] = call("runs", "ls", "--store", store, "--json").json["runs"]
    assert [pause["scope"] for pause in run["paused_by"]] == ["workflow"]
    assert "closed" in call("runs", "show", waiting, "--store", store).out
    event = {"type": "order.placed", "payload": {"order": "B-8"}}
    fed = call("run", app, "--events", feed(event), "--store", store, "--json", "--timeout", "1").json
    assert fed["receipts"]["orders"] == {"rejected": 1}
    assert call("pause", "--all", "--store", store, "--json").json["paused_workflows"].keys() == {"*", "orders"}
    assert "but all workflows are" in call("unpause", "--workflow", "orders", "--store", store).out
    assert call("unpause", "--all", "--store", store).out == "All workflows: not paused\n"
    assert call("runs", "ls", "--store", store, "--json").json["runs"][0]["paused_by"] == []


@pytest.mark.parametrize("command", ["pause", "unpause"])
def test_wrong_calls(call, store, waiting, command, tmp_path):
    """What is not clear is refused with exit code 2, what is not there with 1; nothing is created."""
    for words in ((), (waiting, "--all"), ("--workflow", "orders", "--all")):
        assert call(command, *words, "--store", store).code == 2
    assert call(command, waiting).code == 2
    unknown = call(command, "nobody", "--store", store, "--json")
    assert (unknown.code, unknown.json["error"]["code"]) == (1, "RUN_NOT_FOUND")
    unknown = call(command, "--workflow", "nobody", "--store", store, "--json")
    assert (unknown.code, unknown.json["error"]["code"]) == (1, "NOT_REGISTERED")
    missing = f"sqlite:///{tmp_path / 'missing.db'}"
    assert call(command, "--all", "--store", missing).code == 1
    assert not (tmp_path / "missing.db").exists()


def test_an_ended_run(call, app, store, waiting):
    """A run that has ended is neither paused nor unpaused."""
    answered = call("resume", waiting, "--patch", '{"by": "you"}', "--app", app, "--store", store)
    assert answered.code == 0
    for command in ("pause", "unpause"):
        refused = call(command, waiting, "--store", store, "--json")
        assert (refused.code, refused.json["error"]["code"]) == (1, "RUN_FINISHED")
    assert status(call, store, waiting) == "completed"
