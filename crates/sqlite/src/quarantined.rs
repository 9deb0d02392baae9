//! Notes of remote records that could not be taken in: the newest of them, and no more than a bound.
//!
//! A note guards nothing, so one that is damaged is passed over. Tests: the store suite, `tests/damage.rs`.

use crate::codec::{FORMAT, Table, each_row, sealed, verify};
use crate::error::failed;
use landfall_core::store::{QUARANTINE_MAX, Quarantined, StoreError};
use landfall_core::time::Timestamp;
use rusqlite::{Connection, params_from_iter};

/// How many columns the checksum covers.
const COLUMNS: usize = 3;

pub(crate) fn newest(connection: &Connection, limit: usize) -> Result<Vec<Quarantined>, StoreError> {
    let sql = "SELECT at, format, reason, sum FROM landfall_quarantined ORDER BY id DESC";
    let mut records = Vec::new();
    if limit == 0 {
        return Ok(records);
    }
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    each_row(&mut statement, (), |row| {
        if let Some(row) = verify(Table::Quarantined, row, COLUMNS)? {
            records.push(Quarantined { at: Timestamp(row.int(0)?), reason: row.text(2)?.to_owned() });
        }
        Ok(records.len() < limit)
    })?;
    Ok(records)
}

pub(crate) fn put(connection: &Connection, record: &Quarantined) -> Result<(), StoreError> {
    let sql = "INSERT INTO landfall_quarantined (at, format, reason, sum) VALUES (?, ?, ?, ?)";
    let row = [record.at.0.into(), FORMAT.into(), record.reason.as_str().into()];
    let cells = sealed::<COLUMNS>(Table::Quarantined, row);
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(params_from_iter(cells)).map_err(failed)?;
    // Only the oldest ever go, so the numbers have no gaps.
    let sql = "DELETE FROM landfall_quarantined WHERE id <= ?";
    let forgotten = connection.last_insert_rowid().saturating_sub(QUARANTINE_MAX as i64);
    connection.prepare_cached(sql).map_err(failed)?.execute([forgotten]).map_err(failed)?;
    Ok(())
}
