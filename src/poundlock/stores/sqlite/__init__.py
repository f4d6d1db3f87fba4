"""The SQLite store: durable work in one file, owned by one runtime at a time.

The path of a commit: `store` (the port) passes it to `worker` (a thread and its queue), which passes all queued jobs to
`writer` (one transaction, one sync); `apply` checks each change against `heads`, what the writer knows of running runs,
and collects its rows in a `batch`, which writes them table by table. `index` is what the event loop knows without
reading the file. `opening` inspects a file before it changes it, with `lock` and
`schema`; `reads` and `claims` are queries, and reads wait at the `gate` when the log has grown. `pruning` deletes
expired data, with the writer's batches and when the writer is idle.

House rule: sqlite3 and sqlite-utils are used only in this package. sqlite-utils creates and migrates the schema and
lists runs for people; everything that runs and events wait for uses prepared statements, see `sql`.
"""

from poundlock.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
