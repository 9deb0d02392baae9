//! The table in which apps leave changes with plain SQL, and reading it.
//!
//! A row there was written by nobody who knows our types, so everything in it is input. One that is no change is kept with
//! the reason, and stands in nobody's way. Tests: `tests/outbox.rs`.

use crate::codec::{bound, each_row};
use crate::error::failed;
use crate::identities::Owner;
use landfall_core::change::{Change, DependsOn, Operation};
use landfall_core::entity::{Base, Body};
use landfall_core::id::{EntityKey, TaskId, Version};
use landfall_core::store::{Incoming, StoreError};
use landfall_core::task::Orphaned;
use landfall_core::time::Timestamp;
use landfall_core::value::Fields;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use serde::Deserialize;
use std::collections::BTreeSet;

/// SQL for an app whose database is opened by another library than ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sql {
    /// Makes the table `landfall_inbox` if it is not there. To be run once, as a migration of the app's.
    pub table: &'static str,
    /// Leaves one change, within the app's transaction. Its parameters: `:entity_type`, `:entity_id`, `:operation`; and,
    /// each of which may be NULL, `:action` (the name of a command), `:fields` (JSON object), `:unset` (JSON array of
    /// names), `:options` (JSON object: `priority`, `not_before`, `expires_at`, `lane`, `schema`, `depends_on`, `orphaned`,
    /// `group`, `dedup_key`, `tags`, `unmetered_only`, `at_most_once`, `base`), `:identity`, `:enqueued_at` (milliseconds
    /// since 1970, for people).
    pub insert: &'static str,
    /// The rows that were refused, with the reason. They stay until the app deletes them.
    pub refused: &'static str,
}

/// The statements. They run on any SQLite since 3.8.
pub const fn sql() -> Sql {
    Sql { table: TABLE, insert: INSERT, refused: REFUSED }
}

pub(crate) const TABLE: &str = "\
CREATE TABLE IF NOT EXISTS landfall_inbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    entity_type TEXT NOT NULL,
    entity_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    action TEXT,
    fields TEXT,
    unset TEXT,
    options TEXT,
    identity TEXT,
    enqueued_at INTEGER,
    refused TEXT
);
CREATE INDEX IF NOT EXISTS landfall_inbox_waiting ON landfall_inbox (identity, id) WHERE refused IS NULL;
";

const INSERT: &str = "\
INSERT INTO landfall_inbox (entity_type, entity_id, operation, action, fields, unset, options, identity, enqueued_at)
VALUES (:entity_type, :entity_id, :operation, :action, :fields, :unset, :options, :identity, :enqueued_at)";

const REFUSED: &str = "\
SELECT id, entity_type, entity_id, operation, refused FROM landfall_inbox WHERE refused IS NOT NULL ORDER BY id";

/// The oldest changes that wait for this owner.
pub(crate) fn waiting(
    connection: &Connection,
    owner: Owner,
    limit: usize,
) -> Result<Vec<Incoming>, StoreError> {
    let sql = "SELECT id, entity_type, entity_id, operation, action, fields, unset, options FROM landfall_inbox \
               WHERE refused IS NULL AND identity IS (SELECT name FROM landfall_identities WHERE number = ?) \
               ORDER BY id LIMIT ?";
    let mut incoming = Vec::new();
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    each_row(&mut statement, (owner.number(), bound(limit)), |row| {
        let place: i64 = row.get(0).map_err(failed)?;
        incoming.push(Incoming { place: u64::from_ne_bytes(place.to_ne_bytes()), change: change(row) });
        Ok(true)
    })?;
    Ok(incoming)
}

pub(crate) fn remove(connection: &Connection, place: u64) -> Result<(), StoreError> {
    let sql = "DELETE FROM landfall_inbox WHERE id = ?";
    let place = i64::from_ne_bytes(place.to_ne_bytes());
    one(connection.prepare_cached(sql).map_err(failed)?.execute([place]).map_err(failed)?)
}

pub(crate) fn refuse(connection: &Connection, place: u64, why: &str) -> Result<(), StoreError> {
    let sql = "UPDATE landfall_inbox SET refused = ? WHERE id = ?";
    let place = i64::from_ne_bytes(place.to_ne_bytes());
    one(connection.prepare_cached(sql).map_err(failed)?.execute((why, place)).map_err(failed)?)
}

fn one(rows: usize) -> Result<(), StoreError> {
    if rows == 1 {
        Ok(())
    } else {
        Err(StoreError::Misuse("there is no change left at this place".to_string()))
    }
}

/// The change of a row, or why it is none.
fn change(row: &Row<'_>) -> Result<Change, String> {
    let must = |column, name| text(row, column, name)?.ok_or_else(|| format!("{name} is missing"));
    let entity = EntityKey::new(must(1, "entity_type")?, must(2, "entity_id")?);
    let word = must(3, "operation")?;
    let operation = Operation::parse(word).ok_or_else(|| format!("{word:?} is no operation"))?;
    let mut change = Change::of(operation, entity);
    change.intent.action = text(row, 4, "action")?.map(str::to_owned);
    if let Some(fields) = text(row, 5, "fields")? {
        change = change.fields(Fields::parse(fields).map_err(|error| format!("fields: {error}"))?);
    }
    if let Some(unset) = text(row, 6, "unset")? {
        let names: BTreeSet<String> =
            serde_json::from_str(unset).map_err(|error| format!("unset: {error}"))?;
        if let Some(name) = names.iter().find(|name| change.intent.fields.value(name).is_some()) {
            return Err(format!("{name:?} is both in fields and in unset"));
        }
        change = names.into_iter().fold(change, Change::unset);
    }
    if let Some(options) = text(row, 7, "options")? {
        let options: Options = serde_json::from_str(options).map_err(|error| format!("options: {error}"))?;
        change = options.onto(change)?;
    }
    Ok(change)
}

fn text<'r>(row: &'r Row<'_>, column: usize, name: &str) -> Result<Option<&'r str>, String> {
    match row.get_ref(column) {
        Ok(ValueRef::Null) => Ok(None),
        Ok(ValueRef::Text(text)) => {
            std::str::from_utf8(text).map(Some).map_err(|_| format!("{name} is not UTF-8"))
        }
        Ok(_) => Err(format!("{name} is not text")),
        Err(error) => Err(error.to_string()),
    }
}

/// The options of a change as JSON. A name that is not known is a mistake, and is said.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Options {
    priority: i32,
    not_before: Option<i64>,
    expires_at: Option<i64>,
    lane: Option<String>,
    schema: Option<u32>,
    depends_on: Vec<Dependency>,
    orphaned: Orphaned,
    group: Option<String>,
    dedup_key: Option<String>,
    tags: BTreeSet<String>,
    unmetered_only: bool,
    at_most_once: bool,
    base: Option<BaseOption>,
}

/// `["note", "n1"]`, or the id of a task.
#[derive(Deserialize)]
#[serde(untagged)]
enum Dependency {
    Record(String, String),
    Task(String),
}

/// What the backend last confirmed; without fields: that the record is deleted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BaseOption {
    fields: Option<Fields>,
    version: Option<String>,
    #[serde(default)]
    complete: bool,
}

impl Options {
    fn onto(self, mut change: Change) -> Result<Change, String> {
        let depends_on = self.depends_on.into_iter().map(|dependency| match dependency {
            Dependency::Record(kind, id) => Ok(DependsOn::Entity(EntityKey::new(kind, id))),
            Dependency::Task(id) => {
                TaskId::parse(&id).map(DependsOn::Task).map_err(|_| format!("{id:?} is not the id of a task"))
            }
        });
        let options = &mut change.options;
        options.depends_on = depends_on.collect::<Result<_, _>>()?;
        options.priority = self.priority;
        options.not_before = self.not_before.map(Timestamp);
        options.expires_at = self.expires_at.map(Timestamp);
        options.lane = self.lane;
        options.schema = self.schema;
        options.orphaned = self.orphaned;
        options.group = self.group;
        options.dedup_key = self.dedup_key;
        options.tags = self.tags;
        options.unmetered_only = self.unmetered_only;
        options.at_most_once = self.at_most_once;
        options.base = self.base.map(|base| Base {
            body: base.fields.map_or(Body::Deleted, Body::Live),
            version: base.version.map(Version),
            complete: base.complete,
        });
        Ok(change)
    }
}
