//! What the backend calls records that the app named otherwise.
//!
//! Tests: the store suite, `tests/damage.rs`.

use crate::codec::{FORMAT, Table, Verified, first_row, sealed, verify};
use crate::error::{failed, is_constraint};
use crate::identities::Owner;
use landfall_core::id::EntityKey;
use landfall_core::store::StoreError;
use rusqlite::{Connection, Params, Row, params_from_iter};

/// How many columns the checksum covers.
const COLUMNS: usize = 5;

/// `SELECT` of a whole row, and whatever follows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT owner, entity_type, entity_id, server_id, format, sum FROM landfall_server_ids ",
            $rest
        )
    };
}

/// The backend's id of a record.
pub(crate) fn of_record(
    connection: &Connection,
    owner: Owner,
    key: &EntityKey,
) -> Result<Option<String>, StoreError> {
    let sql = select!("WHERE owner = ? AND entity_type = ? AND entity_id = ?");
    let params = (owner.number(), &key.entity_type, &key.entity_id);
    let found = one(connection, sql, params, owner, key, 2)?;
    Ok(found.map(|(_, server_id)| server_id))
}

/// The app's id of the record that the backend calls `key`.
pub(crate) fn of_server(
    connection: &Connection,
    owner: Owner,
    key: &EntityKey,
) -> Result<Option<String>, StoreError> {
    let sql = select!("WHERE owner = ? AND entity_type = ? AND server_id = ?");
    let params = (owner.number(), &key.entity_type, &key.entity_id);
    let found = one(connection, sql, params, owner, key, 3)?;
    Ok(found.map(|(entity_id, _)| entity_id))
}

/// Both ids of a row, which was asked for with `key` in the column `asked`.
fn one(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    owner: Owner,
    key: &EntityKey,
    asked: usize,
) -> Result<Option<(String, String)>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    first_row(&mut statement, params, |row: &Row<'_>| {
        let damage = || StoreError::Damaged(format!("the backend's id of the record {key}"));
        let row: Verified<'_> = verify(Table::ServerId, row, COLUMNS)?.ok_or_else(damage)?;
        let fits = row.int(0)? == owner.number()
            && row.text(1)? == key.entity_type
            && row.text(asked)? == key.entity_id;
        if !fits {
            return Err(StoreError::Corrupt(format!("an index leads to the wrong id for {key}")));
        }
        Ok((row.text(2)?.to_owned(), row.text(3)?.to_owned()))
    })
}

/// Whether there is any.
pub(crate) fn any(connection: &Connection, owner: Owner) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM landfall_server_ids WHERE owner = ? LIMIT 1";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    Ok(first_row(&mut statement, [owner.number()], |_| Ok(()))?.is_some())
}

pub(crate) fn put(
    connection: &Connection,
    owner: Owner,
    key: &EntityKey,
    server_id: &str,
) -> Result<(), StoreError> {
    match of_record(connection, owner, key)? {
        Some(known) if known == server_id => return Ok(()),
        Some(_) => return Err(StoreError::Misuse("the record has another id of the backend".to_string())),
        None => {}
    }
    let sql = "INSERT INTO landfall_server_ids (owner, entity_type, entity_id, server_id, format, sum) \
               VALUES (?, ?, ?, ?, ?, ?)";
    let row = [
        owner.into(),
        key.entity_type.as_str().into(),
        key.entity_id.as_str().into(),
        server_id.into(),
        FORMAT.into(),
    ];
    let cells = sealed::<COLUMNS>(Table::ServerId, row);
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    match statement.execute(params_from_iter(cells)) {
        Ok(_) => Ok(()),
        Err(error) if is_constraint(&error) => {
            Err(StoreError::Misuse("the backend's id is that of another record".to_string()))
        }
        Err(error) => Err(failed(error)),
    }
}
