//! Where a record stands: pure questions to a store, for whoever shows them to a person.
//!
//! Tests: `tests/conflicts.rs` of `landfall-testkit`.

use crate::entity::{Body, StoredEntity};
use crate::id::EntityKey;
use crate::store::{StoreError, StoreRead};
use crate::task::StateKind;
use crate::value::Fields;
use alloc::collections::BTreeSet;
use serde::Serialize;

/// How far a record is synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityStatus {
    /// Nothing is known of it.
    Unknown,
    /// Everything the app changed is confirmed.
    Synced,
    /// A change waits to be sent.
    Pending,
    /// A change is on its way.
    InFlight,
    /// A change was sent, and nobody knows yet whether it took effect.
    FateUnknown,
    /// A change waits for a decision between two sides.
    Conflict,
    /// A change was refused for good and waits for a decision.
    Dead,
}

/// How far a record is synced: what its first queued change waits for decides.
///
/// # Errors
/// When the store cannot be read.
pub fn entity_status(store: &dyn StoreRead, key: &EntityKey) -> Result<EntityStatus, StoreError> {
    Ok(match store.next_of_entity(key, 0)? {
        Some(task) => match task.state.kind() {
            StateKind::Pending => EntityStatus::Pending,
            StateKind::InFlight => EntityStatus::InFlight,
            StateKind::Unknown => EntityStatus::FateUnknown,
            StateKind::Conflict => EntityStatus::Conflict,
            StateKind::Dead => EntityStatus::Dead,
        },
        None if store.entity(key)?.is_some_and(|entity| entity.base.is_some()) => EntityStatus::Synced,
        None => EntityStatus::Unknown,
    })
}

/// The fields in which what the app sees differs from what the backend confirmed; of a record that is gone on one
/// side, every field of the other. Computed, never flagged.
pub fn dirty_fields(entity: &StoredEntity) -> BTreeSet<&str> {
    let base = entity.base.as_ref().and_then(|base| base.body.fields());
    let local = entity.local.as_ref().and_then(Body::fields);
    let differs = |fields: Option<&Fields>, name: &str, other: Option<&Fields>| {
        fields.and_then(|fields| fields.value(name)) != other.and_then(|other| other.value(name))
    };
    let names = base.into_iter().chain(local).flat_map(|fields| fields.0.keys());
    names.map(alloc::string::String::as_str).filter(|name| differs(local, name, base)).collect()
}
