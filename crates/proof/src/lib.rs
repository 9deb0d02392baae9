//! Proofs that need the real SQLite on a simulated disk.
//!
//! [`home`] lets the devices of the simulated world live on such disks. Tests: `tests/`.

pub mod cut;
pub mod device;
pub mod dice;
pub mod fuzz;
pub mod home;
pub mod known;
pub mod state;
pub mod work;
