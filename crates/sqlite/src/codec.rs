//! The encoding of rows: cells that are written, the checksum over them, and reading them back.
//!
//! The checksum is computed over the very values that SQLite is given and gives back, so it needs to know nothing of
//! what they mean. No value of a row is looked at before the row's checksum was verified. Tests: at the end of the file;
//! `tests/golden.rs` reads the oldest rows; `tests/damage.rs` flips bits.

use crate::error::failed;
use landfall_core::entity::Body;
use landfall_core::id::{EntityKey, TaskId};
use landfall_core::store::StoreError;
use landfall_core::value::Fields;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Row, Rows, Statement};
use std::borrow::Cow;
use xxhash_rust::xxh3::xxh3_64;

/// The number of the first encoding. Rows whose encoding has changed since have a number of their own.
pub(crate) const FORMAT: i64 = 1;

/// Which table a checksum is for, so that a row cannot pass for one of another table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Table {
    Task = 1,
    Entity = 2,
    Journal = 3,
    /// Conflicts as schema 1 kept them; read once, when a file is brought to schema 2.
    ConflictOf1 = 4,
    Fact = 5,
    Conflict = 6,
    Quarantined = 7,
    ServerId = 8,
    Key = 9,
    Identity = 10,
}

/// One value on its way into a row.
#[derive(Debug)]
pub(crate) enum Cell<'a> {
    Null,
    Int(i64),
    Text(Cow<'a, str>),
    Blob(&'a [u8]),
}

impl Cell<'_> {
    fn as_value(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Int(n) => ValueRef::Integer(*n),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }
    }
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.as_value()))
    }
}

impl From<i64> for Cell<'_> {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

impl From<u32> for Cell<'_> {
    fn from(n: u32) -> Self {
        Self::Int(n.into())
    }
}

impl From<u64> for Cell<'_> {
    /// The signed number with the same bits.
    fn from(n: u64) -> Self {
        Self::Int(i64::from_ne_bytes(n.to_ne_bytes()))
    }
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Cell<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Cell<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Blob(bytes)
    }
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The checksum of a row: XXH3 over the table's number and each value with its type and length.
pub(crate) fn checksum<'v>(table: Table, values: impl Iterator<Item = ValueRef<'v>>) -> i64 {
    let mut sum = Sum::new(table);
    values.for_each(|value| sum.add(value));
    sum.finish()
}

/// The bytes that a checksum is over.
struct Sum(Vec<u8>);

impl Sum {
    fn new(table: Table) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        bytes.push(table as u8);
        Self(bytes)
    }

    fn add(&mut self, value: ValueRef<'_>) {
        let (kind, number, content): (u8, [u8; 8], &[u8]) = match value {
            ValueRef::Null => (0, [0; 8], &[]),
            ValueRef::Integer(n) => (1, n.to_le_bytes(), &[]),
            ValueRef::Real(n) => (2, n.to_le_bytes(), &[]),
            ValueRef::Text(text) => (3, (text.len() as u64).to_le_bytes(), text),
            ValueRef::Blob(blob) => (4, (blob.len() as u64).to_le_bytes(), blob),
        };
        let mut head = [kind; 9];
        head[1..].copy_from_slice(&number);
        self.0.extend_from_slice(&head);
        if !content.is_empty() {
            self.0.extend_from_slice(content);
        }
    }

    fn finish(self) -> i64 {
        i64::from_ne_bytes(xxh3_64(&self.0).to_ne_bytes())
    }
}

/// Adds the checksum to the cells of a row.
pub(crate) fn sealed<'a, const N: usize>(table: Table, cells: [Cell<'a>; N]) -> Vec<Cell<'a>> {
    let sum = checksum(table, cells.iter().map(Cell::as_value));
    let mut row = Vec::with_capacity(N + 1);
    row.extend(cells);
    row.push(Cell::Int(sum));
    row
}

/// A row whose checksum was verified: what is read from it is what was written.
pub(crate) struct Verified<'r> {
    row: &'r Row<'r>,
    columns: usize,
}

/// Looks at the first `columns` values of `row` and at the checksum behind them; `None` when it does not match.
pub(crate) fn verify<'r>(
    table: Table,
    row: &'r Row<'r>,
    columns: usize,
) -> Result<Option<Verified<'r>>, StoreError> {
    verify_first(table, row, columns, columns)
}

/// Likewise where the checksum stands in column `sum`, with columns between that it does not cover: those of a newer
/// format.
pub(crate) fn verify_first<'r>(
    table: Table,
    row: &'r Row<'r>,
    columns: usize,
    sum: usize,
) -> Result<Option<Verified<'r>>, StoreError> {
    let mut computed = Sum::new(table);
    for column in 0..columns {
        computed.add(row.get_ref(column).map_err(failed)?);
    }
    let sum = row.get_ref(sum).map_err(failed)?;
    let matches = sum == ValueRef::Integer(computed.finish());
    Ok(matches.then_some(Verified { row, columns }))
}

impl<'r> Verified<'r> {
    fn value(&self, column: usize) -> ValueRef<'r> {
        debug_assert!(column < self.columns, "column {column} is not covered by the checksum");
        self.row.get_ref(column).unwrap_or(ValueRef::Null)
    }

    pub(crate) fn int(&self, column: usize) -> Result<i64, StoreError> {
        match self.value(column) {
            ValueRef::Integer(n) => Ok(n),
            _ => Err(unreadable(column)),
        }
    }

    pub(crate) fn maybe_int(&self, column: usize) -> Result<Option<i64>, StoreError> {
        match self.value(column) {
            ValueRef::Null => Ok(None),
            ValueRef::Integer(n) => Ok(Some(n)),
            _ => Err(unreadable(column)),
        }
    }

    pub(crate) fn flag(&self, column: usize) -> Result<bool, StoreError> {
        match self.int(column)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(unreadable(column)),
        }
    }

    /// The number whose bits were stored.
    pub(crate) fn bits(&self, column: usize) -> Result<u64, StoreError> {
        self.int(column).map(|n| u64::from_ne_bytes(n.to_ne_bytes()))
    }

    pub(crate) fn small<T: TryFrom<i64>>(&self, column: usize) -> Result<T, StoreError> {
        T::try_from(self.int(column)?).map_err(|_| unreadable(column))
    }

    pub(crate) fn text(&self, column: usize) -> Result<&'r str, StoreError> {
        match self.value(column) {
            ValueRef::Text(text) => std::str::from_utf8(text).map_err(|_| unreadable(column)),
            _ => Err(unreadable(column)),
        }
    }

    pub(crate) fn maybe_text(&self, column: usize) -> Result<Option<&'r str>, StoreError> {
        if self.is_null(column) { Ok(None) } else { self.text(column).map(Some) }
    }

    pub(crate) fn blob<const N: usize>(&self, column: usize) -> Result<[u8; N], StoreError> {
        match self.value(column) {
            ValueRef::Blob(bytes) => bytes.try_into().map_err(|_| unreadable(column)),
            _ => Err(unreadable(column)),
        }
    }

    pub(crate) fn is_null(&self, column: usize) -> bool {
        self.value(column) == ValueRef::Null
    }

    /// A word out of a closed list.
    pub(crate) fn word<T: Copy>(
        &self,
        column: usize,
        all: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Result<T, StoreError> {
        let word = self.text(column)?;
        all.iter().copied().find(|item| name(*item) == word).ok_or_else(|| unreadable(column))
    }

    pub(crate) fn task_id(&self, column: usize) -> Result<TaskId, StoreError> {
        self.blob(column).map(task_id)
    }

    pub(crate) fn entity_key(&self, column: usize) -> Result<EntityKey, StoreError> {
        Ok(EntityKey::new(self.text(column)?, self.text(column + 1)?))
    }

    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, column: usize) -> Result<T, StoreError> {
        serde_json::from_str(self.text(column)?).map_err(|_| unreadable(column))
    }

    /// Likewise of something that holds values as deep as they may be, and is deeper itself. The checksum has proven
    /// that it was written here, from values that were read within the usual depth.
    pub(crate) fn json_around_values<T: serde::de::DeserializeOwned>(
        &self,
        column: usize,
    ) -> Result<T, StoreError> {
        let mut json = serde_json::Deserializer::from_str(self.text(column)?);
        json.disable_recursion_limit();
        let value = T::deserialize(&mut json).map_err(|_| unreadable(column))?;
        json.end().map_err(|_| unreadable(column))?;
        Ok(value)
    }
}

pub(crate) fn unreadable(column: usize) -> StoreError {
    StoreError::Damaged(format!("column {column} of a row with a good checksum cannot be read"))
}

pub(crate) fn task_id(bytes: [u8; 16]) -> TaskId {
    TaskId(uuid::Uuid::from_bytes(bytes))
}

/// Whether something is known of a record, whether it lives, and its fields: how a [`Body`] is stored.
pub(crate) fn body_cells(body: Option<&Body>) -> (i64, Option<String>) {
    match body {
        None => (0, None),
        Some(Body::Live(fields)) => (1, Some(fields.to_json())),
        Some(Body::Deleted) => (2, None),
    }
}

pub(crate) fn body(row: &Verified<'_>, kind: usize, fields: usize) -> Result<Option<Body>, StoreError> {
    Ok(match row.int(kind)? {
        0 => None,
        1 => Some(Body::Live(row.json::<Fields>(fields)?)),
        2 => Some(Body::Deleted),
        _ => return Err(unreadable(kind)),
    })
}

/// How much may be asked for, as a number for SQL.
pub(crate) fn bound(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Runs a prepared query and hands its rows to `read`, to the end or until `read` says stop with `false`.
pub(crate) fn each_row(
    statement: &mut Statement<'_>,
    params: impl rusqlite::Params,
    mut read: impl FnMut(&Row<'_>) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let mut rows: Rows<'_> = statement.query(params).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        if !read(row)? {
            break;
        }
    }
    Ok(())
}

/// The first row of a query, if it has one.
pub(crate) fn first_row<T>(
    statement: &mut Statement<'_>,
    params: impl rusqlite::Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut rows: Rows<'_> = statement.query(params).map_err(failed)?;
    rows.next().map_err(failed)?.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(cells: &[Cell<'_>]) -> i64 {
        checksum(Table::Task, cells.iter().map(Cell::as_value))
    }

    #[test]
    fn rows_that_differ_in_any_way_have_different_checksums() {
        let rows: [&[Cell<'_>]; 8] = [
            &["ab".into(), "c".into()],
            &["a".into(), "bc".into()],
            &["abc".into()],
            &["abc".into(), Cell::Null],
            &[Cell::Null, "abc".into()],
            &[Cell::Blob(b"abc")],
            &[0_i64.into()],
            &[Cell::Null],
        ];
        for (at, row) in rows.iter().enumerate() {
            assert!(rows[..at].iter().all(|other| sum(other) != sum(row)), "{row:?}");
        }
        assert_ne!(sum(&[Cell::Null]), checksum(Table::Fact, [ValueRef::Null].into_iter()));
    }

    #[test]
    fn the_checksum_is_the_one_that_stored_rows_carry() {
        assert_eq!(sum(&["note".into(), 7_i64.into(), Cell::Null]), CHECKSUM_OF_A_SAMPLE);
    }

    /// Fixed for ever: rows in files carry it.
    const CHECKSUM_OF_A_SAMPLE: i64 = -868_557_502_187_338_461;
}
