"""Instructions per operation, which repeat: `python -m bench.instructions [--tree PATH] [--write] [SUBJECT ...]`.

A process does some operations under cachegrind, a second one does more of them, and the difference by the number is
what one costs: starting and stopping cancel out. The collector is off and files are on a RAM disk when there is one, so
no sync is in the figures. They repeat to 0.2 % in memory and to a few per cent with the writer's thread.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from bench.child import command, environment, ram_disk
from bench.page import show
from bench.subjects import SUBJECTS

HERE = Path(__file__).resolve().parent.parent
ASKED = ("w1-1", "w1-100", "w1-timeline", "w2-1", "w2-100", "w3-1", "w3-100", "w3-event-100", "w4-ended")
COUNTED = (400, 1200)
"""The two numbers of operations."""
CACHEGRIND = ("--tool=cachegrind", "--cache-sim=no", "--branch-sim=no", "--cachegrind-out-file=/dev/null")


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(prog="python -m bench.instructions", description="instructions, by cachegrind")
    arguments.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(SUBJECTS))
    arguments.add_argument("--tree", type=Path, default=HERE, help="another checkout to measure instead of this one")
    arguments.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    asked = arguments.parse_args()
    if unknown := [name for name in asked.subjects if name not in SUBJECTS]:
        arguments.error(f"unknown: {', '.join(unknown)}. Next: choose from {', '.join(SUBJECTS)}")
    show("instructions", instructions(asked.tree.resolve(), asked.subjects), write=asked.write)


def instructions(tree: Path, names: list[str]) -> str:
    """Return a Markdown table of instructions per operation."""
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed, so no instructions are counted. Next: install valgrind.")
    place = "on a RAM disk" if ram_disk() else "on a disk: there is no RAM disk, and syncs are not counted"
    lines = [
        f"Instructions per operation, files {place}.",
        "",
        "| workload | floor | Poundlock | floor by ours |",
        "|---|---|---|---|",
    ]
    floors: dict[object, float] = {}
    for name in names or ASKED:
        print(f"counting {name} ...", file=sys.stderr)
        subject = SUBJECTS[name]
        ours = per_operation(tree, name, "ours")
        if subject.floor is None:
            lines.append(f"| {subject.name} | - | {thousands(ours)} | - |")
            continue
        floor = floors.get(subject.floor) or per_operation(tree, name, "floor")
        floors[subject.floor] = floor
        lines.append(f"| {subject.name} | {thousands(floor)} | {thousands(ours)} | {floor / ours:.3f} |")
    return "\n".join(lines)


def per_operation(tree: Path, name: str, who: str) -> float:
    """Return the instructions of one operation: the difference of two numbers of operations."""
    few, many = COUNTED
    return (counted(tree, name, who, many) - counted(tree, name, who, few)) / (many - few)


def counted(tree: Path, name: str, who: str, operations: int) -> int:
    """Return the instructions of a whole process."""
    arguments = ["valgrind", *CACHEGRIND, *command("count", name, who, operations)]
    done = subprocess.run(arguments, cwd=HERE, env=environment(tree), check=False, capture_output=True, text=True)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode or found is None:
        raise SystemExit(f"{name} could not be counted:\n{done.stderr}")
    return int(found[1].replace(",", ""))


def thousands(instructions: float) -> str:
    """Return a number of instructions for people."""
    return f"{instructions / 1000:,.1f}k"


if __name__ == "__main__":
    main()
