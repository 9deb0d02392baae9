//! What stays when work is done: how tasks ended, and what conflicts were about.
//!
//! Tests: the store suite.

use crate::codec::{FORMAT, Table, Verified, body, body_cells, each_row, first_row, sealed, verify};
use crate::error::failed;
use landfall_core::entity::RemoteEntity;
use landfall_core::id::{EntityKey, TaskId, Version};
use landfall_core::store::{ConflictRecord, StoreError};
use landfall_core::task::{JournalEntry, Verdict};
use landfall_core::time::Timestamp;
use rusqlite::{Connection, Params, params_from_iter};

/// How many columns of the journal the checksum covers.
const ENTRY_COLUMNS: usize = 9;

/// How many columns of a conflict the checksum covers.
const CONFLICT_COLUMNS: usize = 11;

pub(crate) fn entry(connection: &Connection, id: TaskId) -> Result<Option<JournalEntry>, StoreError> {
    let sql = "SELECT task_id, format, entity_type, entity_id, generation, verdict, version, at, payload, sum \
               FROM landfall_journal WHERE task_id = ?";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    first_row(&mut statement, [id.0.as_bytes()], |row| {
        let Some(row) = verify(Table::Journal, row, ENTRY_COLUMNS)? else {
            return Err(StoreError::Damaged(format!("the journal entry of task {id}")));
        };
        if row.task_id(0)? != id {
            return Err(StoreError::Corrupt(format!("an index leads to the wrong journal entry for {id}")));
        }
        Ok(JournalEntry {
            task_id: id,
            entity: row.entity_key(2)?,
            generation: row.bits(4)?,
            verdict: row.word(5, &Verdict::ALL, Verdict::as_str)?,
            version: row.maybe_text(6)?.map(Version::from),
            at: Timestamp(row.int(7)?),
            payload: row.text(8)?.into(),
        })
    })
}

pub(crate) fn put_entry(connection: &Connection, entry: &JournalEntry) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO landfall_journal \
               (task_id, format, entity_type, entity_id, generation, verdict, version, at, payload, sum) \
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let cells = sealed::<ENTRY_COLUMNS>(
        Table::Journal,
        [
            entry.task_id.0.as_bytes().into(),
            FORMAT.into(),
            entry.entity.entity_type.as_str().into(),
            entry.entity.entity_id.as_str().into(),
            entry.generation.into(),
            entry.verdict.as_str().into(),
            entry.version.as_ref().map(|version| version.0.as_str()).into(),
            entry.at.0.into(),
            (*entry.payload).into(),
        ],
    );
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(params_from_iter(cells)).map_err(failed)?;
    Ok(())
}

pub(crate) fn prune(connection: &Connection, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
    let sql = "DELETE FROM landfall_journal WHERE id IN \
               (SELECT id FROM landfall_journal WHERE at < ? ORDER BY at LIMIT ?)";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    connection.prepare_cached(sql).map_err(failed)?.execute((before.0, limit)).map_err(failed)
}

/// `SELECT` of a whole conflict, and whatever follows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT task_id, format, entity_type, entity_id, at, rule, remote, remote_version, base, local, ",
            "remote_fields, sum, id FROM landfall_conflicts ",
            $rest
        )
    };
}

pub(crate) fn conflicts(
    connection: &Connection,
    key: Option<&EntityKey>,
    limit: usize,
) -> Result<Vec<ConflictRecord>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let of_one = select!("WHERE entity_type = ? AND entity_id = ? ORDER BY id DESC LIMIT ?");
    match key {
        None => read_conflicts(connection, select!("ORDER BY id DESC LIMIT ?"), [limit]),
        Some(key) => read_conflicts(connection, of_one, (&key.entity_type, &key.entity_id, limit)),
    }
}

fn read_conflicts(
    connection: &Connection,
    sql: &str,
    params: impl Params,
) -> Result<Vec<ConflictRecord>, StoreError> {
    let mut records = Vec::new();
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    each_row(&mut statement, params, |row| match verify(Table::Conflict, row, CONFLICT_COLUMNS)? {
        Some(row) => {
            records.push(decode_conflict(&row)?);
            Ok(true)
        }
        None => {
            let number: i64 = row.get(CONFLICT_COLUMNS + 1).map_err(failed)?;
            Err(StoreError::Damaged(format!("conflict record {number}")))
        }
    })?;
    Ok(records)
}

fn decode_conflict(row: &Verified<'_>) -> Result<ConflictRecord, StoreError> {
    let entity = row.entity_key(2)?;
    let remote = match body(row, 6, 10)? {
        Some(body) => {
            let version = row.maybe_text(7)?.map(Version::from);
            Some(RemoteEntity { key: entity.clone(), body, version })
        }
        None => None,
    };
    Ok(ConflictRecord {
        task_id: row.task_id(0)?,
        entity,
        at: Timestamp(row.int(4)?),
        base: row.maybe_text(8)?.map(str::to_owned),
        local: row.text(9)?.to_owned(),
        remote,
        rule: row.text(5)?.to_owned(),
    })
}

pub(crate) fn put_conflict(connection: &Connection, conflict: &ConflictRecord) -> Result<(), StoreError> {
    if conflict.remote.as_ref().is_some_and(|remote| remote.key != conflict.entity) {
        return Err(StoreError::Misuse("the remote state is that of another record".to_string()));
    }
    let sql = "INSERT INTO landfall_conflicts (task_id, format, entity_type, entity_id, at, rule, remote, \
               remote_version, base, local, remote_fields, sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let (remote, remote_fields) = body_cells(conflict.remote.as_ref().map(|remote| &remote.body));
    let version = conflict.remote.as_ref().and_then(|remote| remote.version.as_ref());
    let cells = sealed::<CONFLICT_COLUMNS>(
        Table::Conflict,
        [
            conflict.task_id.0.as_bytes().into(),
            FORMAT.into(),
            conflict.entity.entity_type.as_str().into(),
            conflict.entity.entity_id.as_str().into(),
            conflict.at.0.into(),
            conflict.rule.as_str().into(),
            remote.into(),
            version.map(|version| version.0.as_str()).into(),
            conflict.base.as_deref().into(),
            conflict.local.as_str().into(),
            remote_fields.into(),
        ],
    );
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(params_from_iter(cells)).map_err(failed)?;
    Ok(())
}
