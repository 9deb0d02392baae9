//! The sync endpoint protocol, version 1: the messages a Landfall client and a backend exchange.
//!
//! Plain serde types and nothing else: no policy, no HTTP, no clock, and `no_std` with `alloc`, so that a client's
//! pure core and a server can both use them. They know nothing of either side. The contract in words is
//! `docs/writing-a-backend.md`, in OpenAPI form `docs/openapi.yaml`, by example `golden/`. Field values keep the
//! exact text the sender wrote (see [`Fields`]), so no number is rounded on the way.
//!
//! | message | type | travels as |
//! |---|---|---|
//! | push | [`PushRequest`] → [`PushResponse`] | `POST {endpoint}` |
//! | change feed | [`ChangesPage`] | `GET {endpoint}/changes?cursor=…&limit=…` |
//! | one record | [`Record`] | `GET {endpoint}/entities/{entity_type}/{entity_id}` |
//! | is it you? | [`Pong`] | `GET {endpoint}/ping?nonce=…` |
//! | a refused request | [`Problem`] | any status of 400 and above, `application/problem+json` |
//!
//! Unknown members are ignored by both sides, so that either may be upgraded first. A status or code that this
//! version does not know is kept as text ([`Status::Other`]) and never fails the whole message.
//!
//! Tests: `tests/golden.rs` (every golden file goes through these types unchanged) and below in each module.
#![no_std]

extern crate alloc;

mod fields;
mod ping;
mod problem;
mod pull;
mod push;

pub use fields::{Fields, FieldsError};
pub use ping::{Pong, is_ping_nonce, ping_nonce, ping_proof};
pub use problem::{CONTENT_TYPE_JSON, CONTENT_TYPE_PROBLEM, Problem, code};
pub use pull::{ChangesPage, Record};
pub use push::{ErrorDetail, Operation, PushRequest, PushResponse, Status, Task, TaskResult, task_code};
pub use serde_json::value::RawValue;

/// The version of the protocol that these types describe; the `protocol` member of every push.
pub const PROTOCOL_VERSION: u32 = 1;
