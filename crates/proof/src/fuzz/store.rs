//! A whole store file with some of its bytes changed, opened, read and rescued through the public door: row codec,
//! checksums and the page reader of the rescue lie behind it.
//!
//! An input is a list of changes, five bytes each: which page (two), where in it (two), and what is put there by
//! exclusive or (a first byte of 255 cuts the file there instead).

use landfall_core::store::Store as _;
use landfall_core::task::Task;
use landfall_sqlite::{Missing, SqliteStore};
use landfall_testkit::conformance::store::samples::{note, task};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const TASKS: u64 = 40;
const PAGE: usize = 4096;

struct Original {
    bytes: Vec<u8>,
    tasks: Vec<Task>,
}

/// A folder of one run, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("landfall-fuzz-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for the run");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn original() -> &'static Original {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let folder = Folder::new();
        let path = folder.0.join("queue.db");
        let mut tasks = Vec::new();
        let mut store = SqliteStore::open(&path).expect("a new store");
        let mut tx = store.begin().expect("a transaction");
        for number in 1..=TASKS {
            let seq = tx.next_seq().expect("a position");
            let mut task = task(seq, &note(&format!("n{number}")));
            // Every fourth is longer than a page.
            let long = if number % 4 == 0 { 6_000 } else { 20 };
            task.intent.set("text", format!("{number} {}", "x".repeat(long)));
            tx.put_task(&task).expect("put");
            tasks.push(task);
        }
        tx.commit().expect("durable");
        drop(store);
        Original { bytes: fs::read(&path).expect("the file"), tasks }
    })
}

pub(super) fn file(input: &[u8]) {
    let original = original();
    let mut bytes = original.bytes.clone();
    for change in input.chunks_exact(5) {
        let page = usize::from(u16::from_be_bytes([change[0], change[1]])) % (original.bytes.len() / PAGE);
        let at = page * PAGE + usize::from(u16::from_be_bytes([change[2], change[3]])) % PAGE;
        if change[0] == 255 {
            bytes.truncate(at);
        } else if let Some(byte) = bytes.get_mut(at) {
            *byte ^= change[4];
        }
    }
    let folder = Folder::new();
    let path = folder.0.join("queue.db");
    fs::write(&path, &bytes).expect("the changed file");
    match SqliteStore::open(&path) {
        Ok(store) => read(store, original, bytes == original.bytes),
        Err(_) => assert!(bytes != original.bytes, "a whole file is refused"),
    }
    rescue(&path, &bytes, original);
}

/// Whatever is handed out is what was put in, and a whole file is read wholly.
fn read(mut store: SqliteStore, original: &Original, whole: bool) {
    let page = store.begin().and_then(|tx| tx.tasks_after(0, 1_000));
    assert!(!whole || page.as_ref().is_ok_and(|page| page.tasks == original.tasks), "{page:?}");
    for task in page.iter().flat_map(|page| &page.tasks) {
        assert!(original.tasks.contains(task), "nobody put this in: {task:?}");
    }
}

fn rescue(path: &Path, bytes: &[u8], original: &Original) {
    let Ok(report) = SqliteStore::rescue(path) else {
        assert!(bytes != original.bytes, "a whole file cannot be rescued");
        return;
    };
    let mut store = SqliteStore::open(path).expect("what a rescue leaves can be opened");
    let page = store.begin().and_then(|tx| tx.tasks_after(0, 1_000));
    let page = page.expect("what a rescue leaves can be read");
    assert!(page.damaged.is_empty(), "a rescue leaves damaged rows");
    let tasks = page.tasks.len() as u64;
    assert_eq!(tasks, report.tasks, "{report:?}");
    for task in &page.tasks {
        let known = original.tasks.iter().find(|known| known.id == task.id);
        let known = known.unwrap_or_else(|| panic!("nobody put this in: {task:?}"));
        assert!((&task.intent, &task.entity) == (&known.intent, &known.entity), "{task:?}");
    }
    if bytes == original.bytes {
        assert_eq!((tasks, report.missing), (TASKS, Missing::Exactly(0)), "{report}");
    }
    // What is lost is said.
    if let Missing::Exactly(missing) = report.missing {
        assert!(tasks + report.not_queued + missing >= TASKS, "{tasks} of {TASKS} left: {report:?}");
    }
}
