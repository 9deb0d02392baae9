//! Which record is a row of which of our tables, and whether it is what was written.
//!
//! A record is believed for one reason only: the checksum that it carries fits. That holds wherever it was found.
//! Columns were only ever added at the end of a table, so a record of an older schema is one of the newest whose last
//! columns have their defaults. Tests: `tests/rescue.rs`, which fails when a table is not listed here as it is written.

use super::pages::{Row, Value};
use crate::codec::{self, Table};
use crate::error::failed;
use landfall_core::store::StoreError;
use rusqlite::{Connection, params_from_iter};

/// What is known of one table.
struct Shape {
    table: Table,
    name: &'static str,
    /// The columns that the checksum covers, in its order, as far as the newest format goes.
    covered: &'static str,
    /// Each format, and how many of those columns it covers.
    formats: &'static [(i64, usize)],
    /// The index that has every row of the table, and ends with SQLite's own number of it.
    index: Option<&'static str>,
}

const SHAPES: [Shape; 9] = [
    Shape {
        table: Table::Task,
        name: "landfall_tasks",
        covered: "seq state claim_at priority task_id entity_type entity_id lane format generation operation schema \
                  not_before changed_ms changed_count enqueued_at retry_at fence why attempts conflict_rounds \
                  last_failure fields unset key payload fingerprint base_version open_sends sends terms grp lapses_at \
                  held passed_over cancelling action",
        formats: &[(2, 37), (1, 30)],
        index: Some("landfall_tasks_id"),
    },
    Shape {
        table: Table::Entity,
        name: "landfall_entities",
        covered: "entity_type entity_id format generation base base_complete base_version local staged staged_version \
                  base_fields local_fields staged_fields reading staged_ms staged_count owner",
        formats: &[(3, 17), (2, 16), (1, 13)],
        index: Some("landfall_entities_key"),
    },
    Shape {
        table: Table::Journal,
        name: "landfall_journal",
        covered: "task_id format entity_type entity_id generation verdict version at payload became owner",
        formats: &[(2, 11), (1, 9)],
        index: Some("landfall_journal_task"),
    },
    Shape {
        table: Table::Conflict,
        name: "landfall_conflicts",
        covered: "conflict_id task_id entity_type entity_id at open format record owner",
        formats: &[(3, 9), (2, 8)],
        index: Some("landfall_conflicts_name"),
    },
    Shape {
        table: Table::Fact,
        name: "landfall_facts",
        covered: "name format value",
        formats: &[(1, 3)],
        index: None,
    },
    Shape {
        table: Table::Quarantined,
        name: "landfall_quarantined",
        covered: "at format reason owner",
        formats: &[(2, 4), (1, 3)],
        index: None,
    },
    Shape {
        table: Table::ServerId,
        name: "landfall_server_ids",
        covered: "owner entity_type entity_id server_id format",
        formats: &[(1, 5)],
        index: Some("landfall_server_ids_local"),
    },
    Shape {
        table: Table::Key,
        name: "landfall_keys",
        covered: "owner key task_id at format",
        formats: &[(1, 5)],
        index: Some("landfall_keys_key"),
    },
    Shape {
        table: Table::Identity,
        name: "landfall_identities",
        covered: "number name format",
        formats: &[(1, 3)],
        index: None,
    },
];

/// One of our tables as the newest schema has it.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) table: Table,
    pub(super) name: &'static str,
    pub(super) index: Option<&'static str>,
    columns: Vec<String>,
    /// What a record that is older than a column has in it.
    defaults: Vec<Value>,
    /// The column that is SQLite's own number of the row, and is not in the record.
    number: Option<usize>,
    covered: Vec<usize>,
    formats: &'static [(i64, usize)],
    format: usize,
    sum: usize,
    insert: String,
}

impl Kind {
    /// All of them, from a store of the newest schema.
    pub(super) fn all(connection: &Connection) -> Result<Vec<Self>, StoreError> {
        SHAPES.iter().map(|shape| Self::of(shape, connection)).collect()
    }

    fn of(shape: &Shape, connection: &Connection) -> Result<Self, StoreError> {
        let sql = "SELECT name, dflt_value, pk, type FROM pragma_table_info(?)";
        let mut statement = connection.prepare(sql).map_err(failed)?;
        let (mut columns, mut defaults, mut number) = (Vec::new(), Vec::new(), None);
        codec::each_row(&mut statement, [shape.name], |row| {
            let default: Option<String> = row.get(1).map_err(failed)?;
            let is_number = row.get::<_, i64>(2).map_err(failed)? == 1
                && row.get::<_, String>(3).map_err(failed)? == "INTEGER";
            if is_number {
                number = Some(columns.len());
            }
            columns.push(row.get::<_, String>(0).map_err(failed)?);
            defaults.push(default.and_then(|text| text.parse().ok()).map_or(Value::Null, Value::Int));
            Ok(true)
        })?;
        let place = |name: &str| {
            let place = columns.iter().position(|column| column == name);
            place.ok_or_else(|| StoreError::Misuse(format!("{} has no column {name}", shape.name)))
        };
        let covered: Vec<usize> = shape.covered.split_whitespace().map(place).collect::<Result<_, _>>()?;
        let (format, sum) = (place("format")?, place("sum")?);
        let marks = vec!["?"; columns.len()].join(", ");
        let insert =
            format!("INSERT OR IGNORE INTO {} ({}) VALUES ({marks})", shape.name, columns.join(", "));
        Ok(Self {
            table: shape.table,
            name: shape.name,
            index: shape.index,
            columns,
            defaults,
            number,
            covered,
            formats: shape.formats,
            format,
            sum,
            insert,
        })
    }

    /// Whether a record with so many values can be a row of it.
    pub(super) fn may_have(&self, values: usize) -> bool {
        (self.sum + 1..=self.columns.len()).contains(&values)
    }

    /// Whether it is stored as an index is.
    pub(super) fn is_keyed(&self) -> bool {
        matches!(self.table, Table::Fact)
    }

    /// The whole row, if its checksum fits.
    pub(super) fn verified(&self, row: &Row) -> Option<Vec<Value>> {
        if !self.may_have(row.values.len()) {
            return None;
        }
        let mut values = row.values.clone();
        values.extend_from_slice(&self.defaults[values.len()..]);
        if let Some(number) = self.number {
            values[number] = Value::Int(row.id);
        }
        let told = values[self.format].int()?;
        let (_, covers) = self.formats.iter().find(|(format, _)| *format == told)?;
        let covered = self.covered[..*covers].iter().map(|column| values[*column].as_ref());
        (values[self.sum].int()? == codec::checksum(self.table, covered)).then_some(values)
    }

    /// The value of a column.
    pub(super) fn get<'v>(&self, values: &'v [Value], name: &str) -> &'v Value {
        let place = self.columns.iter().position(|column| column == name);
        place.and_then(|place| values.get(place)).unwrap_or(&Value::Null)
    }

    /// What can be said of a record that failed its checksum: it may be wrong.
    pub(super) fn said_of(&self, row: &Row) -> Option<String> {
        let text = |name: &str| {
            let text = self.get(&row.values, name).text()?;
            (text.len() < 200 && !text.chars().any(char::is_control)).then_some(text)
        };
        Some(format!("{} {}", text("entity_type")?, text("entity_id")?))
    }

    /// Copies a row as it is, checksum and all; `false` when another with its name is there already.
    pub(super) fn put(&self, connection: &Connection, values: &[Value]) -> Result<bool, StoreError> {
        let mut statement = connection.prepare_cached(&self.insert).map_err(failed)?;
        let values = values.iter().map(|value| rusqlite::types::ToSqlOutput::Borrowed(value.as_ref()));
        statement.execute(params_from_iter(values)).map(|rows| rows == 1).map_err(failed)
    }
}
