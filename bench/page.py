"""Putting what was measured into its place on docs/benchmarks.md."""

from __future__ import annotations

import datetime as dt
import os
import platform
import sqlite3
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def machine() -> str:
    """Return a line about the machine."""
    return (
        f"Measured {dt.datetime.now(dt.UTC):%Y-%m-%d}, {os.cpu_count()} cores, CPython {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, load at the end {os.getloadavg()[0]:.1f}."
    )


def show(section: str, text: str, *, write: bool) -> None:
    """Print a table under a line about the machine; with `write`, put it between the marks of its section as well."""
    text = f"{machine()}\n\n{text.strip()}\n"
    print(text)
    if not write:
        return
    begin, end = f"<!-- measured: {section} -->\n", f"<!-- end: {section} -->"
    head, found, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{PAGE.name} has no place for it: a line '{begin.strip()}' and behind it '{end}'")
    PAGE.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
