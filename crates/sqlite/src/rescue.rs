//! Rescue: what can still be believed of a broken file becomes a new store, and the broken file is kept.
//!
//! The file is read by hand (`rescue/pages.rs`), rows are believed for their checksums alone (`rescue/rows.rs`), and
//! what may be out of date is told apart from what is not (`rescue/salvage.rs`). Here is what becomes of it: the broken
//! file is moved aside, a new store is built beside it and takes its place as its last step. A marker lies there in
//! between, with which no store opens: a rescue that was cut off is begun again, and never passes for an empty queue.
//! It decides about rows, not about backends. Tests: `tests/rescue.rs`.

use crate::error::failed;
use crate::file;
use crate::store::SqliteStore;
use landfall_core::store::StoreError;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

mod build;
mod export;
mod pages;
mod rows;
mod salvage;

use build::Built;
use pages::Image;

/// What to do at opening with a file that is corrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnCorrupt {
    /// Opening fails, and the file is left as it is.
    #[default]
    Refuse,
    /// It is rescued ([`SqliteStore::rescue`]) and the new store is opened. [`SqliteStore::rescued`] says what was lost:
    /// an app has to look at it.
    Rescue,
}

/// What a rescue brought, and what it did not. Nothing is in it that is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RescueReport {
    /// Where the broken file is now, with its log beside it. It is never deleted.
    pub kept: PathBuf,
    /// Every unsynced change that was found, as JSON Lines.
    pub rescue_file: PathBuf,
    /// Tasks that are in the new queue.
    pub tasks: u64,
    /// Those of them whose fate is open: they are sent again under the same key with the same bytes.
    pub unknown: u64,
    /// Tasks that are in the rescue file and not in the queue: they may be out of date or may have taken effect already,
    /// and sending them could do something twice. A person decides.
    pub not_queued: u64,
    /// Records.
    pub entities: u64,
    /// Conflicts, open or settled.
    pub conflicts: u64,
    /// Ends of tasks.
    pub journal: u64,
    /// Whether the replica goes on under its client id. Otherwise it is a new client for the backend, and what was sent
    /// before with an open fate is a dead letter now: its key means nothing to the backend any more.
    pub client_kept: bool,
    /// Whether rows are missing.
    pub missing: Missing,
    /// Pages that should hold rows and cannot be read.
    pub pages_unreadable: u64,
    /// Rows that are there and whose checksum does not fit, and rows that are known to be gone: the first of them.
    pub lost: Vec<LostRow>,
    /// How many more of them there are.
    pub lost_more: u64,
    /// Parts of the write-ahead log that were damaged or are known to be missing: the last changes may be lost, and
    /// what was done last may be undone.
    pub log_is_torn: bool,
}

/// Whether tasks are missing: neither in the new queue nor in the rescue file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// Exactly so many tasks: the index of the queue could be read to its end.
    Exactly(u64),
    /// At least so many. There may be more of which nothing is left to tell.
    AtLeast(u64),
}

/// A row that could not be salvaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LostRow {
    /// The table.
    pub table: String,
    /// Its position there, if it is known. Of a task it is its place in the queue.
    pub position: Option<i64>,
    /// The record it is about, as far as it can be read; not proven by a checksum.
    pub about: Option<String>,
}

/// Most rows that a report names one by one: enough to see what is lost, few enough to show.
const LOST_MAX: usize = 1_000;

impl fmt::Display for RescueReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the broken file is kept at {}", self.kept.display())?;
        writeln!(f, "every unsynced change that was found is in {}", self.rescue_file.display())?;
        writeln!(
            f,
            "salvaged: {} tasks ({} of unknown fate), {} records, {} conflicts, {} ended tasks",
            self.tasks, self.unknown, self.entities, self.conflicts, self.journal
        )?;
        if self.not_queued > 0 {
            writeln!(f, "{} tasks may be out of date and are in the rescue file only", self.not_queued)?;
        }
        match self.missing {
            Missing::Exactly(0) => writeln!(f, "no task is missing")?,
            Missing::Exactly(tasks) => writeln!(f, "{tasks} tasks are known to be missing")?,
            Missing::AtLeast(0) => writeln!(f, "whether tasks are missing cannot be told")?,
            Missing::AtLeast(tasks) => writeln!(f, "at least {tasks} tasks are missing, there may be more")?,
        }
        if self.pages_unreadable > 0 {
            writeln!(f, "{} pages cannot be read", self.pages_unreadable)?;
        }
        for row in &self.lost {
            write!(f, "lost: a row of {}", row.table)?;
            row.position.map_or(Ok(()), |position| write!(f, " at position {position}"))?;
            row.about.as_ref().map_or(Ok(()), |about| write!(f, ", perhaps of {about}"))?;
            writeln!(f)?;
        }
        if self.lost_more > 0 {
            writeln!(f, "lost: {} rows more", self.lost_more)?;
        }
        if self.log_is_torn {
            writeln!(f, "the write-ahead log is torn: the last changes before the damage may be lost")?;
        }
        if !self.client_kept {
            writeln!(f, "the name of this client is lost: it goes on as a new one")?;
        }
        Ok(())
    }
}

impl SqliteStore {
    /// Rescues the store at `path`: moves the file with its log aside to `NAME.corrupt-TIME`, writes every unsynced change
    /// that can still be believed to `NAME.rescued-TIME.jsonl`, and puts a new store with all salvaged rows in its place.
    /// Nothing is deleted or written over. What was cut off is taken up again when it is called once more. Encrypted
    /// files cannot be rescued, nor an outbox within the database of an app.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while somebody uses the file, [`StoreError::Foreign`] when there is no row in it that is one of
    /// ours; both leave everything as it is. Others when the disk fails; the salvage can then be called again.
    pub fn rescue(path: impl AsRef<Path>) -> Result<RescueReport, StoreError> {
        let path = file::absolute(path.as_ref())?;
        let stamp = match interrupted(&path)? {
            Some(stamp) => stamp,
            None => {
                check(&path)?;
                let stamp = free_stamp(&path)?;
                mark(&path, &stamp)?;
                stamp
            }
        };
        let kept = file::beside(&path, &format!(".corrupt-{stamp}"));
        move_aside(&path, &kept)?;
        let new = file::beside(&path, &format!(".rescue-{stamp}.tmp"));
        for ending in COMPANIONS {
            remove(&file::beside(&new, ending))?;
        }
        let image = image_of(&kept)?;
        let built = build::build(&image, &new)?;
        let rescue_file = write_rescue_file(&path, &stamp, &new, &built)?;
        sync_new(&new)?;
        fs::rename(&new, &path).map_err(|error| io_error(&path, &error))?;
        sync_folder(&path)?;
        remove(&marker(&path))?;
        sync_folder(&path)?;
        Ok(report(kept, rescue_file, &image, built))
    }
}

/// Opens a store after a rescue, if `options` say so and the file is one that can be rescued.
pub(crate) fn instead_of(error: StoreError, path: &Path) -> Result<RescueReport, StoreError> {
    match SqliteStore::rescue(path) {
        Ok(report) => Ok(report),
        // Why it was to be rescued says more than that it cannot be.
        Err(StoreError::Foreign(_)) => Err(error),
        Err(other) => Err(other),
    }
}

/// Says what can be done about a corrupt file.
pub(crate) fn with_advice(error: StoreError, path: &Path) -> StoreError {
    match error {
        StoreError::Corrupt(text) => StoreError::Corrupt(format!(
            "{text}; `landfall rescue {}` saves what can be read and keeps the file",
            path.display()
        )),
        other => other,
    }
}

/// Whether a rescue of the file at `path` began and did not end.
pub(crate) fn is_interrupted(path: &Path) -> bool {
    marker(path).exists()
}

/// The database and what SQLite keeps beside it.
const COMPANIONS: [&str; 4] = ["", "-wal", "-shm", "-journal"];

fn marker(path: &Path) -> PathBuf {
    file::beside(path, ".rescuing")
}

fn interrupted(path: &Path) -> Result<Option<String>, StoreError> {
    match fs::read_to_string(marker(path)) {
        Ok(stamp)
            if stamp.len() < 40 && stamp.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') =>
        {
            // The marker is made before it is written.
            Ok(Some(stamp).filter(|stamp| !stamp.is_empty()))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, &error)),
    }
}

fn mark(path: &Path, stamp: &str) -> Result<(), StoreError> {
    let marker = marker(path);
    let mut file = private(&marker, false)?;
    file.write_all(stamp.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| io_error(&marker, &error))?;
    sync_folder(path)
}

/// Refuses what must not be moved: a file in use, and one that holds nothing of ours.
fn check(path: &Path) -> Result<(), StoreError> {
    let metadata = fs::metadata(path).map_err(|error| io_error(path, &error))?;
    if !metadata.is_file() {
        return Err(StoreError::Foreign(format!("{} is not a file", path.display())));
    }
    if file::is_in_use(path) || (metadata.len() > 0 && is_used_elsewhere(path)) {
        return Err(StoreError::Busy(format!("{} is in use; close whatever has it open", path.display())));
    }
    let image = image_of(path)?;
    if let Some(table) = build::foreign_table(&image) {
        return Err(StoreError::Foreign(format!(
            "{} is the database of another program: it has a table {table:?}",
            path.display()
        )));
    }
    if !build::has_rows(&image)? {
        return Err(StoreError::Foreign(format!(
            "{} holds no row of a Landfall store that can be believed, or it is encrypted; it was left as it is",
            path.display()
        )));
    }
    Ok(())
}

fn image_of(path: &Path) -> Result<Image, StoreError> {
    let (log, shared) = (file::beside(path, "-wal"), file::beside(path, "-shm"));
    Image::open(path, &log, &shared).map_err(|error| io_error(path, &error))
}

/// Whether another process has the file open, as far as it can be told: by asking for it alone, and on Linux by the
/// system's list of locks. Nothing is written, and the log stays as it is.
fn is_used_elsewhere(path: &Path) -> bool {
    is_locked(path) || cannot_be_had_alone(path)
}

#[cfg(target_os = "linux")]
fn is_locked(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return false };
    let me = std::process::id().to_string();
    ["", "-shm"].into_iter().filter_map(|ending| fs::metadata(file::beside(path, ending)).ok()).any(
        |metadata| {
            let inode = format!(":{}", metadata.ino());
            locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|lock| {
                let held = lock.get(1).is_some_and(|kind| *kind == "POSIX" || *kind == "OFDLCK");
                held && lock.get(4) != Some(&me.as_str())
                    && lock.get(5).is_some_and(|place| place.ends_with(&inode))
            })
        },
    )
}

#[cfg(not(target_os = "linux"))]
fn is_locked(_: &Path) -> bool {
    false
}

fn cannot_be_had_alone(path: &Path) -> bool {
    use rusqlite::config::DbConfig;
    use rusqlite::{Connection, OpenFlags};
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let alone = || -> rusqlite::Result<()> {
        let connection = Connection::open_with_flags(path, flags)?;
        // Closing must not move the log into the file.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; ROLLBACK")
    };
    alone().is_err_and(|error| matches!(failed(error), StoreError::Busy(_)))
}

/// A time in UTC that no earlier rescue of this file has in a name.
fn free_stamp(path: &Path) -> Result<String, StoreError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let stamp = utc(since.as_secs());
    let names =
        (1..1_000).map(|number| if number == 1 { stamp.clone() } else { format!("{stamp}-{number}") });
    let is_free = |stamp: &String| {
        let kept = COMPANIONS.map(|ending| file::beside(path, &format!(".corrupt-{stamp}{ending}")));
        let others = [file::beside(path, &format!(".rescued-{stamp}.jsonl"))];
        kept.iter().chain(&others).all(|name| fs::symlink_metadata(name).is_err())
    };
    let free = names.into_iter().find(is_free);
    free.ok_or_else(|| StoreError::Io(format!("{} was rescued too often this second", path.display())))
}

/// `YYYYMMDDTHHMMSSZ`.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil from days, in years that begin in March (Howard Hinnant's algorithm).
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

/// Moves the file and what is beside it. What an earlier, interrupted call has moved stays where it is.
fn move_aside(path: &Path, kept: &Path) -> Result<(), StoreError> {
    for ending in COMPANIONS {
        let (from, to) = (file::beside(path, ending), file::beside(kept, ending));
        if fs::symlink_metadata(&to).is_ok() {
            if ending.is_empty() && fs::symlink_metadata(&from).is_ok() {
                // The last step of that call was done but for the marker: what lies here is the new store.
                return Ok(());
            }
            continue;
        }
        match fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(&from, &error)),
        }
    }
    sync_folder(path)
}

fn write_rescue_file(path: &Path, stamp: &str, new: &Path, built: &Built) -> Result<PathBuf, StoreError> {
    // An interrupted call may have left one: it is ours, but nothing is ever written over.
    let names = (1..1_000).map(|number| match number {
        1 => file::beside(path, &format!(".rescued-{stamp}.jsonl")),
        _ => file::beside(path, &format!(".rescued-{stamp}.{number}.jsonl")),
    });
    let mut names = names.filter(|name| fs::symlink_metadata(name).is_err());
    let name = names.next().ok_or_else(|| StoreError::Io("there are too many rescue files".to_string()))?;
    let mut file = private(&name, true)?;
    export::write(&mut file, new, built)?;
    file.sync_all().map_err(|error| io_error(&name, &error))?;
    sync_folder(path)?;
    Ok(name)
}

fn sync_new(new: &Path) -> Result<(), StoreError> {
    let file = OpenOptions::new().read(true).write(true).open(new).map_err(|error| io_error(new, &error))?;
    file.sync_all().map_err(|error| io_error(new, &error))?;
    // Its log was moved into it; what is left would belong to no file.
    COMPANIONS[1..].iter().try_for_each(|ending| remove(&file::beside(new, ending)))
}

/// A file that only its owner may read.
fn private(path: &Path, new: bool) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).create_new(new).truncate(!new);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|error| io_error(path, &error))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path, &error)),
        _ => Ok(()),
    }
}

/// Makes names durable. Elsewhere than on Unix a folder cannot be synced.
fn sync_folder(path: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io_error(folder, &error))?;
    }
    let _ = path;
    Ok(())
}

fn io_error(path: &Path, error: &io::Error) -> StoreError {
    file::io_error(path, error)
}

fn report(kept: PathBuf, rescue_file: PathBuf, image: &Image, built: Built) -> RescueReport {
    let Built { counted, not_queued, client_kept, missing, pages_unreadable, mut lost, .. } = built;
    let lost_more = lost.len().saturating_sub(LOST_MAX) as u64;
    lost.truncate(LOST_MAX);
    RescueReport {
        kept,
        rescue_file,
        tasks: counted.tasks,
        unknown: counted.unknown,
        not_queued: not_queued.len() as u64,
        entities: counted.entities,
        conflicts: counted.conflicts,
        journal: counted.journal,
        client_kept,
        missing,
        pages_unreadable,
        lost,
        lost_more,
        log_is_torn: image.frames_broken() + image.frames_missing() > 0,
    }
}

#[cfg(test)]
mod tests;
