"""`python -m bench [--write] [w1 w2 ...]`: the times of docs/benchmarks.md; `--write` puts them there.

`python -m bench --against PATH [SUBJECT ...]` measures another checkout beside this one, see `bench.against`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from bench.against import against
from bench.page import show
from bench.row import Row
from bench.subjects import SUBJECTS
from bench.tables import TABLES


def main() -> None:
    """Measure what was asked for, print it, and write it if asked to."""
    arguments = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    arguments.add_argument(
        "names", nargs="*", help=f"tables: {', '.join(TABLES)}; with --against: {', '.join(SUBJECTS)}"
    )
    arguments.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    arguments.add_argument("--against", type=Path, metavar="PATH", help="measure the checkout at PATH beside this one")
    asked = arguments.parse_args()
    known = SUBJECTS if asked.against else TABLES
    if unknown := [name for name in asked.names if name not in known]:
        arguments.error(f"unknown: {', '.join(unknown)}. Next: choose from {', '.join(known)}")
    if asked.against:
        show("against", against(asked.against, asked.names), write=asked.write)
        return
    rows: list[Row] = []
    for name in asked.names or TABLES:
        print(f"measuring {name} ...", file=sys.stderr)
        rows += asyncio.run(TABLES[name]())
    show("times", render(rows), write=asked.write)


def render(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| workload | Poundlock | floor | ratio | by processor time | goal | limit by hand | of the limit | notes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
