//! What the disk loses and refuses, shown with plain SQLite.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use landfall_simdisk::{Directory, Disk, Fault, Image, Kind};
use rusqlite::Connection;
use std::path::Path;

fn open(path: &Path, journal: &str, synchronous: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection
        .execute_batch(&format!("PRAGMA journal_mode = {journal}; PRAGMA synchronous = {synchronous}"))?;
    connection.execute_batch("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, text TEXT)")?;
    Ok(connection)
}

fn put(connection: &Connection, n: i64) -> rusqlite::Result<usize> {
    connection.execute("INSERT INTO t VALUES (?1, ?2)", (n, "x".repeat(300)))
}

fn numbers(path: &Path) -> Vec<i64> {
    let connection = Connection::open(path).unwrap();
    let check: String = connection.query_one("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut statement = connection.prepare("SELECT n FROM t ORDER BY n").unwrap();
    statement.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Cuts the power after every step of ten commits, in every way: how many images there were, and how many lost a commit
/// that had returned.
fn losses(journal: &str, synchronous: &str, directory: Directory, lie: bool) -> (u64, u64) {
    let disk = Disk::new(7);
    disk.set_directory(directory);
    let path = disk.path("x.db");
    drop(open(&path, journal, synchronous).unwrap());
    disk.settle();
    disk.record();
    if lie {
        disk.set_fault(Fault::forever(Kind::LyingSync, 1));
    }
    let connection = open(&path, journal, synchronous).unwrap();
    let mut acknowledged = Vec::new();
    for n in 0..10 {
        put(&connection, n).unwrap();
        acknowledged.push(disk.steps());
    }
    let mut recording = disk.recorded().unwrap();
    let (mut images, mut lost) = (0, 0);
    loop {
        let expected = acknowledged.iter().filter(|at| **at <= recording.position()).count();
        for image in Image::ALL {
            disk.load(&recording.image(image, recording.position() as u64));
            let found = numbers(&path);
            assert_eq!(found, (0..found.len() as i64).collect::<Vec<_>>(), "a gap");
            images += 1;
            lost += u64::from(found.len() < expected);
        }
        if !recording.advance() {
            break;
        }
    }
    drop(connection);
    (images, lost)
}

#[test]
fn what_is_acknowledged_survives_only_with_the_right_settings() {
    let (images, lost) = losses("WAL", "EXTRA", Directory::Strict, false);
    assert!(images > 100, "{images}");
    assert_eq!(lost, 0, "WAL and EXTRA");
    assert_eq!(losses("WAL", "EXTRA", Directory::Ordered, false).1, 0);
    assert!(losses("WAL", "NORMAL", Directory::Strict, false).1 > 0, "WAL and NORMAL loses commits");
    assert!(losses("DELETE", "FULL", Directory::Strict, false).1 > 0, "DELETE and FULL loses commits");
    assert_eq!(losses("DELETE", "EXTRA", Directory::Strict, false).1, 0, "DELETE and EXTRA");
}

#[test]
fn a_lying_sync_is_noticed() {
    assert!(losses("WAL", "EXTRA", Directory::Strict, true).1 > 0);
}

#[test]
fn a_power_cut_keeps_the_file_and_kills_what_was_open() {
    use std::os::unix::fs::MetadataExt as _;
    let disk = Disk::new(1);
    let path = disk.path("x.db");
    // As the store does it: the file is there before SQLite sees it.
    std::fs::File::create(&path).unwrap();
    let connection = open(&path, "WAL", "EXTRA").unwrap();
    put(&connection, 0).unwrap();
    let inode = std::fs::metadata(&path).unwrap().ino();
    disk.power_loss(Image::Nothing, 1);
    assert!(put(&connection, 1).is_err(), "a handle from before the power cut");
    drop(connection);
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(numbers(&path), [0]);
}

#[test]
fn processes_lock_each_other_out_and_a_killed_one_lets_go() {
    let disk = Disk::new(2);
    let path = disk.path("x.db");
    let inside = disk.enter(1);
    let one = open(&path, "WAL", "EXTRA").unwrap();
    drop(inside);
    let inside = disk.enter(2);
    let two = open(&path, "WAL", "EXTRA").unwrap();
    drop(inside);
    one.execute_batch("BEGIN IMMEDIATE").unwrap();
    put(&one, 0).unwrap();
    assert!(two.execute_batch("BEGIN IMMEDIATE").is_err(), "two write at once");
    disk.kill(1);
    assert!(one.execute_batch("COMMIT").is_err());
    drop(one);
    put(&two, 5).unwrap();
    drop(two);
    assert_eq!(numbers(&path), [5]);
}

#[test]
fn faults_are_hit_and_end() {
    for kind in [Kind::EioWrite, Kind::EioSync, Kind::Full, Kind::ShortWrite] {
        let disk = Disk::new(3);
        let path = disk.path("x.db");
        let connection = open(&path, "WAL", "EXTRA").unwrap();
        put(&connection, 0).unwrap();
        disk.set_fault(Fault::forever(kind, 1));
        assert!(put(&connection, 1).is_err(), "{kind:?}");
        assert!(disk.was_hit(), "{kind:?}");
        disk.clear_faults();
        drop(connection);
        let connection = open(&path, "WAL", "EXTRA").unwrap();
        put(&connection, 2).unwrap();
        drop(connection);
        disk.power_loss(Image::Nothing, 3);
        let found = numbers(&path);
        assert!(found.contains(&0) && found.contains(&2), "{kind:?}: {found:?}");
    }
}

#[test]
fn other_paths_are_as_ever() {
    let disk = Disk::new(4);
    let path = std::env::temp_dir().join(format!("landfall-simdisk-elsewhere-{}.db", std::process::id()));
    let before = disk.ops();
    put(&open(&path, "DELETE", "FULL").unwrap(), 1).unwrap();
    assert_eq!(numbers(&path), [1]);
    assert_eq!(disk.ops(), before);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn the_shared_memory_of_a_file_goes_with_the_last_process_that_used_it() {
    let disk = Disk::new(5);
    let path = disk.path("x.db");
    let other = disk.enter(2);
    let bystander = open(&disk.path("y.db"), "WAL", "EXTRA").unwrap();
    drop(other);
    let connection = open(&path, "WAL", "EXTRA").unwrap();
    (0..40).for_each(|n| assert_eq!(put(&connection, n), Ok(1)));
    disk.kill(0);
    let before = disk.reads();
    let again = Connection::open(&path).unwrap();
    let found: i64 = again.query_one("SELECT n FROM t WHERE n = 39", (), |row| row.get(0)).unwrap();
    assert_eq!(found, 39);
    assert!(disk.reads() - before > 40, "the log was not read through: {}", disk.reads() - before);
    drop(connection);
    put(&bystander, 1).unwrap();
}

#[test]
fn a_log_that_a_dead_process_made_gets_its_name_from_the_next_sync() {
    for kind in [Kind::CrashBefore, Kind::CrashMiddle] {
        let disk = Disk::new(6);
        let path = disk.path("x.db");
        drop(open(&path, "WAL", "EXTRA").unwrap());
        disk.settle();
        // It makes the log, writes into it, and dies before or in its first sync.
        let connection = open(&path, "WAL", "EXTRA").unwrap();
        let mut at = 1;
        while !disk.is_crashed(0) {
            disk.set_fault(Fault::once(kind, at));
            at += 1;
            let _ = put(&connection, at as i64);
        }
        disk.kill(0);
        drop(connection);
        let connection = open(&path, "WAL", "EXTRA").unwrap();
        put(&connection, 1_000).unwrap();
        disk.power_loss(Image::DataWithoutDirectory, 1);
        drop(connection);
        assert!(numbers(&path).contains(&1_000), "{kind:?}");
    }
}

#[test]
fn reads_truncations_deletions_and_openings_fail_as_told() {
    for kind in [Kind::EioRead, Kind::EioTruncate, Kind::EioDelete, Kind::EioOpen] {
        let disk = Disk::new(8);
        let path = disk.path("x.db");
        let connection = open(&path, "TRUNCATE", "EXTRA").unwrap();
        put(&connection, 0).unwrap();
        drop(connection);
        disk.set_fault(Fault::forever(kind, 1).of(1));
        // Another process is not hit.
        assert_eq!(numbers(&path), [0], "{kind:?}");
        assert!(!disk.was_hit(), "{kind:?}");
        let inside = disk.enter(1);
        let outcome = open(&path, if kind == Kind::EioDelete { "DELETE" } else { "TRUNCATE" }, "EXTRA")
            .and_then(|connection| put(&connection, 1));
        drop(inside);
        assert!(outcome.is_err() && disk.was_hit(), "{kind:?}: {outcome:?}");
        disk.clear_faults();
        assert!(numbers(&path).starts_with(&[0]), "{kind:?}");
    }
}
