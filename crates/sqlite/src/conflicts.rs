//! What conflicts were about and how they ended, in the order in which they were first kept.
//!
//! The record is one JSON text; what is asked for stands beside it, under the same checksum. Open ones have indexes of
//! their own, because they are few and asked for often. Tests: the store suite, `tests/damage.rs`, and for the use of
//! indexes at the end of the file.

use crate::codec::{Cell, Table, Verified, each_row, first_row, sealed, unreadable, verify_first};
use crate::error::failed;
use crate::identities::Owner;
use landfall_core::conflict::ConflictRecord;
use landfall_core::id::{ConflictId, EntityKey};
use landfall_core::store::{ConflictPage, ConflictQuery, StoreError};
use landfall_core::time::Timestamp;
use rusqlite::{Connection, Params, Row, params_from_iter};
use uuid::Uuid;

/// The format that is written: with the owner. Format 1 was that of schema 1, in columns.
const FORMAT: i64 = 3;

/// How many columns the checksum covers.
const COLUMNS: usize = 9;

/// How many it covers in a row of format 2.
const COLUMNS_OF_2: usize = 8;

/// `SELECT` of a whole row with its place behind it, and whatever follows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT conflict_id, task_id, entity_type, entity_id, at, open, format, record, owner, sum, id ",
            "FROM landfall_conflicts ",
            $rest
        )
    };
}

const ONE: &str = select!("WHERE owner = ?1 AND conflict_id = ?2");
const PLACE: &str = "SELECT id FROM landfall_conflicts WHERE owner = ?1 AND conflict_id = ?2";
/// Left to itself SQLite walks over the rows of every owner, here and below.
const ALL: &str =
    select!("INDEXED BY landfall_conflicts_owner WHERE owner = ?1 AND id <= ?2 ORDER BY id DESC");
const OPEN: &str =
    select!("INDEXED BY landfall_conflicts_open WHERE open = 1 AND owner = ?1 AND id <= ?2 ORDER BY id DESC");
const OF_ENTITY: &str =
    select!("WHERE owner = ?1 AND entity_type = ?3 AND entity_id = ?4 AND id <= ?2 ORDER BY id DESC");
/// Left to itself SQLite walks over the open ones of every record.
const OPEN_OF_ENTITY: &str = select!(
    "INDEXED BY landfall_conflicts_open_entity \
     WHERE open = 1 AND owner = ?1 AND entity_type = ?3 AND entity_id = ?4 AND id <= ?2 ORDER BY id DESC"
);
const SETTLED: &str = select!("WHERE open = 0 AND owner = ?1 AND at < ?2 ORDER BY at");

pub(crate) fn by_id(
    connection: &Connection,
    owner: Owner,
    id: ConflictId,
) -> Result<Option<ConflictRecord>, StoreError> {
    let mut statement = connection.prepare_cached(ONE).map_err(failed)?;
    match first_row(&mut statement, (owner.number(), id.0.as_bytes()), |row| read(row, owner))? {
        None => Ok(None),
        Some(Ok(record)) => must(record.id == id, record).map(Some),
        Some(Err(what)) => Err(StoreError::Damaged(what)),
    }
}

pub(crate) fn page(
    connection: &Connection,
    owner: Owner,
    which: &ConflictQuery,
    limit: usize,
) -> Result<ConflictPage, StoreError> {
    let last = match which.before {
        None => i64::MAX,
        Some(before) => match place_of(connection, owner, before)? {
            Some(place) => place.saturating_sub(1),
            None => return Ok(ConflictPage::default()),
        },
    };
    match (&which.entity, which.open_only) {
        (None, open_only) => {
            let sql = if open_only { OPEN } else { ALL };
            read_page(connection, owner, sql, (owner.number(), last), which, limit)
        }
        (Some(EntityKey { entity_type, entity_id }), open_only) => {
            let sql = if open_only { OPEN_OF_ENTITY } else { OF_ENTITY };
            read_page(connection, owner, sql, (owner.number(), last, entity_type, entity_id), which, limit)
        }
    }
}

fn read_page(
    connection: &Connection,
    owner: Owner,
    sql: &str,
    params: impl Params,
    which: &ConflictQuery,
    limit: usize,
) -> Result<ConflictPage, StoreError> {
    let mut page = ConflictPage::default();
    if limit == 0 {
        return Ok(page);
    }
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    each_row(&mut statement, params, |row| {
        match read(row, owner)? {
            Ok(record) => {
                let fits = (!which.open_only || record.is_open())
                    && which.entity.as_ref().is_none_or(|key| record.entity == *key);
                page.conflicts.push(must(fits, record)?);
            }
            Err(what) => page.damaged.push(what),
        }
        Ok(page.conflicts.len() < limit)
    })?;
    Ok(page)
}

fn place_of(connection: &Connection, owner: Owner, id: ConflictId) -> Result<Option<i64>, StoreError> {
    let mut statement = connection.prepare_cached(PLACE).map_err(failed)?;
    first_row(&mut statement, (owner.number(), id.0.as_bytes()), |row| row.get(0).map_err(failed))
}

/// The conflict of a row, or what can be said of a damaged one.
fn read(row: &Row<'_>, owner: Owner) -> Result<Result<ConflictRecord, String>, StoreError> {
    match decode(row, owner) {
        Ok(Some(record)) => Ok(Ok(record)),
        Ok(None) | Err(StoreError::Damaged(_)) => {
            let name = row.get_ref(0).ok().and_then(|name| Uuid::from_slice(name.as_blob().ok()?).ok());
            Ok(Err(match name {
                Some(name) => format!("the conflict {name}"),
                None => format!("the conflict at place {}", row.get::<_, i64>(COLUMNS + 1).map_err(failed)?),
            }))
        }
        Err(other) => Err(other),
    }
}

/// `None` when the row fails its checksum.
fn decode(row: &Row<'_>, owner: Owner) -> Result<Option<ConflictRecord>, StoreError> {
    let Some(row) = whole(row)? else { return Ok(None) };
    let of = match row.int(6)? {
        2 => Owner::NAMELESS.number(),
        FORMAT => row.int(8)?,
        _ => return Err(unreadable(6)),
    };
    let record: ConflictRecord = row.json_around_values(7)?;
    let agrees = *record.id.0.as_bytes() == row.blob(0)?
        && record.task_id == row.task_id(1)?
        && record.entity == row.entity_key(2)?
        && record.at.0 == row.int(4)?
        && i64::from(record.is_open()) == row.int(5)?
        && of == owner.number();
    if agrees { Ok(Some(record)) } else { Err(unreadable(7)) }
}

/// The row, if its checksum holds: that of its format.
fn whole<'r>(row: &'r Row<'r>) -> Result<Option<Verified<'r>>, StoreError> {
    let columns = match row.get_ref(6).map_err(failed)?.as_i64() {
        Ok(2) => COLUMNS_OF_2,
        _ => COLUMNS,
    };
    verify_first(Table::Conflict, row, columns, COLUMNS)
}

/// What a conflict must be to answer a question. A row can be whole while an index that leads to it is not.
fn must(fits: bool, record: ConflictRecord) -> Result<ConflictRecord, StoreError> {
    if fits {
        Ok(record)
    } else {
        Err(StoreError::Corrupt(format!("an index leads to the conflict {} wrongly", record.id)))
    }
}

pub(crate) fn put(
    connection: &Connection,
    owner: Owner,
    conflict: &ConflictRecord,
) -> Result<(), StoreError> {
    if conflict.remote.as_ref().is_some_and(|remote| remote.key != conflict.entity) {
        return Err(StoreError::Misuse("the remote state is that of another record".to_string()));
    }
    // Over a damaged one anything may be written: what it was of cannot be believed.
    let mut statement = connection.prepare_cached(ONE).map_err(failed)?;
    if let Some(Ok(old)) =
        first_row(&mut statement, (owner.number(), conflict.id.0.as_bytes()), |row| read(row, owner))?
    {
        if must(old.id == conflict.id, old)?.entity != conflict.entity {
            return Err(StoreError::Misuse("a conflict does not move to another record".to_string()));
        }
    }
    let record = serde_json::to_string(conflict).map_err(|error| StoreError::Misuse(error.to_string()))?;
    let row = Columns {
        id: conflict.id.0.as_bytes(),
        task_id: conflict.task_id.0.as_bytes(),
        entity: &conflict.entity,
        at: conflict.at,
        open: conflict.is_open(),
        record: &record,
        owner,
    };
    write(connection, row.sealed())
}

/// Keeps what is left of a conflict that was damaged when the file still had schema 1, as a damaged row.
pub(crate) fn put_damaged(connection: &Connection, row: &Columns<'_>) -> Result<(), StoreError> {
    let mut cells = row.sealed();
    if let Some(Cell::Int(sum)) = cells.last_mut() {
        *sum = !*sum;
    }
    write(connection, cells)
}

/// A row on its way into the table.
pub(crate) struct Columns<'a> {
    pub(crate) id: &'a [u8; 16],
    pub(crate) task_id: &'a [u8; 16],
    pub(crate) entity: &'a EntityKey,
    pub(crate) at: Timestamp,
    pub(crate) open: bool,
    pub(crate) record: &'a str,
    pub(crate) owner: Owner,
}

impl<'a> Columns<'a> {
    fn sealed(&self) -> Vec<Cell<'a>> {
        sealed::<COLUMNS>(
            Table::Conflict,
            [
                self.id.into(),
                self.task_id.into(),
                self.entity.entity_type.as_str().into(),
                self.entity.entity_id.as_str().into(),
                self.at.0.into(),
                i64::from(self.open).into(),
                FORMAT.into(),
                self.record.into(),
                self.owner.into(),
            ],
        )
    }
}

fn write(connection: &Connection, cells: Vec<Cell<'_>>) -> Result<(), StoreError> {
    let sql = "INSERT INTO landfall_conflicts \
               (conflict_id, task_id, entity_type, entity_id, at, open, format, record, owner, sum) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
               ON CONFLICT (owner, conflict_id) DO UPDATE SET task_id = ?2, entity_type = ?3, entity_id = ?4, at = ?5, \
               open = ?6, format = ?7, record = ?8, sum = ?10";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(params_from_iter(cells)).map_err(failed)?;
    Ok(())
}

/// Removes settled conflicts. Each is looked at first: of a damaged row nobody knows whether it is settled.
pub(crate) fn prune(
    connection: &Connection,
    owner: Owner,
    before: Timestamp,
    limit: usize,
) -> Result<usize, StoreError> {
    let mut places: Vec<i64> = Vec::new();
    if limit == 0 {
        return Ok(0);
    }
    let mut statement = connection.prepare_cached(SETTLED).map_err(failed)?;
    each_row(&mut statement, (owner.number(), before.0), |row| {
        if whole(row)?.is_some() {
            places.push(row.get(COLUMNS + 1).map_err(failed)?);
        }
        Ok(places.len() < limit)
    })?;
    let mut delete =
        connection.prepare_cached("DELETE FROM landfall_conflicts WHERE id = ?").map_err(failed)?;
    for place in &places {
        delete.execute([place]).map_err(failed)?;
    }
    Ok(places.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::tests::{plan_of, store_in_memory};

    #[test]
    fn no_question_walks_over_what_was_not_asked_for() {
        let connection = store_in_memory();
        for (sql, expected) in [
            (ONE, "USING INDEX landfall_conflicts_name (owner=? AND conflict_id=?)"),
            (PLACE, "USING COVERING INDEX landfall_conflicts_name (owner=? AND conflict_id=?)"),
            (ALL, "USING INDEX landfall_conflicts_owner (owner=? AND rowid<?)"),
            (OPEN, "USING INDEX landfall_conflicts_open (owner=? AND rowid<?)"),
            (
                OF_ENTITY,
                "USING INDEX landfall_conflicts_entity (owner=? AND entity_type=? AND entity_id=? AND rowid<?)",
            ),
            (
                OPEN_OF_ENTITY,
                "USING INDEX landfall_conflicts_open_entity (owner=? AND entity_type=? AND entity_id=? AND rowid<?)",
            ),
            (SETTLED, "USING INDEX landfall_conflicts_settled (owner=? AND at<?)"),
        ] {
            assert_eq!(plan_of(&connection, sql), format!("SEARCH landfall_conflicts {expected}"), "{sql}");
        }
    }
}
