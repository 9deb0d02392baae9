//! The file before SQLite works on it: whether there is one, what it is, and making a new one.
//!
//! Looking must not change one byte, not of the write-ahead log nor of the shared memory either, so it is done by hand:
//! the first page's header, here and in the log (`wal.rs`). It asks no more of the file than that, because a file whose
//! log was being moved into it is whole only together with the log. And it must not open a file that SQLite has open in
//! this process: closing any descriptor of a file drops the POSIX locks that the process holds on it. Hence the list of
//! open files. Tests: `tests/opening.rs`, `tests/faults.rs`.

use crate::error::failed;
use crate::migrate::{APPLICATION_ID, NEWEST};
use crate::{rescue, wal};
use landfall_core::store::StoreError;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

/// The header fields that say whose database it is, and whether it has tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Marks {
    pub(crate) application_id: u32,
    pub(crate) user_version: u32,
    pub(crate) has_tables: bool,
}

/// As much of the first page as carries the marks.
const MARKED_BYTES: usize = 105;

impl Marks {
    /// Reads them off a first page of at least [`MARKED_BYTES`]. Format: sqlite.org/fileformat2.html, section 1.3.
    pub(crate) fn of_page(page: &[u8]) -> Self {
        let word = |at: usize| u32::from_be_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        // The list of tables is empty: a leaf without cells.
        let has_tables = page[100..MARKED_BYTES] != [13, page[101], page[102], 0, 0];
        Self { user_version: word(60), application_id: word(68), has_tables }
    }

    /// Reads them as `connection` sees them, all at one moment.
    pub(crate) fn of(connection: &Connection) -> Result<Self, StoreError> {
        if connection.is_autocommit() {
            connection.execute_batch("BEGIN DEFERRED").map_err(failed)?;
            let marks = Self::of(connection);
            // A read that failed, as on a full disk, may have ended the transaction itself: its reason is what counts.
            let ended = if connection.is_autocommit() {
                Ok(())
            } else {
                connection.execute_batch("ROLLBACK").map_err(failed)
            };
            return marks.and_then(|marks| ended.map(|()| marks));
        }
        let number = |sql: &str| -> rusqlite::Result<Option<i64>> {
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query(())?;
            rows.next()?.map(|row| row.get(0)).transpose()
        };
        // Both are 32 bits without a sign in the file; SQLite shows them with one.
        let bits = |number: Option<i64>| number.map_or(0, |n| (n & 0xffff_ffff) as u32);
        Ok(Self {
            application_id: bits(number("PRAGMA application_id").map_err(failed)?),
            user_version: bits(number("PRAGMA user_version").map_err(failed)?),
            has_tables: number("SELECT 1 FROM sqlite_schema LIMIT 1").map_err(failed)?.is_some(),
        })
    }

    /// Refuses what this build must not touch; otherwise says whether there is a store, or nothing yet.
    pub(crate) fn check(self, path: &Path) -> Result<bool, StoreError> {
        match self {
            Self { application_id: APPLICATION_ID, user_version, .. } if user_version > NEWEST => {
                Err(StoreError::TooNew { found: user_version, known: NEWEST })
            }
            Self { application_id: APPLICATION_ID, user_version: 1.., .. } => Ok(true),
            Self { application_id: 0, user_version: 0, has_tables: false } => Ok(false),
            Self { application_id, .. } => Err(StoreError::Foreign(format!(
                "{} is the database of another program (application id {application_id:#x})",
                path.display()
            ))),
        }
    }
}

/// The files that this process has open through SQLite, and how often.
static IN_USE: Mutex<BTreeMap<Identity, u32>> = Mutex::new(BTreeMap::new());

/// A place in the list of open files.
#[derive(Debug)]
pub(crate) struct InUse {
    identity: Identity,
}

impl InUse {
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = in_use.get_mut(&self.identity) {
            *count -= 1;
            if *count == 0 {
                in_use.remove(&self.identity);
            }
        }
    }
}

/// Whose a database is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    /// A store and nothing else.
    Ours,
    /// That of an app, with our tables among others. Its header, and whether it exists, are the app's affair.
    AnApps,
    /// A store that only its key can read. What is in its header is not to be seen.
    #[cfg_attr(not(feature = "sqlcipher"), allow(dead_code, reason = "only with the feature there are any"))]
    Encrypted,
}

/// Whether this process has the file open through SQLite.
pub(crate) fn is_in_use(path: &Path) -> bool {
    let in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    Identity::of(path).is_ok_and(|identity| in_use.contains_key(&identity))
}

/// Looks at `path` without changing anything, makes an empty file if there is none and one may be made, and enters the
/// file into the list of open ones.
pub(crate) fn look(path: &Path, may_create: bool, whose: Whose) -> Result<InUse, StoreError> {
    // Held throughout: nobody may begin to use the file between the look and the entry.
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    if rescue::is_interrupted(path) {
        return Err(StoreError::Corrupt(format!("a rescue of {} was interrupted", path.display())));
    }
    let log = wal::path_of(path);
    let log_bytes = fs::metadata(&log).map_or(0, |metadata| metadata.len());
    let bytes = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Some(metadata.len()),
        Ok(_) => return Err(StoreError::Foreign(format!("{} is not a file", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io_error(path, &error)),
    };
    if bytes.unwrap_or(0) == 0 && log_bytes > wal::HEADER_BYTES {
        // SQLite would delete the log unread.
        let text = format!("{} is missing or empty, but its log {} is not", path.display(), log.display());
        return Err(StoreError::Corrupt(text));
    }
    match bytes {
        None if may_create && whose != Whose::AnApps => create(path)?,
        None => return Err(StoreError::Io(format!("{} is gone", path.display()))),
        Some(_) => {}
    }
    let identity = Identity::of(path)?;
    if whose == Whose::Encrypted
        && bytes.unwrap_or(0) > 0
        && !in_use.contains_key(&identity)
        && is_plain(path)?
    {
        return Err(StoreError::Misuse(format!(
            "{} is not encrypted: open it without a key",
            path.display()
        )));
    }
    // A file in use was looked at before, and is looked at again through SQLite before anything is written.
    if whose == Whose::Ours
        && bytes.unwrap_or(0) > 0
        && !in_use.contains_key(&identity)
        && !is_unfinished(path)
    {
        newest_marks(path, &log)?.check(path)?;
    }
    *in_use.entry(identity.clone()).or_insert(0) += 1;
    Ok(InUse { identity })
}

/// The marks of the newest first page. One that was being moved from the log into the file may be torn: what the log says
/// counts. Whoever closed last has moved all of it, and then removed the log, perhaps just now.
fn newest_marks(path: &Path, log: &Path) -> Result<Marks, StoreError> {
    let marks = marks_of_file(path)?;
    match wal::marks(log, marks) {
        Ok(newer) => Ok(newer.unwrap_or(marks)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => marks_of_file(path),
        Err(error) => Err(io_error(log, &error)),
    }
}

/// Whether the file begins as a database does that everybody can read.
fn is_plain(path: &Path) -> Result<bool, StoreError> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(|error| io_error(path, &error))?;
    file.take(16).read_to_end(&mut start).map_err(|error| io_error(path, &error))?;
    Ok(start == b"SQLite format 3\0")
}

/// Whether the power went while this was made out of an empty file. Its first page may be torn; the journal beside it says
/// that there was nothing, and SQLite makes that of it again. Format: sqlite.org/fileformat2.html, section 3.
fn is_unfinished(path: &Path) -> bool {
    let mut head = Vec::new();
    let journal = File::open(beside(path, "-journal"));
    let read = journal.and_then(|journal| journal.take(20).read_to_end(&mut head));
    read.is_ok()
        && head.len() == 20
        && head.starts_with(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7])
        && head[16..] == [0; 4]
}

fn marks_of_file(path: &Path) -> Result<Marks, StoreError> {
    let mut page = Vec::with_capacity(MARKED_BYTES);
    let file = File::open(path).map_err(|error| io_error(path, &error))?;
    file.take(MARKED_BYTES as u64).read_to_end(&mut page).map_err(|error| io_error(path, &error))?;
    if page.len() < MARKED_BYTES || !page.starts_with(b"SQLite format 3\0") {
        return Err(StoreError::Foreign(format!(
            "{} is not a database, or it is encrypted and needs its key, or its head is damaged (`landfall rescue` finds out)",
            path.display()
        )));
    }
    Ok(Marks::of_page(&page))
}

/// Makes an empty file that only its owner may read. SQLite gives its companions the same permissions.
fn create(path: &Path) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        // Another process was faster; opening goes on with its file.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io_error(path, &error)),
    }
}

/// The path that does not change its meaning when the process changes its folder.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).map_err(|error| io_error(path, &error))
}

/// `path` with `ending` behind its name.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(ending);
    PathBuf::from(name)
}

/// Which file a path leads to: it changes when the file is copied, restored or put in the place of another, and
/// stays when it is renamed or written to. A heuristic: a copy that is written over the bytes of the old file keeps
/// the old identity.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Identity(String);

impl Identity {
    pub(crate) fn of(path: &Path) -> Result<Self, StoreError> {
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Io(format!("{} is gone", path.display())),
            _ => io_error(path, &error),
        })?;
        Ok(Self(format!("{}{}", number(&metadata), born(&metadata))))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// With the birth time the device's number, which may change from boot to boot, is not needed.
#[cfg(unix)]
fn number(metadata: &Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    match metadata.created() {
        Ok(_) => format!("inode {}", metadata.ino()),
        Err(_) => format!("device {} inode {}", metadata.dev(), metadata.ino()),
    }
}

#[cfg(not(unix))]
fn number(_: &Metadata) -> String {
    String::from("file")
}

fn born(metadata: &Metadata) -> String {
    let since = metadata.created().ok().and_then(|moment| moment.duration_since(UNIX_EPOCH).ok());
    since.map_or_else(String::new, |since| format!(" born {}", since.as_nanos()))
}

pub(crate) fn io_error(path: &Path, error: &io::Error) -> StoreError {
    let text = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly(text),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(text),
        _ => StoreError::Io(text),
    }
}
