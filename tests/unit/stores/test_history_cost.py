"""Reading a log from a sequence on costs what is new, not what was."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from poundlock import Terminate, Workflow, WorkflowRuntime
from poundlock.stores.sqlite import reads


class Counted:
    """A cursor that counts statements and rows."""

    def __init__(self, cursor):
        self._cursor = cursor
        self.statements = self.rows = 0

    def execute(self, statement, values=()):
        self.statements += 1
        self._cursor.execute(statement, values)
        return self

    def fetchone(self):
        self.rows += 1
        return self._cursor.fetchone()

    def fetchall(self):
        found = self._cursor.fetchall()
        self.rows += len(found)
        return found


async def test_a_long_log_is_not_read_from_its_beginning(tmp_path, vclock):
    """However long a log is, a few look-ups find the first new row, wherever that is, and only new rows are read."""
    wf = Workflow("loop")

    @wf.step(then="go")
    def go(n: int = 0):
        return Terminate("done") if n == 3000 else {"n": n + 1}

    path = tmp_path / "runs.db"
    async with WorkflowRuntime(wf, store=path, clock=vclock) as rt:
        run_id = (await rt.run("loop", {})).run_id
        whole = await rt.store.history(run_id)
    assert len(whole) > 3000
    with closing(sqlite3.connect(path)) as connection, connection:
        for place in (0, 1, 1500, len(whole) - 2, len(whole) - 1):
            cursor = Counted(connection.cursor())
            after = whole[place].first_seq + whole[place].size - 1
            assert reads.history(cursor, run_id, None, after, 2) == whole[place + 1 : place + 3]
            assert cursor.statements <= 16
            assert cursor.rows <= 18
    connection.close()
