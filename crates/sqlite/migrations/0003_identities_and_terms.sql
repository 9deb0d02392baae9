-- Schema 3. Never edited once shipped: the next change is the next file.
--
-- One file may hold the queues of several identities. Each has a number, 0 that of the queue without a name. Positions
-- of number n begin at n << 40, so an index of tasks that ends with the position needs no further column; every other
-- row names its owner. Rows of an older format have no owner in their checksum: they are those of 0, and only of 0.
--
-- Old rows stay as they are until they are written again: format 1 of tasks and journal, 1 and 2 of records, 2 of
-- conflicts and 1 of quarantined records have a checksum over the columns that there were.

CREATE TABLE landfall_identities (
    number INTEGER PRIMARY KEY,
    name   TEXT NOT NULL UNIQUE,
    format INTEGER NOT NULL,
    sum    INTEGER NOT NULL
) STRICT;

ALTER TABLE landfall_tasks ADD COLUMN terms TEXT;           -- JSON; NULL: none that differs from the usual
ALTER TABLE landfall_tasks ADD COLUMN grp TEXT;             -- this and what follows: found in the terms or the state, too
ALTER TABLE landfall_tasks ADD COLUMN lapses_at INTEGER;    -- milliseconds; NULL: does not end by itself
ALTER TABLE landfall_tasks ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
ALTER TABLE landfall_tasks ADD COLUMN passed_over INTEGER NOT NULL DEFAULT 0;
ALTER TABLE landfall_tasks ADD COLUMN cancelling INTEGER NOT NULL DEFAULT 0;
ALTER TABLE landfall_tasks ADD COLUMN action TEXT;          -- name of a command

DROP INDEX landfall_tasks_id;
DROP INDEX landfall_tasks_lane;
DROP INDEX landfall_tasks_ready;
DROP INDEX landfall_tasks_waiting;
-- Each but the first ends with the row's own position, which therefore is not named.
CREATE UNIQUE INDEX landfall_tasks_id ON landfall_tasks (task_id, seq >> 40);
CREATE INDEX landfall_tasks_lane ON landfall_tasks (lane) WHERE lane IS NOT NULL AND passed_over = 0;
CREATE INDEX landfall_tasks_group ON landfall_tasks (grp) WHERE grp IS NOT NULL;
CREATE INDEX landfall_tasks_held ON landfall_tasks (held) WHERE held = 1;
-- By rank: a step of priority is worth 1000 positions.
CREATE INDEX landfall_tasks_ready ON landfall_tasks (seq >> 40, seq - priority * 1000) WHERE claim_at <= 0;
CREATE INDEX landfall_tasks_waiting ON landfall_tasks (seq >> 40, claim_at) WHERE claim_at > 0;
CREATE INDEX landfall_tasks_lapsing ON landfall_tasks (seq >> 40, lapses_at) WHERE lapses_at IS NOT NULL;

-- Which tasks wait for which: found in the terms, too.
CREATE TABLE landfall_waits (
    parent BLOB NOT NULL,                   -- 16 bytes: the task that must have ended
    seq    INTEGER NOT NULL,                -- position of the one that waits
    PRIMARY KEY (parent, seq)
) STRICT, WITHOUT ROWID;

ALTER TABLE landfall_entities ADD COLUMN owner INTEGER NOT NULL DEFAULT 0;
DROP INDEX landfall_entities_key;
CREATE UNIQUE INDEX landfall_entities_key ON landfall_entities (owner, entity_type, entity_id);

ALTER TABLE landfall_journal ADD COLUMN became BLOB;        -- 16 bytes: the task that went on in its place
ALTER TABLE landfall_journal ADD COLUMN owner INTEGER NOT NULL DEFAULT 0;
DROP INDEX landfall_journal_task;
DROP INDEX landfall_journal_at;
CREATE UNIQUE INDEX landfall_journal_task ON landfall_journal (owner, task_id);
CREATE INDEX landfall_journal_at ON landfall_journal (owner, at);

ALTER TABLE landfall_conflicts ADD COLUMN owner INTEGER NOT NULL DEFAULT 0;
DROP INDEX landfall_conflicts_name;
DROP INDEX landfall_conflicts_entity;
DROP INDEX landfall_conflicts_open;
DROP INDEX landfall_conflicts_open_entity;
DROP INDEX landfall_conflicts_settled;
CREATE UNIQUE INDEX landfall_conflicts_name ON landfall_conflicts (owner, conflict_id);
CREATE INDEX landfall_conflicts_owner ON landfall_conflicts (owner);
CREATE INDEX landfall_conflicts_entity ON landfall_conflicts (owner, entity_type, entity_id);
CREATE INDEX landfall_conflicts_open ON landfall_conflicts (owner) WHERE open = 1;
CREATE INDEX landfall_conflicts_open_entity ON landfall_conflicts (owner, entity_type, entity_id) WHERE open = 1;
CREATE INDEX landfall_conflicts_settled ON landfall_conflicts (owner, at) WHERE open = 0;

ALTER TABLE landfall_quarantined ADD COLUMN owner INTEGER NOT NULL DEFAULT 0;
CREATE INDEX landfall_quarantined_owner ON landfall_quarantined (owner);

-- What the backend calls a record that the app named otherwise.
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

-- The app's own names of changes, and the tasks that the first with each name led to.
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

-- The views show the rows of every identity, and whose they are.
DROP VIEW landfall_v_records;
DROP VIEW landfall_v_queue;
DROP VIEW landfall_v_conflicts;

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
