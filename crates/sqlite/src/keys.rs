//! The app's own names of changes, and the tasks that the first change with each name led to.
//!
//! Tests: the store suite, `tests/damage.rs`.

use crate::codec::{FORMAT, Table, each_row, first_row, sealed, verify};
use crate::error::{failed, is_constraint};
use crate::identities::Owner;
use landfall_core::id::TaskId;
use landfall_core::store::StoreError;
use landfall_core::time::Timestamp;
use rusqlite::{Connection, params_from_iter};

/// How many columns the checksum covers.
const COLUMNS: usize = 5;

pub(crate) fn task_of(
    connection: &Connection,
    owner: Owner,
    key: &str,
) -> Result<Option<TaskId>, StoreError> {
    let sql = "SELECT owner, key, task_id, at, format, sum FROM landfall_keys WHERE owner = ? AND key = ?";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    first_row(&mut statement, (owner.number(), key), |row| {
        // The key is the app's and may be private.
        let damage = || StoreError::Damaged("which task a key of the app's led to".to_string());
        let row = verify(Table::Key, row, COLUMNS)?.ok_or_else(damage)?;
        if row.int(0)? != owner.number() || row.text(1)? != key {
            return Err(StoreError::Corrupt("an index leads to the wrong key of the app's".to_string()));
        }
        row.task_id(2)
    })
}

pub(crate) fn put(
    connection: &Connection,
    owner: Owner,
    key: &str,
    task: TaskId,
    at: Timestamp,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO landfall_keys (owner, key, task_id, at, format, sum) VALUES (?, ?, ?, ?, ?, ?)";
    let row = [owner.into(), key.into(), task.0.as_bytes().into(), at.0.into(), FORMAT.into()];
    let cells = sealed::<COLUMNS>(Table::Key, row);
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    match statement.execute(params_from_iter(cells)) {
        Ok(_) => Ok(()),
        Err(error) if is_constraint(&error) => {
            Err(StoreError::Misuse("the key is remembered already".to_string()))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Forgets keys. Each is looked at first: of a damaged row nobody knows how old it is.
pub(crate) fn prune(
    connection: &Connection,
    owner: Owner,
    before: Timestamp,
    limit: usize,
) -> Result<usize, StoreError> {
    let sql = "SELECT owner, key, task_id, at, format, sum, id FROM landfall_keys AS k \
               WHERE owner = ?1 AND at < ?2 \
               AND NOT EXISTS (SELECT 1 FROM landfall_journal AS j WHERE j.owner = ?1 AND j.task_id = k.task_id) \
               AND NOT EXISTS \
               (SELECT 1 FROM landfall_tasks AS t WHERE t.task_id = k.task_id AND t.seq > ?3 AND t.seq < ?4) \
               ORDER BY at";
    let mut places: Vec<i64> = Vec::new();
    if limit == 0 {
        return Ok(0);
    }
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    each_row(&mut statement, (owner.number(), before.0, owner.floor(), owner.end()), |row| {
        if verify(Table::Key, row, COLUMNS)?.is_some() {
            places.push(row.get(COLUMNS + 1).map_err(failed)?);
        }
        Ok(places.len() < limit)
    })?;
    let mut delete = connection.prepare_cached("DELETE FROM landfall_keys WHERE id = ?").map_err(failed)?;
    for place in &places {
        delete.execute([place]).map_err(failed)?;
    }
    Ok(places.len())
}
