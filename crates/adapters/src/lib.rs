//! Adapters: the code that talks to backends.
//!
//! An adapter makes one call, once, and sorts the answer; it knows neither the queue nor any policy, and never
//! retries. Everything that understands answers is a plain function of bytes and works without a network: with
//! `default-features = false` no HTTP client is built, and a simulator uses the same decoders as an app.
//!
//! | module | what |
//! |---|---|
//! | [`http`] | one HTTP exchange ([`HttpTransport`]), credentials, and the table that sorts answers into failures |
//! | [`sync_endpoint`] | [`SyncEndpoint`], the adapter for Landfall's own protocol |
//!
//! Tests: beside each module, and in `tests/` against real sockets that misbehave.

pub mod http;
pub mod sync_endpoint;

pub use http::HttpTransport;
#[cfg(feature = "ureq")]
pub use http::UreqTransport;
pub use sync_endpoint::SyncEndpoint;
