-- Schema 2. Never edited once shipped: the next change is the next file.
--
-- Rows of records: format 1 has the columns of schema 1 and a checksum over them alone; format 2 has them all. Old rows
-- stay as they are until they are written again.
--
-- The conflicts of schema 1 are carried over by code (`src/migrate/from_1.rs`), which then drops `landfall_conflicts_1`.

ALTER TABLE landfall_entities ADD COLUMN reading INTEGER NOT NULL DEFAULT 0;
ALTER TABLE landfall_entities ADD COLUMN staged_ms INTEGER;    -- hybrid logical time: milliseconds and counter
ALTER TABLE landfall_entities ADD COLUMN staged_count INTEGER;

DROP INDEX landfall_conflicts_entity;
ALTER TABLE landfall_conflicts RENAME TO landfall_conflicts_1;

-- What conflicts were about and how they ended, in the order in which they were first kept. What is asked for is beside
-- the record; it says the same.
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

-- Each but the first and the last ends with the row's place, which therefore is not named.
CREATE UNIQUE INDEX landfall_conflicts_name ON landfall_conflicts (conflict_id);
CREATE INDEX landfall_conflicts_entity ON landfall_conflicts (entity_type, entity_id);
CREATE INDEX landfall_conflicts_open ON landfall_conflicts (open) WHERE open = 1;
CREATE INDEX landfall_conflicts_open_entity ON landfall_conflicts (entity_type, entity_id) WHERE open = 1;
CREATE INDEX landfall_conflicts_settled ON landfall_conflicts (at) WHERE open = 0;

-- Remote records that could not be taken in, the oldest first; bounded by the code that writes them.
CREATE TABLE landfall_quarantined (
    id     INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,                -- milliseconds
    format INTEGER NOT NULL,
    reason TEXT NOT NULL,
    sum    INTEGER NOT NULL
) STRICT;

-- For reading from outside: docs/read-model.md. Their columns are a promise; the tables' are not.
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
