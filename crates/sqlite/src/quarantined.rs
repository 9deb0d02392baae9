//! Notes of remote records that could not be taken in: the newest of them, and no more than a bound.
//!
//! A note guards nothing, so one that is damaged is passed over. Tests: the store suite, `tests/damage.rs`.

use crate::codec::{Table, each_row, sealed, unreadable, verify_first};
use crate::error::failed;
use crate::identities::Owner;
use landfall_core::store::{QUARANTINE_MAX, Quarantined, StoreError};
use landfall_core::time::Timestamp;
use rusqlite::{Connection, params_from_iter};

/// The format that is written: with the owner.
const FORMAT: i64 = 2;

/// How many columns the checksum covers.
const COLUMNS: usize = 4;

/// How many it covers in a row of format 1.
const COLUMNS_OF_1: usize = 3;

pub(crate) fn newest(
    connection: &Connection,
    owner: Owner,
    limit: usize,
) -> Result<Vec<Quarantined>, StoreError> {
    let sql =
        "SELECT at, format, reason, owner, sum FROM landfall_quarantined WHERE owner = ? ORDER BY id DESC";
    let mut records = Vec::new();
    if limit == 0 {
        return Ok(records);
    }
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    each_row(&mut statement, [owner.number()], |row| {
        let columns = match row.get_ref(1).map_err(failed)?.as_i64() {
            Ok(1) => COLUMNS_OF_1,
            _ => COLUMNS,
        };
        if let Some(row) = verify_first(Table::Quarantined, row, columns, COLUMNS)? {
            let of = match row.int(1)? {
                1 => Owner::NAMELESS.number(),
                FORMAT => row.int(3)?,
                _ => return Err(unreadable(1)),
            };
            if of == owner.number() {
                records.push(Quarantined { at: Timestamp(row.int(0)?), reason: row.text(2)?.to_owned() });
            }
        }
        Ok(records.len() < limit)
    })?;
    Ok(records)
}

pub(crate) fn put(connection: &Connection, owner: Owner, record: &Quarantined) -> Result<(), StoreError> {
    let sql = "INSERT INTO landfall_quarantined (at, format, reason, owner, sum) VALUES (?, ?, ?, ?, ?)";
    let row = [record.at.0.into(), FORMAT.into(), record.reason.as_str().into(), owner.into()];
    let cells = sealed::<COLUMNS>(Table::Quarantined, row);
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(params_from_iter(cells)).map_err(failed)?;
    let sql = "DELETE FROM landfall_quarantined WHERE owner = ?1 AND id <= \
               (SELECT id FROM landfall_quarantined WHERE owner = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute((owner.number(), QUARANTINE_MAX as i64)).map_err(failed)?;
    Ok(())
}
