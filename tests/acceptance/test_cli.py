"""The command line as it is started: real processes, pipes, signals, and two of them on one file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from support import LAST_RESORT, unmeasured

pytestmark = pytest.mark.acceptance

SLOW = """
import asyncio
from poundlock import StateRef, Workflow

wf = Workflow("slow")

@wf.on("go", key="n")
@wf.step
async def first(n):
    if n == 0:
        await asyncio.sleep(3600)

wf.wait("answer", on="answer", correlate={"n": StateRef("n")})
"""


def lines(*events):
    return "".join(json.dumps(event) + "\n" for event in events)


def go(n):
    return {"type": "go", "payload": {"n": n}}


@pytest.fixture
def app(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text(SLOW, encoding="utf-8")
    return path


def next_receipt(process):
    """Wait for the next receipt that a process prints: it is at work then."""
    text = process.stdout.readline()
    assert text, process.communicate()[1]
    return json.loads(text)


def test_events_from_standard_input(poundlock, app):
    """`--events -` reads a pipe, and what came through it before is recognised when it comes again."""
    words = ("run", app, "--events", "-", "--store", "sqlite:///runs.db", "--json")
    first = json.loads(poundlock(*words, input=lines(go(1), go(2))).stdout)
    assert (first["feed"], first["emitted"], first["runs"]["paused"]) == ("stdin", 2, 2)
    again = json.loads(poundlock(*words, input=lines(go(1), go(2), go(3))).stdout)
    assert (again["already_handled"], again["emitted"], again["runs"]["paused"]) == (2, 1, 3)


def test_events_are_handled_while_the_pipe_is_open(start, app):
    """A line is handled as soon as it comes: nobody waits for the end of the input."""
    process = start("run", app, "--events", "-", "--receipts", stdin=subprocess.PIPE)
    for n in (1, 2):
        process.stdin.write(lines(go(n)))
        process.stdin.flush()
        assert next_receipt(process)["line"] == n
    process.stdin.close()
    assert process.wait(timeout=LAST_RESORT) == 0


def test_events_from_a_redirected_file(tmp_path, app):
    """Standard input may be a file, or nothing at all."""
    feed = tmp_path / "events.jsonl"
    feed.write_text(lines(go(1)), encoding="utf-8")
    command = [sys.executable, "-m", "poundlock", "run", str(app), "--events", "-", "--json"]
    with feed.open() as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, timeout=LAST_RESORT, check=True)
    assert json.loads(done.stdout)["emitted"] == 1
    nothing = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LAST_RESORT, check=True
    )
    assert json.loads(nothing.stdout)["lines"] == 0


def test_second_process_on_a_file(start, poundlock, app):
    """One process owns a store: a second one that would write is told who has it, and those that read are let in."""
    store = ("--store", "sqlite:///runs.db")
    owner = start("run", app, "--events", "-", *store, "--receipts", victim=True)
    owner.stdin.write(lines(go(0)))
    owner.stdin.flush()
    [run_id] = [line["run_id"] for line in next_receipt(owner)["lines"]]

    second = poundlock("run", app, "--events", "-", *store, input="")
    assert (second.returncode, second.stdout) == (1, "")
    assert f"in use by process {owner.pid}" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    listed = json.loads(poundlock("runs", "ls", *store, "--json").stdout)
    assert [run["status"] for run in listed["runs"]] == ["running"]
    assert poundlock("runs", "show", run_id, *store).returncode == 0
    assert poundlock("timeline", "show", run_id, *store).returncode == 0
    refused = poundlock("resume", run_id, *store)
    assert refused.returncode == 1
    assert "[STORE_UNAVAILABLE]" in refused.stderr

    owner.kill()
    owner.wait()
    early = poundlock("resume", run_id, *store)
    assert early.returncode == 1
    assert "[NOT_PAUSED]" in early.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_feed_is_gone_on_with(start, poundlock, app, tmp_path, number, code):
    """SIGINT and SIGTERM stop a feed in order, with a code of their own; the same command goes on from there."""
    process = start("run", app, "--events", "-", "--store", "sqlite:///runs.db", "--receipts", stdin=subprocess.PIPE)
    process.stdin.write(lines(go(1)))
    process.stdin.flush()
    next_receipt(process)
    process.send_signal(number)
    assert process.wait(timeout=LAST_RESORT) == code
    told = process.stderr.read()
    assert "continues from here" in told
    assert "Traceback" not in told
    done = poundlock("run", app, "--events", "-", "--store", "sqlite:///runs.db", "--json", input=lines(go(1), go(2)))
    assert (json.loads(done.stdout)["already_handled"], json.loads(done.stdout)["emitted"]) == (1, 1)


TICKS = """
from poundlock import Workflow

ticks = Workflow("ticks")

@ticks.on(cron="* * * * * *")
@ticks.on("go", map=lambda event: {"scheduled": "now"})
@ticks.step
async def tick(scheduled):
    print(scheduled, flush=True)

daily = Workflow("daily")

@daily.on(cron="0 6 * * *", tz="Europe/Berlin", missed="skip")
@daily.step
async def report():
    pass
"""


@pytest.fixture
def ticks(tmp_path):
    path = tmp_path / "ticks.py"
    path.write_text(TICKS, encoding="utf-8")
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_app_with_time_triggers_runs_until_it_is_stopped(start, poundlock, ticks, number):
    """Without events the app stays: its times fire, and a signal ends it in order, with a summary and exit code 0."""
    process = start("run", ticks, "--store", "sqlite:///runs.db", "--json")
    said = process.stderr.readline()
    assert "running until SIGINT or SIGTERM; the next time is " in said
    assert said.rstrip().endswith("(ticks/cron)")
    times = [process.stdout.readline() for _ in range(2)]
    assert times == sorted(set(times))
    process.send_signal(number)
    rest, said = process.communicate(timeout=LAST_RESORT)
    assert (process.returncode, said) == (0, "")
    told = json.loads(rest.splitlines()[-1])
    assert (told["feed"], told["emitted"], told["faults"]) == (None, 0, [])
    assert sum(told["runs"].values()) >= 2
    listed = json.loads(poundlock("runs", "ls", "--store", "sqlite:///runs.db", "--json").stdout)["runs"]
    assert {run["trigger_id"] for run in listed} == {"cron"}


def test_events_and_then_staying(start, ticks, tmp_path):
    """`--stay` feeds first, and then goes on as an app without events does; the summary has both."""
    (tmp_path / "events.jsonl").write_text(lines({"type": "go"}), encoding="utf-8")
    process = start("run", ticks, "--events", "events.jsonl", "--stay")
    assert "running until" in process.stderr.readline()
    said = {process.stdout.readline() for _ in range(3)}
    assert "now\n" in said
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=LAST_RESORT)
    assert process.returncode == 0
    assert "1 event emitted from events.jsonl." in rest


def test_events_of_an_app_with_time_triggers(poundlock, ticks):
    """Without `--stay` the command ends after the feed, with a word about the times that are not waited for."""
    done = poundlock("run", ticks, "--events", "-", input=lines({"type": "go"}))
    assert done.returncode == 0
    assert "--stay keeps it running" in done.stderr


def test_an_app_that_has_nothing_to_do(poundlock, app):
    """Without events and time triggers a command that stays would be a mistake: it says what to give."""
    done = poundlock("run", app)
    assert done.returncode == 2
    assert "--events" in done.stderr
    assert "--stay" in done.stderr


def test_output_that_nobody_reads(start, app, tmp_path):
    """When the reader of a pipe goes away the command ends without a traceback."""
    feed = tmp_path / "events.jsonl"
    feed.write_text(lines(*(go(n) for n in range(1, 200))), encoding="utf-8")
    process = start("run", app, "--events", feed, "--receipts")
    next_receipt(process)
    process.stdout.close()
    assert process.wait(timeout=LAST_RESORT) == 1
    assert "Traceback" not in process.stderr.read()


def test_help_is_quick():
    """`--help` loads neither rich nor asyncio nor the library behind the commands."""
    code = (
        "import sys\n"
        "from poundlock.cli.main import commands\n"
        "try:\n    commands()(args=['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'rich', 'asyncio', 'sqlite3', 'pydantic', 'pydantic_core', 'blinker', 'dependency_injector',"
        " 'sqlite_utils', 'tenacity', 'poundlock.codecs', 'poundlock.model', 'poundlock.runtime'}\n"
        "print('loaded:', *sorted(heavy & set(sys.modules)))\n"
    )
    command, environment = [sys.executable, "-c", code], unmeasured()  # coverage would load sqlite3
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LAST_RESORT, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_demo(tmp_path):
    """The demo runs from anywhere, makes a new file each time, and shows receipts, what is parked, and a timeline."""
    from pathlib import Path
    from shutil import copytree

    examples = Path(__file__).resolve().parents[2] / "examples"
    copytree(examples, tmp_path / "examples")
    for number in (1, 2):
        command = [sys.executable, "examples/demo.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LAST_RESORT, check=True)
        assert (tmp_path / "demo-runs" / f"desk-{number}.db").is_file()
        assert done.stderr == ""
        for shown in (
            "Receipts by verdict",
            "Paused runs",
            "completed, #2 may be merged, says you",
            "░ paused",
            "Try next",
        ):
            assert shown in done.stdout
    assert (tmp_path / "demo-runs" / ".gitignore").read_text(encoding="utf-8") == "*\n"


EXPENSES = """\
  to managers: Ada claims 800.00: approve C-1?
Bob resumed
  to managers: Ada claims 800.00: approve C-1?
Cleo resumed
completed - payment of 800.00 to Ada
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hello.py", "Hello Ada\n"),
        ("approval.py", "paused at approval\ncompleted - A-7, approved by Ada\n"),
        ("expense_approval.py", EXPENSES),
    ],
)
def test_examples(name, said):
    """The examples print what they promise."""
    from pathlib import Path

    example = Path(__file__).resolve().parents[2] / "examples" / name
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=LAST_RESORT, check=True)
    assert done.stdout == said
