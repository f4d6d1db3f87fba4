"""Another checkout beside this one, in one run: `python -m bench --against PATH [SUBJECT ...]`.

Both trees are measured with this bench, each time in a process of its own, in turn: theirs, ours, theirs, ours ... A
process measures its floor and its poundlock in turn as well, so each ratio is to a floor of the same seconds. The
multiple is the median of this tree's ratios by the median of theirs; behind it stand the lowest and the highest of the
single turns. A tree beside itself shows what the machine adds: what lies within that range is not a difference.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from bench.child import command, environment
from bench.measure import ratios
from bench.subjects import SUBJECTS

HERE = Path(__file__).resolve().parent.parent
ASKED = ("w1-1", "w1-100", "w1-timeline", "w2-1", "w2-100", "w3-1", "w3-100", "w4")
TURNS = 3
"""Processes per tree and subject."""

Times = dict[str, dict[str, list[float]]]


def against(base: Path, names: list[str]) -> str:
    """Return a Markdown table: the ratios of both trees, and how many times better this one is."""
    trees = {"base": base.resolve(), "new": HERE}
    if not (trees["base"] / "src" / "poundlock").is_dir():
        raise SystemExit(f"{base} is no checkout of poundlock: it has no src/poundlock")
    lines = [
        f"Base {commit(trees['base'])}, new {commit(HERE)}; medians of all rounds of {TURNS} processes each, in turn.",
        "",
        "| workload | base | new | multiple | multiple by processor time |",
        "|---|---|---|---|---|",
    ]
    for name in names or ASKED:
        print(f"measuring {name} ...", file=sys.stderr)
        taken: dict[str, list[Times]] = {"base": [], "new": []}
        for _ in range(TURNS):
            for who, tree in trees.items():
                taken[who].append(child(tree, name))
        lines.append(line(name, taken))
    return "\n".join(lines)


def child(tree: Path, name: str) -> Times:
    """Measure one subject on one tree in a process of its own."""
    arguments = command("times", name)
    done = subprocess.run(arguments, cwd=HERE, env=environment(tree), check=True, stdout=subprocess.PIPE, text=True)
    found: Times = json.loads(done.stdout)
    return found


def line(name: str, taken: dict[str, list[Times]]) -> str:
    """Return the line of one subject."""
    subject = SUBJECTS[name]
    base, new = (median(taken[who], "wall") for who in ("base", "new"))
    shown = "{:.3f}" if subject.floor else f"{{:,.0f}} {subject.unit}/s"
    multiples = " | ".join(multiple(taken, kind) for kind in ("wall", "cpu"))
    return f"| {subject.name} | {shown.format(base)} | {shown.format(new)} | {multiples} |"


def multiple(taken: dict[str, list[Times]], kind: str) -> str:
    """Return how many times better this tree is, and between what the single turns lie: a wide range proves nothing."""
    turns = [median([new], kind) / median([base], kind) for base, new in zip(taken["base"], taken["new"], strict=True)]
    whole = median(taken["new"], kind) / median(taken["base"], kind)
    return f"{whole:.2f} ({min(turns):.2f} to {max(turns):.2f})"


def median(taken: list[Times], kind: str) -> float:
    """Return the median ratio to the floor, or operations per second where there is no floor, over all rounds."""
    found: list[float] = []
    for times in taken:
        ours = times["ours"][kind]
        found += ratios(times["floor"][kind] if "floor" in times else [1.0] * len(ours), ours)
    return statistics.median(found)


def commit(tree: Path) -> str:
    """Return which commit a tree is at, marked where it has changes of its own."""
    arguments = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--abbrev=9"]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    return done.stdout.strip() or tree.name
