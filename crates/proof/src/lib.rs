//! Proofs that need the real SQLite on a simulated disk.
//!
//! [`home`] lets the devices of the simulated world live on such disks, [`backend`] its server. Tests: `tests/`.

pub mod backend;
pub mod cut;
pub mod device;
pub mod dice;
pub mod fuzz;
pub mod home;
pub mod known;
pub mod state;
mod troubles;
pub mod work;
