//! What is known of each record: base, local and staged state in one row.
//!
//! Most records have a local state that is the base's, to the byte; it is stored once. Rows of schema 1 have format 1,
//! those of schema 2 format 2: their checksums cover the columns that there were. Tests: the store suite, `tests/golden.rs`, and for the use of
//! indexes at the end of the file.

use crate::codec::{Table, body, body_cells, bound, each_row, first_row, sealed, unreadable, verify_first};
use crate::error::failed;
use crate::identities::Owner;
use landfall_core::entity::{Base, Body, RemoteEntity, StoredEntity};
use landfall_core::id::{EntityKey, Version};
use landfall_core::store::{EntityPage, StoreError};
use landfall_core::time::Hlc;
use rusqlite::{Connection, Params, Row, params_from_iter};

/// The format that is written: with `reading`, the staged state's time of change, and the owner.
const FORMAT: i64 = 3;

/// How many columns the checksum covers.
const COLUMNS: usize = 17;

/// How many it covers in a row of format 1.
const COLUMNS_OF_1: usize = 13;

/// How many it covers in a row of format 2.
const COLUMNS_OF_2: usize = 16;

/// The local state has the very fields of the base.
const AS_BASE: i64 = 3;

/// `SELECT` of a whole row, and whatever follows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT entity_type, entity_id, format, generation, base, base_complete, base_version, local, staged, ",
            "staged_version, base_fields, local_fields, staged_fields, reading, staged_ms, staged_count, owner, sum ",
            "FROM landfall_entities ",
            $rest
        )
    };
}

const ONE: &str = select!("WHERE owner = ?1 AND entity_type = ?2 AND entity_id = ?3");
const ALL: &str = select!("WHERE owner = ?1 ORDER BY entity_type, entity_id LIMIT ?2");
const ALL_AFTER: &str = select!(
    "WHERE owner = ?1 AND (entity_type, entity_id) > (?3, ?4) ORDER BY entity_type, entity_id LIMIT ?2"
);
const OF_TYPE: &str = select!("WHERE owner = ?1 AND entity_type = ?3 ORDER BY entity_id LIMIT ?2");
const OF_TYPE_AFTER: &str =
    select!("WHERE owner = ?1 AND entity_type = ?3 AND entity_id > ?4 ORDER BY entity_id LIMIT ?2");

pub(crate) fn read(
    connection: &Connection,
    owner: Owner,
    key: &EntityKey,
) -> Result<Option<StoredEntity>, StoreError> {
    let mut statement = connection.prepare_cached(ONE).map_err(failed)?;
    first_row(&mut statement, (owner.number(), &key.entity_type, &key.entity_id), |row| {
        let entity = decode(row, owner)?.ok_or_else(|| StoreError::Damaged(said_of(key)))?;
        if entity.key != *key {
            return Err(StoreError::Corrupt(format!("an index leads to the wrong record for {key}")));
        }
        Ok(entity)
    })
}

pub(crate) fn after(
    connection: &Connection,
    owner: Owner,
    entity_type: Option<&str>,
    after: Option<&EntityKey>,
    limit: usize,
) -> Result<EntityPage, StoreError> {
    let (of, limit) = (owner.number(), bound(limit));
    let fits = |key: &EntityKey| entity_type.is_none_or(|kind| key.entity_type == kind);
    match (entity_type, after) {
        (None, None) => page(connection, owner, ALL, (of, limit), after, fits),
        (None, Some(key)) => {
            page(connection, owner, ALL_AFTER, (of, limit, &key.entity_type, &key.entity_id), after, fits)
        }
        (Some(kind), Some(key)) if key.entity_type.as_str() > kind => Ok(EntityPage::default()),
        (Some(kind), Some(key)) if key.entity_type == kind => {
            page(connection, owner, OF_TYPE_AFTER, (of, limit, kind, &key.entity_id), after, fits)
        }
        (Some(kind), _) => page(connection, owner, OF_TYPE, (of, limit, kind), after, fits),
    }
}

fn page(
    connection: &Connection,
    owner: Owner,
    sql: &str,
    params: impl Params,
    after: Option<&EntityKey>,
    fits: impl Fn(&EntityKey) -> bool,
) -> Result<EntityPage, StoreError> {
    let mut page = EntityPage::default();
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    each_row(&mut statement, params, |row| {
        // Whoever reads page by page must come forward, also over a damaged row.
        let key = key_of(row)?;
        if !fits(&key) || page.last.as_ref().or(after).is_some_and(|before| *before >= key) {
            return Err(StoreError::Corrupt(format!("an index leads to {key} wrongly")));
        }
        match decode(row, owner) {
            Ok(Some(entity)) => page.entities.push(entity),
            Ok(None) | Err(StoreError::Damaged(_)) => page.damaged.push(said_of(&key)),
            Err(other) => return Err(other),
        }
        page.last = Some(key);
        Ok(true)
    })?;
    Ok(page)
}

/// The name that an index found a row under.
fn key_of(row: &Row<'_>) -> Result<EntityKey, StoreError> {
    let text = |column: usize| row.get::<_, String>(column).map_err(failed);
    Ok(EntityKey::new(text(0)?, text(1)?))
}

fn said_of(key: &EntityKey) -> String {
    format!("the record {key}")
}

/// The record of a row; `None` when the row fails its checksum.
fn decode(row: &Row<'_>, owner: Owner) -> Result<Option<StoredEntity>, StoreError> {
    // Not verified yet, but no lie about it comes through: the checksums of every format cover it.
    let columns = match row.get_ref(2).map_err(failed)?.as_i64() {
        Ok(1) => COLUMNS_OF_1,
        Ok(2) => COLUMNS_OF_2,
        _ => COLUMNS,
    };
    let Some(row) = verify_first(Table::Entity, row, columns, COLUMNS)? else { return Ok(None) };
    let key = row.entity_key(0)?;
    let version = |column| Ok::<_, StoreError>(row.maybe_text(column)?.map(Version::from));
    let base = match body(&row, 4, 10)? {
        Some(body) => Some(Base { body, version: version(6)?, complete: row.int(5)? == 1 }),
        None => None,
    };
    let local = match row.int(7)? {
        AS_BASE => base.as_ref().map(|base| base.body.clone()),
        _ => body(&row, 7, 11)?,
    };
    let of = if row.int(2)? == FORMAT { row.int(16)? } else { Owner::NAMELESS.number() };
    if of != owner.number() {
        return Ok(None);
    }
    let (reading, changed_at) = match row.int(2)? {
        1 => (0, None),
        2 | FORMAT if row.is_null(14) => (row.bits(13)?, None),
        2 | FORMAT => (row.bits(13)?, Some(Hlc { wall_ms: row.int(14)?, counter: row.small(15)? })),
        _ => return Err(unreadable(2)),
    };
    let staged = match body(&row, 8, 12)? {
        Some(body) => Some(RemoteEntity { key: key.clone(), body, version: version(9)?, changed_at }),
        None => None,
    };
    Ok(Some(StoredEntity { key, generation: row.bits(3)?, base, local, staged, reading }))
}

pub(crate) fn put(connection: &Connection, owner: Owner, entity: &StoredEntity) -> Result<(), StoreError> {
    if entity.staged.as_ref().is_some_and(|staged| staged.key != entity.key) {
        return Err(StoreError::Misuse("the staged state is that of another record".to_string()));
    }
    let sql = "INSERT INTO landfall_entities (entity_type, entity_id, format, generation, base, base_complete, \
               base_version, local, staged, staged_version, base_fields, local_fields, staged_fields, reading, \
               staged_ms, staged_count, owner, sum) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18) \
               ON CONFLICT (owner, entity_type, entity_id) DO UPDATE SET format = ?3, generation = ?4, base = ?5, \
               base_complete = ?6, base_version = ?7, local = ?8, staged = ?9, staged_version = ?10, \
               base_fields = ?11, local_fields = ?12, staged_fields = ?13, reading = ?14, staged_ms = ?15, \
               staged_count = ?16, sum = ?18";
    let (base, base_fields) = body_cells(entity.base.as_ref().map(|base| &base.body));
    let (local, local_fields) = match (&entity.local, entity.base.as_ref().map(|base| &base.body)) {
        // Numbers that are equal may be written in two ways, and what was written must come back.
        (Some(Body::Live(local)), Some(Body::Live(base))) if local.is_written_like(base) => (AS_BASE, None),
        (local, _) => body_cells(local.as_ref()),
    };
    let (staged, staged_fields) = body_cells(entity.staged.as_ref().map(|staged| &staged.body));
    let changed_at = entity.staged.as_ref().and_then(|staged| staged.changed_at);
    let version = |version: Option<&Version>| version.map(|version| version.0.clone());
    let cells = sealed::<COLUMNS>(
        Table::Entity,
        [
            entity.key.entity_type.as_str().into(),
            entity.key.entity_id.as_str().into(),
            FORMAT.into(),
            entity.generation.into(),
            base.into(),
            entity.base.as_ref().map(|base| i64::from(base.complete)).into(),
            version(entity.base.as_ref().and_then(|base| base.version.as_ref())).into(),
            local.into(),
            staged.into(),
            version(entity.staged.as_ref().and_then(|staged| staged.version.as_ref())).into(),
            base_fields.into(),
            local_fields.into(),
            staged_fields.into(),
            entity.reading.into(),
            changed_at.map(|at| at.wall_ms).into(),
            changed_at.map(|at| at.counter).into(),
            owner.into(),
        ],
    );
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(params_from_iter(cells)).map_err(failed)?;
    Ok(())
}

/// Forgets what is known of a record.
pub(crate) fn remove(connection: &Connection, owner: Owner, key: &EntityKey) -> Result<(), StoreError> {
    let sql = "DELETE FROM landfall_entities WHERE owner = ? AND entity_type = ? AND entity_id = ?";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute((owner.number(), &key.entity_type, &key.entity_id)).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::tests::{plan_of, store_in_memory};

    #[test]
    fn no_question_walks_over_what_was_not_asked_for() {
        let connection = store_in_memory();
        let index = "landfall_entities USING INDEX landfall_entities_key";
        for (sql, expected) in [
            (ONE, format!("SEARCH {index} (owner=? AND entity_type=? AND entity_id=?)")),
            (ALL, format!("SEARCH {index} (owner=?)")),
            (ALL_AFTER, format!("SEARCH {index} (owner=? AND (entity_type,entity_id)>(?,?))")),
            (OF_TYPE, format!("SEARCH {index} (owner=? AND entity_type=?)")),
            (OF_TYPE_AFTER, format!("SEARCH {index} (owner=? AND entity_type=? AND entity_id>?)")),
        ] {
            assert_eq!(plan_of(&connection, sql), expected, "{sql}");
        }
    }
}
