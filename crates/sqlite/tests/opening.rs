//! Opening: what is made, what is refused, and that a refused file keeps every byte.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::store::{Store as _, StoreError};
use landfall_sqlite::SqliteStore;
use landfall_testkit::conformance::store::samples::{note, replica, task};
use rusqlite::Connection;
use std::fs;
use std::path::Path;
use support::{Folder, all_bytes, beside, commit, number};

/// A store with one task and a replica, closed.
fn make(path: &Path) {
    let mut store = SqliteStore::open(path).unwrap();
    commit(&mut store, |tx| {
        tx.put_replica(&replica(1)).unwrap();
        tx.put_task(&task(1, &note("1"))).unwrap();
    });
}

fn assert_intact(path: &Path) {
    let mut store = SqliteStore::open(path).unwrap();
    let tx = store.begin().unwrap();
    assert_eq!(tx.tasks_after(0, 9).unwrap().tasks, [task(1, &note("1"))]);
}

/// Opening fails in the expected way and changes no byte of any file.
fn assert_refused(path: &Path, expected: impl Fn(&StoreError) -> bool) {
    let before = all_bytes(path);
    for _ in 0..2 {
        let error = SqliteStore::open(path).expect_err("it must be refused");
        assert!(expected(&error), "{error:?}");
        assert!(all_bytes(path) == before, "{error:?}, but a file was changed");
    }
}

/// Copies a database as a crash would leave it: companions and all.
fn crash_image(from: &Path, to: &Path, endings: &[&str]) {
    for ending in endings {
        fs::copy(beside(from, ending), beside(to, ending)).unwrap();
    }
}

#[test]
fn a_new_store_is_marked_and_readable_to_its_owner_only() {
    let folder = Folder::new();
    let path = folder.file("new.db");
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.path(), path);
    #[cfg(unix)]
    for ending in ["", "-wal", "-shm"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(beside(&path, ending)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{ending}");
    }
    drop(store);
    let raw = Connection::open(&path).unwrap();
    assert_eq!(number(&raw, "PRAGMA application_id"), 0x4c46_414c);
    assert_eq!(number(&raw, "PRAGMA user_version"), 3);
    let strangers = "SELECT count(*) FROM sqlite_schema WHERE tbl_name NOT LIKE 'landfall\\_%' ESCAPE '\\'";
    assert_eq!(number(&raw, strangers), 0);
}

#[test]
fn names_that_mean_something_in_a_uri_are_names() {
    let folder = Folder::new();
    for name in ["a?b.db", "50%25.db", "a#b.db", "é e\u{301} ü.db", "file:x.db", "q&mode=memory.db", "'\".db"]
    {
        make(&folder.file(name));
        assert_intact(&folder.file(name));
        assert!(folder.file(name).exists(), "{name}");
    }
}

#[test]
fn an_empty_file_is_as_good_as_none() {
    let folder = Folder::new();
    fs::write(folder.file("empty.db"), "").unwrap();
    make(&folder.file("empty.db"));
    assert_intact(&folder.file("empty.db"));
    // What a crash leaves between the first page and the tables.
    let raw = Connection::open(folder.file("bare.db")).unwrap();
    raw.execute_batch("PRAGMA journal_mode = WAL; PRAGMA user_version = 0").unwrap();
    drop(raw);
    assert!(fs::metadata(folder.file("bare.db")).unwrap().len() > 0);
    make(&folder.file("bare.db"));
    assert_intact(&folder.file("bare.db"));
}

/// What a power cut leaves while SQLite writes the first page of a new file: found by `landfall-proof`, `power_loss`.
#[test]
fn a_file_whose_making_was_cut_off_is_as_good_as_none() {
    let folder = Folder::new();
    let path = folder.file("new.db");
    let mut journal = vec![0; 512];
    journal[..8].copy_from_slice(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    journal[20..28].copy_from_slice(&[0, 0, 2, 0, 0, 0, 16, 0]);
    for torn in [vec![0; 512], b"SQLite".repeat(600), vec![7; 3_584]] {
        fs::write(&path, torn).unwrap();
        fs::write(beside(&path, "-journal"), &journal).unwrap();
        make(&path);
        assert_intact(&path);
        fs::remove_file(&path).unwrap();
    }
    // A journal of something else says nothing.
    journal[19] = 1;
    fs::write(&path, vec![7; 3_584]).unwrap();
    fs::write(beside(&path, "-journal"), &journal).unwrap();
    assert_refused(&path, |error| matches!(error, StoreError::Foreign(_)));
}

/// What a power cut can leave while the log is moved into the file: found by `landfall-proof`, `power_loss`.
#[test]
fn a_torn_first_page_is_no_matter_while_the_log_has_it_whole() {
    let folder = Folder::new();
    let (live, path) = (folder.file("live.db"), folder.file("x.db"));
    let mut store = SqliteStore::open(&live).unwrap();
    commit(&mut store, |tx| tx.put_task(&task(1, &note("1"))).unwrap());
    crash_image(&live, &path, &["", "-wal"]);
    let mut bytes = fs::read(&path).unwrap();
    // Half of it is there: the schema's number, and not yet whose file it is.
    bytes[60..64].copy_from_slice(&3_u32.to_be_bytes());
    bytes[68..72].copy_from_slice(&[0; 4]);
    fs::write(&path, bytes).unwrap();
    assert_intact(&path);
}

#[test]
fn a_newer_schema_is_refused_and_left_untouched() {
    let folder = Folder::new();
    let path = folder.file("newer.db");
    make(&path);
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 4").unwrap();
    assert_refused(&path, |error| *error == StoreError::TooNew { found: 4, known: 3 });
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 3").unwrap();
    assert_intact(&path);
}

#[test]
fn a_newer_schema_that_is_only_in_the_log_is_refused_and_left_untouched() {
    let folder = Folder::new();
    let path = folder.file("live.db");
    make(&path);
    let newer = Connection::open(&path).unwrap();
    newer
        .execute_batch(
            "PRAGMA wal_autocheckpoint = 0; CREATE TABLE landfall_x (n); PRAGMA user_version = 2000000000",
        )
        .unwrap();
    for (name, endings) in [("a.db", &["", "-wal", "-shm"][..]), ("b.db", &["", "-wal"])] {
        let image = folder.file(name);
        crash_image(&path, &image, endings);
        assert_refused(&image, |error| *error == StoreError::TooNew { found: 2_000_000_000, known: 3 });
    }
    // While the newer program is running, too.
    assert_refused(&path, |error| *error == StoreError::TooNew { found: 2_000_000_000, known: 3 });
}

#[test]
fn a_newer_schema_that_was_never_committed_does_not_count() {
    let folder = Folder::new();
    let path = folder.file("live.db");
    make(&path);
    let newer = Connection::open(&path).unwrap();
    newer.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    newer.execute_batch("BEGIN; CREATE TABLE landfall_x (n); PRAGMA user_version = 4; COMMIT").unwrap();
    crash_image(&path, &folder.file("torn.db"), &["", "-wal"]);
    let log = beside(&folder.file("torn.db"), "-wal");
    let bytes = fs::read(&log).unwrap();
    // The last frame carries the commit.
    fs::write(&log, &bytes[..bytes.len() - 1]).unwrap();
    assert_intact(&folder.file("torn.db"));
    crash_image(&path, &folder.file("spoilt.db"), &["", "-wal"]);
    let log = beside(&folder.file("spoilt.db"), "-wal");
    let mut bytes = fs::read(&log).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&log, bytes).unwrap();
    assert_intact(&folder.file("spoilt.db"));
}

#[test]
fn what_is_not_a_store_is_refused_and_left_untouched() {
    let folder = Folder::new();
    let foreign = |error: &StoreError| matches!(error, StoreError::Foreign(_));
    let noise: Vec<u8> = (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, content) in
        [("noise", &noise[..]), ("text", b"hello, world\n"), ("byte", &[0]), ("zeros", &[0; 8192])]
    {
        fs::write(folder.file(name), content).unwrap();
        assert_refused(&folder.file(name), foreign);
    }
    let other = |name: &str, sql: &str| {
        Connection::open(folder.file(name)).unwrap().execute_batch(sql).unwrap();
        assert_refused(&folder.file(name), foreign);
    };
    other("another program's", "PRAGMA application_id = 7; CREATE TABLE t (n)");
    other("an app's own", "CREATE TABLE t (n)");
    other("an app's own, with a version", "PRAGMA user_version = 3; CREATE TABLE t (n)");
    other("marked, but without a schema", "PRAGMA application_id = 0x4c46414c; CREATE TABLE t (n)");
    other("an app's own, with a log", "PRAGMA journal_mode = WAL; CREATE TABLE t (n)");
    fs::create_dir(folder.file("folder")).unwrap();
    assert!(foreign(&SqliteStore::open(folder.file("folder")).unwrap_err()));
    let missing = SqliteStore::open(folder.file("no such folder").join("x.db")).unwrap_err();
    assert!(matches!(missing, StoreError::Io(_)), "{missing:?}");
}

#[test]
fn a_log_without_its_database_is_not_thrown_away() {
    let folder = Folder::new();
    let path = folder.file("live.db");
    let mut store = SqliteStore::open(&path).unwrap();
    commit(&mut store, |tx| tx.put_task(&task(1, &note("1"))).unwrap());
    for (name, empty) in [("empty.db", true), ("missing.db", false)] {
        crash_image(&path, &folder.file(name), &["-wal", "-shm"]);
        if empty {
            fs::write(folder.file(name), "").unwrap();
        }
        assert_refused(&folder.file(name), |error| matches!(error, StoreError::Corrupt(_)));
    }
    crash_image(&path, &folder.file("whole.db"), &["", "-wal"]);
    assert_intact(&folder.file("whole.db"));
}

#[test]
fn every_opening_makes_a_durable_write() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    for opening in 1..=3 {
        let mut store = SqliteStore::open(&path).unwrap();
        let raw = Connection::open(&path).unwrap();
        let opened = "SELECT CAST(value AS INTEGER) FROM landfall_facts WHERE name = 'opened'";
        assert_eq!(number(&raw, opened), 2 * opening - 1);
        store.reopen().unwrap();
        assert_eq!(number(&raw, opened), 2 * opening);
        // A store that cannot make it is not opened.
        raw.execute_batch("BEGIN IMMEDIATE").unwrap();
        let locked = SqliteStore::options().busy_timeout(std::time::Duration::from_millis(30)).open(&path);
        assert!(matches!(locked, Err(StoreError::Busy(_))), "{locked:?}");
        raw.execute_batch("ROLLBACK").unwrap();
    }
}

#[test]
fn many_may_open_a_new_file_at_once() {
    for _ in 0..5 {
        let folder = Folder::new();
        let path = folder.file("x.db");
        let barrier = std::sync::Barrier::new(6);
        std::thread::scope(|scope| {
            for writer in 0..6 {
                let (path, barrier) = (&path, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let mut store = SqliteStore::open(path).unwrap();
                    for n in 0..3 {
                        commit(&mut store, |tx| {
                            let seq = tx.next_seq().unwrap();
                            tx.put_task(&task(seq, &note(&format!("{writer} {n}")))).unwrap();
                        });
                    }
                });
            }
        });
        let mut store = SqliteStore::open(&path).unwrap();
        let tx = store.begin().unwrap();
        assert_eq!(tx.tasks_after(0, 99).unwrap().tasks.len(), 18);
        assert_eq!(tx.counts().unwrap().pending, 18);
    }
}

fn epoch(path: &Path) -> u64 {
    SqliteStore::open(path).unwrap().begin().unwrap().replica().unwrap().unwrap().client_epoch
}

#[test]
fn a_copy_gets_another_epoch_and_the_original_keeps_its_own() {
    let folder = Folder::new();
    let (original, copy) = (folder.file("original.db"), folder.file("copy.db"));
    make(&original);
    let first = epoch(&original);
    assert_eq!(first, replica(1).client_epoch);
    fs::copy(&original, &copy).unwrap();
    let second = epoch(&copy);
    assert!(second > first);
    assert_eq!((epoch(&copy), epoch(&original)), (second, first), "noticed once");
    // Restored: a backup is put in the place of the original.
    fs::rename(&copy, &original).unwrap();
    assert_eq!(epoch(&original), second, "renaming makes no copy");
    fs::copy(&original, &copy).unwrap();
    let off =
        SqliteStore::options().detect_copies(false).open(&copy).unwrap().begin().unwrap().replica().unwrap();
    assert_eq!(off.unwrap().client_epoch, second);
    let mut far = SqliteStore::open(&original).unwrap();
    let ahead = landfall_core::store::Replica { client_epoch: u64::MAX - 1, ..replica(1) };
    commit(&mut far, |tx| tx.put_replica(&ahead).unwrap());
    drop(far);
    fs::copy(&original, folder.file("third.db")).unwrap();
    assert_eq!(epoch(&folder.file("third.db")), u64::MAX, "it grows whatever the clock says");
}

/// Every queue of the file went on twice, not only the one that is opened.
#[test]
fn a_copy_gets_other_epochs_for_every_identity() {
    let folder = Folder::new();
    let (original, copy) = (folder.file("original.db"), folder.file("copy.db"));
    let names = [None, Some("alice"), Some("bob")];
    let mut store = SqliteStore::open(&original).unwrap();
    for name in names {
        store.switch_identity(name).unwrap();
        commit(&mut store, |tx| tx.put_replica(&replica(1)).unwrap());
    }
    drop(store);
    fs::copy(&original, &copy).unwrap();
    let epochs = |path: &Path| {
        let mut store = SqliteStore::options().identity("bob").open(path).unwrap();
        assert_eq!(store.identity(), Some("bob"));
        names.map(|name| {
            store.switch_identity(name).unwrap();
            store.begin().unwrap().replica().unwrap().unwrap().client_epoch
        })
    };
    let first = replica(1).client_epoch;
    assert_eq!(epochs(&original), [first; 3]);
    assert!(epochs(&copy).iter().all(|epoch| *epoch > first));
}

#[test]
fn a_file_that_is_replaced_while_in_use_is_not_written_to() {
    let folder = Folder::new();
    let (path, other) = (folder.file("x.db"), folder.file("other.db"));
    make(&path);
    make(&other);
    let mut store = SqliteStore::open(&path).unwrap();
    fs::rename(&other, &path).unwrap();
    assert!(matches!(store.begin().map(drop), Err(StoreError::Io(_))));
    assert!(matches!(store.begin().map(drop), Err(StoreError::Closed)));
    assert!(matches!(store.idle(), Err(StoreError::Closed)));
    for ending in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(beside(&path, ending));
    }
    let gone = store.reopen();
    assert!(matches!(gone, Err(StoreError::Io(_))), "never made anew: {gone:?}");
    assert!(!path.exists());
    assert!(matches!(store.begin().map(drop), Err(StoreError::Closed)));
}

/// Another process that sees no lock may throw the log away when it leaves.
#[cfg(target_os = "linux")]
#[test]
fn opening_a_file_again_keeps_the_locks_of_this_process() {
    use std::os::unix::fs::MetadataExt;
    let folder = Folder::new();
    let path = folder.file("x.db");
    make(&path);
    let inode = format!(":{} ", fs::metadata(&path).unwrap().ino());
    let own = format!(" {} ", std::process::id());
    let locks = || {
        let all = fs::read_to_string("/proc/locks").unwrap();
        all.lines().filter(|line| line.contains(&own) && line.contains(&inode)).count()
    };
    let mut store = SqliteStore::open(&path).unwrap();
    assert_eq!(locks(), 1, "a store that is open shows it");
    drop(SqliteStore::open(&path).unwrap());
    drop(store.reader().unwrap());
    assert_eq!(locks(), 1);
    let reader = store.reader().unwrap();
    store.reopen().unwrap();
    drop(store);
    assert_eq!(locks(), 1);
    drop(reader);
    assert_eq!(locks(), 0);
}
