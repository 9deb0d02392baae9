//! The queue as a part of an app's own database: the app's write and the queued change are one transaction, both or
//! neither.
//!
//! There are two ways to put a change there, and one to work it off:
//!
//! - from Rust, over the app's own connection: [`Outbox::enqueue_in`];
//! - with plain SQL, for an app whose database is opened by another library (Flutter's, Java's): [`sql`] gives the table
//!   and the statement;
//! - an engine opens the same file with [`Options::colocated`](crate::Options::colocated) and sends what is in it.
//!
//! ```
//! # use landfall_sqlite::outbox::Outbox;
//! # use landfall_core::change::Change;
//! # let mut app = rusqlite::Connection::open_in_memory()?;
//! # app.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, title TEXT)")?;
//! # fn main_in(app: &mut rusqlite::Connection) -> Result<(), Box<dyn std::error::Error>> {
//! let outbox = Outbox::install(app)?;
//! let tx = app.transaction()?;
//! tx.execute("INSERT INTO notes VALUES ('n1', 'Hello')", ())?;
//! outbox.enqueue_in(&tx, Change::create("note", "n1").set("title", "Hello"))?;
//! tx.commit()?;
//! # Ok(()) }
//! # Ok::<(), rusqlite::Error>(())
//! ```
//!
//! Our tables have names that begin with `landfall_`; nothing else of the database is touched, neither its header nor its
//! settings. What the app's settings must be is checked and never changed. Any SQLite that opens the database must be 3.37
//! or newer: older ones refuse it because of our tables.
//!
//! Two copies of SQLite in one process must not open one file: closing it in one drops the locks of the other, and the file
//! can be corrupted. An app whose database is opened by another copy of SQLite runs the engine in a process of its own.
//!
//! The one public module with types of rusqlite in it. It decides nothing about a change: that is the machine's. Tests:
//! `tests/outbox.rs`.

use crate::error::failed;
use crate::identities::{self, Owner};
use crate::meta::Counters;
use crate::migrate;
use crate::open;
use crate::tx::{Health, Transaction};
use landfall_core::adapter::{Capabilities, EffectClass};
use landfall_core::change::Change;
use landfall_core::config::Config;
use landfall_core::id::Entropy;
use landfall_core::machine::{EnqueueError, Machine, Receipt};
use landfall_core::store::StoreError;
use landfall_core::time::{Mono, Now, Timestamp};
use rusqlite::Connection;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub(crate) mod inbox;

pub use inbox::{Sql, sql};

/// Puts changes into the queue within the transactions of an app. It holds no connection, and nothing that a rolled back
/// transaction would have to undo.
#[derive(Debug)]
pub struct Outbox {
    machine: Machine,
    owner: Owner,
    started: Instant,
}

impl Outbox {
    /// Makes our tables in the database of `app`, brings older ones up to date, and checks that a commit there is durable.
    /// In a transaction of its own: `app` must not be in one.
    ///
    /// # Errors
    /// [`StoreError::Misuse`] says what the app has to set; [`StoreError::TooNew`] when the tables are of a newer version.
    pub fn install(app: &Connection) -> Result<Self, StoreError> {
        Self::install_for(app, None, Config::default())
    }

    /// Likewise for the queue of an identity, and with the configuration of the engine, whose limits then hold.
    ///
    /// # Errors
    /// As [`install`](Self::install); also when the name of the identity cannot be one.
    pub fn install_for(app: &Connection, identity: Option<&str>, config: Config) -> Result<Self, StoreError> {
        check(app)?;
        identity.map_or(Ok(()), identities::check_name)?;
        if !app.is_autocommit() {
            return Err(StoreError::Misuse("the app's connection is in a transaction".to_string()));
        }
        let health = Health::default();
        let tx = Transaction::immediate(app, &health, Owner::NAMELESS)?;
        if make_tables(app)? {
            Counters::default().write(app, Owner::NAMELESS)?;
        }
        let owner = identity.map_or(Ok(Owner::NAMELESS), |name| tx.owner_of(name))?;
        let mut within = Transaction::within(app, &health, owner);
        let machine = Machine::open(config, anything(), &entropy(app)?, &mut within)?.for_identity(identity);
        within.keep()?;
        tx.finish()?;
        Ok(Self { machine, owner, started: Instant::now() })
    }

    /// Queues a change within the app's transaction: it is there when that commits, and only then. Tell the engine afterwards.
    /// A transaction that was begun deferred and has read can fail here as busy: begin those that write immediately.
    ///
    /// # Errors
    /// [`EnqueueError`]; nothing of the change was stored then, and the transaction can go on without it.
    pub fn enqueue_in(
        &self,
        app: &rusqlite::Transaction<'_>,
        change: Change,
    ) -> Result<Receipt, EnqueueError> {
        let app: &Connection = app;
        check(app)?;
        let run = |sql: &str| app.execute_batch(sql).map_err(failed);
        run("SAVEPOINT landfall_outbox")?;
        let outcome = self.enqueue(app, change);
        match outcome {
            Ok(receipt) => run("RELEASE landfall_outbox").map(|()| receipt).map_err(EnqueueError::from),
            Err(error) => {
                // After some errors SQLite has ended the whole transaction by itself.
                if !app.is_autocommit() {
                    run("ROLLBACK TO landfall_outbox; RELEASE landfall_outbox")?;
                }
                Err(error)
            }
        }
    }

    fn enqueue(&self, app: &Connection, change: Change) -> Result<Receipt, EnqueueError> {
        let health = Health::default();
        let mut tx = Transaction::within(app, &health, self.owner);
        let mut step = self.machine.step(self.now(), entropy(app)?);
        let receipt = step.enqueue(&mut tx, change)?;
        step.finish(&mut tx)?;
        tx.keep()?;
        // The step is dropped: it has changed nothing but rows, and those are the app's to keep or to undo.
        Ok(receipt)
    }

    fn now(&self) -> Now {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            wall: Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            mono: Mono(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Makes our tables or brings them up to date; `true` when there were none. Must be called within a transaction.
pub(crate) fn make_tables(connection: &Connection) -> Result<bool, StoreError> {
    let made = migrate::climb_within(connection)?;
    connection.execute_batch(inbox::TABLE).map_err(failed)?;
    Ok(made)
}

/// Nothing is sent from here, so whatever the backend can do is for the engine to know.
fn anything() -> Capabilities {
    Capabilities {
        batch_tasks: usize::MAX,
        batch_bytes: usize::MAX,
        effect: EffectClass::OneEffect,
        pull: false,
        orders_writes: false,
        atomic_groups: true,
        actions: true,
        probe: false,
    }
}

fn entropy(connection: &Connection) -> Result<Entropy, StoreError> {
    connection.query_one("SELECT randomblob(32)", (), |row| row.get(0)).map(Entropy).map_err(failed)
}

/// Whether a commit on this connection is durable, and the library one that can be trusted.
fn check(app: &Connection) -> Result<(), StoreError> {
    open::check_library()?;
    check_journal_mode(app)?;
    let level: i64 = app.query_one("PRAGMA synchronous", (), |row| row.get(0)).map_err(failed)?;
    if level < 2 {
        return Err(StoreError::Misuse(
            "a commit of the app does not survive power loss: run PRAGMA synchronous = FULL (or EXTRA) on its connection"
                .to_string(),
        ));
    }
    Ok(())
}

/// Whether a transaction survives the end of the process at all.
pub(crate) fn check_journal_mode(connection: &Connection) -> Result<(), StoreError> {
    let mode: String = connection.query_one("PRAGMA journal_mode", (), |row| row.get(0)).map_err(failed)?;
    // A database in memory has no file that could be broken.
    let in_memory = mode == "memory" && connection.path().is_none_or(str::is_empty);
    if in_memory || ["wal", "delete", "truncate", "persist"].contains(&mode.as_str()) {
        return Ok(());
    }
    Err(StoreError::Misuse(format!(
        "the journal mode of the app's database is {mode:?}, with which a crash can break it: run PRAGMA journal_mode = WAL \
         (or DELETE)"
    )))
}
