-- Schema 2 to 3: moves all data into the tables of schema_3.sql, which is executed between the two parts of this file.
-- What is sorted is sorted in memory, so only keys are: a store is larger than that. LIMIT -1 means none, but makes
-- SQLite keep the order of a subquery.
DROP VIEW runs_overview;
DROP VIEW timeline;
DROP VIEW waiting;
DROP INDEX runs_by_status;
DROP INDEX runs_by_key;
DROP INDEX runs_queued;
DROP INDEX runs_ready;
DROP INDEX runs_due;
DROP INDEX runs_unfit;
ALTER TABLE runs RENAME TO former_runs;
ALTER TABLE run_log RENAME TO former_log;
ALTER TABLE snapshots RENAME TO former_snapshots;
ALTER TABLE wait_keys RENAME TO former_wait_keys;
ALTER TABLE inbox RENAME TO former_inbox;
-- schema_3.sql
INSERT INTO runs (
    run_id, workflow_id, trigger_id, pipeline_id, definition_hash, key, load_key, priority, parent_id, lineage,
    created_at, event_ref, event_type, place, status, version, owner, epoch, stage, attempt, wake_at, outcome, slot,
    inbox_seq, log_seq, updated_at, visits, waits
)
SELECT
    run_id, workflow_id, trigger_id, pipeline_id, definition_hash, key, load_key, priority, parent_id,
    nullif(lineage, '[]'), created_at, event_ref, ifnull((SELECT type FROM events WHERE ref = event_ref), ''), place,
    status, version, owner, epoch, stage, attempt, wake_at, outcome, slot, inbox_seq, log_seq, updated_at, visits,
    (
        SELECT '[' || group_concat(wait, ',') || ']'
        FROM (
            SELECT
                '{"wait":' || json_quote(wait_id) || ',"epoch":' || epoch
                || ',"parked":' || iif(parked, 'true', 'false') || ',"events":' || events || ',"where":' || conditions
                || ',"correlate":' || correlate || ',"resume_at":' || json_quote(resume_at)
                || ',"on_timeout":' || json_quote(on_timeout) || ',"expires_at":' || exactly(expires_at)
                || ',"patch":' || patch || ',"keys":' || keys || '}' AS wait
            FROM waits WHERE waits.run_id = former_runs.run_id ORDER BY place
        )
    )
FROM (SELECT run_id FROM former_runs ORDER BY created_at, run_id LIMIT -1) CROSS JOIN former_runs USING (run_id);
INSERT INTO log (run, version, stage, attempt, updated_at, first_seq, size, text)
SELECT run, number, stage, attempt, updated_at, first_seq, size, text
FROM (
    SELECT rowid AS id, row_number() OVER (PARTITION BY run_id ORDER BY first_seq) AS number
    FROM former_log ORDER BY id LIMIT -1
) AS numbered
CROSS JOIN former_log ON former_log.rowid = numbered.id
CROSS JOIN runs ON runs.run_id = former_log.run_id;
INSERT INTO snapshots (run, version, text)
SELECT
    run,
    ifnull((SELECT max(version) FROM log WHERE log.run = runs.run AND first_seq <= former_snapshots.log_seq), 0),
    text
FROM former_snapshots JOIN runs USING (run_id);
INSERT INTO wait_keys (key, run) SELECT former_wait_keys.key, run FROM former_wait_keys JOIN runs USING (run_id);
INSERT INTO inbox (run, seq, kind, time, body, event_ref)
SELECT run, seq, kind, time, body, former_inbox.event_ref FROM former_inbox JOIN runs USING (run_id);
INSERT INTO counts (name, count) SELECT status, count(*) FROM runs GROUP BY status;
INSERT INTO counts (name, count) SELECT 'waits', count(*) FROM waits;
INSERT INTO counts (name, count) SELECT 'events', count(*) FROM events;
INSERT INTO counts (name, count) SELECT 'remembered', count(*) FROM remembered;
INSERT INTO counts (name, count) SELECT 'receipts', count(*) FROM receipts;
DROP TABLE former_runs;
DROP TABLE former_log;
DROP TABLE former_snapshots;
DROP TABLE former_wait_keys;
DROP TABLE former_inbox;
DROP TABLE waits;
