//! What stays when work is done: how tasks ended.
//!
//! Tests: the store suite.

use crate::codec::{FORMAT, Table, bound, first_row, sealed, verify};
use crate::error::failed;
use landfall_core::id::{TaskId, Version};
use landfall_core::store::StoreError;
use landfall_core::task::{JournalEntry, Verdict};
use landfall_core::time::Timestamp;
use rusqlite::{Connection, params_from_iter};

/// How many columns the checksum covers.
const COLUMNS: usize = 9;

pub(crate) fn entry(connection: &Connection, id: TaskId) -> Result<Option<JournalEntry>, StoreError> {
    let sql = "SELECT task_id, format, entity_type, entity_id, generation, verdict, version, at, payload, sum \
               FROM landfall_journal WHERE task_id = ?";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    first_row(&mut statement, [id.0.as_bytes()], |row| {
        let Some(row) = verify(Table::Journal, row, COLUMNS)? else {
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
    let cells = sealed::<COLUMNS>(
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
    connection.prepare_cached(sql).map_err(failed)?.execute((before.0, bound(limit))).map_err(failed)
}
