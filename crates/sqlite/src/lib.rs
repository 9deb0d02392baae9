//! The SQLite store of Landfall: the queue, the records and the journal in one file.
//!
//! It implements [`landfall_core::store::Store`] and decides nothing. Its laws, each with a test in `tests/`:
//!
//! - a commit that returned is on the disk (write-ahead log, `synchronous = EXTRA`), and the settings are read back;
//! - opening recovers, then makes a durable write before anything is shown: recovered alone is not durable;
//! - a file of a newer version, of another program, or that is no database is refused with not one byte changed;
//! - every row carries a checksum that is verified at each read: a damaged row is named, never handed out;
//! - after a failed commit or an I/O error the handle refuses to work until [`Store::reopen`];
//! - no question costs more in a longer queue.
//!
//! ```no_run
//! use landfall_sqlite::SqliteStore;
//! let store = SqliteStore::open("queue.db")?;
//! # Ok::<(), landfall_core::store::StoreError>(())
//! ```
//!
//! Map: `open` and `file` bring up a file, `migrate` its schema, `identities` whose rows there are, `tx` transactions,
//! `tasks`, `entities`, `journal`, `conflicts`, `keys`, `server_ids`, `quarantined`, `forget` and `meta` the rows, `codec`
//! their encoding and checksum, `reader` the way in beside the writer. What other programs may read with plain SQL is in `docs/read-model.md`.
//!
//! [`Store::reopen`]: landfall_core::store::Store::reopen

mod codec;
mod conflicts;
mod entities;
mod error;
mod file;
mod forget;
mod identities;
mod journal;
#[cfg(feature = "sqlcipher")]
mod key;
mod keys;
mod meta;
mod migrate;
mod open;
pub mod outbox;
mod quarantined;
mod reader;
mod rescue;
mod server_ids;
mod store;
mod tasks;
mod tx;
mod wal;

#[cfg(feature = "sqlcipher")]
pub use key::{KeyError, SecretKey};
pub use open::{Durability, Options};
pub use rescue::{LostRow, Missing, OnCorrupt, RescueReport};
pub use store::SqliteStore;
