PRAGMA application_id = 1279672652;
PRAGMA user_version = 1;
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
) STRICT;
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
CREATE TABLE landfall_conflicts (
    id             INTEGER PRIMARY KEY,
    task_id        BLOB NOT NULL,
    format         INTEGER NOT NULL,
    entity_type    TEXT NOT NULL,
    entity_id      TEXT NOT NULL,
    at             INTEGER NOT NULL,
    rule           TEXT NOT NULL,
    remote         INTEGER NOT NULL,        -- 0 not known, 1 live, 2 deleted
    remote_version TEXT,
    base           TEXT,
    local          TEXT NOT NULL,
    remote_fields  TEXT,
    sum            INTEGER NOT NULL
) STRICT;
CREATE INDEX landfall_conflicts_entity ON landfall_conflicts (entity_type, entity_id);
CREATE TABLE landfall_facts (
    name   TEXT PRIMARY KEY,
    format INTEGER NOT NULL,
    value  TEXT NOT NULL,                   -- JSON
    sum    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO landfall_tasks VALUES (3, 2, 1763870000005, -4, X'9E4B9104130D52389C20CA177AEE53F8', 'note', 'é ''n'' 1', 'lane', 1, 1, 'upsert', 2, 1763870000001, 1763870000002, 7, 1763870000003, 1763870000004, NULL, NULL, 5, 1, '{"kind":"transient","code":"overloaded","message":"503","at":1763870000006}', '{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}', '["gone","too"]', X'A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5', '{"fields":{"n":1.0}}', X'137FB2FC57D8F29B8E1CF6BA5CC73DD7DE6ED7EC66ED83FC3AA5A4B1D60465C6', '7', 2, 3, 7727347172369743429);
INSERT INTO landfall_tasks VALUES (4, 0, 0, -4, X'1671A1F8750E5896BF6EC796ED5B0072', 'note', 'é ''n'' 1', NULL, 1, 4, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, NULL, NULL, 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 7536329722499253845);
INSERT INTO landfall_tasks VALUES (5, 1, NULL, -4, X'C288D7568983557D903E6AF272495CE5', 'note', 'é ''n'' 1', NULL, 1, 5, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, -1, NULL, 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, -5799727932120856144);
INSERT INTO landfall_tasks VALUES (6, 3, NULL, -4, X'E6CE0EFAF7B059CD90189E481C8746BA', 'note', 'é ''n'' 1', NULL, 1, 6, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, NULL, NULL, 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, -140354323664678597);
INSERT INTO landfall_tasks VALUES (7, 4, NULL, -4, X'048C82738EDD50D4BE1360D829893FBA', 'note', 'é ''n'' 1', NULL, 1, 7, 'delete', 2, NULL, 1763870000002, 7, 1763870000003, NULL, NULL, 'rejected', 5, 1, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, -3393586125593046285);
INSERT INTO landfall_entities VALUES (1, 'note', 'é ''n'' 1', 1, 7, 1, 1, '7', 3, 2, '8', '{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}', NULL, NULL, 2418227211060995460);
INSERT INTO landfall_journal VALUES (1, X'BCB75DC0616F5A44A52D34705FA2DEED', 1, 'note', 'é ''n'' 1', 2, 'duplicate', '6', 1763870000007, '{}', 4038116368093550612);
INSERT INTO landfall_conflicts VALUES (1, X'9E4B9104130D52389C20CA177AEE53F8', 1, 'note', 'é ''n'' 1', 1763870000008, 'server wins', 1, NULL, '{}', '{"a":1}', '{"max":18446744073709551615,"nothing":null,"one":1.0,"text":"ü \"\\ 🦀"}', -2648365807379038689);
INSERT INTO landfall_facts VALUES ('counters', 1, '{"counts":{"pending":1,"in_flight":1,"unknown":1,"conflict":1,"dead":1},"last_seq":7}', -8715209919927907929);
INSERT INTO landfall_facts VALUES ('lease', 1, '{"holder":"process 12","fence":4,"expires_at":1763870000010}', 6098582427681259126);
INSERT INTO landfall_facts VALUES ('opened', 1, '1', -6886137353704254097);
INSERT INTO landfall_facts VALUES ('replica', 1, '{"client_id":"7f0b8a9e-3c2d-4e5f-8a1b-0c9d8e7f6a5b","client_epoch":9,"opens":10,"server_id":"server","clock":"1763870000009-00001"}', -4261690218243878234);
