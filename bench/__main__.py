"""`python -m bench [--write] [w1 w2 ...]`: the table of docs/benchmarks.md; `--write` puts it there.

`python -m bench --against PATH [SUBJECT ...]` measures another checkout beside this one, see `bench.against`.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import os
import platform
import sqlite3
import sys
from pathlib import Path

from bench.against import against
from bench.row import Row
from bench.subjects import SUBJECTS
from bench.tables import TABLES

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
MARK = "<!-- measured -->"


def main() -> None:
    """Measure what was asked for, print it, and write it if asked to."""
    arguments = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    arguments.add_argument(
        "names", nargs="*", help=f"tables: {', '.join(TABLES)}; with --against: {', '.join(SUBJECTS)}"
    )
    arguments.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    arguments.add_argument("--against", type=Path, metavar="PATH", help="measure the checkout at PATH beside this one")
    asked = arguments.parse_args()
    known = SUBJECTS if asked.against else TABLES
    if unknown := [name for name in asked.names if name not in known]:
        arguments.error(f"unknown: {', '.join(unknown)}. Next: choose from {', '.join(known)}")
    if asked.against:
        print(machine(), against(asked.against, asked.names), sep="\n\n")
        return
    rows: list[Row] = []
    for name in asked.names or TABLES:
        print(f"measuring {name} ...", file=sys.stderr)
        rows += asyncio.run(TABLES[name]())
    text = render(rows)
    print(text)
    if asked.write:
        head = PAGE.read_text(encoding="utf-8").split(MARK)[0]
        PAGE.write_text(f"{head}{MARK}\n\n{text}", encoding="utf-8")


def machine() -> str:
    """Return a line about the machine."""
    return (
        f"Measured {dt.datetime.now(dt.UTC):%Y-%m-%d}, {os.cpu_count()} cores, CPython {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, load {os.getloadavg()[0]:.1f}."
    )


def render(rows: list[Row]) -> str:
    """Return the rows as a Markdown table under a line about the machine."""
    lines = [
        machine(),
        "",
        "| workload | Poundlock | floor | ratio | by processor time | goal | limit by hand | of the limit | notes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
