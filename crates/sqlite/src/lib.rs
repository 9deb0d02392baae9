//! The SQLite store of Landfall.
