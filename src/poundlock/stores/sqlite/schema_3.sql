-- A Poundlock store from schema version 3 on; the tables that are not here are as in schema.sql.
-- Opens in any browser of SQLite files; begin with the views at the end.
-- Times are seconds since 1970-01-01 UTC. Lists and objects are JSON text.
-- `run` is the number of a run: short, in the order of creation, and the key of all other tables about runs.

-- One row per run: first what never changes, then its head. A stage boundary does not change this row, see `log`.
-- `event_ref` is NULL for a run whose event is kept with its first log row; otherwise it names a row of `events`.
-- `place` is the order of acceptance of a queued run, and NULL for one that never had to wait.
-- `waits` is a list of objects: what the run waits for (`parked`), or only has events buffered for.
CREATE TABLE runs (
    run             INTEGER PRIMARY KEY,
    run_id          TEXT NOT NULL UNIQUE,
    workflow_id     TEXT NOT NULL,
    trigger_id      TEXT,
    pipeline_id     TEXT NOT NULL,
    definition_hash TEXT NOT NULL,
    key             TEXT,
    load_key        TEXT,
    priority        INTEGER NOT NULL,
    parent_id       TEXT,
    lineage         TEXT,
    created_at      REAL NOT NULL,
    event_ref       TEXT,
    event_type      TEXT NOT NULL,
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
    updated_at      REAL NOT NULL,
    visits          TEXT,
    waits           TEXT
) STRICT;

-- Lists of runs, newest first, are merged from one range of this index per status. A run is in it while it rests and
-- after its end, so most runs come into it once. `workflow_id` stands at its end so that a list of one workflow skips
-- the others without looking at their rows.
CREATE INDEX runs_by_status ON runs (status, created_at, run_id, workflow_id) WHERE status <> 'running';
CREATE INDEX runs_running ON runs (run) WHERE status = 'running';
CREATE INDEX runs_by_key ON runs (key, created_at, run_id) WHERE key IS NOT NULL;
CREATE INDEX runs_queued ON runs (workflow_id, load_key, priority DESC, place) WHERE status = 'queued';
CREATE INDEX runs_ready ON runs (priority DESC, run_id, workflow_id) WHERE status = 'ready';
CREATE INDEX runs_due ON runs (priority DESC, wake_at, run_id, workflow_id)
    WHERE wake_at IS NOT NULL AND status IN ('paused', 'delayed');
-- Paused runs whose state does not fit its model: few, and looked for whenever their workflow is registered.
CREATE INDEX runs_unfit ON runs (workflow_id, run_id) WHERE status = 'paused' AND outcome IS NOT NULL;

-- One row per commit of a run that has something to tell: `text` is a JSON array of `size` entries
-- [time, source, type, path, payload, patch]; the first has the sequence `first_seq`.
-- While a run is running, a row with a higher version than the run's own says how far it is: stage, attempt, time.
-- The key refuses a second writer of a version. The texts are long and those of many runs arrive interleaved: they are
-- appended, page after page, and only the short entries of the index find their place in between.
-- `event` is set in the first row of a run that has an event of its own.
CREATE TABLE log (
    run        INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    stage      TEXT,
    attempt    INTEGER NOT NULL,
    updated_at REAL NOT NULL,
    first_seq  INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    text       TEXT NOT NULL,
    event      TEXT,
    UNIQUE (run, version)
) STRICT;

-- The whole state of a run at a version; the log after it is all that has to be read.
CREATE TABLE snapshots (
    run     INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    text    TEXT NOT NULL
) STRICT;

-- Finds the runs an event is for: a key is an event type, the correlated paths and their values.
CREATE TABLE wait_keys (
    key TEXT NOT NULL,
    run INTEGER NOT NULL,
    PRIMARY KEY (key, run)
) STRICT, WITHOUT ROWID;

-- What others have to say to a run, in order, until its owner has taken it in. The event of a message is kept in
-- `event`, or, where several runs got the same, in `events` under `event_ref`.
CREATE TABLE inbox (
    run       INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    time      REAL NOT NULL,
    body      TEXT,
    event_ref TEXT,
    event     TEXT,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

-- How many rows there are: runs of each status, and rows of some tables.
CREATE TABLE counts (
    name  TEXT NOT NULL PRIMARY KEY,
    count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE VIEW runs_overview AS
SELECT
    runs.run_id,
    runs.workflow_id AS workflow,
    runs.key,
    runs.status,
    CASE WHEN last.version IS NULL THEN runs.stage ELSE last.stage END AS stage,
    ifnull(last.attempt, runs.attempt) AS attempt,
    strftime('%Y-%m-%d %H:%M:%f', runs.created_at, 'unixepoch') AS created,
    strftime('%Y-%m-%d %H:%M:%f', ifnull(last.updated_at, runs.updated_at), 'unixepoch') AS updated,
    strftime('%Y-%m-%d %H:%M:%f', runs.wake_at, 'unixepoch') AS wakes,
    json_extract(runs.outcome, '$.result') AS result,
    json_extract(runs.outcome, '$.error') AS error
FROM runs LEFT JOIN log AS last
    ON last.run = runs.run
    AND last.version = (SELECT max(version) FROM log WHERE log.run = runs.run AND log.version > runs.version);

CREATE VIEW timeline AS
SELECT
    runs.run_id,
    log.first_seq + entry.key AS seq,
    strftime('%Y-%m-%d %H:%M:%f', json_extract(entry.value, '$[0]'), 'unixepoch') AS time,
    json_extract(entry.value, '$[1]') AS source,
    json_extract(entry.value, '$[2]') AS type,
    json_extract(entry.value, '$[3]') AS path,
    json_extract(entry.value, '$[4]') AS payload,
    json_extract(entry.value, '$[5]') AS patch
FROM runs JOIN log ON log.run = runs.run, json_each(log.text) AS entry;

CREATE VIEW waiting AS
SELECT
    runs.run_id,
    runs.workflow_id AS workflow,
    runs.key,
    json_extract(wait.value, '$.wait') AS wait_id,
    json_extract(wait.value, '$.events') AS events,
    json_extract(wait.value, '$.where') AS conditions,
    json_extract(wait.value, '$.correlate') AS correlate,
    json_extract(wait.value, '$.resume_at') AS resume_at,
    strftime('%Y-%m-%d %H:%M:%f', json_extract(wait.value, '$.expires_at'), 'unixepoch') AS expires,
    strftime('%Y-%m-%d %H:%M:%f', runs.updated_at, 'unixepoch') AS since
FROM runs, json_each(runs.waits) AS wait
-- The index has no running runs, and SQLite does not see that a paused one is none.
WHERE runs.status = 'paused' AND runs.status <> 'running' AND json_extract(wait.value, '$.parked');
