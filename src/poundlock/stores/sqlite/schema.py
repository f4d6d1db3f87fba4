"""The schema of a store's file: checked before anything is changed, created, and migrated.

House rules: a released migration is never edited; a new file goes through all of them, so that a new schema and a
migrated one cannot differ. `application_id` identifies a Poundlock file, `user_version` its schema; both can be read
without knowing any table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from poundlock.codecs import CODEC_ID
from poundlock.errors import StoreTooNew, UnknownCodec
from poundlock.ids import default_ids
from poundlock.stores.sqlite.failures import damaged

SCHEMA_VERSION: Final = 5
APPLICATION_ID: Final = 0x504C636B  # "PLck"


def inspect(connection: sqlite3.Connection, path: str) -> int:
    """Return the version of the schema, 0 for an empty file; change nothing.

    Raises:
        StoreCorrupt, StoreTooNew, UnknownCodec: this file cannot be used.
    """
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not tables and not version and application_id in (0, APPLICATION_ID):
        return 0
    if application_id != APPLICATION_ID or not version:
        raise damaged(path, "it is a SQLite database of another program")
    if version > SCHEMA_VERSION:
        raise StoreTooNew(
            f"'{path}' was written by a newer Poundlock (schema {version}, this one reads up to {SCHEMA_VERSION}): "
            f"upgrade Poundlock, or give another path",
            store=path,
            version=version,
        )
    codec = read_meta(connection, path)["codec"]
    if codec != CODEC_ID:
        raise UnknownCodec(
            f"'{path}' was written by the codec '{codec}', this Poundlock knows '{CODEC_ID}': "
            f"open it with the version that wrote it, or give another path",
            store=path,
            codec=codec,
        )
    return version


def read_meta(connection: sqlite3.Connection, path: str) -> dict[str, str]:
    """Return the file's metadata.

    Raises:
        StoreCorrupt: it is incomplete.
    """
    try:
        meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    except sqlite3.OperationalError as error:
        raise damaged(path, str(error)) from None
    if not {"codec", "store_id"} <= meta.keys():
        raise damaged(path, "its description is missing")
    return meta


def migrate(connection: sqlite3.Connection) -> None:
    """Migrate the file to the current schema, all steps or none."""
    from sqlite_utils import Database, Migrations  # heavy, and an up-to-date file does not need it

    steps = Migrations("poundlock")

    @steps()
    def m0001_first(db: Database) -> None:
        for statement in statements(_script("schema.sql")):
            db.execute(statement)
        db.table("meta").insert_all(
            [{"name": "codec", "value": CODEC_ID}, {"name": "store_id", "value": default_ids.unique()}]
        )
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    @steps()
    def m0002_visits(db: Database) -> None:
        # How often a run entered its stages: NULL while it went straight on from its first stage, see model/visits.py.
        db.execute("ALTER TABLE runs ADD COLUMN visits TEXT")
        # Paused runs whose state does not fit its model: few, and looked for whenever their workflow is registered.
        db.execute(
            "CREATE INDEX runs_unfit ON runs (workflow_id, run_id) WHERE status = 'paused' AND outcome IS NOT NULL"
        )

    @steps()
    def m0003_log_before_head(db: Database) -> None:
        # A boundary writes one row of the log and not the run's row: see schema_3.sql.
        # SQLite's own conversion of numbers to text rounds to 15 digits.
        connection.create_function("exactly", 1, lambda number: "null" if number is None else repr(number))
        before, after = _script("migrate_3.sql").split("-- schema_3.sql\n")
        for script in (before, _script("schema_3.sql"), after):
            for statement in statements(script):
                db.execute(statement)

    @steps()
    def m0004_outbox(db: Database) -> None:
        # Events that steps have emitted, from the commit of their stage until they are delivered. A row with `dead_at`
        # is a dead letter. The numbers are never used again: a row is named by its number, also to people.
        db.execute("""
            CREATE TABLE outbox (
                seq      INTEGER PRIMARY KEY AUTOINCREMENT,
                run_id   TEXT NOT NULL,
                event    TEXT NOT NULL,
                version  INTEGER NOT NULL DEFAULT 1,
                admitted INTEGER NOT NULL DEFAULT 0,
                attempts INTEGER NOT NULL DEFAULT 0,
                error    TEXT,
                dead_at  REAL
            ) STRICT
        """)
        db.execute("CREATE INDEX outbox_due ON outbox (run_id, seq) WHERE dead_at IS NULL")
        db.execute("CREATE INDEX outbox_dead ON outbox (seq) WHERE dead_at IS NOT NULL")

    @steps()
    def m0005_pending_hooks(db: Database) -> None:
        # Runs that have ended, and whose hooks were not called yet: few, unless the process dies.
        db.execute("""
            CREATE TABLE pending_hooks (
                seq         INTEGER PRIMARY KEY,
                workflow_id TEXT NOT NULL,
                run_id      TEXT NOT NULL UNIQUE
            ) STRICT
        """)
        db.execute("CREATE INDEX pending_hooks_of ON pending_hooks (workflow_id, seq)")

    @steps()
    def m0005_retention(db: Database) -> None:
        # What deleting an ended run has to find. All three are small: most runs have an event of their own, and keys
        # with a run are those that callers gave.
        db.execute("CREATE INDEX runs_by_event ON runs (event_ref) WHERE event_ref IS NOT NULL")
        db.execute("CREATE INDEX remembered_with_run ON remembered (run_id) WHERE expires_at > 1e300")
        # Rows that deleted runs have left: the numbers of those whose log is too long to be deleted with the run, and
        # the events that only inboxes may still refer to.
        db.execute("CREATE TABLE leftover_logs (run INTEGER PRIMARY KEY) STRICT")
        db.execute("CREATE TABLE leftover_events (ref TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID")

    @steps()
    def m0005_schedules(db: Database) -> None:
        # Up to where the times of a time trigger are decided, and for which schedule.
        db.execute("""
            CREATE TABLE schedules (
                workflow_id TEXT NOT NULL,
                trigger_id  TEXT NOT NULL,
                rule        TEXT NOT NULL,
                upto        REAL NOT NULL,
                PRIMARY KEY (workflow_id, trigger_id)
            ) STRICT, WITHOUT ROWID
        """)

    @steps()
    def m0005_holds(db: Database) -> None:
        # What triggers hold: one row per trigger and key, and the events in it. The index finds what ends first, for
        # each workflow by itself: those that are not registered must not be in the way.
        db.execute("""
            CREATE TABLE holds (
                workflow_id TEXT NOT NULL,
                trigger_id  TEXT NOT NULL,
                key         TEXT NOT NULL,
                kind        TEXT NOT NULL,
                since       REAL NOT NULL,
                count       INTEGER NOT NULL,
                due_at      REAL NOT NULL,
                token       INTEGER NOT NULL,
                last_source TEXT,
                last_id     TEXT,
                PRIMARY KEY (workflow_id, trigger_id, key)
            ) STRICT, WITHOUT ROWID
        """)
        db.execute("CREATE INDEX holds_due ON holds (workflow_id, due_at)")
        db.execute("""
            CREATE TABLE held (
                seq         INTEGER PRIMARY KEY,
                workflow_id TEXT NOT NULL,
                trigger_id  TEXT NOT NULL,
                key         TEXT NOT NULL,
                event       TEXT NOT NULL,
                load_key    TEXT NOT NULL,
                initial     TEXT
            ) STRICT
        """)
        db.execute("CREATE INDEX held_together ON held (workflow_id, trigger_id, key, seq)")
        # Of a dead letter that a trigger held: a JSON array, see `HeldBy` in model/outbox.py.
        db.execute("ALTER TABLE outbox ADD COLUMN held_by TEXT")

    @steps()
    def m0005_returning(db: Database) -> None:
        # Resumed runs that wait for a slot: `slot` is 2, and `place` the order of their resumption. A claim must not
        # come across them, however many there are.
        db.execute("ALTER TABLE loads ADD COLUMN resumed INTEGER NOT NULL DEFAULT 0")
        db.execute("CREATE INDEX runs_returning ON runs (workflow_id, load_key, place) WHERE slot = 2")
        db.execute("DROP INDEX runs_ready")
        db.execute(
            "CREATE INDEX runs_ready ON runs (priority DESC, updated_at, run_id, workflow_id)"
            " WHERE status = 'ready' AND slot <> 2"
        )

    @steps()
    def m0005_paused_in_slot(db: Database) -> None:
        # Looked for when their workflow is registered: its mode may have them give their slots back.
        db.execute(
            "CREATE INDEX runs_paused_in_slot ON runs (workflow_id, run_id) WHERE status = 'paused' AND slot = 1"
        )

    @steps()
    def m0005_pauses(db: Database) -> None:
        # Workflows that an operator has paused; an empty id stands for all of them.
        db.execute("""
            CREATE TABLE pauses (
                workflow_id TEXT PRIMARY KEY,
                incoming    TEXT NOT NULL,
                reason      TEXT NOT NULL,
                by          TEXT NOT NULL,
                since       REAL NOT NULL
            ) STRICT, WITHOUT ROWID
        """)

    connection.execute("BEGIN IMMEDIATE")
    try:
        steps.apply(Database(connection, execute_plugins=False, recursive_triggers=False))
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _script(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a script: executescript would commit the transaction around them."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement.strip()
            statement = ""
