PRAGMA application_id = 1279672652;
PRAGMA user_version = 2;
CREATE TABLE landfall_tasks (
    seq             INTEGER PRIMARY KEY,
    state           INTEGER NOT NULL,       -- 0 pending, 1 in flight, 2 unknown, 3 conflict, 4 dead
    claim_at        INTEGER,                -- milliseconds; 0 or less: at once; NULL: not to be claimed
    priority        INTEGER NOT NULL,
    task_id         BLOB NOT NULL,          -- 16 bytes
    entity_type     TEXT NOT NULL,
    entity_id       TEXT NOT NULL,
    lane            TEXT,
    format          INTEGER NOT NULL,
    generation      INTEGER NOT NULL,
    operation       TEXT NOT NULL,
    schema          INTEGER NOT NULL,
    not_before      INTEGER,
    changed_ms      INTEGER NOT NULL,       -- hybrid logical time: milliseconds and counter
    changed_count   INTEGER NOT NULL,
    enqueued_at     INTEGER NOT NULL,
    retry_at        INTEGER,                -- of a pending or unknown task
    fence           INTEGER,                -- of a task in flight
    why             TEXT,                   -- of a dead task
    attempts        INTEGER NOT NULL,
    conflict_rounds INTEGER NOT NULL,
    last_failure    TEXT,                   -- JSON
    fields          TEXT NOT NULL,          -- JSON object
    unset           TEXT,                   -- JSON array of names; NULL: none
    key             BLOB,                   -- 16 bytes; this and what follows: NULL until the first attempt
    payload         TEXT,
    fingerprint     BLOB,                   -- 32 bytes
    base_version    TEXT,
    open_sends      INTEGER,
    sends           INTEGER,
    sum             INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX landfall_tasks_id ON landfall_tasks (task_id);
CREATE INDEX landfall_tasks_entity ON landfall_tasks (entity_type, entity_id);
CREATE INDEX landfall_tasks_lane ON landfall_tasks (lane) WHERE lane IS NOT NULL;
CREATE INDEX landfall_tasks_ready ON landfall_tasks (priority DESC) WHERE claim_at <= 0;
CREATE INDEX landfall_tasks_waiting ON landfall_tasks (claim_at) WHERE claim_at > 0;
CREATE INDEX landfall_tasks_state ON landfall_tasks (state) WHERE state > 0;
CREATE TABLE landfall_entities (
    id             INTEGER PRIMARY KEY,
    entity_type    TEXT NOT NULL,
    entity_id      TEXT NOT NULL,
    format         INTEGER NOT NULL,
    generation     INTEGER NOT NULL,
    base           INTEGER NOT NULL,        -- 0 nothing known, 1 live, 2 deleted
    base_complete  INTEGER,
    base_version   TEXT,
    local          INTEGER NOT NULL,        -- as base; 3 the same fields as the base
    staged         INTEGER NOT NULL,        -- as base
    staged_version TEXT,
    base_fields    TEXT,                    -- JSON objects
    local_fields   TEXT,
    staged_fields  TEXT,
    sum            INTEGER NOT NULL
, reading INTEGER NOT NULL DEFAULT 0, staged_ms INTEGER, staged_count INTEGER) STRICT;
CREATE UNIQUE INDEX landfall_entities_key ON landfall_entities (entity_type, entity_id);
CREATE TABLE landfall_journal (
    id          INTEGER PRIMARY KEY,
    task_id     BLOB NOT NULL,
    format      INTEGER NOT NULL,
    entity_type TEXT NOT NULL,
    entity_id   TEXT NOT NULL,
    generation  INTEGER NOT NULL,
    verdict     TEXT NOT NULL,
    version     TEXT,
    at          INTEGER NOT NULL,
    payload     TEXT NOT NULL,
    sum         INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX landfall_journal_task ON landfall_journal (task_id);
CREATE INDEX landfall_journal_at ON landfall_journal (at);
CREATE TABLE landfall_facts (
    name   TEXT PRIMARY KEY,
    format INTEGER NOT NULL,
    value  TEXT NOT NULL,                   -- JSON
    sum    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE landfall_conflicts (
    id          INTEGER PRIMARY KEY,
    conflict_id BLOB NOT NULL,              -- 16 bytes
    task_id     BLOB NOT NULL,              -- 16 bytes
    entity_type TEXT NOT NULL,
    entity_id   TEXT NOT NULL,
    at          INTEGER NOT NULL,           -- milliseconds
    open        INTEGER NOT NULL,           -- 1 waits for a decision, 0 settled
    format      INTEGER NOT NULL,
    record      TEXT NOT NULL,              -- JSON
    sum         INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX landfall_conflicts_name ON landfall_conflicts (conflict_id);
CREATE INDEX landfall_conflicts_entity ON landfall_conflicts (entity_type, entity_id);
CREATE INDEX landfall_conflicts_open ON landfall_conflicts (open) WHERE open = 1;
CREATE INDEX landfall_conflicts_open_entity ON landfall_conflicts (entity_type, entity_id) WHERE open = 1;
CREATE INDEX landfall_conflicts_settled ON landfall_conflicts (at) WHERE open = 0;
CREATE TABLE landfall_quarantined (
    id     INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,                -- milliseconds
    format INTEGER NOT NULL,
    reason TEXT NOT NULL,
    sum    INTEGER NOT NULL
) STRICT;
CREATE VIEW landfall_v_records AS
SELECT
    entity_type,
    entity_id,
    local = 2 AS deleted,
    CASE local WHEN 1 THEN local_fields WHEN 3 THEN base_fields END AS fields,
    base_fields,
    base_version AS version
FROM landfall_entities
WHERE local <> 0;
CREATE VIEW landfall_v_queue AS
SELECT
    lower(
        substr(hex(task_id), 1, 8) || '-' || substr(hex(task_id), 9, 4) || '-' || substr(hex(task_id), 13, 4) || '-'
        || substr(hex(task_id), 17, 4) || '-' || substr(hex(task_id), 21)
    ) AS task_id,
    entity_type,
    entity_id,
    operation,
    CASE state
        WHEN 0 THEN 'pending' WHEN 1 THEN 'in_flight' WHEN 2 THEN 'unknown' WHEN 3 THEN 'conflict' WHEN 4 THEN 'dead'
    END AS state,
    attempts,
    enqueued_at,
    fields
FROM landfall_tasks;
CREATE VIEW landfall_v_conflicts AS
SELECT
    lower(
        substr(hex(conflict_id), 1, 8) || '-' || substr(hex(conflict_id), 9, 4) || '-' || substr(hex(conflict_id), 13, 4)
        || '-' || substr(hex(conflict_id), 17, 4) || '-' || substr(hex(conflict_id), 21)
    ) AS conflict_id,
    entity_type,
    entity_id,
    at,
    open
FROM landfall_conflicts;
INSERT INTO landfall_tasks VALUES (3, 2, 1763870000005, -4, X'9E4B9104130D52389C20CA177AEE53F8', 'note', 'é ''n'' 1', 'lane', 1, 1, 'upsert', 2, 1763870000001, 1763870000002, 7, 1763870000003, 1763870000004, NULL, NULL, 5, 1, '{"kind":"transient","code":"overloaded","message":"503","at":1763870000006}', '{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}', '["gone","too"]', X'A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5', '{"fields":{"n":1.0}}', X'137FB2FC57D8F29B8E1CF6BA5CC73DD7DE6ED7EC66ED83FC3AA5A4B1D60465C6', '7', 2, 3, 7727347172369743429);
INSERT INTO landfall_tasks VALUES (4, 0, 0, -4, X'1671A1F8750E5896BF6EC796ED5B0072', 'note', 'é ''n'' 1', NULL, 1, 4, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, NULL, NULL, 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 7536329722499253845);
INSERT INTO landfall_tasks VALUES (5, 1, NULL, -4, X'C288D7568983557D903E6AF272495CE5', 'note', 'é ''n'' 1', NULL, 1, 5, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, -1, NULL, 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, -5799727932120856144);
INSERT INTO landfall_tasks VALUES (6, 3, NULL, -4, X'E6CE0EFAF7B059CD90189E481C8746BA', 'note', 'é ''n'' 1', NULL, 1, 6, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, NULL, NULL, 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, -140354323664678597);
INSERT INTO landfall_tasks VALUES (7, 4, NULL, -4, X'048C82738EDD50D4BE1360D829893FBA', 'note', 'é ''n'' 1', NULL, 1, 7, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, NULL, 'rejected', 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, -3393586125593046285);
INSERT INTO landfall_entities VALUES (1, 'note', 'é ''n'' 1', 2, 7, 1, 1, '7', 3, 2, '8', '{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}', NULL, NULL, 8214658347312938940, 2, 1763870000011, 3);
INSERT INTO landfall_journal VALUES (1, X'BCB75DC0616F5A44A52D34705FA2DEED', 1, 'note', 'é ''n'' 1', 2, 'duplicate', '6', 1763870000007, '{}', 4038116368093550612);
INSERT INTO landfall_facts VALUES ('counters', 1, '{"counts":{"pending":1,"in_flight":1,"unknown":1,"conflict":1,"dead":1},"last_seq":7}', -8715209919927907929);
INSERT INTO landfall_facts VALUES ('lease', 1, '{"holder":"process 12","fence":4,"expires_at":1763870000010}', 6098582427681259126);
INSERT INTO landfall_facts VALUES ('opened', 1, '1', -6886137353704254097);
INSERT INTO landfall_facts VALUES ('pull', 1, '{"cursor":"17","reading":2,"sweep":true,"swept_to":{"entity_type":"note","entity_id":"n"},"types":["note"]}', 3266892055434309626);
INSERT INTO landfall_facts VALUES ('replica', 1, '{"client_id":"7f0b8a9e-3c2d-4e5f-8a1b-0c9d8e7f6a5b","client_epoch":9,"opens":10,"server_id":"server","clock":"1763870000009-00001","server_offset_ms":-5}', 7468732377074619391);
INSERT INTO landfall_conflicts VALUES (1, X'BB23CCEACC7A512F9995BFAEAE12EE45', X'9E4B9104130D52389C20CA177AEE53F8', 'note', 'é ''n'' 1', 1763870000012, 0, 2, '{"id":"bb23ccea-cc7a-512f-9995-bfaeae12ee45","task_id":"9e4b9104-130d-5238-9c20-ca177aee53f8","entity":{"entity_type":"note","entity_id":"é ''n'' 1"},"at":1763870000012,"found":"push","why":{"refused":"too long"},"base":{"body":{"live":{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}},"version":"7","complete":false},"local":{"live":{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}},"change":"{\"fields\":{\"n\":1.0}}","remote":{"key":{"entity_type":"note","entity_id":"é ''n'' 1"},"body":{"live":{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}},"version":"9","changed_at":"1763870000013-00004"},"rule":"last_write_wins","fields":[{"path":[{"field":"lines"},{"item":["id",7]},{"field":"n"}],"base":{"present":null},"local":null,"rule":"keyed_list(id)","misfit":"removed","group":"a+b","chosen":"remote","result":1.0}],"proposal":{"live":{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}},"settled":{"by":"app","at":1763870000014,"result":"deleted","sent_as":"234af40e-eef3-5c3f-8b96-05f6e46ebe9f","forked_to":{"entity_type":"note","entity_id":"fork"}}}', -8170327302649132358);
INSERT INTO landfall_conflicts VALUES (2, X'0BAA0D61BFBE56EDA6599913085A03F9', X'9E4B9104130D52389C20CA177AEE53F8', 'note', 'é ''n'' 1', 1763870000012, 1, 2, '{"id":"0baa0d61-bfbe-56ed-a659-9913085a03f9","task_id":"9e4b9104-130d-5238-9c20-ca177aee53f8","entity":{"entity_type":"note","entity_id":"é ''n'' 1"},"at":1763870000012,"found":"pull","why":"edited_here_deleted_there","local":{"live":{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}},"change":"{\"fields\":{\"n\":1.0}}","rule":"last_write_wins"}', -690929643238611083);
INSERT INTO landfall_quarantined VALUES (1, 1763870000015, 1, 'note é: no object', 2537941920537173362);
