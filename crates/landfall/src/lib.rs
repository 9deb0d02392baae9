//! Offline-first, conflict-safe, backend-agnostic sync: the one crate an app names.
