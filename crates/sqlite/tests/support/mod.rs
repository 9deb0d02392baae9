//! What the tests of this crate share: folders that go away, a harness for the store suite, raw looks at a file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]
#![allow(dead_code, reason = "each test program uses a part of it")]

use landfall_core::id::{ConflictId, EntityKey, TaskId};
use landfall_core::store::{Store, StoreTx};
use landfall_sqlite::SqliteStore;
use landfall_testkit::conformance::store::StoreUnderTest;
use rusqlite::Connection;
use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
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
    /// What a raw connection needs before it can look at a file.
    unlock: &'static str,
}

impl Files {
    pub(crate) fn new(options: landfall_sqlite::Options) -> Self {
        Self::unlocked_by(options, "")
    }

    pub(crate) fn unlocked_by(options: landfall_sqlite::Options, unlock: &'static str) -> Self {
        Self { folder: Folder::new(), next: Cell::new(0), current: RefCell::default(), options, unlock }
    }

    fn open(&self) -> Box<dyn Store> {
        Box::new(self.options.clone().open(&*self.current.borrow()).unwrap())
    }

    /// Changes one row behind the store's back.
    fn spoil(&self, store: Box<dyn Store>, sql: &str, row: impl rusqlite::Params) -> Option<Box<dyn Store>> {
        drop(store);
        let raw = Connection::open(&*self.current.borrow()).unwrap();
        raw.execute_batch(self.unlock).unwrap();
        assert_eq!(raw.execute(sql, row).unwrap(), 1);
        drop(raw);
        Some(self.open())
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
        let sql = "UPDATE landfall_tasks SET attempts = attempts + 1 WHERE task_id = ?";
        self.spoil(store, sql, [task.0.as_bytes()])
    }

    fn damage_entity(&self, store: Box<dyn Store>, key: &EntityKey) -> Option<Box<dyn Store>> {
        let sql =
            "UPDATE landfall_entities SET reading = reading + 1 WHERE entity_type = ? AND entity_id = ?";
        self.spoil(store, sql, [&key.entity_type, &key.entity_id])
    }

    fn damage_conflict(&self, store: Box<dyn Store>, id: ConflictId) -> Option<Box<dyn Store>> {
        let sql = "UPDATE landfall_conflicts SET record = record || ' ' WHERE conflict_id = ?";
        self.spoil(store, sql, [id.0.as_bytes()])
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

/// The name under which a test program finds out that it is a child, and what it shall do.
const CHILD: &str = "LANDFALL_SQLITE_TEST_CHILD";

/// What the parent passed, if this process is a child of [`child`].
pub(crate) fn as_child() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// This very test program, running only the test `name`, which asks [`as_child`] for `task`.
pub(crate) fn child(program: &Path, name: &str, task: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", name, "--nocapture", "--quiet", "--test-threads=1"]).env(CHILD, task);
    command
}

/// Whether permissions mean nothing to this process.
#[cfg(unix)]
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    let folder = Folder::new();
    std::fs::metadata(folder.path()).unwrap().uid() == 0
}

/// Runs the test `name` as somebody to whom permissions mean something: in a child, and if need be as "nobody". The
/// child gets `folder` as its task, and everything in it must be readable to others.
#[cfg(unix)]
pub(crate) fn run_unprivileged(name: &str, folder: &Folder) {
    use std::os::unix::process::CommandExt;
    // The build's folder may be closed to others; a copy beside the files is not.
    let program = folder.file("test-program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = child(&program, name, folder.path().to_str().unwrap());
    command.current_dir(folder.path());
    if is_root() {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A file system with `kib` KiB of room, if this process may make one.
#[cfg(target_os = "linux")]
pub(crate) struct SmallDisk(Folder);

#[cfg(target_os = "linux")]
impl SmallDisk {
    pub(crate) fn new(kib: u32) -> Option<Self> {
        let folder = Folder::new();
        let size = format!("size={kib}k");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.file(name)
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a connection may still be open in a test that failed.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}
