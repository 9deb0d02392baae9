-- Schema 1. Never edited once shipped: the next change is the next file.
--
-- Every row that is read to decide, send or merge carries `sum`, a checksum over its other columns, and `format`, the
-- number of the encoding of its columns. Numbers above 63 bits are stored as the signed number with the same bits.

-- The queue, in order of position. Small columns first: what is asked most is not behind a long text.
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

-- Each of these ends with the row's own position, which therefore is not named.
CREATE UNIQUE INDEX landfall_tasks_id ON landfall_tasks (task_id);
CREATE INDEX landfall_tasks_entity ON landfall_tasks (entity_type, entity_id);
CREATE INDEX landfall_tasks_lane ON landfall_tasks (lane) WHERE lane IS NOT NULL;
CREATE INDEX landfall_tasks_ready ON landfall_tasks (priority DESC) WHERE claim_at <= 0;
CREATE INDEX landfall_tasks_waiting ON landfall_tasks (claim_at) WHERE claim_at > 0;
-- Pending tasks, by far the most, are found by walking the table.
CREATE INDEX landfall_tasks_state ON landfall_tasks (state) WHERE state > 0;

-- What is known of each record.
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

-- How tasks ended.
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

-- What conflicts were about, in the order in which they were kept.
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

-- Single facts by name: the replica, the lease, which file this is, how often it was opened, and the counters: how many
-- tasks are in each state, and the greatest position ever used. Together, because a commit that changes one of them
-- mostly changes another, and a page less is written for it.
CREATE TABLE landfall_facts (
    name   TEXT PRIMARY KEY,
    format INTEGER NOT NULL,
    value  TEXT NOT NULL,                   -- JSON
    sum    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
