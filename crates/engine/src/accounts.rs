//! Whose queue is open: switching between accounts, and what becomes of unsynced work when somebody logs out (G16).

use crate::driver::{Command, Managed};
use crate::engine::Engine;
use crate::error::Error;
use landfall_core::event::Report;
use landfall_core::machine::SessionEnd;
use landfall_core::store::Counts;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What becomes of an account's unsynced work when its user logs out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logout {
    /// It is sent first, for at most so long. If something is left after that, nobody is logged out.
    Drain {
        /// How long.
        within: Duration,
    },
    /// It stays in the store, and goes on when the same user logs in again.
    Keep,
    /// It is written to a new file, from which `restore` takes it in again, and then given up.
    Export(PathBuf),
    /// It is given up; every change stays in the journal for its time.
    Discard,
}

/// What a logout did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoggedOut {
    /// What the last run of `sync` did, if there was one.
    pub drained: Option<Report>,
    /// Tasks that stay in the store.
    pub kept: u64,
    /// Tasks that were written to the file.
    pub exported: u64,
    /// Tasks that were given up.
    pub discarded: u64,
}

impl Engine {
    /// Whose queue is open; `None` is the one for apps without accounts.
    pub fn identity(&self) -> Option<String> {
        self.live_state().identity.clone()
    }

    /// Opens the queue of another account. When this returns, nothing of the old one leaves any more: a call that had
    /// not got its credentials yet is not made, and what was under way is sent again, under the same keys, when its
    /// account is open again. Change the app's credentials after this, or tag them with their account.
    ///
    /// # Errors
    /// [`Error::Store`] if the store keeps only one queue or cannot be used.
    pub async fn switch_identity(&self, identity: Option<String>) -> Result<(), Error> {
        // Until the new reader is there, reads go to the engine's thread, which knows whose queue is open.
        drop(self.reader().lock().unwrap_or_else(PoisonError::into_inner).take());
        let reader = self.ask(|reply| Command::SwitchIdentity { identity, reply }).await?;
        *self.reader().lock().unwrap_or_else(PoisonError::into_inner) = reader;
        Ok(())
    }

    /// The blocking twin of [`switch_identity`](Self::switch_identity).
    ///
    /// # Errors
    /// As [`switch_identity`](Self::switch_identity).
    pub fn switch_identity_blocking(&self, identity: Option<String>) -> Result<(), Error> {
        pollster::block_on(self.switch_identity(identity))
    }

    /// Every account that has a queue in this store, and how much waits in it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn identities(&self) -> Result<Vec<(Option<String>, Counts)>, Error> {
        self.ask(|reply| Command::Identities { reply }).await
    }

    /// The blocking twin of [`identities`](Self::identities).
    ///
    /// # Errors
    /// As [`identities`](Self::identities).
    pub fn identities_blocking(&self) -> Result<Vec<(Option<String>, Counts)>, Error> {
        pollster::block_on(self.identities())
    }

    /// Closes the queue of the current account as `policy` says, and opens the one without a name. Unless it is kept,
    /// what is known of the account's records is forgotten; its journal stays for its time.
    ///
    /// # Errors
    /// [`Error::LogoutRefused`] when something is left after a drain: nothing was changed. [`Error::Input`] when the
    /// file cannot be written: nothing was given up.
    pub async fn logout(&self, policy: Logout) -> Result<LoggedOut, Error> {
        let mut done = LoggedOut::default();
        match policy {
            Logout::Keep => done.kept = self.status()?.counts.total(),
            Logout::Drain { within } => {
                let report = self.sync_until(SessionEnd::Drained { within }).await?;
                let left = self.status()?.counts.total();
                if left > 0 {
                    return Err(Error::LogoutRefused { left, waiting_for: report.waiting_for });
                }
                done.drained = Some(report);
                self.forget().await?;
            }
            Logout::Export(path) => {
                self.settle_down().await?;
                done.exported = self.export_to_file(path)?;
                done.discarded = self.forget().await?;
            }
            Logout::Discard => {
                self.settle_down().await?;
                done.discarded = self.forget().await?;
            }
        }
        self.switch_identity(None).await?;
        Ok(done)
    }

    /// The blocking twin of [`logout`](Self::logout).
    ///
    /// # Errors
    /// As [`logout`](Self::logout).
    pub fn logout_blocking(&self, policy: Logout) -> Result<LoggedOut, Error> {
        pollster::block_on(self.logout(policy))
    }

    /// Ends a running session and forbids every call that has not left yet: from here on nothing of this account's queue
    /// moves by itself.
    async fn settle_down(&self) -> Result<(), Error> {
        self.ask(|reply| Command::SettleDown { reply }).await
    }

    /// Gives up what is queued and forgets the account's records. Gives back how many tasks went.
    async fn forget(&self) -> Result<u64, Error> {
        /// Tasks or records in one transaction: bounds how long others wait.
        const AT_ONCE: usize = 1_000;
        let mut given_up = 0;
        loop {
            let managed = self.manage(|step, tx| Ok(Managed::Count(step.abandon(tx, AT_ONCE)?))).await?;
            match managed {
                Managed::Count(0) => break,
                Managed::Count(count) => given_up += count as u64,
                _ => return Err(Error::Closed),
            }
        }
        loop {
            let managed = self.manage(|_, tx| Ok(Managed::Count(tx.forget_records(AT_ONCE)?))).await?;
            if !matches!(managed, Managed::Count(count) if count > 0) {
                return Ok(given_up);
            }
        }
    }

    /// Writes all unsynced work to a new file, readable for its owner only, and makes it durable. One that cannot be
    /// written whole is taken away again.
    ///
    /// # Errors
    /// [`Error::Input`] when the file exists or cannot be written.
    pub fn export_to_file(&self, path: PathBuf) -> Result<u64, Error> {
        let failed = |error: std::io::Error| Error::Input(format!("{}: {error}", path.display()).into());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(failed)?;
        let writer = Arc::new(Mutex::new(BufWriter::new(file)));
        let lines = Arc::clone(&writer);
        let written = self.export(move |task| {
            writeln!(lines.lock().unwrap_or_else(PoisonError::into_inner), "{}", task.to_json())
        });
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let written = written.and_then(|count| {
            writer.flush().and_then(|()| writer.get_ref().sync_all()).map_err(failed)?;
            Ok(count)
        });
        if written.is_err() {
            // What is there would look like an export.
            drop(std::fs::remove_file(&path));
        }
        written
    }
}
