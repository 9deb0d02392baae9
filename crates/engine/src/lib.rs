//! The engine: where threads, time and the network begin.
//!
//! One thread owns the store and the machine ([`driver`]); it groups what callers ask for into one durable commit.
//! Calls to the backend run on threads of their own, so any adapter may block. No async runtime is named: async methods
//! work under every executor and have blocking twins. Policy is in `landfall-core`; nothing here decides.
//! Tests: `tests/`.

mod accounts;
mod automation;
mod builder;
mod calls;
mod clock;
mod connectivity;
mod control;
mod driver;
mod engine;
mod error;
mod events;
mod leader;
pub mod metrics;
mod resolver;
#[cfg(all(test, shuttle))]
mod schedules;
mod sync;
mod trace;
mod transfer;
mod watch;

pub use accounts::{LoggedOut, Logout};
pub use automation::{BackgroundController, BackgroundRun, BackgroundWish};
pub use builder::EngineBuilder;
pub use clock::{Clock, SystemClock};
pub use connectivity::{
    ConnectivityService, ManualConnectivity, NetworkManager, PowerSupply, Reporter, Several,
    SystemConnectivity,
};
pub use engine::{Engine, Imported, Status};
pub use error::Error;
pub use events::{EventStream, Notice};
pub use metrics::MetricsSnapshot;
pub use resolver::ConflictResolver;
pub use transfer::Restored;
pub use watch::EntityWatch;
