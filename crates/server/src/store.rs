//! Storages of the server. One so far: SQLite in a file.

pub mod sqlite;
