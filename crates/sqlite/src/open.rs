//! Opening: look, connect, check, migrate, make one durable write, read the settings back.
//!
//! Nothing of a store is shown before that write returned: what a crash left behind may be visible after recovery and
//! still vanish with the next power cut. Any doubt is an error and leaves the file as it was. Tests: `tests/opening.rs`,
//! and at the end of the file.

use crate::error::failed;
use crate::file::{self, Identity, InUse, Marks, Whose};
use crate::identities::Owner;
#[cfg(feature = "sqlcipher")]
use crate::key::{KeyError, KeySource, SecretKey};
use crate::meta::{self, Counters};
use crate::migrate;
use crate::outbox;
use crate::rescue::{self, OnCorrupt};
use crate::store::{self, SqliteStore};
use crate::tx::{Health, Transaction};
use crate::wal;
use landfall_core::store::{Replica, Store, StoreError};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// 3.51.3: the first release without the race between a checkpoint and a write that could corrupt a file.
const OLDEST_LIBRARY: i32 = 3_051_003;

/// Pages in the log after which a commit itself tidies up. `idle` does it sooner when it is called; this is the net.
const CHECKPOINT_PAGES: u32 = 4_000;

/// Memory for pages of the writer. 8 MiB: holds the inner pages of every index at a million tasks.
const WRITER_CACHE_KIB: u32 = 8_192;

/// Memory for pages of a reader. 2 MiB: it walks, and does not come back.
const READER_CACHE_KIB: u32 = 2_048;

/// More than there are statements in this crate.
const STATEMENTS: usize = 128;

/// What a commit that returned is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// It survives power loss. One sync of the disk for each commit.
    #[default]
    Full,
    /// It survives the end of the process. Power loss may take the last commits, and with them work that was reported
    /// as stored; the file stays whole.
    MayLoseLastWrites,
}

/// How to open a store.
///
/// ```no_run
/// use landfall_sqlite::{Durability, SqliteStore};
/// let store = SqliteStore::options().durability(Durability::MayLoseLastWrites).open("cache.db")?;
/// # Ok::<(), landfall_core::store::StoreError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    durability: Durability,
    busy_timeout: Duration,
    detect_copies: bool,
    max_pages: Option<u32>,
    identity: Option<String>,
    on_corrupt: OnCorrupt,
    colocated: bool,
    #[cfg(feature = "sqlcipher")]
    key: Option<KeySource>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            // Longer than any transaction of another process on a struggling disk.
            busy_timeout: Duration::from_secs(5),
            detect_copies: true,
            max_pages: None,
            identity: None,
            on_corrupt: OnCorrupt::Refuse,
            colocated: false,
            #[cfg(feature = "sqlcipher")]
            key: None,
        }
    }
}

impl Options {
    /// What a commit is worth. Default: [`Durability::Full`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long to wait for another process that is writing. Default: 5 s.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Whether a file that was copied or restored is told apart from the original, so that the two do not go on as one
    /// client with two histories: when the file at the path is another one than at the last opening, the replica's
    /// `client_epoch` grows, to the wall clock's milliseconds or by one. Default: on.
    ///
    /// It is a heuristic. Another file means another inode or time of birth (on Windows the time of birth alone). Moving
    /// a store to another disk looks like a copy, which costs a new epoch and nothing else. A copy whose bytes are
    /// written over the old file is not noticed, nor are two copies that are first opened in the same millisecond.
    #[must_use]
    pub fn detect_copies(mut self, detect: bool) -> Self {
        self.detect_copies = detect;
        self
    }

    /// The most pages (of 4 KiB in a new file) that the file may grow to; after that it is [`StoreError::Full`].
    /// Default: no bound.
    #[must_use]
    pub fn max_pages(mut self, pages: u32) -> Self {
        self.max_pages = Some(pages);
        self
    }

    /// Whose queue to open, as [`Store::switch_identity`] does. Default: the one for apps without accounts.
    #[must_use]
    pub fn identity(mut self, name: impl Into<String>) -> Self {
        self.identity = Some(name.into());
        self
    }

    /// What to do with a file that is corrupt. Default: [`OnCorrupt::Refuse`].
    #[must_use]
    pub fn on_corrupt(mut self, what: OnCorrupt) -> Self {
        self.on_corrupt = what;
        self
    }

    /// The file is encrypted with this key; a new one will be. See [`key_from`](Self::key_from).
    #[cfg(feature = "sqlcipher")]
    #[must_use]
    pub fn key(self, key: SecretKey) -> Self {
        self.key_from(move || Ok(key.clone()))
    }

    /// The file is encrypted with the key that `ask` gives; a new one will be. It is asked at every opening of a connection,
    /// also of a reader and after a failed commit, so that the key need not stay in memory.
    ///
    /// Everything in the file and its log is then encrypted, names of tables included. With a wrong key opening is
    /// [`StoreError::WrongKey`]. An encrypted file cannot be rescued by [`SqliteStore::rescue`].
    #[cfg(feature = "sqlcipher")]
    #[must_use]
    pub fn key_from(mut self, ask: impl Fn() -> Result<SecretKey, KeyError> + Send + Sync + 'static) -> Self {
        self.key = Some(KeySource::new(ask));
        self
    }

    /// The store is a part of an app's own database (see [`outbox`](crate::outbox)): the file must be there, its header and
    /// its journal mode stay the app's, and changes that the app leaves in `landfall_inbox` are taken in. Default: off.
    #[must_use]
    pub fn colocated(mut self) -> Self {
        self.colocated = true;
        self
    }

    /// Opens the store at `path`, and makes it if there is no file or an empty one.
    ///
    /// # Errors
    /// [`StoreError::TooNew`] and [`StoreError::Foreign`] leave the file untouched. [`StoreError::Busy`] when another
    /// process keeps it locked, [`StoreError::Full`] and [`StoreError::ReadOnly`] when it cannot be written to, others
    /// when it cannot be used.
    pub fn open(self, path: impl AsRef<Path>) -> Result<SqliteStore, StoreError> {
        let path = file::absolute(path.as_ref())?;
        // A broken database of an app is not ours to move.
        let on_corrupt = if self.whose() == Whose::Ours { Some(self.on_corrupt) } else { None };
        let (opened, rescued) = match (self.connect(&path, true), on_corrupt) {
            (Err(error), Some(OnCorrupt::Refuse)) => return Err(rescue::with_advice(error, &path)),
            (Err(error @ (StoreError::Corrupt(_) | StoreError::Foreign(_))), Some(OnCorrupt::Rescue)) => {
                let report = rescue::instead_of(error, &path)?;
                (self.connect(&path, false)?, Some(Box::new(report)))
            }
            (opened, _) => (opened?, None),
        };
        let identity = self.identity.clone();
        let mut store = SqliteStore::new(path, self, opened, rescued);
        store.switch_identity(identity.as_deref())?;
        Ok(store)
    }

    pub(crate) fn whose(&self) -> Whose {
        if self.colocated {
            Whose::AnApps
        } else if self.is_encrypted() {
            Whose::Encrypted
        } else {
            Whose::Ours
        }
    }

    #[cfg(feature = "sqlcipher")]
    fn is_encrypted(&self) -> bool {
        self.key.is_some()
    }

    #[cfg(not(feature = "sqlcipher"))]
    fn is_encrypted(&self) -> bool {
        false
    }

    /// Applies the key, if there is one. Comes before anything else that is done with a connection.
    #[cfg(feature = "sqlcipher")]
    fn unlock(&self, connection: &Connection, path: &Path) -> Result<(), StoreError> {
        self.key.as_ref().map_or(Ok(()), |key| key.unlock(connection, path))
    }

    #[cfg(not(feature = "sqlcipher"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "with the feature it does something")]
    fn unlock(&self, _: &Connection, _: &Path) -> Result<(), StoreError> {
        Ok(())
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.busy_timeout
    }

    /// Opens a connection that may be relied on.
    pub(crate) fn connect(&self, path: &Path, may_create: bool) -> Result<Opened, StoreError> {
        check_library()?;
        let in_use = file::look(path, may_create, self.whose())?;
        let log_bytes = fs::metadata(wal::path_of(path)).map_or(0, |metadata| metadata.len());
        let has_log = log_bytes > wal::HEADER_BYTES;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(self.busy_timeout).map_err(failed)?;
        self.unlock(&connection, path)?;
        keep_log_at_close(&connection, true)?;
        let deadline = Instant::now() + self.busy_timeout;
        if connection.is_readonly("main").map_err(failed)? {
            return Err(StoreError::ReadOnly(path.display().to_string()));
        }
        // As SQLite sees it, log and all; nothing was written yet.
        match self.whose() {
            Whose::AnApps => outbox::check_journal_mode(&connection)?,
            Whose::Ours | Whose::Encrypted => {
                Marks::of(&connection)?.check(path)?;
                set_journal_mode(&connection, deadline)?;
            }
        }
        let mode = text(&connection, "PRAGMA journal_mode")?;
        self.set_up(&connection)?;
        let health = Health::default();
        self.barrier(&connection, &health, path, in_use.identity())?;
        if has_log {
            move_left_over_log(&connection)?;
        }
        read_back(&connection, &mode, SYNCHRONOUS_EXTRA)?;
        if self.durability == Durability::MayLoseLastWrites {
            run(&connection, "PRAGMA synchronous = NORMAL")?;
            read_back(&connection, &mode, SYNCHRONOUS_NORMAL)?;
        }
        keep_log_at_close(&connection, false)?;
        Ok(Opened { connection, health, in_use })
    }

    fn set_up(&self, connection: &Connection) -> Result<(), StoreError> {
        set_up_common(connection, WRITER_CACHE_KIB)?;
        run(connection, "PRAGMA synchronous = EXTRA")?;
        run(connection, &format!("PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"))?;
        // Elsewhere these two mean nothing.
        run(connection, "PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON")?;
        if let Some(pages) = self.max_pages {
            run(connection, &format!("PRAGMA max_page_count = {pages}"))?;
        }
        Ok(())
    }

    /// The one transaction of opening: the schema, which file this is, and a write that makes all that was recovered
    /// durable.
    fn barrier(
        &self,
        connection: &Connection,
        health: &Health,
        path: &Path,
        identity: &Identity,
    ) -> Result<(), StoreError> {
        let tx = Transaction::immediate(connection, health, Owner::NAMELESS)?;
        // Another process may have been faster since the first look.
        let is_new = if self.colocated {
            outbox::make_tables(connection)?
        } else {
            let marks = Marks::of(connection)?;
            let is_store = marks.check(path)?;
            migrate::climb(connection, marks.user_version)?;
            !is_store
        };
        if is_new {
            Counters::default().write(connection, Owner::NAMELESS)?;
        }
        let opened: u64 = readable(meta::fact(connection, meta::OPENED))?.unwrap_or(0);
        meta::put_fact(connection, meta::OPENED, &opened.wrapping_add(1))?;
        if self.detect_copies {
            let known: Option<String> = readable(meta::fact(connection, meta::FILE))?;
            if known.as_deref() != Some(identity.as_str()) {
                for name in meta::names_of(connection, meta::REPLICA)? {
                    // One that cannot be read is for whoever needs it to say; the tasks can still be read.
                    if let Some(replica) = readable::<Replica>(meta::fact(connection, &name))? {
                        let client_epoch = wall_ms().max(replica.client_epoch.saturating_add(1));
                        meta::put_fact(connection, &name, &Replica { client_epoch, ..replica })?;
                    }
                }
                meta::put_fact(connection, meta::FILE, &identity.as_str())?;
            }
        }
        tx.finish()
    }

    /// Opens a connection for reading beside the writer, which has checked the file.
    pub(crate) fn connect_reader(&self, path: &Path) -> Result<(Connection, InUse), StoreError> {
        let in_use = file::look(path, false, self.whose())?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(self.busy_timeout).map_err(failed)?;
        self.unlock(&connection, path)?;
        set_up_common(&connection, READER_CACHE_KIB)?;
        run(&connection, "PRAGMA query_only = ON")?;
        if !self.colocated {
            Marks::of(&connection)?.check(path)?;
        }
        Ok((connection, in_use))
    }
}

/// A connection that passed every check.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) health: Health,
    /// Behind the connection, which must be closed first.
    pub(crate) in_use: InUse,
}

const SYNCHRONOUS_NORMAL: i64 = 1;
const SYNCHRONOUS_EXTRA: i64 = 3;

pub(crate) fn check_library() -> Result<(), StoreError> {
    let found = rusqlite::version_number();
    if found >= OLDEST_LIBRARY {
        return Ok(());
    }
    Err(StoreError::Misuse(format!(
        "SQLite {} can corrupt a file that two connections use; 3.51.3 or newer is needed (feature `bundled`)",
        rusqlite::version()
    )))
}

/// Turns on the write-ahead log. It can fail without an error, and while another process does the same it does.
fn set_journal_mode(connection: &Connection, deadline: Instant) -> Result<(), StoreError> {
    loop {
        let outcome = text(connection, "PRAGMA journal_mode = WAL");
        match &outcome {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) | Err(StoreError::Busy(_)) if Instant::now() < deadline => sleep(Duration::from_millis(10)),
            Ok(mode) => {
                return Err(StoreError::Io(format!(
                    "the journal mode stays {mode:?} and must be \"wal\"; a network file system or a lock may be why"
                )));
            }
            Err(_) => return outcome.map(drop),
        }
    }
}

/// A file that is refused is left as it is, its log too: the last connection would move the log into the file and delete it.
fn keep_log_at_close(connection: &Connection, keep: bool) -> Result<(), StoreError> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep).map_err(failed).map(drop)
}

/// What another left in the log may be in memory only, for ever: a sync of it failed, after which systems take it as
/// written. What is committed behind it would be lost with it, so all of it goes into the file before anything is shown,
/// and the log begins anew.
fn move_left_over_log(connection: &Connection) -> Result<(), StoreError> {
    match store::checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)") {
        // Somebody else has the file open, and with it the knowledge of how far the log is good.
        Ok(()) | Err(StoreError::Busy(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) fn set_up_common(connection: &Connection, cache_kib: u32) -> Result<(), StoreError> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(failed)?;
    // A plan that depends on what is bound would be made anew for each question with a limit.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(failed)?;
    run(connection, &format!("PRAGMA cache_size = -{cache_kib}"))?;
    // A schema that somebody else wrote may not call functions; a page that makes no sense is an error.
    run(connection, "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY")?;
    // An I/O error in mapped memory would be a signal, not an error.
    run(connection, "PRAGMA mmap_size = 0")
}

/// What is in force, not what was asked for.
fn read_back(connection: &Connection, mode: &str, synchronous: i64) -> Result<(), StoreError> {
    let refuse = |what: &str, found: &str| {
        Err(StoreError::Io(format!(
            "{what} is {found} after it was set; this file cannot be kept safely here"
        )))
    };
    let found = text(connection, "PRAGMA journal_mode")?;
    if found != mode {
        return refuse("the journal mode", &found);
    }
    let level = number(connection, "PRAGMA synchronous")?;
    if level != synchronous {
        return refuse("synchronous", &level.to_string());
    }
    Ok(())
}

/// A fact that guards nothing by itself: damage to it counts as not known.
fn readable<T>(fact: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match fact {
        Err(StoreError::Damaged(_)) => Ok(None),
        other => other,
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

/// Runs statements whose rows, if any, do not matter.
fn run(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.execute_batch(sql).map_err(failed)
}

fn text(connection: &Connection, pragma: &str) -> Result<String, StoreError> {
    connection.query_one(pragma, (), |row| row.get(0)).map_err(failed)
}

fn number(connection: &Connection, pragma: &str) -> Result<i64, StoreError> {
    connection.query_one(pragma, (), |row| row.get(0)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("landfall-open-{}-{name}.db", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn remove(path: &Path) {
        for ending in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(file::beside(path, ending));
        }
    }

    #[test]
    fn the_settings_in_force_are_those_that_were_promised() {
        let path = temporary("settings");
        for (durability, synchronous) in [(Durability::Full, 3), (Durability::MayLoseLastWrites, 1)] {
            let opened = Options::default().durability(durability).connect(&path, true).unwrap();
            let connection = &opened.connection;
            assert_eq!(text(connection, "PRAGMA journal_mode").unwrap(), "wal");
            for (name, expected) in [
                ("synchronous", synchronous),
                ("trusted_schema", 0),
                ("cell_size_check", 1),
                ("temp_store", 2),
                ("wal_autocheckpoint", i64::from(CHECKPOINT_PAGES)),
                ("fullfsync", 1),
                ("checkpoint_fullfsync", 1),
                ("busy_timeout", 5_000),
                ("cache_size", -i64::from(WRITER_CACHE_KIB)),
            ] {
                assert_eq!(number(connection, &format!("PRAGMA {name}")).unwrap(), expected, "{name}");
            }
            assert!(connection.db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE).unwrap());
            assert!(connection.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG).unwrap());
            let (reader, _in_use) = Options::default().connect_reader(&path).unwrap();
            assert_eq!(number(&reader, "PRAGMA query_only").unwrap(), 1);
            assert!(reader.is_readonly("main").unwrap());
            assert!(run(&reader, "UPDATE landfall_facts SET value = 7").is_err());
        }
        remove(&path);
    }

    #[test]
    fn settings_that_are_not_in_force_are_refused() {
        let path = temporary("refused");
        let opened = Options::default().connect(&path, true).unwrap();
        read_back(&opened.connection, "wal", SYNCHRONOUS_EXTRA).unwrap();
        run(&opened.connection, "PRAGMA synchronous = FULL").unwrap();
        assert!(matches!(read_back(&opened.connection, "wal", SYNCHRONOUS_EXTRA), Err(StoreError::Io(_))));
        run(&opened.connection, "PRAGMA synchronous = EXTRA; PRAGMA journal_mode = DELETE").unwrap();
        assert!(matches!(read_back(&opened.connection, "wal", SYNCHRONOUS_EXTRA), Err(StoreError::Io(_))));
        let memory = Connection::open_in_memory().unwrap();
        let refused = set_journal_mode(&memory, Instant::now());
        assert!(matches!(refused, Err(StoreError::Io(_))), "a mode that stays what it was: {refused:?}");
        remove(&path);
    }
}
