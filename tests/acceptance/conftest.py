"""What tests with real processes share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import LAST_RESORT, LINGERING, unmeasured

ROOT = Path(__file__).resolve().parents[2]
DESK = ROOT / "examples" / "maintainer_desk.py"
SHIPPED = ROOT / "examples" / "data" / "events.jsonl"
WHOLE = ROOT.parent / "shared" / "data" / "webhooks" / "events.jsonl"


def clean_environment():
    """Return this process's environment without what would change a command's output."""
    return {name: value for name, value in os.environ.items() if name not in ("POUNDLOCK_STORE", "COLUMNS")}


@pytest.fixture
def poundlock(tmp_path):
    """Run a command of the command line in a process of its own: `(*words, input=None) -> CompletedProcess`."""

    def call(*words, input=None):
        command = [sys.executable, "-m", "poundlock", *map(str, words)]
        return subprocess.run(
            command,
            input=input,
            capture_output=True,
            text=True,
            timeout=LAST_RESORT,
            cwd=tmp_path,
            env=clean_environment(),
            check=False,
        )

    return call


@pytest.fixture
def start(tmp_path):
    """Start a command and leave it running: `(*words, **popen) -> Popen`; it does not outlive the test.

    One that the test is going to kill is a `victim`: it stays until then, also when its work is done.
    """
    begun = []

    def begin(*words, victim=False, **options):
        environment = clean_environment()
        if victim:
            options = {"stdin": subprocess.PIPE, **options}
            environment = unmeasured(environment)
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        program = ["-c", LINGERING] if victim else ["-m", "poundlock"]
        command = [sys.executable, *program, *map(str, words)]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, **options)
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="session")
def real_events(tmp_path_factory):
    """Return a file of real webhook events: the shipped ones, then, where they are, all the others."""
    shipped = SHIPPED.read_text(encoding="utf-8").splitlines()
    known = {json.loads(line)["id"] for line in shipped}
    others = WHOLE.read_text(encoding="utf-8").splitlines() if WHOLE.exists() else []
    lines = shipped + [line for line in others if json.loads(line)["id"] not in known]
    path = tmp_path_factory.mktemp("events") / "webhooks.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
