//! What an error of SQLite means for a store. The one place where result codes are read. Tests: `tests/faults.rs`.

use landfall_core::store::StoreError;
use rusqlite::ffi;

/// Sorts an error of SQLite.
pub(crate) fn failed(error: rusqlite::Error) -> StoreError {
    let text = error.to_string();
    let Some(code) = error.sqlite_error().map(|error| error.extended_code) else {
        // rusqlite could not convert a value: the row is not what this code writes.
        return StoreError::Corrupt(text);
    };
    match code {
        // The shared-memory file could not grow: the disk is full.
        ffi::SQLITE_IOERR_SHMSIZE => return StoreError::Full(text),
        // The file was moved or deleted while it was open.
        ffi::SQLITE_READONLY_DBMOVED => return StoreError::Io(text),
        _ => {}
    }
    match code & 0xff {
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_PROTOCOL => StoreError::Busy(text),
        ffi::SQLITE_FULL => StoreError::Full(text),
        ffi::SQLITE_READONLY | ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM | ffi::SQLITE_AUTH => {
            StoreError::ReadOnly(text)
        }
        ffi::SQLITE_TOOBIG => StoreError::Misuse(text),
        ffi::SQLITE_IOERR | ffi::SQLITE_NOMEM | ffi::SQLITE_INTERRUPT | ffi::SQLITE_NOLFS => {
            StoreError::Io(text)
        }
        // CORRUPT and NOTADB; and ERROR, SCHEMA, CONSTRAINT, MISMATCH: the tables are not those of this schema.
        _ => StoreError::Corrupt(text),
    }
}

/// Whether a statement was refused because a unique value is taken.
pub(crate) fn is_constraint(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code & 0xff == ffi::SQLITE_CONSTRAINT)
}
