//! Proofs that need the real SQLite on a simulated disk.

pub mod fuzz;
