PRAGMA application_id = 1347183467;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'poundlock','m0001_first','2026-11-26 01:11:40.347397+00:00');
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
INSERT INTO "events" VALUES('019b76da-a800-7004-afd6-26c82eddef6b','quick','/invoke','019b76da-a800-7004-afd6-26c82eddef6b',1767225600.0,NULL,'{}','{"run_id":"ended"}');
INSERT INTO "events" VALUES('019b76daa80030d592d0c4d827a45d48','placed','','422dfbc36de67ce309ccb907fc2af505',1767225600.0,NULL,'{}','{"id":1}');
INSERT INTO "events" VALUES('019b76daa80058fd07c246a5d718cd2d','begun','','38011e74ca69e7d5ec823376296a2f76',1767225600.0,NULL,'{}','{}');
INSERT INTO "events" VALUES('019b76daa800b5172af2241b43467c3a','watched','','8b6af0a08712c55a559fc3584c79f912',1767225600.0,NULL,'{}','{}');
INSERT INTO "events" VALUES('019b76daa800ccc739270de1d74d4b9c','placed','','174acbb2089cc959c764890f46bbcee1',1767225600.0,NULL,'{}','{"id":0}');
INSERT INTO "events" VALUES('019b76daa800f382f1a82cac0c17e243','placed','','a24ee319fa9586c4fc6210a3652a7887',1767225600.0,NULL,'{}','{"id":2}');
CREATE TABLE inbox (
    run_id    TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    time      REAL NOT NULL,
    body      TEXT,
    event_ref TEXT,
    PRIMARY KEY (run_id, seq)
) STRICT, WITHOUT ROWID;
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
INSERT INTO "loads" VALUES('busy','',1,'019b76da-a800-7005-867a-641dbd676bd9',0,NULL,4138167835681889853,0);
INSERT INTO "loads" VALUES('orders','',1,'019b76da-a800-7000-ab9e-f74ef3c71974',2,'019b76da-a800-7002-835d-ad73b700b949',1541778395226721715,2);
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "meta" VALUES('codec','json/1');
INSERT INTO "meta" VALUES('store_id','87728b6a1808f88517c3a60cff773435');
CREATE TABLE receipts (
    source   TEXT NOT NULL,
    event_id TEXT NOT NULL,
    time     REAL NOT NULL,
    lines    TEXT NOT NULL,
    PRIMARY KEY (source, event_id)
) STRICT, WITHOUT ROWID;
INSERT INTO "receipts" VALUES('','174acbb2089cc959c764890f46bbcee1',1767225600.0,'[{"verdict":"started","workflow_id":"orders","trigger_id":"placed","run_id":"019b76da-a800-7000-ab9e-f74ef3c71974","reason":""}]');
INSERT INTO "receipts" VALUES('','38011e74ca69e7d5ec823376296a2f76',1767225600.0,'[{"verdict":"started","workflow_id":"busy","trigger_id":"begun","run_id":"019b76da-a800-7005-867a-641dbd676bd9","reason":""}]');
INSERT INTO "receipts" VALUES('','422dfbc36de67ce309ccb907fc2af505',1767225600.0,'[{"verdict":"queued","workflow_id":"orders","trigger_id":"placed","run_id":"019b76da-a800-7001-b0e1-199fe102808c","reason":""}]');
INSERT INTO "receipts" VALUES('','8b6af0a08712c55a559fc3584c79f912',1767225600.0,'[{"verdict":"started","workflow_id":"watch","trigger_id":"watched","run_id":"019b76da-a800-7003-b407-cc7976bc7bd8","reason":""}]');
INSERT INTO "receipts" VALUES('','a24ee319fa9586c4fc6210a3652a7887',1767225600.0,'[{"verdict":"queued","workflow_id":"orders","trigger_id":"placed","run_id":"019b76da-a800-7002-835d-ad73b700b949","reason":""}]');
CREATE TABLE remembered (
    source      TEXT NOT NULL,
    event_id    TEXT NOT NULL,
    scope       TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    run_id      TEXT,
    expires_at  REAL NOT NULL,
    PRIMARY KEY (source, event_id, scope)
) STRICT, WITHOUT ROWID;
INSERT INTO "remembered" VALUES('','174acbb2089cc959c764890f46bbcee1','orders/placed','d7084313d2c7d3123fa15119637f193d','019b76da-a800-7000-ab9e-f74ef3c71974',1767312000.0);
INSERT INTO "remembered" VALUES('','38011e74ca69e7d5ec823376296a2f76','busy/begun','42a1aecafb057101ddb0f4f1037f96d6','019b76da-a800-7005-867a-641dbd676bd9',1767312000.0);
INSERT INTO "remembered" VALUES('','422dfbc36de67ce309ccb907fc2af505','orders/placed','b294f32d70ac24ba98462923afec26e7','019b76da-a800-7001-b0e1-199fe102808c',1767312000.0);
INSERT INTO "remembered" VALUES('','8b6af0a08712c55a559fc3584c79f912','watch/watched','321dae96a49f125975840587c2d93659','019b76da-a800-7003-b407-cc7976bc7bd8',1767312000.0);
INSERT INTO "remembered" VALUES('','a24ee319fa9586c4fc6210a3652a7887','orders/placed','fbe6c691cfd5683eea3efce75b6562e4','019b76da-a800-7002-835d-ad73b700b949',1767312000.0);
CREATE TABLE run_log (
    run_id    TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    text      TEXT NOT NULL,
    UNIQUE (run_id, first_seq)
) STRICT;
INSERT INTO "run_log" VALUES('019b76da-a800-7000-ab9e-f74ef3c71974',1,2,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"174acbb2089cc959c764890f46bbcee1","type":"placed","source":""},"trigger":"placed"},{"id":0}],[1767225600.0,"pipeline","pipeline:start","main",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7000-ab9e-f74ef3c71974',3,9,'[[1767225600.0,"pipeline","stage:start","main/reserve",null,null],[1767225600.0,"pipeline","step:start","main/reserve/reserve",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/reserve/reserve",null,null],[1767225600.0,"state","state:patch","main/reserve/reserve",null,{"reserved":0}],[1767225600.0,"pipeline","stage:success","main/reserve",null,null],[1767225600.0,"pipeline","stage:start","main/approval",null,null],[1767225600.0,"pipeline","stage:success","main/approval",null,null],[1767225600.0,"pipeline","wait:registered","main",{"wait":"approval","events":["approved"],"correlate":{"id":0}},null],[1767225600.0,"pipeline","pipeline:pause","main",{"wait":"approval","expires_at":null},null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7001-b0e1-199fe102808c',1,2,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"422dfbc36de67ce309ccb907fc2af505","type":"placed","source":""},"trigger":"placed"},{"id":1}],[1767225600.0,"pipeline","pipeline:start","main",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7002-835d-ad73b700b949',1,2,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"a24ee319fa9586c4fc6210a3652a7887","type":"placed","source":""},"trigger":"placed"},{"id":2}],[1767225600.0,"pipeline","pipeline:start","main",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7003-b407-cc7976bc7bd8',1,2,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"8b6af0a08712c55a559fc3584c79f912","type":"watched","source":""},"trigger":"watched"},{}],[1767225600.0,"pipeline","pipeline:start","main",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7003-b407-cc7976bc7bd8',3,6,'[[1767225600.0,"pipeline","stage:start","main/look",null,null],[1767225600.0,"pipeline","step:start","main/look/look",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/look/look",null,null],[1767225600.0,"state","state:patch","main/look/look",null,{"n":1}],[1767225600.0,"pipeline","router:evaluated","main/look",{"instruction":"Jump(stage=''look'')"},null],[1767225600.0,"pipeline","stage:success","main/look",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7004-afd6-26c82eddef6b',1,8,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"019b76da-a800-7004-afd6-26c82eddef6b","type":"quick","source":"/invoke"},"trigger":null},{"run_id":"ended"}],[1767225600.0,"pipeline","pipeline:start","main",null,null],[1767225600.0,"pipeline","stage:start","main/only",null,null],[1767225600.0,"pipeline","step:start","main/only/only",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/only/only",null,null],[1767225600.0,"state","state:patch","main/only/only",null,{"only":true}],[1767225600.0,"pipeline","stage:success","main/only",null,null],[1767225600.0,"pipeline","pipeline:success","main",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7005-867a-641dbd676bd9',1,2,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"38011e74ca69e7d5ec823376296a2f76","type":"begun","source":""},"trigger":"begun"},{}],[1767225600.0,"pipeline","pipeline:start","main",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7003-b407-cc7976bc7bd8',9,6,'[[1767225600.0,"pipeline","stage:start","main/look",null,null],[1767225600.0,"pipeline","step:start","main/look/look",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/look/look",null,null],[1767225600.0,"state","state:patch","main/look/look",null,{"n":2}],[1767225600.0,"pipeline","router:evaluated","main/look",{"instruction":"Jump(stage=''look'')"},null],[1767225600.0,"pipeline","stage:success","main/look",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7003-b407-cc7976bc7bd8',15,7,'[[1767225600.0,"pipeline","stage:start","main/look",null,null],[1767225600.0,"pipeline","step:start","main/look/look",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/look/look",null,null],[1767225600.0,"state","state:patch","main/look/look",null,{"n":3}],[1767225600.0,"pipeline","router:evaluated","main/look",{"instruction":"Delay(seconds=''1h'', until=None)"},null],[1767225600.0,"pipeline","stage:success","main/look",null,null],[1767225600.0,"pipeline","pipeline:delay","main/look",{"until":1767229200.0},null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7005-867a-641dbd676bd9',3,5,'[[1767225600.0,"pipeline","stage:start","main/first",null,null],[1767225600.0,"pipeline","step:start","main/first/first",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/first/first",null,null],[1767225600.0,"state","state:patch","main/first/first",null,{"first":true}],[1767225600.0,"pipeline","stage:success","main/first",null,null]]');
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
INSERT INTO "runs" VALUES('019b76da-a800-7000-ab9e-f74ef3c71974','orders','placed','main','a8890bf65f29f8f5',NULL,'',0,NULL,'[]',1767225600.0,'019b76daa800ccc739270de1d74d4b9c',NULL,'paused',2,NULL,1,'approval',1,NULL,NULL,1,0,11,1767225600.0);
INSERT INTO "runs" VALUES('019b76da-a800-7001-b0e1-199fe102808c','orders','placed','main','a8890bf65f29f8f5',NULL,'',0,NULL,'[]',1767225600.0,'019b76daa80030d592d0c4d827a45d48',1,'queued',1,NULL,1,'reserve',1,NULL,NULL,0,0,2,1767225600.0);
INSERT INTO "runs" VALUES('019b76da-a800-7002-835d-ad73b700b949','orders','placed','main','a8890bf65f29f8f5',NULL,'',0,NULL,'[]',1767225600.0,'019b76daa800f382f1a82cac0c17e243',2,'queued',1,NULL,1,'reserve',1,NULL,NULL,0,0,2,1767225600.0);
INSERT INTO "runs" VALUES('019b76da-a800-7003-b407-cc7976bc7bd8','watch','watched','main','98caba2c2d5123e8',NULL,'',0,NULL,'[]',1767225600.0,'019b76daa800b5172af2241b43467c3a',NULL,'delayed',4,NULL,1,'again',1,1767229200.0,NULL,0,0,21,1767225600.0);
INSERT INTO "runs" VALUES('019b76da-a800-7004-afd6-26c82eddef6b','quick',NULL,'main','451c194fc6145712',NULL,NULL,0,NULL,'[]',1767225600.0,'019b76da-a800-7004-afd6-26c82eddef6b',NULL,'completed',1,NULL,1,NULL,1,NULL,NULL,0,0,8,1767225600.0);
INSERT INTO "runs" VALUES('019b76da-a800-7005-867a-641dbd676bd9','busy','begun','main','7a82211e478b922d',NULL,'',0,NULL,'[]',1767225600.0,'019b76daa80058fd07c246a5d718cd2d',NULL,'running',2,'a594d809e5b131540b58642f44684d4b',1,'second',1,NULL,NULL,1,0,7,1767225600.0);
CREATE TABLE snapshots (
    run_id  TEXT NOT NULL PRIMARY KEY,
    log_seq INTEGER NOT NULL,
    text    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE wait_keys (
    key    TEXT NOT NULL,
    run_id TEXT NOT NULL,
    PRIMARY KEY (key, run_id)
) STRICT, WITHOUT ROWID;
INSERT INTO "wait_keys" VALUES('approvedid[0]','019b76da-a800-7000-ab9e-f74ef3c71974');
INSERT INTO "wait_keys" VALUES('approvedid[1]','019b76da-a800-7001-b0e1-199fe102808c');
INSERT INTO "wait_keys" VALUES('approvedid[2]','019b76da-a800-7002-835d-ad73b700b949');
CREATE TABLE wait_shapes (
    shape TEXT NOT NULL PRIMARY KEY,
    uses  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "wait_shapes" VALUES('approvedid',3);
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
INSERT INTO "waits" VALUES('019b76da-a800-7000-ab9e-f74ef3c71974',0,'approval',2,1,'["approved"]','[]','[["id",0]]','ship','fail',NULL,'null','["approved\u001fid\u001f\u001f[0]"]');
INSERT INTO "waits" VALUES('019b76da-a800-7001-b0e1-199fe102808c',0,'approval',1,0,'["approved"]','[]','[["id",1]]','ship','fail',NULL,'null','["approved\u001fid\u001f\u001f[1]"]');
INSERT INTO "waits" VALUES('019b76da-a800-7002-835d-ad73b700b949',0,'approval',1,0,'["approved"]','[]','[["id",2]]','ship','fail',NULL,'null','["approved\u001fid\u001f\u001f[2]"]');
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX runs_by_status ON runs (status, created_at, run_id, workflow_id);
CREATE INDEX runs_by_key ON runs (key, created_at, run_id) WHERE key IS NOT NULL;
CREATE INDEX runs_queued ON runs (workflow_id, load_key, priority DESC, place) WHERE status = 'queued';
CREATE INDEX runs_ready ON runs (priority DESC, run_id, workflow_id) WHERE status = 'ready';
CREATE INDEX runs_due ON runs (priority DESC, wake_at, run_id, workflow_id)
    WHERE wake_at IS NOT NULL AND status IN ('paused', 'delayed');
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
COMMIT;
