-- SPDX-License-Identifier: Apache-2.0
-- A journal of schema version 1: jobs 1 and 2 as the first commit of this
-- project wrote them, the others as release 0.1.0 did. Never to be changed.
BEGIN TRANSACTION;
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    snapshot_id TEXT NOT NULL,
    volume_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    state TEXT NOT NULL,
    updated_at REAL NOT NULL,
    document TEXT NOT NULL
) STRICT;
INSERT INTO "jobs" VALUES(1,'s1','521752a6-acf6-4b2d-bc7a-119f9148cd8c','create','DONE',1.79563662593243360517e+09,'{"kind": "overlay", "instance_id": "69f5b8c2-5a5c-4b0c-a5a7-0c3a2f9d7d11", "target": "vdb", "before": ["/var/lib/nova/mnt/volume-521752a6"], "after": ["/var/lib/nova/mnt/volume-521752a6.s1", "/var/lib/nova/mnt/volume-521752a6"], "accepted_at": 1763900000.5, "deadline": 1763900570.5, "stored": false, "request_id": "req-5b0f3e0c-0d0e-4e55-9a5a-1d6d0f1f2a3b", "succeeded": true, "reason": ""}');
INSERT INTO "jobs" VALUES(2,'s2','521752a6-acf6-4b2d-bc7a-119f9148cd8c','create','REPORTING',1.79563662594406890865e+09,'{"kind": "overlay", "instance_id": "69f5b8c2-5a5c-4b0c-a5a7-0c3a2f9d7d11", "target": "vdb", "before": ["/var/lib/nova/mnt/volume-521752a6.s1", "/var/lib/nova/mnt/volume-521752a6"], "after": ["/var/lib/nova/mnt/volume-521752a6.s2", "/var/lib/nova/mnt/volume-521752a6.s1", "/var/lib/nova/mnt/volume-521752a6"], "accepted_at": 1763900000.5, "deadline": 1763900570.5, "stored": false, "request_id": "req-5b0f3e0c-0d0e-4e55-9a5a-1d6d0f1f2a3b", "succeeded": true, "reason": ""}');
INSERT INTO "jobs" VALUES(3,'s1','521752a6-acf6-4b2d-bc7a-119f9148cd8c','delete','UNCLAIMED',1795636626.11634,'{"kind": "commit", "instance_id": "69f5b8c2-5a5c-4b0c-a5a7-0c3a2f9d7d11", "target": "vdb", "before": ["/var/lib/nova/mnt/volume-521752a6.s2", "/var/lib/nova/mnt/volume-521752a6.s1", "/var/lib/nova/mnt/volume-521752a6"], "after": ["/var/lib/nova/mnt/volume-521752a6.s2", "/var/lib/nova/mnt/volume-521752a6"], "accepted_at": 1763990000.5, "deadline": 1763997000.5, "base": "volume-521752a6", "top": "volume-521752a6.s1", "stored": false, "process": "4711", "merged": false, "flushed": true, "released": false, "cancelled": false, "patient": true, "request_id": "req-5b0f3e0c-0d0e-4e55-9a5a-1d6d0f1f2a3b", "succeeded": true, "reason": "the layer is merged, and Cinder did not take note; delete the snapshot again"}');
INSERT INTO "jobs" VALUES(4,'s2','521752a6-acf6-4b2d-bc7a-119f9148cd8c','delete','VERIFYING',1.79563662611966609952e+09,'{"kind": "pull", "instance_id": "69f5b8c2-5a5c-4b0c-a5a7-0c3a2f9d7d11", "target": "vdb", "before": ["/var/lib/nova/mnt/volume-521752a6.s2", "/var/lib/nova/mnt/volume-521752a6"], "after": ["/var/lib/nova/mnt/volume-521752a6.s2"], "accepted_at": 1763990000.5, "deadline": 1763997000.5, "base": null, "top": null, "stored": true, "process": "", "merged": false, "flushed": true, "released": false, "cancelled": false, "patient": false, "request_id": "req-5b0f3e0c-0d0e-4e55-9a5a-1d6d0f1f2a3b", "succeeded": null, "reason": ""}');
INSERT INTO "jobs" VALUES(5,'s1','521752a6-acf6-4b2d-bc7a-119f9148cd8c','rollback','ABANDONED',1.79563662612151741983e+09,'{"kind": "active commit", "instance_id": "69f5b8c2-5a5c-4b0c-a5a7-0c3a2f9d7d11", "target": "vdb", "before": ["/var/lib/nova/mnt/volume-521752a6.s1", "/var/lib/nova/mnt/volume-521752a6"], "after": ["/var/lib/nova/mnt/volume-521752a6"], "accepted_at": 1763990000.5, "deadline": 1763997000.5, "base": null, "top": null, "stored": false, "process": "", "merged": false, "flushed": false, "released": false, "cancelled": true, "patient": false, "request_id": "req-5b0f3e0c-0d0e-4e55-9a5a-1d6d0f1f2a3b", "succeeded": null, "reason": "an operator cancelled it"}');
CREATE INDEX jobs_by_snapshot ON jobs (snapshot_id, operation);
CREATE INDEX jobs_by_volume ON jobs (volume_id, state);
CREATE INDEX jobs_by_state ON jobs (state);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',5);
COMMIT;
PRAGMA user_version = 1;
