"""What a process pays before it works: the README's first program and the command line, beside `import` alone."""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.measure import Figure, ratios
from bench.row import Row

ROUNDS = 15
README = Path(__file__).resolve().parent.parent / "README.md"
PEAK = """
import pathlib
status = pathlib.Path("/proc/self/status")
if status.exists():
    print([line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")][0])
"""
"""Prints the peak of this program's memory in kB; getrusage would tell that of its parent, if that is larger."""

PROGRAMS = {
    "empty": ["-c", "pass"],
    "floor": ["-c", "import asyncio, sqlite3"],
    "names": ["-c", "from poundlock import Workflow, WorkflowRuntime"],
    "help": ["-m", "poundlock", "--help"],
}


async def starts() -> list[Row]:
    """Whole processes in turn, the interpreter's own start included."""
    programs = {**PROGRAMS, "hello": ["-c", hello()]}
    figures = {name: Figure() for name in programs}
    for number in range(ROUNDS + 1):
        for name, arguments in programs.items():
            spent = started(arguments)
            if number:  # the first one may still have bytecode to write
                figures[name].wall.append(spent[0])
                figures[name].cpu.append(spent[1])
    return [
        row("Start, `from poundlock import Workflow, WorkflowRuntime`", figures, "names"),
        row("Start, the README's hello", figures, "hello", ".50", memory(hello())),
        row("Start, `poundlock --help`", figures, "help", "250 ms"),
    ]


def hello() -> str:
    """Return the first program of the README."""
    found = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    if found is None:
        raise AssertionError("the README begins with no program")
    return found[1]


def started(arguments: list[str]) -> tuple[float, float]:
    """Run a Python to its end; returns seconds of wall clock and of processor time."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment(), check=True, capture_output=True)
    wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def environment() -> dict[str, str]:
    """Return an environment in which bytecode is kept, as it is for an installed package."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def memory(program: str) -> str:
    """Return the peak of a program's memory beside that of the floor, where the system tells it."""
    peaks = []
    for text in (program, "import asyncio, sqlite3\n"):
        arguments = [sys.executable, "-c", text + PEAK]
        done = subprocess.run(arguments, env=environment(), check=True, capture_output=True, text=True)
        peaks.append(done.stdout.split()[-1:])
    if not all(peak and peak[0].isdigit() for peak in peaks):
        return ""
    ours, floor = (int(peak[0]) / 1024 for peak in peaks)
    return f", peak memory {ours:.0f} MB beside {floor:.0f} MB"


def row(name: str, figures: dict[str, Figure], which: str, goal: str = "-", notes: str = "") -> Row:
    """Return the line of one program."""
    ours, floor, empty = figures[which], figures["floor"], figures["empty"]
    beyond = statistics.median(
        (mine - nothing) / (by_hand - nothing)
        for mine, by_hand, nothing in zip(ours.cpu, floor.cpu, empty.cpu, strict=True)
    )
    return Row(
        name,
        f"{ours.micros / 1000:.0f} ms",
        f"{floor.micros / 1000:.0f} ms",
        f"{statistics.median(ratios(floor.wall, ours.wall)):.2f}",
        f"{statistics.median(ratios(floor.cpu, ours.cpu)):.2f}",
        goal,
        notes=f"floor: `import asyncio, sqlite3`; beyond an empty program {beyond:.1f} times the floor's{notes}",
    )
