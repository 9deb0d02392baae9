//! The way in beside the writer: a connection that cannot write, one transaction for each closure.
//!
//! It sees what was committed and nothing else; the writer does not wait for it. Tests: the store suite.

use crate::file::InUse;
use crate::identities::Owner;
use crate::store::give_memory_back;
use crate::tx::{Health, Transaction};
use landfall_core::store::{StoreError, StoreRead, StoreReader};
use rusqlite::Connection;

/// Reading more rows than this has filled the page cache with what nobody will ask for again.
const ROWS_MANY: usize = 1_000;

#[derive(Debug)]
pub(crate) struct SqliteReader {
    connection: Connection,
    /// Whose queue was open when the reader was made.
    owner: Owner,
    /// Behind the connection, which must be closed first.
    _in_use: InUse,
}

impl SqliteReader {
    pub(crate) fn new(connection: Connection, owner: Owner, in_use: InUse) -> Self {
        Self { connection, owner, _in_use: in_use }
    }
}

impl StoreReader for SqliteReader {
    fn read(
        &mut self,
        read: &mut dyn FnMut(&dyn StoreRead) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // An error while reading spoils nothing: the next closure starts afresh.
        let health = Health::default();
        let transaction = Transaction::deferred(&self.connection, &health, self.owner)?;
        let outcome = read(&transaction);
        let many = transaction.rows_read() > ROWS_MANY;
        drop(transaction);
        if many {
            give_memory_back(&self.connection)?;
        }
        outcome
    }
}
