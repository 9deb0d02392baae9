//! The reference sync endpoint: protocol v1 as an axum router on embedded SQLite.
//!
//! ```text
//! http.rs ──► incoming.rs (bytes → Submission)          limits.rs, auth.rs: who may send how much
//!    │            │
//!    └──► store/sqlite.rs (one writer, group commit) ──► state.rs (the rules, pure) ◄── MemoryRecords
//! ```
//!
//! Three ways to use it: [`Server`] (what `landfall serve` runs), [`router`] (mounted in an app's own axum app),
//! and [`state`] (the bare rules over any [`state::Records`], driven by simulators). It knows nothing of the
//! client's machine; both meet in `landfall-protocol` only.
//!
//! Tests: `tests/rules.rs` (the promises, over memory and SQLite), `tests/golden.rs` (the golden exchanges over
//! loopback), `tests/http.rs`, `tests/metrics.rs`, `tests/store.rs`.

pub mod auth;
pub mod http;
pub mod incoming;
pub mod limits;
pub mod metrics;
pub mod policy;
pub mod serve;
pub mod state;
pub mod store;
mod strict;

pub use auth::{Auth, AuthError};
pub use http::{Config, router};
pub use incoming::{Incoming, Submission};
pub use limits::{Limits, RateLimit};
pub use metrics::Metrics;
pub use policy::{AssignIds, Increment, Policies, RequireFields};
pub use serve::{Server, ServerError, ServerHandle, ServerOptions};
pub use state::{MemoryRecords, NoPolicy, Policy, Records, Refusal};
pub use store::sqlite::{SqliteOptions, SqliteStore, StoreError};
