//! Where a simulated life keeps things: the stores of its devices, and the records of its server.
//!
//! The world knows only these two traits. In memory nothing goes wrong here by itself; on a simulated disk processes die
//! in the middle of a write, power is cut, and the server loses what was not durable. Neither draws from the world's
//! chance: what a seed means stays the same. Tests: `tests/simulator.rs`, and `tests/whole_engine.rs` of `landfall-proof`.

use landfall_core::store::memory::MemoryStore;
use landfall_core::store::{Store, StoreError};
use landfall_protocol::PushResponse;
use landfall_server::incoming::Submission;
use landfall_server::state::{MemoryRecords, Policy, Records, Refusal, push_with};
use std::fmt;

/// What hit a process while it worked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blow {
    /// It ended; what it had written stays as the others see it.
    Killed,
    /// The device lost its power: everybody on it ended, and only what was durable is left.
    PowerCut,
}

/// The stores of all devices of a life: one for each device, opened by each of its processes for itself.
pub trait Home: fmt::Debug {
    /// The store of a device as one of its processes has it; opened if it is not open.
    ///
    /// # Errors
    /// When it cannot be opened now.
    fn store(&mut self, device: usize, process: usize) -> Result<&mut dyn Store, StoreError>;

    /// A process is about to use its store; until [`after`](Self::after) trouble may come, if `chaos`.
    fn before(&mut self, device: usize, process: usize, chaos: bool);

    /// It has done so: what hit it. Afterwards nothing goes wrong until the next time.
    fn after(&mut self, device: usize, process: usize) -> Option<Blow>;

    /// A process ended: what it had open is gone.
    fn end(&mut self, device: usize, process: usize);

    /// A moment for trouble that comes by itself: whether the device loses its power now.
    fn loses_power(&mut self, device: usize) -> bool;

    /// From now on nothing goes wrong.
    fn heal(&mut self);

    /// What went wrong so far, by its name.
    fn figures(&self) -> crate::campaign::Figures;
}

/// The server of a life.
pub trait Backend: fmt::Debug {
    /// Applies a request. `None`: it died in it, and nobody gets an answer.
    fn push(&mut self, policy: &dyn Policy, request: &Submission) -> Option<Result<PushResponse, Refusal>>;

    /// Reads what it holds, as a request to read does. Not called when it could not answer: then `false`.
    fn read(&mut self, with: &mut dyn FnMut(&dyn Records)) -> bool;

    /// What it must hold: every effect that took place, and every record. The checks go by it.
    fn truth(&self) -> &MemoryRecords;

    /// Whether it holds just that, and has forgotten nothing that it answered.
    ///
    /// # Errors
    /// What it holds instead.
    fn verify(&mut self) -> Result<(), String>;

    /// From now on nothing goes wrong.
    fn heal(&mut self);

    /// What went wrong so far, by its name.
    fn figures(&self) -> crate::campaign::Figures;
}

/// Stores in memory, which do not fail by themselves.
#[derive(Debug)]
pub struct MemoryHome(Vec<MemoryStore>);

impl MemoryHome {
    /// Empty stores for so many devices.
    pub fn new(devices: usize) -> Self {
        Self(vec![MemoryStore::default(); devices])
    }
}

impl Home for MemoryHome {
    fn store(&mut self, device: usize, _: usize) -> Result<&mut dyn Store, StoreError> {
        Ok(&mut self.0[device])
    }
    fn before(&mut self, _: usize, _: usize, _: bool) {}
    fn after(&mut self, _: usize, _: usize) -> Option<Blow> {
        None
    }
    fn end(&mut self, _: usize, _: usize) {}
    fn loses_power(&mut self, _: usize) -> bool {
        false
    }
    fn heal(&mut self) {}
    fn figures(&self) -> crate::campaign::Figures {
        crate::campaign::Figures::new()
    }
}

impl Backend for MemoryRecords {
    fn push(&mut self, policy: &dyn Policy, request: &Submission) -> Option<Result<PushResponse, Refusal>> {
        Some(push_with(self, policy, request))
    }
    fn read(&mut self, with: &mut dyn FnMut(&dyn Records)) -> bool {
        with(self);
        true
    }
    fn truth(&self) -> &MemoryRecords {
        self
    }
    fn verify(&mut self) -> Result<(), String> {
        Ok(())
    }
    fn heal(&mut self) {}
    fn figures(&self) -> crate::campaign::Figures {
        crate::campaign::Figures::new()
    }
}
