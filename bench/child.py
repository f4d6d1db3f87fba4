"""A process of its own for one subject, started by `bench.against` and `bench.instructions`.

`python -m bench.child times SUBJECT` prints seconds per operation as JSON, round by round. `python -m bench.child count
SUBJECT PART NUMBER` does so many operations and prints nothing. PYTHONPATH says which poundlock is measured; a process
that would measure another tree than the one in POUNDLOCK_TREE stops.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tempfile
from pathlib import Path

import poundlock
from bench.subjects import SUBJECTS, figures


def ram_disk() -> Path | None:
    """Return where files cost no sync, on a machine that has such a place."""
    place = Path("/dev/shm")  # noqa: S108 - folders in it are made by tempfile
    return place if place.is_dir() else None


def command(*arguments: object) -> list[str]:
    """Return the command line of a child."""
    return [sys.executable, "-m", "bench.child", *map(str, arguments)]


def environment(tree: Path) -> dict[str, str]:
    """Return the environment in which a child measures the checkout at `tree` with this bench."""
    path = os.pathsep.join([str(tree / "src"), str(Path(__file__).resolve().parent.parent)])
    return {**os.environ, "PYTHONPATH": path, "POUNDLOCK_TREE": str(tree), "PYTHONHASHSEED": "0"}


async def times(name: str) -> dict[str, dict[str, list[float]]]:
    """Return the seconds per operation of ours, and of its floor if it has one, round by round."""
    found = await figures(SUBJECTS[name], "ours", "floor")
    return {who: {"wall": figure.wall, "cpu": figure.cpu} for who, figure in found.items()}


async def count(name: str, part: str, operations: int) -> None:
    """Do so many operations with the collector off: its passes depend on what else is alive."""
    gc.disable()
    with tempfile.TemporaryDirectory(dir=ram_disk()) as folder:
        async with SUBJECTS[name].openers[part](Path(folder)) as work:
            await work(operations)


def main() -> None:
    """Do what the arguments say, on the tree that was asked for."""
    measured, tree = Path(poundlock.__file__).resolve(), Path(os.environ["POUNDLOCK_TREE"]).resolve()
    if not measured.is_relative_to(tree):
        raise SystemExit(f"{measured} would be measured instead of {tree}")
    match sys.argv[1:]:
        case ["times", name]:
            print(json.dumps(asyncio.run(times(name))))
        case ["count", name, part, operations]:
            asyncio.run(count(name, part, int(operations)))
        case other:
            raise SystemExit(f"{__doc__}\nnot: {other}")


if __name__ == "__main__":
    main()
