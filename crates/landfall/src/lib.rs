//! Offline-first, conflict-safe, backend-agnostic sync: the one crate an app names.
//!
//! An app records changes whether or not there is a network. Landfall stores each one durably, and brings it to the
//! app's own backend when it can: nothing lost, nothing applied twice, no field overwritten that nobody touched.
//!
#![cfg_attr(all(feature = "sqlite", feature = "ureq"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "sqlite", feature = "ureq")), doc = "```ignore")]
//! use landfall::adapters::SyncEndpoint;
//! use landfall::sqlite::SqliteStore;
//! use landfall::{Change, Engine};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // One file holds the queue and what is known of the records; it may live anywhere the app can write.
//! let store = SqliteStore::open("app.db")?;
//! let backend = SyncEndpoint::new("https://api.example.com/sync")?;
//! let engine = Engine::builder(store, backend).build_blocking()?;
//!
//! // When this returns, the change survives kill -9 and power loss. No network is needed.
//! engine.enqueue_blocking(Change::create("note", "note-123").set("title", "Groceries"))?;
//! engine.enqueue_blocking(Change::update("note", "note-123").set("title", "Shopping").set("items", 3))?;
//!
//! // Whenever there may be a network: everything that can be sent now is sent, once.
//! let report = engine.sync_blocking()?;
//! println!("{} applied, {} left", report.applied, report.left.total());
//!
//! // Or leave that to the engine: after each change, when a retry is due, when the network comes back.
//! engine.enable_auto_sync(landfall::AutoConfig::default())?;
//! # Ok(())
//! # }
//! ```
//!
//! Every blocking call has an async twin that works under any executor: `engine.sync().await`.
//!
//! # What is where
//!
//! | here | what |
//! |---|---|
//! | [`Engine`] | the handle: enqueue, sync, watch, read |
//! | [`Change`] | one change: which record, what to do, which fields |
//! | [`Event`], [`Report`], [`Status`] | what happens, what a run did, where everything stands |
//! | [`Config`] | every limit and default, with its reason |
//! | `sqlite` | the store in one SQLite file (feature `sqlite`, default) |
//! | [`MemoryStore`] | a store that forgets, for tests |
//! | `adapters` | backends (feature `sync-endpoint`; with an HTTP client: feature `ureq`, default) |
//! | [`Adapter`], [`Store`] | the contracts, for backends and stores of one's own |
//! | [`core`] | all the rest: ids, tasks, values, failures |
//!
//! # Features
//!
//! `sqlite` and `ureq` are on by default. Without `ureq`, `sync-endpoint` gives the protocol over a transport that the
//! app brings (its platform's HTTP client, say). `gzip` compresses requests. `metrics` passes the engine's numbers on to
//! the recorder of the `metrics` crate that the app installed. Without any feature there are the engine, the memory store
//! and the contracts.

pub use landfall_core as core;

pub use landfall_core::adapter::Adapter;
pub use landfall_core::change::{Change, DependsOn, Intent, Operation};
pub use landfall_core::config::{AutoConfig, Config};
pub use landfall_core::conflict::{Choice, ConflictDetector, ConflictRecord, Resolution, Resolved};
pub use landfall_core::device::{Conditions, DeviceState};
pub use landfall_core::dirty::{DirtyPayloadBuilder, DirtyTracker};
pub use landfall_core::entity::{Base, Body, RemoteEntity, StoredEntity};
pub use landfall_core::event::{Event, Report};
pub use landfall_core::explain::{Explanation, Wait};
pub use landfall_core::export::ExportedTask;
pub use landfall_core::failure::{Failure, FailureKind};
pub use landfall_core::id::{ConflictId, EntityKey, TaskId};
pub use landfall_core::inspect::{EntityStatus, Fate, TaskFilter};
pub use landfall_core::machine::{
    Cancelled, Directions, EnqueueError, Enqueued, Receipt, RunBudget, Scope, SessionEnd, TaskError,
};
pub use landfall_core::merge::rule::{FieldPath, FieldRule, Rules, Strategy as ConflictStrategy};
pub use landfall_core::model::{Model, TypeModel, Upcast, UpcastRules, WhenDead};
pub use landfall_core::store::memory::MemoryStore;
pub use landfall_core::store::{ConflictQuery, Controls, Counts, EntityPage, Store, StoreError};
pub use landfall_core::task::{JournalEntry, Orphaned, StateKind, Task, TaskState, Verdict};
pub use landfall_core::value::{Fields, Value};
pub use landfall_engine::{
    BackgroundController, BackgroundRun, BackgroundWish, Clock, ConflictResolver, ConnectivityService,
    Engine, EngineBuilder, EntityWatch, Error, EventStream, Imported, LoggedOut, Logout, ManualConnectivity,
    MetricsSnapshot, NetworkManager, Notice, PowerSupply, Reporter, Restored, Several, Status,
    SystemConnectivity,
};

/// Backends.
#[cfg(feature = "sync-endpoint")]
pub use landfall_adapters as adapters;
/// The store in one SQLite file.
#[cfg(feature = "sqlite")]
pub use landfall_sqlite as sqlite;
