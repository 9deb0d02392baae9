//! A disk that is full, a file that is locked or read-only: an error that says so, and nothing half-stored.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod support;

use landfall_core::store::{Store as _, StoreError, StoreTx};
use landfall_core::task::Task;
use landfall_sqlite::SqliteStore;
use landfall_testkit::conformance::store::samples::{ended, entity, note, task};
use rusqlite::Connection;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Folder, commit};

fn large(seq: u64, bytes: usize) -> Task {
    let mut task = task(seq, &note(&seq.to_string()));
    task.intent.set("text", "x".repeat(bytes));
    task
}

fn put(store: &mut SqliteStore, task: &Task) -> Result<(), StoreError> {
    let mut tx = store.begin()?;
    tx.put_entity(&entity(&task.entity))?;
    tx.put_task(task)?;
    tx.commit()
}

/// Every task has its record and every record its task, and the counters agree.
fn assert_whole(store: &mut SqliteStore) -> Vec<u64> {
    let tx = store.begin().unwrap();
    let page = tx.tasks_after(0, usize::MAX).unwrap();
    assert_eq!(page.damaged, []);
    let positions: Vec<u64> = page.tasks.iter().map(|task| task.seq).collect();
    assert_eq!(tx.counts().unwrap().total(), positions.len() as u64);
    for seq in 1..=positions.last().map_or(0, |last| last + 2) {
        assert_eq!(tx.entity(&note(&seq.to_string())).unwrap().is_some(), positions.contains(&seq), "{seq}");
    }
    positions
}

/// Fills a store until it is full, frees some room, and goes on.
fn fill_free_and_go_on(mut store: SqliteStore, path: &Path, mut free_room: impl FnMut(&mut SqliteStore)) {
    let mut stored = Vec::new();
    let error = (1..10_000)
        .find_map(|seq| put(&mut store, &large(seq, 3_000)).map(|()| stored.push(seq)).err())
        .expect("it fills up");
    assert!(matches!(error, StoreError::Full(_)), "{error:?}");
    assert!(stored.len() > 10, "only {} fitted", stored.len());
    free_room(&mut store);
    // After a failed commit nothing works until it is opened again; after a statement that failed, it may go on.
    if store.begin().is_err() {
        store.reopen().unwrap();
    }
    assert_eq!(assert_whole(&mut store), stored);
    let next = stored.len() as u64 + 1;
    put(&mut store, &large(next, 100)).unwrap();
    stored.push(next);
    drop(store);
    assert_eq!(assert_whole(&mut SqliteStore::open(path).unwrap()), stored);
}

#[test]
fn a_bounded_file_that_is_full_says_so_and_keeps_what_it_has() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let store = SqliteStore::options().max_pages(100).open(&path).unwrap();
    fill_free_and_go_on(store, &path, |store| {
        commit(store, |tx| {
            for seq in [1, 2, 3] {
                let task = large(seq, 3_000);
                tx.settle_task(&task, &ended(&task, 1)).unwrap();
                tx.put_task(&task_in_place_of(seq)).unwrap();
            }
        });
    });
}

/// A small task at a position that was settled.
fn task_in_place_of(seq: u64) -> Task {
    large(seq, 1)
}

#[test]
fn after_a_full_statement_the_transaction_cannot_half_commit() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let mut store = SqliteStore::options().max_pages(100).open(&path).unwrap();
    for seq in 1..=5 {
        put(&mut store, &large(seq, 3_000)).unwrap();
    }
    let mut tx = store.begin().unwrap();
    let mut failed = 0;
    for seq in 6..400 {
        let outcome =
            tx.put_entity(&entity(&note(&seq.to_string()))).and_then(|()| tx.put_task(&large(seq, 3_000)));
        failed += usize::from(outcome.is_err());
    }
    assert!(failed > 0);
    drop(tx);
    assert_eq!(assert_whole(&mut store), [1, 2, 3, 4, 5]);
}

/// On a real disk without room where this process may make one; else by the bound on pages, which fails in the
/// statement instead of the commit.
#[test]
fn a_full_disk_says_so_and_keeps_what_it_has() {
    #[cfg(target_os = "linux")]
    if let Some(disk) = support::SmallDisk::new(2_000) {
        let path = disk.file("x.db");
        let ballast = disk.file("ballast");
        std::fs::write(&ballast, vec![0; 1_000_000]).unwrap();
        let store = SqliteStore::open(&path).unwrap();
        fill_free_and_go_on(store, &path, |store| {
            assert!(
                matches!(store.begin().map(drop), Err(StoreError::Closed)),
                "a failed commit must poison"
            );
            assert!(matches!(store.begin().map(drop), Err(StoreError::Closed)));
            std::fs::remove_file(&ballast).unwrap();
        });
        return;
    }
    eprintln!("no small disk can be made here; a bound on pages takes its place");
    a_bounded_file_that_is_full_says_so_and_keeps_what_it_has();
}

#[test]
fn a_disk_without_any_room_does_not_open_a_store() {
    #[cfg(target_os = "linux")]
    if let Some(disk) = support::SmallDisk::new(40) {
        let full = SqliteStore::open(disk.file("x.db"));
        assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
        return;
    }
    let folder = Folder::new();
    let full = SqliteStore::options().max_pages(5).open(folder.file("x.db"));
    assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
}

#[test]
fn a_migration_without_room_leaves_the_old_schema() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch(include_str!("golden/format-1.sql")).unwrap();
    let old = "SELECT count(*) FROM landfall_conflicts WHERE rule = 'server wins'";
    let pages = support::number(&raw, "PRAGMA page_count");
    for room in 0..3 {
        let full = SqliteStore::options().max_pages(pages as u32 + room).open(&path);
        assert!(matches!(full, Err(StoreError::Full(_))), "{room} pages: {full:?}");
        assert_eq!(support::number(&raw, "PRAGMA user_version"), 1);
        assert_eq!(support::number(&raw, old), 1);
    }
    drop(SqliteStore::open(&path).unwrap());
    assert_eq!(support::number(&raw, "PRAGMA user_version"), 3);
}

#[test]
fn a_locked_file_is_busy_after_the_timeout_and_nothing_is_half_stored() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let timeout = Duration::from_millis(200);
    let mut store = SqliteStore::options().busy_timeout(timeout).open(&path).unwrap();
    put(&mut store, &large(1, 10)).unwrap();
    let mut reader = store.reader().unwrap().unwrap();
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch("BEGIN IMMEDIATE; UPDATE landfall_facts SET sum = 0 WHERE name = 'counters'").unwrap();
    let start = Instant::now();
    let busy = store.begin().map(drop);
    assert!(matches!(busy, Err(StoreError::Busy(_))), "{busy:?}");
    assert!(start.elapsed() >= timeout);
    reader.read(&mut |rows| rows.counts().map(|counts| assert_eq!(counts.total(), 1))).unwrap();
    raw.execute_batch("ROLLBACK").unwrap();
    put(&mut store, &large(2, 10)).unwrap();
    assert_eq!(assert_whole(&mut store), [1, 2]);
}

#[test]
fn a_writer_waits_for_another_that_is_done_in_time() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let mut store = SqliteStore::open(&path).unwrap();
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (started, is_started) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let store = &mut store;
        let writer = scope.spawn(move || {
            started.send(()).unwrap();
            put(store, &large(1, 10))
        });
        is_started.recv().unwrap();
        raw.execute_batch("COMMIT").unwrap();
        writer.join().unwrap().unwrap();
    });
}

#[test]
fn a_reader_in_a_long_look_does_not_stop_writer_or_idle_work() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let mut store = SqliteStore::open(&path).unwrap();
    let mut reader = store.reader().unwrap().unwrap();
    let mut look = |rows: &dyn landfall_core::store::StoreRead| {
        assert_eq!(rows.counts()?.total(), 0);
        for seq in 1..=600 {
            put(&mut store, &large(seq, 30_000))?;
        }
        let start = Instant::now();
        store.idle()?;
        assert!(start.elapsed() < Duration::from_secs(4), "it waited for the reader");
        assert_eq!(rows.counts()?.total(), 0, "one state");
        Ok(())
    };
    reader.read(&mut look).unwrap();
    let log = support::beside(&path, "-wal");
    assert!(std::fs::metadata(&log).unwrap().len() > 16 << 20);
    store.idle().unwrap();
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 0, "a long log is emptied when there is time");
    reader.read(&mut |rows| rows.counts().map(|counts| assert_eq!(counts.total(), 600))).unwrap();
}

#[cfg(unix)]
#[test]
fn what_cannot_be_written_to_is_read_only_and_left_untouched() {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    let name = "what_cannot_be_written_to_is_read_only_and_left_untouched";
    if let Some(folder) = support::as_child() {
        let folder = Path::new(&folder);
        for path in
            ["locked-file/x.db", "locked-folder/x.db", "locked-folder/new.db"].map(|name| folder.join(name))
        {
            let before = support::all_bytes(&path);
            let refused = SqliteStore::open(&path);
            assert!(matches!(refused, Err(StoreError::ReadOnly(_))), "{}: {refused:?}", path.display());
            assert!(support::all_bytes(&path) == before);
        }
        return;
    }
    let folder = Folder::new();
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(folder.path(), 0o755);
    for (name, folder_mode, file_mode) in [("locked-file", 0o777, 0o444), ("locked-folder", 0o555, 0o666)] {
        let inner = folder.file(name);
        fs::create_dir(&inner).unwrap();
        put(&mut SqliteStore::open(inner.join("x.db")).unwrap(), &large(1, 10)).unwrap();
        mode(&inner.join("x.db"), file_mode);
        mode(&inner, folder_mode);
    }
    support::run_unprivileged(name, &folder);
    for name in ["locked-file", "locked-folder"] {
        mode(&folder.file(name), 0o755);
        mode(&folder.file(name).join("x.db"), 0o644);
        assert_eq!(assert_whole(&mut SqliteStore::open(folder.file(name).join("x.db")).unwrap()), [1]);
    }
}

#[test]
fn a_store_that_was_dropped_in_a_transaction_is_whole() {
    let folder = Folder::new();
    let path = folder.file("x.db");
    let mut store = SqliteStore::open(&path).unwrap();
    put(&mut store, &large(1, 10)).unwrap();
    {
        let mut tx = store.begin().unwrap();
        tx.put_task(&large(2, 10)).unwrap();
        let _: &mut dyn StoreTx = tx.as_mut();
    }
    drop(store);
    assert_eq!(assert_whole(&mut SqliteStore::open(&path).unwrap()), [1]);
}
