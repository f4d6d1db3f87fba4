"""The commands that let runs go on: retry, rerun, fork; compare; dead letters."""

from __future__ import annotations

import asyncio

import pytest

from poundlock.codecs import dump
from poundlock.model.outbox import Refused, error_text
from poundlock.stores import open as open_store
from poundlock.testing.store_contract import Scribe, event_of

APP = """
from pathlib import Path
from poundlock import Workflow

orders = Workflow("orders")

@orders.on("order.placed")
@orders.step
def reserve(order):
    return {"reserved": order}

@orders.step
def charge(reserved, card="old"):
    if card == "old" and not Path("works").exists():
        raise ValueError("no card")
    return {"charged": card}
"""


@pytest.fixture
def app(tmp_path):
    file = tmp_path / "mended_app.py"
    file.write_text(APP, encoding="utf-8")
    return file


@pytest.fixture
def failed(call, feed, app, store):
    """The id of a run that failed."""
    assert call("run", app, "--events", feed({"type": "order.placed", "payload": {"order": 1}}), "--store", store)
    [run] = call("runs", "ls", "--status", "failed", "--store", store, "--json").json["runs"]
    return run["run_id"]


def test_retry_with_the_app(call, failed, app, store):
    """With --app the run goes on to its end; the timeline says who wanted it, and why."""
    said = call(
        "retry", failed, "--store", store, "--app", app, "--patch", '{"card": "new"}', "--reason", "mended", "--json"
    )
    assert (said.code, said.json["status"], said.json["attempt"]) == (0, "completed", 2)
    entries = call("timeline", "show", failed, "--store", store, "--json").json["entries"]
    [entry] = [entry for entry in entries if entry["type"] == "run:retry"]
    assert (entry["payload"]["by"], entry["payload"]["reason"]) == ("cli", "mended")


def test_retry_without_the_app(call, failed, app, feed, store):
    """Without --app the run becomes ready; the next runtime that has its workflow takes it up."""
    said = call("retry", failed, "--store", store, "--patch", '{"card": "new"}')
    assert said.code == 0
    assert f"orders run {failed}: ready, attempt 2: it begins with stage 'charge'" in said.out
    assert call("runs", "show", failed, "--store", store, "--json").json["status"] == "ready"
    assert call("run", app, "--events", feed(), "--store", store).code == 0
    shown = call("runs", "show", failed, "--store", store, "--json").json
    assert (shown["status"], shown["state"]["charged"]) == ("completed", "new")


def test_rerun_and_fork(call, failed, app, store):
    """`rerun --from` repeats the run from a stage, `fork --at` starts a new one from a stage or an entry."""
    done = call("retry", failed, "--store", store, "--app", app, "--patch", '{"card": "new"}', "--json")
    assert done.json["status"] == "completed"
    again = call("rerun", failed, "--from", "charge", "--store", store, "--app", app, "--patch", '{"card": "gold"}')
    assert (again.code, f"orders run {failed}: completed, attempt 3" in again.out) == (0, True)
    by_stage = call("fork", failed, "--at", "charge", "--store", store, "--app", app, "--json").json
    assert (by_stage["status"], by_stage["lineage"]) == ("completed", [failed])
    by_entry = call("fork", failed, "--at", "3", "--patch", '{"card": "x"}', "--store", store, "--app", app)
    assert (by_entry.code, f"forked from {failed}" in by_entry.out) == (0, True)


def test_compare(call, failed, app, store):
    """`runs compare` says where two runs, or two attempts, differ; it reads only."""
    patched = ("--patch", '{"card": "new"}', "--store", store, "--app", app)
    fork = call("fork", failed, "--at", "charge", *patched, "--json")
    said = call("runs", "compare", failed, fork.json["run_id"], "--store", store)
    assert said.code == 0
    assert "status: failed -> completed" in said.out
    assert call("retry", failed, *patched).code == 0
    shape = call("runs", "compare", failed, failed, "--attempt-a", "1", "--store", store, "--json").json
    assert shape["outcome"] == {"status": ["failed", "completed"], "error": ["ValueError: no card", None]}


def test_what_is_refused(call, failed, app, store):
    """Refusals have exit code 1 and the error's code, wrong arguments 2; nothing is changed, nothing created."""
    assert "[STAGE_GONE]" in call("retry", failed, "--at", "chrage", "--store", store, "--app", app).err
    assert "[NOT_MENDABLE]" in call("rerun", failed, "--from", "nothing", "--store", store).err
    unknown = call("fork", "nobody", "--at", "charge", "--store", store)
    assert (unknown.code, "[RUN_NOT_FOUND]" in unknown.err) == (1, True)
    wrong = call("retry", failed, "--patch", "[1]", "--store", store)
    assert (wrong.code, "--patch is not a JSON object" in wrong.err) == (2, True)
    missing = call("retry", "nobody", "--store", "sqlite:///missing.db")
    assert missing.code != 0
    assert call("runs", "show", failed, "--store", store, "--json").json["attempt"] == 1
    none = call("runs", "compare", failed, "nobody", "--store", store)
    assert (none.code, "[RUN_NOT_FOUND]" in none.err) == (1, True)


@pytest.fixture
def letter(store):
    """A store with a dead letter; returns its id."""

    async def write():
        place = open_store(store)
        await place.open("w1")
        scribe = Scribe(place)
        await scribe.create()
        event = event_of("e2", "order.approved", {"by": 1}).event
        await scribe.move(outgoing=(Refused(event, dump(event.payload), error_text("ValueError", "no", None, "gate")),))
        [row] = await scribe.outbox(dead=True)
        await place.close()
        return str(row.seq)

    return asyncio.run(write())


def test_dead_letters(call, letter, store):
    """`events dead` lists what could not be delivered; `events replay` has it delivered by the next runtime."""
    listed = call("events", "dead", "--store", store)
    assert (listed.code, "No dead letters." in listed.out) == (0, False)
    [shown] = call("events", "dead", "--store", store, "--json").json["dead_letters"]
    assert (shown["id"], shown["error"], shown["wait"]) == (letter, "ValueError: no", "gate")
    assert shown["event"]["payload"] == {"by": 1}
    said = call("events", "replay", letter, "--store", store, "--json")
    assert (said.code, said.json) == (0, {"id": letter, "replayed": True})
    assert "No dead letters." in call("events", "dead", "--store", store).out
    again = call("events", "replay", letter, "--store", store)
    assert (again.code, "[DEAD_LETTER_NOT_FOUND]" in again.err) == (1, True)
    for words in (("events", "dead"), ("events", "replay", "1")):
        assert call(*words).code == 2
        assert call(*words, "--store", "sqlite:///missing.db").code != 0
