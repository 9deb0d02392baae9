//! The SQLite store keeps every promise of the public store suite.

mod support;

use landfall_sqlite::{Durability, SqliteStore};
use landfall_testkit::conformance::store::run_all;

#[test]
fn the_sqlite_store_keeps_every_promise() {
    run_all(&support::Files::new(SqliteStore::options()));
}

#[test]
fn it_keeps_them_without_waiting_for_the_disk() {
    run_all(&support::Files::new(SqliteStore::options().durability(Durability::MayLoseLastWrites)));
}
