"""Another checkout beside this one, in one run: `python -m bench --against PATH [SUBJECT ...]`.

Both trees are measured with this bench, each time in a process of its own, in turn: theirs, ours, theirs, ours ... A
process measures the floor and its poundlock in turn as well. All floors of a subject are taken together: the collector
makes a floor slower in a process that keeps more objects, so a tree that keeps fewer would be measured by a better
floor. The multiple is this tree's ratio by theirs; behind it stand the lowest and the highest of the single turns. A
tree beside itself shows what the machine adds: what lies within that range is not a difference.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from bench.child import command, environment
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
    floors = [
        seconds for times in (*taken["base"], *taken["new"]) for seconds in times.get("floor", {}).get("wall", [])
    ]
    floor = statistics.median(floors) if floors else 1.0
    shown = "{:.3f}" if subject.floor else f"{{:,.0f}} {subject.unit}/s"
    base, new = (shown.format(floor / median(taken[who], "wall")) for who in ("base", "new"))
    return f"| {subject.name} | {base} | {new} | {multiple(taken, 'wall')} | {multiple(taken, 'cpu')} |"


def multiple(taken: dict[str, list[Times]], kind: str) -> str:
    """Return how many times better this tree is, and between what the single turns lie: a wide range proves nothing."""
    turns = [median([base], kind) / median([new], kind) for base, new in zip(taken["base"], taken["new"], strict=True)]
    whole = median(taken["base"], kind) / median(taken["new"], kind)
    return f"{whole:.2f} ({min(turns):.2f} to {max(turns):.2f})"


def median(taken: list[Times], kind: str) -> float:
    """Return the median of the seconds that one operation took, over all rounds."""
    return statistics.median([seconds for times in taken for seconds in times["ours"][kind]])


def commit(tree: Path) -> str:
    """Return which commit a tree is at, marked where it has changes of its own."""
    arguments = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--abbrev=9"]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    return done.stdout.strip() or tree.name
