"""Steps in processes, of programs as people write them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import LAST_RESORT

from poundlock.cli.app_loading import load_app

pytestmark = pytest.mark.acceptance

PROGRAM = """
import asyncio, os, threading
from pathlib import Path
from poundlock import Workflow, WorkflowRuntime

wf = Workflow("wf")

class Own:
    pass

@wf.step(executor="process")
def work(fifo: str | None = None):
    if fifo is not None:
        Path(fifo).write_text(f"{os.getpid()} ")
        threading.Event().wait()
    return {"pid": os.getpid()}

async def main(fifo):
    async with WorkflowRuntime(wf) as rt:
        result = await rt.run("wf", fifo=fifo)
        print(result.state["pid"] != os.getpid())

if __name__ == "__main__":
    import sys
    asyncio.run(main(*sys.argv[1:] or [None]))
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def test_a_function_of_the_program_itself(program):
    """A step that is defined in the file that is run is found in the other process."""
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=LAST_RESORT, check=True
    )
    assert done.stdout == "True\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_no_process_outlives_the_program(program, tmp_path, number):
    """A step that never returns ends with the program, also if that is killed without a word."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def heed():  # a shell may have started the tests in the background, and then its children ignore interrupts
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    argv = [sys.executable, str(program), str(fifo)]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL, preexec_fn=heed) as running:  # noqa: PLW1509 - one thread
        worker = os.pidfd_open(int(fifo.read_text()))
        running.send_signal(number)
        running.wait(LAST_RESORT)
    ready, _, _ = select.select([worker], [], [], LAST_RESORT)
    os.close(worker)
    assert ready


async def test_a_function_of_an_app(program, runtime):
    """An app that is loaded from its file, as the command line does, is found by its file."""
    app = load_app(Path(program))
    rt = await runtime(*app.workflows)
    assert (await rt.run("wf")).state["pid"] != os.getpid()
