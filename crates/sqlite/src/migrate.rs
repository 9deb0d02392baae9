//! The ladder of schemas: a table of numbers, SQL and what SQL cannot say, climbed within the caller's transaction.
//!
//! A migration is never edited once shipped. It runs in the one IMMEDIATE transaction that opening also uses for its
//! barrier, so a file is of the old schema or of the new one, never between. Tests: at the end of the file.

use crate::codec::first_row;
use crate::error::failed;
use landfall_core::store::StoreError;
use rusqlite::Connection;

mod from_1;

/// "LFAL" in the header of every store.
pub(crate) const APPLICATION_ID: u32 = 0x4c46_414c;

/// The newest schema that this build knows.
pub(crate) const NEWEST: u32 = LADDER[LADDER.len() - 1].schema;

type Work = fn(&Connection) -> Result<(), StoreError>;

/// One step of the ladder.
struct Rung {
    /// The schema it leads to from the one before.
    schema: u32,
    sql: &'static str,
    /// What SQL cannot say. It is done when the newest schema is there, for the code that reads and writes rows knows no
    /// other.
    then: Option<Work>,
}

const LADDER: &[Rung] = &[
    Rung { schema: 1, sql: include_str!("../migrations/0001_initial.sql"), then: None },
    Rung {
        schema: 2,
        sql: include_str!("../migrations/0002_conflicts_and_pull.sql"),
        then: Some(from_1::carry_conflicts),
    },
    Rung { schema: 3, sql: include_str!("../migrations/0003_identities_and_terms.sql"), then: None },
];

/// Brings the schema from `version` (0: nothing yet) to the newest one. Must be called within a transaction.
pub(crate) fn climb(connection: &Connection, version: u32) -> Result<(), StoreError> {
    climb_ladder(connection, version, LADDER)
}

/// Likewise within the database of an app, whose header is the app's: the number is in a table of ours. Gives back whether
/// the tables were made. [`StoreError::TooNew`] when they are of a newer version.
pub(crate) fn climb_within(connection: &Connection) -> Result<bool, StoreError> {
    let run = |sql: &str| connection.execute_batch(sql).map_err(failed);
    run("CREATE TABLE IF NOT EXISTS landfall_schema \
         (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL) STRICT")?;
    let mut statement = connection.prepare("SELECT version FROM landfall_schema").map_err(failed)?;
    let version: u32 = first_row(&mut statement, (), |row| row.get(0).map_err(failed))?.unwrap_or(0);
    if version > NEWEST {
        return Err(StoreError::TooNew { found: version, known: NEWEST });
    }
    if version < NEWEST {
        climb_rungs(connection, version, LADDER, |_| Ok(()))?;
        run(&format!("INSERT OR REPLACE INTO landfall_schema (one, version) VALUES (1, {NEWEST})"))?;
    }
    Ok(version == 0)
}

fn climb_ladder(connection: &Connection, version: u32, ladder: &[Rung]) -> Result<(), StoreError> {
    let run = |sql: &str| connection.execute_batch(sql).map_err(failed);
    if version == 0 {
        run(&format!("PRAGMA application_id = {APPLICATION_ID}"))?;
    }
    climb_rungs(connection, version, ladder, |schema| run(&format!("PRAGMA user_version = {schema}")))
}

fn climb_rungs(
    connection: &Connection,
    version: u32,
    ladder: &[Rung],
    reached: impl Fn(u32) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let above = || ladder.iter().filter(|rung| rung.schema > version);
    for rung in above() {
        connection.execute_batch(rung.sql).map_err(failed)?;
        reached(rung.schema)?;
    }
    above().filter_map(|rung| rung.then).try_for_each(|then| then(connection))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::file::Marks;

    /// The tables of the newest schema, and nothing in them.
    pub(crate) fn store_in_memory() -> Connection {
        store_of(NEWEST)
    }

    /// Likewise of an older one.
    pub(super) fn store_of(schema: u32) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        // Nothing is in it yet that would have to be carried over.
        for rung in &LADDER[..schema as usize] {
            connection.execute_batch(rung.sql).unwrap();
        }
        if schema >= 2 {
            connection.execute_batch("DROP TABLE IF EXISTS landfall_conflicts_1").unwrap();
        }
        connection
    }

    /// How SQLite would answer a question.
    pub(crate) fn plan_of(connection: &Connection, sql: &str) -> String {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let (mut rows, mut lines) = (statement.raw_query(), Vec::new());
        while let Some(row) = rows.next().unwrap() {
            lines.push(row.get::<_, String>(3).unwrap());
        }
        lines.join("; ")
    }

    fn increase(connection: &Connection) -> Result<(), StoreError> {
        connection.execute_batch("UPDATE landfall_a SET m = n + 1").map_err(failed)
    }

    fn copy(connection: &Connection) -> Result<(), StoreError> {
        connection.execute_batch("INSERT INTO landfall_b SELECT m FROM landfall_a").map_err(failed)
    }

    const fn rung(schema: u32, sql: &'static str, then: Option<Work>) -> Rung {
        Rung { schema, sql, then }
    }

    const A: Rung =
        rung(1, "CREATE TABLE landfall_a (n INTEGER) STRICT; INSERT INTO landfall_a VALUES (7);", None);
    const B: Rung = rung(2, "ALTER TABLE landfall_a ADD COLUMN m INTEGER;", Some(increase));
    const C: Rung = rung(3, "CREATE TABLE landfall_b (n INTEGER) STRICT;", Some(copy));
    const THREE: &[Rung] = &[A, B, C];

    fn version(connection: &Connection) -> u32 {
        Marks::of(connection).unwrap().user_version
    }

    fn climb_in_transaction(connection: &Connection, ladder: &[Rung]) -> Result<(), StoreError> {
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        let outcome = climb_ladder(connection, version(connection), ladder);
        connection.execute_batch(if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" }).unwrap();
        outcome
    }

    #[test]
    fn versions_climb_in_order_and_are_told_apart() {
        assert!(LADDER.iter().map(|rung| rung.schema).eq(1..=NEWEST));
    }

    #[test]
    fn every_start_ends_at_the_same_schema() {
        for start in 0..=THREE.len() {
            let connection = Connection::open_in_memory().unwrap();
            climb_in_transaction(&connection, &THREE[..start]).unwrap();
            climb_in_transaction(&connection, THREE).unwrap();
            assert_eq!(version(&connection), 3);
            let copied: i64 = connection.query_one("SELECT n FROM landfall_b", (), |row| row.get(0)).unwrap();
            assert_eq!(copied, 8, "from {start}");
        }
    }

    #[test]
    fn a_migration_that_fails_leaves_the_old_schema() {
        let refuse = |connection: &Connection| {
            increase(connection)?;
            Err(StoreError::Corrupt("on purpose".to_string()))
        };
        for broken in [
            rung(3, "CREATE TABLE landfall_b (n INTEGER); nonsense;", None),
            rung(3, "CREATE TABLE landfall_b (n INTEGER);", Some(refuse)),
        ] {
            let connection = Connection::open_in_memory().unwrap();
            climb_in_transaction(&connection, &THREE[..1]).unwrap();
            assert!(climb_in_transaction(&connection, &[A, B, broken]).is_err());
            assert_eq!(version(&connection), 1);
            assert!(connection.prepare("SELECT m FROM landfall_a").is_err());
            assert!(connection.prepare("SELECT n FROM landfall_b").is_err());
        }
    }
}
