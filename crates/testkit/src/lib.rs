//! Conformance suites and the simulator for Landfall stores, adapters and the machine itself.

pub mod campaign;
pub mod conformance;
pub mod mutate;
pub mod proxy;
mod rng;
pub mod sim;
pub mod trial;
