PRAGMA application_id = 1279672652;
PRAGMA user_version = 3;
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
, terms TEXT, grp TEXT, lapses_at INTEGER, held INTEGER NOT NULL DEFAULT 0, passed_over INTEGER NOT NULL DEFAULT 0, cancelling INTEGER NOT NULL DEFAULT 0, action TEXT) STRICT;
CREATE INDEX landfall_tasks_entity ON landfall_tasks (entity_type, entity_id);
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
, reading INTEGER NOT NULL DEFAULT 0, staged_ms INTEGER, staged_count INTEGER, owner INTEGER NOT NULL DEFAULT 0) STRICT;
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
, became BLOB, owner INTEGER NOT NULL DEFAULT 0) STRICT;
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
, owner INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE landfall_quarantined (
    id     INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,                -- milliseconds
    format INTEGER NOT NULL,
    reason TEXT NOT NULL,
    sum    INTEGER NOT NULL
, owner INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE landfall_identities (
    number INTEGER PRIMARY KEY,
    name   TEXT NOT NULL UNIQUE,
    format INTEGER NOT NULL,
    sum    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX landfall_tasks_id ON landfall_tasks (task_id, seq >> 40);
CREATE INDEX landfall_tasks_lane ON landfall_tasks (lane) WHERE lane IS NOT NULL AND passed_over = 0;
CREATE INDEX landfall_tasks_group ON landfall_tasks (grp) WHERE grp IS NOT NULL;
CREATE INDEX landfall_tasks_held ON landfall_tasks (held) WHERE held = 1;
CREATE INDEX landfall_tasks_ready ON landfall_tasks (seq >> 40, seq - priority * 1000) WHERE claim_at <= 0;
CREATE INDEX landfall_tasks_waiting ON landfall_tasks (seq >> 40, claim_at) WHERE claim_at > 0;
CREATE INDEX landfall_tasks_lapsing ON landfall_tasks (seq >> 40, lapses_at) WHERE lapses_at IS NOT NULL;
CREATE TABLE landfall_waits (
    parent BLOB NOT NULL,                   -- 16 bytes: the task that must have ended
    seq    INTEGER NOT NULL,                -- position of the one that waits
    PRIMARY KEY (parent, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX landfall_entities_key ON landfall_entities (owner, entity_type, entity_id);
CREATE UNIQUE INDEX landfall_journal_task ON landfall_journal (owner, task_id);
CREATE INDEX landfall_journal_at ON landfall_journal (owner, at);
CREATE UNIQUE INDEX landfall_conflicts_name ON landfall_conflicts (owner, conflict_id);
CREATE INDEX landfall_conflicts_owner ON landfall_conflicts (owner);
CREATE INDEX landfall_conflicts_entity ON landfall_conflicts (owner, entity_type, entity_id);
CREATE INDEX landfall_conflicts_open ON landfall_conflicts (owner) WHERE open = 1;
CREATE INDEX landfall_conflicts_open_entity ON landfall_conflicts (owner, entity_type, entity_id) WHERE open = 1;
CREATE INDEX landfall_conflicts_settled ON landfall_conflicts (owner, at) WHERE open = 0;
CREATE INDEX landfall_quarantined_owner ON landfall_quarantined (owner);
CREATE TABLE landfall_server_ids (
    id          INTEGER PRIMARY KEY,
    owner       INTEGER NOT NULL,
    entity_type TEXT NOT NULL,
    entity_id   TEXT NOT NULL,
    server_id   TEXT NOT NULL,
    format      INTEGER NOT NULL,
    sum         INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX landfall_server_ids_local ON landfall_server_ids (owner, entity_type, entity_id);
CREATE UNIQUE INDEX landfall_server_ids_server ON landfall_server_ids (owner, entity_type, server_id);
CREATE TABLE landfall_keys (
    id      INTEGER PRIMARY KEY,
    owner   INTEGER NOT NULL,
    key     TEXT NOT NULL,
    task_id BLOB NOT NULL,                  -- 16 bytes
    at      INTEGER NOT NULL,               -- milliseconds
    format  INTEGER NOT NULL,
    sum     INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX landfall_keys_key ON landfall_keys (owner, key);
CREATE INDEX landfall_keys_at ON landfall_keys (owner, at);
CREATE VIEW landfall_v_records AS
SELECT
    entity_type,
    entity_id,
    local = 2 AS deleted,
    CASE local WHEN 1 THEN local_fields WHEN 3 THEN base_fields END AS fields,
    base_fields,
    base_version AS version,
    (SELECT name FROM landfall_identities WHERE number = owner) AS identity
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
    fields,
    (SELECT name FROM landfall_identities WHERE number = seq >> 40) AS identity
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
    open,
    (SELECT name FROM landfall_identities WHERE number = owner) AS identity
FROM landfall_conflicts;
INSERT INTO landfall_tasks VALUES (1099511627777, 3, NULL, -4, X'1F88B7B59BE852578ECE5EDE7086F55A', 'note', 'é ''n'' 1', NULL, 2, 1099511627777, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, NULL, NULL, 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, -5035958108552134128, NULL, NULL, NULL, 0, 0, 0, NULL);
INSERT INTO landfall_tasks VALUES (3, 2, 1763870000005, -4, X'9E4B9104130D52389C20CA177AEE53F8', 'note', 'é ''n'' 1', 'lane', 2, 1, 'upsert', 2, 1763870000001, 1763870000002, 7, 1763870000003, 1763870000004, NULL, NULL, 5, 1, '[{"kind":"transient","code":"overloaded","message":"503","at":1763870000006}]', '{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}', '["gone","too"]', X'A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5', '{"fields":{"n":1.0}}', X'137FB2FC57D8F29B8E1CF6BA5CC73DD7DE6ED7EC66ED83FC3AA5A4B1D60465C6', '7', 2, 3, 6210929666541185095, NULL, NULL, NULL, 0, 0, 0, NULL);
INSERT INTO landfall_tasks VALUES (4, 0, 0, -4, X'1671A1F8750E5896BF6EC796ED5B0072', 'note', 'é ''n'' 1', NULL, 2, 4, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, NULL, NULL, 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 3335971635096366281, NULL, NULL, NULL, 0, 0, 0, NULL);
INSERT INTO landfall_tasks VALUES (5, 1, NULL, -4, X'C288D7568983557D903E6AF272495CE5', 'note', 'é ''n'' 1', NULL, 2, 5, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, -1, NULL, 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, -1809943946801895878, NULL, NULL, NULL, 0, 0, 0, NULL);
INSERT INTO landfall_tasks VALUES (6, 3, NULL, -4, X'E6CE0EFAF7B059CD90189E481C8746BA', 'note', 'é ''n'' 1', NULL, 2, 6, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, NULL, NULL, 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, -1578261602993464374, NULL, NULL, NULL, 0, 0, 0, NULL);
INSERT INTO landfall_tasks VALUES (7, 4, NULL, -4, X'048C82738EDD50D4BE1360D829893FBA', 'note', 'é ''n'' 1', NULL, 2, 7, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, NULL, 'rejected', 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, -8084431116333365850, NULL, NULL, NULL, 0, 0, 0, NULL);
INSERT INTO landfall_tasks VALUES (8, 0, NULL, -4, X'234AF40EEEF35C3F8B9605F6E46EBE9F', 'note', 'é ''n'' 1', NULL, 2, 8, 'action', 2, NULL, 1763870000002, 7, 1763870000003, NULL, NULL, NULL, 5, 1, '[{"kind":"transient","code":"overloaded","message":"503","answer":"{}","at":1763870000006},{"kind":"transient","code":"overloaded","message":"503","at":1763870000006}]', '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 4916921653141224674, '{"expires_at":1763870000016,"tags":["a","é"],"unmetered_only":true,"at_most_once":true,"group":"group","waits_for":["9e4b9104-130d-5238-9c20-ca177aee53f8"],"orphaned":"detach"}', 'group', 1763870000016, 1, 1, 1, 'submit');
INSERT INTO landfall_entities VALUES (1, 'note', 'é ''n'' 1', 3, 7, 1, 1, '7', 3, 2, '8', '{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}', NULL, NULL, 8636006998220303438, 2, 1763870000011, 3, 0);
INSERT INTO landfall_entities VALUES (2, 'note', 'é ''n'' 1', 3, 7, 1, 1, '7', 3, 2, '8', '{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}', NULL, NULL, 2240387083064650062, 0, NULL, NULL, 1);
INSERT INTO landfall_journal VALUES (1, X'BCB75DC0616F5A44A52D34705FA2DEED', 2, 'note', 'é ''n'' 1', 2, 'duplicate', '6', 1763870000007, '{}', 5323311188206544193, NULL, 0);
INSERT INTO landfall_journal VALUES (2, X'3E52A3E7460A59098CE7F498B0A10E26', 2, 'note', 'é ''n'' 1', 2, 'requeued', '6', 1763870000017, '{}', -7094632140410139595, X'9E4B9104130D52389C20CA177AEE53F8', 0);
INSERT INTO landfall_facts VALUES ('1/counters', 1, '{"counts":{"pending":0,"in_flight":0,"unknown":0,"conflict":1,"dead":0},"last_seq":1099511627777}', 7499871996342805541);
INSERT INTO landfall_facts VALUES ('controls', 1, '{"all":true,"types":["note"],"lanes":["lane"]}', 4821210363100623760);
INSERT INTO landfall_facts VALUES ('counters', 1, '{"counts":{"pending":2,"in_flight":1,"unknown":1,"conflict":1,"dead":1},"last_seq":8}', 4017720667148571633);
INSERT INTO landfall_facts VALUES ('lease', 1, '{"holder":"process 12","fence":4,"expires_at":1763870000010}', 6098582427681259126);
INSERT INTO landfall_facts VALUES ('opened', 1, '1', -6886137353704254097);
INSERT INTO landfall_facts VALUES ('pull', 1, '{"cursor":"17","reading":2,"sweep":true,"swept_to":{"entity_type":"note","entity_id":"n"},"types":["note"]}', 3266892055434309626);
INSERT INTO landfall_facts VALUES ('replica', 1, '{"client_id":"7f0b8a9e-3c2d-4e5f-8a1b-0c9d8e7f6a5b","client_epoch":9,"opens":10,"server_id":"server","clock":"1763870000009-00001","server_offset_ms":-5}', 7468732377074619391);
INSERT INTO landfall_conflicts VALUES (1, X'BB23CCEACC7A512F9995BFAEAE12EE45', X'9E4B9104130D52389C20CA177AEE53F8', 'note', 'é ''n'' 1', 1763870000012, 0, 3, '{"id":"bb23ccea-cc7a-512f-9995-bfaeae12ee45","task_id":"9e4b9104-130d-5238-9c20-ca177aee53f8","entity":{"entity_type":"note","entity_id":"é ''n'' 1"},"at":1763870000012,"found":"push","why":{"refused":"too long"},"base":{"body":{"live":{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}},"version":"7","complete":false},"local":{"live":{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}},"change":"{\"fields\":{\"n\":1.0}}","remote":{"key":{"entity_type":"note","entity_id":"é ''n'' 1"},"body":{"live":{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}},"version":"9","changed_at":"1763870000013-00004"},"rule":"last_write_wins","fields":[{"path":[{"field":"lines"},{"item":["id",7]},{"field":"n"}],"base":{"present":null},"local":null,"rule":"keyed_list(id)","misfit":"removed","group":"a+b","chosen":"remote","result":1.0}],"proposal":{"live":{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}},"settled":{"by":"app","at":1763870000014,"result":"deleted","sent_as":"234af40e-eef3-5c3f-8b96-05f6e46ebe9f","forked_to":{"entity_type":"note","entity_id":"fork"}}}', -8662082456731513277, 0);
INSERT INTO landfall_conflicts VALUES (2, X'0BAA0D61BFBE56EDA6599913085A03F9', X'9E4B9104130D52389C20CA177AEE53F8', 'note', 'é ''n'' 1', 1763870000012, 1, 3, '{"id":"0baa0d61-bfbe-56ed-a659-9913085a03f9","task_id":"9e4b9104-130d-5238-9c20-ca177aee53f8","entity":{"entity_type":"note","entity_id":"é ''n'' 1"},"at":1763870000012,"found":"pull","why":"edited_here_deleted_there","local":{"live":{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}},"change":"{\"fields\":{\"n\":1.0}}","rule":"last_write_wins"}', -6730592055509017818, 0);
INSERT INTO landfall_quarantined VALUES (1, 1763870000015, 2, 'note é: no object', -8205271600490342237, 0);
INSERT INTO landfall_identities VALUES (1, 'alice é', 1, 1762075673122017592);
INSERT INTO landfall_waits VALUES (X'9E4B9104130D52389C20CA177AEE53F8', 8);
INSERT INTO landfall_server_ids VALUES (1, 0, 'note', 'é ''n'' 1', '17', 1, -5531725270033039570);
INSERT INTO landfall_keys VALUES (1, 0, 'key', X'9E4B9104130D52389C20CA177AEE53F8', 1763870000018, 1, -7704435176762461741);
