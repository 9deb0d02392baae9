//! What is known of each record: base, local and staged state in one row.
//!
//! Most records have a local state that is the base's, to the byte; it is stored once. Tests: the store suite.

use crate::codec::{FORMAT, Table, body, body_cells, first_row, sealed, verify};
use crate::error::failed;
use landfall_core::entity::{Base, Body, RemoteEntity, StoredEntity};
use landfall_core::id::{EntityKey, Version};
use landfall_core::store::StoreError;
use rusqlite::{Connection, params_from_iter};

/// How many columns the checksum covers.
const COLUMNS: usize = 13;

/// The local state has the very fields of the base.
const AS_BASE: i64 = 3;

pub(crate) fn read(connection: &Connection, key: &EntityKey) -> Result<Option<StoredEntity>, StoreError> {
    let sql = "SELECT entity_type, entity_id, format, generation, base, base_complete, base_version, local, staged, \
               staged_version, base_fields, local_fields, staged_fields, sum \
               FROM landfall_entities WHERE entity_type = ? AND entity_id = ?";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    first_row(&mut statement, (&key.entity_type, &key.entity_id), |row| {
        let Some(row) = verify(Table::Entity, row, COLUMNS)? else {
            return Err(StoreError::Damaged(format!("the record {key}")));
        };
        if row.entity_key(0)? != *key {
            return Err(StoreError::Corrupt(format!("an index leads to the wrong record for {key}")));
        }
        let version = |column| Ok::<_, StoreError>(row.maybe_text(column)?.map(Version::from));
        let base = match body(&row, 4, 10)? {
            Some(body) => Some(Base { body, version: version(6)?, complete: row.int(5)? == 1 }),
            None => None,
        };
        let local = match row.int(7)? {
            AS_BASE => base.as_ref().map(|base| base.body.clone()),
            _ => body(&row, 7, 11)?,
        };
        let staged = match body(&row, 8, 12)? {
            Some(body) => Some(RemoteEntity { key: key.clone(), body, version: version(9)? }),
            None => None,
        };
        Ok(StoredEntity { key: key.clone(), generation: row.bits(3)?, base, local, staged })
    })
}

pub(crate) fn put(connection: &Connection, entity: &StoredEntity) -> Result<(), StoreError> {
    if entity.staged.as_ref().is_some_and(|staged| staged.key != entity.key) {
        return Err(StoreError::Misuse("the staged state is that of another record".to_string()));
    }
    let sql = "INSERT INTO landfall_entities (entity_type, entity_id, format, generation, base, base_complete, \
               base_version, local, staged, staged_version, base_fields, local_fields, staged_fields, sum) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
               ON CONFLICT (entity_type, entity_id) DO UPDATE SET format = ?3, generation = ?4, base = ?5, \
               base_complete = ?6, base_version = ?7, local = ?8, staged = ?9, staged_version = ?10, \
               base_fields = ?11, local_fields = ?12, staged_fields = ?13, sum = ?14";
    let (base, base_fields) = body_cells(entity.base.as_ref().map(|base| &base.body));
    let (mut local, mut local_fields) = body_cells(entity.local.as_ref());
    // As text: numbers that are equal may be written in two ways, and what was written must come back.
    if matches!(entity.local, Some(Body::Live(_))) && local_fields == base_fields {
        (local, local_fields) = (AS_BASE, None);
    }
    let (staged, staged_fields) = body_cells(entity.staged.as_ref().map(|staged| &staged.body));
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
        ],
    );
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(params_from_iter(cells)).map_err(failed)?;
    Ok(())
}
