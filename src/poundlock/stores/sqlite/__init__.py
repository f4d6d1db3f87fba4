"""The SQLite store: durable work in one file, owned by one runtime at a time.

A commit walks: `store` (the port) hands it to `worker` (a thread and its queue), which gives all that is queued to
`writer` (one transaction, one sync); `group` writes what most commits hold, `apply` checks and writes the rest. `index`
is what the event loop may know without asking the file. `opening` looks before it touches, with `lock` and `schema`;
`reads` and `claims` are queries, and reads make way at the `gate` when the log has grown. `pruning` clears away what
has expired, beside the writer's batches and in quiet moments.

House rule: sqlite3 and sqlite-utils are used in here only. sqlite-utils makes and migrates the schema and lists runs
for people; what runs and events wait for goes through prepared statements, see `sql`.
"""

from poundlock.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
