-- A Poundlock store, schema version 1. Opens in any browser of SQLite files; begin with the views at the end.
-- Times are seconds since 1970-01-01 UTC. Lists and objects are JSON text.
-- Most tables are found by a text key and hold short rows, so they have no rowid: one B-tree less to write for each.

CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What happened in the world. Stored once; runs and inboxes refer to it by `ref`.
CREATE TABLE events (
    ref     TEXT NOT NULL PRIMARY KEY,
    type    TEXT NOT NULL,
    source  TEXT NOT NULL,
    id      TEXT NOT NULL,
    time    REAL,
    subject TEXT,
    headers TEXT NOT NULL,
    data    TEXT
) STRICT, WITHOUT ROWID;

-- One row per run: first what never changes, then what moves with every commit.
-- `place` is the order of acceptance of a queued run, and NULL for one that never had to wait.
CREATE TABLE runs (
    run_id          TEXT NOT NULL PRIMARY KEY,
    workflow_id     TEXT NOT NULL,
    trigger_id      TEXT,
    pipeline_id     TEXT NOT NULL,
    definition_hash TEXT NOT NULL,
    key             TEXT,
    load_key        TEXT,
    priority        INTEGER NOT NULL,
    parent_id       TEXT,
    lineage         TEXT NOT NULL,
    created_at      REAL NOT NULL,
    event_ref       TEXT NOT NULL,
    place           INTEGER,
    status          TEXT NOT NULL,
    version         INTEGER NOT NULL,
    owner           TEXT,
    epoch           INTEGER NOT NULL,
    stage           TEXT,
    attempt         INTEGER NOT NULL,
    wake_at         REAL,
    outcome         TEXT,
    slot            INTEGER NOT NULL,
    inbox_seq       INTEGER NOT NULL,
    log_seq         INTEGER NOT NULL,
    updated_at      REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- Lists of runs, newest first, are merged from one range of this index per status. `workflow_id` stands at its end so
-- that a list of one workflow skips the others without looking at their rows.
CREATE INDEX runs_by_status ON runs (status, created_at, run_id, workflow_id);
CREATE INDEX runs_by_key ON runs (key, created_at, run_id) WHERE key IS NOT NULL;
CREATE INDEX runs_queued ON runs (workflow_id, load_key, priority DESC, place) WHERE status = 'queued';
CREATE INDEX runs_ready ON runs (priority DESC, run_id, workflow_id) WHERE status = 'ready';
CREATE INDEX runs_due ON runs (priority DESC, wake_at, run_id, workflow_id)
    WHERE wake_at IS NOT NULL AND status IN ('paused', 'delayed');

-- One row per commit of a run: `text` is a JSON array of entries [time, source, type, path, payload, patch].
-- The texts are long and those of many runs arrive interleaved: with a rowid they are appended, page after page, and only
-- the short entries of the index find their place in between.
CREATE TABLE run_log (
    run_id    TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    text      TEXT NOT NULL,
    UNIQUE (run_id, first_seq)
) STRICT;

-- The whole state of a run after the entry `log_seq`; the log after it is all that has to be read.
CREATE TABLE snapshots (
    run_id  TEXT NOT NULL PRIMARY KEY,
    log_seq INTEGER NOT NULL,
    text    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What a run waits for (`parked`) or only has events buffered for.
CREATE TABLE waits (
    run_id     TEXT NOT NULL,
    place      INTEGER NOT NULL,
    wait_id    TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    parked     INTEGER NOT NULL,
    events     TEXT NOT NULL,
    conditions TEXT NOT NULL,
    correlate  TEXT NOT NULL,
    resume_at  TEXT,
    on_timeout TEXT NOT NULL,
    expires_at REAL,
    patch      TEXT NOT NULL,
    keys       TEXT NOT NULL,
    PRIMARY KEY (run_id, place)
) STRICT, WITHOUT ROWID;

-- Finds the runs an event is for: a key is an event type, the correlated paths and their values.
CREATE TABLE wait_keys (
    key    TEXT NOT NULL,
    run_id TEXT NOT NULL,
    PRIMARY KEY (key, run_id)
) STRICT, WITHOUT ROWID;

-- A shape is a key without the values; there are a few, whatever the number of waiting runs.
CREATE TABLE wait_shapes (
    shape TEXT NOT NULL PRIMARY KEY,
    uses  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What others have to say to a run, in order, until its owner has taken it in.
CREATE TABLE inbox (
    run_id    TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    time      REAL NOT NULL,
    body      TEXT,
    event_ref TEXT,
    PRIMARY KEY (run_id, seq)
) STRICT, WITHOUT ROWID;

-- How busy each (workflow, key) is; an idle one has no row.
CREATE TABLE loads (
    workflow_id TEXT NOT NULL,
    load_key    TEXT NOT NULL,
    active      INTEGER NOT NULL,
    active_id   TEXT,
    queued      INTEGER NOT NULL,
    tail_id     TEXT,
    generation  INTEGER NOT NULL,
    turn        INTEGER NOT NULL,
    PRIMARY KEY (workflow_id, load_key)
) STRICT, WITHOUT ROWID;

-- Events that were handled already, per trigger; `scope` is empty for what waits took.
CREATE TABLE remembered (
    source      TEXT NOT NULL,
    event_id    TEXT NOT NULL,
    scope       TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    run_id      TEXT,
    expires_at  REAL NOT NULL,
    PRIMARY KEY (source, event_id, scope)
) STRICT, WITHOUT ROWID;

-- The last receipt given for an event.
CREATE TABLE receipts (
    source   TEXT NOT NULL,
    event_id TEXT NOT NULL,
    time     REAL NOT NULL,
    lines    TEXT NOT NULL,
    PRIMARY KEY (source, event_id)
) STRICT, WITHOUT ROWID;

CREATE VIEW runs_overview AS
SELECT
    run_id,
    workflow_id AS workflow,
    key,
    status,
    stage,
    attempt,
    strftime('%Y-%m-%d %H:%M:%f', created_at, 'unixepoch') AS created,
    strftime('%Y-%m-%d %H:%M:%f', updated_at, 'unixepoch') AS updated,
    strftime('%Y-%m-%d %H:%M:%f', wake_at, 'unixepoch') AS wakes,
    json_extract(outcome, '$.result') AS result,
    json_extract(outcome, '$.error') AS error
FROM runs;

CREATE VIEW timeline AS
SELECT
    run_log.run_id,
    run_log.first_seq + entry.key AS seq,
    strftime('%Y-%m-%d %H:%M:%f', json_extract(entry.value, '$[0]'), 'unixepoch') AS time,
    json_extract(entry.value, '$[1]') AS source,
    json_extract(entry.value, '$[2]') AS type,
    json_extract(entry.value, '$[3]') AS path,
    json_extract(entry.value, '$[4]') AS payload,
    json_extract(entry.value, '$[5]') AS patch
FROM run_log, json_each(run_log.text) AS entry;

CREATE VIEW waiting AS
SELECT
    runs.run_id,
    runs.workflow_id AS workflow,
    runs.key,
    waits.wait_id,
    waits.events,
    waits.conditions,
    waits.correlate,
    waits.resume_at,
    strftime('%Y-%m-%d %H:%M:%f', waits.expires_at, 'unixepoch') AS expires,
    strftime('%Y-%m-%d %H:%M:%f', runs.updated_at, 'unixepoch') AS since
FROM runs JOIN waits ON waits.run_id = runs.run_id
WHERE runs.status = 'paused' AND waits.parked = 1;
