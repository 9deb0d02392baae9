//! The store itself: one connection that writes, opened again when it must be.
//!
//! It knows files and transactions, and nothing of what is in the rows. Tests: `tests/conformance.rs`, `tests/faults.rs`.

use crate::error::failed;
use crate::file::{Identity, Whose};
use crate::identities::{self, Owner};
use crate::open::{Opened, Options};
use crate::reader::SqliteReader;
use crate::rescue::RescueReport;
use crate::tx::Transaction;
use crate::wal;
use landfall_core::store::{Counts, Store, StoreError, StoreRead as _, StoreReader, StoreTx};
use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Above this the log is emptied when there is time: longer ones make opening after a crash slow.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Keeps the queue in one SQLite file. Several processes may open the same file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    options: Options,
    /// `None` when opening again failed.
    opened: Option<Opened>,
    /// Whose queue is open.
    identity: Option<String>,
    owner: Owner,
    rescued: Option<Box<RescueReport>>,
    /// By which commits of other connections are noticed, as last seen.
    data_version: Option<i64>,
}

impl SqliteStore {
    /// Opens the store at `path` with the default options, and makes it if there is no file or an empty one.
    ///
    /// # Errors
    /// See [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::options().open(path)
    }

    /// Options to open a store with.
    #[must_use]
    pub fn options() -> Options {
        Options::default()
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What opening had to salvage: only after [`OnCorrupt::Rescue`](crate::OnCorrupt::Rescue), and only of this opening.
    pub fn rescued(&self) -> Option<&RescueReport> {
        self.rescued.as_deref()
    }

    pub(crate) fn new(
        path: PathBuf,
        options: Options,
        opened: Opened,
        rescued: Option<Box<RescueReport>>,
    ) -> Self {
        Self {
            path,
            options,
            opened: Some(opened),
            identity: None,
            owner: Owner::NAMELESS,
            rescued,
            data_version: None,
        }
    }

    /// The connection, if it may be used and the file is still the one it was opened with. A commit into a file that
    /// was deleted or replaced would be acknowledged and lost.
    fn usable(&self) -> Result<&Opened, StoreError> {
        let opened =
            self.opened.as_ref().filter(|opened| !opened.health.has_failed()).ok_or(StoreError::Closed)?;
        if Identity::of(&self.path).as_ref() != Ok(opened.in_use.identity()) {
            opened.health.fail();
            return Err(StoreError::Io(format!(
                "{} was deleted or replaced while in use",
                self.path.display()
            )));
        }
        Ok(opened)
    }

    /// The number of an identity, which gets one if it has none yet.
    fn owner_of(&self, identity: Option<&str>) -> Result<Owner, StoreError> {
        identity.map_or(Ok(()), identities::check_name)?;
        let opened = self.usable()?;
        let Some(name) = identity else { return Ok(Owner::NAMELESS) };
        let tx = Transaction::immediate(&opened.connection, &opened.health, Owner::NAMELESS)?;
        let owner = tx.owner_of(name)?;
        tx.finish()?;
        Ok(owner)
    }
}

impl Store for SqliteStore {
    fn begin(&mut self) -> Result<Box<dyn StoreTx + '_>, StoreError> {
        let opened = self.usable()?;
        let tx = Transaction::immediate(&opened.connection, &opened.health, self.owner)?;
        Ok(Box::new(tx.with_inbox(self.options.whose() == Whose::AnApps)))
    }

    fn reader(&self) -> Result<Option<Box<dyn StoreReader>>, StoreError> {
        self.usable()?;
        let (connection, in_use) = self.options.connect_reader(&self.path)?;
        Ok(Some(Box::new(SqliteReader::new(connection, self.owner, in_use))))
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        // First let go: what the failed connection believes must not be shared with the new one.
        self.opened = None;
        // Each connection counts for itself.
        self.data_version = None;
        self.opened = Some(self.options.connect(&self.path, false)?);
        self.owner = match self.owner_of(self.identity.as_deref()) {
            Ok(owner) => owner,
            Err(error) => {
                self.opened = None;
                return Err(error);
            }
        };
        Ok(())
    }

    fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    fn switch_identity(&mut self, identity: Option<&str>) -> Result<(), StoreError> {
        self.owner = self.owner_of(identity)?;
        self.identity = identity.map(str::to_owned);
        Ok(())
    }

    fn identities(&mut self) -> Result<Vec<(Option<String>, Counts)>, StoreError> {
        let opened = self.usable()?;
        let named =
            Transaction::deferred(&opened.connection, &opened.health, Owner::NAMELESS)?.identities()?;
        let named = named.into_iter().map(|(name, owner)| (Some(name), owner));
        let mut counted = Vec::new();
        for (name, owner) in [(None, Owner::NAMELESS)].into_iter().chain(named) {
            let counts = Transaction::deferred(&opened.connection, &opened.health, owner)?.counts()?;
            counted.push((name, counts));
        }
        Ok(counted)
    }

    fn changed_elsewhere(&mut self) -> Result<bool, StoreError> {
        // Counts the commits of other connections; ours do not move it.
        let connection = &self.usable()?.connection;
        let version: i64 =
            connection.query_one("PRAGMA data_version", [], |row| row.get(0)).map_err(failed)?;
        Ok(self.data_version.replace(version) != Some(version))
    }

    fn idle(&mut self) -> Result<(), StoreError> {
        let connection = &self.usable()?.connection;
        checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)")?;
        give_memory_back(connection)?;
        let log_bytes = fs::metadata(wal::path_of(&self.path)).map_or(0, |metadata| metadata.len());
        if log_bytes > LOG_BYTES_MAX {
            // Readers may be in the way: then it is for another time, not something to wait for.
            connection.busy_timeout(Duration::ZERO).map_err(failed)?;
            let outcome = checkpoint(connection, "PRAGMA wal_checkpoint(TRUNCATE)");
            connection.busy_timeout(self.options.timeout()).map_err(failed)?;
            match outcome {
                Ok(()) | Err(StoreError::Busy(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for SqliteStore {
    /// A long log left behind would be read through at the next opening, before the first task is seen.
    fn drop(&mut self) {
        let log_bytes = fs::metadata(wal::path_of(&self.path)).map_or(0, |metadata| metadata.len());
        if log_bytes > LOG_BYTES_MAX {
            // Nobody is there to hear of a failure, and nothing is lost by it.
            let _ = self.idle();
        }
    }
}

/// Empties the page cache. The bundled SQLite keeps one for all connections of a process, in which a connection that
/// reads much takes pages over from the others; when these then fill up again, the whole is over its bound, and from
/// then on every page is dropped as soon as it was used. Starting afresh is what ends that.
pub(crate) fn give_memory_back(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch("PRAGMA shrink_memory").map_err(failed)
}

/// Moves the log into the file. Its row only says how far it came.
pub(crate) fn checkpoint(connection: &Connection, pragma: &str) -> Result<(), StoreError> {
    connection.query_one(pragma, (), |_| Ok(())).map_err(failed)
}
