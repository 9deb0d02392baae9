//! What is known of a record: its base (what the backend last confirmed) and its local state (what the app sees).
//!
//! Dirty fields are computed from these two, never flagged. Tests: `patch.rs`, where the two are compared.

use crate::id::{EntityKey, Generation, Version};
use crate::time::Hlc;
use crate::value::Fields;
use serde::{Deserialize, Serialize};

/// The content of a record at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// The record exists with these fields.
    Live(Fields),
    /// The record was deleted.
    Deleted,
}

impl Body {
    /// The fields, when the record exists.
    pub fn fields(&self) -> Option<&Fields> {
        match self {
            Self::Live(fields) => Some(fields),
            Self::Deleted => None,
        }
    }
}

/// The last state that the backend confirmed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Base {
    /// What the backend had.
    pub body: Body,
    /// The backend's version of it, when the backend has versions.
    pub version: Option<Version>,
    /// Whether `body` holds every field of the record. An update of a record that was never read confirms only the
    /// fields it carried; of the others nothing is known, and a base is never guessed.
    pub complete: bool,
}

/// A record as the backend has it now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteEntity {
    /// Which record.
    pub key: EntityKey,
    /// Its content.
    pub body: Body,
    /// Its version, when the backend has versions.
    pub version: Option<Version>,
    /// When it was last changed, when the backend tells. Decides which of two writes is newer only where the backend
    /// itself does not order them ([`Capabilities::orders_writes`](crate::adapter::Capabilities::orders_writes)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<Hlc>,
}

impl RemoteEntity {
    /// A record without a time of change.
    pub fn new(key: EntityKey, body: Body, version: Option<Version>) -> Self {
        Self { key, body, version, changed_at: None }
    }
}

/// What the store keeps of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredEntity {
    /// Which record.
    pub key: EntityKey,
    /// The generation of the newest task made for it; 0 before the first.
    pub generation: Generation,
    /// The last confirmed state; `None` while nothing was confirmed.
    pub base: Option<Base>,
    /// What the app sees: base with every queued change laid over it. `None` while nothing is known.
    pub local: Option<Body>,
    /// A remote state that came in while a task's fate was open, or while a conflict waits; merged when that is over.
    pub staged: Option<RemoteEntity>,
    /// A mark of when the backend was last heard to have the record, in readings of the change feed (see
    /// [`PullState::misses`](crate::store::PullState::misses)); 0: never.
    pub reading: u64,
}

impl StoredEntity {
    /// An entity of which nothing is known yet.
    pub fn unknown(key: EntityKey) -> Self {
        Self { key, generation: 0, base: None, local: None, staged: None, reading: 0 }
    }
}
