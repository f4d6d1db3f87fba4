"""The commands: what they print and how they end."""

from __future__ import annotations

import asyncio
import json
import sqlite3

import pytest
from support import LAST_RESORT

PLACED = {"type": "order.placed", "payload": {"order": "A-7", "amount": 150}, "id": "1", "source": "/shop"}
OTHER = {"type": "order.placed", "payload": {"order": "B-8", "amount": 5}, "id": "2", "source": "/shop"}
APPROVED = {"type": "order.approved", "payload": {"order": "A-7", "by": "Ada"}, "id": "3", "source": "/shop"}
RUN_FIELDS = {
    "run_id", "workflow_id", "pipeline_id", "trigger_id", "status", "stage", "key", "attempt", "created_at",
    "updated_at", "wake_at", "parent_id", "lineage", "waits", "paused_by",
    "progress", "error",
}  # fmt: skip


@pytest.fixture
def parked(call, app, feed, store):
    """Feed two orders and return the runs that wait, by key."""
    assert call("run", app, "--events", feed(PLACED, OTHER), "--store", store).code == 0
    listed = call("runs", "ls", "--store", store, "--status", "paused", "--json").json["runs"]
    return {run["key"]: run["run_id"] for run in listed}


# ------------------------------------------------------------------------------------------------------------- run
def test_run_tells_what_became_of_the_events(call, app, feed, store):
    """`run` shows receipts by verdict per workflow, what is parked, and how many runs are where."""
    said = call("run", app, "--events", feed(PLACED, OTHER, {"type": "nobody.cares"}), "--store", store)
    assert (said.code, said.err) == (0, "")
    rows = [line.split() for line in said.out.splitlines()]
    assert ["orders", "audit"] in rows
    assert ["started", "2", "1"] in rows
    assert ["filtered", "-", "1"] in rows
    assert "3 events emitted from events.jsonl, 1 of them unmatched." in said.out
    assert "approval: order.approved with order = A-7" in said.out
    assert "Runs in the store: 2 paused, 1 completed." in said.out


def test_run_as_json(call, app, feed, store):
    """`run --json` prints one object of a stable shape and nothing else."""
    said = call("run", app, "--events", feed(PLACED, "nonsense", APPROVED), "--store", store, "--json")
    assert said.code == 1
    assert set(said.json) == {
        "feed", "lines", "already_handled", "emitted", "unmatched", "receipts", "faults", "runs", "held", "parked",
        "rested",
    }  # fmt: skip
    assert said.json["receipts"]["audit"] == {"started": 1}
    assert said.json["runs"]["completed"] == 2
    assert [(fault["line"], fault["code"]) for fault in said.json["faults"]] == [(2, "FEED_INVALID")]
    assert said.json["parked"] == []


def test_receipts_are_printed_as_they_come(call, app, feed):
    """`run --receipts` prints a line of JSON per event, numbered like the feed."""
    said = call("run", app, "--events", feed(PLACED, "", OTHER), "--receipts", "--json")
    *receipts, summary = map(json.loads, said.out.splitlines())
    assert [(receipt["line"], receipt["event"]["id"]) for receipt in receipts] == [(1, "1"), (3, "2")]
    assert [line["verdict"] for line in receipts[0]["lines"]] == ["started", "started"]
    assert summary["emitted"] == 2


def test_malformed_line_does_not_stop_the_others(call, app, feed):
    """A line that holds no event is reported with its number and reason; the rest goes on and the exit code is 1."""
    said = call("run", app, "--events", feed(PLACED, "{broken", {"no": "type"}, OTHER))
    assert said.code == 1
    first, second = said.err.splitlines()
    assert first.startswith("line 2: it is not JSON (Expecting property name")
    assert second.startswith("line 3: it has no type")
    assert "2 events emitted from events.jsonl, 2 lines with errors." in said.out


def test_refused_event_does_not_stop_the_others(call, app, feed, store):
    """An event whose id was used for something else is reported; the rest goes on and the exit code is 1."""
    conflicting = PLACED | {"payload": {"order": "C-9", "amount": 1}}
    said = call("run", app, "--events", feed(PLACED, conflicting, OTHER), "--store", store)
    assert said.code == 1
    assert said.err.startswith("line 2: event id '1'")
    assert "[IDEMPOTENCY_CONFLICT]" in said.err
    assert "2 events emitted" in said.out


def test_same_feed_again_is_recognised(call, app, feed, store):
    """On a store that was used before `run` goes on after the last line that has a receipt."""
    path = feed(PLACED, {"type": "order.placed", "payload": {"order": "X", "amount": 1}})
    assert call("run", app, "--events", path, "--store", store).code == 0
    path = feed(*path.read_text().splitlines(), OTHER)
    said = call("run", app, "--events", path, "--store", store, "--json")
    assert (said.json["already_handled"], said.json["emitted"]) == (2, 1)
    assert said.json["receipts"] == {"orders": {"started": 1}, "audit": {"filtered": 1}}


def test_malformed_line_is_reported_each_time(call, app, feed, store):
    """Lines before the one that is gone on with are skipped, but what is wrong with them is still said."""
    path = feed("nonsense", PLACED)
    for handled in (0, 1):
        said = call("run", app, "--events", path, "--store", store, "--json")
        assert (said.code, said.json["already_handled"], len(said.json["faults"])) == (1, handled, 1)


def test_event_sent_twice_is_no_mark(call, app, feed, store):
    """The second line of an event that was sent twice does not count as handled because the first one was."""
    assert call("run", app, "--events", feed(PLACED), "--store", store).code == 0
    said = call("run", app, "--events", feed(PLACED, OTHER, PLACED), "--store", store, "--json")
    assert (said.json["already_handled"], said.json["emitted"]) == (1, 2)
    assert said.json["receipts"]["orders"] == {"started": 1, "duplicate": 1}


def test_run_waits_until_runs_rest(call, feed, tmp_path):
    """`run` returns when nothing moves any more, delayed and queued runs included; a far delay is no movement."""
    app = tmp_path / "slow.py"
    app.write_text(
        "from poundlock import *\n"
        "wf = Workflow('slow', mode=Serialized())\n"
        "@wf.on('go')\n@wf.step\ndef first(seconds): return Delay(seconds=seconds)\n"
        "@wf.step\ndef second(): pass\n",
        encoding="utf-8",
    )
    soon, far = ({"type": "go", "payload": {"seconds": seconds}} for seconds in (0.05, 3600))
    patience = ("--timeout", LAST_RESORT)
    said = call("run", app, "--events", feed(soon, soon, far, soon), "--json", *patience)
    assert said.json["rested"] is True
    runs = {status: number for status, number in said.json["runs"].items() if number}
    assert runs == {"completed": 2, "delayed": 1, "queued": 1}
    said = call("run", app, "--events", feed(far), *patience)
    assert said.code == 0
    assert "Runs in the store: 1 delayed." in said.out


def test_run_waits_for_what_triggers_hold(call, feed, store, tmp_path):
    """Held events that are decided in time are waited for, with their runs; of the others the last line tells."""
    app = tmp_path / "held.py"
    app.write_text(
        "from poundlock import *\n"
        "wf = Workflow('held')\n"
        "wf.on('soon', delay=0.05)\n"
        "wf.on('far', delay='1h')\n"
        "@wf.step\ndef step(): pass\n",
        encoding="utf-8",
    )
    soon, far = {"type": "soon"}, {"type": "far"}
    patience = ("--store", store, "--timeout", LAST_RESORT)
    said = call("run", app, "--events", feed(soon, far), "--json", *patience)
    assert said.json["receipts"] == {"held": {"delayed": 2}}
    assert (said.json["rested"], said.json["held"], said.json["runs"]["completed"]) == (True, 1, 1)
    said = call("run", app, "--events", feed(soon, far, far), *patience)
    assert said.code == 0
    assert "delayed" in said.out
    assert "2 events are still held by triggers: they are decided by the next runtime on this store." in said.out
    said = call("run", app, "--events", feed(far), "--timeout", LAST_RESORT)
    assert "1 event is still held by triggers: it is lost, because the store is in memory." in said.out


async def test_waiting_for_rest_ends_when_the_time_is_up(runtime, vclock):
    """Where a run goes on and on, waiting for rest ends after its time and tells so."""
    from poundlock import Workflow
    from poundlock.cli.feeding import wait_until_idle

    wf, gate = Workflow("slow"), asyncio.Event()

    @wf.step
    async def first():
        await gate.wait()

    rt = await runtime(wf)
    running = asyncio.create_task(rt.run("slow"))
    await vclock.run_until_idle()
    await rt.signal(rt.list_all_runs()[0].run_id, {})  # writes it
    began = vclock.now()
    assert await wait_until_idle(rt, 5.0) is False
    assert vclock.now() - began == pytest.approx(5.0)
    gate.set()
    await running
    assert await wait_until_idle(rt, 5.0) is True


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.py", "--events", "{feed}"], "there is no app 'nowhere.py'"),
        (["{app}", "--events", "nowhere.jsonl"], "the events 'nowhere.jsonl' cannot be read"),
        (["{feed}", "--events", "{feed}"], "ends in .py"),
    ],
)
def test_misuse_of_run(call, app, feed, words, told):
    """What cannot work is refused in one sentence with the next action, before anything is done: exit code 2."""
    known = {"feed": feed(PLACED), "app": app}
    said = call("run", *(word.format(**known) for word in words))
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("poundlock: ")
    assert told in said.err
    assert len(said.err.splitlines()) == 1


def test_store_next_to_a_runtime(call, feed, tmp_path, monkeypatch, store):
    """An app's own runtime is used as it is: a store named besides is refused, one from the environment ignored."""
    app = tmp_path / "own.py"
    app.write_text(
        "from poundlock import *\nwf = Workflow('w')\n@wf.on('go')\n@wf.step\ndef f(): pass\n"
        "runtime = WorkflowRuntime(wf)\n",
        encoding="utf-8",
    )
    said = call("run", app, "--events", feed({"type": "go"}), "--store", store)
    assert (said.code, said.err.startswith("poundlock: ")) == (2, True)
    monkeypatch.setenv("POUNDLOCK_STORE", store)
    assert call("run", app, "--events", feed({"type": "go"})).code == 0
    assert not (tmp_path / "runs.db").exists()


# ------------------------------------------------------------------------------------------------------------ runs
def test_ls_lists_newest_first_and_filters(call, parked, store, monkeypatch):
    """`runs ls` lists runs, newest first, by workflow, status, key and text; POUNDLOCK_STORE names the store too."""
    monkeypatch.setenv("POUNDLOCK_STORE", store)
    listed = call("runs", "ls").out.splitlines()
    assert listed[0].split() == ["run", "workflow", "status", "stage", "key", "created"]
    assert [line.split()[1] for line in listed[1:]] == ["orders", "audit", "orders"]
    for words in (["--workflow", "audit"], ["--status", "completed"]):
        found = call("runs", "ls", *words, "--json").json["runs"]
        assert [run["workflow_id"] for run in found] == ["audit"]
    found = call("runs", "ls", "--text", "B-8", "--json").json["runs"]
    assert [run["run_id"] for run in found] == [parked["B-8"]]
    assert [run["run_id"] for run in call("runs", "ls", "--key", "B-8", "--json").json["runs"]] == [parked["B-8"]]
    assert len(call("runs", "ls", "--status", "paused", "--status", "completed", "--json").json["runs"]) == 3
    assert call("runs", "ls", "--workflow", "nothing").out == "No runs.\n"


def test_ls_as_json_and_page_by_page(call, parked, store):
    """`runs ls --json` has a stable shape, and its cursor leads through all runs, each once."""
    seen, cursor = [], []
    while True:
        page = call("runs", "ls", "--store", store, "--limit", "2", "--json", *cursor).json
        assert set(page) == {"runs", "next_cursor"}
        assert all(set(run) == RUN_FIELDS for run in page["runs"])
        seen += [run["run_id"] for run in page["runs"]]
        if page["next_cursor"] is None:
            break
        cursor = ["--cursor", page["next_cursor"]]
        assert f"More with --cursor {page['next_cursor']}" in call("runs", "ls", "--store", store, "--limit", "2").out
    assert len(seen) == len(set(seen)) == 3


def test_show_has_everything(call, parked, store):
    """`runs show` tells where a run stands, what it waits for and its state; as JSON in a stable shape."""
    said = call("runs", "show", parked["A-7"], "--store", store)
    assert "waits for  approval: order.approved with order = A-7 until 2" in said.out
    assert "order     A-7" in said.out
    shown = call("runs", "show", parked["A-7"], "--store", store, "--json").json
    assert set(shown) == RUN_FIELDS | {"event", "state", "result", "calls", "traceback"}
    assert shown["state"] == {"order": "A-7", "amount": 150, "reserved": True}
    assert shown["event"] == {
        "type": "order.placed",
        "id": "1",
        "source": "/shop",
        "key": None,
        "time": shown["event"]["time"],
        "payload": PLACED["payload"],
    }
    [wait] = shown["waits"]
    assert (wait["id"], wait["events"], wait["correlate"], wait["parked"]) == (
        "approval",
        ["order.approved"],
        {"order": "A-7"},
        True,
    )


def test_show_tells_progress_and_calls(call, tmp_path, feed, store):
    """`runs show` has the last progress of each step, and the sums of the calls it recorded."""
    app = tmp_path / "agent_app.py"
    app.write_text(
        """
from poundlock import Pause, StepContext, Wait, Workflow

agent = Workflow("agent")

@agent.on("asked")
@agent.step
async def plan(ctx: StepContext):
    ctx.record_call(model="m", input_tokens=20, output_tokens=5, cost=0.25)
    ctx.progress(1, 3, "planning")
    ctx.progress(2, 3, "planning")

agent.wait("review", on="agreed")
""",
        encoding="utf-8",
    )
    assert call("run", app, "--events", feed({"type": "asked", "payload": {}}), "--store", store).code == 0
    [run] = call("runs", "ls", "--store", store, "--json").json["runs"]
    assert run["progress"] == []
    said = call("runs", "show", run["run_id"], "--store", store)
    assert "progress   plan: 2 of 3, planning at 2" in said.out
    assert "calls      1, 20 tokens in, 5 out, cost 0.25" in said.out
    shown = call("runs", "show", run["run_id"], "--store", store, "--json").json
    sums = {"calls": 1, "input_tokens": 20, "output_tokens": 5, "cost": 0.25}
    assert shown["calls"] == {**sums, "stages": {"plan": sums}}
    [progress] = shown["progress"]
    assert (progress["stage"], progress["step"], progress["done"], progress["of"]) == ("plan", "plan", 2, 3)
    listed = call("timeline", "show", run["run_id"], "--store", store, "--entries").out
    assert "step:call" in listed
    assert "step:progress" in listed


def test_failed_run_shows_its_error(call, app, feed, store, parked):
    """A run that failed shows which step raised what."""
    call("resume", parked["A-7"], "--store", store, "--app", app)
    said = call("runs", "show", parked["A-7"], "--store", store)
    assert "ValueError: who approved it?" in said.out
    assert "Traceback" in said.out
    shown = call("runs", "show", parked["A-7"], "--store", store, "--json").json
    assert (shown["error"]["type"], shown["error"]["step"]) == ("ValueError", "ship")
    assert "aborted" not in call("timeline", "show", parked["A-7"], "--store", store).out


# -------------------------------------------------------------------------------------------------------- timeline
def test_timeline_is_drawn_and_listed(call, parked, store):
    """`timeline show` draws the stages; with --entries it lists what happened; as JSON it has a stable shape."""
    said = call("timeline", "show", parked["A-7"], "--store", store, "--entries")
    lines = said.out.splitlines()
    assert lines[0] == f"orders run {parked['A-7']}, paused"
    assert [line.split()[0] for line in lines[1:3]] == ["reserve", "approval"]
    assert "approval: still waiting" in lines
    assert any("run:created" in line for line in lines)
    told = call("timeline", "show", parked["A-7"], "--store", store, "--json").json
    assert told["run_id"] == parked["A-7"]
    assert [entry["seq"] for entry in told["entries"]] == list(range(1, len(told["entries"]) + 1))
    assert set(told["entries"][0]) == {"seq", "time", "source", "type", "path", "payload", "patch"}


def test_timeline_needs_no_name_of_a_command(call, parked, store):
    """`timeline RUN` is `timeline show RUN`, whatever the order of options; help and errors stay."""
    named = call("timeline", "show", parked["A-7"], "--store", store, "--json")
    assert call("timeline", parked["A-7"], "--store", store, "--json") == named
    assert call("timeline", "--json", "--store", store, parked["A-7"]) == named
    assert "show" in call("timeline", "--help").out
    assert call("timeline", "nobody", "--store", store).code == 1


def test_the_state_at_an_entry_or_a_stage(call, parked, store):
    """`--at` shows the state there, as JSON; a place that does not exist is a wrong call that says what there is."""
    run = parked["A-7"]
    entries = call("timeline", run, "--store", store, "--json").json["entries"]
    said = call("timeline", run, "--at", len(entries), "--store", store)
    assert (said.code, said.json["reserved"], said.json["order"]) == (0, True, "A-7")
    began = call("timeline", run, "--at", "reserve", "--store", store, "--json").json
    assert (began["run_id"], {**began["state"], "reserved": True}) == (run, said.json)
    assert [entry["type"] for entry in entries if entry["seq"] == began["seq"]] == ["stage:start"]
    for place, hint in (("reserv", "did you mean 'reserve'"), ("999", "entries 1 to")):
        wrong = call("timeline", run, "--at", place, "--store", store)
        assert (wrong.code, wrong.out) == (2, "")
        assert hint in wrong.err


def test_what_changed_between_two_places(call, parked, store):
    """`--diff A B` shows a line per value; as JSON the patch and the changes; nothing is said in a sentence."""
    run = parked["A-7"]
    assert call("timeline", run, "--diff", "reserve", "approval", "--store", store).out == "+ reserved: true\n"
    told = call("timeline", run, "--diff", "approval", "reserve", "--store", store, "--json").json
    assert told["patch"] == {"reserved": "DELETE"}
    assert told["changes"] == [{"path": "reserved", "kind": "removed", "before": True, "after": None}]
    assert {"run_id", "a", "b"} <= told.keys()
    same = call("timeline", run, "--diff", "1", "1", "--store", store)
    assert same.out == "The state is the same after entries 1 and 1.\n"
    assert call("timeline", run, "--diff", "1", "nobody", "--store", store).code == 2


def test_following_a_run_that_has_ended(call, app, parked, store):
    """`--follow` lists the entries, as text or as a JSON object per line, and ends with the run."""
    run = parked["A-7"]
    assert call("resume", run, "--patch", '{"by": "you"}', "--app", app, "--store", store).code == 0
    entries = call("timeline", run, "--store", store, "--json").json["entries"]
    said = call("timeline", run, "--follow", "--store", store, "--json")
    assert [json.loads(line) for line in said.out.splitlines()] == entries
    lines = call("timeline", run, "--follow", "--store", store).out.splitlines()
    assert len(lines) == len(entries)
    assert lines[-1].split()[0] == str(len(entries))
    assert "pipeline:success" in lines[-1]
    assert call("timeline", "nobody", "--follow", "--store", store).code == 1
    both = call("timeline", run, "--follow", "--at", "1", "--store", store)
    assert (both.code, "ask for one of them" in both.err) == (2, True)


# ---------------------------------------------------------------------------------------------------------- resume
def test_resume_with_an_app_drives_the_run_on(call, app, parked, store):
    """`resume --app` returns what the run came to."""
    said = call("resume", parked["A-7"], "--patch", '{"by": "you"}', "--app", app, "--store", store, "--json")
    assert said.code == 0
    assert set(said.json) == {"run_id", "workflow_id", "status", "ok", "result", "error", "waits"}
    assert said.json["status"] == "completed"
    assert call("runs", "show", parked["A-7"], "--store", store, "--json").json["state"]["shipped"] == "A-7 for you"


def test_resume_without_an_app_leaves_the_run_ready(call, app, feed, parked, store):
    """Where the workflow is unknown the answer is kept, and the run goes on as soon as somebody has its workflow."""
    said = call("resume", parked["A-7"], "--patch", '{"by": "you"}', "--store", store)
    assert said.code == 0
    assert "ready" in said.out
    assert call("run", app, "--events", feed(OTHER), "--store", store).code == 0
    assert call("runs", "show", parked["A-7"], "--store", store, "--json").json["state"]["shipped"] == "A-7 for you"


OWN = """
from poundlock import Service, StateRef, Workflow, WorkflowRuntime

class Truck:
    def load(self, order): return f"{order} is on the truck"

orders = Workflow("orders")

@orders.on("order.placed")
@orders.step
def reserve(order): return {"reserved": True}

orders.wait("approval", on="order.approved", correlate={"order": StateRef("order")})

@orders.step
def ship(order, truck: Truck): return {"shipped": truck.load(order)}

runtime = WorkflowRuntime(orders, store="sqlite:///own.db", services=[Service("truck", Truck)])
"""


def test_resume_through_the_runtime_of_the_app(call, feed, tmp_path, monkeypatch, store):
    """`resume --app` uses the runtime that the app brings, with its services and its store; no other one is needed."""
    app = tmp_path / "own_app.py"
    app.write_text(OWN, encoding="utf-8")
    assert call("run", app, "--events", feed({"type": "order.placed", "payload": {"order": "A-7"}})).code == 0
    [run] = call("runs", "ls", "--store", "sqlite:///own.db", "--json").json["runs"]
    unknown = call("resume", "nobody", "--app", app)
    assert (unknown.code, "[RUN_NOT_FOUND]" in unknown.err) == (1, True)
    beside = call("resume", run["run_id"], "--app", app, "--store", store)
    assert (beside.code, "leave out --store" in beside.err) == (2, True)
    monkeypatch.setenv("POUNDLOCK_STORE", store)
    said = call("resume", run["run_id"], "--app", app, "--json")
    assert (said.code, said.json["status"]) == (0, "completed")
    shown = call("runs", "show", run["run_id"], "--store", "sqlite:///own.db", "--json").json
    assert shown["state"]["shipped"] == "A-7 is on the truck"
    assert not (tmp_path / "runs.db").exists()
    app.write_text(OWN.replace('store="sqlite:///own.db"', "store=None"), encoding="utf-8")
    in_memory = call("resume", run["run_id"], "--app", app)
    assert (in_memory.code, "ends with its process" in in_memory.err) == (2, True)


def test_second_resume_is_refused(call, parked, store):
    """Of two answers to one wait the first counts: the second is told so, and changes nothing."""
    assert call("resume", parked["A-7"], "--store", store).code == 0
    said = call("resume", parked["A-7"], "--store", store)
    assert said.code == 1
    assert "[NOT_PAUSED]" in said.err


def test_answer_to_another_wait_is_refused(call, parked, store):
    """An answer that names another wait than the one the run stands at is refused."""
    said = call("resume", parked["A-7"], "--wait", "review", "--store", store)
    assert (said.code, "[STALE_RESUME]" in said.err) == (1, True)


def test_resume_of_what_is_over(call, store, parked):
    """A run that has ended is not resumed."""
    [done] = call("runs", "ls", "--status", "completed", "--store", store, "--json").json["runs"]
    said = call("resume", done["run_id"], "--store", store)
    assert (said.code, "[RUN_FINISHED]" in said.err) == (1, True)


@pytest.mark.parametrize(
    "patch",
    [
        "{",
        "[1]",
        '"text"',
        "nonsense",
        '{"by": "you", "by": "me"}',
        '{"by": {"a": 1, "a": 2}}',
        '{"by": NaN}',
        pytest.param('{"by": ' + "[" * 100_000, id="deep"),
        pytest.param('{"by": ' + "9" * 5000 + "}", id="long"),
    ],
)
def test_patch_that_is_none(call, parked, store, patch):
    """A patch that is no JSON object is refused before the store is touched: exit code 2."""
    said = call("resume", parked["A-7"], "--patch", patch, "--store", store)
    assert said.code == 2
    assert said.err.startswith(("poundlock: --patch is not JSON", "poundlock: --patch is not a JSON object"))


# --------------------------------------------------------------------------------------------------- what goes wrong
READING = [["runs", "ls"], ["runs", "show", "nobody"], ["timeline", "show", "nobody"], ["resume", "nobody"]]


@pytest.mark.parametrize("words", READING, ids=lambda words: " ".join(words[:2]))
def test_store_that_cannot_be_read(call, tmp_path, words):
    """A store that is missing or damaged is refused in a sentence, and nothing is made or changed."""
    said = call(*words, "--store", f"sqlite:///{tmp_path / 'missing.db'}")
    assert (said.code, "[STORE_UNAVAILABLE]" in said.err) == (1, True)
    assert not list(tmp_path.glob("missing*"))
    damaged = tmp_path / "damaged.db"
    damaged.write_text("no database at all, only text that goes on for a while" * 20, encoding="utf-8")
    said = call(*words, "--store", f"sqlite:///{damaged}")
    assert (said.code, "[STORE_CORRUPT]" in said.err) == (1, True)
    assert "Traceback" not in said.err


@pytest.mark.parametrize("words", READING, ids=lambda words: " ".join(words[:2]))
def test_store_of_a_newer_version(call, parked, store, tmp_path, words):
    """A file that a newer Poundlock wrote is left alone."""
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    said = call(*words, "--store", store)
    assert said.code == 1
    assert "[STORE_TOO_NEW]" in said.err


@pytest.mark.parametrize("words", READING[1:], ids=lambda words: " ".join(words[:2]))
def test_unknown_run(call, parked, store, words):
    """A run that is not there is said to be so; with --json the error stands on standard output as an object."""
    said = call(*words, "--store", store)
    assert (said.code, said.out) == (1, "")
    assert "there is no run 'nobody'" in said.err
    told = call(*words, "--store", store, "--json")
    assert (told.code, told.json["error"]["code"]) == (1, "RUN_NOT_FOUND")


@pytest.mark.parametrize("words", READING, ids=lambda words: " ".join(words[:2]))
def test_store_has_to_be_named(call, words):
    """Without a store there is nothing to look at: exit code 2 and how to name one."""
    said = call(*words)
    assert said.code == 2
    assert "--store sqlite:///" in said.err
    assert call(*words, "--store", "memory:").code in (1, 2)


@pytest.mark.parametrize(
    "words", [["--status", "sleeping"], ["--limit", "0"], ["--cursor", "nonsense"]], ids=lambda words: words[0]
)
def test_filter_that_is_none(call, parked, store, words):
    """A filter that means nothing is refused, and the sentence says what would."""
    said = call("runs", "ls", *words, "--store", store)
    assert (said.code, "[INVALID_EVENT]" in said.err) == (1, True)


def test_version(call):
    """`version` names what is installed."""
    import poundlock

    assert call("version").out.startswith(f"poundlock {poundlock.__version__}, python 3.")
    assert set(call("version", "--json").json) == {"poundlock", "python", "sqlite"}


def test_nothing_is_cut_in_a_pipe(call, app, feed, store):
    """What does not go to a terminal has no colours, and lines are as long as they have to be."""
    key = "a key that is much longer than any terminal is wide, " * 4
    said = call(
        "run", app, "--events", feed({"type": "order.placed", "payload": {"order": key, "amount": 1}}), "--store", store
    )
    assert f"order = {key.strip()}" in said.out
    assert "\x1b" not in said.out + said.err


# ----------------------------------------------------------------------------------------------------------- votes
BOARD = """
from pydantic import BaseModel
from poundlock import StateRef, Workflow

class Vote(BaseModel):
    member: str
    yes: bool
    why: str = ""

board = Workflow("board")
board.on("motion")
said = {"distinct": "member", "form": Vote, "collect": "votes", "correlate": {"motion": StateRef("motion")}}
board.wait("votes", on="vote", mode=2, **said)
board.step(id="count")(lambda: None)
"""


def test_votes_are_shown_and_answered_by_token(call, feed, store, tmp_path):
    """`runs show`, `runs ls` and `timeline show` tell how many votes there are, and the token, which `--wait` takes."""
    app = tmp_path / "board.py"
    app.write_text(BOARD, encoding="utf-8")
    events = [
        {"type": "motion", "payload": {"motion": "M"}},
        {"type": "vote", "payload": {"motion": "M", "member": "a", "yes": True}},
    ]
    assert call("run", app, "--events", feed(*events), "--store", store).code == 0
    [run] = call("runs", "ls", "--store", store, "--json").json["runs"]
    [wait] = run["waits"]
    assert (wait["mode"], wait["have"], wait["need"]) == (2, 1, 2)
    assert wait["form"]["required"] == ["member", "yes"]
    said = call("runs", "show", run["run_id"], "--store", store).out
    assert "votes: vote, 1 of 2 with motion = M" in " ".join(said.split())
    assert "form member (string), yes (boolean), [why (string)]" in " ".join(said.split())
    assert f"token      {wait['token']}" in said
    assert "votes: vote, 1 of 2" in call("timeline", "show", run["run_id"], "--store", store).out
    stale = call("resume", run["run_id"], "--wait", wait["token"] + "0", "--store", store)
    assert (stale.code, "[STALE_RESUME]" in stale.err) == (1, True)
    patch = '{"votes": [{"member": "a"}]}'
    unfit = call("resume", run["run_id"], "--patch", patch, "--store", store, "--app", app)
    assert (unfit.code, "[ANSWER_INVALID]" in unfit.err, "votes.0.yes: Field required" in unfit.err) == (1, True, True)
    done = call("resume", run["run_id"], "--wait", wait["token"], "--store", store, "--app", app, "--json").json
    assert done["status"] == "completed"
