//! Allocations that fail: every one of some work, once and for ever.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_simdisk::memory;
use rusqlite::Connection;

fn work() -> rusqlite::Result<i64> {
    let connection = Connection::open_in_memory()?;
    connection.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1), (2)")?;
    connection.query_one("SELECT sum(n) FROM t", (), |row| row.get(0))
}

#[test]
fn every_allocation_can_fail_and_the_next_work_is_whole() {
    memory::install();
    memory::clear();
    work().unwrap();
    for forever in [false, true] {
        let mut at = 1;
        loop {
            memory::fail(at, forever);
            let outcome = work();
            memory::clear();
            if !memory::was_hit() {
                assert_eq!(outcome.unwrap(), 3);
                break;
            }
            // SQLite can do without some of them; a wrong answer is another matter.
            assert!(outcome.is_err() || outcome == Ok(3), "{outcome:?}");
            assert_eq!(work(), Ok(3));
            at += 1;
        }
        assert!(at > 50, "only {at} allocations");
    }
}
