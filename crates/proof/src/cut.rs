//! What must be true of the files that a power cut left: the store opens, shows what it may and nothing else, is whole, and
//! takes one more change. Tests: `tests/power_loss.rs`, with bugs planted that it has to find.

use crate::device::{Device, FILE, Op, Trouble, options};
use crate::state::{History, State, one_of};
use landfall_core::store::Store as _;
use landfall_simdisk::{Disk, Files};
use landfall_sqlite::SqliteStore;
use rusqlite::Connection;

/// Opens the files of a power cut on a disk of their own, and returns what the store did there since, to be cut again with
/// [`Disk::recorded`](landfall_simdisk::Disk::recorded).
///
/// # Errors
/// When a rule is broken.
pub fn examine(disk: &Disk, files: &Files, allowed: &[&State]) -> Result<History, String> {
    disk.load(files);
    disk.record();
    let mut store = options()
        .open(disk.path(FILE))
        .map_err(|error| format!("it does not open: {error:?}; {}", told(files)))?;
    let found = look(&mut store).map_err(|error| format!("it cannot be read: {error:?}"))?;
    one_of(&found, allowed)?;
    drop(store);
    let mut history = History::of(found.clone());
    let wrong = |trouble: Trouble| format!("it does not go on: {trouble:?}");
    let mut device = Device::open(disk, &options(), 2_000_000_000_000, &mut history).map_err(wrong)?;
    // A record of which there is no change yet, also when this is done twice.
    let record = 1_000 + found.tasks.len() as u64;
    device.apply(&Op::Enqueue { record, bytes: 50 }, &mut history).map_err(wrong)?;
    let after = look(device.store()).map_err(|error| format!("it cannot be read again: {error:?}"))?;
    if after.tasks.len() != found.tasks.len() + 1 {
        return Err(format!("one more change, and {} tasks are {}", found.tasks.len(), after.tasks.len()));
    }
    let check = integrity(disk).map_err(|error| format!("it cannot be checked: {error}"))?;
    if check != "ok" {
        return Err(format!("not whole: {check}"));
    }
    Ok(history)
}

fn look(store: &mut SqliteStore) -> Result<State, landfall_core::store::StoreError> {
    State::of(&*store.begin()?)
}

/// What SQLite itself says of the file.
///
/// # Errors
/// When it cannot say.
pub fn integrity(disk: &Disk) -> rusqlite::Result<String> {
    let raw = Connection::open(disk.path(FILE))?;
    raw.query_one("PRAGMA integrity_check", (), |row| row.get(0))
}

fn told(files: &Files) -> String {
    files.iter().map(|(name, bytes)| format!("{name}: {} bytes", bytes.len())).collect::<Vec<_>>().join(", ")
}
