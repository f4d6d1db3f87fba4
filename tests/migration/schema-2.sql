PRAGMA application_id = 1347183467;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'poundlock','m0001_first','2026-11-26 08:10:28.489479+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'poundlock','m0002_visits','2026-11-26 08:10:28.490190+00:00');
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
INSERT INTO "events" VALUES(' kinds-e','order.approved','/shop','kinds-e',1000.0,NULL,'{}','{"id":1}');
INSERT INTO "events" VALUES('019b76da-a800-7004-86c0-7a93a79c6a00','quick','/invoke','019b76da-a800-7004-86c0-7a93a79c6a00',1767225600.0,NULL,'{}','{"run_id":"ended"}');
INSERT INTO "events" VALUES('019b76daa80038bef9306f6746c58134','begun','','823a41529bfda2e435b60724d519e083',1767225600.0,NULL,'{}','{}');
INSERT INTO "events" VALUES('019b76daa8007df644385414f328359c','placed','','6074eb7e31670bc581404e4cb9cab77f',1767225600.0,NULL,'{}','{"id":0}');
INSERT INTO "events" VALUES('019b76daa8009af2ce7141b2114c721a','placed','','19de49c73d88058961a4fcddd1d26116',1767225600.0,NULL,'{}','{"id":1}');
INSERT INTO "events" VALUES('019b76daa800e1ddef8763b75551079a','watched','','f4c83e862eb9e7a5859bd34f54403482',1767225600.0,NULL,'{}','{}');
INSERT INTO "events" VALUES('019b76daa800fd8c4c89a00107ec967b','placed','','6fe4bc6e8625b6deaffa5e7dd433589f',1767225600.0,NULL,'{}','{"id":2}');
INSERT INTO "events" VALUES('e-kinds-2','order.placed','/shop','e-kinds-2',1000.0,NULL,'{}','{"id":1}');
INSERT INTO "events" VALUES('e-kinds-5','order.placed','/shop','e-kinds-5',1000.0,NULL,'{}','{"id":1}');
INSERT INTO "events" VALUES('kinds-1','order.placed','/shop','kinds-1',1000.0,'k','{"traceparent":"00-ab"}','{"deep":[{"a":null}],"n":0.1}');
INSERT INTO "events" VALUES('kinds-3','order.placed','/shop','kinds-3',1000.0,NULL,'{}','[1]');
CREATE TABLE inbox (
    run_id    TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    time      REAL NOT NULL,
    body      TEXT,
    event_ref TEXT,
    PRIMARY KEY (run_id, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO "inbox" VALUES('kinds-1',1,'event',1000.0,NULL,' kinds-e');
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
INSERT INTO "loads" VALUES('busy','',1,'019b76da-a800-7005-a395-462152acaecf',0,NULL,1835266154691912737,0);
INSERT INTO "loads" VALUES('orders','',1,'019b76da-a800-7000-a289-4c3c1fafc0de',2,'019b76da-a800-7002-b409-fc3f1e74a234',2893948358094836289,2);
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "meta" VALUES('codec','json/1');
INSERT INTO "meta" VALUES('opened','[1767225600.0,103008]');
INSERT INTO "meta" VALUES('store_id','316b3447f29eb7dfd28bf5d11d22bef3');
CREATE TABLE receipts (
    source   TEXT NOT NULL,
    event_id TEXT NOT NULL,
    time     REAL NOT NULL,
    lines    TEXT NOT NULL,
    PRIMARY KEY (source, event_id)
) STRICT, WITHOUT ROWID;
INSERT INTO "receipts" VALUES('','19de49c73d88058961a4fcddd1d26116',1767225600.0,'[{"verdict":"queued","workflow_id":"orders","trigger_id":"placed","run_id":"019b76da-a800-7001-8aed-3ec351815783","reason":""}]');
INSERT INTO "receipts" VALUES('','6074eb7e31670bc581404e4cb9cab77f',1767225600.0,'[{"verdict":"started","workflow_id":"orders","trigger_id":"placed","run_id":"019b76da-a800-7000-a289-4c3c1fafc0de","reason":""}]');
INSERT INTO "receipts" VALUES('','6fe4bc6e8625b6deaffa5e7dd433589f',1767225600.0,'[{"verdict":"queued","workflow_id":"orders","trigger_id":"placed","run_id":"019b76da-a800-7002-b409-fc3f1e74a234","reason":""}]');
INSERT INTO "receipts" VALUES('','823a41529bfda2e435b60724d519e083',1767225600.0,'[{"verdict":"started","workflow_id":"busy","trigger_id":"begun","run_id":"019b76da-a800-7005-a395-462152acaecf","reason":""}]');
INSERT INTO "receipts" VALUES('','f4c83e862eb9e7a5859bd34f54403482',1767225600.0,'[{"verdict":"started","workflow_id":"watch","trigger_id":"watched","run_id":"019b76da-a800-7003-ace5-8295c741ea26","reason":""}]');
CREATE TABLE remembered (
    source      TEXT NOT NULL,
    event_id    TEXT NOT NULL,
    scope       TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    run_id      TEXT,
    expires_at  REAL NOT NULL,
    PRIMARY KEY (source, event_id, scope)
) STRICT, WITHOUT ROWID;
INSERT INTO "remembered" VALUES('','19de49c73d88058961a4fcddd1d26116','orders/placed','b294f32d70ac24ba98462923afec26e7','019b76da-a800-7001-8aed-3ec351815783',1767312000.0);
INSERT INTO "remembered" VALUES('','6074eb7e31670bc581404e4cb9cab77f','orders/placed','d7084313d2c7d3123fa15119637f193d','019b76da-a800-7000-a289-4c3c1fafc0de',1767312000.0);
INSERT INTO "remembered" VALUES('','6fe4bc6e8625b6deaffa5e7dd433589f','orders/placed','fbe6c691cfd5683eea3efce75b6562e4','019b76da-a800-7002-b409-fc3f1e74a234',1767312000.0);
INSERT INTO "remembered" VALUES('','823a41529bfda2e435b60724d519e083','busy/begun','42a1aecafb057101ddb0f4f1037f96d6','019b76da-a800-7005-a395-462152acaecf',1767312000.0);
INSERT INTO "remembered" VALUES('','f4c83e862eb9e7a5859bd34f54403482','watch/watched','321dae96a49f125975840587c2d93659','019b76da-a800-7003-ace5-8295c741ea26',1767312000.0);
CREATE TABLE run_log (
    run_id    TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    text      TEXT NOT NULL,
    UNIQUE (run_id, first_seq)
) STRICT;
INSERT INTO "run_log" VALUES('019b76da-a800-7000-a289-4c3c1fafc0de',1,2,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"6074eb7e31670bc581404e4cb9cab77f","type":"placed","source":""},"trigger":"placed"},{"id":0}],[1767225600.0,"pipeline","pipeline:start","main",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7000-a289-4c3c1fafc0de',3,9,'[[1767225600.0,"pipeline","stage:start","main/reserve",null,null],[1767225600.0,"pipeline","step:start","main/reserve/reserve",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/reserve/reserve",null,null],[1767225600.0,"state","state:patch","main/reserve/reserve",null,{"reserved":0}],[1767225600.0,"pipeline","stage:success","main/reserve",null,null],[1767225600.0,"pipeline","stage:start","main/approval",null,null],[1767225600.0,"pipeline","stage:success","main/approval",null,null],[1767225600.0,"pipeline","wait:registered","main",{"wait":"approval","events":["approved"],"correlate":{"id":0}},null],[1767225600.0,"pipeline","pipeline:pause","main",{"wait":"approval","expires_at":null},null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7001-8aed-3ec351815783',1,3,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"19de49c73d88058961a4fcddd1d26116","type":"placed","source":""},"trigger":"placed"},{"id":1}],[1767225600.0,"pipeline","pipeline:start","main",null,null],[1767225600.0,"dispatch","run:queued","main",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7002-b409-fc3f1e74a234',1,3,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"6fe4bc6e8625b6deaffa5e7dd433589f","type":"placed","source":""},"trigger":"placed"},{"id":2}],[1767225600.0,"pipeline","pipeline:start","main",null,null],[1767225600.0,"dispatch","run:queued","main",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7003-ace5-8295c741ea26',1,2,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"f4c83e862eb9e7a5859bd34f54403482","type":"watched","source":""},"trigger":"watched"},{}],[1767225600.0,"pipeline","pipeline:start","main",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7003-ace5-8295c741ea26',3,6,'[[1767225600.0,"pipeline","stage:start","main/look",null,null],[1767225600.0,"pipeline","step:start","main/look/look",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/look/look",null,null],[1767225600.0,"state","state:patch","main/look/look",null,{"n":1}],[1767225600.0,"pipeline","router:evaluated","main/look",{"instruction":"Jump(stage=''look'')"},null],[1767225600.0,"pipeline","stage:success","main/look",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7004-86c0-7a93a79c6a00',1,8,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"019b76da-a800-7004-86c0-7a93a79c6a00","type":"quick","source":"/invoke"},"trigger":null},{"run_id":"ended"}],[1767225600.0,"pipeline","pipeline:start","main",null,null],[1767225600.0,"pipeline","stage:start","main/only",null,null],[1767225600.0,"pipeline","step:start","main/only/only",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/only/only",null,null],[1767225600.0,"state","state:patch","main/only/only",null,{"only":true}],[1767225600.0,"pipeline","stage:success","main/only",null,null],[1767225600.0,"pipeline","pipeline:success","main",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7005-a395-462152acaecf',1,2,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"823a41529bfda2e435b60724d519e083","type":"begun","source":""},"trigger":"begun"},{}],[1767225600.0,"pipeline","pipeline:start","main",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7003-ace5-8295c741ea26',9,6,'[[1767225600.0,"pipeline","stage:start","main/look",null,null],[1767225600.0,"pipeline","step:start","main/look/look",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/look/look",null,null],[1767225600.0,"state","state:patch","main/look/look",null,{"n":2}],[1767225600.0,"pipeline","router:evaluated","main/look",{"instruction":"Jump(stage=''look'')"},null],[1767225600.0,"pipeline","stage:success","main/look",null,null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7003-ace5-8295c741ea26',15,7,'[[1767225600.0,"pipeline","stage:start","main/look",null,null],[1767225600.0,"pipeline","step:start","main/look/look",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/look/look",null,null],[1767225600.0,"state","state:patch","main/look/look",null,{"n":3}],[1767225600.0,"pipeline","router:evaluated","main/look",{"instruction":"Delay(seconds=''1h'', until=None)"},null],[1767225600.0,"pipeline","stage:success","main/look",null,null],[1767225600.0,"pipeline","pipeline:delay","main/look",{"until":1767229200.0},null]]');
INSERT INTO "run_log" VALUES('019b76da-a800-7005-a395-462152acaecf',3,5,'[[1767225600.0,"pipeline","stage:start","main/first",null,null],[1767225600.0,"pipeline","step:start","main/first/first",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/first/first",null,null],[1767225600.0,"state","state:patch","main/first/first",null,{"first":true}],[1767225600.0,"pipeline","stage:success","main/first",null,null]]');
INSERT INTO "run_log" VALUES('kinds-1',1,2,'[[1000.0,"state","state:patch","main",null,{"a":1}],[1000.0,"state","state:patch","main",null,{"b":2}]]');
INSERT INTO "run_log" VALUES('kinds-1',3,1,'[[1000.0,"state","state:patch","main",null,{"c":0.3333333333333333}]]');
INSERT INTO "run_log" VALUES('kinds-1',4,1,'[[1000.0,"state","state:patch","main",null,null]]');
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
, visits TEXT) STRICT, WITHOUT ROWID;
INSERT INTO "runs" VALUES('019b76da-a800-7000-a289-4c3c1fafc0de','orders','placed','main','a8890bf65f29f8f5',NULL,'',0,NULL,'[]',1767225600.0,'019b76daa8007df644385414f328359c',NULL,'paused',2,NULL,1,'approval',1,NULL,NULL,1,0,11,1767225600.0,NULL);
INSERT INTO "runs" VALUES('019b76da-a800-7001-8aed-3ec351815783','orders','placed','main','a8890bf65f29f8f5',NULL,'',0,NULL,'[]',1767225600.0,'019b76daa8009af2ce7141b2114c721a',1,'queued',1,NULL,1,'reserve',1,NULL,NULL,0,0,3,1767225600.0,NULL);
INSERT INTO "runs" VALUES('019b76da-a800-7002-b409-fc3f1e74a234','orders','placed','main','a8890bf65f29f8f5',NULL,'',0,NULL,'[]',1767225600.0,'019b76daa800fd8c4c89a00107ec967b',2,'queued',1,NULL,1,'reserve',1,NULL,NULL,0,0,3,1767225600.0,NULL);
INSERT INTO "runs" VALUES('019b76da-a800-7003-ace5-8295c741ea26','watch','watched','main','98caba2c2d5123e8',NULL,'',0,NULL,'[]',1767225600.0,'019b76daa800e1ddef8763b75551079a',NULL,'delayed',4,NULL,1,'again',1,1767229200.0,NULL,0,0,21,1767225600.0,'"again"');
INSERT INTO "runs" VALUES('019b76da-a800-7004-86c0-7a93a79c6a00','quick',NULL,'main','451c194fc6145712',NULL,NULL,0,NULL,'[]',1767225600.0,'019b76da-a800-7004-86c0-7a93a79c6a00',NULL,'completed',1,NULL,1,NULL,1,NULL,NULL,0,0,8,1767225600.0,NULL);
INSERT INTO "runs" VALUES('019b76da-a800-7005-a395-462152acaecf','busy','begun','main','7a82211e478b922d',NULL,'',0,NULL,'[]',1767225600.0,'019b76daa80038bef9306f6746c58134',NULL,'running',2,'4ea87a7f2eb318cb12fce5dc2531fe75',1,'second',1,NULL,NULL,1,0,7,1767225600.0,NULL);
INSERT INTO "runs" VALUES('kinds-1','kinds','placed','main','hash','K',NULL,0,NULL,'[]',1000.0,'kinds-1',NULL,'paused',4,NULL,1,'first',3,2.00000000033333325379e+09,NULL,0,1,4,1000.0,'"first"');
INSERT INTO "runs" VALUES('kinds-2','kinds','placed','main','hash',NULL,'',7,NULL,'[]',1000.0,'e-kinds-2',NULL,'running',1,'w1',1,'first',1,NULL,NULL,1,0,0,1000.0,NULL);
INSERT INTO "runs" VALUES('kinds-3','kinds','placed','main','hash',NULL,NULL,0,NULL,'[]',1000.0,'kinds-3',NULL,'failed',2,NULL,1,'first',1,NULL,'{"error":{"type":"ValueError"}}',0,0,0,1000.0,NULL);
INSERT INTO "runs" VALUES('kinds-4','kinds','placed','main','hash',NULL,NULL,0,NULL,'[]',1000.0,'kinds-3',NULL,'paused',2,NULL,1,'first',1,NULL,'{"error":{"type":"StateInvalid"}}',0,0,0,1000.0,NULL);
INSERT INTO "runs" VALUES('kinds-5','kinds','placed','main','hash',NULL,NULL,0,NULL,'[]',5.5,'e-kinds-5',NULL,'delayed',1,NULL,1,'first',1,2000000000.0,NULL,0,0,0,5.5,NULL);
CREATE TABLE snapshots (
    run_id  TEXT NOT NULL PRIMARY KEY,
    log_seq INTEGER NOT NULL,
    text    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "snapshots" VALUES('kinds-1',3,'{"a":1,"b":2,"c":0.5}');
CREATE TABLE wait_keys (
    key    TEXT NOT NULL,
    run_id TEXT NOT NULL,
    PRIMARY KEY (key, run_id)
) STRICT, WITHOUT ROWID;
INSERT INTO "wait_keys" VALUES('approvedid[0]','019b76da-a800-7000-a289-4c3c1fafc0de');
INSERT INTO "wait_keys" VALUES('approvedid[1]','019b76da-a800-7001-8aed-3ec351815783');
INSERT INTO "wait_keys" VALUES('approvedid[2]','019b76da-a800-7002-b409-fc3f1e74a234');
INSERT INTO "wait_keys" VALUES('kinds.*[]','kinds-1');
INSERT INTO "wait_keys" VALUES('kinds.*[]','kinds-2');
INSERT INTO "wait_keys" VALUES('kinds.a[]','kinds-1');
INSERT INTO "wait_keys" VALUES('kinds.a[]','kinds-2');
INSERT INTO "wait_keys" VALUES('order.approved[]','kinds-4');
INSERT INTO "wait_keys" VALUES('order.approvedidwho[1795680397.0817647,"Zoë ''quoted'' \"twice\""]','kinds-1');
CREATE TABLE wait_shapes (
    shape TEXT NOT NULL PRIMARY KEY,
    uses  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "wait_shapes" VALUES('approvedid',3);
INSERT INTO "wait_shapes" VALUES('kinds.*',2);
INSERT INTO "wait_shapes" VALUES('kinds.a',2);
INSERT INTO "wait_shapes" VALUES('order.approved',1);
INSERT INTO "wait_shapes" VALUES('order.approvedidwho',1);
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
INSERT INTO "waits" VALUES('019b76da-a800-7000-a289-4c3c1fafc0de',0,'approval',2,1,'["approved"]','[]','[["id",0]]','ship','fail',NULL,'null','["approved\u001fid\u001f\u001f[0]"]');
INSERT INTO "waits" VALUES('019b76da-a800-7001-8aed-3ec351815783',0,'approval',1,0,'["approved"]','[]','[["id",1]]','ship','fail',NULL,'null','["approved\u001fid\u001f\u001f[1]"]');
INSERT INTO "waits" VALUES('019b76da-a800-7002-b409-fc3f1e74a234',0,'approval',1,0,'["approved"]','[]','[["id",2]]','ship','fail',NULL,'null','["approved\u001fid\u001f\u001f[2]"]');
INSERT INTO "waits" VALUES('kinds-1',0,'a',1,0,'["kinds.a","kinds.*"]','[["n",">",3]]','[]','ship','fail',NULL,'{"x":[1,{"y":null}]}','["kinds.a\u001f\u001f\u001f[]","kinds.*\u001f\u001f\u001f[]"]');
INSERT INTO "waits" VALUES('kinds-1',1,'b',1,1,'["order.approved"]','[]','[["id",1795680397.0817647],["who","Zoë ''quoted'' \"twice\""]]','ship','fail',2.00000000033333325379e+09,'null','["order.approved\u001fid\u001fwho\u001f\u001f[1795680397.0817647,\"Zoë ''quoted'' \\\"twice\\\"\"]"]');
INSERT INTO "waits" VALUES('kinds-2',0,'a',1,0,'["kinds.a","kinds.*"]','[["n",">",3]]','[]','ship','fail',NULL,'{"x":[1,{"y":null}]}','["kinds.a\u001f\u001f\u001f[]","kinds.*\u001f\u001f\u001f[]"]');
INSERT INTO "waits" VALUES('kinds-4',0,'c',1,1,'["order.approved"]','[]','[]','ship','fail',NULL,'null','["order.approved\u001f\u001f\u001f[]"]');
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
CREATE INDEX runs_unfit ON runs (workflow_id, run_id) WHERE status = 'paused' AND outcome IS NOT NULL;
COMMIT;
