//! The file before SQLite works on it: whether there is one, what it is, and making a new one.
//!
//! Looking must not change one byte, not of the write-ahead log nor of the shared memory either, and must not open the
//! database file beside SQLite: closing any descriptor of a file drops the POSIX locks that this process holds on it.
//! So the file is read through SQLite in immutable mode, which sees no log, and the log, which is never locked, is read
//! by hand (`wal.rs`). Tests: `tests/opening.rs`.

use crate::error::{failed, is_not_a_database};
use crate::migrate::{APPLICATION_ID, NEWEST};
use crate::wal;
use landfall_core::store::StoreError;
use rusqlite::{Connection, OpenFlags};
use std::ffi::OsString;
use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What is at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// No file.
    Nothing,
    /// A file without content, or a database without tables: as good as new.
    Empty,
    /// A store that this build can read.
    Store,
}

/// The header fields that say whose database it is, and whether it has tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Marks {
    pub(crate) application_id: u32,
    pub(crate) user_version: u32,
}

impl Marks {
    /// Refuses what this build must not touch.
    pub(crate) fn check(self, has_tables: bool, path: &Path) -> Result<Found, StoreError> {
        match self {
            Self { application_id: APPLICATION_ID, user_version } if user_version > NEWEST => {
                Err(StoreError::TooNew { found: user_version, known: NEWEST })
            }
            Self { application_id: APPLICATION_ID, user_version: 1.. } => Ok(Found::Store),
            Self { application_id: 0, user_version: 0 } if !has_tables => Ok(Found::Empty),
            Self { application_id, .. } => Err(StoreError::Foreign(format!(
                "{} is the database of another program (application id {application_id:#x})",
                path.display()
            ))),
        }
    }
}

/// Looks at `path` without changing anything.
pub(crate) fn look(path: &Path) -> Result<Found, StoreError> {
    let log = wal::path_of(path);
    let log_bytes = fs::metadata(&log).map_or(0, |metadata| metadata.len());
    let bytes = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(StoreError::Foreign(format!("{} is not a file", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io_error(path, &error)),
    };
    if bytes == 0 {
        // SQLite would delete the log unread.
        if log_bytes > wal::HEADER_BYTES {
            let text = format!("{} is missing or empty, but its log {} is not", path.display(), log.display());
            return Err(StoreError::Corrupt(text));
        }
        return Ok(if path.exists() { Found::Empty } else { Found::Nothing });
    }
    let (marks, has_tables) = marks_of_file(path)?;
    marks.check(has_tables, path)?;
    if log_bytes > wal::HEADER_BYTES {
        let newer = wal::marks(&log, marks).map_err(|error| io_error(&log, &error))?;
        // Tables that are only in the log belong to whoever's mark is in the log.
        newer.map(|marks| marks.check(has_tables, path)).transpose()?;
    }
    Ok(if has_tables || log_bytes > 0 { Found::Store } else { Found::Empty })
}

fn marks_of_file(path: &Path) -> Result<(Marks, bool), StoreError> {
    let not_a_database = |error: rusqlite::Error| {
        if is_not_a_database(&error) {
            StoreError::Foreign(format!("{} is not a database, or it is encrypted", path.display()))
        } else {
            failed(error)
        }
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(immutable_uri(path), flags).map_err(not_a_database)?;
    read_marks(&connection).map_err(not_a_database)
}

/// Reads the marks as `connection` sees them.
pub(crate) fn read_marks(connection: &Connection) -> rusqlite::Result<(Marks, bool)> {
    let number = |sql: &str| -> rusqlite::Result<Option<i64>> {
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query(())?;
        rows.next()?.map(|row| row.get(0)).transpose()
    };
    // Both are 32 bits without a sign in the file; SQLite shows them with one.
    let bits = |number: Option<i64>| number.map_or(0, |n| (n & 0xffff_ffff) as u32);
    let marks = Marks {
        application_id: bits(number("PRAGMA application_id")?),
        user_version: bits(number("PRAGMA user_version")?),
    };
    Ok((marks, number("SELECT 1 FROM sqlite_schema LIMIT 1")?.is_some()))
}

/// A URI by which SQLite reads the file as if nobody could change it: no lock, no log, no shared memory.
fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    #[cfg(windows)]
    uri.push('/');
    for byte in path_bytes(path) {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b':' => uri.push(char::from(byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri + "?immutable=1"
}

#[cfg(unix)]
fn path_bytes(path: &Path) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec()
}

#[cfg(not(unix))]
fn path_bytes(path: &Path) -> Vec<u8> {
    path.to_string_lossy().replace('\\', "/").into_bytes()
}

/// Makes an empty file that only its owner may read. SQLite gives its companions the same permissions.
pub(crate) fn create(path: &Path) -> Result<(), StoreError> {
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
#[derive(Clone, PartialEq, Eq, Debug)]
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

fn io_error(path: &Path, error: &io::Error) -> StoreError {
    let text = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly(text),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(text),
        _ => StoreError::Io(text),
    }
}
