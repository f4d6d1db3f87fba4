"""Find what is damaged in what is stored of a run: rows that are no JSON, or not of their form.

House rule: it is looked for where reading has failed, and in rows of the log, which are decoded elsewhere. Codecs of
users may fail as well, and that is no damage: so what is looked at here is JSON, before anything of users is decoded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from poundlock.errors import RunDamaged
from poundlock.json_core import from_json
from poundlock.model.runs import LogRow
from poundlock.stores.sqlite import sql
from poundlock.stores.sqlite.failures import of_the_store

_FIELDS: Final = 6
"""Of an entry of the log."""


def whole_log(cursor: sqlite3.Cursor, run_id: str, run: int, statement: str, values: Sequence[Any]) -> list[LogRow]:
    """Return rows of a run's log, each of which can be decoded.

    Args:
        cursor: of the caller's transaction.
        run_id: whose log it is.
        run: number of that run.
        statement: selects the rows.
        values: of the statement.

    Raises:
        RunDamaged: one of them is damaged.
    """
    try:
        rows = [LogRow(*row) for row in cursor.execute(statement, values).fetchall()]
    except sqlite3.Error as error:
        damage = None if of_the_store(error) else log_damage(cursor, run_id, run)
        if damage is None:
            raise
        raise damage from None  # a text that is no UTF-8
    for first, size, text in rows:
        why = _log_fault(text, size)
        if why:
            raise _damaged(run_id, first, f"entries {first} to {first + size - 1} of its log", why)
    return rows


def damage_of(cursor: sqlite3.Cursor, run_id: str) -> RunDamaged | None:
    """Return what is damaged of a run that cannot be read; None if it is something else that fails."""
    found = cursor.execute(sql.RUN, (run_id,)).fetchone()
    if found is None:
        return None
    damaged = log_damage(cursor, run_id, found[0])
    if damaged is not None:
        return damaged
    for what, form, statement in sql.PARTS:
        for (text,) in cursor.execute(statement, (run_id,)).fetchall():
            why = "" if text is None else _fault(text, list if form == "list" else dict)
            if why:
                return _damaged(run_id, None, what, why)
    return None


def log_damage(cursor: sqlite3.Cursor, run_id: str, run: int) -> RunDamaged | None:
    """Return the first damage in a run's log; None if there is none."""
    for first, size, text in cursor.execute(sql.LOG_BYTES, (run,)).fetchall():
        why = _log_fault(text, size)
        if why:
            return _damaged(run_id, first, f"entries {first} to {first + size - 1} of its log", why)
    return None


def _log_fault(text: str | bytes, size: int) -> str:
    """Return what is wrong with the text of a row of the log; empty if nothing is."""
    why = _fault(text, list)
    if why:
        return why
    entries = from_json(text)
    if len(entries) != size:
        return f"{len(entries)} of {size} entries are there"
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == _FIELDS and isinstance(entry[-1], dict | None)):
            return "an entry has not the form of one"
    return ""


def _fault(text: str | bytes, form: type) -> str:
    try:
        found = from_json(text)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    return "" if isinstance(found, form) else "it has not its form"


def _damaged(run_id: str, seq: int | None, what: str, why: str) -> RunDamaged:
    return RunDamaged(
        f"run '{run_id}' cannot be read, because of damage in {what} ({why}): restore the store from a backup, or end "
        f"the run with `await runtime.abort('{run_id}')`",
        run_id=run_id,
        seq=seq,
    )
