//! What stays when work is done: how tasks ended.
//!
//! Rows of format 1 have a checksum over the columns that there were in schema 2. Tests: the store suite,
//! `tests/golden.rs`, `tests/damage.rs`, and for the use of indexes at the end of the file.

use crate::codec::{Table, bound, each_row, first_row, sealed, task_id, unreadable, verify_first};
use crate::error::failed;
use crate::identities::Owner;
use landfall_core::id::{TaskId, Version};
use landfall_core::store::{JournalPage, StoreError};
use landfall_core::task::{JournalEntry, Verdict};
use landfall_core::time::Timestamp;
use rusqlite::{Connection, Params, Row, params_from_iter};

/// The format that is written: with the task that went on, and the owner.
const FORMAT: i64 = 2;

/// How many columns the checksum covers.
const COLUMNS: usize = 11;

/// How many it covers in a row of format 1.
const COLUMNS_OF_1: usize = 9;

/// `SELECT` of a whole row with its place behind it, and whatever follows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT task_id, format, entity_type, entity_id, generation, verdict, version, at, payload, became, owner, ",
            "sum, id FROM landfall_journal ",
            $rest
        )
    };
}

const ONE: &str = select!("WHERE owner = ?1 AND task_id = ?2");
const PLACE: &str = "SELECT at, id FROM landfall_journal WHERE owner = ?1 AND task_id = ?2";
const ALL: &str = select!("WHERE owner = ?1 ORDER BY at DESC, id DESC");
const BEFORE: &str =
    select!("WHERE owner = ?1 AND at <= ?2 AND (at < ?2 OR id < ?3) ORDER BY at DESC, id DESC");
const PRUNE: &str = "DELETE FROM landfall_journal WHERE id IN \
                     (SELECT id FROM landfall_journal WHERE owner = ? AND at < ? ORDER BY at LIMIT ?)";

pub(crate) fn entry(
    connection: &Connection,
    owner: Owner,
    id: TaskId,
) -> Result<Option<JournalEntry>, StoreError> {
    let mut statement = connection.prepare_cached(ONE).map_err(failed)?;
    first_row(&mut statement, (owner.number(), id.0.as_bytes()), |row| {
        let entry = decode(row, owner)?.ok_or_else(|| damage(id))?;
        if entry.task_id != id {
            return Err(StoreError::Corrupt(format!("an index leads to the wrong journal entry for {id}")));
        }
        Ok(entry)
    })
}

fn damage(id: TaskId) -> StoreError {
    StoreError::Damaged(format!("the journal entry of task {id}"))
}

pub(crate) fn newest(
    connection: &Connection,
    owner: Owner,
    before: Option<TaskId>,
    limit: usize,
) -> Result<JournalPage, StoreError> {
    let Some(before) = before else { return page(connection, owner, ALL, [owner.number()], limit) };
    let mut statement = connection.prepare_cached(PLACE).map_err(failed)?;
    let place = first_row(&mut statement, (owner.number(), before.0.as_bytes()), |row| {
        Ok((row.get::<_, i64>(0).map_err(failed)?, row.get::<_, i64>(1).map_err(failed)?))
    })?;
    match place {
        None => Ok(JournalPage::default()),
        Some((at, id)) => page(connection, owner, BEFORE, (owner.number(), at, id), limit),
    }
}

fn page(
    connection: &Connection,
    owner: Owner,
    sql: &str,
    params: impl Params,
    limit: usize,
) -> Result<JournalPage, StoreError> {
    let mut page = JournalPage::default();
    if limit == 0 {
        return Ok(page);
    }
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    each_row(&mut statement, params, |row| {
        match decode(row, owner) {
            Ok(Some(entry)) => page.entries.push(entry),
            Ok(None) | Err(StoreError::Damaged(_)) => page.damaged.push(said_of(row)?),
            Err(other) => return Err(other),
        }
        Ok(page.entries.len() < limit)
    })?;
    Ok(page)
}

fn said_of(row: &Row<'_>) -> Result<String, StoreError> {
    let id = row.get_ref(0).map_err(failed)?.as_blob().ok().and_then(|id| id.try_into().ok());
    Ok(match id {
        Some(id) => format!("the journal entry of task {}", task_id(id)),
        None => format!("the journal entry at place {}", row.get::<_, i64>(COLUMNS + 1).map_err(failed)?),
    })
}

/// `None` when the row fails its checksum.
fn decode(row: &Row<'_>, owner: Owner) -> Result<Option<JournalEntry>, StoreError> {
    // Not verified yet, but no lie about it comes through: the checksums of both formats cover it.
    let columns = match row.get_ref(1).map_err(failed)?.as_i64() {
        Ok(1) => COLUMNS_OF_1,
        _ => COLUMNS,
    };
    let Some(row) = verify_first(Table::Journal, row, columns, COLUMNS)? else { return Ok(None) };
    let (became, of) = match row.int(1)? {
        1 => (None, Owner::NAMELESS.number()),
        FORMAT if row.is_null(9) => (None, row.int(10)?),
        FORMAT => (Some(row.task_id(9)?), row.int(10)?),
        _ => return Err(unreadable(1)),
    };
    if of != owner.number() {
        return Ok(None);
    }
    Ok(Some(JournalEntry {
        task_id: row.task_id(0)?,
        entity: row.entity_key(2)?,
        generation: row.bits(4)?,
        verdict: row.word(5, &Verdict::ALL, Verdict::as_str)?,
        version: row.maybe_text(6)?.map(Version::from),
        at: Timestamp(row.int(7)?),
        payload: row.text(8)?.into(),
        became,
    }))
}

pub(crate) fn put_entry(
    connection: &Connection,
    owner: Owner,
    entry: &JournalEntry,
) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO landfall_journal \
               (task_id, format, entity_type, entity_id, generation, verdict, version, at, payload, became, owner, \
               sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
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
            entry.became.as_ref().map(|task| task.0.as_bytes()).into(),
            owner.into(),
        ],
    );
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(params_from_iter(cells)).map_err(failed)?;
    Ok(())
}

pub(crate) fn prune(
    connection: &Connection,
    owner: Owner,
    before: Timestamp,
    limit: usize,
) -> Result<usize, StoreError> {
    let mut statement = connection.prepare_cached(PRUNE).map_err(failed)?;
    statement.execute((owner.number(), before.0, bound(limit))).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::tests::{plan_of, store_in_memory};

    #[test]
    fn no_question_walks_over_what_was_not_asked_for() {
        let connection = store_in_memory();
        for (sql, expected) in [
            (ONE, "USING INDEX landfall_journal_task (owner=? AND task_id=?)"),
            (PLACE, "USING INDEX landfall_journal_task (owner=? AND task_id=?)"),
            (ALL, "USING INDEX landfall_journal_at (owner=?)"),
            (BEFORE, "USING INDEX landfall_journal_at (owner=? AND at<?)"),
        ] {
            assert_eq!(plan_of(&connection, sql), format!("SEARCH landfall_journal {expected}"), "{sql}");
        }
        assert!(
            plan_of(&connection, PRUNE)
                .contains("USING COVERING INDEX landfall_journal_at (owner=? AND at<?)")
        );
    }
}
