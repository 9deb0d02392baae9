//! Locks and threads, for the parts whose schedules are checked: the standard library's, and under `--cfg shuttle` those
//! of a scheduler that tries one order after the other. What is checked is the code itself, not a copy.
//! Tests: `schedules.rs`.

#[cfg(not(shuttle))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(crate) use std::thread;

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(shuttle)]
pub(crate) use shuttle::thread;
