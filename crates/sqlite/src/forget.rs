//! Forgetting the records of one identity: everything that came from the backend, and nothing that is to be sent.
//!
//! Tests: the store suite.

use crate::codec::{bound, first_row};
use crate::error::failed;
use crate::identities::Owner;
use crate::meta;
use landfall_core::store::StoreError;
use rusqlite::Connection;

/// How to delete some of a table, and how to see whether anything is left of it.
const TABLES: [(&str, &str); 4] = [
    (
        "DELETE FROM landfall_entities WHERE id IN (SELECT id FROM landfall_entities WHERE owner = ? LIMIT ?)",
        "SELECT 1 FROM landfall_entities WHERE owner = ? LIMIT 1",
    ),
    (
        "DELETE FROM landfall_conflicts WHERE id IN (SELECT id FROM landfall_conflicts WHERE owner = ? LIMIT ?)",
        "SELECT 1 FROM landfall_conflicts WHERE owner = ? LIMIT 1",
    ),
    (
        "DELETE FROM landfall_server_ids WHERE id IN (SELECT id FROM landfall_server_ids WHERE owner = ? LIMIT ?)",
        "SELECT 1 FROM landfall_server_ids WHERE owner = ? LIMIT 1",
    ),
    (
        "DELETE FROM landfall_quarantined WHERE id IN (SELECT id FROM landfall_quarantined WHERE owner = ? LIMIT ?)",
        "SELECT 1 FROM landfall_quarantined WHERE owner = ? LIMIT 1",
    ),
];

/// Deletes up to `limit` rows, damaged ones too, and how far the feed was read when none is left.
pub(crate) fn records(connection: &Connection, owner: Owner, limit: usize) -> Result<usize, StoreError> {
    let mut left = limit;
    for (delete, _) in TABLES {
        let mut statement = connection.prepare_cached(delete).map_err(failed)?;
        left -= statement.execute((owner.number(), bound(left))).map_err(failed)?;
    }
    for (_, any) in TABLES {
        let mut statement = connection.prepare_cached(any).map_err(failed)?;
        if first_row(&mut statement, [owner.number()], |_| Ok(()))?.is_some() {
            return Ok(limit - left);
        }
    }
    meta::remove_fact(connection, &owner.fact(meta::PULL))?;
    Ok(limit - left)
}
