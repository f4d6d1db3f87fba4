"""What `make demo` runs: the maintainer's desk on about sixty real webhook events, from the first to a timeline.

Each step is a `poundlock` command, printed before it runs, so you can type it yourself. The store is a new SQLite file
each time. It is kept, so that you can look at it afterwards with the commands printed at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
APP = HERE / "maintainer_desk.py"
EVENTS = HERE / "data" / "events.jsonl"
RUNS = HERE.parent / "demo-runs"


def main() -> int:
    """Feed the events, resume one of the runs that wait, and draw what it did."""
    file = new_file(RUNS)
    store = f"sqlite:///{near(file)}"
    os.environ["POUNDLOCK_STORE"] = store
    print(f"$ export POUNDLOCK_STORE={store}")
    poundlock("run", near(APP), "--events", near(EVENTS))
    gate = parked("gate")
    answer = json.dumps({"review": {"state": "approved", "by": "you"}})
    poundlock("resume", gate, "--patch", answer, "--app", near(APP))
    poundlock("timeline", "show", gate)
    command = near(Path(sys.executable).with_name("poundlock"))
    print(f"""
Everything stays in {near(file)}, which opens in any browser for SQLite files too.
Try next, after `export POUNDLOCK_STORE={store}`:

  {command} runs ls
  {command} runs show {parked("triage")}
  {command} timeline show {parked("triage")} --entries
  {command} run {near(APP)} --events {near(EVENTS)}

The last one continues where the feed stopped: nothing is handled twice.""")
    return 0


def new_file(folder: Path) -> Path:
    """Return the next free file name in a folder that version control ignores."""
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    taken = {path.name for path in folder.iterdir()}
    return folder / next(name for name in (f"desk-{number}.db" for number in range(1, 10_000)) if name not in taken)


def near(path: Path) -> str:
    """Return a path as short as it can be typed here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def poundlock(*words: str) -> None:
    """Show a command and run it; the demo ends with the first one that fails."""
    shown = " ".join(f"'{word}'" if " " in word else word for word in words)
    print(f"\n$ poundlock {shown}\n", flush=True)
    subprocess.run([sys.executable, "-m", "poundlock", *words], check=True)


def parked(workflow: str) -> str:
    """Return the id of a run of a workflow that waits."""
    query = ["runs", "ls", "--workflow", workflow, "--status", "paused", "--json"]
    listing = subprocess.run([sys.executable, "-m", "poundlock", *query], check=True, capture_output=True, text=True)
    return str(json.loads(listing.stdout)["runs"][0]["run_id"])


if __name__ == "__main__":
    sys.exit(main())
