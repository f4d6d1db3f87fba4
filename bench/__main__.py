"""`python -m bench [--write] [w1 w2 w3 w4 ...]`: the table of docs/benchmarks.md; `--write` puts it there."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import platform
import sqlite3
import sys
from pathlib import Path

from bench.row import Row
from bench.tables import TABLES

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
MARK = "<!-- measured -->"


def main() -> None:
    """Measure what was asked for, print it, and write it if asked to."""
    wanted = [name for name in sys.argv[1:] if not name.startswith("-")] or list(TABLES)
    rows: list[Row] = []
    for name in wanted:
        print(f"measuring {name} ...", file=sys.stderr)
        rows += asyncio.run(TABLES[name]())
    text = render(rows)
    print(text)
    if "--write" in sys.argv:
        head = PAGE.read_text(encoding="utf-8").split(MARK)[0]
        PAGE.write_text(f"{head}{MARK}\n\n{text}", encoding="utf-8")


def render(rows: list[Row]) -> str:
    """Return the rows as a Markdown table under a line about the machine."""
    machine = (
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {os.cpu_count()} cores, CPython {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, load at the end {os.getloadavg()[0]:.1f}."
    )
    lines = [
        f"Measured {machine}",
        "",
        "| workload | limit by hand | Poundlock | of the limit | target | notes |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.workload} | {row.limit} | {row.ours} | {row.ratio} | {row.target} | {row.notes} |" for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
