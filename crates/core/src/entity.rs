//! What is known of a record: its base (what the backend last confirmed) and its local state (what the app sees).
//!
//! Dirty fields are computed from these two, never flagged. Tests: `patch.rs`, where the two are compared.

use crate::id::{EntityKey, Generation, Version};
use crate::value::Fields;

/// The content of a record at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
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
#[derive(Clone, PartialEq, Eq, Debug)]
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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteEntity {
    /// Which record.
    pub key: EntityKey,
    /// Its content.
    pub body: Body,
    /// Its version, when the backend has versions.
    pub version: Option<Version>,
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
    /// A remote state that came in while a task's fate was open; merged when the verdict is known.
    pub staged: Option<RemoteEntity>,
}

impl StoredEntity {
    /// An entity of which nothing is known yet.
    pub fn unknown(key: EntityKey) -> Self {
        Self { key, generation: 0, base: None, local: None, staged: None }
    }
}
