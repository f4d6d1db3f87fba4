"""`poundlock version`: the installed versions."""

from __future__ import annotations

import platform

from poundlock.cli.options import JsonOption


def version(as_json: JsonOption = False) -> None:
    """Show the versions of Poundlock, Python and SQLite."""
    import sqlite3

    from poundlock import __version__
    from poundlock.codecs import dump

    versions = {"poundlock": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    if as_json:
        print(dump(versions))
    else:
        print(", ".join(f"{name} {number}" for name, number in versions.items()))
