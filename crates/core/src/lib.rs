//! The pure heart of Landfall: what a change is, how changes coalesce, when a task may be sent, and what each answer
//! of a backend means.
//!
//! Nothing here reads a clock, starts a thread, opens a file or draws a random number: the compiler forbids it
//! (`no_std`). Time and entropy are arguments, storage is a trait that is called, the network is a list of effects
//! that somebody else carries out.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod adapter;
pub mod change;
pub mod coalesce;
pub mod config;
pub mod conflict;
pub mod device;
pub mod dirty;
pub mod entity;
pub mod event;
pub mod explain;
pub mod export;
pub mod failure;
pub mod id;
pub mod inspect;
pub mod machine;
pub mod merge;
pub mod model;
pub mod patch;
mod rebase;
pub mod retry;
pub mod store;
pub mod task;
pub mod time;
pub mod value;
