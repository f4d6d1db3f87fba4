"""What the command line says of a run whose log is damaged."""

from __future__ import annotations

import contextlib
import sqlite3


def test_a_damaged_run_is_named(call, app, feed, store, tmp_path):
    """Its timeline ends with one sentence that names it and the code; lists and other runs are as ever."""
    events = feed(*({"type": "order.placed", "payload": {"order": f"A-{n}", "amount": 1}} for n in (1, 2)))
    call("run", app, "--events", events, "--store", store)
    good, bad = [run["run_id"] for run in call("runs", "ls", "--store", store, "--json").json["runs"]]
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        connection.execute("UPDATE log SET text = '[' WHERE run = (SELECT run FROM runs WHERE run_id = ?)", (bad,))
        connection.commit()
    for words in (["timeline", bad], ["runs", "show", bad], ["runs", "compare", good, bad]):
        said = call(*words, "--store", store)
        assert (said.code, "[RUN_DAMAGED]" in said.err, bad in said.err) == (1, True, True)
    assert call("timeline", good, "--store", store).code == 0
    assert bad in call("runs", "ls", "--store", store, "--json").out
