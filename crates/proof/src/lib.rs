//! Proofs that need the real SQLite on a simulated disk.

pub mod cut;
pub mod device;
pub mod dice;
pub mod fuzz;
pub mod known;
pub mod state;
pub mod work;
