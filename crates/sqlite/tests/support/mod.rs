//! What the tests of this crate share: folders that go away, a harness for the store suite, raw looks at a file.
#![allow(dead_code, reason = "each test program uses a part of it")]

use landfall_core::id::TaskId;
use landfall_core::store::{Store, StoreTx};
use landfall_sqlite::SqliteStore;
use landfall_testkit::conformance::store::StoreUnderTest;
use rusqlite::Connection;
use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of its own, removed at the end.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("landfall-sqlite-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the store suite on files.
pub(crate) struct Files {
    folder: Folder,
    next: Cell<u32>,
    current: RefCell<PathBuf>,
    options: landfall_sqlite::Options,
}

impl Files {
    pub(crate) fn new(options: landfall_sqlite::Options) -> Self {
        Self { folder: Folder::new(), next: Cell::new(0), current: RefCell::default(), options }
    }

    fn open(&self) -> Box<dyn Store> {
        Box::new(self.options.clone().open(&*self.current.borrow()).unwrap())
    }
}

impl StoreUnderTest for Files {
    fn create(&self) -> Box<dyn Store> {
        self.next.set(self.next.get() + 1);
        self.current.replace(self.folder.file(&format!("{}.db", self.next.get())));
        self.open()
    }

    fn reopen(&self, store: Box<dyn Store>) -> Box<dyn Store> {
        drop(store);
        self.open()
    }

    fn damage(&self, store: Box<dyn Store>, task: TaskId) -> Option<Box<dyn Store>> {
        drop(store);
        let raw = Connection::open(&*self.current.borrow()).unwrap();
        let sql = "UPDATE landfall_tasks SET attempts = attempts + 1 WHERE task_id = ?";
        assert_eq!(raw.execute(sql, [task.0.as_bytes()]).unwrap(), 1);
        drop(raw);
        Some(self.open())
    }
}

/// Runs `work` in a transaction of its own and commits it.
pub(crate) fn commit<T>(store: &mut SqliteStore, work: impl FnOnce(&mut dyn StoreTx) -> T) -> T {
    let mut tx = store.begin().unwrap();
    let result = work(tx.as_mut());
    tx.commit().unwrap();
    result
}

/// `path` with `ending` behind its name.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// The bytes of a database and its companions; `None` for a file that is not there.
pub(crate) fn all_bytes(path: &Path) -> [Option<Vec<u8>>; 4] {
    ["", "-wal", "-shm", "-journal"].map(|ending| std::fs::read(beside(path, ending)).ok())
}

/// One number out of a raw connection.
pub(crate) fn number(raw: &Connection, sql: &str) -> i64 {
    raw.query_one(sql, (), |row| row.get(0)).unwrap()
}
