PRAGMA application_id = 1347183467;
PRAGMA user_version = 4;
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'poundlock','m0001_first','2026-11-26 18:21:57.930999+00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'poundlock','m0002_visits','2026-11-26 18:21:57.931423+00:00');
INSERT INTO "_sqlite_migrations" VALUES(3,'poundlock','m0003_log_before_head','2026-11-26 18:21:57.935951+00:00');
INSERT INTO "_sqlite_migrations" VALUES(4,'poundlock','m0004_outbox','2026-11-26 18:21:57.936231+00:00');
CREATE TABLE counts (
    name  TEXT NOT NULL PRIMARY KEY,
    count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "counts" VALUES('completed',1);
INSERT INTO "counts" VALUES('dead_letters',1);
INSERT INTO "counts" VALUES('delayed',2);
INSERT INTO "counts" VALUES('events',12);
INSERT INTO "counts" VALUES('failed',1);
INSERT INTO "counts" VALUES('outbox',1);
INSERT INTO "counts" VALUES('paused',3);
INSERT INTO "counts" VALUES('queued',2);
INSERT INTO "counts" VALUES('receipts',5);
INSERT INTO "counts" VALUES('remembered',5);
INSERT INTO "counts" VALUES('running',3);
INSERT INTO "counts" VALUES('waits',7);
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
INSERT INTO "events" VALUES('e-kinds-2','order.placed','/shop','e-kinds-2',1000.0,NULL,'{}','{"id":1}');
INSERT INTO "events" VALUES('e-kinds-5','order.placed','/shop','e-kinds-5',1000.0,NULL,'{}','{"id":1}');
INSERT INTO "events" VALUES('e-kinds-6','order.placed','/shop','e-kinds-6',1000.0,NULL,'{}','{"id":1}');
INSERT INTO "events" VALUES('kinds-3','order.placed','/shop','kinds-3',1000.0,NULL,'{}','{"id":1}');
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
INSERT INTO "inbox" VALUES(7,1,'event',1000.0,NULL,' kinds-e','{"type":"order.approved","source":"/shop","id":"kinds-e","time":1000.0,"subject":null,"headers":{},"data":{"id":1}}');
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
INSERT INTO "loads" VALUES('busy','',1,'019b76da-a800-7005-bb29-d13ec27b2c0e',0,NULL,3892130710215540407,0);
INSERT INTO "loads" VALUES('orders','',1,'019b76da-a800-7000-bd57-a1353d559668',2,'019b76da-a800-7002-83fc-cf513b23cd4e',3899266501711351617,0);
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
INSERT INTO "log" VALUES(1,1,'reserve',1,1767225600.0,1,2,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"18d23bd0b6cd003379997eca422e4eae","type":"placed","source":""},"trigger":"placed"},{"id":0}],[1767225600.0,"pipeline","pipeline:start","main",null,null]]','{"type":"placed","source":"","id":"18d23bd0b6cd003379997eca422e4eae","time":1767225600.0,"subject":null,"headers":{},"data":{"id":0}}');
INSERT INTO "log" VALUES(1,2,'approval',1,1767225600.0,3,9,'[[1767225600.0,"pipeline","stage:start","main/reserve",null,null],[1767225600.0,"pipeline","step:start","main/reserve/reserve",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/reserve/reserve",null,null],[1767225600.0,"state","state:patch","main/reserve/reserve",null,{"reserved":0}],[1767225600.0,"pipeline","stage:success","main/reserve",null,null],[1767225600.0,"pipeline","stage:start","main/approval",null,null],[1767225600.0,"pipeline","stage:success","main/approval",null,null],[1767225600.0,"pipeline","wait:registered","main",{"wait":"approval","events":["approved"],"correlate":{"id":0}},null],[1767225600.0,"pipeline","pipeline:pause","main",{"wait":"approval","expires_at":null},null]]',NULL);
INSERT INTO "log" VALUES(2,1,'reserve',1,1767225600.0,1,3,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"c09449e48940fb87a1131a63cfeaf17f","type":"placed","source":""},"trigger":"placed"},{"id":1}],[1767225600.0,"pipeline","pipeline:start","main",null,null],[1767225600.0,"dispatch","run:queued","main",null,null]]','{"type":"placed","source":"","id":"c09449e48940fb87a1131a63cfeaf17f","time":1767225600.0,"subject":null,"headers":{},"data":{"id":1}}');
INSERT INTO "log" VALUES(3,1,'reserve',1,1767225600.0,1,3,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"90931da411489b9e08824d16c9567e3d","type":"placed","source":""},"trigger":"placed"},{"id":2}],[1767225600.0,"pipeline","pipeline:start","main",null,null],[1767225600.0,"dispatch","run:queued","main",null,null]]','{"type":"placed","source":"","id":"90931da411489b9e08824d16c9567e3d","time":1767225600.0,"subject":null,"headers":{},"data":{"id":2}}');
INSERT INTO "log" VALUES(4,1,'look',1,1767225600.0,1,2,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"dd57b4955c2db4870b197b3c1949dc75","type":"watched","source":""},"trigger":"watched"},{}],[1767225600.0,"pipeline","pipeline:start","main",null,null]]','{"type":"watched","source":"","id":"dd57b4955c2db4870b197b3c1949dc75","time":1767225600.0,"subject":null,"headers":{},"data":{}}');
INSERT INTO "log" VALUES(5,1,NULL,1,1767225600.0,1,8,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"019b76da-a800-7004-9c65-071682899257","type":"quick","source":"/invoke"},"trigger":null},{"run_id":"ended"}],[1767225600.0,"pipeline","pipeline:start","main",null,null],[1767225600.0,"pipeline","stage:start","main/only",null,null],[1767225600.0,"pipeline","step:start","main/only/only",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/only/only",null,null],[1767225600.0,"state","state:patch","main/only/only",null,{"only":true}],[1767225600.0,"pipeline","stage:success","main/only",null,null],[1767225600.0,"pipeline","pipeline:success","main",null,null]]','{"type":"quick","source":"/invoke","id":"019b76da-a800-7004-9c65-071682899257","time":1767225600.0,"subject":null,"headers":{},"data":{"run_id":"ended"}}');
INSERT INTO "log" VALUES(4,2,'look',1,1767225600.0,3,6,'[[1767225600.0,"pipeline","stage:start","main/look",null,null],[1767225600.0,"pipeline","step:start","main/look/look",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/look/look",null,null],[1767225600.0,"state","state:patch","main/look/look",null,{"n":1}],[1767225600.0,"pipeline","router:evaluated","main/look",{"instruction":"Jump(stage=''look'', patch=None)"},null],[1767225600.0,"pipeline","stage:success","main/look",null,null]]',NULL);
INSERT INTO "log" VALUES(6,1,'first',1,1767225600.0,1,2,'[[1767225600.0,"dispatch","run:created","main",{"event":{"id":"234475c3eef714ad194a684f6fb0004c","type":"begun","source":""},"trigger":"begun"},{}],[1767225600.0,"pipeline","pipeline:start","main",null,null]]','{"type":"begun","source":"","id":"234475c3eef714ad194a684f6fb0004c","time":1767225600.0,"subject":null,"headers":{},"data":{}}');
INSERT INTO "log" VALUES(4,3,'look',1,1767225600.0,9,6,'[[1767225600.0,"pipeline","stage:start","main/look",null,null],[1767225600.0,"pipeline","step:start","main/look/look",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/look/look",null,null],[1767225600.0,"state","state:patch","main/look/look",null,{"n":2}],[1767225600.0,"pipeline","router:evaluated","main/look",{"instruction":"Jump(stage=''look'', patch=None)"},null],[1767225600.0,"pipeline","stage:success","main/look",null,null]]',NULL);
INSERT INTO "log" VALUES(4,4,'again',1,1767225600.0,15,7,'[[1767225600.0,"pipeline","stage:start","main/look",null,null],[1767225600.0,"pipeline","step:start","main/look/look",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/look/look",null,null],[1767225600.0,"state","state:patch","main/look/look",null,{"n":3}],[1767225600.0,"pipeline","router:evaluated","main/look",{"instruction":"Delay(seconds=''1h'', until=None, then=None, patch=None)"},null],[1767225600.0,"pipeline","stage:success","main/look",null,null],[1767225600.0,"pipeline","pipeline:delay","main/look",{"until":1767229200.0},null]]',NULL);
INSERT INTO "log" VALUES(6,2,'second',1,1767225600.0,3,5,'[[1767225600.0,"pipeline","stage:start","main/first",null,null],[1767225600.0,"pipeline","step:start","main/first/first",{"attempt":1},null],[1767225600.0,"pipeline","step:success","main/first/first",null,null],[1767225600.0,"state","state:patch","main/first/first",null,{"first":true}],[1767225600.0,"pipeline","stage:success","main/first",null,null]]',NULL);
INSERT INTO "log" VALUES(7,1,'first',1,1000.0,1,2,'[[1000.0,"state","state:patch","main",null,{"a":1}],[1000.0,"state","state:patch","main",null,{"b":2}]]','{"type":"order.placed","source":"/shop","id":"kinds-1","time":1000.0,"subject":"k","headers":{"traceparent":"00-ab"},"data":{"deep":[{"a":null}],"n":0.1}}');
INSERT INTO "log" VALUES(7,2,'first',1,1000.0,3,1,'[[1000.0,"state","state:patch","main",null,{"c":0.3333333333333333}]]',NULL);
INSERT INTO "log" VALUES(7,3,'first',3,1000.0,4,1,'[[1000.0,"state","state:patch","main",null,null]]',NULL);
INSERT INTO "log" VALUES(9,1,'first',1,1000.0,1,0,'[]','{"type":"order.placed","source":"/shop","id":"kinds-3","time":1000.0,"subject":null,"headers":{},"data":[1]}');
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "meta" VALUES('codec','json/1');
INSERT INTO "meta" VALUES('opened','[1767225600.0,144208]');
INSERT INTO "meta" VALUES('store_id','14df88bc86991b90259cc628ffb866e0');
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
        ;
INSERT INTO "outbox" VALUES(1,'kinds-6','{"type":"order.shipped","source":"/shop","id":"kinds-o1","time":1000.0,"subject":null,"headers":{},"data":{"n":"kinds-o1"}}',2,1,2,'{"message":"no"}',5.5);
INSERT INTO "outbox" VALUES(2,'kinds-6','{"type":"order.shipped","source":"/shop","id":"kinds-o2","time":1000.0,"subject":null,"headers":{},"data":{"n":"kinds-o2"}}',1,0,0,NULL,NULL);
CREATE TABLE receipts (
    source   TEXT NOT NULL,
    event_id TEXT NOT NULL,
    time     REAL NOT NULL,
    lines    TEXT NOT NULL,
    PRIMARY KEY (source, event_id)
) STRICT, WITHOUT ROWID;
INSERT INTO "receipts" VALUES('','18d23bd0b6cd003379997eca422e4eae',1767225600.0,'[{"verdict":"started","workflow_id":"orders","trigger_id":"placed","run_id":"019b76da-a800-7000-bd57-a1353d559668","reason":""}]');
INSERT INTO "receipts" VALUES('','234475c3eef714ad194a684f6fb0004c',1767225600.0,'[{"verdict":"started","workflow_id":"busy","trigger_id":"begun","run_id":"019b76da-a800-7005-bb29-d13ec27b2c0e","reason":""}]');
INSERT INTO "receipts" VALUES('','90931da411489b9e08824d16c9567e3d',1767225600.0,'[{"verdict":"queued","workflow_id":"orders","trigger_id":"placed","run_id":"019b76da-a800-7002-83fc-cf513b23cd4e","reason":""}]');
INSERT INTO "receipts" VALUES('','c09449e48940fb87a1131a63cfeaf17f',1767225600.0,'[{"verdict":"queued","workflow_id":"orders","trigger_id":"placed","run_id":"019b76da-a800-7001-8373-af33dd189ea3","reason":""}]');
INSERT INTO "receipts" VALUES('','dd57b4955c2db4870b197b3c1949dc75',1767225600.0,'[{"verdict":"started","workflow_id":"watch","trigger_id":"watched","run_id":"019b76da-a800-7003-b0d3-43282e97848e","reason":""}]');
CREATE TABLE remembered (
    source      TEXT NOT NULL,
    event_id    TEXT NOT NULL,
    scope       TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    run_id      TEXT,
    expires_at  REAL NOT NULL,
    PRIMARY KEY (source, event_id, scope)
) STRICT, WITHOUT ROWID;
INSERT INTO "remembered" VALUES('','18d23bd0b6cd003379997eca422e4eae','orders/placed','d7084313d2c7d3123fa15119637f193d','019b76da-a800-7000-bd57-a1353d559668',1767312000.0);
INSERT INTO "remembered" VALUES('','234475c3eef714ad194a684f6fb0004c','busy/begun','42a1aecafb057101ddb0f4f1037f96d6','019b76da-a800-7005-bb29-d13ec27b2c0e',1767312000.0);
INSERT INTO "remembered" VALUES('','90931da411489b9e08824d16c9567e3d','orders/placed','fbe6c691cfd5683eea3efce75b6562e4','019b76da-a800-7002-83fc-cf513b23cd4e',1767312000.0);
INSERT INTO "remembered" VALUES('','c09449e48940fb87a1131a63cfeaf17f','orders/placed','b294f32d70ac24ba98462923afec26e7','019b76da-a800-7001-8373-af33dd189ea3',1767312000.0);
INSERT INTO "remembered" VALUES('','dd57b4955c2db4870b197b3c1949dc75','watch/watched','321dae96a49f125975840587c2d93659','019b76da-a800-7003-b0d3-43282e97848e',1767312000.0);
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
INSERT INTO "runs" VALUES(1,'019b76da-a800-7000-bd57-a1353d559668','orders','placed','main','ade1cc4f397b1d82',NULL,'',0,NULL,NULL,1767225600.0,NULL,'placed',NULL,'paused',2,NULL,1,'approval',1,NULL,NULL,1,0,11,1767225600.0,NULL,'[{"wait":"approval","epoch":2,"parked":true,"events":["approved"],"resume_at":"ship","on_timeout":"fail","expires_at":null,"keys":["approved\u001fid\u001f\u001f[0]"],"where":[],"correlate":[["id",0]],"patch":null}]');
INSERT INTO "runs" VALUES(2,'019b76da-a800-7001-8373-af33dd189ea3','orders','placed','main','ade1cc4f397b1d82',NULL,'',0,NULL,NULL,1767225600.0,NULL,'placed',1,'queued',1,NULL,1,'reserve',1,NULL,NULL,0,0,3,1767225600.0,NULL,'[{"wait":"approval","epoch":1,"parked":false,"events":["approved"],"resume_at":"ship","on_timeout":"fail","expires_at":null,"keys":["approved\u001fid\u001f\u001f[1]"],"where":[],"correlate":[["id",1]],"patch":null}]');
INSERT INTO "runs" VALUES(3,'019b76da-a800-7002-83fc-cf513b23cd4e','orders','placed','main','ade1cc4f397b1d82',NULL,'',0,NULL,NULL,1767225600.0,NULL,'placed',2,'queued',1,NULL,1,'reserve',1,NULL,NULL,0,0,3,1767225600.0,NULL,'[{"wait":"approval","epoch":1,"parked":false,"events":["approved"],"resume_at":"ship","on_timeout":"fail","expires_at":null,"keys":["approved\u001fid\u001f\u001f[2]"],"where":[],"correlate":[["id",2]],"patch":null}]');
INSERT INTO "runs" VALUES(4,'019b76da-a800-7003-b0d3-43282e97848e','watch','watched','main','98caba2c2d5123e8',NULL,'',0,NULL,NULL,1767225600.0,NULL,'watched',NULL,'delayed',4,NULL,1,'again',1,1767229200.0,NULL,0,0,21,1767225600.0,'"again"',NULL);
INSERT INTO "runs" VALUES(5,'019b76da-a800-7004-9c65-071682899257','quick',NULL,'main','451c194fc6145712',NULL,NULL,0,NULL,NULL,1767225600.0,NULL,'quick',NULL,'completed',1,NULL,1,NULL,1,NULL,NULL,0,0,8,1767225600.0,NULL,NULL);
INSERT INTO "runs" VALUES(6,'019b76da-a800-7005-bb29-d13ec27b2c0e','busy','begun','main','7a82211e478b922d',NULL,'',0,NULL,NULL,1767225600.0,NULL,'begun',NULL,'running',1,'8c2f814d67125e3ae65497eedd999067',1,'first',1,NULL,NULL,1,0,2,1767225600.0,NULL,NULL);
INSERT INTO "runs" VALUES(7,'kinds-1','kinds','placed','main','hash','K',NULL,0,NULL,NULL,1000.0,NULL,'order.placed',NULL,'paused',4,NULL,1,'first',3,2.00000000033333325379e+09,NULL,0,1,4,1000.0,'"first"','[{"wait":"a","epoch":1,"parked":false,"events":["kinds.a","kinds.*"],"resume_at":"ship","on_timeout":"fail","expires_at":null,"keys":["kinds.a\u001f\u001f\u001f[]","kinds.*\u001f\u001f\u001f[]"],"where":[["n",">",3]],"correlate":[],"patch":{"x":[1,{"y":null}]},"leads_to":[]},{"wait":"b","epoch":1,"parked":true,"events":["order.approved"],"resume_at":"ship","on_timeout":"fail","expires_at":2000000000.3333333,"keys":["order.approved\u001fid\u001fwho\u001f\u001f[1795680397.0817647,\"Zoë ''quoted'' \\\"twice\\\"\"]"],"where":[],"correlate":[["id",1795680397.0817647],["who","Zoë ''quoted'' \"twice\""]],"patch":null,"leads_to":[]}]');
INSERT INTO "runs" VALUES(8,'kinds-2','kinds','placed','main','hash',NULL,'',7,NULL,NULL,1000.0,'e-kinds-2','order.placed',NULL,'running',1,'w1',1,'first',1,NULL,NULL,1,0,0,1000.0,NULL,'[{"wait":"a","epoch":1,"parked":false,"events":["kinds.a","kinds.*"],"resume_at":"ship","on_timeout":"fail","expires_at":null,"keys":["kinds.a\u001f\u001f\u001f[]","kinds.*\u001f\u001f\u001f[]"],"where":[["n",">",3]],"correlate":[],"patch":{"x":[1,{"y":null}]},"leads_to":[]}]');
INSERT INTO "runs" VALUES(9,'kinds-3','kinds','placed','main','hash',NULL,NULL,0,NULL,NULL,1000.0,NULL,'order.placed',NULL,'failed',2,NULL,1,'first',1,NULL,'{"error":{"type":"ValueError"}}',0,0,0,1000.0,NULL,NULL);
INSERT INTO "runs" VALUES(10,'kinds-4','kinds','placed','main','hash',NULL,NULL,0,NULL,NULL,1000.0,'kinds-3','order.placed',NULL,'paused',2,NULL,1,'first',1,NULL,'{"error":{"type":"StateInvalid"}}',0,0,0,1000.0,NULL,'[{"wait":"c","epoch":1,"parked":true,"events":["order.approved"],"resume_at":"ship","on_timeout":"fail","expires_at":null,"keys":["order.approved\u001f\u001f\u001f[]"],"where":[],"correlate":[],"patch":null}]');
INSERT INTO "runs" VALUES(11,'kinds-5','kinds','placed','main','hash',NULL,NULL,0,NULL,NULL,5.5,'e-kinds-5','order.placed',NULL,'delayed',1,NULL,1,'first',1,2000000000.0,NULL,0,0,0,5.5,NULL,NULL);
INSERT INTO "runs" VALUES(12,'kinds-6','kinds','placed','main','hash',NULL,NULL,0,NULL,NULL,1000.0,'e-kinds-6','order.placed',NULL,'running',2,'w1',1,'first',1,NULL,NULL,0,0,0,1000.0,NULL,NULL);
CREATE TABLE snapshots (
    run     INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    text    TEXT NOT NULL
) STRICT;
INSERT INTO "snapshots" VALUES(7,2,'{"a":1,"b":2,"c":0.5}');
CREATE TABLE wait_keys (
    key TEXT NOT NULL,
    run INTEGER NOT NULL,
    PRIMARY KEY (key, run)
) STRICT, WITHOUT ROWID;
INSERT INTO "wait_keys" VALUES('approvedid[0]',1);
INSERT INTO "wait_keys" VALUES('approvedid[1]',2);
INSERT INTO "wait_keys" VALUES('approvedid[2]',3);
INSERT INTO "wait_keys" VALUES('kinds.*[]',7);
INSERT INTO "wait_keys" VALUES('kinds.*[]',8);
INSERT INTO "wait_keys" VALUES('kinds.a[]',7);
INSERT INTO "wait_keys" VALUES('kinds.a[]',8);
INSERT INTO "wait_keys" VALUES('order.approved[]',10);
INSERT INTO "wait_keys" VALUES('order.approvedidwho[1795680397.0817647,"Zoë ''quoted'' \"twice\""]',7);
CREATE TABLE wait_shapes (
    shape TEXT NOT NULL PRIMARY KEY,
    uses  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "wait_shapes" VALUES('approvedid',3);
INSERT INTO "wait_shapes" VALUES('kinds.*',2);
INSERT INTO "wait_shapes" VALUES('kinds.a',2);
INSERT INTO "wait_shapes" VALUES('order.approved',1);
INSERT INTO "wait_shapes" VALUES('order.approvedidwho',1);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE INDEX runs_by_status ON runs (status, created_at, run_id, workflow_id) WHERE status <> 'running';
CREATE INDEX runs_running ON runs (run) WHERE status = 'running';
CREATE INDEX runs_by_key ON runs (key, created_at, run_id) WHERE key IS NOT NULL;
CREATE INDEX runs_queued ON runs (workflow_id, load_key, priority DESC, place) WHERE status = 'queued';
CREATE INDEX runs_ready ON runs (priority DESC, run_id, workflow_id) WHERE status = 'ready';
CREATE INDEX runs_due ON runs (priority DESC, wake_at, run_id, workflow_id)
    WHERE wake_at IS NOT NULL AND status IN ('paused', 'delayed');
CREATE INDEX runs_unfit ON runs (workflow_id, run_id) WHERE status = 'paused' AND outcome IS NOT NULL;
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
CREATE INDEX outbox_due ON outbox (run_id, seq) WHERE dead_at IS NULL;
CREATE INDEX outbox_dead ON outbox (seq) WHERE dead_at IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('outbox',2);
COMMIT;
