//! Single rows: the counters, and facts by name (the replica, the lease, how far the change feed was read, what is
//! paused; which file this is, how often it was opened). All but those about the file itself are kept for each owner.
//!
//! Counters are never counted in the course of work: they are changed in the transaction that changes the tasks. Only
//! damage makes them be counted again. Tests: the store suite, `tests/damage.rs`.

use crate::codec::{FORMAT, Table, each_row, first_row, sealed, verify};
use crate::error::failed;
use crate::identities::Owner;
use landfall_core::store::{Counts, StoreError};
use landfall_core::task::StateKind;
use rusqlite::{Connection, params_from_iter};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The names of facts.
pub(crate) const REPLICA: &str = "replica";
pub(crate) const LEASE: &str = "lease";
pub(crate) const PULL: &str = "pull";
pub(crate) const CONTROLS: &str = "controls";
pub(crate) const FILE: &str = "file";
pub(crate) const OPENED: &str = "opened";
const COUNTERS: &str = "counters";

/// How many tasks are in each state.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) counts: Counts,
    /// The greatest position ever used.
    pub(crate) last_seq: u64,
}

impl Counters {
    /// Reads them; counts them again if their row is missing or damaged.
    pub(crate) fn read(connection: &Connection, owner: Owner) -> Result<Self, StoreError> {
        let mut counters: Self = match fact(connection, &owner.fact(COUNTERS)) {
            Ok(Some(counters)) => counters,
            Ok(None) | Err(StoreError::Damaged(_)) => Self { counts: count(connection, owner)?, last_seq: 0 },
            Err(error) => return Err(error),
        };
        counters.last_seq = counters.last_seq.max(last_seq(connection, owner)?);
        Ok(counters)
    }

    pub(crate) fn write(&self, connection: &Connection, owner: Owner) -> Result<(), StoreError> {
        put_fact(connection, &owner.fact(COUNTERS), self)
    }
}

/// Counts rows: for damage only.
pub(crate) fn count(connection: &Connection, owner: Owner) -> Result<Counts, StoreError> {
    let mut counts = Counts::default();
    let sql = "SELECT state, count(*) FROM landfall_tasks WHERE seq > ? AND seq < ? GROUP BY state";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    each_row(&mut statement, (owner.floor(), owner.end()), |row| {
        let state = row.get(0).ok().and_then(state_of_number).unwrap_or(StateKind::Dead);
        let rows: i64 = row.get(1).map_err(failed)?;
        *counts.of_mut(state) += u64::try_from(rows).unwrap_or(0);
        Ok(true)
    })?;
    Ok(counts)
}

/// The greatest position of the owner's in the table; the one before its first when there is none.
fn last_seq(connection: &Connection, owner: Owner) -> Result<u64, StoreError> {
    let sql = "SELECT seq FROM landfall_tasks WHERE seq > ? AND seq < ? ORDER BY seq DESC LIMIT 1";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let bounds = (owner.floor(), owner.end());
    let last: Option<i64> = first_row(&mut statement, bounds, |row| row.get(0).map_err(failed))?;
    Ok(u64::try_from(last.unwrap_or(owner.floor())).unwrap_or(0))
}

/// The number of a state in the table.
pub(crate) const fn number_of_state(state: StateKind) -> i64 {
    match state {
        StateKind::Pending => 0,
        StateKind::InFlight => 1,
        StateKind::Unknown => 2,
        StateKind::Conflict => 3,
        StateKind::Dead => 4,
    }
}

pub(crate) fn state_of_number(number: i64) -> Option<StateKind> {
    StateKind::ALL.into_iter().find(|state| number_of_state(*state) == number)
}

/// Reads a fact; [`StoreError::Damaged`] when its row fails its checksum.
pub(crate) fn fact<T: DeserializeOwned>(
    connection: &Connection,
    name: &str,
) -> Result<Option<T>, StoreError> {
    let sql = "SELECT name, format, value, sum FROM landfall_facts WHERE name = ?";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    first_row(&mut statement, [name], |row| match verify(Table::Fact, row, 3)? {
        Some(row) => row.json(2),
        None => Err(StoreError::Damaged(format!("the fact {name:?}"))),
    })
}

/// Forgets a fact.
pub(crate) fn remove_fact(connection: &Connection, name: &str) -> Result<(), StoreError> {
    let sql = "DELETE FROM landfall_facts WHERE name = ?";
    connection.prepare_cached(sql).map_err(failed)?.execute([name]).map_err(failed)?;
    Ok(())
}

/// The names under which a fact is kept for every owner who has it.
pub(crate) fn names_of(connection: &Connection, fact: &str) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT name FROM landfall_facts WHERE name = ?1 OR name LIKE '%/' || ?1";
    let mut names = Vec::new();
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    each_row(&mut statement, [fact], |row| {
        names.push(row.get(0).map_err(failed)?);
        Ok(true)
    })?;
    Ok(names)
}

pub(crate) fn put_fact(
    connection: &Connection,
    name: &str,
    value: &impl Serialize,
) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO landfall_facts (name, format, value, sum) VALUES (?, ?, ?, ?)";
    let value = serde_json::to_string(value).map_err(|error| StoreError::Misuse(error.to_string()))?;
    let cells = sealed(Table::Fact, [name.into(), FORMAT.into(), value.into()]);
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(params_from_iter(cells)).map_err(failed)?;
    Ok(())
}
