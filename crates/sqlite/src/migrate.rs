//! The ladder of schemas: a table of numbers and SQL, climbed within the caller's transaction.
//!
//! A migration is never edited once shipped. It runs in the one IMMEDIATE transaction that opening also uses for its
//! barrier, so a file is of the old schema or of the new one, never between. Tests: at the end of the file.

use crate::error::failed;
use landfall_core::store::StoreError;
use rusqlite::Connection;

/// "LFAL" in the header of every store.
pub(crate) const APPLICATION_ID: u32 = 0x4c46_414c;

/// The newest schema that this build knows.
pub(crate) const NEWEST: u32 = LADDER[LADDER.len() - 1].0;

type Rung = (u32, &'static str);

/// Each schema with the SQL that leads to it from the one before.
const LADDER: &[Rung] = &[(1, include_str!("../migrations/0001_initial.sql"))];

/// Brings the schema from `version` (0: nothing yet) to the newest one. Must be called within a transaction.
pub(crate) fn climb(connection: &Connection, version: u32) -> Result<(), StoreError> {
    climb_ladder(connection, version, LADDER)
}

fn climb_ladder(connection: &Connection, version: u32, ladder: &[Rung]) -> Result<(), StoreError> {
    let run = |sql: &str| connection.execute_batch(sql).map_err(failed);
    if version == 0 {
        run(&format!("PRAGMA application_id = {APPLICATION_ID}"))?;
    }
    for (number, sql) in ladder.iter().filter(|(number, _)| *number > version) {
        run(sql)?;
        run(&format!("PRAGMA user_version = {number}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Marks;

    const THREE: &[Rung] = &[
        (1, "CREATE TABLE landfall_a (n INTEGER) STRICT; INSERT INTO landfall_a VALUES (7);"),
        (2, "ALTER TABLE landfall_a ADD COLUMN m INTEGER; UPDATE landfall_a SET m = n + 1;"),
        (3, "CREATE TABLE landfall_b (n INTEGER) STRICT; INSERT INTO landfall_b SELECT m FROM landfall_a;"),
    ];

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
        assert!(LADDER.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(LADDER[0].0 >= 1);
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
        let connection = Connection::open_in_memory().unwrap();
        climb_in_transaction(&connection, &THREE[..1]).unwrap();
        let broken: &[Rung] = &[THREE[0], THREE[1], (3, "CREATE TABLE landfall_b (n INTEGER); nonsense;")];
        assert!(climb_in_transaction(&connection, broken).is_err());
        assert_eq!(version(&connection), 1);
        assert!(connection.prepare("SELECT m FROM landfall_a").is_err());
        assert!(connection.prepare("SELECT n FROM landfall_b").is_err());
    }
}
