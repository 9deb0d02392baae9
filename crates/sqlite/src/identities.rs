//! Whose rows there are in a file: a number for each identity, and which positions are whose.
//!
//! A number is given once and never to another. If the row of an identity is damaged, no new one is made: its queue
//! could be that of the damaged one. Tests: the store suite, `tests/damage.rs`, `tests/opening.rs`.

use crate::codec::{Cell, FORMAT, Table, each_row, sealed, verify};
use crate::error::failed;
use landfall_core::store::StoreError;
use rusqlite::{Connection, params_from_iter};
use std::borrow::Cow;

/// How many bits of a position count the tasks of one identity: a trillion of them.
const POSITION_BITS: u32 = 40;

/// Most identities in one file: far below where positions would have no more room.
const NUMBERS_MAX: i64 = 1 << 20;

/// The longest name in bytes.
const NAME_MAX: usize = 1_024;

/// Whose rows a question is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Owner(i64);

impl Owner {
    /// The queue for apps without accounts.
    pub(crate) const NAMELESS: Self = Self(0);

    /// The one with this number.
    pub(crate) fn of_number(number: i64) -> Self {
        Self(number)
    }

    /// No position of this owner is this one or less.
    pub(crate) fn floor(self) -> i64 {
        self.0 << POSITION_BITS
    }

    /// No position of this owner is this one or more.
    pub(crate) fn end(self) -> i64 {
        (self.0 + 1) << POSITION_BITS
    }

    /// `after` or the floor, whichever is greater, as a number for SQL.
    pub(crate) fn behind(self, after: u64) -> i64 {
        i64::try_from(after).unwrap_or(i64::MAX).max(self.floor())
    }

    pub(crate) fn has(self, seq: u64) -> bool {
        i64::try_from(seq).is_ok_and(|seq| seq > self.floor() && seq < self.end())
    }

    pub(crate) fn number(self) -> i64 {
        self.0
    }

    /// The name of a fact of this owner's.
    pub(crate) fn fact(self, name: &str) -> Cow<'_, str> {
        if self == Self::NAMELESS { Cow::Borrowed(name) } else { Cow::Owned(format!("{}/{name}", self.0)) }
    }
}

impl From<Owner> for Cell<'_> {
    fn from(owner: Owner) -> Self {
        Self::Int(owner.0)
    }
}

/// Refuses a name that is empty or too long.
pub(crate) fn check_name(name: &str) -> Result<(), StoreError> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(StoreError::Misuse(format!("the name of an identity has 1 to {NAME_MAX} bytes")));
    }
    Ok(())
}

/// Every identity with a name, in order of their names.
pub(crate) fn all(connection: &Connection) -> Result<Vec<(String, Owner)>, StoreError> {
    let (found, damaged) = read(connection)?;
    damaged.map_or(Ok(found), Err)
}

/// The number of `name`, a new one if it has none yet. Must be called within a transaction.
pub(crate) fn find_or_add(connection: &Connection, name: &str) -> Result<Owner, StoreError> {
    let (found, damaged) = read(connection)?;
    if let Some((_, owner)) = found.iter().find(|(known, _)| known == name) {
        return Ok(*owner);
    }
    if let Some(damaged) = damaged {
        return Err(damaged);
    }
    let number = highest(connection)? + 1;
    if number > NUMBERS_MAX {
        return Err(StoreError::Misuse(format!(
            "a store keeps the queues of {NUMBERS_MAX} identities at most"
        )));
    }
    let sql = "INSERT INTO landfall_identities (number, name, format, sum) VALUES (?, ?, ?, ?)";
    let cells = sealed(Table::Identity, [number.into(), name.into(), FORMAT.into()]);
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(params_from_iter(cells)).map_err(failed)?;
    Ok(Owner(number))
}

/// Those that can be read, and what is to be said if one cannot.
type Known = (Vec<(String, Owner)>, Option<StoreError>);

fn read(connection: &Connection) -> Result<Known, StoreError> {
    let sql = "SELECT number, name, format, sum FROM landfall_identities ORDER BY name";
    let (mut found, mut damaged) = (Vec::new(), None);
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    each_row(&mut statement, (), |row| {
        match verify(Table::Identity, row, 3)? {
            Some(row) => found.push((row.text(1)?.to_owned(), Owner(row.int(0)?))),
            None => damaged = Some(StoreError::Damaged("the name of an identity".to_owned())),
        }
        Ok(true)
    })?;
    Ok((found, damaged))
}

/// The greatest number that was ever given, also to an identity whose row is gone while its rows are there.
fn highest(connection: &Connection) -> Result<i64, StoreError> {
    let sql = "SELECT max(n) FROM ( \
               SELECT max(number) AS n FROM landfall_identities \
               UNION ALL SELECT max(seq) >> 40 FROM landfall_tasks \
               UNION ALL SELECT max(owner) FROM landfall_entities \
               UNION ALL SELECT max(owner) FROM landfall_journal \
               UNION ALL SELECT max(owner) FROM landfall_conflicts \
               UNION ALL SELECT max(CAST(name AS INTEGER)) FROM landfall_facts)";
    let highest: Option<i64> = connection.query_one(sql, (), |row| row.get(0)).map_err(failed)?;
    Ok(highest.unwrap_or(0).max(0))
}
