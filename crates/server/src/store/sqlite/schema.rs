//! Opening: what file is this, is it as durable as we promise, is its schema ours; and the schema itself.
//!
//! Opening for writing ends with a commit of its own: what a killed process left behind may be visible and not
//! yet durable, and must be durable before anything is answered from it. Tests: `tests/store.rs`.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

use super::StoreError;

/// "LfSv": marks the file as a database of this server.
const APPLICATION_ID: i64 = 0x4c66_5376;

/// One step of the schema per entry; `user_version` counts the steps done. Never edited once released.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO meta VALUES ('opened', '0');

    -- version: the last one given out to a record of this tenant
    CREATE TABLE tenants(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, version INTEGER NOT NULL) STRICT;

    CREATE TABLE clients(
        id INTEGER PRIMARY KEY,
        tenant INTEGER NOT NULL,
        client_id TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        UNIQUE (tenant, client_id)
    ) STRICT;

    -- fields: a JSON object; NULL for a tombstone
    CREATE TABLE records(
        tenant INTEGER NOT NULL,
        entity_type TEXT NOT NULL,
        entity_id TEXT NOT NULL,
        version INTEGER NOT NULL,
        fields TEXT,
        PRIMARY KEY (tenant, entity_type, entity_id)
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX records_by_version ON records(tenant, version);

    -- Never deleted from. status: 0 applied, 1 conflict, 2 rejected;
    -- more: the rest of the result as JSON, if there is more to it than status and version
    CREATE TABLE seen(
        tenant INTEGER NOT NULL,
        key TEXT NOT NULL,
        client INTEGER NOT NULL,
        task_id TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        status INTEGER NOT NULL,
        version INTEGER,
        more TEXT,
        PRIMARY KEY (tenant, key)
    ) STRICT, WITHOUT ROWID;
"];

/// Opens for writing: checks, settings, migrations, then a commit that makes all that is visible durable.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    if rusqlite::version_number() < 3_051_003 {
        return Err(StoreError::OldSqlite(rusqlite::version()));
    }
    let connection = open(path, OpenFlags::SQLITE_OPEN_CREATE)?;
    let known = MIGRATIONS.len() as i64;
    let found = whole(&connection, "PRAGMA user_version")?;
    let application = whole(&connection, "PRAGMA application_id")?;
    let is_empty = whole(&connection, "SELECT count(*) FROM sqlite_schema")? == 0;
    match application {
        APPLICATION_ID => {}
        0 if is_empty && found == 0 => {}
        other => return Err(StoreError::Foreign(other)),
    }
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    set(&connection, "journal_mode", "WAL", "wal")?;
    set(&connection, "synchronous", "EXTRA", "3")?;
    set(&connection, "trusted_schema", "OFF", "0")?;
    set(&connection, "cell_size_check", "ON", "1")?;
    // Keys are random, so each lands on another page: keep many. In KiB, negative by SQLite's convention.
    set(&connection, "cache_size", "-32768", "-32768")?;

    let tx = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
    // Another process may have migrated while we waited.
    let done = usize::try_from(whole(&tx, "PRAGMA user_version")?).unwrap_or(usize::MAX);
    for step in MIGRATIONS.iter().skip(done) {
        tx.execute_batch(step)?;
    }
    if done < MIGRATIONS.len() {
        tx.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {known};"
        ))?;
    }
    tx.execute("INSERT INTO meta VALUES ('server_id', ?1) ON CONFLICT DO NOTHING", [new_name()])?;
    tx.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'opened'", [])?;
    tx.commit()?;
    // Read back after the first commit: setting the mode can fail in silence.
    expect(&connection, "journal_mode", "wal")?;
    expect(&connection, "synchronous", "3")?;
    Ok(connection)
}

/// Opens for reading what a writer has opened before.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let connection = open(path, OpenFlags::empty())?;
    set(&connection, "query_only", "ON", "1")?;
    set(&connection, "trusted_schema", "OFF", "0")?;
    Ok(connection)
}

/// Stores a new `server_id` and gives it back.
pub(super) fn mint_server_id(connection: &Connection) -> Result<String, StoreError> {
    let name = new_name();
    let tx = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    tx.execute("UPDATE meta SET value = ?1 WHERE name = 'server_id'", params![name])?;
    tx.commit().map_err(StoreError::OutcomeUnknown)?;
    Ok(name)
}

fn new_name() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn open(path: &Path, more: OpenFlags) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

fn set(connection: &Connection, name: &'static str, value: &str, wanted: &str) -> Result<(), StoreError> {
    connection.prepare(&format!("PRAGMA {name} = {value}"))?.query([])?.next()?;
    expect(connection, name, wanted)
}

fn expect(connection: &Connection, name: &'static str, wanted: &str) -> Result<(), StoreError> {
    let mut statement = connection.prepare(&format!("PRAGMA {name}"))?;
    let mut rows = statement.query([])?;
    let found = match rows.next()? {
        None => String::new(),
        Some(row) => match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(number) => number.to_string(),
            other => other.as_str().map(str::to_owned).unwrap_or_default(),
        },
    };
    if found == wanted { Ok(()) } else { Err(StoreError::Setting { name, found }) }
}

/// A whole number from a statement that only reads.
fn whole(connection: &Connection, sql: &str) -> Result<i64, rusqlite::Error> {
    connection.query_one(sql, [], |row| row.get(0))
}
